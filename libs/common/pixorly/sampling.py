"""Which spans are sent: a share of the traces, and every trace in which something failed.

Spans of a trace that is not in the share are recorded all the same, and wait here for a while. If one of them ends in
an error, all that wait are sent, and from then on the trace's context carries the flag `sampled`: whoever takes it up
next, in whichever process, keeps its spans as well, and sends those that wait there. So the trace of a job that fails
is whole but for the processes that hear nothing more of the job after it failed.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, StatusCode, TraceState
from opentelemetry.util.types import Attributes
from typing_extensions import override

MOST_SPANS: Final = 20_000
"""How many spans wait at most; a span takes about two kilobytes."""
MOST_TRACES: Final = 10_000
"""Of how many traces it is remembered that they are to be sent."""


class ShareAndFailures(Sampler):
    """Samples a share of the traces, the same ones in every process, and records all others.

    Args:
        share: The part of traces that is sampled, 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._share = TraceIdRatioBased(share)

    @override
    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.trace_flags.sampled:
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return SamplingResult(
            Decision.RECORD_AND_SAMPLE if self.chooses(trace_id) else Decision.RECORD_ONLY, attributes
        )

    def chooses(self, trace_id: int) -> bool:
        """Tell whether a trace is in the share."""
        return self._share.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE

    @override
    def get_description(self) -> str:
        return f"ShareAndFailures({self._share.rate})"


class Keeper(SpanProcessor):
    """Sends spans that are sampled, and holds back the others until their trace fails or there are too many.

    Args:
        send: Takes a span that is to be sent.
        chooses: Tells whether a trace is in the share.
        most_spans: How many spans are held back; the oldest traces go first.
    """

    def __init__(
        self,
        send: Callable[[ReadableSpan], None],
        chooses: Callable[[int], bool],
        most_spans: int = MOST_SPANS,
    ) -> None:
        self._send = send
        self._chooses = chooses
        self._most_spans = most_spans
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, list[ReadableSpan]] = OrderedDict()
        self._spans = 0
        self._kept: OrderedDict[int, None] = OrderedDict()

    @override
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note a trace that another process has found to fail."""
        context = span.get_span_context()
        if context and context.trace_flags.sampled and not self._chooses(context.trace_id):
            self.keep(context.trace_id)

    @override
    def on_end(self, span: ReadableSpan) -> None:
        """Send a span, or hold it back."""
        context = span.get_span_context()
        if context is None:
            return
        if span.status.status_code is StatusCode.ERROR:
            self.keep(context.trace_id)
        if context.trace_flags.sampled or context.trace_id in self._kept:
            self._send(span)
        else:
            self._hold_back(context.trace_id, span)

    def keep(self, trace_id: int) -> None:
        """Send what waits of a trace, and whatever comes of it."""
        if trace_id in self._kept:
            return
        with self._lock:
            self._kept[trace_id] = None
            if len(self._kept) > MOST_TRACES:
                self._kept.popitem(last=False)
            spans = self._waiting.pop(trace_id, [])
            self._spans -= len(spans)
        for span in spans:
            self._send(span)

    def keeps(self, trace_id: int) -> bool:
        """Tell whether a trace is to be sent though it is not in the share."""
        return trace_id in self._kept

    def _hold_back(self, trace_id: int, span: ReadableSpan) -> None:
        with self._lock:
            self._waiting.setdefault(trace_id, []).append(span)
            self._spans += 1
            while self._spans > self._most_spans:
                _, forgotten = self._waiting.popitem(last=False)
                self._spans -= len(forgotten)
