"""Events: their ids, and what is and is not read."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from samples import IMAGES, JOB, NOON, SAMPLES, USER

from pixorly.events import EVENTS, Event, ImageFailed, ImageGenerated, JobCreated, JobRetrying, JobSettled, JobStarted
from pixorly.ids import derived_id, new_id

KINDS = sorted(EVENTS)
OTHER_JOB = UUID("019a1b2c-0000-7000-8000-000000000002")


def again(kind: str, **changes: Any) -> Event:
    """Make the sample of a type again from its parts, in another minute, with changes."""
    sample = SAMPLES[kind]
    parts = {name: getattr(sample, name) for name in type(sample).model_fields if name != "event_id"}
    parts["occurred_at"] = NOON + timedelta(minutes=1)
    return EVENTS[kind].of(**{**parts, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_a_repeat_has_the_same_id_whenever_it_is_made(kind: str) -> None:
    assert again(kind).event_id == SAMPLES[kind].event_id
    assert again(kind).occurred_at != SAMPLES[kind].occurred_at


@pytest.mark.parametrize("kind", KINDS)
def test_another_job_has_another_id(kind: str) -> None:
    assert again(kind, job_id=OTHER_JOB).event_id != SAMPLES[kind].event_id


def test_no_two_types_share_an_id() -> None:
    assert len({event.event_id for event in SAMPLES.values()}) == len(EVENTS)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("image.generated", {"index": 0}),
        ("image.uploaded", {"index": 0}),
        ("image.failed", {"index": 0}),
        ("image.failed", {"stage": "upload"}),
        ("job.started", {"attempt": 3}),
        ("job.started", {"call_no": 0}),
        ("job.retrying", {"attempt": 3}),
        ("job.retrying", {"stage": "generate"}),
        ("job.retrying", {"index": 0}),
        ("image.deleted", {"image_id": IMAGES[0]}),
    ],
)
def test_what_is_another_fact_has_another_id(kind: str, changes: dict[str, Any]) -> None:
    assert again(kind, **changes).event_id != SAMPLES[kind].event_id


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("image.generated", {"sha256": "0" * 64, "bytes": 1}),
        ("image.failed", {"code": "internal_error", "fault": "server"}),
        ("job.started", {"provider": "openrouter"}),
        ("job.retrying", {"delay_s": 8, "code": "provider_timeout"}),
        ("image.deleted", {"reason": "slot_failed"}),
        ("job.completed", {"retry_count": 9}),
    ],
)
def test_the_same_fact_in_other_words_has_the_same_id(kind: str, changes: dict[str, Any]) -> None:
    assert again(kind, **changes).event_id == SAMPLES[kind].event_id


def test_a_default_and_the_same_value_given_have_the_same_id() -> None:
    left_out = JobStarted.of(JOB, USER, attempt=1, provider="sandbox")
    given = JobStarted.of(JOB, USER, call_no=0, attempt=1, provider="sandbox")

    assert left_out.event_id == given.event_id


def test_the_three_endings_of_a_job_are_three_facts() -> None:
    settled = [kind for kind in KINDS if issubclass(EVENTS[kind], JobSettled)]

    assert settled == ["job.canceled", "job.completed", "job.failed"]
    assert len({SAMPLES[kind].event_id for kind in settled}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_comes_back_as_it_went(kind: str) -> None:
    assert EVENTS[kind].model_validate_json(SAMPLES[kind].to_json()) == SAMPLES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_never_changes(kind: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SAMPLES[kind].user_id = "eve"  # type: ignore[misc]


def test_the_parts_of_an_event_never_change_either() -> None:
    created = SAMPLES["job.created"]

    assert isinstance(created, JobCreated)
    with pytest.raises(ValidationError, match="frozen"):
        created.params.width = 1  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_listed_under_its_own_type_which_says_what_and_what_happened(kind: str) -> None:
    assert EVENTS[kind].type == kind
    subject, _, happened = kind.partition(".")
    assert subject in {"job", "image"}
    assert EVENTS[kind].__name__ == subject.capitalize() + happened.capitalize()


@pytest.mark.parametrize("kind", KINDS)
def test_no_event_carries_bytes(kind: str) -> None:
    """Image bytes never travel through RabbitMQ, in whatever disguise."""
    for name, field in EVENTS[kind].model_fields.items():
        assert field.annotation is not bytes
        assert "data" not in name
        assert "base64" not in name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("user_id", "x" * 129),
        ("job_id", "not an id"),
        ("occurred_at", "2026-03-04T12:00:00"),
        ("index", -1),
        ("bytes", -1),
    ],
)
def test_an_event_that_cannot_be_is_refused(field: str, value: Any) -> None:
    sample = SAMPLES["image.generated"]

    with pytest.raises(ValidationError) as refused:
        ImageGenerated.model_validate({**sample.model_dump(), field: value})

    assert [error["loc"] for error in refused.value.errors()] == [(field,)]


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    """It ends in logs, where prompts do not belong."""
    with pytest.raises(ValidationError) as refused:
        JobCreated.model_validate({"prompt": ["a secret wish"]})

    assert "secret" not in str(refused.value)


def test_a_job_asks_for_one_to_ten_images() -> None:
    for n in (0, 11):
        with pytest.raises(ValidationError):
            again("job.created", n=n)


def test_the_first_attempt_is_the_first() -> None:
    with pytest.raises(ValidationError):
        JobRetrying.of(JOB, USER, stage="upload", attempt=0, delay_s=2, code="x")


def test_an_event_happens_now_unless_it_is_told_otherwise() -> None:
    before = datetime.now(UTC)
    event = ImageFailed.of(JOB, USER, index=0, image_id=IMAGES[0], code="x", message="", fault="server", stage="upload")

    assert before <= event.occurred_at <= datetime.now(UTC)


def test_a_new_id_is_new_and_later_ids_sort_behind() -> None:
    ids = [new_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert {id_.version for id_ in ids} == {7}


def test_a_derived_id_is_that_of_its_parts_for_ever() -> None:
    assert derived_id("a", 1) == UUID("788a65fd-6210-5a5b-b81e-ab07c532f759")
    assert derived_id("a", 1) == derived_id("a", "1")
    assert len({derived_id("a", 1), derived_id("a", 2), derived_id("a"), derived_id(1, "a")}) == 4
