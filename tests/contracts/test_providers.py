"""What every provider adapter must do, whatever it speaks to. A new adapter is added to `ADAPTERS` and must pass."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image
from provider_calls import a_model, a_request

from pixorly import catalogue
from pixorly.catalogue import Model
from pixorly.errors import PixorlyError, ProviderTimeout, TransientError
from pixorly.outcomes import OUTCOMES
from pixorly_emulator import Running, serving
from pixorly_generator.providers import ImageProvider, ProviderRequest
from pixorly_generator.providers.http import HttpOptions
from pixorly_generator.providers.openai import OpenAI
from pixorly_generator.providers.openrouter import OpenRouter
from pixorly_generator.providers.sandbox import Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOWLY = "a fox [[latency:30]]"
HTTP = HttpOptions(http2=False, concurrency=100)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter under test.

    Attributes:
        make: Builds it, to speak to the emulator where it speaks to anybody.
        model: One of its provider's.
        make_slow: Builds one whose calls take half a minute, where a tag in the prompt does not see to that.
    """

    make: Callable[[Running], ImageProvider]
    model: Model
    make_slow: Callable[[Running], ImageProvider] | None = None


OPENAI_PARAMETERS = ("n", "size", "quality", "output_format", "background")

ADAPTERS = {
    "sandbox": Adapter(
        make=lambda _: Sandbox(threads=1),
        model=catalogue.load().find("sandbox/aurora"),
        make_slow=lambda _: Sandbox(latency_s=30, threads=1),
    ),
    "openrouter": Adapter(make=lambda emulator: OpenRouter("k", base_url=emulator.url, http=HTTP), model=a_model()),
    "openrouter, chat": Adapter(
        make=lambda emulator: OpenRouter("k", base_url=emulator.url, http=HTTP),
        model=a_model(
            route="chat", max_n=1, aspect_ratios={"1:1": (1024, 1024)}, parameters=("aspect_ratio", "output_format")
        ),
    ),
    "openai": Adapter(
        make=lambda emulator: OpenAI("k", base_url=f"{emulator.url}/v1", http=HTTP),
        model=a_model(id="openai/gpt-image-2", provider="openai", parameters=OPENAI_PARAMETERS, seed=False),
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def emulator() -> AsyncIterator[Running]:
    async with serving() as running:
        yield running


@pytest.fixture(params=ADAPTERS, ids=str)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]


@asynccontextmanager
async def made(adapter: Adapter, emulator: Running, *, slow: bool = False) -> AsyncIterator[ImageProvider]:
    provider = (adapter.make_slow if slow and adapter.make_slow else adapter.make)(emulator)
    try:
        yield provider
    finally:
        await provider.close()


def asked(adapter: Adapter, **params: Any) -> ProviderRequest:
    size = {"width": 1024, "height": 1024, "aspect_ratio": "1:1"} if adapter.model.aspect_ratios else {}
    return a_request(model=adapter.model, **{**size, **params})


def pixels(data: bytes) -> tuple[tuple[int, int], str | None]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.size, image.format


async def test_it_makes_as_many_images_as_asked_of_the_size_asked(adapter: Adapter, emulator: Running) -> None:
    n = min(3, adapter.model.max_n)
    request = asked(adapter, n=n)

    async with made(adapter, emulator) as provider:
        answer = await provider.generate(request)

    size = (request.params.width, request.params.height)
    assert [pixels(image.data)[0] for image in answer.images] == [size] * n
    assert answer.provider == provider.name
    assert answer.model


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
async def test_it_makes_the_format_that_its_model_takes(adapter: Adapter, emulator: Running, image_format: str) -> None:
    async with made(adapter, emulator) as provider:
        answer = await provider.generate(asked(adapter, output_format=image_format))

    assert pixels(answer.images[0].data)[1] == image_format.upper()


async def test_images_are_plain_bytes_and_facts_are_plain(adapter: Adapter, emulator: Running) -> None:
    async with made(adapter, emulator) as provider:
        answer = await provider.generate(asked(adapter))

    assert all(isinstance(image.data, bytes) for image in answer.images)
    assert answer.cost_usd is None or isinstance(answer.cost_usd, Decimal)
    assert all(isinstance(value, int | float | str | bool) for value in answer.usage.values())


async def test_it_keeps_to_the_time_that_it_is_given(adapter: Adapter, emulator: Running) -> None:
    begin = time.perf_counter()
    async with made(adapter, emulator, slow=True) as provider:
        with pytest.raises(ProviderTimeout) as caught:
            await provider.generate(replace(asked(adapter, prompt=SLOWLY), timeout_s=0.2))

    assert time.perf_counter() - begin < 5
    assert isinstance(caught.value, TransientError)


async def test_it_can_be_cancelled(adapter: Adapter, emulator: Running) -> None:
    async with made(adapter, emulator, slow=True) as provider:
        task = asyncio.create_task(provider.generate(asked(adapter, prompt=SLOWLY)))
        await asyncio.sleep(0.05)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task


async def test_many_calls_run_together(adapter: Adapter, emulator: Running) -> None:
    async with made(adapter, emulator) as provider:
        answers = await asyncio.gather(*(provider.generate(asked(adapter)) for _ in range(8)))

    assert all(answer.images for answer in answers)


@pytest.mark.parametrize(
    "fault",
    ["400", "401", "402", "403moderation", "404model", "429", "503", "cut", "cut:body", "html", "text", "gzip:1"],
)
async def test_whatever_goes_wrong_is_told_in_a_code_of_the_table(
    adapter: Adapter, emulator: Running, fault: str
) -> None:
    async with made(adapter, emulator) as provider:
        if provider.name == "sandbox":
            return  # it speaks to nobody
        with pytest.raises(PixorlyError) as caught:
            await provider.generate(asked(adapter, prompt=f"a fox [[fault:{fault}]]"))

    assert caught.value.code in OUTCOMES
    assert "fox" not in str(caught.value)


async def test_nobody_is_told_who_the_user_is(adapter: Adapter, emulator: Running) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(65536))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with made(adapter, Running(f"http://127.0.0.1:{port}", port)) as provider:
        try:
            await provider.generate(replace(asked(adapter), user_id="alice@example.com"))
        except PixorlyError:
            assert seen
    server.close()

    assert b"alice" not in b"".join(seen)
