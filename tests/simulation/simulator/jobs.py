"""The api's jobs: the real rules of `pixorly_api.lifecycle` around tables in memory; mirrors `pixorly_api.jobs`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pixorly.errors import PixorlyError
from pixorly.events import Event, ImageDeleted, ImageGenerated, ImageUploaded, JobCreated, JobRetrying, JobStarted
from pixorly_api import lifecycle
from pixorly_api.errors import NotFound
from pixorly_api.lifecycle import Job, Rule, Slot, Step
from pixorly_api.store import Intent
from pixorly_api.sweeper import Pace
from simulator.bus import short, told
from simulator.clockwork import Process
from simulator.database import Database, Outbox, Transaction

if TYPE_CHECKING:
    from simulator.world import World

PACE: Final = Pace()


@dataclass(frozen=True, slots=True)
class JobRow:
    """A row of `jobs`, with its slots once it is promised."""

    intent: Intent
    status: str
    created_s: float
    deadline_s: float
    claimed_until_s: float
    job: Job | None = None
    voided: bool = False
    news_s: float = 0.0
    nudges: int = 0
    nudge_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A row of `images`."""

    event: ImageUploaded
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class DeletionRow:
    """A row of `deletions`."""

    event: ImageDeleted
    index: int
    keys: tuple[str, ...]
    due_s: float
    sends: int = 1
    confirmed: bool = False


class JobTables:
    """The api's database."""

    def __init__(self, world: "World") -> None:
        self.jobs: dict[UUID, JobRow] = {}
        self.images: dict[UUID, ImageRow] = {}
        self.deletions: dict[UUID, DeletionRow] = {}
        self.attempts: dict[tuple[object, ...], bool] = {}
        self.keys: dict[tuple[str, str], tuple[UUID, bytes]] = {}
        self.database = Database(
            world,
            "api",
            jobs=self.jobs,
            images=self.images,
            deletions=self.deletions,
            attempts=self.attempts,
            keys=self.keys,
        )

    def lock(self, job_id: UUID) -> Job | None:
        """Mirrors `store.lock_jobs`: a promised job as its rows tell it."""
        row = self.jobs.get(job_id)
        return row.job if row else None

    def add_deletion(self, index: int, event: ImageDeleted, now_s: float) -> None:
        """Mirrors `store.add_deletions`."""
        known = self.deletions.get(event.image_id)
        keys = event.keys or (known.keys if known else ())
        self.deletions[event.image_id] = DeletionRow(
            known.event if known else event, index, keys, now_s + PACE.delete_again_after_s
        )


class Jobs:
    """The jobs, as one process reaches them; mirrors `pixorly_api.jobs.Jobs` for a group of one."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world = world
        self.tables = world.api
        self.outbox = Outbox(process, world.api.database)

    async def follow(self, event: Event) -> None:
        """Do what a worker's event asks for."""
        attempt = event if isinstance(event, JobStarted | JobRetrying) else None
        rule = partial(lifecycle.follow, event=event)
        if self._world.broken("last state wins"):
            rule = partial(_follow_blindly, event=event)
        await self.change(f"follows {told(event)}", event.job_id, rule, attempt)

    async def bury(self, event: JobCreated | ImageGenerated) -> None:
        """Fail the slots that an event concerned which nobody could handle."""
        rule: Rule = lifecycle.bury_creation
        if isinstance(event, ImageGenerated):
            rule = partial(lifecycle.bury_image, event=event)
        self._world.note(f"a dead {event.type} settled")
        await self.change(f"buries {told(event)}", event.job_id, rule)

    async def cancel(self, job_id: UUID) -> None:
        """Take back a job that is not begun.

        Raises:
            AlreadyStarted: It is begun or ended.
        """
        await self.change(f"cancels {short(job_id)}", job_id, lifecycle.cancel)

    async def change(
        self, what: str, job_id: UUID, rule: Rule, attempt: JobStarted | JobRetrying | None = None
    ) -> None:
        """Apply a rule to a job."""
        step = await self.outbox.transaction(what, partial(self.apply, job_id, rule, attempt))
        if isinstance(step, PixorlyError):
            raise step

    def apply(
        self, job_id: UUID, rule: Rule, attempt: JobStarted | JobRetrying | None, transaction: Transaction
    ) -> Step | PixorlyError | None:
        """Mirrors `Jobs._apply`."""
        before = self.tables.lock(job_id)
        if before is None:
            return None
        try:
            step = Step(before) if self._is_repeat(attempt) else rule(before, self._world.now())
        except PixorlyError as error:
            return error
        if self._world.broken("late uploads are kept"):
            step = Step(step.job, tuple(event for event in step.announced if not isinstance(event, ImageDeleted)))
        self._write(before, step)
        transaction.append(*step.announced)
        return step

    def _is_repeat(self, attempt: JobStarted | JobRetrying | None) -> bool:
        """Mirrors `store.add_attempts` and `_is_repeat`."""
        if attempt is None:
            return False
        if isinstance(attempt, JobStarted):
            key: tuple[object, ...] = (attempt.job_id, "started", attempt.call_no, attempt.attempt)
        else:
            key = (attempt.job_id, "retrying", attempt.stage, attempt.index, attempt.attempt)
        known = key in self.tables.attempts
        self.tables.attempts[key] = True
        return known and isinstance(attempt, JobRetrying)

    def _write(self, before: Job, step: Step) -> None:
        """Mirrors `Jobs._write` and the statements that it uses."""
        now_s, job = self._world.clockwork.now_s, step.job
        if job != before:
            for slot in job.slots:
                if slot.uploaded:
                    self.tables.images.setdefault(slot.image_id, ImageRow(slot.uploaded))
            # What image.uploaded said is in `images`; a job that is read again does not carry it.
            slots = tuple(replace(slot, uploaded=None) for slot in job.slots)
            row = self.tables.jobs[job.job_id]
            self.tables.jobs[job.job_id] = replace(row, status=job.status, job=replace(job, slots=slots), news_s=now_s)
        for event in step.announced:
            if isinstance(event, ImageDeleted):
                index = next(slot.index for slot in job.slots if slot.image_id == event.image_id)
                self.tables.add_deletion(index, event, now_s)

    async def delete_image(self, user_id: str, image_id: UUID) -> None:
        """Mirrors `Images.delete`, one image at a time.

        Raises:
            NotFound: The user never had it.
        """

        def delete(transaction: Transaction) -> None:
            image = self.tables.images.get(image_id)
            if image is None or image.event.user_id != user_id:
                raise NotFound
            if image.deleted:
                return
            told = image.event
            self.tables.images[image_id] = replace(image, deleted=True)
            self._mark_deleted(told)
            event = lifecycle.deleted_event(
                told.job_id, user_id, told.index, image_id, keys=tuple(told.keys.all()), reason="user"
            )
            self.tables.add_deletion(told.index, event, self._world.clockwork.now_s)
            transaction.append(event)

        await self.outbox.transaction(f"deletes image {short(image_id)}", delete)

    def _mark_deleted(self, told: ImageUploaded) -> None:
        """Whether an image is deleted stands in `images`; a job that is read again says so."""
        row = self.tables.jobs[told.job_id]
        if row.job:
            slots = tuple(
                replace(slot, deleted=True) if slot.image_id == told.image_id else slot for slot in row.job.slots
            )
            self.tables.jobs[told.job_id] = replace(row, job=replace(row.job, slots=slots))

    async def change_found(self, what: str, find: Callable[[], list[UUID]], rule: Rule) -> None:
        """Mirrors `Jobs.change_found`; no transaction where nothing is found."""
        if not find():
            return

        def change(transaction: Transaction) -> None:
            for job_id in find():
                self.apply(job_id, rule, None, transaction)

        await self.outbox.transaction(what, change)


def _follow_blindly(job: Job, now: datetime, *, event: Event) -> Step:
    """Follow an event as if a slot's last state won, not its first terminal one."""
    slots = tuple(
        replace(slot, state="pending", code=None, message=None, stage=None) if _reopens(slot, event) else slot
        for slot in job.slots
    )
    return lifecycle.follow(replace(job, slots=slots), now, event=event)


def _reopens(slot: Slot, event: Event) -> bool:
    about = getattr(event, "image_id", None) == slot.image_id
    return about and slot.terminal and event.type != {"uploaded": "image.uploaded"}.get(slot.state)
