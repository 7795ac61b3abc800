"""Every error of Pixorly's own; what a code means for money and retries stands in `outcomes`."""

from typing import Any, ClassVar


class PixorlyError(Exception):
    """Something went wrong.

    ├── TransientError            try again later: the ladder
    │   ├── ProviderUnavailable   ├── ProviderRateLimited   ├── ProviderTimeout
    │   ├── NoImage               └── StorageUnavailable
    ├── OutageError               a part of ours is away: wait, it is not the job's fault
    ├── ServerError               ours or the provider's fault: the user does not pay
    │   ├── ProviderRefused       ├── ModelUnavailable      ├── InvalidImage
    │   └── StagedBytesMissing
    └── UserError                 the user's to fix
        ├── ContentRejected       ├── InvalidRequest        ├── InsufficientCredits
        └── …                     (the HTTP ones are subclasses beside the routes that raise them)

    Args:
        message: Words for a person; the docstring's first line if left out.
        facts: Extra members for a problem body, such as `needed_credits`.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str | None = None, **facts: Any) -> None:
        super().__init__(message or (self.__doc__ or "").partition("\n")[0])
        self.facts = facts

    @property
    def message(self) -> str:
        """The words for a person."""
        return str(self.args[0])


class TransientError(PixorlyError):
    """It may work in a moment.

    Args:
        message: Words for a person.
        retry_after_s: How long the other side asked us to wait, in seconds.
    """

    code: ClassVar[str] = "provider_unavailable"

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after_s = retry_after_s


class ProviderUnavailable(TransientError):
    """The image provider could not be reached or failed."""

    code = "provider_unavailable"


class ProviderRateLimited(TransientError):
    """The image provider is asking us to slow down."""

    code = "provider_rate_limited"


class ProviderTimeout(TransientError):
    """The image provider did not answer in time."""

    code = "provider_timeout"


class NoImage(TransientError):
    """The image provider answered without an image."""

    code = "no_image"


class StorageUnavailable(TransientError):
    """The object store failed on one object."""

    code = "storage_unavailable"


class OutageError(PixorlyError):
    """A part of Pixorly is away.

    Args:
        part: Which one, as readiness names it: `postgres`, `rabbitmq`, `ledger`, `s3`, `provider:…`.
        message: Words for a person.
        retry_after_s: How long to wait before the next try, where that is known.
    """

    code: ClassVar[str] = "service_unavailable"

    def __init__(
        self, part: str, message: str | None = None, *, retry_after_s: float | None = None, **facts: Any
    ) -> None:
        super().__init__(message or f"{part} is away.", **facts)
        self.part = part
        self.retry_after_s = retry_after_s


class ServerError(PixorlyError):
    """Something failed on our side or the provider's."""

    code: ClassVar[str] = "internal_error"


class ProviderRefused(ServerError):
    """The image provider refused a request that we should not have sent."""

    code = "provider_refused"


class ModelUnavailable(ServerError):
    """The model is not served any more."""

    code = "model_unavailable"


class InvalidImage(ServerError):
    """The image provider sent something that is not a usable image."""

    code = "invalid_image"


class StagedBytesMissing(ServerError):
    """The image was made, but its bytes are gone."""

    code = "staged_bytes_missing"


class UserError(PixorlyError):
    """The request can't be done as it is."""

    code: ClassVar[str] = "invalid_request"


class InvalidRequest(UserError):
    """The request is not valid."""

    code = "invalid_request"


class ContentRejected(UserError):
    """The prompt was refused by the provider's content rules."""

    code = "content_rejected"


class InsufficientCredits(UserError):
    """There are not enough credits for this job."""

    code = "insufficient_credits"
