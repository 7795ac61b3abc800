"""The table of outcomes: what each code means for retries, for money and for the user.

It alone decides who pays. The generator and the uploader look up whether to retry, the ledger who pays, the api the
status and the words; `GET /v1/outcomes` serves it.
"""

from dataclasses import dataclass
from typing import Final, Literal

Fault = Literal["server", "user"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one code means.

    Attributes:
        code: The stable name, in events, in the job and in problem bodies.
        status: The HTTP status where the code answers a request.
        fault: Whose fault a failed slot is; None where the code never ends a slot.
        retries: How often a worker tries again before the slot fails (the ladder has three steps).
        waits: Whether a worker waits for the part to come back without using up a retry.
        message: Words for the user.
    """

    code: str
    status: int
    fault: Fault | None
    retries: int
    message: str
    waits: bool = False

    @property
    def refunded(self) -> bool:
        """Whether a slot that ends so gives its credits back."""
        return self.fault == "server"


_ROWS: Final = (
    # What ends a slot.
    Outcome("provider_unavailable", 503, "server", 3, "The image provider could not be reached or failed."),
    Outcome("provider_rate_limited", 503, "server", 3, "The image provider is too busy."),
    Outcome("provider_timeout", 503, "server", 3, "The image provider did not answer in time."),
    Outcome("storage_unavailable", 503, "server", 3, "The image could not be stored."),
    Outcome("no_image", 500, "server", 1, "The image provider answered without an image."),
    Outcome("missing_image", 500, "server", 0, "The image provider sent fewer images than asked for."),
    Outcome("invalid_image", 500, "server", 0, "The image provider sent something that is not a usable image."),
    Outcome("provider_refused", 500, "server", 0, "The image provider refused a request that we should not have sent."),
    Outcome("model_unavailable", 500, "server", 0, "The model is not served any more."),
    Outcome("staged_bytes_missing", 500, "server", 0, "The image was made, but its bytes are gone."),
    Outcome("deadline_exceeded", 504, "server", 0, "The image was not ready by the job's deadline."),
    Outcome("canceled", 409, "server", 0, "The job was canceled before it was started."),
    Outcome("internal_error", 500, "server", 0, "Something failed on our side."),
    Outcome("content_rejected", 422, "user", 0, "The prompt was refused by the provider's content rules."),
    # What is waited for.
    Outcome("service_unavailable", 503, None, 0, "A part of the service is away; try again soon.", waits=True),
    # What refuses a request: nothing was stored, nothing was charged.
    Outcome("malformed_body", 400, None, 0, "The body is not valid JSON."),
    Outcome("unauthorized", 401, None, 0, "A valid API key is needed."),
    Outcome("insufficient_credits", 402, None, 0, "There are not enough credits for this job."),
    Outcome("forbidden", 403, None, 0, "This key may not do that."),
    Outcome("account_suspended", 403, None, 0, "The account is suspended."),
    Outcome("storage_quota_exceeded", 403, None, 0, "The plan's storage has no room for this job's images."),
    Outcome("account_not_found", 404, None, 0, "There is no such account."),
    Outcome("not_found", 404, None, 0, "There is nothing here under this id."),
    Outcome("method_not_allowed", 405, None, 0, "This address does not take this method."),
    Outcome("already_started", 409, None, 0, "The job was started already, so it can't be canceled."),
    Outcome("not_failed", 409, None, 0, "Only a job that failed can be tried again."),
    Outcome("charge_voided", 409, None, 0, "This charge was given up before it was made."),
    Outcome("idempotency_in_progress", 409, None, 0, "The first request with this key is still under way."),
    Outcome("body_too_large", 413, None, 0, "The body is too large."),
    Outcome("invalid_request", 422, None, 0, "The request is not valid."),
    Outcome("unknown_model", 422, None, 0, "There is no such model."),
    Outcome("idempotency_key_reused", 422, None, 0, "This idempotency key was used with another body."),
    Outcome("quote_expired", 422, None, 0, "There is no such quote for this order, or not any more."),
    Outcome("rate_limited", 429, None, 0, "Too many requests."),
    Outcome("too_many_jobs", 429, None, 0, "The plan has no room for one more job at once."),
)

OUTCOMES: Final[dict[str, Outcome]] = {row.code: row for row in _ROWS}


def outcome_of(code: str) -> Outcome:
    """Return what `code` means; an unknown code is our fault, so that nobody pays for what we can't name."""
    return OUTCOMES.get(code, OUTCOMES["internal_error"])
