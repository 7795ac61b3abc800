"""Logs are JSON, one object a line, with the trace's and the job's ids."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from pixorly import telemetry
from pixorly.settings import ProcessSettings

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{SPAN:016x}-01"

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Set logging up as a process does, and return what it wrote."""
    written = StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    root = logging.getLogger()
    before = (root.handlers, root.level)
    telemetry.setup("uploader", ProcessSettings(log_level="INFO"))
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers, root.level = before
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_says_who_what_and_when(lines: Lines) -> None:
    structlog.get_logger().info("an image was stored", bytes=7)

    (line,) = lines()
    assert line["message"] == "an image was stored"
    assert (line["service"], line["level"], line["bytes"]) == ("uploader", "info", 7)
    assert line["time"].endswith("Z")
    assert "trace_id" not in line


def test_a_line_carries_the_trace_and_the_job(lines: Lines) -> None:
    with telemetry.continued({"traceparent": TRACEPARENT}), structlog.contextvars.bound_contextvars(job_id="j-1"):
        structlog.get_logger().info("here")
    structlog.get_logger().info("there")

    here, there = lines()
    assert (here["trace_id"], here["span_id"], here["job_id"]) == (f"{TRACE:032x}", f"{SPAN:016x}", "j-1")
    assert not {"trace_id", "span_id", "job_id"} & set(there)


def test_a_long_text_is_cut(lines: Lines) -> None:
    structlog.get_logger().info("m" * 10_000, prompt_like="x" * 10_000, short="y")

    (line,) = lines()
    assert line["message"] == "m" * 4096 + "…"
    assert line["prompt_like"] == "x" * 4096 + "…"
    assert line["short"] == "y"


def test_a_text_with_line_breaks_stays_one_line(lines: Lines) -> None:
    forged = 'x\n{"message": "all is well"}\r\n\u2028'

    structlog.get_logger().error(forged, reason=forged)
    logging.getLogger("foreign").error("%s", forged)

    assert [line["message"] for line in lines()] == [forged, forged]


def test_an_exception_is_part_of_its_line(lines: Lines) -> None:
    def fail() -> None:
        raise ValueError("planted")

    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("it failed")

    (line,) = lines()
    assert "ValueError: planted" in line["exception"]
    assert "Traceback" in line["exception"]


def test_foreign_logs_look_the_same_and_only_warnings_are_kept(lines: Lines) -> None:
    with telemetry.continued({"traceparent": TRACEPARENT}):
        logging.getLogger("asyncio").warning("slow %s", "callback")
        logging.getLogger("httpx").info("chatter")

    (line,) = lines()
    assert (line["message"], line["level"], line["service"]) == ("slow callback", "warning", "uploader")
    assert line["trace_id"] == f"{TRACE:032x}"


def test_what_is_below_the_level_is_not_written(lines: Lines) -> None:
    structlog.get_logger().debug("detail")

    assert lines() == []


def test_the_trace_context_goes_out_as_it_came_in() -> None:
    with telemetry.continued({"traceparent": TRACEPARENT, "tracestate": "a=1", "x-other": "no"}):
        assert telemetry.carried() == {"traceparent": TRACEPARENT, "tracestate": "a=1"}

    assert telemetry.carried() == {}


def test_the_trace_context_ends_with_its_block_even_in_an_error() -> None:
    with pytest.raises(ZeroDivisionError), telemetry.continued({"traceparent": TRACEPARENT}):
        raise ZeroDivisionError

    assert telemetry.carried() == {}


@pytest.mark.parametrize("header", ["", "garbage", f"00-{'0' * 32}-{SPAN:016x}-01", 7, b"\xff", None])
def test_a_trace_header_that_makes_no_sense_is_no_trace(header: object) -> None:
    with telemetry.continued({"traceparent": header}):
        assert telemetry.carried() == {}


def test_the_current_span_is_what_goes_out() -> None:
    around = NonRecordingSpan(SpanContext(TRACE, SPAN, is_remote=False, trace_flags=TraceFlags(1)))

    with trace.use_span(around):
        assert telemetry.carried() == {"traceparent": TRACEPARENT}


def test_without_an_endpoint_nothing_is_a_span() -> None:
    with telemetry.continued({"traceparent": TRACEPARENT}), telemetry.span("work", root=True) as span:
        telemetry.failed_here(ValueError("planted"))
        telemetry.note(job_id="j-1")

        assert not telemetry.on()
        assert not span.get_span_context().is_valid
        assert telemetry.carried() == {"traceparent": TRACEPARENT}


def test_a_place_in_a_trace_can_be_kept_and_come_back_to() -> None:
    with telemetry.continued({"traceparent": TRACEPARENT}):
        place = telemetry.here()

    assert place == f"{TRACE:032x}-{SPAN:016x}"
    assert telemetry.trace_id_of(place) == f"{TRACE:032x}"
    assert telemetry.there(place) == {"traceparent": f"00-{TRACE:032x}-{SPAN:016x}-00"}


@pytest.mark.parametrize("place", [None, "", f"{TRACE:032x}"])
def test_what_is_no_whole_place_leads_nowhere(place: str | None) -> None:
    assert telemetry.there(place) == {}


def test_what_runs_on_by_itself_is_in_no_trace() -> None:
    async def place() -> str | None:
        return telemetry.here()

    async def run() -> str | None:
        with telemetry.continued({"traceparent": TRACEPARENT}):
            return await telemetry.detached(place())

    assert asyncio.run(run()) is None


def test_a_row_that_postgresql_refused_is_not_logged(lines: Lines) -> None:
    # Put together here, for a traceback shows the line that raises.
    told = "it breaks a rule\nDETAIL:  Failing row contains (1, a secret prompt)."

    def fail() -> None:
        raise ValueError(told)

    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("it failed")

    (line,) = lines()
    assert "it breaks a rule" in line["exception"]
    assert "secret" not in json.dumps(line)
