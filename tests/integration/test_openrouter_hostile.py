"""OpenRouter as others saw it live, and worse: a server that answers with whatever bytes it likes."""

import asyncio
import base64
import gzip
import json
import time
import tracemalloc
from typing import Any

import pytest
from provider_calls import a_model, a_request
from raw_server import Answer, dripping, endless, http, raw_server

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
from pixorly_generator.providers import ProviderAnswer
from pixorly_generator.providers.breaker import AccountAway
from pixorly_generator.providers.http import HttpOptions
from pixorly_generator.providers.openrouter import OpenRouter

JPEG = b"\xff\xd8\xff\xe0" + bytes(1000)


async def asked(
    *answers: Answer, timeout_s: float = 10, route: str = "images", n: int = 1, **options: Any
) -> ProviderAnswer:
    async with raw_server(*answers) as server:
        adapter = OpenRouter("k", base_url=server.url, http=HttpOptions(http2=False, **options))
        try:
            return await adapter.generate(a_request(n=n, timeout_s=timeout_s, model=a_model(route=route)))
        finally:
            await adapter.close()


def a_body(*data: Any, **more: Any) -> bytes:
    return json.dumps({"created": 1, "data": list(data), **more}).encode()


def an_image(image: bytes = JPEG, **more: Any) -> dict[str, Any]:
    return {"b64_json": base64.b64encode(image).decode(), **more}


async def test_a_live_answer_with_nothing_but_the_image_is_read() -> None:
    image = JPEG + bytes(1_200_000)  # 1.6 MB of base64, no media type, no id: as a live Gemini call was seen

    answer = await asked(http(a_body(an_image(image), usage={"prompt_tokens": 5, "cost": 0.0387})))

    assert answer.images[0].data == image
    assert answer.images[0].content_type is None
    assert str(answer.cost_usd) == "0.0387"
    assert answer.generation_id is None


async def test_only_so_many_large_answers_are_read_at_once_and_small_ones_pass_them() -> None:
    large = http(a_body(an_image(JPEG + bytes(4_000_000))))
    rest, seen = asyncio.Event(), asyncio.Event()

    async def halting(writer: asyncio.StreamWriter) -> None:
        writer.write(large[:-1000])
        await writer.drain()
        seen.set()
        await rest.wait()
        writer.write(large[-1000:])

    async with raw_server(halting, large, http(a_body(an_image()))) as server:
        adapter = OpenRouter("k", base_url=server.url, http=HttpOptions(http2=False, large_at_once=1))
        first = asyncio.create_task(adapter.generate(a_request(model=a_model())))
        await seen.wait()
        await asyncio.sleep(0.2)
        second = asyncio.create_task(adapter.generate(a_request(model=a_model())))
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
        small = await adapter.generate(a_request(model=a_model()))
        waited = not second.done()
        rest.set()
        done = await asyncio.gather(first, second)
        await adapter.close()

    assert waited
    assert [len(answer.images[0].data) for answer in (small, *done)] == [len(JPEG), *[len(JPEG) + 4_000_000] * 2]


@pytest.mark.parametrize(
    "entry",
    [None, 7, "text", [], {}, {"b64_json": None}, {"b64_json": ""}, {"b64_json": 5}, {"b64_json": ["x"]}, {"url": {}}],
)
async def test_odd_entries_among_the_images_are_passed_over(entry: Any) -> None:
    answer = await asked(http(a_body(entry, an_image())), n=2)

    assert [image.data for image in answer.images] == [JPEG]


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{}",
        b'{"data": null}',
        b'{"data": {}}',
        b'{"data": "text"}',
        b'{"data": [[]]}',
        b'{"choices": [{"message": {"content": "no"}}]}',
        b"\xff\xfe\x00",
        b"data: {}\n\n",
    ],
)
@pytest.mark.parametrize("route", ["images", "chat"])
async def test_a_body_of_another_shape_is_no_image(body: bytes, route: str) -> None:
    with pytest.raises(NoImage):
        await asked(http(body), route=route)


@pytest.mark.parametrize(
    "body",
    [
        {"choices": None},
        {"choices": [None]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"images": "x"}}]},
        {"choices": [{"message": {"images": [None, {"image_url": "x"}, {"image_url": {"url": 5}}]}}]},
        {"choices": [{"message": {"images": {"a": 1}}}]},
    ],
)
async def test_a_chat_body_of_another_shape_is_no_image(body: Any) -> None:
    with pytest.raises(NoImage):
        await asked(http(json.dumps(body).encode()), route="chat")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("overloaded", ProviderUnavailable),
        ({}, NoImage),
        ({"message": "no code"}, ProviderUnavailable),
        ({"code": None}, ProviderUnavailable),
        ({"code": "429"}, ProviderRateLimited),
        ({"code": 429.0}, ProviderUnavailable),
        ({"code": "9" * 400}, ProviderUnavailable),
        ({"code": {"a": 1}, "metadata": "text"}, ProviderUnavailable),
        ({"code": "rate_limited", "metadata": {"error_type": "rate_limit_exceeded"}}, ProviderRateLimited),
        ({"metadata": {"error_type": "content_policy_violation"}}, ContentRejected),
        ({"metadata": {"error_type": "something new"}}, ProviderRefused),
        ({"code": 404, "availability": {"retryable": True, "retry_after": "soon"}}, ProviderUnavailable),
        ({"code": 503, "availability": {"retryable": False}}, ModelUnavailable),
        ({"code": 403, "metadata": {"reasons": "all", "flagged_input": 5}}, ContentRejected),
        ({"code": 403, "message": "Key limit exceeded (total limit)."}, AccountAway),
        ({"code": 403, "metadata": {"resets_at": "soon", "limit_usd": 1}}, AccountAway),
        ({"code": 402, "metadata": {"limit_source": "openrouter_in_flight_budget"}}, ProviderRateLimited),
    ],
)
async def test_an_error_of_any_shape_in_a_200_is_read(error: Any, expected: type[PixorlyError]) -> None:
    with pytest.raises(PixorlyError) as caught:
        await asked(http(json.dumps({"error": error}).encode()))

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("302 Found", ProviderUnavailable),
        ("401 Unauthorized", AccountAway),
        ("404 Not Found", ModelUnavailable),
        ("418 Teapot", ProviderRefused),
        ("502 Bad Gateway", ProviderUnavailable),
        ("522 Cloudflare", ProviderUnavailable),
        ("599 Odd", ProviderUnavailable),
    ],
)
async def test_an_error_page_is_read_by_its_status(status: str, expected: type[PixorlyError]) -> None:
    with pytest.raises(PixorlyError) as caught:
        await asked(http(b"<html>error</html>", status=status, content_type="text/html"))

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "free",
        {"cost": "free"},
        {"cost": -1},
        {"cost": True},
        {"cost": None},
        {"prompt_tokens": 10**30, "completion_tokens_details": "all"},
    ],
)
async def test_odd_usage_is_left_out(usage: Any) -> None:
    answer = await asked(http(a_body(an_image(), usage=usage)))

    assert answer.cost_usd is None
    assert answer.usage == {}


async def test_a_price_beyond_belief_is_left_out() -> None:
    body = a_body(an_image(), usage="HERE").replace(b'"HERE"', b'{"cost": 1e999999999}')

    assert (await asked(http(body))).cost_usd is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", ProviderUnavailable),
        (b"garbage\r\n\r\n", ProviderUnavailable),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}", ProviderUnavailable),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}", ProviderUnavailable),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n", ProviderUnavailable),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 2_000_000 + b"\r\n\r\n", ProviderUnavailable),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n", InvalidImage),
        (http(gzip.compress(b" " * 50_000_000), extra="content-encoding: gzip\r\n"), InvalidImage),
        (http(b"x" * 1000, extra="content-encoding: br\r\n"), InvalidImage),
        (http(b"{}", extra="content-encoding: identity, gzip\r\n"), InvalidImage),
        (endless, InvalidImage),
    ],
)
async def test_an_answer_out_of_bounds_is_an_error_and_memory_stays_bounded(
    answer: Answer, expected: type[PixorlyError]
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(expected):
            await asked(answer, max_body_bytes=4_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20_000_000


async def test_a_slow_drip_is_cut_off_in_time() -> None:
    begin = time.perf_counter()

    with pytest.raises(ProviderTimeout):
        await asked(dripping, timeout_s=0.5)

    assert time.perf_counter() - begin < 8


async def test_objects_without_end_are_not_built() -> None:
    with pytest.raises(NoImage):
        await asked(http(b'{"data": [' + b"{}," * 5_000_000 + b"{}]}"))


async def test_large_answers_do_not_stall_the_others() -> None:
    image = JPEG + bytes(12_000_000)
    stalls: list[float] = []

    async def watch() -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            stalls.append(time.perf_counter() - begin)

    watching = asyncio.create_task(watch())
    answer = await asked(http(a_body(an_image(image))))
    watching.cancel()

    assert len(answer.images[0].data) == len(image)
    assert sorted(stalls)[len(stalls) * 9 // 10] < 0.25


async def test_a_redirect_is_not_followed() -> None:
    async with raw_server(http(a_body(an_image()))) as elsewhere:
        moved = http(b"", status="307 Temporary Redirect", extra=f"location: {elsewhere.url}/\r\n")
        with pytest.raises(ProviderUnavailable):
            await asked(moved)

        assert elsewhere.connections == 0


async def test_a_failed_call_is_not_made_again_by_the_client() -> None:
    async with raw_server(http(b"{}", status="503 Busy")) as server:
        adapter = OpenRouter("k", base_url=server.url, http=HttpOptions(http2=False))
        with pytest.raises(ProviderUnavailable):
            await adapter.generate(a_request())
        await adapter.close()

        assert len(server.requests) == 1


async def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert (await asked(http(a_body(an_image())))).images


async def test_what_goes_over_the_wire_asks_for_nothing_packed_and_carries_the_key() -> None:
    async with raw_server(http(a_body(an_image()))) as server:
        adapter = OpenRouter("sk-or-v1-secret", base_url=server.url, http=HttpOptions(http2=False))
        await adapter.generate(a_request())
        await adapter.close()

        head = server.requests[0].partition(b"\r\n\r\n")[0].lower()

    assert head.startswith(b"post /api/v1/images http/1.1")
    assert b"\r\naccept-encoding: identity" in head
    assert b"\r\nauthorization: bearer sk-or-v1-secret" in head
