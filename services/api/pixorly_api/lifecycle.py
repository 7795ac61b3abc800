"""The life of a job as pure rules: what an event, a client or the clock changes, and what follows from it.

Nothing here reads a clock, a table or a network, so every order of events can be tried. A rule takes a job and the
time and returns a `Step`: the job as it is now, and the events that announce it.

States only move forward and a slot's first terminal state wins, so events may come late, twice or in any order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from pixorly.events import (
    Event,
    ImageDeleted,
    ImageFailed,
    ImageGenerated,
    ImageParams,
    ImageUploaded,
    ImageVacated,
    JobCanceled,
    JobCompleted,
    JobCreated,
    JobFailed,
    JobRetrying,
    JobSettled,
    JobStarted,
    PlannedCall,
    SlotResult,
    Stage,
    Visibility,
)
from pixorly.keys import image_prefix
from pixorly.outcomes import Fault, Outcome, outcome_of
from pixorly_api.errors import AlreadyStarted

SlotState = Literal["pending", "generated", "uploaded", "failed"]
JobStatus = Literal["pending", "processing", "uploading", "completed", "failed", "canceled"]

OPEN: Final = ("pending", "processing", "uploading")
SETTLED: Final = ("completed", "failed", "canceled")
_ENDINGS: Final[dict[str, type[JobSettled]]] = {
    "completed": JobCompleted,
    "failed": JobFailed,
    "canceled": JobCanceled,
}
_MESSAGE_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the images that a job asks for.

    Attributes:
        index: Its place in the job.
        image_id: The image's id, fixed when the job was made.
        state: pending → generated → uploaded, or failed from either of the first two.
        code: Why it failed, as the table of outcomes names it.
        message: Why it failed, for a person.
        stage: Where it failed.
        generated: What image.generated said, so that it can be said again.
        uploaded: What image.uploaded said, in the step that made it so.
        deleted: Whether its user has deleted the image.
        original_key: Where the image lies, once it is stored.
    """

    index: int
    image_id: UUID
    state: SlotState = "pending"
    code: str | None = None
    message: str | None = None
    stage: Stage | None = None
    generated: ImageGenerated | None = None
    uploaded: ImageUploaded | None = None
    deleted: bool = False
    original_key: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether nothing changes it any more."""
        return self.state in {"uploaded", "failed"}

    @property
    def fault(self) -> Fault | None:
        """Whose fault it is that it failed."""
        return outcome_of(self.code).fault if self.code else None

    def failed(self, code: str, message: str | None, stage: Stage) -> "Slot":
        """Return the slot as failed, if it is open."""
        if self.terminal:
            return self
        outcome = ending_of(code)
        text = (message or outcome.message)[:_MESSAGE_MAX]
        return replace(self, state="failed", code=outcome.code, message=text, stage=stage)


def ending_of(code: str) -> Outcome:
    """Return what `code` means for a slot; one that should never end a slot is our fault: nobody pays for it."""
    outcome = outcome_of(code)
    return outcome if outcome.fault else outcome_of("internal_error")


@dataclass(frozen=True, slots=True)
class Job:
    """A promised job: charged and announced.

    Attributes:
        place: Where in which trace it was made, as `telemetry.here` says it.
    """

    job_id: UUID
    user_id: str
    status: JobStatus
    model: str
    prompt: str = field(repr=False)
    params: ImageParams
    n: int
    plan: str
    calls: tuple[PlannedCall, ...]
    credits_per_image: int
    created_at: datetime
    deadline: datetime
    started_at: datetime | None
    settled_at: datetime | None
    retry_count: int
    slots: tuple[Slot, ...]
    fallback_models: tuple[str, ...] = ()
    visibility: Visibility = "private"
    place: str | None = None

    @property
    def settled(self) -> bool:
        """Whether the job has ended."""
        return self.status in SETTLED


@dataclass(frozen=True, slots=True)
class Step:
    """What a rule makes of a job.

    Attributes:
        job: The job as it is now.
        announced: What must be published because of it, together with it.
    """

    job: Job
    announced: tuple[Event, ...] = ()


Rule = Callable[[Job, datetime], Step]
"""Takes a job and the database's time."""


def advance(slot: Slot, event: Event) -> Slot:
    """Return what `event` makes of a slot."""
    match event:
        case ImageGenerated() if slot.state == "pending":
            return replace(slot, state="generated", generated=event)
        case ImageUploaded() if not slot.terminal:
            return replace(slot, state="uploaded", uploaded=event)
        case ImageFailed(code=code, message=message, stage=stage):
            return slot.failed(code, message, stage)
        case _:
            return slot


def unwanted(before: Slot, after: Slot, event: Event | None) -> str | None:
    """Return why what may lie in the bucket for a slot must not, or None.

    `before` and `after` are the slot around a step, `event` what caused it, if an event did.
    """
    if after.deleted and isinstance(event, ImageUploaded):
        return "deleted"
    if after.state != "failed":
        return None
    told_late = before.state == "failed" and isinstance(event, ImageGenerated | ImageUploaded)
    # Without an event nobody asked the workers: the news of what they stored may have been lost on its way.
    untold = event is None and before.state == "pending"
    return "failed" if told_late or untold or before.state == "generated" else None


def follow(job: Job, now: datetime, *, event: Event) -> Step:
    """Return what a worker's event makes of a job."""
    match event:
        case JobStarted():
            return Step(_begun(job, "processing", now))
        case JobRetrying():
            if job.settled:
                return Step(job)
            return Step(replace(_begun(job, "processing", now), retry_count=job.retry_count + 1))
        case ImageGenerated() | ImageUploaded() | ImageFailed():
            return _image_news(job, now, event)
        case _:
            return Step(job)


def _image_news(job: Job, now: datetime, event: ImageGenerated | ImageUploaded | ImageFailed) -> Step:
    before = slot_of(job, event)
    if before is None:
        return Step(job)
    after = advance(before, event)
    began = _begun(job, "processing" if isinstance(event, ImageFailed) else "uploading", now)
    changed = replace(began, slots=tuple(after if slot is before else slot for slot in job.slots))
    return _concluded(job, changed, now, event)


def slot_of(job: Job, event: ImageGenerated | ImageUploaded | ImageFailed) -> Slot | None:
    """Return the slot that an event is about; None if the job has no such image."""
    return next((slot for slot in job.slots if (slot.index, slot.image_id) == (event.index, event.image_id)), None)


def _begun(job: Job, status: Literal["processing", "uploading"], now: datetime) -> Job:
    if job.settled:
        return job
    later = max(job.status, status, key=OPEN.index)
    return replace(job, status=later, started_at=job.started_at or now)


def cancel(job: Job, now: datetime) -> Step:
    """Take a job back before it is begun; one that was taken back stays so.

    Raises:
        AlreadyStarted: It was begun, or has ended.
    """
    if job.status == "canceled":
        return Step(job)
    if job.status != "pending":
        raise AlreadyStarted(status=job.status)
    return fail_open(job, now, code="canceled")


def expire(job: Job, now: datetime) -> Step:
    """End a job whose deadline has passed."""
    return fail_open(job, now, code="deadline_exceeded") if now >= job.deadline else Step(job)


def fail_open(job: Job, now: datetime, *, code: str) -> Step:
    """Fail every slot that is open, and settle the job."""
    slots = tuple(slot.failed(code, None, "settle") for slot in job.slots)
    return _concluded(job, replace(job, slots=slots), now, None)


def bury_creation(job: Job, now: datetime) -> Step:
    """Fail the slots that a job.created served when nobody could handle it: those of which no image was made."""
    slots = tuple(
        slot.failed("internal_error", None, "generate") if slot.state == "pending" else slot for slot in job.slots
    )
    return _concluded(job, replace(job, slots=slots), now, None)


def bury_image(job: Job, now: datetime, *, event: ImageGenerated) -> Step:
    """Fail the slot that an image.generated was about when nobody could handle it."""
    if slot_of(job, event) is None:
        return Step(job)
    slots = tuple(
        slot.failed("internal_error", None, "upload") if slot.image_id == event.image_id else slot for slot in job.slots
    )
    return _concluded(job, replace(job, slots=slots), now, None)


def settle(job: Job, now: datetime) -> Step:
    """End a job whose slots are all terminal."""
    if job.settled or not all(slot.terminal for slot in job.slots):
        return Step(job)
    settled = replace(job, status=ending(job.slots), settled_at=now)
    return Step(settled, (settlement(settled),))


def ending(slots: tuple[Slot, ...]) -> JobStatus:
    """Return how a job with these slots, all terminal, has ended."""
    if any(slot.state == "uploaded" for slot in slots):
        return "completed"
    return "canceled" if all(slot.code == "canceled" for slot in slots) else "failed"


def _concluded(before: Job, after: Job, now: datetime, event: Event | None) -> Step:
    """Settle `after` if it is due, and announce the deletions that follow from the step."""
    deletions = tuple(
        deletion(after, new, reason, event)
        for old, new in zip(before.slots, after.slots, strict=True)
        if (new is not old or _concerns(event, new)) and (reason := unwanted(old, new, event))
    )
    step = settle(after, now)
    return Step(step.job, (*step.announced, *deletions, *_strays(after, event)))


def _strays(job: Job, event: Event | None) -> tuple[ImageVacated, ...]:
    """Return the event that clears up an upload that was repeated after its image had moved elsewhere."""
    slot = slot_of(job, event) if isinstance(event, ImageUploaded) else None
    if slot is None or slot.deleted or not isinstance(event, ImageUploaded):
        return ()
    if slot.original_key is None or slot.original_key == event.keys.original:
        return ()
    return (ImageVacated.of(job.job_id, job.user_id, image_id=slot.image_id, keys=tuple(event.keys.all())),)


def _concerns(event: Event | None, slot: Slot) -> bool:
    return getattr(event, "image_id", None) == slot.image_id


def deletion(job: Job, slot: Slot, reason: str, event: Event | None = None) -> ImageDeleted:
    """Return the event that has an image removed."""
    keys = tuple(event.keys.all()) if isinstance(event, ImageUploaded) else ()
    return deleted_event(job.job_id, job.user_id, slot.index, slot.image_id, keys=keys, reason=reason)


def deleted_event(
    job_id: UUID, user_id: str, index: int, image_id: UUID, *, keys: tuple[str, ...], reason: str
) -> ImageDeleted:
    """Return the event that has an image removed; everything of it lies under a prefix that follows from its ids."""
    prefix = image_prefix(user_id, job_id, index, image_id)
    return ImageDeleted.of(job_id, user_id, image_id=image_id, prefix=prefix, keys=keys, reason=reason)


def settlement(job: Job) -> JobSettled:
    """Return the one terminal event of a settled job; the same each time it is asked for."""
    return _ENDINGS[job.status].of(job.job_id, job.user_id, occurred_at=job.settled_at, **_settlement_facts(job))


def _settlement_facts(job: Job) -> dict[str, Any]:
    return {
        "model": job.model,
        "n": job.n,
        "credits_per_image": job.credits_per_image,
        "slots": tuple(
            SlotResult(
                index=slot.index,
                image_id=slot.image_id,
                state="uploaded" if slot.state == "uploaded" else "failed",
                code=slot.code,
                stage=slot.stage,
            )
            for slot in job.slots
        ),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "settled_at": job.settled_at,
        "retry_count": job.retry_count,
    }


def creation(job: Job) -> JobCreated:
    """Return the job.created of a job; the same each time it is asked for."""
    return JobCreated.of(
        job.job_id,
        job.user_id,
        occurred_at=job.created_at,
        model=job.model,
        prompt=job.prompt,
        params=job.params,
        n=job.n,
        plan=job.plan,
        deadline=job.deadline,
        image_ids=tuple(slot.image_id for slot in job.slots),
        calls=job.calls,
        fallback_models=job.fallback_models,
        visibility=job.visibility,
    )


def awaited(job: Job) -> tuple[Event, ...]:
    """Return the events that the open slots of a job wait for somebody to handle."""
    if job.settled:
        return ()
    made = tuple(slot.generated for slot in job.slots if slot.state == "generated" and slot.generated)
    return (creation(job), *made) if any(slot.state == "pending" for slot in job.slots) else made


def refunded_credits(job: Job) -> int:
    """Return what a settled job gave back; nothing before, since the credits come back with the settlement."""
    if not job.settled:
        return 0
    back = sum(1 for slot in job.slots if slot.code and outcome_of(slot.code).refunded)
    return back * job.credits_per_image
