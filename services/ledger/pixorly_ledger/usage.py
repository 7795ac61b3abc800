"""What users' jobs came to, by day and model: counted in the transaction that settles a job, read in reports."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Final

from pixorly import metrics
from pixorly.db import Connection
from pixorly_ledger import store
from pixorly_ledger.rows import Outcome, Released, UsageDay, UsageKey

_GROWTH: Final = 1.1
"""Each bucket's end over the one before: a quantile is off by at most five in a hundred."""
_LAST_BUCKET: Final = 200
"""About two days."""

STORED_BYTES = metrics.counter("pixorly_storage_stored_bytes", "Bytes that came into users' storage.")
RELEASED_BYTES = metrics.counter("pixorly_storage_released_bytes", "Bytes that left users' storage.")


def bucket_of(processing_ms: int) -> int:
    """Return the bucket of the histogram that a processing time falls in."""
    return min(_LAST_BUCKET, max(0, math.ceil(math.log(max(1, processing_ms), _GROWTH))))


def quantile(buckets: Mapping[int, int], share: float) -> int | None:
    """Return the time, in milliseconds, within which this share of the jobs was done; None without jobs."""
    wanted, seen = share * sum(buckets.values()), 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= wanted:
            # Between the bucket's ends, so that the error is the same either way.
            return round(2 * _GROWTH**bucket / (_GROWTH + 1))
    return None


class Tally:
    """What the jobs of one transaction add to the usage of their users."""

    def __init__(self) -> None:
        self._days: defaultdict[UsageKey, UsageDay] = defaultdict(UsageDay)
        self._failures: Counter[tuple[UsageKey, str]] = Counter()
        self._times: Counter[tuple[UsageKey, int]] = Counter()

    def count(
        self,
        user_id: str,
        model: str,
        settled_at: datetime,
        *,
        outcome: Outcome,
        codes: list[str | None],
        captured_credits: int,
        refunded_credits: int,
        retries: int,
        processing_ms: int | None,
    ) -> None:
        """Count one job, on the day of its settlement; a canceled job took no time."""
        key = (user_id, settled_at.astimezone(UTC).date(), model)
        day = self._days[key]
        day.jobs += 1
        setattr(day, outcome, getattr(day, outcome) + 1)
        day.images += len(codes)
        day.images_uploaded += codes.count(None)
        day.credits_charged += captured_credits + refunded_credits
        day.credits_captured += captured_credits
        day.credits_refunded += refunded_credits
        day.retries += retries
        self._failures.update((key, code) for code in codes if code is not None)
        if processing_ms is not None:
            day.processed += 1
            day.processing_time_ms += processing_ms
            self._times[key, bucket_of(processing_ms)] += 1

    async def post(self, connection: Connection) -> None:
        """Write what was counted."""
        if self._days:
            await store.add_usage_days(connection, self._days)
        if self._failures:
            rows = [(*key, code, images) for (key, code), images in self._failures.items()]
            await store.add_usage_failures(connection, rows)
        if self._times:
            await store.add_usage_times(
                connection, [(*key, bucket, jobs) for (key, bucket), jobs in self._times.items()]
            )


class Flow:
    """The bytes that one transaction adds to the storage of users and takes from it."""

    def __init__(self) -> None:
        self._stored: Counter[str] = Counter()
        self._released: Counter[str] = Counter()

    def add(self, user_id: str, stored_bytes: int) -> None:
        """Count bytes that came; less than none where an image turned out smaller than it was."""
        self._stored[user_id] += stored_bytes

    def release(self, image: Released) -> None:
        """Count the bytes of an image that went, if it was stored."""
        if image.state == "stored":
            self._released[image.user_id] += image.bytes

    async def post(self, connection: Connection, day: date) -> None:
        """Write what was counted."""
        users = sorted({*self._stored, *self._released})
        STORED_BYTES.inc(sum(max(0, stored) for stored in self._stored.values()))
        RELEASED_BYTES.inc(sum(self._released.values()))
        if users:
            flows = [(user_id, self._stored[user_id], self._released[user_id]) for user_id in users]
            await store.add_storage_days(connection, day, flows)
