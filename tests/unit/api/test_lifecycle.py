"""The rules of a job, tried in every order."""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixorly import catalogue
from pixorly.events import (
    Event,
    ImageDeleted,
    ImageFailed,
    ImageGenerated,
    ImageParams,
    ImageUploaded,
    JobRetrying,
    JobSettled,
    JobStarted,
    StoredKeys,
)
from pixorly.outcomes import OUTCOMES
from pixorly.topology import PUBLISHES, REPEATS
from pixorly_api import lifecycle
from pixorly_api.errors import AlreadyStarted
from pixorly_api.lifecycle import Job, Rule, Slot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = UUID("0199b1f4-0000-7000-8000-000000000000")
ENDS = sorted(code for code, outcome in OUTCOMES.items() if outcome.fault)


def make_job(n: int = 1) -> Job:
    model = catalogue.load().find("sandbox/aurora")
    return Job(
        job_id=JOB,
        user_id="demo",
        status="pending",
        model=model.id,
        prompt="a lake",
        params=ImageParams(width=64, height=64),
        n=n,
        plan="pro",
        calls=model.calls(n),
        credits_per_image=5,
        created_at=NOW,
        deadline=NOW + timedelta(minutes=30),
        started_at=None,
        settled_at=None,
        retry_count=0,
        slots=tuple(Slot(index, UUID(int=index + 1)) for index in range(n)),
    )


def generated(index: int = 0) -> ImageGenerated:
    return ImageGenerated.of(
        JOB,
        "demo",
        occurred_at=NOW,
        index=index,
        image_id=UUID(int=index + 1),
        staged_key="staging/x",
        content_type="image/png",
        sha256="x",
        bytes=1,
    )


def uploaded(index: int = 0) -> ImageUploaded:
    return ImageUploaded.of(
        JOB,
        "demo",
        occurred_at=NOW,
        index=index,
        image_id=UUID(int=index + 1),
        keys=StoredKeys(original="users/x"),
        bytes=1,
        width=1,
        height=1,
        content_type="image/png",
        sha256="x",
        thumbhash="x",
    )


def failed(index: int = 0, code: str = "provider_timeout") -> ImageFailed:
    return ImageFailed.of(
        JOB,
        "demo",
        occurred_at=NOW,
        index=index,
        image_id=UUID(int=index + 1),
        code=code,
        message="",
        fault="server",
        stage="generate",
    )


def started(attempt: int = 1) -> JobStarted:
    return JobStarted.of(JOB, "demo", occurred_at=NOW, attempt=attempt, provider="sandbox")


def retrying(attempt: int = 1) -> JobRetrying:
    return JobRetrying.of(JOB, "demo", occurred_at=NOW, stage="generate", attempt=attempt, delay_s=2, code="no_image")


def run(job: Job, rules: Iterable[Rule]) -> tuple[Job, list[Event]]:
    """Apply rules in order, a second apart."""
    announced: list[Event] = []
    for seconds, rule in enumerate(rules):
        step = rule(job, NOW + timedelta(seconds=seconds))
        job = step.job
        announced += step.announced
    return job, announced


def following(events: Iterable[Event]) -> list[Rule]:
    return [partial(lifecycle.follow, event=event) for event in events]


def shape(job: Job) -> object:
    """Return what must not depend on the order of events."""
    return job.status, job.retry_count, [(slot.state, slot.code) for slot in job.slots]


def settlements(announced: Sequence[Event]) -> list[JobSettled]:
    return [event for event in announced if isinstance(event, JobSettled)]


def deletions(announced: Sequence[Event]) -> set[UUID]:
    return {event.image_id for event in announced if isinstance(event, ImageDeleted)}


CONSISTENT: list[list[Event]] = [
    [started(), generated(0), uploaded(0)],
    [started(), generated(0), failed(0)],
    [started(), retrying(), generated(0), uploaded(0), failed(1)],
    [started(), generated(0), generated(1), uploaded(0), uploaded(1)],
    [started(), failed(0), failed(1, "content_rejected")],
    [generated(0), failed(0), generated(1), failed(1)],
]


@pytest.mark.parametrize("events", CONSISTENT)
def test_every_order_of_events_ends_in_the_same_job(events: list[Event]) -> None:
    n = 1 + max(getattr(event, "index", 0) for event in events)
    results = [run(make_job(n), following(order)) for order in itertools.permutations(events)]
    # A retry that is told of after the end does not count: whoever reads the end has the number from there.
    ends = {str(shape(job)[0::2]) for job, _ in results}  # type: ignore[index]
    assert len(ends) == 1
    assert {len(settlements(announced)) for _, announced in results} == {1}
    assert len({frozenset(deletions(announced)) for _, announced in results}) == 1


@pytest.mark.parametrize("events", CONSISTENT)
def test_every_order_with_every_event_twice_ends_in_the_same_job(events: list[Event]) -> None:
    n = 1 + max(getattr(event, "index", 0) for event in events)
    told = [event for event in events if not isinstance(event, JobRetrying)]
    once = shape(run(make_job(n), following(told))[0])
    orders = list(itertools.permutations([*told, *told[:2]]))
    for order in orders[:: max(1, len(orders) // 100)]:
        job, announced = run(make_job(n), following(order))
        assert shape(job) == once
        assert len(settlements(announced)) == 1


def anything(n: int) -> st.SearchStrategy[list[Rule]]:
    """Return lists of whatever may happen to a job of `n` images, contradictions included."""
    index = st.integers(0, n - 1)
    events = st.one_of(
        st.builds(started, st.integers(1, 3)),
        st.builds(retrying, st.integers(1, 3)),
        st.builds(generated, index),
        st.builds(uploaded, index),
        st.builds(failed, index, st.sampled_from(ENDS)),
    )
    rules: st.SearchStrategy[Rule] = st.one_of(
        events.map(lambda event: partial(lifecycle.follow, event=event)),
        st.just(_tried(lifecycle.cancel)),
        st.just(partial(lifecycle.fail_open, code="deadline_exceeded")),
        st.just(lifecycle.bury_creation),
        index.map(lambda place: partial(lifecycle.bury_image, event=generated(place))),
        st.just(lifecycle.settle),
        st.just(lifecycle.expire),
    )
    return st.lists(rules, max_size=25)


def _tried(rule: Rule) -> Rule:
    def tried(job: Job, now: datetime) -> lifecycle.Step:
        try:
            return rule(job, now)
        except AlreadyStarted:
            return lifecycle.Step(job)

    return tried


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), anything(n))))
def test_whatever_happens_states_only_move_forward_and_a_job_ends_once(case: tuple[int, list[Rule]]) -> None:
    n, rules = case
    job, settled = make_job(n), 0
    ranks = {"pending": 0, "processing": 1, "uploading": 2, "completed": 3, "failed": 3, "canceled": 3}
    for seconds, rule in enumerate(rules):
        step = rule(job, NOW + timedelta(seconds=seconds))
        for before, after in zip(job.slots, step.job.slots, strict=True):
            assert not before.terminal or before == after
            assert (after.state == "failed") == (after.code is not None)
        assert ranks[step.job.status] >= ranks[job.status]
        assert not job.settled or (step.job.status, step.job.settled_at) == (job.status, job.settled_at)
        settled += len(settlements(step.announced))
        job = step.job
        assert job.settled == all(slot.terminal for slot in job.slots)
        assert settled == job.settled


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), anything(n))))
def test_an_image_that_was_stored_for_a_failed_slot_is_always_deleted(case: tuple[int, list[Rule]]) -> None:
    n, rules = case
    job = make_job(n)
    for seconds, rule in enumerate([*rules, *following(uploaded(index) for index in range(n))]):
        step = rule(job, NOW + timedelta(seconds=seconds))
        if isinstance(rule, partial) and isinstance(event := rule.keywords.get("event"), ImageUploaded):
            slot = step.job.slots[event.index]
            assert (event.image_id in deletions(step.announced)) == (slot.state == "failed")
        job = step.job


@pytest.mark.parametrize("code", sorted(OUTCOMES))
def test_a_slot_that_ends_always_has_somebody_who_pays(code: str) -> None:
    job, announced = run(make_job(), following([failed(0, code)]))
    (ended,) = settlements(announced)
    assert OUTCOMES[ended.slots[0].code or ""].fault in {"server", "user"}
    assert lifecycle.refunded_credits(job) == (5 if OUTCOMES[ended.slots[0].code or ""].fault == "server" else 0)


def test_nothing_is_given_back_before_the_end() -> None:
    job, _ = run(make_job(2), following([failed(0)]))
    assert lifecycle.refunded_credits(job) == 0


def test_a_job_is_expired_at_its_deadline_and_not_before() -> None:
    job = make_job()
    assert lifecycle.expire(job, job.deadline - timedelta(microseconds=1)).job == job
    assert lifecycle.expire(job, job.deadline).job.status == "failed"


def test_what_nobody_told_of_an_open_slot_is_deleted_when_the_job_is_ended_without_it() -> None:
    job, _ = run(make_job(2), following([uploaded(0)]))
    ended = lifecycle.expire(job, job.deadline)
    assert deletions(ended.announced) == {ended.job.slots[1].image_id}


def test_a_job_waits_for_what_its_open_slots_need() -> None:
    job, _ = run(make_job(3), following([generated(0), uploaded(1)]))
    assert [event.type for event in lifecycle.awaited(job)] == ["job.created", "image.generated"]
    job, _ = run(job, following([generated(2)]))
    assert lifecycle.awaited(job) == (generated(0), generated(2))
    job, _ = run(job, following([uploaded(0), failed(2)]))
    assert lifecycle.awaited(job) == ()


def test_what_announces_a_job_is_the_same_each_time() -> None:
    job, announced = run(make_job(2), following([uploaded(0), failed(1)]))
    assert announced[0] == lifecycle.settlement(job)
    assert lifecycle.creation(job) == lifecycle.creation(make_job(2))


def test_started_at_is_the_first_news_of_work() -> None:
    job, _ = run(make_job(), [_tried(lifecycle.settle), *following([retrying(), started(2)])])
    assert job.started_at == NOW + timedelta(seconds=1)


def test_a_message_is_cut_where_it_is_too_long() -> None:
    news = failed().model_copy(update={"message": "x" * 10_000})
    job, _ = run(make_job(), following([news]))
    assert len(job.slots[0].message or "") == 500


def test_the_api_may_publish_whatever_follows_from_its_rules() -> None:
    job, told = run(make_job(3), following([generated(0), uploaded(1)]))
    told += lifecycle.awaited(job)
    told += run(job, [partial(lifecycle.fail_open, code="deadline_exceeded")])[1]
    told += run(make_job(), [lifecycle.cancel])[1]
    told += run(make_job(), following([failed(), uploaded()]))[1]
    assert {type(event) for event in told} <= {*PUBLISHES["api"], *REPEATS["api"]}
