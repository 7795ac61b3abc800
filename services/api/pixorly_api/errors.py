"""The api's own refusals, beside the shared ones of `pixorly.errors`; each code stands in the table of outcomes."""

from pixorly.errors import OutageError, PixorlyError, UserError


class MalformedBody(UserError):
    """The body is not valid JSON."""

    code = "malformed_body"


class BodyTooLarge(UserError):
    """The body is too large."""

    code = "body_too_large"


class Unauthorized(UserError):
    """A valid API key is needed: `Authorization: Bearer px_live_…`."""

    code = "unauthorized"


class QuoteNotKept(UserError):
    """There is no such quote for this order, or not any more; ask for another."""

    code = "quote_expired"


class NotFailed(UserError):
    """Only a job that failed can be tried again."""

    code = "not_failed"


class RateLimited(UserError):
    """There were too many requests; `retry_after_s` says when the next is welcome."""

    code = "rate_limited"


class TooManyJobs(UserError):
    """As many jobs are under way as the plan allows at once; `limit` says how many."""

    code = "too_many_jobs"


class Forbidden(UserError):
    """This key may not do that."""

    code = "forbidden"


class NotFound(UserError):
    """There is nothing here under this id."""

    code = "not_found"


class MethodNotAllowed(UserError):
    """This address does not take this method."""

    code = "method_not_allowed"


class AlreadyStarted(UserError):
    """The job was started already, so it can't be canceled."""

    code = "already_started"


class IdempotencyInProgress(UserError):
    """The first request with this key is still under way."""

    code = "idempotency_in_progress"


class IdempotencyKeyReused(UserError):
    """This idempotency key was used with another body."""

    code = "idempotency_key_reused"


class StorageQuotaExceeded(UserError):
    """The plan's storage has no room for this job's images."""

    code = "storage_quota_exceeded"


class AccountSuspended(UserError):
    """The account is suspended."""

    code = "account_suspended"


class AccountNotFound(UserError):
    """There is no such account."""

    code = "account_not_found"


class ChargeVoided(UserError):
    """This charge was given up before it was made."""

    code = "charge_voided"


class LedgerUnreached(OutageError):
    """The ledger is away, and for certain never heard of the call."""

    def __init__(self, message: str) -> None:
        super().__init__("ledger", message)


class InternalFailure(PixorlyError):
    """Something failed on our side."""

    code = "internal_error"
