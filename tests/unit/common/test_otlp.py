"""Spans and metrics go out over OTLP, and nobody waits for a receiver that is away."""

import socket
import time
from typing import Any

from opentelemetry.sdk.metrics.export import Histogram, Sum
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client import Histogram as Buckets

from pixorly import otlp, telemetry
from pixorly.settings import ProcessSettings


def nobody() -> str:
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def sent(registry: CollectorRegistry) -> dict[str, Any]:
    return {metric.name: metric for metric in otlp.translated(registry.collect(), 1, 2)}


def test_a_name_has_dots_and_its_unit_stands_apart() -> None:
    registry = CollectorRegistry()
    Gauge("pixorly_outbox_lag_seconds", "Lag.", registry=registry).set(1.5)
    Counter("pixorly_provider_cost_usd", "Cost.", registry=registry).inc(0.25)
    Counter("pixorly_dead_letters", "Dead.", ["queue"], registry=registry).labels("q").inc()

    metrics = sent(registry)

    assert {name: metric.unit for name, metric in metrics.items()} == {
        "pixorly.outbox.lag": "s",
        "pixorly.provider.cost": "{USD}",
        "pixorly.dead.letters": "1",
    }
    dead = metrics["pixorly.dead.letters"].data
    assert isinstance(dead, Sum)
    assert dead.is_monotonic
    assert [(point.attributes, point.value) for point in dead.data_points] == [({"queue": "q"}, 1.0)]
    assert [point.value for point in metrics["pixorly.outbox.lag"].data.data_points] == [1.5]


def test_a_histogram_counts_between_its_bounds() -> None:
    registry = CollectorRegistry()
    seconds = Buckets("pixorly_job_seconds", "Time.", ["status"], buckets=(1, 5), registry=registry)
    for value in (0.5, 0.7, 3, 9):
        seconds.labels("completed").observe(value)

    data = sent(registry)["pixorly.job"].data

    assert isinstance(data, Histogram)
    (point,) = data.data_points
    assert (list(point.explicit_bounds), list(point.bucket_counts)) == ([1.0, 5.0], [2, 1, 1])
    assert (point.count, point.sum, point.attributes) == (4, 13.2, {"status": "completed"})


def test_a_process_stops_soon_though_nobody_takes_its_telemetry() -> None:
    telemetry.begin("test", ProcessSettings(otlp_metrics_every_s=0.01), nobody())
    for _ in range(2000):
        with telemetry.span("work", root=True):
            pass
    time.sleep(0.05)

    began = time.monotonic()
    telemetry.shutdown()

    # Two seconds are for the last words; the rest is for a machine that has something else to do.
    assert time.monotonic() - began < 10
    assert not telemetry.on()
