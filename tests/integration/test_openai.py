"""OpenAI's own image route: its words in ours, against the emulator over real HTTP."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from provider_calls import JOB, a_model, a_request
from raw_server import http, raw_server

from pixorly.errors import (
    ContentRejected,
    InvalidImage,
    ModelUnavailable,
    NoImage,
    PixorlyError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from pixorly_emulator import Running, serving
from pixorly_emulator.errors import ERRORS
from pixorly_generator.providers import ProviderAnswer, ProviderRequest
from pixorly_generator.providers.breaker import AccountAway
from pixorly_generator.providers.http import HttpOptions
from pixorly_generator.providers.openai import OpenAI

pytestmark = pytest.mark.asyncio(loop_scope="module")

Make = Callable[[ProviderRequest], Awaitable[ProviderAnswer]]
MODEL = a_model(id="openai/gpt-image-2", provider="openai", parameters=("n", "size", "quality", "output_format"))

ROWS: dict[str, type[PixorlyError]] = {
    "400": ProviderRefused,
    "400policy": ContentRejected,
    "400refusal": ContentRejected,
    "400prompt": ContentRejected,
    "401": AccountAway,
    "402": AccountAway,
    "402key": AccountAway,
    "402inflight": ProviderRateLimited,
    "403moderation": ContentRejected,
    "403guardrail": ProviderRefused,
    "403budget": AccountAway,
    "403workspace": AccountAway,
    "403key": AccountAway,
    "404": ModelUnavailable,
    "404model": ModelUnavailable,
    "404modality": ModelUnavailable,
    "404busy": ProviderUnavailable,
    "408": ProviderTimeout,
    "413": ProviderRefused,
    "422": ProviderRefused,
    "429": ProviderRateLimited,
    "500": ProviderUnavailable,
    "502": ProviderUnavailable,
    "503": ProviderUnavailable,
    "503capacity": ProviderUnavailable,
    "503region": ProviderUnavailable,
    "504": ProviderTimeout,
    "524": ProviderTimeout,
    "529": ProviderUnavailable,
    "cut": ProviderUnavailable,
    "cut:after": ProviderUnavailable,
    "html": ProviderUnavailable,
    "empty": NoImage,
    "badbase64": InvalidImage,
    "gzip:1": InvalidImage,
    "url:https://127.0.0.1/a.png": InvalidImage,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def emulator() -> AsyncIterator[Running]:
    async with serving() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def make(emulator: Running) -> AsyncIterator[Make]:
    adapter = OpenAI("sk-test", base_url=f"{emulator.url}/v1", http=HttpOptions(http2=False))
    yield adapter.generate
    await adapter.close()


async def test_every_error_of_the_emulator_has_its_row() -> None:
    assert set(ERRORS) <= set(ROWS)


@pytest.mark.parametrize(("fault", "kind"), ROWS.items(), ids=list(ROWS))
async def test_an_error_becomes_what_its_row_says(make: Make, fault: str, kind: type[PixorlyError]) -> None:
    with pytest.raises(PixorlyError) as caught:
        await make(a_request(f"a fox [[fault:{fault}]]", model=MODEL))

    assert type(caught.value) in {kind, *kind.__subclasses__()}


async def test_images_come_back(make: Make) -> None:
    answer = await make(a_request(model=MODEL, n=2, quality="low", output_format="webp"))

    assert len(answer.images) == 2
    assert answer.images[0].data[:4] == b"RIFF"
    assert (answer.provider, answer.model) == ("openai", "gpt-image-2")
    assert answer.usage["output_tokens"] == 2580
    assert answer.generation_id
    assert answer.cost_usd is None  # it is not told


async def test_only_what_the_model_lists_is_sent(emulator: Running, make: Make) -> None:
    await make(a_request(model=MODEL, n=3, quality="high", background="opaque", seed=5))

    async with httpx.AsyncClient(trust_env=False) as client:
        calls: Any = await client.get(f"{emulator.url}/_emulator/calls", params={"session_id": str(JOB)})
    sent = calls.json()["data"][-1]["parameters"]

    assert sent.pop("user") != "demo"
    assert sent == {"model": "gpt-image-2", "n": 3, "size": "64x64", "quality": "high"}


async def test_milliseconds_of_retry_after_are_read() -> None:
    body = json.dumps({"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}).encode()
    busy = http(body, status="429 Too Many Requests", extra="retry-after-ms: 1500\r\nretry-after: 9\r\n")
    async with raw_server(busy) as server:
        adapter = OpenAI("k", base_url=server.url, http=HttpOptions(http2=False))
        with pytest.raises(ProviderRateLimited) as caught:
            await adapter.generate(a_request(model=MODEL))
        await adapter.close()

    assert caught.value.retry_after_s == 1.5


async def test_an_error_in_a_200_is_seen() -> None:
    body = json.dumps({"error": {"message": "no", "code": "moderation_blocked"}}).encode()
    async with raw_server(http(body)) as server:
        adapter = OpenAI("k", base_url=server.url, http=HttpOptions(http2=False))
        with pytest.raises(ContentRejected):
            await adapter.generate(a_request(model=MODEL))
        await adapter.close()
