"""Dead letters: what was put aside for a person, and what the person does with it."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

import structlog
from pydantic_core import from_json

from pixorly import metrics
from pixorly.broker import ATTEMPT_HEADER, Publisher
from pixorly.db import Database
from pixorly.delivery import REASON_HEADER
from pixorly.errors import InvalidRequest, OutageError
from pixorly.events import (
    ImageDeleted,
    ImageMoved,
    ImageMoving,
    ImageUploaded,
    ImageVacated,
    JobCanceled,
    JobCompleted,
    JobFailed,
)
from pixorly.topology import QUEUES, RETRY_EXCHANGE, WorkQueue
from pixorly_api import lifecycle, store
from pixorly_api.errors import NotFound
from pixorly_api.graveyard import Found, Graveyard

_log = structlog.get_logger()

WAITING = metrics.gauge("pixorly_dead_letters_waiting", "Messages that wait for a person.", "queue")
HANDLED = metrics.counter("pixorly_dead_letters_handled", "Messages that a person dealt with, by how.", "queue", "fate")

OUTLIVES_ITS_JOB: Final = frozenset(
    event.type
    for event in (
        JobCompleted,
        JobFailed,
        JobCanceled,
        ImageUploaded,
        ImageDeleted,
        ImageMoving,
        ImageMoved,
        ImageVacated,
    )
)
"""What a settled job still needs handled: its money and its clearing up. A repeat of these changes nothing."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_READ_MAX_BYTES: Final = 1_000_000
"""No event of ours is nearly as long; what is longer is not read for the job that it may name."""
_KEPT_MAX_BYTES: Final = 1_000_000
"""How much of a body is shown."""
_PASS_S: Final = 20.0
_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)
_TEXT_MAX: Final = 300
_FEW: Final = 20

Fate = Literal["replayed", "discarded"]
Why = Literal["settled", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message that was put aside.

    Attributes:
        id: The message's own id, or where that is missing or not fit for an address, one made of its content.
        queue: The work queue that it died in.
        job_id: The job that it names, if it names one.
        reason: What the worker, or RabbitMQ itself, had against it.
        attempt: On which attempt it died.
    """

    id: str
    queue: str
    type: str | None
    job_id: UUID | None
    user_id: str | None
    reason: str
    attempt: int
    died_at: datetime | None
    size_bytes: int
    correlation_id: str | None
    headers: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)

    def cut(self, most_bytes: int) -> "Letter":
        """Return the letter with no more than the beginning of its body, so that many can be kept."""
        return replace(self, body=self.body[:most_bytes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which letters are meant: those that everything said here fits.

    Attributes:
        queue: A work queue's name, or its dead queue's.
        reason: A part of the reason, in capitals or not.
    """

    queue: str | None = None
    message_ids: frozenset[str] | None = None
    job_id: UUID | None = None
    reason: str | None = None

    def queues(self) -> list[WorkQueue]:
        """Return the queues to look through.

        Raises:
            InvalidRequest: There is no queue of this name.
        """
        found = [queue for queue in QUEUES if self.queue in {None, queue.name, queue.dead}]
        if not found:
            raise InvalidRequest("There is no such queue.", param="queue")
        return found

    def takes(self, letter: Letter) -> bool:
        """Tell whether a letter is meant."""
        return (
            (self.message_ids is None or letter.id in self.message_ids)
            and (self.job_id is None or letter.job_id == self.job_id)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
        )


@dataclass(slots=True)
class Looked:
    """What a look found.

    Attributes:
        waiting: By queue, how many messages there were.
        more: Whether the look ended before the queues did.
    """

    waiting: dict[str, int] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)
    more: bool = False


@dataclass(frozen=True, slots=True)
class Handled:
    """What became of a letter, and where it was discarded instead of replayed, why."""

    letter: Letter
    fate: Fate
    why: Why | None = None


def letter_of(found: Found) -> Letter:
    """Return what can be said of a message without trusting it."""
    job_id, user_id = _named(found)
    death = _death(found.headers)
    attempt = found.headers.get(ATTEMPT_HEADER)
    return Letter(
        id=_id_of(found),
        queue=found.queue,
        type=found.message_type,
        job_id=job_id,
        user_id=user_id,
        # RabbitMQ's own word is the later one: a worker that puts a message aside leaves none of it.
        reason=str(death.get("reason") or found.headers.get(REASON_HEADER) or "unknown")[:_TEXT_MAX],
        attempt=attempt if isinstance(attempt, int) and attempt >= 1 else 1,
        died_at=death["time"] if isinstance(death.get("time"), datetime) else found.timestamp,
        size_bytes=len(found.body),
        correlation_id=found.correlation_id,
        headers=found.headers,
        body=found.body,
    )


def _id_of(found: Found) -> str:
    if _ID.fullmatch(found.message_id):
        return found.message_id
    said = f"{found.message_id}\0{found.message_type}\0".encode(errors="replace")
    return f"sha256-{hashlib.sha256(said + found.body).hexdigest()[:32]}"


def _death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the last death that RabbitMQ itself wrote down."""
    deaths = headers.get("x-death")
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}


def _named(found: Found) -> tuple[UUID | None, str | None]:
    """Return the job and the user that a message names, whether or not it can be handled."""
    said: Any = None
    if len(found.body) <= _READ_MAX_BYTES:
        try:
            said = from_json(found.body)
        except ValueError:
            said = None
    said = said if isinstance(said, dict) else {}
    user_id = said.get("user_id")
    job_id = _uuid(said["job_id"]) if "job_id" in said else _uuid(found.correlation_id)
    return job_id, user_id[:_TEXT_MAX] if isinstance(user_id, str) else None


def _uuid(said: object) -> UUID | None:
    try:
        return UUID(str(said))
    except ValueError:
        return None


def useless(letter: Letter, status: str | None) -> Why | None:
    """Return why it is no use to handle a letter of a job with this status again, or None."""
    if status in lifecycle.OPEN:
        return None
    if status in lifecycle.SETTLED:
        return None if letter.type in OUTLIVES_ITS_JOB else "settled"
    return "unknown"


class DeadLetters:
    """The dead letters of all queues.

    Args:
        graveyard: Where they are.
        database: Where their jobs are.
        publisher: Sends those that are replayed.
        pass_s: How long one pass through the queues may take.
    """

    def __init__(
        self, graveyard: Graveyard, database: Database, publisher: Publisher, *, pass_s: float = _PASS_S
    ) -> None:
        self._graveyard = graveyard
        self._database = database
        self._publisher = publisher
        self._pass_s = pass_s

    async def look(self, selection: Selection, limit: int, *, most_bytes: int = 0) -> Looked:
        """Return up to `limit` of the letters that are meant, oldest first; all stay where they are.

        Args:
            selection: Which are meant.
            limit: How many at most. RabbitMQ may give any of them, for it shuffles what is put back.
            most_bytes: How much of their bodies.

        Raises:
            InvalidRequest: There is no such queue.
            OutageError: RabbitMQ is away, or somebody else is at it.
        """
        letters: list[Letter] = []

        async def keep(letter: Letter) -> bool:
            letters.append(letter.cut(most_bytes))
            return False

        looked = await self._pass(selection, limit, keep)
        looked.letters = sorted(letters, key=lambda letter: letter.died_at or _LONG_AGO)
        return looked

    async def show(self, message_id: str, queue: str | None) -> list[Letter]:
        """Return the letters with this id: one message may have died in more than one queue.

        Raises:
            NotFound: There is none.
        """
        meant = Selection(queue=queue, message_ids=frozenset({message_id}))
        looked = await self.look(meant, _FEW, most_bytes=_KEPT_MAX_BYTES)
        if not looked.letters:
            raise NotFound
        return looked.letters

    async def discard(self, selection: Selection, limit: int) -> tuple[list[Handled], bool]:
        """Destroy up to `limit` of the letters that are meant; return them, and whether there may be more."""
        handled: list[Handled] = []

        async def drop(letter: Letter) -> bool:
            handled.append(_handled(letter, "discarded"))
            return True

        looked = await self._pass(selection, limit, drop)
        return handled, looked.more

    async def replay(self, selection: Selection, limit: int) -> tuple[list[Handled], bool]:
        """Have up to `limit` of the letters that are meant handled again; return them, and whether there may be more.

        What is no use any more is discarded instead. A letter is removed only when RabbitMQ has its successor.
        """
        handled: list[Handled] = []

        async def again(letter: Letter) -> bool:
            if why := useless(letter, await self._status(letter.job_id)):
                handled.append(_handled(letter, "discarded", why))
            else:
                await self._send(letter)
                handled.append(_handled(letter, "replayed"))
            return True

        looked = await self._pass(selection, limit, again)
        return handled, looked.more

    async def _pass(self, selection: Selection, limit: int, do: Callable[[Letter], Awaitable[bool]]) -> Looked:
        """Go once through the queues; what `do` answers True to is removed, all else is put back."""
        queues, looked, room = selection.queues(), Looked(), limit
        clock = asyncio.get_running_loop().time
        ends = clock() + self._pass_s
        async with self._graveyard.visit() as visit:
            for queue in queues:
                async with visit.grave(queue) as grave:
                    found = await grave.take()
                    # What dies from now on is for the next pass: what is replayed may well die again.
                    unseen = looked.waiting[queue.name] = found.left + 1 if found else 0
                    while found and room and clock() < ends:
                        letter = letter_of(found)
                        if selection.takes(letter):
                            room -= 1
                            if await do(letter):
                                await grave.remove(found)
                        unseen -= 1
                        found = await grave.take() if unseen else None
                    looked.more = looked.more or unseen > 0
        return looked

    async def _status(self, job_id: UUID | None) -> str | None:
        if job_id is None:
            return None
        async with self._database.connection() as connection:
            return (await store.statuses(connection, [job_id])).get(job_id)

    async def _send(self, letter: Letter) -> None:
        """Send a message to the queue that it died in, as if for the first time."""
        kept = {
            name: value for name, value in letter.headers.items() if not name.startswith("x-") and name != REASON_HEADER
        }
        await self._publisher.send(
            RETRY_EXCHANGE,
            letter.queue,
            letter.body,
            message_id=letter.id,
            message_type=letter.type,
            correlation_id=letter.correlation_id,
            headers={**kept, ATTEMPT_HEADER: 1},
        )


def _handled(letter: Letter, fate: Fate, why: Why | None = None) -> Handled:
    HANDLED.labels(letter.queue, fate).inc()
    _log.info(
        "a dead letter was dealt with",
        queue=letter.queue,
        message_id=letter.id,
        job_id=str(letter.job_id) if letter.job_id else None,
        fate=fate,
        why=why,
    )
    return Handled(letter.cut(0), fate, why)


async def watch(graveyard: Graveyard, interval_s: float) -> None:
    """Keep the gauge of dead letters up to date, for ever; while RabbitMQ is away it says what was seen last."""
    while True:
        try:
            for queue, depth in (await graveyard.depths()).items():
                WAITING.labels(queue).set(depth)
        except OutageError as error:
            _log.warning("dead letters could not be counted", reason=error.message)
        await asyncio.sleep(interval_s)
