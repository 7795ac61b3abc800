"""Every error that a provider answers with: its status, words and metadata, in OpenRouter's shape and in OpenAI's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final

_RESET_S: Final = 60.0
_FLAGGED_CHARS: Final = 100


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """One kind of error.

    Attributes:
        status: The HTTP status; in OpenRouter's body it is `code` too.
        message: For people.
        error_type: The stable word in `metadata.error_type`.
        metadata: The rest of the metadata.
        availability: What stands in `availability`, for routing failures.
        retry_after: The header as it comes where nothing else is asked.
        openai: (status, type, code) on OpenAI's own route, where they differ.
        about: One line for the help.
    """

    status: int
    message: str
    error_type: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    availability: Mapping[str, Any] = field(default_factory=dict)
    retry_after: str | None = None
    openai: tuple[int, str, str] | None = None
    about: str = ""


_FUNNEL: Final = [
    {"step": "model", "remaining": 2},
    {"step": "input_modalities", "remaining": 2},
    {"step": "output_modalities", "remaining": 0},
]
_POLICY: Final = (400, "image_generation_user_error", "moderation_blocked")
_QUOTA: Final = (429, "insufficient_quota", "insufficient_quota")

ERRORS: Final[dict[str, ErrorShape]] = {
    "400": ErrorShape(400, "Invalid request parameters", "invalid_request", about="invalid request"),
    "400policy": ErrorShape(
        400,
        "The request was rejected by the provider's content policy",
        "content_policy_violation",
        {"provider_name": "Emulator", "provider_code": "content_policy_violation"},
        openai=_POLICY,
        about="content policy, as a 400",
    ),
    "400refusal": ErrorShape(400, "The model refused the request", "refusal", openai=_POLICY, about="a refusal"),
    "400prompt": ErrorShape(400, "The prompt is not valid", "invalid_prompt", openai=_POLICY, about="invalid prompt"),
    "401": ErrorShape(
        401,
        "Missing Authentication header",
        "authentication",
        openai=(401, "invalid_request_error", "invalid_api_key"),
        about="our key is not taken",
    ),
    "402": ErrorShape(
        402,
        "Insufficient credits. Add more using https://openrouter.ai/settings/credits",
        "payment_required",
        {"reason": "weight_exceeds_budget", "limit_source": "openrouter_credits"},
        openai=_QUOTA,
        about="our account is out of money",
    ),
    "402key": ErrorShape(
        402,
        "This key has reached its limit",
        "payment_required",
        {"reason": "weight_exceeds_budget", "limit_source": "openrouter_key_limit"},
        openai=_QUOTA,
        about="our key has reached its limit",
    ),
    "402inflight": ErrorShape(
        402,
        "Too much is in flight for the remaining budget; try again shortly",
        "payment_required",
        {"reason": "in_flight_budget_exhausted", "limit_source": "openrouter_in_flight_budget"},
        retry_after="1",
        openai=(429, "requests", "rate_limit_exceeded"),
        about="too much in flight for the budget; Retry-After 1",
    ),
    "403moderation": ErrorShape(
        403,
        "The input was flagged by moderation",
        "permission_denied",
        {"reasons": ["violence"], "flagged_input": "", "provider_name": "Emulator", "model_slug": ""},
        openai=_POLICY,
        about="moderation flagged the prompt",
    ),
    "403guardrail": ErrorShape(
        403,
        "The request was blocked by a guardrail",
        "permission_denied",
        {"patterns": ["blocked-term"], "scope": "workspace"},
        openai=(403, "invalid_request_error", "permission_denied"),
        about="a guardrail of our account matched a pattern",
    ),
    "403budget": ErrorShape(
        403,
        "The guardrail budget is used up",
        "permission_denied",
        {
            "limit_source": "openrouter_guardrail_budget",
            "scope": "workspace",
            "limit_usd": 100,
            "spend_usd": 100.02,
            "resets_at": "",
        },
        openai=(400, "billing_limit_user_error", "billing_hard_limit_reached"),
        about="our budget is used up; resets_at in 60 s (resets=SECONDS)",
    ),
    "403workspace": ErrorShape(
        403,
        "The workspace budget is used up",
        "permission_denied",
        {
            "limit_source": "openrouter_workspace_budget",
            "scope": "workspace",
            "limit_usd": 100,
            "spend_usd": 100.02,
            "resets_at": "",
        },
        openai=(400, "billing_limit_user_error", "billing_hard_limit_reached"),
        about="the workspace's budget is used up",
    ),
    "403key": ErrorShape(
        403,
        "The key's limit is used up",
        "permission_denied",
        {
            "limit_source": "openrouter_key_limit",
            "scope": "key_limit",
            "limit_usd": 10,
            "spend_usd": 10.01,
            "resets_at": "",
        },
        openai=_QUOTA,
        about="the key's budget is used up",
    ),
    "404": ErrorShape(404, "Resource not found", "not_found", about="not found"),
    "404model": ErrorShape(
        404,
        "No endpoints found for this model",
        "not_found",
        availability={"code": "model_not_found", "retryable": False, "fallback_models": []},
        openai=(404, "invalid_request_error", "model_not_found"),
        about="the model is gone",
    ),
    "404modality": ErrorShape(
        404,
        "No endpoints found that support the requested output modalities: image, text",
        "not_found",
        {"routing_funnel": _FUNNEL, "failed_routing_step": "output_modalities"},
        openai=(404, "invalid_request_error", "model_not_found"),
        about="no endpoint gives these modalities",
    ),
    "404busy": ErrorShape(
        404,
        "No endpoints are available right now",
        "not_found",
        availability={"code": "temporarily_unavailable", "retryable": True, "retry_after": 1},
        openai=(503, "server_error", "overloaded"),
        about="a 404 whose availability says: try again in 1 s",
    ),
    "408": ErrorShape(408, "Operation timed out. Please try again later.", "timeout", about="timed out"),
    "413": ErrorShape(413, "Request payload too large", "payload_too_large", about="too large"),
    "422": ErrorShape(422, "Unprocessable request", "unprocessable", about="unprocessable"),
    "429": ErrorShape(
        429,
        "Rate limit exceeded",
        "rate_limit_exceeded",
        retry_after="1",
        openai=(429, "requests", "rate_limit_exceeded"),
        about="rate limit; Retry-After 1",
    ),
    "500": ErrorShape(500, "Internal Server Error", "server", about="server error"),
    "502": ErrorShape(
        502,
        "Provider returned error",
        "provider_unavailable",
        {"provider_name": "Emulator", "raw": "upstream connect error"},
        about="the provider behind failed",
    ),
    "503": ErrorShape(503, "Service temporarily unavailable", "provider_overloaded", about="overloaded"),
    "503capacity": ErrorShape(
        503,
        "All providers are at capacity",
        "provider_overloaded",
        availability={"code": "capacity_exhausted", "retryable": True, "retry_after": 2, "affected_providers": ["x"]},
        retry_after="2",
        about="availability says: try again in 2 s",
    ),
    "503region": ErrorShape(
        503,
        "No provider serves this model in your region",
        "provider_unavailable",
        availability={"code": "region_restricted", "retryable": False},
        about="a 503 whose availability says: never",
    ),
    "504": ErrorShape(504, "Gateway timeout", "timeout", about="gateway timeout"),
    "524": ErrorShape(524, "Request timed out. Please try again later.", "timeout", about="edge timeout"),
    "529": ErrorShape(529, "Provider overloaded. Please try again later.", "provider_overloaded", about="overloaded"),
}


class Refusal(Exception):
    """The request is refused before anything is made.

    Args:
        name: Which error.
        message: Other words than the usual.
    """

    def __init__(self, name: str, message: str | None = None) -> None:
        super().__init__(name)
        self.name = name
        self.message = message


def openrouter_body(shape: ErrorShape, *, message: str | None = None, **about: Any) -> dict[str, Any]:
    """Return the body as OpenRouter writes it.

    Args:
        shape: Which error.
        message: Other words than the usual.
        about: `prompt` and `model` of the call, and `resets` in seconds, for the metadata that names them.
    """
    metadata = dict(shape.metadata)
    if "flagged_input" in metadata:
        metadata["flagged_input"] = str(about.get("prompt", ""))[:_FLAGGED_CHARS]
        metadata["model_slug"] = about.get("model", "")
    if "resets_at" in metadata:
        resets = datetime.now(UTC) + timedelta(seconds=float(about.get("resets", _RESET_S)))
        metadata["resets_at"] = resets.isoformat()
    if shape.error_type:
        metadata["error_type"] = shape.error_type
    error: dict[str, Any] = {"code": shape.status, "message": message or shape.message}
    if metadata:
        error["metadata"] = metadata
    if shape.availability:
        error["availability"] = {**shape.availability, "requested_models": [about.get("model", "")]}
    return {"error": error, "user_id": "user_emulator"}


def openai_body(shape: ErrorShape, *, message: str | None = None, **_: Any) -> tuple[int, dict[str, Any]]:
    """Return the status and the body as OpenAI writes them."""
    kind = "server_error" if shape.status >= 500 else "invalid_request_error"  # noqa: PLR2004 - an HTTP class
    status, kind, code = shape.openai or (shape.status, kind, shape.error_type)
    return status, {"error": {"message": message or shape.message, "type": kind, "param": None, "code": code}}


def retry_after_header(text: str) -> str | None:
    """Return the header's value: seconds, any junk, a date for `date+SECONDS`, None for `none`."""
    if text == "none":
        return None
    if text.startswith("date+"):
        when = datetime.now(UTC) + timedelta(seconds=float(text.removeprefix("date+")))
        return format_datetime(when, usegmt=True)
    return text
