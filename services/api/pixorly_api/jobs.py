"""Transactions around the rules of `lifecycle`: lock the job, apply the rules, write what changed and what follows.

Changes that arrive while a transaction is under way share the next one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from pixorly import metrics, telemetry
from pixorly.db import Connection
from pixorly.errors import PixorlyError
from pixorly.events import (
    Event,
    ImageDeleted,
    ImageGenerated,
    ImageUploaded,
    JobCreated,
    JobRetrying,
    JobSettled,
    JobStarted,
)
from pixorly.grouping import Grouper
from pixorly.outbox import Outbox, Transaction
from pixorly.outcomes import outcome_of
from pixorly_api import lifecycle, store
from pixorly_api.errors import NotFound
from pixorly_api.hints import Announce, Changed, nobody
from pixorly_api.lifecycle import Job, Rule, Slot, Step

_log = structlog.get_logger()
_GROUP = 64
_SPACING_S = 0.04
"""Where news come one upon another, it is taken down so often, or up to three times as seldom: a client sees a change
that much later at most."""

SETTLED = metrics.counter("pixorly_jobs_settled", "Jobs that ended, by how.", "status", "model")
SLOTS = metrics.counter("pixorly_slots_settled", "Slots of jobs that ended, by who is at fault.", "outcome", "model")
FAILURES = metrics.counter("pixorly_slots_failed", "Slots that failed, by why.", "code", "stage")
SECONDS = metrics.histogram(
    "pixorly_job_seconds", "From a job's creation to its end.", "status", "model", buckets=metrics.LONG_S
)


@dataclass(frozen=True, slots=True)
class Change:
    """A rule to be applied to a job.

    Attributes:
        job_id: The job.
        rule: The rule.
        attempt: The event that tells of an attempt, where one does; a repeated job.retrying changes nothing.
        trace_context: Of whoever asks for it: changes of several traces share a transaction.
    """

    job_id: UUID
    rule: Rule
    attempt: JobStarted | JobRetrying | None = None
    trace_context: dict[str, str] = field(default_factory=telemetry.carried)


class Jobs:
    """The jobs of one database.

    Args:
        outbox: Opens transactions that carry events.
        delete_again_after_s: After how long a deletion is said once more.
        announce: Told which jobs changed.
    """

    def __init__(self, outbox: Outbox, *, delete_again_after_s: float = 3600, announce: Announce = nobody) -> None:
        self._outbox = outbox
        self._announce = announce
        self._delete_again_after_s = delete_again_after_s
        self._change: Grouper[Change, Job | None] = Grouper(
            self._change_group, max_group=_GROUP, spacing_s=_SPACING_S, name="jobs.change"
        )

    async def change(self, job_id: UUID, rule: Rule) -> Job | None:
        """Apply a rule to a job and return it; None if there is none.

        Raises:
            OutageError: PostgreSQL is away.
        """
        return await self._change(Change(job_id, rule))

    async def follow(self, event: Event) -> Job | None:
        """Do what a worker's event asks for, and return the job."""
        attempt = event if isinstance(event, JobStarted | JobRetrying) else None
        return await self._change(Change(event.job_id, partial(lifecycle.follow, event=event), attempt))

    async def bury(self, event: JobCreated | ImageGenerated) -> Job | None:
        """Fail the slots that an event concerned which nobody could handle."""
        if isinstance(event, JobCreated):
            return await self.change(event.job_id, lifecycle.bury_creation)
        return await self.change(event.job_id, partial(lifecycle.bury_image, event=event))

    async def cancel(self, job_id: UUID) -> None:
        """Take back a job that is not begun.

        Raises:
            AlreadyStarted: It is begun or ended.
            NotFound: There is none.
        """
        if await self.change(job_id, lifecycle.cancel) is None:
            raise NotFound

    async def change_found(self, find: Callable[[Connection, int], Any], rule: Rule, limit: int) -> int:
        """Apply a rule to the jobs that `find` finds and locks, and return how many it found."""
        async with self._outbox.transaction() as transaction:
            job_ids: list[UUID] = await find(transaction.connection, limit)
            answers = await self._apply(transaction, [Change(job_id, rule) for job_id in job_ids])
        self._tell(answers)
        return len(job_ids)

    async def _change_group(self, changes: Sequence[Change]) -> Sequence[Job | Exception | None]:
        async with self._outbox.transaction() as transaction:
            answers = await self._apply(transaction, changes)
        self._tell(answers)
        return [answer.job if isinstance(answer, Step) else answer for answer in answers]

    def _tell(self, answers: Iterable[Step | PixorlyError | None]) -> None:
        """Count and announce what was decided, once it is committed."""
        steps = [answer for answer in answers if isinstance(answer, Step)]
        _observe(steps)
        self._announce(Changed(step.job.job_id, step.job.user_id, telemetry.kept(step.job.place)) for step in steps)

    async def _apply(self, transaction: Transaction, changes: Sequence[Change]) -> list[Step | PixorlyError | None]:
        """Apply changes in order, in one transaction; answer each with its step, None where there is no such job."""
        if not changes:
            return []
        connection = transaction.connection
        now = await store.now(connection)
        before = await store.lock_jobs(connection, list({change.job_id for change in changes}))
        repeated = await _repeated(connection, [change for change in changes if change.job_id in before])
        after, answers = dict(before), list[Step | PixorlyError | None]()
        for change in changes:
            if change.job_id not in after:
                answers.append(None)
                continue
            answer = Step(after[change.job_id]) if _is_repeat(change, repeated) else _try(change, after, now)
            if isinstance(answer, Step):
                after[change.job_id] = answer.job
            answers.append(answer)
        await self._write(connection, before, after, answers)
        for change, made in zip(changes, answers, strict=True):
            if isinstance(made, Step):
                # A sweep is in no trace; what it does to a job belongs to the job's.
                context = change.trace_context or telemetry.there(made.job.place)
                transaction.append(*made.announced, trace_context=context)
        return answers

    async def _write(
        self,
        connection: Connection,
        before: dict[UUID, Job],
        after: dict[UUID, Job],
        answers: Iterable[Step | PixorlyError | None],
    ) -> None:
        changed = [job for job_id, job in after.items() if job != before[job_id]]
        slots = [
            (job.job_id, new)
            for job in changed
            for old, new in zip(before[job.job_id].slots, job.slots, strict=True)
            if new != old
        ]
        await store.write_slots(connection, slots)
        await store.write_jobs(connection, changed)
        uploads = [
            (_maker(after[job_id], slot, slot.uploaded), slot.uploaded) for job_id, slot in slots if slot.uploaded
        ]
        await store.add_images(connection, uploads)
        announced = [event for answer in answers if isinstance(answer, Step) for event in answer.announced]
        deletions = {
            event.image_id: (_index_of(after[event.job_id], event), event)
            for event in announced
            if isinstance(event, ImageDeleted)
        }
        await store.add_deletions(connection, list(deletions.values()), self._delete_again_after_s)


def _try(change: Change, jobs: dict[UUID, Job], now: datetime) -> Step | PixorlyError:
    try:
        return change.rule(jobs[change.job_id], now)
    except PixorlyError as error:
        return error


async def _repeated(connection: Connection, changes: Sequence[Change]) -> set[UUID]:
    """Note the attempts that the changes tell of, and return the ids of the job.retrying events known before."""
    attempts = [change.attempt for change in changes if change.attempt]
    if not attempts:
        return set()
    fresh = await store.add_attempts(connection, attempts)
    return {event.event_id for event in attempts if isinstance(event, JobRetrying)} - fresh


def _is_repeat(change: Change, repeated: set[UUID]) -> bool:
    """Tell whether a change is a job.retrying that was counted; from now on, this one is."""
    if not isinstance(change.attempt, JobRetrying):
        return False
    known = change.attempt.event_id in repeated
    repeated.add(change.attempt.event_id)
    return known


def _maker(job: Job, slot: Slot, uploaded: ImageUploaded) -> str:
    """Return the model that made an image: one of the job's fallbacks, perhaps."""
    return uploaded.model or (slot.generated and slot.generated.model) or job.model


def _index_of(job: Job, event: ImageDeleted) -> int:
    return next(slot.index for slot in job.slots if slot.image_id == event.image_id)


def _observe(steps: Iterable[Step]) -> None:
    for step in steps:
        for event in step.announced:
            if isinstance(event, JobSettled):
                _observe_end(step.job, event)


def _outcome(slot: Slot) -> str:
    """Return how a slot ended, for the success rate: what the user did is no failure of ours."""
    if not slot.code:
        return "delivered"
    return "canceled" if slot.code == "canceled" else f"{outcome_of(slot.code).fault or 'server'}_fault"


def _observe_end(job: Job, event: JobSettled) -> None:
    SETTLED.labels(job.status, job.model).inc()
    SECONDS.labels(job.status, job.model).observe((event.settled_at - event.created_at).total_seconds())
    for slot in job.slots:
        SLOTS.labels(_outcome(slot), job.model).inc()
        if slot.code:
            FAILURES.labels(outcome_of(slot.code).code, slot.stage).inc()
    _log.info(
        "a job ended",
        job_id=str(job.job_id),
        status=job.status,
        model=job.model,
        n=job.n,
        failed=sum(1 for slot in job.slots if slot.state == "failed"),
        retry_count=job.retry_count,
    )
