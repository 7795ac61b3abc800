"""What OpenRouter says went wrong, in our words: one function from an answer to an error.

The body is believed where it says more than the status: an error may come with the status 200, and
`error.availability.retryable` knows better than the status does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from pixorly.errors import (
    ContentRejected,
    ModelUnavailable,
    PixorlyError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
    TransientError,
)
from pixorly_generator.providers.answers import mapping, number
from pixorly_generator.providers.breaker import AccountAway
from pixorly_generator.providers.http import Reply, error_of_status, retry_after_s

_log = structlog.get_logger()

_NAME: Final = "openrouter"
_OK: Final = 200
_UNAUTHORIZED, _PAYMENT, _FORBIDDEN, _SERVER_FAULT = 401, 402, 403, 500
_REJECTED: Final = frozenset({"content_policy_violation", "refusal", "invalid_prompt"})
_BUDGETS: Final = frozenset(
    {"openrouter_guardrail_budget", "openrouter_workspace_budget", "openrouter_key_limit", "openrouter_credits"}
)
_STATUS_OF_TYPE: Final = {
    "authentication": 401,
    "payment_required": 402,
    "permission_denied": 403,
    "not_found": 404,
    "payload_too_large": 413,
    "rate_limit_exceeded": 429,
    "server": 500,
    "unmapped": 500,
    "provider_unavailable": 502,
    "provider_overloaded": 503,
    "timeout": 504,
}
"""For errors that come without a status of their own; what is not named here is a 400."""
_ERROR_STATUS: Final = re.compile(r"[45][0-9]{2}")
_REASON: Final = re.compile(r"[A-Za-z0-9 /_-]{1,40}")
_LOGGED_CHARS: Final = 60


def error_of(reply: Reply, now: datetime) -> PixorlyError | None:
    """Return what an answer says went wrong, in our words; None if nothing did."""
    choice = choice_of(reply.value)
    told = reply.value.get("error") or choice.get("error")
    if reply.status == _OK and not told:
        return _finish_error(choice)
    failure = _Failure.of(reply, mapping(told), now)
    failure.log()
    return failure.as_error()


def choice_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first choice of a chat answer."""
    choices = body.get("choices")
    return mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _finish_error(choice: Mapping[str, Any]) -> PixorlyError | None:
    """Return what the finish reason of a chat answer says, if it says that nothing came of it."""
    if mapping(choice.get("message")).get("images"):
        return None
    match choice.get("finish_reason"):
        case "error":
            return ProviderUnavailable()
        case "content_filter":
            return ContentRejected()
        case _:
            return None


@dataclass(frozen=True, slots=True)
class _Failure:
    """One error of OpenRouter's, read."""

    status: int
    kind: str
    message: str
    metadata: Mapping[str, Any]
    availability: Mapping[str, Any]
    retry_after_s: float | None
    now: datetime

    @classmethod
    def of(cls, reply: Reply, told: Mapping[str, Any], now: datetime) -> "_Failure":
        metadata, availability = mapping(told.get("metadata")), mapping(told.get("availability"))
        kind = str(metadata.get("error_type") or told.get("type") or "")
        status = reply.status
        if status == _OK:
            status = _status_of_code(told.get("code")) or _STATUS_OF_TYPE.get(kind, 400 if kind else 502)
        header = retry_after_s(reply.headers, now)
        return cls(
            status=status,
            kind=kind,
            message=str(told.get("message") or ""),
            metadata=metadata,
            availability=availability,
            retry_after_s=header if header is not None else number(availability.get("retry_after")),
            now=now,
        )

    def log(self) -> None:
        """Say what came, without the message: it may quote the prompt."""
        code, source = self.availability.get("code"), self.metadata.get("limit_source")
        about = {"kind": self.kind, "availability": code, "limit_source": source}
        told = {name: str(value)[:_LOGGED_CHARS] for name, value in about.items() if value}
        _log.warning("openrouter answered with an error", status=self.status, **told)

    def as_error(self) -> PixorlyError:
        """Return the error in our words."""
        if self._is_content():
            return self._rejection()
        if self.status in {_UNAUTHORIZED, _PAYMENT, _FORBIDDEN}:
            return self._account_error()
        error = error_of_status(self.status, self.retry_after_s)
        retryable = self.availability.get("retryable")
        if retryable is True and not isinstance(error, TransientError):
            return ProviderUnavailable(retry_after_s=self.retry_after_s)
        if retryable is False and isinstance(error, TransientError):
            return ModelUnavailable()
        return error

    def _is_content(self) -> bool:
        if self.kind in _REJECTED and self.status < _SERVER_FAULT:
            return True
        flagged = "flagged_input" in self.metadata or "reasons" in self.metadata
        return self.status == _FORBIDDEN and flagged and "limit_source" not in self.metadata

    def _rejection(self) -> ContentRejected:
        reasons = self.metadata.get("reasons")
        named = [reason for reason in reasons if _REASON.fullmatch(str(reason))] if isinstance(reasons, list) else []
        return ContentRejected(f"{ContentRejected().message[:-1]}: {', '.join(named[:5])}." if named else None)

    def _account_error(self) -> PixorlyError:
        source = self.metadata.get("limit_source")
        if self.status == _UNAUTHORIZED:
            return AccountAway(_NAME, "key")
        if self.status == _PAYMENT:
            in_flight = self.metadata.get("reason") == "in_flight_budget_exhausted"
            if in_flight or source == "openrouter_in_flight_budget":
                return ProviderRateLimited(retry_after_s=self.retry_after_s)
            return AccountAway(_NAME, "money", retry_after_s=self.retry_after_s)
        # Older bodies say only in words that the key's limit is reached.
        if source in _BUDGETS or "resets_at" in self.metadata or "limit exceeded" in self.message.lower():
            return AccountAway(_NAME, "budget", retry_after_s=self._until_reset_s())
        # A guardrail of our account that matched one prompt must not stop everybody else's.
        return ProviderRefused()

    def _until_reset_s(self) -> float | None:
        try:
            resets = datetime.fromisoformat(str(self.metadata.get("resets_at")))
        except ValueError:
            return self.retry_after_s
        resets = resets if resets.tzinfo else resets.replace(tzinfo=UTC)
        return max(0.0, (resets - self.now).total_seconds())


def _status_of_code(code: object) -> int | None:
    """Return the status in an error's `code`, a number or a string of one."""
    text = str(code)
    return int(text) if _ERROR_STATUS.fullmatch(text) else None
