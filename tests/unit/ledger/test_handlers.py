"""What a terminal event says about money."""

from datetime import UTC, datetime, timedelta

import pytest

from pixorly.events import JobCanceled, JobCompleted, JobFailed, JobSettled, SlotResult
from pixorly.ids import new_id
from pixorly_ledger.handlers import settlement_of

CREATED = datetime(2026, 5, 10, 12, tzinfo=UTC)


def settled(kind: type[JobSettled], *slots: SlotResult) -> JobSettled:
    return kind.of(
        new_id(),
        "ada",
        model="sandbox/aurora",
        n=len(slots),
        credits_per_image=999,
        slots=slots,
        created_at=CREATED,
        settled_at=CREATED + timedelta(seconds=8.5),
        retry_count=2,
    )


def test_slots_are_settled_by_their_codes() -> None:
    event = settled(
        JobCompleted,
        SlotResult(index=1, image_id=new_id(), state="failed", code="no_image", stage="generate"),
        SlotResult(index=0, image_id=new_id(), state="uploaded"),
        SlotResult(index=2, image_id=new_id(), state="failed"),
    )

    settlement = settlement_of(event)

    assert settlement.codes == {0: None, 1: "no_image", 2: "internal_error"}
    assert (settlement.outcome, settlement.processing_ms, settlement.retries) == ("completed", 8500, 2)


@pytest.mark.parametrize(
    ("kind", "outcome", "processing_ms"), [(JobFailed, "failed", 8500), (JobCanceled, "canceled", None)]
)
def test_a_canceled_job_took_no_time(kind: type[JobSettled], outcome: str, processing_ms: int | None) -> None:
    settlement = settlement_of(settled(kind, SlotResult(index=0, image_id=new_id(), state="failed", code="canceled")))

    assert (settlement.outcome, settlement.processing_ms) == (outcome, processing_ms)
