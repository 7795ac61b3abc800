"""Leased provider calls: each is paid for once, whatever happens around it.

Before a call its row is leased, in one transaction with `job.started`; after it one conditional transaction writes the
result, the cost and the events. Between the two the call runs in a task of its own, which the loss of RabbitMQ does
not cancel. A finished call, or one whose job is settled, is never made again: a repeated message publishes what is
recorded. A lease that ran out is taken over on the second look only, so that an outage of PostgreSQL, which keeps all
from renewing theirs, costs nothing: whoever lives renews first. Only a process that dies or stands still between the
two transactions leaves a call that somebody makes once more.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar
from uuid import UUID, uuid4

import structlog

from pixorly import metrics
from pixorly.blobs import Blobs
from pixorly.db import Connection
from pixorly.delivery import Held
from pixorly.errors import (
    InvalidImage,
    OutageError,
    PixorlyError,
    ServerError,
    StorageUnavailable,
    TransientError,
    UserError,
)
from pixorly.events import Event, JobCreated, JobStarted, PlannedCall
from pixorly.failpoints import failpoint
from pixorly.ids import derived_id
from pixorly.outbox import Outbox, Transaction
from pixorly.topology import LADDER_S
from pixorly_generator import store
from pixorly_generator.providers import ProviderAnswer
from pixorly_generator.results import results
from pixorly_generator.staging import StagedImage, stage, staged_from_json
from pixorly_generator.upstream import Attempt, Upstream

_log = structlog.get_logger()
_T = TypeVar("_T")

_MAX_ATTEMPTS: Final = 12
"""A call that killed its process this often is given up, before it empties our account."""
_RENEWAL: Final = 0.25
"""A lease is renewed after this part of it."""
_NOTICE: Final = 0.75
"""A lease that ran out is taken over after this part of another: its owner comes to renew it at least once before."""
_EARLY_S: Final = 0.5
_LEASES_AT_ONCE: Final = 8
"""Fewer than there are connections: of a thousand that come together, the last must not give up waiting for one."""

LATE = metrics.counter(
    "pixorly_provider_calls_late", "Answers that came when their call was finished already.", "provider"
)
TAKEN_OVER = metrics.counter(
    "pixorly_provider_calls_taken_over", "Calls whose process went away: perhaps paid for twice."
)


@dataclass(frozen=True, slots=True)
class _Brought:
    """What an attempt brought: images for some of its slots, and codes for the others."""

    answer: ProviderAnswer
    model: str
    images: list[StagedImage]
    failures: dict[str, str]
    """The code by the slot's index, which is text as in JSON."""


class Calls:
    """The provider calls of this process.

    Args:
        outbox: The generator's database.
        blobs: Where images are staged.
        upstream: Asks providers.
        lease_s: How long a lease holds.
        ladder_s: The delays of the retries.
    """

    def __init__(
        self,
        outbox: Outbox,
        blobs: Blobs,
        upstream: Upstream,
        *,
        lease_s: float = 20,
        ladder_s: Sequence[int] = LADDER_S,
    ) -> None:
        self._owner = uuid4()
        self._outbox = outbox
        self._blobs = blobs
        self._upstream = upstream
        self._lease_s = lease_s
        self._ladder_s = ladder_s
        self._turns = asyncio.Semaphore(_LEASES_AT_ONCE)
        self._running: dict[tuple[UUID, int], asyncio.Task[None]] = {}

    async def make_all(self, event: JobCreated) -> None:
        """See to it that every call of the job is made and recorded.

        Raises:
            TransientError: A call failed and is worth another try.
            Held: Another process is at a call.
            OutageError: A part is away.
        """
        done = await asyncio.gather(*(self._make(event, call) for call in event.calls), return_exceptions=True)
        errors = [error for error in done if isinstance(error, BaseException)]
        for kind in (TransientError, OutageError, Held, BaseException):
            for error in errors:
                if isinstance(error, kind):
                    raise error

    async def _make(self, event: JobCreated, call: PlannedCall) -> None:
        key = event.job_id, call.call_no
        # The task goes on if we are cancelled; a message that is delivered again joins it here.
        await asyncio.shield(self._running.get(key) or self._start(event, call))

    def _start(self, event: JobCreated, call: PlannedCall) -> asyncio.Task[None]:
        key = event.job_id, call.call_no
        task = self._running[key] = asyncio.create_task(self._lease_and_run(event, call))
        task.add_done_callback(lambda done: self._forget(key, done))
        return task

    async def _lease_and_run(self, event: JobCreated, call: PlannedCall) -> None:
        async with self._turns:
            attempt = await self._lease(event, call)
        if attempt is not None:
            await self._run(attempt)

    def _forget(self, key: tuple[UUID, int], task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # perhaps nobody is left who waits for it

    async def _lease(self, event: JobCreated, call: PlannedCall) -> Attempt | None:
        """Return the attempt to make; None where there is nothing to do.

        Raises:
            Held: Another process is at it, or may be, or its next attempt is not due yet.
        """
        async with self._outbox.transaction() as transaction:
            connection = transaction.connection
            if await store.is_settled(connection, event.job_id):
                return None
            row = await self._lock(connection, event, call)
            if row.state == "open" and (row.held or row.early):
                raise Held
            left_s = (event.deadline - row.now).total_seconds()
            if row.state != "open" or left_s <= 0:
                transaction.append(*results(event, row.model, staged_from_json(row.images), row.failures))
                return None
            if row.attempts >= _MAX_ATTEMPTS:
                transaction.append(*await _give_up(connection, event, call))
                return None
            if not row.expired or row.contested:
                if row.expired:
                    TAKEN_OVER.inc()
                    _log.warning("a call is taken over", job_id=str(event.job_id), call_no=call.call_no)
                number = await store.lease(connection, event.job_id, call.call_no, self._owner, self._lease_s)
                attempt = Attempt(event, call, number, left_s)
                await self._announce(transaction, attempt, event.model)
                return attempt
            # PostgreSQL may have been away for as long as the lease held, and its owner be at work all the same.
            await store.contest_lease(connection, event.job_id, call.call_no, self._lease_s * _NOTICE)
        raise Held

    async def _announce(self, transaction: Transaction, attempt: Attempt, model: str) -> None:
        """Say that a model is about to be asked."""
        provider, number = self._upstream.provider_of(model), attempt.number
        await store.begin_attempt(transaction.connection, *_key(attempt), number, provider=provider, model=model)
        event, call_no = attempt.event, attempt.call.call_no
        started = JobStarted.of(
            event.job_id, event.user_id, call_no=call_no, attempt=number, provider=provider, model=model
        )
        if model != event.model:  # the same attempt is announced once more, and must not pass for a repeat
            started = started.model_copy(update={"event_id": derived_id(started.event_id, model)})
        transaction.append(started)

    async def _turn_to(self, attempt: Attempt, model: str) -> None:
        """Say that an attempt goes on to a fallback.

        Raises:
            OutageError: PostgreSQL is away.
        """
        async with self._outbox.transaction() as transaction:
            await self._announce(transaction, attempt, model)

    async def _lock(self, connection: Connection, event: JobCreated, call: PlannedCall) -> store.Call:
        return await store.lock_call(
            connection, event.job_id, call.call_no, user_id=event.user_id, model=event.model, owner=self._owner
        )

    async def _run(self, attempt: Attempt) -> None:
        """Make the call and record how it ended.

        Raises:
            TransientError: It is worth another try, and the lease is given up.
            OutageError: A part is away, and the lease is given up.
        """
        failpoint("call.leased")
        try:
            answer, model = await self._upstream.generate(attempt, partial(self._turn_to, attempt))
        except (TransientError, OutageError) as error:
            await self._insist(partial(self._reopen, attempt, error))
            raise
        except (ServerError, UserError) as error:
            await self._insist(partial(self._record_failure, attempt, error))
            return
        failpoint("call.answered")
        brought = await self._stage(attempt, answer, model)
        failpoint("call.staged")
        await self._insist(partial(self._record, attempt, brought))
        failpoint("call.recorded")

    async def _stage(self, attempt: Attempt, answer: ProviderAnswer, model: str) -> _Brought:
        """Make what came durable, however long the object store is away: it is paid for."""
        event = attempt.event
        wanted = event.params.output_format

        async def one(index: int, position: int) -> StagedImage | InvalidImage:
            image = answer.images[position]
            try:
                return await self._insist(
                    partial(stage, self._blobs, event.job_id, index, event.image_ids[index], image, wanted=wanted)
                )
            except InvalidImage as error:
                return error

        indexes = attempt.call.indexes[: len(answer.images)]
        staged = await asyncio.gather(*(one(index, position) for position, index in enumerate(indexes)))
        failures = {str(index): "missing_image" for index in attempt.call.indexes[len(answer.images) :]}
        for index, came in zip(indexes, staged, strict=True):
            if isinstance(came, InvalidImage):
                failures[str(index)] = came.code
        return _Brought(answer, model, [came for came in staged if isinstance(came, StagedImage)], failures)

    async def _record(self, attempt: Attempt, brought: _Brought) -> None:
        event, answer = attempt.event, brought.answer
        code = None if brought.images else next(iter(brought.failures.values()), None)
        async with self._outbox.transaction() as transaction:
            open_still = await store.finish(
                transaction.connection,
                *_key(attempt),
                state="done",
                code=code,
                model=brought.model,
                images=[image.as_json() for image in brought.images],
                failures=brought.failures,
            )
            ended = await store.end_attempt(
                transaction.connection,
                *_key(attempt),
                attempt.number,
                code=code,
                late=not open_still,
                model=brought.model,
                cost_usd=answer.cost_usd,
                generation_id=answer.generation_id,
                usage=answer.usage,
            )
            if open_still:
                transaction.append(*results(event, brought.model, brought.images, brought.failures))
        if ended and not open_still:
            LATE.labels(answer.provider).inc()
            _log.warning("an answer came too late", job_id=str(event.job_id), call_no=attempt.call.call_no)

    async def _record_failure(self, attempt: Attempt, error: PixorlyError) -> None:
        failures = dict.fromkeys(map(str, attempt.call.indexes), error.code)
        async with self._outbox.transaction() as transaction:
            open_still = await store.finish(
                transaction.connection, *_key(attempt), state="failed", code=error.code, failures=failures
            )
            await store.end_attempt(
                transaction.connection,
                *_key(attempt),
                attempt.number,
                code=error.code,
                late=not open_still,
                cost_usd=error.facts.get("cost_usd"),
                generation_id=error.facts.get("generation_id"),
            )
            if open_still:
                transaction.append(*results(attempt.event, attempt.event.model, [], failures))

    async def _reopen(self, attempt: Attempt, error: TransientError | OutageError) -> None:
        outage = isinstance(error, OutageError)
        async with self._outbox.transaction() as transaction:
            step_s = self._ladder_s[min(attempt.number, len(self._ladder_s)) - 1]
            await store.end_attempt(
                transaction.connection,
                *_key(attempt),
                attempt.number,
                code=error.code,
                late=False,
                cost_usd=error.facts.get("cost_usd"),
                generation_id=error.facts.get("generation_id"),
            )
            await store.reopen(
                transaction.connection,
                *_key(attempt),
                self._owner,
                code=error.code,
                retry_at_s=None if outage else step_s - _EARLY_S,
                forget_attempt=outage,
            )

    async def give_up(self, event: JobCreated, code: str) -> None:
        """Fail every call of the job that is still open: its retries are used up.

        Raises:
            OutageError: PostgreSQL is away.
        """
        async with self._outbox.transaction() as transaction:
            for call in event.calls:
                row = await self._lock(transaction.connection, event, call)
                if row.state == "open" and not row.held:
                    transaction.append(*await _give_up(transaction.connection, event, call, code))

    async def close(self, job_id: UUID) -> None:
        """Close what is left of a settled job, so that nothing is bought for it any more.

        Raises:
            OutageError: PostgreSQL is away.
        """
        async with self._outbox.transaction() as transaction:
            await store.settle_job(transaction.connection, job_id)
            await store.close_calls(transaction.connection, job_id)

    async def renew(self) -> None:
        """Renew the leases of this process, for ever."""
        every_s = self._lease_s * _RENEWAL
        while True:
            await asyncio.sleep(every_s)
            if not self._running:
                continue
            try:
                # A connection that hangs must not use up the notice that comes after an outage.
                async with asyncio.timeout(every_s), self._outbox.transaction() as transaction:
                    await store.renew_leases(transaction.connection, self._owner, self._lease_s)
            except (OutageError, TimeoutError):
                _log.warning("leases could not be renewed", held=len(self._running))

    async def drain(self, grace_s: float) -> None:
        """Wait for the calls that are under way; what is left after `grace_s` seconds is cut off."""
        if self._running:
            _, left = await asyncio.wait(self._running.values(), timeout=grace_s)
            for task in left:
                task.cancel()

    async def _insist(self, action: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `action` returns, however long the database or the object store is away."""
        delay_s = 0.25
        while True:
            try:
                return await action()
            except (OutageError, StorageUnavailable) as error:
                _log.warning("a paid result waits", code=error.code, reason=error.message)
            await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads callers
            delay_s = min(delay_s * 2, 5.0)


def _key(attempt: Attempt) -> tuple[UUID, int]:
    return attempt.event.job_id, attempt.call.call_no


async def _give_up(
    connection: Connection, event: JobCreated, call: PlannedCall, code: str = "internal_error"
) -> list[Event]:
    failures = dict.fromkeys(map(str, call.indexes), code)
    finished = await store.finish(connection, event.job_id, call.call_no, state="failed", code=code, failures=failures)
    return results(event, event.model, [], failures) if finished else []
