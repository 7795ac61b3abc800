"""The official `openrouter` SDK reads everything that the emulator says, good and bad."""

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openrouter import OpenRouter, components, errors
from openrouter.utils import RetryConfig
from PIL import Image

from pixorly_emulator import Running, serving
from pixorly_emulator.errors import ERRORS

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one emulator for all: the SDK is slow to set up

MODEL = "emulator/any"
DOCUMENTED = {400, 401, 402, 403, 404, 413, 429, 500, 502, 524, 529}
"""The statuses that the SDK has classes for on the image route."""
CHAT_DOCUMENTED = DOCUMENTED | {408, 422, 503}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def emulator() -> AsyncIterator[Running]:
    async with serving() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sdk(emulator: Running) -> AsyncIterator[OpenRouter]:
    no_retries = RetryConfig("none", None, False)  # type: ignore[arg-type] # noqa: FBT003 - the SDK's own signature
    async with OpenRouter(api_key="sk-or-v1-test", server_url=f"{emulator.url}/api/v1", retry_config=no_retries) as sdk:
        yield sdk


def picture(b64: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(b64)))
    image.load()
    return image


async def test_an_image_answer_is_read(sdk: OpenRouter) -> None:
    answer: Any = await sdk.images.generate_async(model=MODEL, prompt="a fox", n=2, size="64x48", output_format="webp")

    assert [picture(datum.b64_json).size for datum in answer.data] == [(64, 48), (64, 48)]
    assert {datum.media_type for datum in answer.data} == {"image/webp"}
    assert answer.usage.cost == pytest.approx(0.002)
    assert answer.usage.completion_tokens_details.image_tokens == 2580


async def test_a_stream_is_read(sdk: OpenRouter) -> None:
    stream: Any = await sdk.images.generate_async(model=MODEL, prompt="a fox", size="64x64", stream=True)

    events = [event async for event in stream]

    assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
    assert picture(events[-1].b64_json).size == (64, 64)


@pytest.mark.parametrize("fault", ["missing:2", "empty", "jpeg", "nomediatype", "mediatype", "nousage", "noid", "text"])
async def test_an_odd_answer_is_read_too(sdk: OpenRouter, fault: str) -> None:
    answer: Any = await sdk.images.generate_async(model=MODEL, prompt=f"a fox [[fault:{fault}]]", n=3, size="64x64")

    assert len(answer.data) == {"missing:2": 1, "empty": 0, "text": 0}.get(fault, 3)


@pytest.mark.parametrize("name", [name for name, shape in ERRORS.items() if shape.status in DOCUMENTED])
async def test_an_error_of_the_image_route_is_read_as_its_own_class(sdk: OpenRouter, name: str) -> None:
    with pytest.raises(errors.OpenRouterError) as caught:
        await sdk.images.generate_async(model=MODEL, prompt=f"a fox [[fault:{name}]]")

    failure: Any = caught.value
    assert not isinstance(failure, errors.OpenRouterDefaultError | errors.ResponseValidationError)
    assert failure.status_code == ERRORS[name].status == failure.data.error.code
    assert failure.data.error.metadata["error_type"] == ERRORS[name].error_type


@pytest.mark.parametrize("name", [name for name, shape in ERRORS.items() if shape.status in CHAT_DOCUMENTED])
async def test_an_error_of_the_chat_route_is_read_as_its_own_class(sdk: OpenRouter, name: str) -> None:
    with pytest.raises(errors.OpenRouterError) as caught:
        await chat(sdk, f"a fox [[fault:{name}]]")

    assert not isinstance(caught.value, errors.OpenRouterDefaultError | errors.ResponseValidationError)


async def chat(sdk: OpenRouter, prompt: str, modalities: tuple[Any, ...] = ("image", "text")) -> Any:
    message = components.ChatUserMessage(role="user", content=prompt)
    return await sdk.chat.send_async(model=MODEL, messages=[message], modalities=list(modalities))


async def test_a_chat_answer_is_read(sdk: OpenRouter) -> None:
    answer = await chat(sdk, "a fox")

    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    url = choice.message.images[0].image_url.url
    assert picture(url.removeprefix("data:image/png;base64,")).size == (1024, 1024)
    assert answer.usage.cost == pytest.approx(0.001)


@pytest.mark.parametrize("fault", ["200choice", "200finish", "filtered", "text"])
async def test_a_chat_answer_that_failed_is_read(sdk: OpenRouter, fault: str) -> None:
    answer = await chat(sdk, f"a fox [[fault:{fault}]]")

    assert not answer.choices[0].message.images


async def test_the_discovery_routes_are_read(sdk: OpenRouter) -> None:
    listed = await sdk.images.list_models_async()
    endpoints = await sdk.images.list_model_endpoints_async(author="google", slug="gemini-3.1-flash-image")
    general: Any = await sdk.models.list_async(output_modalities="image")

    assert "google/gemini-3.1-flash-image" in {model.id for model in listed.data}
    assert endpoints.endpoints[0].pricing[0].cost_usd == pytest.approx(0.039)
    assert {model.id for model in listed.data} == {model.id for model in general.result.data}


@pytest.mark.filterwarnings("ignore:warning. .. DEPRECATED:DeprecationWarning")  # the SDK's, of fields it reads itself
async def test_a_generation_the_key_and_the_credits_are_read(emulator: Running, sdk: OpenRouter) -> None:
    answer = await chat(sdk, "a fox")

    generation = await sdk.generations.get_generation_async(id=answer.id)
    key = await sdk.api_keys.get_current_key_metadata_async()
    credit = await sdk.credits.get_credits_async()

    assert generation.data.total_cost == pytest.approx(0.001)
    assert key.data.usage == credit.data.total_usage >= 0.001
