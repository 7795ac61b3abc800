"""OpenAI's stock client on all services and real servers: nothing but its address and its key is changed."""

import asyncio
import io
from base64 import b64decode

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image
from stack import Stack

pytestmark = pytest.mark.timeout(120)


def base_url(stack: Stack) -> str:
    return f"{stack.dev['api_url']}/openai/v1"


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture.size


async def test_the_stock_clients_get_images_links_and_streams(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=100)
    with OpenAI(base_url=base_url(stack), api_key=key) as client:
        made = await asyncio.to_thread(client.images.generate, model="gpt-image-1", prompt="a fox", n=2, size="64x128")
        assert made.data
        assert [size_of(b64decode(image.b64_json or "")) for image in made.data] == [(64, 128)] * 2

    async with AsyncOpenAI(base_url=base_url(stack), api_key=key) as client, httpx.AsyncClient() as anyone:
        linked = await client.images.generate(prompt="a fox", size="64x64", response_format="url")
        assert linked.data
        original = (await anyone.get(str(linked.data[0].url))).raise_for_status()
        assert size_of(original.content) == (64, 64)

        stream = await client.images.generate(prompt="a fox", size="64x64", n=2, stream=True)
        events = [event async for event in stream]
        assert [size_of(b64decode(event.b64_json)) for event in events] == [(64, 64)] * 2

    async with stack.client(key) as pixorly:
        assert await pixorly.credits() == 100 - 5 * 5


async def test_time_outs_that_force_repeats_are_charged_once(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=50)
    # Four large images take the sandbox longer than the first tries wait.
    async with AsyncOpenAI(base_url=base_url(stack), api_key=key, timeout=0.3, max_retries=100) as client:
        answer = await client.images.with_raw_response.generate(
            prompt="a herd", n=4, size="2048x2048", response_format="url"
        )
        made = answer.parse()

    assert answer.retries_taken > 0
    assert len(made.data or ()) == 4
    async with stack.client(key) as pixorly:
        assert await pixorly.credits() == 30
        assert len((await pixorly.ok("GET", "/v1/generations"))["data"]) == 1
    assert await stack.audit() == []


async def test_refusals_raise_what_openais_do(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=3)
    async with AsyncOpenAI(base_url=base_url(stack), api_key=key) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.images.generate(prompt="a fox", size="64x64")
        assert caught.value.code == "insufficient_quota"
        with pytest.raises(openai.BadRequestError):
            await client.images.generate(prompt="a fox", size="64x1")
    async with stack.client(key) as pixorly:
        assert await pixorly.credits() == 3
