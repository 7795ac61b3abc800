"""Sending spans and metrics over OTLP, from threads of their own that hold nothing up.

A receiver that is away costs what it would have been told, and no process waits for it when it stops.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import structlog
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from typing_extensions import override

from pixorly import metrics

_log = structlog.get_logger()
_EVERY_S: Final = 1.0
_BATCH: Final = 512
_ROOM: Final = 16_384
_EXPORT_S: Final = 5.0
_LAST_WORDS_S: Final = 2.0
"""How long a process that stops waits for what is left to be sent."""
_SCOPE: Final = InstrumentationScope("pixorly")
_UNITS: Final = {"seconds": "s", "bytes": "By", "credits": "{credit}", "usd": "{USD}"}
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE

DROPPED = metrics.counter(
    "pixorly_telemetry_dropped", "Spans, or reports of metrics, that could not be sent over OTLP.", "signal"
)

# They log every attempt; what matters is logged here, once.
for _name in ("opentelemetry.exporter", "opentelemetry.sdk", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class _Sender(threading.Thread):
    """Does one thing over and over until it is told to stop, and then once more."""

    def __init__(self, signal: str, every_s: float) -> None:
        super().__init__(name=f"otlp-{signal}", daemon=True)
        self._signal = signal
        self._every_s = every_s
        self._stopping = threading.Event()
        self._away = False

    @override
    def run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.send()
        self.send()

    def send(self) -> None:
        """Send what there is."""
        raise NotImplementedError

    def tell_to_stop(self) -> None:
        """Have it send what is left, and end."""
        self._stopping.set()

    def note(self, *, sent: bool, lost: int) -> None:
        """Count what was lost, and log when the receiver goes and comes."""
        if sent == self._away:
            self._away = not sent
            _log.warning("telemetry is sent again" if sent else "telemetry can't be sent", signal=self._signal)
        if not sent:
            DROPPED.labels(self._signal).inc(lost)


class SpanSender(_Sender):
    """Sends spans in batches.

    Args:
        exporter: What sends them.
        every_s: How often.
    """

    def __init__(self, exporter: OTLPSpanExporter, every_s: float = _EVERY_S) -> None:
        super().__init__("traces", every_s)
        self._exporter = exporter
        self._spans: deque[ReadableSpan] = deque()

    def add(self, span: ReadableSpan) -> None:
        """Send a span soon; it is lost where too many wait."""
        if len(self._spans) >= _ROOM:
            DROPPED.labels("traces").inc()
            return
        self._spans.append(span)

    @override
    def send(self) -> None:
        while self._spans:
            batch = [self._spans.popleft() for _ in range(min(len(self._spans), _BATCH))]
            sent = self._exporter.export(batch) is SpanExportResult.SUCCESS
            self.note(sent=sent, lost=len(batch))
            if not sent and self._stopping.is_set():
                return

    def hurry(self) -> None:
        """Give up what is under way."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class MetricsSender(_Sender):
    """Sends what `/metrics` shows.

    Args:
        exporter: What sends it.
        resource: Who sends it.
        every_s: How often.
        registry: What there is.
    """

    def __init__(
        self, exporter: OTLPMetricExporter, resource: Resource, every_s: float, registry: CollectorRegistry = REGISTRY
    ) -> None:
        super().__init__("metrics", every_s)
        self._exporter = exporter
        self._resource = resource
        self._registry = registry
        self._began_ns = time.time_ns()

    @override
    def send(self) -> None:
        found = translated(self._registry.collect(), self._began_ns, time.time_ns())
        data = MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(_SCOPE, found, "")], "")])
        self.note(sent=self._exporter.export(data) is MetricExportResult.SUCCESS, lost=1)

    def hurry(self) -> None:
        """Give up what is under way."""
        self._exporter.shutdown()


def translated(families: Iterable[Family], began_ns: int, now_ns: int) -> list[Metric]:
    """Return Prometheus' metrics in OTLP's words: dots in the name, and its unit apart.

    A collector that makes Prometheus' names of them again gets the same names.
    """
    return [
        Metric(*_name_and_unit(family), _data(family, began_ns, now_ns))
        for family in families
        if family.type in {"counter", "gauge", "histogram"}
    ]


def _name_and_unit(family: Family) -> tuple[str, str, str]:
    stem, _, last = family.name.rpartition("_")
    unit = _UNITS.get(last)
    name = stem if unit and stem else family.name
    return name.replace("_", "."), family.documentation, unit or "1"


def _data(family: Family, began_ns: int, now_ns: int) -> Sum | Gauge | Histogram:
    if family.type == "histogram":
        return Histogram(_histograms(family, began_ns, now_ns), _CUMULATIVE)
    wanted = f"{family.name}_total" if family.type == "counter" else family.name
    points = [
        NumberDataPoint(sample.labels, began_ns, now_ns, sample.value)
        for sample in family.samples
        if sample.name == wanted
    ]
    return Sum(points, _CUMULATIVE, is_monotonic=True) if family.type == "counter" else Gauge(points)


def _histograms(family: Family, began_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        one = series.setdefault(tuple(labels.items()), {"labels": labels, "counts": [], "bounds": [], "sum": 0.0})
        if sample.name.endswith("_bucket"):
            one["bounds"].append(float(sample.labels["le"]))
            one["counts"].append(int(sample.value))
        elif sample.name.endswith("_sum"):
            one["sum"] = sample.value
    return [_histogram(one, began_ns, now_ns) for one in series.values()]


def _histogram(one: dict[str, Any], began_ns: int, now_ns: int) -> HistogramDataPoint:
    counts: Sequence[int] = one["counts"]
    # Prometheus counts all up to a bound, OTLP those between two.
    each = [count - before for count, before in zip(counts, [0, *counts[:-1]], strict=True)]
    bounds = one["bounds"][:-1]
    extremes: Any = None  # nobody knows them
    return HistogramDataPoint(
        one["labels"], began_ns, now_ns, sum(each), one["sum"], each, bounds, min=extremes, max=extremes
    )


def make_span_sender(endpoint_url: str) -> SpanSender:
    """Return what sends spans to an endpoint."""
    return SpanSender(OTLPSpanExporter(endpoint=f"{endpoint_url.rstrip('/')}/v1/traces", timeout=_EXPORT_S))


def make_metrics_sender(endpoint_url: str, resource: Resource, every_s: float) -> MetricsSender:
    """Return what sends metrics to an endpoint."""
    exporter = OTLPMetricExporter(endpoint=f"{endpoint_url.rstrip('/')}/v1/metrics", timeout=_EXPORT_S)
    return MetricsSender(exporter, resource, every_s)


def stop(senders: Sequence[SpanSender | MetricsSender], clock: Callable[[], float] = time.monotonic) -> None:
    """Send what is left, within two seconds for all."""
    deadline = clock() + _LAST_WORDS_S
    for sender in senders:
        sender.tell_to_stop()
    for sender in senders:
        sender.join(max(0.0, deadline - clock()))
    for sender in senders:
        sender.hurry()
