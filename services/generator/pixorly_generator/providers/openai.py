"""OpenAI's own image route: `POST /v1/images/generations`. The second adapter, on the same helpers as the first."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog

from pixorly.errors import ContentRejected, ModelUnavailable, PixorlyError, ProviderRefused, ProviderTimeout
from pixorly_generator.providers import ProviderAnswer, ProviderRequest
from pixorly_generator.providers.answers import Bill, counts, items_of, mapping, read_images, user_tag
from pixorly_generator.providers.breaker import AccountAway, Gates
from pixorly_generator.providers.fetch import Fetcher
from pixorly_generator.providers.http import HttpOptions, ProviderHttp, Reply, error_of_status, retry_after_s

_log = structlog.get_logger()

NAME: Final = "openai"

_OK, _UNAUTHORIZED, _FORBIDDEN, _SERVER_FAULT = 200, 401, 403, 500
_REJECTED: Final = frozenset({"moderation_blocked", "content_policy_violation", "safety_violation"})
_NO_MONEY: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_NO_KEY: Final = frozenset({"invalid_api_key", "account_deactivated", "invalid_organization"})
_LOGGED_CHARS: Final = 60


class OpenAI:
    """Makes images at OpenAI.

    Args:
        api_key: The bearer key.
        base_url: Where OpenAI is, with `/v1`.
        http: How calls are made.
        gates: Breakers and limits.
        fetcher: Fetches images that come as addresses.
    """

    name = NAME

    def __init__(
        self,
        api_key: str,
        *,
        base_url: str = "https://api.openai.com/v1",
        http: HttpOptions | None = None,
        gates: Gates | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        self._http = ProviderHttp(base_url.rstrip("/"), {"authorization": f"Bearer {api_key}"}, http or HttpOptions())
        self._gates = gates or Gates(NAME)
        self._fetcher = fetcher or Fetcher()

    async def generate(self, request: ProviderRequest) -> ProviderAnswer:
        """Make the images of one call.

        Raises:
            TransientError: It may work in a moment.
            OutageError: Our account or the model is away.
            ServerError: OpenAI can't do it, or sent garbage.
            ContentRejected: The prompt was refused.
        """
        end = asyncio.get_running_loop().time() + request.timeout_s
        async with self._gates.passed(request.model.id, request.timeout_s / 2):
            try:
                async with asyncio.timeout_at(end):
                    return await self._call(request)
            except TimeoutError as error:
                raise ProviderTimeout from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
        await self._fetcher.close()

    async def _call(self, request: ProviderRequest) -> ProviderAnswer:
        # Ours, so that a call can be found in OpenAI's logs; it is no idempotency key, for there is none.
        headers = {"x-client-request-id": f"{request.job_id}/{request.call_no}/{request.attempt}"}
        reply = await self._http.post(
            "/images/generations", body_of(request), timeout_s=request.timeout_s, headers=headers
        )
        told = mapping(reply.value.get("usage"))
        bill = Bill(generation_id=reply.headers.get("x-request-id"), usage=counts(told))
        with bill.on_errors():
            error = error_of(reply)
            if error is not None:
                raise error
            images = await read_images(reply.parsed, items_of(reply.value.get("data"))[: request.n], self._fetcher)
        return ProviderAnswer(
            images=images,
            provider=NAME,
            model=wire_model(request),
            generation_id=bill.generation_id,
            usage=bill.usage,
        )


def wire_model(request: ProviderRequest) -> str:
    """Return the model as OpenAI names it: the catalogue's name without what stands before the last slash."""
    return request.model.id.rpartition("/")[2]


def body_of(request: ProviderRequest) -> dict[str, Any]:
    """Return the body: only what the model lists."""
    params, takes = request.params, frozenset(request.model.parameters)
    wanted = {
        "n": request.n if request.n > 1 else None,
        "size": f"{params.width}x{params.height}",
        "quality": params.quality,
        "output_format": params.output_format,
        "background": params.background,
    }
    return {
        "model": wire_model(request),
        "prompt": request.prompt,
        "user": user_tag(request.user_id),
        **{name: value for name, value in wanted.items() if name in takes and value is not None},
    }


def error_of(reply: Reply) -> PixorlyError | None:
    """Return what an answer says went wrong, in our words; None if nothing did."""
    told = reply.value.get("error")
    if reply.status == _OK and not told:
        return None
    error = mapping(told)
    code, kind = str(error.get("code") or ""), str(error.get("type") or "")
    status = reply.status if reply.status != _OK else _SERVER_FAULT
    _log.warning("openai answered with an error", status=status, code=code[:_LOGGED_CHARS], kind=kind[:_LOGGED_CHARS])
    return _by_code(code) or _by_status(status, reply.headers)


def _by_code(code: str) -> PixorlyError | None:
    if code in _REJECTED:
        return ContentRejected()
    if code in _NO_MONEY:
        return AccountAway(NAME, "money")
    if code in _NO_KEY:
        return AccountAway(NAME, "key")
    return ModelUnavailable() if code == "model_not_found" else None


def _by_status(status: int, headers: Mapping[str, str]) -> PixorlyError:
    if status == _UNAUTHORIZED:
        return AccountAway(NAME, "key")
    if status == _FORBIDDEN:
        return ProviderRefused()
    return error_of_status(status, retry_after_s(headers))
