"""The transactions around provider calls; what arrives while one is under way shares the next one.

Every answer is its item's own: in one group a call is leased, another is held by somebody else, a third was finished
long ago. Each of these transactions bears being repeated, since a commit may be made and not confirmed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

import structlog

from pixorly import metrics, telemetry
from pixorly.delivery import Held
from pixorly.errors import OutageError, TransientError
from pixorly.events import Event, JobCreated, JobStarted, PlannedCall
from pixorly.grouping import Grouper
from pixorly.ids import derived_id
from pixorly.outbox import Outbox, Transaction
from pixorly.topology import LADDER_S
from pixorly_generator import store
from pixorly_generator.results import results
from pixorly_generator.staging import staged_from_json
from pixorly_generator.upstream import Attempt

_log = structlog.get_logger()
_GROUP: Final = 64
_GROUPS_AT_ONCE: Final = 2
"""Where somebody stands still who has a row locked, the group that waits for it must not keep all others waiting."""
_RECORD_S: Final = 0.02
"""Where results come one upon another, they are recorded so often, or up to three times as seldom: an image is told of
that much later at most."""
_CLOSE_S: Final = 0.1
"""Nobody waits for a job to be closed."""

MAX_ATTEMPTS: Final = 12
"""A call that killed its process this often is given up, before it empties our account."""
NOTICE: Final = 0.75
"""A lease that ran out is taken over after this part of another: its owner comes to renew it at least once before."""
EARLY_S: Final = 0.5

TAKEN_OVER = metrics.counter(
    "pixorly_provider_calls_taken_over", "Calls whose process went away: perhaps paid for twice."
)

_Answer = Attempt | Held | None


@dataclass(frozen=True, slots=True)
class _Wish:
    """A call that somebody wants to make."""

    event: JobCreated
    call: PlannedCall
    trace_context: dict[str, str] = field(default_factory=telemetry.carried)

    @property
    def key(self) -> store.Key:
        return self.event.job_id, self.call.call_no

    def attempt(self, number: int, now: datetime) -> Attempt:
        return Attempt(self.event, self.call, number, (self.event.deadline - now).total_seconds())


@dataclass(frozen=True, slots=True)
class _Record:
    """How a call ended, and what is told if that is news."""

    ending: store.Ending
    events: Sequence[Event]
    trace_context: dict[str, str] = field(default_factory=telemetry.carried)


class Leases:
    """What this process has leased, and what it writes down of it.

    Args:
        outbox: The generator's database.
        provider_of: Tells the name of the provider that makes a model.
        lease_s: How long a lease holds.
        ladder_s: The delays of the retries.
    """

    def __init__(
        self,
        outbox: Outbox,
        provider_of: Callable[[str], str],
        *,
        lease_s: float = 20,
        ladder_s: Sequence[int] = LADDER_S,
    ) -> None:
        self._owner = uuid4()
        self._outbox = outbox
        self._provider_of = provider_of
        self._lease_s = lease_s
        self._ladder_s = ladder_s
        self._lease: Grouper[_Wish, Attempt | None] = Grouper(
            self._lease_group, max_group=_GROUP, workers=_GROUPS_AT_ONCE, name="calls.lease"
        )
        self._record: Grouper[_Record, store.Fate] = Grouper(
            self._record_group, max_group=_GROUP, workers=_GROUPS_AT_ONCE, spacing_s=_RECORD_S, name="calls.record"
        )
        self.close: Grouper[UUID, None] = Grouper(
            self._close_group, max_group=_GROUP, workers=_GROUPS_AT_ONCE, spacing_s=_CLOSE_S, name="calls.close"
        )
        """Close what is left of a settled job, by its id, so that nothing is bought for it any more."""

    async def lease(self, event: JobCreated, call: PlannedCall) -> Attempt | None:
        """Return the attempt to make; None where there is nothing to do.

        Raises:
            Held: Another process is at it, or may be, or its next attempt is not due yet.
            OutageError: PostgreSQL is away.
        """
        return await self._lease(_Wish(event, call))

    async def _lease_group(self, wishes: Sequence[_Wish]) -> Sequence[_Answer]:
        async with self._outbox.transaction() as transaction:
            new = await store.lease_new(
                transaction.connection, [self._wanted(wish) for wish in wishes], self._owner, self._lease_s
            )
            answers: dict[store.Key, _Answer] = {
                wish.key: self._begun(transaction, wish, 1, new[wish.key]) for wish in wishes if wish.key in new
            }
            if seen := [wish for wish in wishes if wish.key not in new]:
                answers |= await self._look_again(transaction, seen)
        return [answers[wish.key] for wish in wishes]

    def _wanted(self, wish: _Wish) -> store.Wanted:
        event = wish.event
        provider = self._provider_of(event.model)
        return store.Wanted(*wish.key, event.user_id, provider, event.model, event.deadline)

    def _begun(self, transaction: Transaction, wish: _Wish, number: int, now: datetime) -> Attempt:
        """Say that a model is about to be asked."""
        attempt = wish.attempt(number, now)
        transaction.append(self._started(attempt, wish.event.model), trace_context=wish.trace_context)
        return attempt

    async def _look_again(self, transaction: Transaction, wishes: Sequence[_Wish]) -> dict[store.Key, _Answer]:
        """Decide on calls that are not new; where there is no row, the job is settled or too old."""
        connection = transaction.connection
        rows = await store.lock_calls(connection, [wish.key for wish in wishes], self._owner)
        answers: dict[store.Key, _Answer] = {wish.key: None for wish in wishes}
        due, expired, hopeless = list[_Wish](), list[store.Key](), list[_Wish]()
        for wish in wishes:
            row = rows.get(wish.key)
            if row is None or row.settled:
                continue
            if row.state == "open" and (row.held or row.early):
                answers[wish.key] = Held()
            elif row.state != "open" or wish.event.deadline <= row.now:
                known = results(wish.event, row.model, staged_from_json(row.images), row.failures)
                transaction.append(*known, trace_context=wish.trace_context)
            elif row.attempts >= MAX_ATTEMPTS:
                hopeless.append(wish)
            elif row.expired and not row.contested:
                # PostgreSQL may have been away for as long as the lease held, and its owner be at work all the same.
                expired.append(wish.key)
                answers[wish.key] = Held()
            else:
                due.append(wish)
        if expired:
            await store.contest_leases(connection, expired, self._lease_s * NOTICE)
        if hopeless:
            await self._finish(transaction, [_given_up(wish, "internal_error") for wish in hopeless])
        if due:
            numbers = await store.lease_again(
                connection, [self._wanted(wish) for wish in due], self._owner, self._lease_s
            )
            _note_takeovers([rows[wish.key] for wish in due])
            answers |= {wish.key: self._begun(transaction, wish, numbers[wish.key], rows[wish.key].now) for wish in due}
        return answers

    def _started(self, attempt: Attempt, model: str) -> JobStarted:
        event = attempt.event
        started = JobStarted.of(
            event.job_id,
            event.user_id,
            call_no=attempt.call.call_no,
            attempt=attempt.number,
            provider=self._provider_of(model),
            model=model,
        )
        if model == event.model:
            return started
        # The same attempt is announced once more, and must not pass for a repeat.
        return started.model_copy(update={"event_id": derived_id(started.event_id, model)})

    async def turn_to(self, attempt: Attempt, model: str) -> None:
        """Say that an attempt goes on to a fallback.

        Raises:
            OutageError: PostgreSQL is away.
        """
        async with self._outbox.transaction() as transaction:
            await store.turn_attempt(
                transaction.connection, attempt.key, attempt.number, provider=self._provider_of(model), model=model
            )
            transaction.append(self._started(attempt, model))

    async def record(self, ending: store.Ending, events: Sequence[Event]) -> store.Fate:
        """Write down how a call ended, and tell of it if it was open until now; return what became of it.

        Raises:
            OutageError: PostgreSQL is away.
        """
        return await self._record(_Record(ending, events))

    async def _record_group(self, records: Sequence[_Record]) -> Sequence[store.Fate]:
        async with self._outbox.transaction() as transaction:
            return await self._finish(transaction, records)

    async def _finish(self, transaction: Transaction, records: Sequence[_Record]) -> list[store.Fate]:
        fates = await store.finish(transaction.connection, [record.ending for record in records])
        for record, fate in zip(records, fates, strict=True):
            if fate.finished:
                transaction.append(*record.events, trace_context=record.trace_context)
        return fates

    async def reopen(self, attempt: Attempt, error: TransientError | OutageError) -> None:
        """Give up the lease on a call that is to be tried again.

        Raises:
            OutageError: PostgreSQL is away.
        """
        outage = isinstance(error, OutageError)
        step_s = self._ladder_s[min(attempt.number, len(self._ladder_s)) - 1]
        async with self._outbox.transaction() as transaction:
            await store.reopen(
                transaction.connection,
                attempt.key,
                attempt.number,
                self._owner,
                code=error.code,
                cost_usd=error.facts.get("cost_usd"),
                generation_id=error.facts.get("generation_id"),
                retry_at_s=None if outage else step_s - EARLY_S,
                forget_attempt=outage,
            )

    async def give_up(self, event: JobCreated, code: str) -> None:
        """Fail every call of the job that is still open: its retries are used up.

        Raises:
            OutageError: PostgreSQL is away.
        """
        wishes = [_Wish(event, call) for call in event.calls]
        async with self._outbox.transaction() as transaction:
            connection = transaction.connection
            await store.add_calls(connection, [self._wanted(wish) for wish in wishes])
            rows = await store.lock_calls(connection, [wish.key for wish in wishes], self._owner)
            free = [wish for wish in wishes if rows[wish.key].state == "open" and not rows[wish.key].held]
            if free:
                await self._finish(transaction, [_given_up(wish, code) for wish in free])

    async def _close_group(self, job_ids: Sequence[UUID]) -> Sequence[None]:
        async with self._outbox.transaction() as transaction:
            await store.close_jobs(transaction.connection, job_ids)
        return [None] * len(job_ids)

    async def renew(self) -> None:
        """Renew the leases of this process.

        Raises:
            OutageError: PostgreSQL is away.
        """
        async with self._outbox.transaction() as transaction:
            await store.renew_leases(transaction.connection, self._owner, self._lease_s)


def _note_takeovers(rows: Sequence[store.Call]) -> None:
    for row in rows:
        if row.expired:
            TAKEN_OVER.inc()
            _log.warning("a call is taken over", job_id=str(row.job_id), call_no=row.call_no)


def _given_up(wish: _Wish, code: str) -> _Record:
    failures = dict.fromkeys(map(str, wish.call.indexes), code)
    ending = store.Ending(*wish.key, 0, "failed", code, failures)
    return _Record(ending, results(wish.event, wish.event.model, [], failures), wish.trace_context)
