"""The observer's metrics: the last few minutes of each series, in memory, and no more series than a bound."""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from pixorly_stack.observer.spans import attributes_of, parsed

MOST_SERIES: Final = 5000
POINTS: Final = 150
"""Five minutes where they come every two seconds."""
_NS_PER_S: Final = 1e9


@dataclass(frozen=True, slots=True)
class Sample:
    """What a metric was at some moment.

    Attributes:
        value: Of a histogram, how many there were.
        sum: Of a histogram: all of them together.
        p95: Of a histogram: what 95 in a hundred are below.
    """

    service: str
    name: str
    labels: tuple[tuple[str, str], ...]
    kind: str
    unit: str
    at_s: float
    value: float
    sum: float | None = None
    p95: float | None = None


@dataclass(slots=True)
class _Series:
    last: Sample
    points: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=POINTS))


class Metrics:
    """The metrics of all processes.

    Args:
        most_series: How many series are kept; the one that was silent for longest goes first.
    """

    def __init__(self, most_series: int = MOST_SERIES) -> None:
        self._most_series = most_series
        self._lock = threading.Lock()
        self._series: OrderedDict[tuple[str, str, tuple[tuple[str, str], ...]], _Series] = OrderedDict()

    def add(self, samples: Iterable[Sample]) -> None:
        """Keep samples."""
        with self._lock:
            for sample in samples:
                key = sample.service, sample.name, sample.labels
                series = self._series.setdefault(key, _Series(sample))
                series.last = sample
                series.points.append((sample.at_s, sample.value))
                self._series.move_to_end(key)
            while len(self._series) > self._most_series:
                self._series.popitem(last=False)

    def all(self) -> list[dict[str, Any]]:
        """Return every series with its points, by service and name."""
        with self._lock:
            found = [(key, series.last, list(series.points)) for key, series in self._series.items()]
        return [
            {
                "service": last.service,
                "name": last.name,
                "labels": dict(last.labels),
                "kind": last.kind,
                "unit": last.unit,
                "value": last.value,
                "mean": last.sum / last.value if last.sum is not None and last.value else None,
                "p95": last.p95,
                "points": points,
            }
            for _, last, points in sorted(found, key=lambda one: one[0])
        ]


def read(body: bytes) -> list[Sample]:
    """Return what a request says.

    Raises:
        Unreadable: It is none.
    """
    request = parsed(ExportMetricsServiceRequest, body)
    return [
        sample
        for batch in request.resource_metrics
        for scope in batch.scope_metrics
        for metric in scope.metrics
        for sample in _samples(metric, str(attributes_of(batch.resource.attributes).get("service.name", "?")))
    ]


def _samples(metric: Any, service: str) -> Iterator[Sample]:
    kind = metric.WhichOneof("data")
    if kind not in {"sum", "gauge", "histogram"}:
        return
    for point in getattr(metric, kind).data_points:
        labels = _labels(attributes_of(point.attributes))
        at_s = point.time_unix_nano / _NS_PER_S
        if kind == "histogram":
            p95 = quantile(list(point.explicit_bounds), list(point.bucket_counts), 0.95)
            yield Sample(
                service, metric.name, labels, kind, metric.unit, at_s, float(point.count), float(point.sum), p95
            )
        else:
            value = float(getattr(point, point.WhichOneof("value") or "as_double"))
            yield Sample(service, metric.name, labels, kind, metric.unit, at_s, value)


def _labels(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in given.items()))


def quantile(bounds: list[float], counts: list[int], share: float) -> float | None:
    """Return the value that a share of a histogram is below, drawing a straight line through its bucket."""
    wanted, seen, lower = share * sum(counts), 0.0, 0.0
    if not wanted:
        return None
    for bound, count in zip(bounds, counts, strict=False):
        if seen + count >= wanted:
            return lower + (bound - lower) * (wanted - seen) / count
        seen, lower = seen + count, bound
    return lower


def scraped(service: str, text: str, at_s: float) -> list[Sample]:
    """Return what Prometheus' text says."""
    return [
        Sample(service, sample.name, _labels(sample.labels), family.type, "", at_s, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
