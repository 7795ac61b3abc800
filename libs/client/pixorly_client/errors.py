"""Every error that the client raises."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import httpx

if TYPE_CHECKING:
    from pixorly_client.models import Generation


class PixorlyError(Exception):
    """Something went wrong.

    ├── PixorlyAPIError         the API refused the request
    │   ├── Unauthorized            401: no valid API key
    │   ├── InsufficientCredits     402: `facts` say what was needed and what was there
    │   ├── Forbidden               403: not with this key, or no storage left
    │   ├── NotFound                404: nothing of the caller's under this id
    │   ├── Conflict                409: it is too late for that
    │   ├── InvalidRequest          400, 413, 422: the request itself is wrong
    │   ├── RateLimited             429: too many requests, still so after the repeats
    │   └── ServerFailed            5xx: not the caller's fault, still so after the repeats
    ├── ConnectionTrouble       no whole answer came, still so after the repeats
    ├── UnreadableAnswer        an answer came that is not the API's
    ├── JobFailed               the job is settled without an image
    ├── NotSettledYet           the caller's time is up; the job goes on
    └── DamagedDownload         the bytes that arrived are not the image's
    """


class PixorlyAPIError(PixorlyError):
    """The API refused the request.

    Attributes:
        status: The HTTP status.
        code: The stable name of what is wrong.
        detail: Words for a person.
        request_id: What to quote when asking for help.
        facts: Further members of the problem body, such as `needed_credits`.
        retry_after_s: How long the API asked to wait, in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        request_id: str | None = None,
        facts: Mapping[str, Any] | None = None,
        *,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(status, code, detail, request_id, facts)
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.facts = dict(facts or {})
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.detail} ({self.status} {self.code})"

    @property
    def fields(self) -> dict[str, str]:
        """What is wrong with which field of the request, where the API says so."""
        named = self.facts.get("errors")
        rows = [row for row in named if isinstance(row, dict)] if isinstance(named, list) else []
        return {str(row.get("field")): str(row.get("message")) for row in rows}


class Unauthorized(PixorlyAPIError):
    """There is no valid API key in the request."""


class InsufficientCredits(PixorlyAPIError):
    """There are not enough credits for the job; nothing was created."""


class Forbidden(PixorlyAPIError):
    """The key may not do that, or the account has no room for it."""


class NotFound(PixorlyAPIError):
    """There is nothing of the caller's under this id."""


class Conflict(PixorlyAPIError):
    """The thing is in a state that does not allow it."""


class InvalidRequest(PixorlyAPIError):
    """The request itself is wrong."""


class RateLimited(PixorlyAPIError):
    """There were too many requests."""


class ServerFailed(PixorlyAPIError):
    """Something failed on the API's side."""


class ConnectionTrouble(PixorlyError):
    """No whole answer came.

    Attributes:
        url: What was asked.
        refused: Whether nobody listens there at all.
    """

    def __init__(self, url: str, reason: str, *, refused: bool = False) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason
        self.refused = refused

    def __str__(self) -> str:
        return f"No whole answer from {self.url}: {self.reason}"

    @classmethod
    def of(cls, trouble: httpx.RequestError) -> "ConnectionTrouble":
        """Return what `trouble` means to the caller."""
        words = str(trouble) or type(trouble).__name__
        return cls(str(trouble.request.url), words, refused=isinstance(trouble, httpx.ConnectError))


class UnreadableAnswer(PixorlyError):
    """An answer came that is not the API's; is the address right?"""


class JobFailed(PixorlyError):
    """The job is settled without an image.

    Attributes:
        job: The job, with the failure of every image.
    """

    def __init__(self, job: "Generation") -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        reasons = list(dict.fromkeys(f"{failure.message} ({failure.code})" for failure in self.job.failures))
        why = f": {' '.join(reasons)}" if reasons else "."
        return f"The job {self.job.id} is {self.job.status}{why}"


class NotSettledYet(PixorlyError):
    """The caller's time is up; the job goes on.

    Attributes:
        job_id: The job to look at later.
        waited_s: How long was waited.
    """

    def __init__(self, job_id: str, waited_s: float) -> None:
        super().__init__(job_id, waited_s)
        self.job_id = job_id
        self.waited_s = waited_s

    def __str__(self) -> str:
        return f"The job {self.job_id} is not settled after {self.waited_s:g} s; it goes on."


class DamagedDownload(PixorlyError):
    """The bytes that arrived are not the image's."""


BY_STATUS: Final[dict[int, type[PixorlyAPIError]]] = {
    400: InvalidRequest,
    401: Unauthorized,
    402: InsufficientCredits,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
}
