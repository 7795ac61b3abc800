"""What the messages of a work queue are counted and measured by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from prometheus_client import Counter, Gauge, Histogram

from pixorly import metrics

MESSAGES = metrics.counter("pixorly_messages", "Messages by what became of them.", "queue", "fate")
SECONDS = metrics.histogram(
    "pixorly_message_seconds", "How long messages were in hand.", "queue", buckets=metrics.LONG_S
)
AGE_SECONDS = metrics.histogram(
    "pixorly_message_age_seconds", "How old an event was when it was first taken up.", "queue", buckets=metrics.LONG_S
)
IN_HAND = metrics.gauge("pixorly_messages_in_hand", "Messages that are worked on.", "queue")


@dataclass(frozen=True, slots=True)
class Meters:
    """Those of one queue: to look a metric up by its labels takes longer than to count."""

    in_hand: Gauge
    seconds: Histogram
    age_s: Histogram
    fates: Mapping[str, Counter]

    @classmethod
    def of(cls, queue: str) -> Self:
        """Return those of a queue."""
        fates = {fate: MESSAGES.labels(queue, fate) for fate in ("done", "retried", "held", "dead")}
        return cls(IN_HAND.labels(queue), SECONDS.labels(queue), AGE_SECONDS.labels(queue), fates)
