"""Events in: a settled job settles its charge."""

from pixorly.delivery import Delivery
from pixorly.events import JobSettled
from pixorly_ledger.credits import Credits, Settlement
from pixorly_ledger.rows import Outcome

_OUTCOMES: dict[str, Outcome] = {"job.completed": "completed", "job.failed": "failed", "job.canceled": "canceled"}


async def settle_job(credits_: Credits, event: JobSettled, _: Delivery) -> None:
    """Capture and refund what the job took; a repeat changes nothing."""
    await credits_.settle(settlement_of(event))


def settlement_of(event: JobSettled) -> Settlement:
    """Return what a terminal event says about money: who pays follows from the codes, not from the event."""
    outcome = _OUTCOMES[event.type]
    elapsed_ms = round((event.settled_at - event.created_at).total_seconds() * 1000)
    return Settlement(
        job_id=event.job_id,
        user_id=event.user_id,
        outcome=outcome,
        model=event.model,
        codes={slot.index: None if slot.state == "uploaded" else slot.code or "internal_error" for slot in event.slots},
        settled_at=event.settled_at,
        processing_ms=None if outcome == "canceled" else max(0, elapsed_ms),
        retries=event.retry_count,
    )
