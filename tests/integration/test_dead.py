"""The dead queues of a real RabbitMQ: looked at, replayed and discarded with the rights that the api has."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel
from api_world import ADMIN_KEY, World, open_world
from prometheus_client import REGISTRY
from samples import SAMPLES
from waiting import until

from pixorly.broker import ATTEMPT_HEADER, Publisher
from pixorly.errors import OutageError
from pixorly.settings import AmqpSettings
from pixorly.topology import DEAD_DELIVERY_LIMIT, DEAD_EXCHANGE, QUEUES, declare, queue_named
from pixorly_api.dead import DeadLetters, Selection, watch
from pixorly_api.graveyard import AmqpGraveyard

CREATED = SAMPLES["job.created"]
GENERATE = queue_named("generator.generate_image")
STORE = queue_named("uploader.store_image")
ALL = Selection()


class Rows:
    """A database that knows one job."""

    def __init__(self, status: str) -> None:
        self.status = status

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Rows"]:
        yield self

    async def fetch(self, _: str, job_ids: list[UUID]) -> list[dict[str, Any]]:
        return [{"job_id": one, "status": self.status} for one in job_ids if one == CREATED.job_id]


class Bench:
    """A RabbitMQ with our topology, and the dead letters as the api sees them."""

    def __init__(self, channel: AbstractChannel, settings: AmqpSettings, publisher: Publisher) -> None:
        self.channel = channel
        self.yard = AmqpGraveyard(settings)
        self.publisher = publisher
        self.rows = Rows("pending")
        self.dead = DeadLetters(self.yard, self.rows, publisher)  # type: ignore[arg-type]

    async def bury(self, queue: str, body: bytes, message_id: str, **headers: Any) -> None:
        exchange = await self.channel.get_exchange(DEAD_EXCHANGE)
        message = aio_pika.Message(
            body, message_id=message_id, type="job.created", headers={"pixorly-reason": "KeyError", **headers}
        )
        await exchange.publish(message, queue, mandatory=True)

    async def ids(self, selection: Selection = ALL, limit: int = 1000) -> list[str]:
        return [letter.id for letter in (await self.dead.look(selection, limit)).letters]

    async def take(self, queue: str) -> aio_pika.abc.AbstractIncomingMessage | None:
        return await (await self.channel.get_queue(queue, ensure=False)).get(fail=False)


@pytest.fixture
async def bench(amqp_url: str) -> AsyncIterator[Bench]:
    settings = AmqpSettings.model_validate({"amqp_url": amqp_url})
    publisher = Publisher(settings, "api")
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(on_return_raises=True)
        await declare(channel, QUEUES)
        await publisher.start()
        yield Bench(channel, settings, publisher)
        await publisher.close()


async def test_sixty_looks_lose_nothing(bench: Bench) -> None:
    """A limit of 20, as RabbitMQ 4 has where none is said, would have dropped all of them."""
    expected = [f"m{number:03}" for number in range(50)]
    for message_id in expected:
        await bench.bury(GENERATE.name, b"x" * 1000, message_id)

    for _ in range(60):
        looked = await bench.dead.look(Selection(queue=GENERATE.name), 1000)
        assert sorted(letter.id for letter in looked.letters) == expected
        assert (looked.waiting, looked.more) == ({GENERATE.name: 50}, False)


@pytest.mark.parametrize(("limit", "survives"), [(3, False), (DEAD_DELIVERY_LIMIT, True)])
async def test_why_dead_queues_say_a_limit_of_their_own(bench: Bench, limit: int, *, survives: bool) -> None:
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": limit}
    queue = await bench.channel.declare_queue("api.try", durable=True, arguments=arguments)
    await bench.channel.default_exchange.publish(aio_pika.Message(b"x"), "api.try")

    for _ in range(6):
        if message := await queue.get(fail=False):
            await message.nack(requeue=True)

    assert (await queue.get(fail=False) is not None) == survives


async def test_a_limit_ends_the_look_and_the_rest_is_where_it_was(bench: Bench) -> None:
    for number in range(10):
        await bench.bury(GENERATE.name, b"", f"m{number}")

    looked = await bench.dead.look(ALL, 3)

    assert [letter.id for letter in looked.letters] == ["m0", "m1", "m2"]
    assert (looked.more, looked.waiting[GENERATE.name]) == (True, 10)
    assert len(await bench.ids(Selection(queue=GENERATE.name))) == 10


async def test_large_garbage_is_listed_shown_and_discarded(bench: Bench) -> None:
    await bench.bury(STORE.name, b"\xff" * 5_000_000, "large")

    (letter,) = (await bench.dead.look(Selection(queue=STORE.name), 10)).letters
    (shown,) = await bench.dead.show("large", STORE.name)
    handled, _ = await bench.dead.discard(Selection(queue=STORE.name), 10)

    assert (letter.size_bytes, letter.body, len(shown.body)) == (5_000_000, b"", 1_000_000)
    assert [one.letter.id for one in handled] == ["large"]
    assert await bench.ids(Selection(queue=STORE.name)) == []


async def test_what_rabbitmq_put_aside_itself_says_why_and_when(bench: Bench) -> None:
    await bench.channel.default_exchange.publish(aio_pika.Message(b"x", message_id="m"), STORE.name)
    message = await bench.take(STORE.name)
    assert message
    await message.reject(requeue=False)

    async def dead() -> bool:
        return await bench.ids(Selection(queue=STORE.name)) == ["m"]

    await until(dead)
    (letter,) = await bench.dead.show("m", STORE.name)
    assert letter.reason == "rejected"
    assert letter.died_at
    assert abs((letter.died_at - datetime.now(UTC)).total_seconds()) < 60


async def test_only_what_is_meant_is_discarded(bench: Bench) -> None:
    for number in range(10):
        await bench.bury(GENERATE.name, b"", f"m{number}")

    meant = Selection(queue=GENERATE.name, message_ids=frozenset({"m3", "m7"}))
    handled, _ = await bench.dead.discard(meant, 10)

    assert [one.letter.id for one in handled] == ["m3", "m7"]
    assert await bench.ids(Selection(queue=GENERATE.name)) == [f"m{n}" for n in range(10) if n not in {3, 7}]


async def test_a_replay_comes_to_the_work_queue_and_nowhere_else(bench: Bench) -> None:
    await bench.bury(GENERATE.name, CREATED.to_json(), "m", **{ATTEMPT_HEADER: 4, "x-stale": "yes", "traceparent": "t"})

    handled, _ = await bench.dead.replay(Selection(queue=GENERATE.name), 10)
    message = await bench.take(GENERATE.name)

    assert [one.fate for one in handled] == ["replayed"]
    assert message is not None
    assert (message.body, message.message_id, message.type) == (CREATED.to_json(), "m", "job.created")
    assert {name: message.headers.get(name) for name in (ATTEMPT_HEADER, "x-stale", "traceparent")} == {
        ATTEMPT_HEADER: 1,
        "x-stale": None,
        "traceparent": "t",
    }
    assert "pixorly-reason" not in message.headers
    assert await bench.take(STORE.name) is None
    assert await bench.ids(Selection(queue=GENERATE.name)) == []


async def test_a_replay_of_a_settled_job_is_a_discard(bench: Bench) -> None:
    bench.rows.status = "failed"
    await bench.bury(GENERATE.name, CREATED.to_json(), "m")

    ((handled,), _) = await bench.dead.replay(Selection(queue=GENERATE.name), 10)

    assert (handled.fate, handled.why) == ("discarded", "settled")
    assert await bench.take(GENERATE.name) is None
    assert await bench.ids(Selection(queue=GENERATE.name)) == []


async def test_what_cannot_be_sent_stays_dead(bench: Bench) -> None:
    """The work queue is not bound any more, so the replay comes back to whoever sent it."""
    await (await bench.channel.get_queue(GENERATE.name)).unbind("pixorly.retry", GENERATE.name)
    await bench.bury(GENERATE.name, CREATED.to_json(), "m")

    with pytest.raises(OutageError):
        await bench.dead.replay(Selection(queue=GENERATE.name), 10)

    assert await bench.ids(Selection(queue=GENERATE.name)) == ["m"]


async def test_an_operator_who_is_cut_off_takes_nothing_along(bench: Bench) -> None:
    for number in range(5):
        await bench.bury(GENERATE.name, b"", f"m{number}")

    async def cut() -> None:
        async with bench.yard.visit() as visit, visit.grave(GENERATE) as grave:
            assert await grave.take()
            assert await grave.take()
            reached.set()
            await asyncio.sleep(60)

    reached = asyncio.Event()
    operator = asyncio.create_task(cut())
    await reached.wait()
    operator.cancel()
    await asyncio.wait([operator])

    assert await bench.ids(Selection(queue=GENERATE.name)) == [f"m{number}" for number in range(5)]


async def test_two_operators_do_not_deal_with_the_same_letter(bench: Bench) -> None:
    for number in range(20):
        await bench.bury(GENERATE.name, CREATED.to_json(), f"m{number:02}")
    meant = Selection(queue=GENERATE.name)

    (first, _), (second, _) = await asyncio.gather(bench.dead.replay(meant, 100), bench.dead.discard(meant, 100))

    assert sorted(one.letter.id for one in (*first, *second)) == [f"m{number:02}" for number in range(20)]


async def test_who_waits_too_long_for_another_operator_is_told(bench: Bench) -> None:
    async with bench.yard.visit():
        with pytest.raises(OutageError, match="Somebody else") as refused:
            await bench.dead.look(ALL, 1)
    assert refused.value.retry_after_s

    assert await bench.ids() == []


async def test_queues_that_nobody_declared_yet_are_empty(amqp_url: str) -> None:
    yard = AmqpGraveyard(AmqpSettings.model_validate({"amqp_url": amqp_url}))
    dead = DeadLetters(yard, None, None)  # type: ignore[arg-type]

    assert (await dead.look(ALL, 10)).letters == []
    assert set((await yard.depths()).values()) == {0}


async def test_without_rabbitmq_it_is_an_outage() -> None:
    yard = AmqpGraveyard(AmqpSettings.model_validate({"amqp_url": "amqp://guest:guest@127.0.0.1:1/"}))

    with pytest.raises(OutageError):
        await yard.depths()
    with pytest.raises(OutageError):
        async with yard.visit():
            pass


async def test_the_gauge_counts_them(bench: Bench) -> None:
    for number in range(3):
        await bench.bury(STORE.name, b"", f"m{number}")
    watching = asyncio.create_task(watch(bench.yard, 0.2))

    def counted() -> bool:
        return REGISTRY.get_sample_value("pixorly_dead_letters_waiting", {"queue": STORE.name}) == 3

    await until(counted)
    watching.cancel()


# Over HTTP ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as world:
        yield world


async def ask(world: World, method: str, path: str = "", body: Any = None, key: str = ADMIN_KEY) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return await world.http.request(method, f"/admin/v1/dead{path}", headers=headers, json=body)


async def test_only_the_operator_sees_dead_letters(world: World) -> None:
    key = await world.key()

    for method, path in (("GET", ""), ("GET", "/m"), ("POST", "/replay"), ("POST", "/discard")):
        body = {"all": True} if method == "POST" else None
        assert (await ask(world, method, path, body, key)).status_code == 403
        assert (await ask(world, method, path, body, "")).status_code == 401


async def test_a_list_has_no_prompts_and_a_letter_that_is_shown_has(world: World) -> None:
    event = await world.created(prompt="a secret lake")
    world.graveyard.bury_event(GENERATE.name, event, reason="KeyError")

    listed = await ask(world, "GET")
    shown = await ask(world, "GET", f"/{event.event_id}?queue={GENERATE.name}.dead")

    (letter,) = listed.json()["data"]
    assert letter == {
        "id": str(event.event_id),
        "queue": GENERATE.name,
        "type": "job.created",
        "job_id": str(event.job_id),
        "user_id": "demo",
        "reason": "KeyError",
        "attempt": 1,
        "died_at": "2026-01-31T12:00:00Z",
        "size_bytes": len(event.to_json()),
    }
    assert {row["queue"]: row["waiting"] for row in listed.json()["queues"]}[GENERATE.name] == 1
    assert "a secret lake" not in listed.text
    (whole,) = shown.json()["data"]
    assert (whole["body"], whole["body_encoding"], whole["truncated"]) == (event.to_json().decode(), "utf-8", False)
    assert whole["headers"] == {"pixorly-attempt": "1", "pixorly-reason": "KeyError"}


async def test_bytes_are_shown_as_base64(world: World) -> None:
    world.graveyard.bury(STORE.name, b"\xff\x00", message_id="m")

    (whole,) = (await ask(world, "GET", "/m")).json()["data"]

    assert (whole["body"], whole["body_encoding"], whole["type"], whole["job_id"]) == ("/wA=", "base64", None, None)


async def test_a_replay_tells_of_each_what_became_of_it(world: World) -> None:
    is_open, ended = await world.created(), await world.created()
    await world.jobs.bury(ended)
    for event in (is_open, ended):
        world.graveyard.bury_event(GENERATE.name, event)
    world.graveyard.bury(GENERATE.name, b"\xff", message_id="garbage")

    answer = await ask(world, "POST", "/replay", {"all": True, "queue": GENERATE.name})

    assert [(one["id"], one["fate"], one["why"]) for one in answer.json()["data"]] == [
        (str(is_open.event_id), "replayed", None),
        (str(ended.event_id), "discarded", "settled"),
        ("garbage", "discarded", "unknown"),
    ]
    assert [sent.message_id for sent in world.sender.sent] == [str(is_open.event_id)]
    assert world.graveyard.lies[GENERATE.name] == []


async def test_a_discard_by_job_takes_that_job_only(world: World) -> None:
    first, second = await world.created(), await world.created()
    for event in (first, second):
        world.graveyard.bury_event(GENERATE.name, event)

    answer = await ask(world, "POST", "/discard", {"job_id": str(first.job_id)})

    assert [one["job_id"] for one in answer.json()["data"]] == [str(first.job_id)]
    assert [lies.message_id for lies in world.graveyard.lies[GENERATE.name]] == [str(second.event_id)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"queue": GENERATE.name},
        {"all": False},
        {"all": True, "reason": "x"},
        {"reason": ""},
        {"job_id": "x"},
        {"all": True, "queue": "no.such_queue"},
        {"all": True, "limit": 0},
        {"all": True, "more": 1},
        {"message_ids": "m"},
        {"message_ids": ["\x00"]},
    ],
)
async def test_a_selection_must_say_which(world: World, body: dict[str, Any]) -> None:
    world.graveyard.bury(GENERATE.name, b"", message_id="m")

    answer = await ask(world, "POST", "/discard", body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len(world.graveyard.lies[GENERATE.name]) == 1


async def test_what_is_not_there_is_not_found_and_an_outage_is_503(world: World) -> None:
    assert (await ask(world, "GET", "/nothing")).status_code == 404
    assert (await ask(world, "GET", "?queue=nothing")).status_code == 422
    world.graveyard.away = True
    answer = await ask(world, "GET")
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert answer.headers["retry-after"]
