"""A share of the traces is sent, and every trace in which something fails."""

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, Tracer

from pixorly.sampling import Keeper, ShareAndFailures

TRACE = 0x0AF7651916CD43DD8448EB211C80319C


class Process:
    """A process that makes spans, and what it has sent."""

    def __init__(self, share: float, most_spans: int = 1000) -> None:
        self.sent: list[str] = []
        sampler = ShareAndFailures(share)
        self.keeper = Keeper(self._send, sampler.chooses, most_spans)
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(self.keeper)
        self.tracer: Tracer = provider.get_tracer("test")

    def _send(self, span: ReadableSpan) -> None:
        self.sent.append(span.name)

    def do(self, name: str, *, sampled: bool = False, fails: bool = False, trace_id: int = TRACE) -> None:
        """Make a span of a trace that comes from elsewhere."""
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else 0)
        around = trace.set_span_in_context(
            NonRecordingSpan(SpanContext(trace_id, 7, is_remote=True, trace_flags=flags))
        )
        span = self.tracer.start_span(name, around)
        if fails:
            span.set_status(StatusCode.ERROR)
        span.end()


def test_all_is_sent_where_the_share_is_all() -> None:
    process = Process(1.0)

    process.do("one")

    assert process.sent == ["one"]


def test_what_is_not_in_the_share_is_held_back() -> None:
    process = Process(0.0)

    process.do("one")

    assert process.sent == []


def test_a_failure_sends_what_was_held_back_of_its_trace_and_what_follows_and_nothing_else() -> None:
    process = Process(0.0)

    process.do("another's", trace_id=TRACE + 1)
    process.do("before")
    process.do("failure", fails=True)
    process.do("after")

    assert process.sent == ["before", "failure", "after"]
    assert process.keeper.keeps(TRACE)
    assert not process.keeper.keeps(TRACE + 1)


def test_a_trace_that_failed_elsewhere_comes_with_the_flag_and_is_sent_whole() -> None:
    process = Process(0.0)

    process.do("before")
    process.do("now", sampled=True)
    process.do("after")

    assert process.sent == ["before", "now", "after"]


def test_each_process_chooses_the_same_traces() -> None:
    one, two = ShareAndFailures(0.3), ShareAndFailures(0.3)
    # The last eight bytes of an id decide.
    traces = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(1, 2000)]

    chosen = [one.chooses(trace_id) for trace_id in traces]

    assert chosen == [two.chooses(trace_id) for trace_id in traces]
    assert 0.25 < sum(chosen) / len(chosen) < 0.35


def test_what_is_held_back_is_bounded_and_the_oldest_trace_goes_first() -> None:
    process = Process(0.0, most_spans=10)

    for number in range(30):
        process.do(f"{number}", trace_id=TRACE + number)
    process.do("fails", fails=True, trace_id=TRACE)
    process.do("fails too", fails=True, trace_id=TRACE + 29)

    assert process.sent == ["fails", "29", "fails too"]


def test_spans_that_are_held_back_are_forgotten_without_a_word() -> None:
    process, many = Process(0.0, most_spans=100), 5000

    for number in range(many):
        process.do("x", trace_id=TRACE + number % 500)

    assert sum(map(len, process.keeper._waiting.values())) <= 100
