"""The sandbox paints what was asked, and the same again when asked again."""

import io
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from pixorly import catalogue
from pixorly.errors import ProviderTimeout
from pixorly.events import ImageParams
from pixorly_generator.providers import ProviderRequest
from pixorly_generator.providers.sandbox import Sandbox

JOB = UUID("01990000-0000-7000-8000-000000000001")


def a_request(model: str = "sandbox/aurora", indexes: tuple[int, ...] = (0,), **params: Any) -> ProviderRequest:
    wanted: dict[str, Any] = {"width": 96, "height": 64, **params}
    return ProviderRequest(
        job_id=JOB,
        call_no=0,
        attempt=1,
        user_id="demo",
        model=catalogue.load().find(model),
        prompt="a fox in the snow",
        params=ImageParams(**wanted),
        indexes=indexes,
        timeout_s=30,
    )


async def painted(request: ProviderRequest) -> list[bytes]:
    sandbox = Sandbox(threads=1)
    try:
        return [image.data for image in (await sandbox.generate(request)).images]
    finally:
        await sandbox.close()


@pytest.mark.parametrize("model", ["sandbox/aurora", "sandbox/mosaic"])
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 130), (300, 64)])
async def test_an_image_has_the_size_and_the_format_that_was_asked(
    model: str, image_format: str, width: int, height: int
) -> None:
    [data] = await painted(a_request(model, width=width, height=height, output_format=image_format))

    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == (width, height)
        assert image.format == image_format.upper()


@pytest.mark.parametrize("model", ["sandbox/aurora", "sandbox/mosaic"])
async def test_the_same_request_gives_the_same_bytes(model: str) -> None:
    assert await painted(a_request(model, seed=7)) == await painted(a_request(model, seed=7))


@pytest.mark.parametrize("model", ["sandbox/aurora", "sandbox/mosaic"])
async def test_another_seed_or_another_slot_gives_another_image(model: str) -> None:
    images = [
        *await painted(a_request(model, seed=1)),
        *await painted(a_request(model, seed=2)),
        *await painted(a_request(model, seed=1, indexes=(1,))),
    ]

    assert len(set(images)) == 3


async def test_a_slot_looks_the_same_whichever_call_serves_it() -> None:
    together = await painted(a_request(indexes=(0, 1), seed=3))
    alone = [*await painted(a_request(indexes=(0,), seed=3)), *await painted(a_request(indexes=(1,), seed=3))]

    assert together == alone


async def test_png_is_what_comes_where_nothing_is_said() -> None:
    [data] = await painted(a_request())

    assert data.startswith(b"\x89PNG")


async def test_a_transparent_background_has_clear_corners() -> None:
    [data] = await painted(a_request(background="transparent", width=128, height=128))

    with Image.open(io.BytesIO(data)) as image:
        assert image.convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]
        assert image.convert("RGBA").getpixel((64, 64))[3] == 255  # type: ignore[index]


async def test_any_text_can_be_painted() -> None:
    request = a_request()
    for prompt in ("\ud800", "🦊" * 4000, "\r\n", "x"):
        assert await painted(replace(request, prompt=prompt))


async def test_latency_is_kept() -> None:
    sandbox = Sandbox(latency_s=(0.05, 0.08), threads=1)
    begin = time.perf_counter()

    await sandbox.generate(a_request("sandbox/mosaic", width=64))

    assert time.perf_counter() - begin >= 0.05
    await sandbox.close()


async def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    sandbox = Sandbox(latency_s=5, threads=1)
    hurried = replace(a_request(), timeout_s=0.01)

    with pytest.raises(ProviderTimeout):
        await sandbox.generate(hurried)
    await sandbox.close()
