"""What becomes of a message is one pure function: here is its whole table."""

import pytest

from pixorly.delivery import Dead, Fail, Fate, Held, Hold, Retry, Wait, fate, step
from pixorly.errors import (
    ContentRejected,
    InsufficientCredits,
    InvalidImage,
    InvalidRequest,
    ModelUnavailable,
    NoImage,
    OutageError,
    PixorlyError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
    ServerError,
    StagedBytesMissing,
    StorageUnavailable,
    TransientError,
    UserError,
)

STEPS = {
    # What the other side asks for: the delay after the first, second and third attempt.
    None: (2, 4, 8),
    0: (2, 4, 8),
    3: (4, 4, 8),
    8.5: (15, 15, 15),
    61: (None, None, None),
    3600: (None, None, None),
}
EDGES = {2: (2, 4, 8), 2.001: (4, 4, 8), 8: (8, 8, 8), 15: (15,) * 3, 15.5: (30,) * 3, 30.5: (60,) * 3, 60: (60,) * 3}
PATIENT = (TransientError, ProviderUnavailable, ProviderRateLimited, ProviderTimeout, StorageUnavailable)
"""What is tried four times in all."""
FINAL = (
    ServerError,
    ProviderRefused,
    ModelUnavailable,
    InvalidImage,
    StagedBytesMissing,
    UserError,
    ContentRejected,
    InvalidRequest,
    InsufficientCredits,
)
"""What no retry mends."""


@pytest.mark.parametrize(("asked_s", "delays"), [*STEPS.items(), *EDGES.items()])
def test_a_step_is_the_ladders_or_the_next_that_is_long_enough(
    asked_s: float | None, delays: tuple[int | None, ...]
) -> None:
    assert tuple(step((2, 4, 8), attempt, asked_s) for attempt in (1, 2, 3)) == delays


def test_a_ladder_of_other_steps_is_kept() -> None:
    assert [step((1, 5, 45), attempt, None) for attempt in (1, 2, 3)] == [1, 5, 45]
    assert [step((1, 5, 45), attempt, 20) for attempt in (1, 2, 3)] == [30, 30, 45]


@pytest.mark.parametrize("kind", PATIENT)
@pytest.mark.parametrize(("asked_s", "delays"), STEPS.items())
def test_a_transient_error_is_tried_again_three_times_after_the_steps(
    kind: type[TransientError], asked_s: float | None, delays: tuple[int | None, ...]
) -> None:
    error = kind("words", retry_after_s=asked_s)
    gives_up = Fail(kind.code, "words")

    found = [fate(error, attempt) for attempt in (1, 2, 3, 4, 5)]

    retries: list[Fate] = [gives_up if delay is None else Retry(delay, kind.code, "words") for delay in delays]
    assert found == [*retries, gives_up, gives_up]


def test_an_answer_without_an_image_is_tried_again_once() -> None:
    error = NoImage()

    assert fate(error, 1) == Retry(2, "no_image", error.message)
    assert fate(error, 2) == Fail("no_image", error.message)
    assert fate(error, 3) == Fail("no_image", error.message)


def test_a_short_ladder_ends_sooner() -> None:
    assert fate(ProviderTimeout("t"), 1, (7,)) == Retry(7, "provider_timeout", "t")
    assert fate(ProviderTimeout("t"), 2, (7,)) == Fail("provider_timeout", "t")
    assert fate(ProviderTimeout("t"), 1, ()) == Fail("provider_timeout", "t")


def test_an_attempt_beyond_the_ladder_fails_whatever_the_header_says() -> None:
    assert fate(ProviderTimeout("t"), 10**9) == Fail("provider_timeout", "t")


@pytest.mark.parametrize("kind", FINAL)
@pytest.mark.parametrize("attempt", [1, 2, 3, 4])
def test_what_no_retry_mends_fails_at_once(kind: type[PixorlyError], attempt: int) -> None:
    assert fate(kind("words"), attempt) == Fail(kind.code, "words")


@pytest.mark.parametrize("attempt", [1, 3, 4, 50])
@pytest.mark.parametrize("asked_s", [None, 3600])
def test_an_outage_waits_and_never_fails(attempt: int, asked_s: float | None) -> None:
    assert fate(OutageError("provider:openrouter", retry_after_s=asked_s), attempt) == Wait("provider:openrouter")


@pytest.mark.parametrize("attempt", [1, 4, 50])
def test_what_somebody_else_holds_is_looked_at_again(attempt: int) -> None:
    assert fate(Held(), attempt) == Hold()


@pytest.mark.parametrize(
    "error", [ValueError("secret prompt"), KeyError("x"), OSError(5, "disk"), TimeoutError(), PixorlyError("odd")]
)
@pytest.mark.parametrize("attempt", [1, 4])
def test_a_bug_is_put_aside_under_its_name_and_without_its_words(error: Exception, attempt: int) -> None:
    assert fate(error, attempt) == Dead(type(error).__name__)


def test_a_failure_knows_who_pays() -> None:
    assert Fail("content_rejected", "").outcome.fault == "user"
    assert Fail("provider_timeout", "").outcome.fault == "server"
    assert Fail("never heard of", "").outcome.fault == "server"
