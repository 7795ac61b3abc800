"""What OpenAI's clients call, with the stock client against a server on a port of its own."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import api_world as api
import openai
import pytest
import structlog
import uvicorn
from api_world import World, open_world
from openai import AsyncOpenAI
from proxies import impatient_proxy

from pixorly.events import JobCreated

pytestmark = pytest.mark.timeout(60)
_PNG = b"\x89PNG of the tests"
Step = Callable[[World, JobCreated], Awaitable[None]]


@asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    """Serve the api on a free port and yield its address."""
    server = uvicorn.Server(uvicorn.Config(world.app, port=0, lifespan="off", log_config=None))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url, stream_keepalive_s=0.3) as opened:
        yield opened


@asynccontextmanager
async def client_of(world: World, url: str, **more: Any) -> AsyncIterator[AsyncOpenAI]:
    """The stock client; nothing but its address and its key is changed."""
    async with AsyncOpenAI(base_url=f"{url}/openai/v1", api_key=await world.key(), **more) as client:
        yield client


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncOpenAI]:
    async with served(world) as url, client_of(world, url) as opened:
        yield opened


async def first(world: World) -> JobCreated:
    """Wait for the next job."""
    while not (found := [event for event in world.bus.take() if isinstance(event, JobCreated)]):
        await asyncio.sleep(0.01)
    return found[0]


async def draw(world: World, job: JobCreated) -> None:
    """Have every image of a job made."""
    for index in range(job.n):
        event = api.uploaded(job, index)
        await world.blobs.put(event.keys.original, _PNG, content_type="image/png")
        await world.jobs.follow(event)


def failing(code: str) -> Step:
    """Return what has a job fail."""

    async def fail(world: World, job: JobCreated) -> None:
        await world.jobs.follow(api.failed(job, code=code))

    return fail


@asynccontextmanager
async def meanwhile(world: World, step: Step = draw, after_s: float = 0) -> AsyncIterator[None]:
    """Have something done to the next job."""

    async def act() -> None:
        job = await first(world)
        await asyncio.sleep(after_s)
        await step(world, job)

    acting = asyncio.create_task(act())
    try:
        yield
        await acting
    finally:
        acting.cancel()
        with suppress(asyncio.CancelledError):
            await acting


def spent(world: World) -> list[int]:
    """Return what was charged, job by job."""
    return [charge["amount_credits"] for charge in world.ledger.charges.values()]


async def test_the_stock_client_gets_its_images(world: World, client: AsyncOpenAI) -> None:
    async with meanwhile(world):
        made = await client.images.generate(
            model="gpt-image-1", prompt="a lake", n=2, size="512x256", quality="high", user="u-1"
        )

    assert [base64.b64decode(image.b64_json or "") for image in made.data or ()] == [_PNG, _PNG]
    assert (made.size, made.quality, made.output_format, made.background) == ("512x256", "high", "png", "auto")
    assert made.usage is not None
    assert made.usage.total_tokens == 0
    assert getattr(made.usage, "credits") == 16  # noqa: B009 - a member of ours beside OpenAI's
    assert spent(world) == [16]
    job = await world.get(str(getattr(made, "job_id")))  # noqa: B009 - as above
    assert (job["model"], job["metadata"]) == ("sandbox/aurora", {"user": "u-1"})


@pytest.mark.parametrize(
    ("asked", "linked"),
    [({"model": "dall-e-3"}, True), ({"model": "dall-e-3", "response_format": "b64_json"}, False), ({}, False),
     ({"response_format": "url", "size": "auto", "quality": "auto"}, True)],
)  # fmt: skip
async def test_images_come_as_links_or_as_bytes(
    world: World, client: AsyncOpenAI, asked: dict[str, Any], *, linked: bool
) -> None:
    async with meanwhile(world):
        made = await client.images.generate(prompt="a lake", **asked)

    assert made.data
    (image,) = made.data
    assert (image.url is not None, image.b64_json is None) == (linked, linked)
    assert made.size == "1024x1024"


async def test_what_is_too_large_for_an_answer_comes_as_a_link_and_the_log_says_so(database_url: str) -> None:
    async with (
        open_world(database_url, openai_answer_max_bytes=15) as world,
        served(world) as url,
        client_of(world, url) as client,
        meanwhile(world),
    ):
        with structlog.testing.capture_logs() as logs:
            made = await client.images.generate(prompt="a lake", n=2)

    (told,) = [line for line in logs if "did not fit" in line["event"]]
    assert (told["log_level"], told["image_bytes"], told["answer_max_bytes"]) == ("warning", 10, 15)

    assert [(image.b64_json is None, image.url is None) for image in made.data or ()] == [(False, True), (True, False)]


@pytest.mark.parametrize(("keepalive_s", "expected"), [(0.2, ["data"] * 5), (15, ["cut"])])
async def test_a_proxy_that_cuts_idle_connections_costs_nothing(
    database_url: str, keepalive_s: float, expected: list[str]
) -> None:
    """The job ends only when enough was seen: a long answer is kept alive, and one that is cut is asked for again."""
    async with (
        open_world(database_url, stream_keepalive_s=keepalive_s) as world,
        served(world) as url,
        impatient_proxy(url, 1) as (front, seen),
        client_of(world, front, max_retries=20) as client,
    ):

        async def draw_when_seen(world: World, job: JobCreated) -> None:
            while Counter(expected) - Counter(seen):
                await asyncio.sleep(0.01)
            await draw(world, job)

        async with meanwhile(world, draw_when_seen):
            made = await client.images.generate(prompt="a lake")

    assert made.data
    assert spent(world) == [5]


async def test_time_outs_and_repeats_are_charged_once(database_url: str) -> None:
    async with (
        open_world(database_url, stream_keepalive_s=15) as world,
        served(world) as url,
        client_of(world, url, timeout=0.7, max_retries=20) as client,
        meanwhile(world, after_s=1.5),
    ):
        answer = await client.images.with_raw_response.generate(prompt="a lake")

    assert answer.retries_taken > 0
    assert answer.headers["idempotent-replayed"] == "true"
    assert spent(world) == [5]


@pytest.mark.parametrize("after_s", [0, 1])
@pytest.mark.parametrize(
    ("code", "error", "their_code"),
    [("content_rejected", openai.BadRequestError, "moderation_blocked"),
     ("provider_unavailable", openai.InternalServerError, "provider_unavailable"),
     ("deadline_exceeded", openai.InternalServerError, "deadline_exceeded")],
)  # fmt: skip
async def test_a_job_that_fails_is_an_error_also_where_the_answer_was_begun(
    world: World,
    client: AsyncOpenAI,
    *,
    code: str,
    error: type[openai.APIStatusError],
    their_code: str,
    after_s: float,
) -> None:
    async with meanwhile(world, failing(code), after_s):
        with pytest.raises(error) as caught:
            await client.images.generate(prompt="a lake")

    assert caught.value.code == their_code
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.headers["x-request-id"] == caught.value.request_id
    assert len(spent(world)) == 1


async def test_a_stream_tells_of_each_image_as_it_is_stored(world: World, client: AsyncOpenAI) -> None:
    async with meanwhile(world, after_s=0.5):
        stream = await client.images.generate(prompt="a lake", n=2, stream=True)
        events = [event async for event in stream]

    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert [base64.b64decode(event.b64_json) for event in events] == [_PNG, _PNG]
    assert {event.size for event in events} == {"1024x1024"}


@pytest.mark.parametrize(
    ("model", "kind", "code"),
    [("gpt-image-1", "image_generation_user_error", "moderation_blocked"),
     ("sandbox/aurora", "image_generation_user_error", "moderation_blocked"),
     ("dall-e-2", "invalid_request_error", "content_policy_violation"),
     ("dall-e-3", "invalid_request_error", "content_policy_violation")],
)  # fmt: skip
async def test_a_rejected_prompt_is_called_as_at_openai_by_the_family_of_the_model(
    world: World, client: AsyncOpenAI, model: str, kind: str, code: str
) -> None:
    async with meanwhile(world, failing("content_rejected")):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.generate(model=model, prompt="a lake")
    async with meanwhile(world, failing("content_rejected")):
        stream = await client.images.generate(model=model, prompt="a sea", stream=True)
        with pytest.raises(openai.APIError) as streamed:
            _ = [event async for event in stream]

    assert (caught.value.type, caught.value.code) == (kind, code)
    assert (streamed.value.type, streamed.value.code) == (kind, code)


async def test_the_job_can_be_had_at_once(world: World, client: AsyncOpenAI) -> None:
    made = await client.images.generate(prompt="a lake", extra_headers={"Prefer": "respond-async"})

    assert made.data is None
    job = await world.get(UUID(str(getattr(made, "id"))))  # noqa: B009 - a member of ours beside OpenAI's
    assert job["status"] == "pending"


@pytest.mark.parametrize(
    ("asked", "error", "code", "param"),
    [({"size": "big"}, openai.BadRequestError, "invalid_value", "size"),
     ({"size": "8x8"}, openai.BadRequestError, "invalid_value", "size"),
     ({"size": "99999x99999"}, openai.BadRequestError, "invalid_value", "size"),
     ({"quality": "max"}, openai.BadRequestError, "invalid_value", "quality"),
     ({"n": 11}, openai.BadRequestError, "invalid_value", "n"),
     ({"prompt": ""}, openai.BadRequestError, "invalid_value", "prompt"),
     ({"extra_body": {"frame_count": 3}}, openai.BadRequestError, "unknown_parameter", "frame_count"),
     ({"model": "nobody/nothing"}, openai.NotFoundError, "model_not_found", "model")],
)  # fmt: skip
async def test_refusals_are_openais_own(
    world: World,
    client: AsyncOpenAI,
    *,
    asked: dict[str, Any],
    error: type[openai.APIStatusError],
    code: str,
    param: str,
) -> None:
    with pytest.raises(error) as caught:
        await client.images.generate(**{"prompt": "a lake", **asked})

    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert set(caught.value.response.json()["error"]) == {"message", "type", "param", "code"}
    assert not spent(world)


async def test_without_credits_or_a_key_there_is_nothing(world: World, client: AsyncOpenAI) -> None:
    world.ledger.balances["demo"] = 4
    with pytest.raises(openai.RateLimitError) as caught:
        await client.images.generate(prompt="a lake")
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
    assert world.ledger.calls == ["charge"]

    with pytest.raises(openai.AuthenticationError) as refused:
        await client.with_options(api_key="px_live_none").images.generate(prompt="a lake")
    assert refused.value.code == "invalid_api_key"


async def test_the_first_call_with_a_key_is_waited_for(world: World, client: AsyncOpenAI) -> None:
    async def slowly() -> None:
        await asyncio.sleep(1)

    world.ledger.meanwhile_before = slowly
    async with meanwhile(world):
        both = await asyncio.gather(
            *(client.images.generate(prompt="a lake", extra_headers={"Idempotency-Key": "k"}) for _ in range(2))
        )

    assert len({getattr(made, "job_id") for made in both}) == 1  # noqa: B009 - a member of ours beside OpenAI's
    assert spent(world) == [5]


async def test_a_process_that_stops_sends_its_clients_elsewhere(world: World) -> None:
    world.app.state.parts.watcher.stop()
    answer = await world.call("POST", "/openai/v1/images/generations", json={"prompt": "a lake"})

    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "true")
    streamed = await world.call("POST", "/openai/v1/images/generations", json={"prompt": "a lake", "stream": True})
    told = json.loads(streamed.text.rpartition("data: ")[2])
    assert told["error"]["code"] == "service_unavailable"


async def test_models_are_listed_and_read(world: World, client: AsyncOpenAI) -> None:
    models = [model.id async for model in client.models.list()]

    assert "sandbox/aurora" in models
    assert (await client.models.retrieve("sandbox/aurora")).owned_by == "sandbox"
    assert (await client.models.retrieve("gpt-image-1")).id == "gpt-image-1"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody/nothing")


async def test_names_of_openais_mean_its_models_where_they_are_on_offer(database_url: str) -> None:
    async with open_world(database_url, openai_default_model="sandbox/mosaic") as world:
        asked = {"gpt-image-2": "openai/gpt-image-2", "dall-e-3": "sandbox/mosaic", None: "sandbox/mosaic"}
        for name, meant in asked.items():
            answer = await world.call(
                "POST",
                "/openai/v1/images/generations",
                json={"prompt": "a lake", "model": name},
                headers={"Prefer": "respond-async"},
            )
            assert (answer.status_code, answer.json()["model"]) == (202, meant), answer.text
