"""A job's progress in words, marks and lines, and the small words around it."""

import io
from datetime import UTC, datetime

import pytest
from fake_api import image, job
from rich.console import Console

from pixorly_client import Generation
from pixorly_stack.progress import LiveProgress, PlainProgress, progress_on, states
from pixorly_stack.showing import bar, credits_in_words, moment_in_words, short_id, size_in_words

FAILURE = {"index": 1, "code": "no_image", "message": "Nothing came.", "fault": "server"}


def generation(status: str = "pending", **fields: object) -> Generation:
    return Generation.model_validate(job(status, **fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["waiting", "waiting"]),
        ({"status": "processing"}, ["drawing", "drawing"]),
        ({"status": "uploading", "slots": [{"index": 1, "state": "generated"}]}, ["drawing", "storing"]),
        ({"status": "uploading", "slots": [{"index": 0, "state": "uploaded"}]}, ["done", "drawing"]),
        ({"status": "completed", "images": [image(0)], "failures": [FAILURE]}, ["done", "failed"]),
        ({"status": "processing", "slots": [{"index": 9, "state": "uploaded"}]}, ["drawing", "drawing"]),
        ({"status": "processing", "slots": [{"index": 0, "state": "dreaming"}]}, ["drawing", "drawing"]),
    ],
)
def test_each_image_is_somewhere(fields: dict[str, object], expected: list[str]) -> None:
    assert states(generation(**({"n": 2} | fields))) == expected  # type: ignore[arg-type]  # fields include the status


def test_on_a_terminal_the_last_lines_stay() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    progress = progress_on(console)
    assert isinstance(progress, LiveProgress)

    with progress:
        progress.tell(generation(credits_remaining=95, n=2))
        progress.tell(generation("completed", n=2, images=[image(0)], failures=[FAILURE], retry_count=2))

    assert isinstance(console.file, io.StringIO)
    last = console.file.getvalue().split("\x1b[2K")[-1]
    assert "completed  5 credits, 95 left  2 retries" in last
    assert "✓ image 0 done" in last
    assert "✗ image 1 failed Nothing came. (no_image)" in last


def test_elsewhere_each_change_is_a_line_and_repeats_are_none() -> None:
    console = Console(file=io.StringIO(), width=100)
    progress = progress_on(console)
    assert isinstance(progress, PlainProgress)

    with progress:
        for _ in range(3):
            progress.tell(generation("processing"))

    assert isinstance(console.file, io.StringIO)
    assert len(console.file.getvalue().splitlines()) == 2


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123 kB"),
        (10**11, "100 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes_have_the_unit_that_suits_them(count: int | None, words: str) -> None:
    assert size_in_words(count) == words


def test_one_credit_is_one() -> None:
    assert [credits_in_words(count) for count in (0, 1, 1000)] == ["0 credits", "1 credit", "1,000 credits"]


@pytest.mark.parametrize(("value", "expected"), [(0, ""), (1, "▏"), (50, "█████"), (53, "█████▎"), (100, "██████████")])
def test_bars_say_how_much(value: int, expected: str) -> None:
    assert bar(value, 100, width=10) == expected


def test_a_bar_of_nothing_is_empty() -> None:
    assert bar(0, 0) == ""


def test_a_time_of_today_needs_no_date() -> None:
    now = datetime(2025, 1, 2, 12, 0, tzinfo=UTC)

    assert len(moment_in_words(now, now)) == len("12:00:00")
    assert moment_in_words(datetime(2024, 12, 24, 12, 0, tzinfo=UTC), now) == "2024-12-24"
    assert moment_in_words(None) == "-"


def test_short_ids_are_the_end_for_the_beginning_is_the_time() -> None:
    assert short_id("0199aaaa-0000-7000-8000-0000deadbeef") == "deadbeef"
