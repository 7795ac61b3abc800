"""Dead letters: what is said of them, which are meant, and what becomes of each; no servers."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from bus import MemoryBus
from graveyard import DIED_AT, MemoryGraveyard
from prometheus_client import REGISTRY
from samples import SAMPLES

from pixorly.broker import ATTEMPT_HEADER
from pixorly.errors import InvalidRequest, OutageError
from pixorly.events import EVENTS, Event
from pixorly.ids import new_id
from pixorly.topology import QUEUES, RETRY_EXCHANGE
from pixorly_api.dead import DeadLetters, Selection, letter_of, useless, watch
from pixorly_api.errors import NotFound
from pixorly_api.graveyard import Found

CREATED: Event = SAMPLES["job.created"]
GENERATE, STORE = "generator.generate_image", "uploader.store_image"
ALL = Selection()


class Rows:
    """A database that knows how jobs stand."""

    def __init__(self, **statuses: str) -> None:
        self.statuses = statuses

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Rows"]:
        yield self

    async def fetch(self, _: str, job_ids: Sequence[UUID]) -> list[dict[str, Any]]:
        return [{"job_id": one, "status": self.statuses[str(one)]} for one in job_ids if str(one) in self.statuses]


@pytest.fixture
def yard() -> MemoryGraveyard:
    return MemoryGraveyard()


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


def letters(yard: MemoryGraveyard, bus: MemoryBus, status: str | None = "pending", **more: Any) -> DeadLetters:
    rows = Rows(**({str(CREATED.job_id): status} if status else {}))
    return DeadLetters(yard, rows, bus, **more)  # type: ignore[arg-type]


def found(**more: Any) -> Found:
    given = {"queue": GENERATE, "tag": 1, "left": 0, "message_id": "m-1", "message_type": "job.created"}
    rest: dict[str, Any] = {"correlation_id": None, "timestamp": DIED_AT, "headers": {}, "body": b"{}"}
    return Found(**{**given, **rest, **more})


# What is said of a message -----------------------------------------------------------------------------------------


def test_a_letter_names_its_job_and_its_user_but_not_the_prompt() -> None:
    letter = letter_of(found(body=CREATED.to_json(), headers={"pixorly-reason": "KeyError", ATTEMPT_HEADER: 3}))

    assert (letter.job_id, letter.user_id) == (CREATED.job_id, CREATED.user_id)
    assert (letter.reason, letter.attempt, letter.died_at) == ("KeyError", 3, DIED_AT)
    assert CREATED.prompt not in repr(letter)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff\xfe",
        b"[1, 2]",
        b'"job_id"',
        b"{" * 100_000,
        b'{"job_id": {}}',
        b'{"job_id": [], "user_id": 7}',
        b'{"job_id": "\\ud800"}',
        b'{"user_id": null}',
        b"x" * 5_000_000,
    ],
)
def test_of_garbage_only_what_is_known_is_said(body: bytes) -> None:
    letter = letter_of(found(body=body, headers={"pixorly-attempt": "many", "x-death": "yes"}))

    assert (letter.job_id, letter.user_id, letter.attempt, letter.reason) == (None, None, 1, "unknown")
    assert letter.size_bytes == len(body)


def test_a_body_that_names_no_job_is_told_by_its_correlation() -> None:
    job_id = new_id()

    assert letter_of(found(body=b"\xff", correlation_id=str(job_id))).job_id == job_id
    assert letter_of(found(body=b'{"job_id": "x"}', correlation_id=str(job_id))).job_id is None


def test_what_rabbitmq_put_aside_itself_says_why_and_when() -> None:
    death = {"reason": "delivery_limit", "time": DIED_AT, "count": 1}

    letter = letter_of(found(timestamp=None, headers={"x-death": [death, {"reason": "expired"}]}))

    assert (letter.reason, letter.died_at) == ("delivery_limit", DIED_AT)


@pytest.mark.parametrize("message_id", ["", "a b", "../x", "\x00", "x" * 101, "é", "."])
def test_an_id_that_fits_no_address_is_made_of_the_content(message_id: str) -> None:
    first, again = letter_of(found(message_id=message_id)), letter_of(found(message_id=message_id))
    other = letter_of(found(message_id=message_id, body=b"[]"))

    assert first.id.startswith("sha256-")
    assert first.id == again.id != other.id


# Which are meant ---------------------------------------------------------------------------------------------------


async def test_a_look_counts_by_queue_and_leaves_all_where_it_is(yard: MemoryGraveyard, bus: MemoryBus) -> None:
    yard.bury_event(GENERATE, CREATED)
    yard.bury(STORE, b"\xff", reason="unreadable")
    before = {queue: list(lies) for queue, lies in yard.lies.items()}

    looked = await letters(yard, bus).look(ALL, 10)

    assert {name: count for name, count in looked.waiting.items() if count} == {GENERATE: 1, STORE: 1}
    assert set(looked.waiting) == {queue.name for queue in QUEUES}
    assert [letter.queue for letter in looked.letters] == [GENERATE, STORE]
    assert all(letter.body == b"" for letter in looked.letters)
    assert {queue: lies for queue, lies in yard.lies.items() if lies} == before


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(queue=GENERATE), ["a", "b"]),
        (Selection(queue=f"{GENERATE}.dead"), ["a", "b"]),
        (Selection(message_ids=frozenset({"b", "z"})), ["b"]),
        (Selection(reason="KEYERR"), ["b", "c"]),
        (Selection(reason="KeyError", queue=STORE), ["c"]),
        (Selection(job_id=CREATED.job_id), ["c"]),
        (Selection(job_id=CREATED.job_id, reason="Zero"), []),
        (ALL, ["a", "b", "c"]),
    ],
)
async def test_everything_that_is_said_must_fit(
    yard: MemoryGraveyard, bus: MemoryBus, selection: Selection, expected: list[str]
) -> None:
    yard.bury(GENERATE, b"", message_id="a")
    yard.bury(GENERATE, b"", message_id="b", reason="KeyError")
    yard.bury(STORE, CREATED.to_json(), message_id="c", reason="KeyError")

    looked = await letters(yard, bus).look(selection, 10)

    assert [letter.id for letter in looked.letters] == expected


async def test_a_queue_that_is_not_ours_is_refused(yard: MemoryGraveyard, bus: MemoryBus) -> None:
    with pytest.raises(InvalidRequest):
        await letters(yard, bus).look(Selection(queue="generator"), 10)


async def test_a_limit_ends_the_look_and_says_so(yard: MemoryGraveyard, bus: MemoryBus) -> None:
    for number in range(5):
        yard.bury(GENERATE, b"", message_id=f"m{number}")

    looked = await letters(yard, bus).look(ALL, 2)

    assert [letter.id for letter in looked.letters] == ["m0", "m1"]
    assert (looked.waiting[GENERATE], looked.more, yard.taken) == (5, True, 3)
    assert not (await letters(yard, bus).look(ALL, 5)).more


async def test_time_ends_the_look_and_says_so(yard: MemoryGraveyard, bus: MemoryBus) -> None:
    yard.bury(GENERATE, b"", message_id="a")

    looked = await letters(yard, bus, pass_s=0).look(ALL, 10)

    assert (looked.letters, looked.more, looked.waiting[GENERATE]) == ([], True, 1)
    assert len(yard.lies[GENERATE]) == 1


async def test_one_is_shown_with_its_body_from_every_queue_that_it_died_in(
    yard: MemoryGraveyard, bus: MemoryBus
) -> None:
    for queue in (GENERATE, "api.settle_dead"):
        yard.bury(queue, b"x" * 2_000_000, message_id="m")

    shown = await letters(yard, bus).show("m", None)

    assert [(len(letter.body), letter.size_bytes) for letter in shown] == [(1_000_000, 2_000_000)] * 2
    with pytest.raises(NotFound):
        await letters(yard, bus).show("n", None)


# What becomes of them ----------------------------------------------------------------------------------------------


async def test_what_is_discarded_is_gone_and_the_rest_stays(yard: MemoryGraveyard, bus: MemoryBus) -> None:
    yard.bury(GENERATE, b"1", message_id="a")
    yard.bury(GENERATE, b"2", message_id="b")

    handled, more = await letters(yard, bus).discard(Selection(message_ids=frozenset({"a"})), 10)

    assert [(one.letter.id, one.fate, one.why) for one in handled] == [("a", "discarded", None)]
    assert not more
    assert [lies.message_id for lies in yard.lies[GENERATE]] == ["b"]
    assert bus.sent == []


async def test_a_replay_goes_to_the_queue_that_it_died_in_as_if_for_the_first_time(
    yard: MemoryGraveyard, bus: MemoryBus
) -> None:
    headers = {ATTEMPT_HEADER: 4, "x-delivery-count": 3, "x-death": [], "traceparent": "00-1-2-01", "pixorly-schema": 1}
    yard.bury_event(GENERATE, CREATED, headers=headers, correlation_id=str(CREATED.job_id))

    handled, _ = await letters(yard, bus).replay(ALL, 10)

    (sent,) = bus.sent
    assert [one.fate for one in handled] == ["replayed"]
    assert (sent.exchange, sent.routing_key, sent.body) == (RETRY_EXCHANGE, GENERATE, CREATED.to_json())
    assert (sent.message_id, sent.message_type) == (str(CREATED.event_id), "job.created")
    assert sent.correlation_id == str(CREATED.job_id)
    assert sent.headers == {ATTEMPT_HEADER: 1, "traceparent": "00-1-2-01", "pixorly-schema": 1}
    assert yard.lies[GENERATE] == []


@pytest.mark.parametrize(
    ("status", "why"), [("completed", "settled"), ("canceled", "settled"), (None, "unknown"), ("abandoned", "unknown")]
)
async def test_a_replay_of_what_is_no_use_is_a_discard(
    yard: MemoryGraveyard, bus: MemoryBus, status: str | None, why: str
) -> None:
    yard.bury_event(GENERATE, CREATED)

    ((handled,), _) = await letters(yard, bus, status).replay(ALL, 10)

    assert (handled.fate, handled.why) == ("discarded", why)
    assert (bus.sent, yard.lies[GENERATE]) == ([], [])


@pytest.mark.parametrize("kind", EVENTS)
def test_a_settled_job_still_needs_its_money_and_its_clearing_up(kind: str) -> None:
    letter = letter_of(found(message_type=kind))

    money = {"job.completed", "job.failed", "job.canceled"}
    clearing_up = {"image.uploaded", "image.deleted", "image.moving", "image.moved", "image.vacated"}
    needed = kind in money | clearing_up
    assert (useless(letter, "failed") is None) == needed
    assert useless(letter, "uploading") is None
    assert useless(letter, None) == "unknown"


async def test_what_could_not_be_sent_stays_dead(yard: MemoryGraveyard, bus: MemoryBus) -> None:
    yard.bury_event(GENERATE, CREATED)
    bus.away = True

    with pytest.raises(OutageError):
        await letters(yard, bus).replay(ALL, 10)

    assert len(yard.lies[GENERATE]) == 1


async def test_what_dies_again_at_once_is_left_for_the_next_pass(yard: MemoryGraveyard) -> None:
    class Deadly(MemoryBus):
        async def send(self, *args: Any, **more: Any) -> None:
            yard.bury_event(GENERATE, CREATED)

    yard.bury_event(GENERATE, CREATED)

    handled, more = await letters(yard, Deadly()).replay(ALL, 10)

    assert (len(handled), more, len(yard.lies[GENERATE])) == (1, False, 1)


async def test_two_operators_do_not_deal_with_the_same_letter(yard: MemoryGraveyard, bus: MemoryBus) -> None:
    for number in range(10):
        yard.bury(GENERATE, CREATED.to_json(), message_id=f"m{number}")
    dead = letters(yard, bus)

    (first, _), (second, _) = await asyncio.gather(dead.replay(ALL, 10), dead.discard(ALL, 10))

    assert sorted(one.letter.id for one in (*first, *second)) == [f"m{number}" for number in range(10)]


# The gauge ---------------------------------------------------------------------------------------------------------


async def test_the_gauge_says_what_waits_and_outlives_an_outage(yard: MemoryGraveyard) -> None:
    yard.away = True
    watching = asyncio.create_task(watch(yard, 0.001))
    await asyncio.sleep(0.01)
    yard.away = False
    yard.bury(STORE, b"")
    yard.bury(STORE, b"")
    async with asyncio.timeout(5):
        while REGISTRY.get_sample_value("pixorly_dead_letters_waiting", {"queue": STORE}) != 2:
            await asyncio.sleep(0.01)
    watching.cancel()

    assert not watching.cancelled()
    assert json.dumps(await yard.depths())
