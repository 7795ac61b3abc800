"""From a request to a promised job: first an intent, then the charge, then one transaction that promises and announces.

A crash after any step is finished or undone: a repeat with the same idempotency key drives the intent forward, and
after a minute the sweeper abandons it and voids its charge. A refusal stores nothing and frees the key.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import orjson

from pixorly import metrics, telemetry
from pixorly.catalogue import Model
from pixorly.db import Connection, Database
from pixorly.errors import OutageError, UserError
from pixorly.events import ImageParams, Visibility
from pixorly.failpoints import failpoint
from pixorly.grouping import Grouper
from pixorly.ids import new_id
from pixorly.outbox import Outbox
from pixorly_api import lifecycle, store
from pixorly_api.errors import ChargeVoided, IdempotencyInProgress, IdempotencyKeyReused, LedgerUnreached, TooManyJobs
from pixorly_api.hints import Announce, Changed, nobody
from pixorly_api.ledger import Charge, Ledger
from pixorly_api.pauses import ModelPaused, Pauses
from pixorly_api.store import Asked, Charged, Earlier, Intent, Record

_BYTES_PER_PIXEL: Final = {"png": 2.0, "jpeg": 0.5, "webp": 0.5}
_THUMBNAIL_BYTES: Final = 100_000
_TRIES: Final = 3
_FULL_S: Final = 2
"""When one who has too many jobs under way may ask again."""

CREATED = metrics.counter("pixorly_jobs_created", "Jobs that were promised.", "model")


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks for, checked and priced.

    Attributes:
        user_id: Who asks.
        model: The model.
        params: What is asked of each image, in full.
        prompt: What to draw.
        n: How many images.
        metadata: The caller's notes.
        deadline_s: How long the job may take.
        body_hash: Tells this body from another.
        key: The client's idempotency key.
        repeats: Whether the client says that it has sent this very request before, without a key.
        fallbacks: What may make the images where the model is gone or away, in this order.
        visibility: Who may read the images.
        retry_of: The failed job that it is another try of.
        quoted_credits: The price of an image that was quoted; the catalogue's where there is none.
        at_once: How many jobs the user may have under way, this one too; 0 is any number.
    """

    user_id: str
    model: Model
    params: ImageParams
    prompt: str = field(repr=False)
    n: int
    metadata: Mapping[str, str]
    deadline_s: int
    body_hash: bytes
    key: str | None = None
    repeats: bool = False
    fallbacks: tuple[Model, ...] = ()
    visibility: Visibility = "private"
    retry_of: UUID | None = None
    quoted_credits: int | None = None
    at_once: int = 0

    @property
    def credits_per_image(self) -> int:
        """What each image costs."""
        if self.quoted_credits is not None:
            return self.quoted_credits
        return self.model.credits_per_image(self.params.quality)


@dataclass(frozen=True, slots=True)
class Created:
    """A job, and whether an earlier request made it."""

    record: Record
    replayed: bool


def body_hash(body: Mapping[str, Any]) -> bytes:
    """Return a hash that two bodies share if they say the same, however they are written."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()


def estimated_bytes(params: ImageParams) -> int:
    """Return the room to reserve for one image and its thumbnails; trued up before the upload."""
    per_pixel = _BYTES_PER_PIXEL[params.output_format or "png"]
    return int(params.width * params.height * per_pixel) + _THUMBNAIL_BYTES


@dataclass(frozen=True, slots=True)
class Windows:
    """How long what lasts, in seconds."""

    claim_s: float = 10
    idempotency_ttl_s: float = 86_400
    client_retry_ttl_s: float = 600
    nudge_after_s: float = 120


class Creation:
    """Makes jobs.

    Args:
        database: Where jobs are.
        outbox: Opens transactions that carry events.
        ledger: Takes the credits.
        windows: How long what lasts.
        pauses: Which models nothing new is made with.
        announce: Told which jobs there are now.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        ledger: Ledger,
        windows: Windows,
        pauses: Pauses,
        *,
        announce: Announce = nobody,
    ) -> None:
        self._pauses = pauses
        self._announce = announce
        self._database = database
        self._outbox = outbox
        self._ledger = ledger
        self._windows = windows
        # Those that come while a transaction is under way share the next one.
        self._note = Grouper(self._note_group, name="jobs.note")
        self._make_promise = Grouper(self._promise_group, name="jobs.promise")

    async def create(self, order: Order) -> Created:
        """Return a promised job for an order: a new one, or that of the request which this one repeats.

        Raises:
            IdempotencyInProgress: The first request with this key is still under way.
            IdempotencyKeyReused: The key came with another body.
            ModelPaused: Nothing new is made with this model, nor with its fallbacks.
            OutageError: PostgreSQL or the ledger is away; a repeat with the same key goes on from here.
            UserError: The ledger refused; nothing is stored, nothing is charged.
        """
        claimed = await self._claim(order)
        failpoint("intent.stored")
        if isinstance(claimed, UUID):
            return Created(await self._read(order.user_id, claimed), replayed=True)
        return await self._drive(claimed)

    async def knows(self, order: Order) -> bool:
        """Tell whether the caller had a job of this very body within the time in which repeats find it.

        Raises:
            OutageError: PostgreSQL is away.
        """
        async with self._database.connection() as connection:
            return await self._newest(connection, order) is not None

    async def _newest(self, connection: Connection, order: Order) -> Earlier | None:
        return await store.earlier_by_body(connection, order.user_id, order.body_hash, self._windows.client_retry_ttl_s)

    async def _claim(self, order: Order) -> Intent | UUID:
        """Return an intent that is ours to drive forward, or the id of the promised job that the order repeats."""
        asked = _asked(order)
        paused = await self._pauses.over((order.model, *order.fallbacks))
        if not paused and not order.repeats and not order.at_once and await self._note(asked):
            return asked.intent
        for _ in range(_TRIES):
            async with self._database.transaction() as connection:
                earlier = await self._earlier(connection, order)
                if earlier is not None:
                    return await self._take_up(connection, order, earlier)
                if paused:
                    raise ModelPaused(order.model.id)
                await _check_room(connection, order)
                if await store.insert_intents(connection, [asked], self._windows.claim_s):
                    return asked.intent
            # Another request with the same key came first; the next look finds it.
        raise IdempotencyInProgress(retry_after_s=1)

    async def _note_group(self, asked: Sequence[Asked]) -> Sequence[bool]:
        async with self._database.connection() as connection:
            noted = await store.insert_intents(connection, asked, self._windows.claim_s)
        return [one.intent.job_id in noted for one in asked]

    async def _earlier(self, connection: Connection, order: Order) -> Earlier | None:
        """Return the job of the request that this one repeats, if it still counts."""
        if order.key is None and not order.repeats:
            return None
        if order.key is None:
            await store.lock_body(connection, order.user_id, order.body_hash)
            return await self._newest(connection, order)
        earlier = await store.earlier_by_key(connection, order.user_id, order.key, self._windows.idempotency_ttl_s)
        if earlier and (earlier.expired or earlier.status == "abandoned"):
            await store.delete_idempotency_key(connection, order.user_id, order.key)
            return None
        return earlier

    async def _take_up(self, connection: Connection, order: Order, earlier: Earlier) -> Intent | UUID:
        if earlier.body_hash != order.body_hash:
            raise IdempotencyKeyReused
        if earlier.status != "intent":
            return earlier.job_id
        intent = await store.claim_intent(connection, earlier.job_id, self._windows.claim_s)
        if intent is None:
            raise IdempotencyInProgress(retry_after_s=1)
        return intent

    async def _drive(self, intent: Intent) -> Created:
        """Charge an intent and promise it."""
        images = [(image_id, estimated_bytes(intent.params)) for image_id in intent.image_ids]
        try:
            charge = await self._ledger.charge(intent.job_id, intent.user_id, intent.amount_credits, images)
            failpoint("intent.charged")
            return await self._promise(intent, charge)
        except LedgerUnreached:
            # An earlier request may have had it charged, so that only a new intent may be forgotten.
            await self._put_down(intent, store.release_intent if intent.tried else store.forget_intent)
            raise
        except (ChargeVoided, OutageError) as error:
            await self._put_down(intent, store.release_intent)
            raise _later(error) from error
        except UserError:
            await self._put_down(intent, store.abandon_intent if intent.tried else store.forget_intent)
            raise
        except asyncio.CancelledError:
            await self._put_down(intent, store.release_intent)
            raise

    async def _promise(self, intent: Intent, charge: Charge) -> Created:
        charged = Charged(intent, charge.plan, charge.balance_credits)
        record = await self._make_promise((charged, telemetry.carried()))
        if record is None:
            return await self._overtaken(intent)
        CREATED.labels(intent.model).inc()
        self._announce([Changed(intent.job_id, intent.user_id)])
        return Created(record, replayed=False)

    async def _promise_group(self, group: Sequence[tuple[Charged, dict[str, str]]]) -> Sequence[Record | None]:
        async with self._outbox.transaction() as transaction:
            promised = await store.promise(
                transaction.connection, [charged for charged, _ in group], self._windows.nudge_after_s
            )
            records = [promised.get(charged.intent.job_id) for charged, _ in group]
            for record, (_, trace_context) in zip(records, group, strict=True):
                if record is not None:
                    transaction.append(lifecycle.creation(record.job), trace_context=trace_context)
        return records

    async def _overtaken(self, intent: Intent) -> Created:
        """Answer for an intent that is one no more: another request promised it, or the sweeper gave it up."""
        async with self._database.connection() as connection:
            status = await store.status_of(connection, intent.job_id)
        if status in {None, "abandoned"}:
            raise ChargeVoided
        return Created(await self._read(intent.user_id, intent.job_id), replayed=True)

    async def _put_down(self, intent: Intent, how: Callable[[Connection, UUID], Awaitable[None]]) -> None:
        """Let go of an intent; if we can't, the sweeper will."""
        with suppress(OutageError):
            async with self._database.connection() as connection:
                await how(connection, intent.job_id)

    async def _read(self, user_id: str, job_id: UUID) -> Record:
        async with self._database.connection() as connection:
            found = await store.records(connection, [(user_id, job_id)])
        if not found:
            raise IdempotencyInProgress(retry_after_s=1)
        return found[0]


async def _check_room(connection: Connection, order: Order) -> None:
    """Check that the user may have one more job under way.

    Raises:
        TooManyJobs: There are as many as the plan allows.
    """
    if not order.at_once:
        return
    await store.lock_user(connection, order.user_id)
    if await store.count_open_jobs(connection, order.user_id) >= order.at_once:
        raise TooManyJobs(
            f"The plan has room for {order.at_once} jobs at once; wait for one to end.",
            limit=order.at_once,
            retry_after_s=_FULL_S,
        )


def _later(error: ChargeVoided | OutageError) -> OutageError:
    if isinstance(error, OutageError):
        return error
    return OutageError("api", "The request took too long and was given up; nothing was charged.", retry_after_s=1)


def _asked(order: Order) -> Asked:
    job_id = new_id()
    telemetry.note(job_id=str(job_id))
    intent = Intent(
        job_id=job_id,
        user_id=order.user_id,
        model=order.model.id,
        prompt=order.prompt,
        params=order.params,
        image_ids=tuple(new_id() for _ in range(order.n)),
        calls=order.model.calls(order.n, order.fallbacks),
        credits_per_image=order.credits_per_image,
        metadata=order.metadata,
        body_hash=order.body_hash,
        place=telemetry.here(),
        fallback_models=tuple(model.id for model in order.fallbacks),
        visibility=order.visibility,
        retry_of=order.retry_of,
    )
    return Asked(intent, order.key, order.deadline_s)
