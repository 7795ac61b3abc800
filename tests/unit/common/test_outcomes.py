"""The table of outcomes: complete, and of one mind with the classes of errors."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import pixorly_api
import pixorly_generator
import pixorly_ledger
import pixorly_uploader
from pixorly.delivery import Held
from pixorly.errors import ContentRejected, OutageError, PixorlyError, ServerError, TransientError, UserError
from pixorly.outcomes import OUTCOMES, outcome_of
from pixorly.topology import LADDER_S

WORKERS = ("pixorly_generator", "pixorly_uploader")
SAID_BY_WORKERS = ("missing_image", "deadline_exceeded", "canceled", "internal_error")
"""Codes that end a slot without an error of that name."""


def _subclasses(kind: type[PixorlyError]) -> Iterator[type[PixorlyError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _errors() -> list[type[PixorlyError]]:
    """Every class of error of the project's, those of the services included."""
    for package in (pixorly_api, pixorly_generator, pixorly_ledger, pixorly_uploader):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found: set[type[PixorlyError]] = {PixorlyError, *_subclasses(PixorlyError)}
    return sorted(
        (kind for kind in found if kind.__module__.startswith("pixorly")),
        key=lambda kind: (kind.__qualname__, kind.__module__),
    )


ERRORS = _errors()


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_the_code_of_every_error_is_in_the_table(kind: type[PixorlyError]) -> None:
    assert kind.code in OUTCOMES


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_and_its_row_are_of_one_mind(kind: type[PixorlyError]) -> None:
    row = OUTCOMES[kind.code]

    if issubclass(kind, TransientError):
        assert (row.fault, row.waits) == ("server", False)
        assert 1 <= row.retries <= len(LADDER_S)
    elif issubclass(kind, OutageError | Held):
        assert (row.status, row.fault, row.retries, row.waits) == (503, None, 0, True)
    elif issubclass(kind, ServerError):
        assert (row.fault, row.retries, row.waits) == ("server", 0, False)
        assert row.status == 500
    elif issubclass(kind, UserError):
        assert row.fault in {None, "user"}
        assert 400 <= row.status < 500
        assert (row.retries, row.waits) == (0, False)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_that_ends_a_slot_says_who_pays(kind: type[PixorlyError]) -> None:
    if issubclass(kind, TransientError | ServerError | ContentRejected) or (
        issubclass(kind, UserError) and kind.__module__.startswith(WORKERS)
    ):
        assert OUTCOMES[kind.code].fault is not None


@pytest.mark.parametrize("code", SAID_BY_WORKERS)
def test_a_code_without_an_error_that_ends_a_slot_is_refunded(code: str) -> None:
    assert OUTCOMES[code].refunded
    assert OUTCOMES[code].retries == 0


def test_only_rejected_content_is_paid_for_without_an_image() -> None:
    paid = {code for code, row in OUTCOMES.items() if row.fault == "user"}

    assert paid == {"content_rejected"}
    assert not OUTCOMES["content_rejected"].refunded


def test_what_never_ends_a_slot_refunds_nothing_and_is_never_tried_again() -> None:
    for row in OUTCOMES.values():
        if row.fault is None:
            assert not row.refunded
            assert row.retries == 0


def test_an_outage_alone_is_waited_for() -> None:
    assert {code for code, row in OUTCOMES.items() if row.waits} == {"service_unavailable"}


def test_every_row_has_words_for_the_user_and_a_status_that_is_an_error() -> None:
    for code, row in OUTCOMES.items():
        assert row.code == code == code.lower()
        assert 400 <= row.status < 600
        assert row.message.endswith(".")
        assert row.message[0].isupper()


def test_no_code_is_listed_twice() -> None:
    messages = [row.message for row in OUTCOMES.values()]

    assert len(set(messages)) == len(messages) == len(OUTCOMES)


def test_a_code_that_nobody_knows_is_our_fault() -> None:
    assert outcome_of("never_heard_of") == OUTCOMES["internal_error"]
    assert outcome_of("never_heard_of").refunded
    assert outcome_of("content_rejected") == OUTCOMES["content_rejected"]


def test_an_error_without_words_has_those_of_its_class() -> None:
    assert ContentRejected().message == "The prompt was refused by the provider's content rules."
    assert str(ContentRejected("other words")) == "other words"
    assert OutageError("ledger").message == "ledger is away."


def test_an_error_carries_its_facts() -> None:
    error = TransientError("words", retry_after_s=3, needed_credits=7)

    assert error.facts == {"needed_credits": 7}
    assert error.retry_after_s == 3
    assert OutageError("s3", retry_after_s=1, a=1).facts == {"a": 1}
