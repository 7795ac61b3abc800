"""What is counted and measured: how a metric is made, and which words its labels may take.

Each metric is made beside the code that feeds it, by one of the three functions here; `ALL` is the list of what this
process has, and `docs/metrics.md` that of all. A name ends with its unit. A label that is not in `LABELS` can't be
used, so that none comes up whose values nobody has bounded: an id, a user, a prompt or an address is never a label.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram

LABELS: Final[dict[str, str]] = {
    "code": "a code of the table of outcomes; `ok` where a call succeeded",
    "fate": "of a message: `done`, `retried`, `held`, `dead`; of a dead letter: `replayed`, `discarded`",
    "kind": "`grant`, `purchase`, `allowance`",
    "method": "`GET`, `POST`, `PUT`, `PATCH`, `DELETE`, `HEAD`, `OPTIONS`, or `other`",
    "model": "an id of the catalogue; of a breaker also `*`, the whole account",
    "operation": "`put`, `get`, `delete`, `list`",
    "outcome": "`delivered`, `server_fault`, `user_fault`, `canceled`",
    "part": "`postgres`, `rabbitmq`, `ledger`, `s3`, `provider`",
    "path": "`commit`: right after the transaction; `relay`: found again later",
    "provider": "`sandbox`, `openrouter`, `openai`",
    "queue": "a work queue, such as `generator.generate_image`",
    "reason": "of a dead letter: a code, `unreadable` or an exception's name; of an account: `key`, `money`, `budget`",
    "result": "of a settlement: `settled`, `repeated`, `voided`, `missing`; of a call: `ok`, `failed`",
    "route": "a route as it is written, such as `/v1/generations/{generation_id}`; `none` where there is none",
    "service": "`api`, `api-worker`, `generator`, `uploader`, `ledger`",
    "signal": "`traces`, `metrics`",
    "stage": "`generate`, `upload`, `settle`; `none` where a queue has no stage",
    "state": "`busy`, `idle`",
    "status": "of a job, or of an HTTP answer",
    "sweep": "the name of a sweep, such as `expire`",
    "type": "an event's type, such as `job.created`",
    "version": "of the program",
}
"""The labels and what they may say."""

QUICK_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 60)
"""Buckets for what takes milliseconds, in seconds."""
LONG_S: Final = (0.25, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1800)
"""Buckets for what takes seconds to minutes."""


@dataclass(frozen=True, slots=True)
class Described:
    """What there is to say of a metric.

    Attributes:
        name: As Prometheus shows it; of a histogram without its `_bucket`, `_sum` and `_count`.
        labels: Its labels, in order.
        meaning: A sentence.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str


ALL: Final[dict[str, Described]] = {}
"""Every metric of this process by its name."""


def counter(name: str, meaning: str, *labels: str) -> Counter:
    """Make a counter; Prometheus shows it with `_total` at its end."""
    _describe(Described(f"{name}_total", "counter", labels, meaning))
    return Counter(name, meaning, labels)


def gauge(name: str, meaning: str, *labels: str) -> Gauge:
    """Make a gauge."""
    _describe(Described(name, "gauge", labels, meaning))
    return Gauge(name, meaning, labels)


def histogram(name: str, meaning: str, *labels: str, buckets: Iterable[float] = QUICK_S) -> Histogram:
    """Make a histogram."""
    _describe(Described(name, "histogram", labels, meaning))
    return Histogram(name, meaning, labels, buckets=tuple(buckets))


def _describe(metric: Described) -> None:
    """Take down a metric.

    Raises:
        ValueError: It has a label that nobody has bounded.
    """
    if unknown := set(metric.labels) - LABELS.keys():
        raise ValueError(f"{metric.name}: LABELS does not say what {', '.join(sorted(unknown))} may be")
    ALL[metric.name] = metric
