"""OpenRouter: `POST /api/v1/images`, and the chat route for models that want it.

This file and `openrouter_errors` are the ones that know OpenRouter's words.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from pixorly.errors import ProviderTimeout
from pixorly_generator.providers import ProviderAnswer, ProviderRequest
from pixorly_generator.providers.answers import Bill, Item, counts, items_of, mapping, read_images, usd, user_tag
from pixorly_generator.providers.breaker import Gates
from pixorly_generator.providers.fetch import Fetcher
from pixorly_generator.providers.http import HttpOptions, ProviderHttp, Reply
from pixorly_generator.providers.openrouter_errors import choice_of, error_of

NAME: Final = "openrouter"

_TIERS: Final = ((1024, "1K"), (2048, "2K"), (4096, "4K"))


class OpenRouter:
    """Makes images by way of OpenRouter.

    Args:
        api_key: The bearer key.
        base_url: Where OpenRouter is, with or without `/api/v1`.
        http: How calls are made.
        gates: Breakers and limits.
        fetcher: Fetches images that come as addresses.
    """

    name = NAME

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = "https://openrouter.ai",
        http: HttpOptions | None = None,
        gates: Gates | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        root = base_url.rstrip("/").removesuffix("/api/v1")
        headers = {"authorization": f"Bearer {api_key}", "x-openrouter-title": "Pixorly"}
        self._http = ProviderHttp(f"{root}/api/v1", headers, http or HttpOptions())
        self._gates = gates or Gates(NAME)
        self._fetcher = fetcher or Fetcher()

    async def generate(self, request: ProviderRequest) -> ProviderAnswer:
        """Make the images of one call.

        Raises:
            TransientError: It may work in a moment.
            OutageError: Our account or the model is away.
            ServerError: OpenRouter can't do it, or sent garbage.
            ContentRejected: The prompt was refused.
        """
        end = asyncio.get_running_loop().time() + request.timeout_s
        async with self._gates.passed(request.model.id, request.timeout_s / 2):
            try:
                async with asyncio.timeout_at(end):
                    return await self._call(request)
            except TimeoutError as error:
                raise ProviderTimeout from error

    async def left_usd(self, timeout_s: float = 10) -> float | None:
        """Return what is left of our key's limit; None where it has none.

        Raises:
            TransientError, ServerError: OpenRouter did not say.
        """
        reply = await self._http.get("/key", timeout_s=timeout_s)
        facts = reply.value.get("data")
        left = facts.get("limit_remaining") if isinstance(facts, dict) else None
        return float(left) if isinstance(left, int | float | Decimal) else None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
        await self._fetcher.close()

    async def _call(self, request: ProviderRequest) -> ProviderAnswer:
        chat = request.model.route == "chat"
        path = "/chat/completions" if chat else "/images"
        body = chat_body(request) if chat else images_body(request)
        reply = await self._http.post(path, body, timeout_s=request.timeout_s)
        bill = _bill_of(reply)
        with bill.on_errors():
            error = error_of(reply, datetime.now(UTC))
            if error is not None:
                raise error
            items = _chat_items(reply.value) if chat else items_of(reply.value.get("data"))
            images = await read_images(reply.parsed, items[: request.n], self._fetcher)
        return ProviderAnswer(
            images=images,
            provider=NAME,
            model=str(reply.value.get("model") or request.model.id),
            cost_usd=bill.cost_usd,
            generation_id=bill.generation_id,
            usage=bill.usage,
        )


# --- What is asked ----------------------------------------------------------------------------------------------------


def images_body(request: ProviderRequest) -> dict[str, Any]:
    """Return the body for the image route: only what the model lists."""
    params, takes = request.params, frozenset(request.model.parameters)
    wanted = {
        "n": request.n if request.n > 1 else None,
        "quality": params.quality,
        "output_format": params.output_format,
        "background": params.background,
        "seed": request.seed,
        **_size(request, takes),
    }
    return {
        "model": request.model.id,
        "prompt": request.prompt,
        "session_id": str(request.job_id),
        "user": user_tag(request.user_id),
        **{name: value for name, value in wanted.items() if name in takes and value is not None},
    }


def _size(request: ProviderRequest, takes: frozenset[str]) -> dict[str, str | None]:
    """Return the size in the model's own terms: pixels if it takes them, else ratio and tier; both would conflict."""
    params = request.params
    if "size" in takes:
        return {"size": f"{params.width}x{params.height}"}
    side = (params.width * params.height) ** 0.5
    tier = min(_TIERS, key=lambda tier: abs(tier[0] - side))[1]
    return {"aspect_ratio": params.aspect_ratio, "resolution": tier}


def chat_body(request: ProviderRequest) -> dict[str, Any]:
    """Return the body for the chat route."""
    params, takes = request.params, frozenset(request.model.parameters)
    size = _size(request, takes - {"size"})
    config = {
        "aspect_ratio": size["aspect_ratio"],
        "image_size": size["resolution"],
        "quality": params.quality,
        "output_format": params.output_format,
        "background": params.background,
    }
    body = {
        "model": request.model.id,
        "messages": [{"role": "user", "content": request.prompt}],
        "modalities": ["image", "text"],
        "session_id": str(request.job_id),
        "user": user_tag(request.user_id),
        "image_config": {name: value for name, value in config.items() if name in takes and value is not None},
    }
    return {**body, "seed": request.seed} if "seed" in takes and request.seed is not None else body


# --- What comes back --------------------------------------------------------------------------------------------------


def _bill_of(reply: Reply) -> Bill:
    """Return the bill of an answer; what is missing or odd in it is left out."""
    told = mapping(reply.value.get("usage"))
    details = mapping(told.get("completion_tokens_details"))
    generation_id = reply.headers.get("x-generation-id") or reply.value.get("id")
    return Bill(
        cost_usd=usd(told.get("cost")),
        generation_id=generation_id[:200] if isinstance(generation_id, str) else None,
        usage={**counts(details), **counts(told)},
    )


def _chat_items(body: Mapping[str, Any]) -> list[Item]:
    """Return the images of the chat route's answer."""
    images = mapping(choice_of(body).get("message")).get("images")
    urls = [mapping(mapping(image).get("image_url")).get("url") for image in images or []]
    return [Item(url) for url in urls if isinstance(url, str) and url]
