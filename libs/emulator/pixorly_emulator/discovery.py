"""What OpenRouter tells about its models, one generation, the key and the account."""

from datetime import UTC, datetime
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pixorly_emulator.bill import Bill, Call
from pixorly_emulator.calling import bearer
from pixorly_emulator.errors import ERRORS, Refusal, openrouter_body
from pixorly_emulator.models import Models

_CREDITS_USD: Final = 1_000_000.0
_UNKNOWN: Final = (
    "app_id",
    "cache_discount",
    "external_user",
    "http_referer",
    "moderation_latency",
    "native_tokens_cached",
    "native_tokens_reasoning",
    "num_fetches",
    "num_input_audio_prompt",
    "num_media_prompt",
    "num_search_results",
    "preset_id",
    "provider_responses",
    "router",
    "service_tier",
    "upstream_id",
    "upstream_inference_cost",
    "user_agent",
    "web_search_engine",
    "workspace_id",
)
"""What the emulator has nothing to say about."""


def routes(bill: Bill, models: Models, keys: frozenset[str]) -> list[Route]:
    """Return the routes."""
    discovery = _Discovery(bill, models, keys)
    return [
        Route("/api/v1/images/models", discovery.image_models),
        Route("/api/v1/images/models/{author}/{slug}/endpoints", discovery.endpoints),
        Route("/api/v1/models", discovery.models),
        Route("/api/v1/generation", discovery.generation),
        Route("/api/v1/key", discovery.key),
        Route("/api/v1/credits", discovery.credits),
    ]


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")


def _error(name: str) -> Response:
    return _json(openrouter_body(ERRORS[name]), ERRORS[name].status)


class _Discovery:
    def __init__(self, bill: Bill, models: Models, keys: frozenset[str]) -> None:
        self._bill = bill
        self._models = models
        self._keys = keys

    async def image_models(self, _: Request) -> Response:
        """List the image models with what they take."""
        return _json({"data": [model.as_listed() for model in self._models.all()]})

    async def endpoints(self, request: Request) -> Response:
        """Tell who serves one model, and for how much."""
        try:
            model = self._models.find("{author}/{slug}".format(**request.path_params))
        except Refusal as refusal:
            return _error(refusal.name)
        return _json(model.as_endpoints())

    async def models(self, request: Request) -> Response:
        """List all models that give one of the modalities: text, where nothing is said."""
        wanted = set(request.query_params.get("output_modalities", "text").split(","))
        found = [model for model in self._models.all() if "all" in wanted or wanted & set(model.outputs)]
        body = {"data": [model.as_general() for model in found], "total_count": len(found), "links": {"next": None}}
        return _json(body)

    async def generation(self, request: Request) -> Response:
        """Tell what one generation came to."""
        if not self._allowed(request):
            return _error("401")
        call = self._bill.find(request.query_params.get("id", ""))
        return _error("404") if call is None else _json({"data": _generation(call)})

    async def key(self, request: Request) -> Response:
        """Tell what the key may still spend."""
        if not self._allowed(request):
            return _error("401")
        return _json({"data": _key(float(self._bill.usd()))})

    async def credits(self, request: Request) -> Response:
        """Tell what the account has left."""
        if not self._allowed(request):
            return _error("401")
        return _json({"data": {"total_credits": _CREDITS_USD, "total_usage": float(self._bill.usd())}})

    def _allowed(self, request: Request) -> bool:
        key = bearer(request)
        return bool(key) and (not self._keys or key in self._keys)


def _key(usage: float) -> dict[str, Any]:
    nothing = dict.fromkeys(("byok_usage", "byok_usage_daily", "byok_usage_weekly", "byok_usage_monthly"), 0)
    no_owner = dict.fromkeys(("creator_user_id", "organization_id", "workspace_id", "limit_reset", "effective_budget"))
    return {
        "label": "sk-or-v1-emu...lator",
        "limit": _CREDITS_USD,
        "limit_remaining": _CREDITS_USD - usage,
        "usage": usage,
        "usage_daily": usage,
        "usage_weekly": usage,
        "usage_monthly": usage,
        "allowed_data_regions": ["global"],
        "budgets": [],
        "free_model_daily_requests": {"limit": 0, "remaining": 0, "used": 0},
        "include_byok_in_limit": False,
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "rate_limit": {"interval": "10s", "note": "This field is deprecated.", "requests": -1},
        **nothing,
        **no_owner,
    }


def _generation(call: Call) -> dict[str, Any]:
    took_ms = round((call.took_s or 0) * 1000)
    return {
        **dict.fromkeys(_UNKNOWN),
        "id": call.id,
        "api_type": "completions" if call.route == "chat" else "image",
        "model": call.model,
        "provider_name": "Emulator",
        "created_at": datetime.fromtimestamp(call.began_at, UTC).isoformat(),
        "data_region": "global",
        "origin": "",
        "is_byok": False,
        "streamed": False,
        "cancelled": call.left,
        "finish_reason": "stop" if call.billed else "error",
        "native_finish_reason": "stop" if call.billed else "error",
        "latency": took_ms,
        "generation_time": took_ms,
        "num_media_completion": call.images,
        "tokens_prompt": 0,
        "tokens_completion": 0,
        "native_tokens_prompt": 0,
        "native_tokens_completion": 1290 * call.images,
        "native_tokens_completion_images": 1290 * call.images,
        "total_cost": float(call.usd),
        "usage": float(call.usd),
        "session_id": call.session_id,
    }
