"""Reports of usage: by user, day, month or model, from the counts that settlements left."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, timedelta
from typing import Any, Final

from pixorly.db import Database
from pixorly.errors import InvalidRequest
from pixorly.events import utcnow
from pixorly_ledger import store
from pixorly_ledger.books import Clock
from pixorly_ledger.rows import Scope
from pixorly_ledger.usage import quantile

_SUMS: Final = (
    "jobs",
    "completed",
    "failed",
    "canceled",
    "images",
    "images_uploaded",
    "credits_charged",
    "credits_captured",
    "credits_refunded",
    "retries",
    "processed",
    "processing_time_ms",
)
DIMENSIONS: Final = frozenset({"user", "day", "month", "model"})
_COLUMNS: Final = ("user_id", "day", "month", "model")
_MONTH: Final = timedelta(days=29)
_Key = tuple[Any, ...]


class _Group:
    """What belongs to one line of a report."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.times: Counter[int] = Counter()

    def add(self, other: "_Group") -> None:
        self.sums.update(other.sums)
        self.failures.update(other.failures)
        self.times.update(other.times)

    def shown(self) -> dict[str, Any]:
        sums, ended = self.sums, self.sums["completed"] + self.sums["failed"]
        return {
            **{name: sums[name] for name in ("jobs", "completed", "failed", "canceled", "images", "images_uploaded")},
            "credits_used": sums["credits_charged"],
            "credits_refunded": sums["credits_refunded"],
            "credits_captured": sums["credits_captured"],
            "retries": sums["retries"],
            "success_rate": sums["completed"] / ended if ended else None,
            "retries_per_job": sums["retries"] / sums["jobs"] if sums["jobs"] else None,
            "failures": dict(sorted(self.failures.items())),
            "processing_time_ms": _times(sums["processed"], sums["processing_time_ms"], self.times),
        }


def _times(jobs: int, total_ms: int, buckets: Mapping[int, int]) -> dict[str, Any]:
    return {
        "count": jobs,
        "sum": total_ms,
        "average": round(total_ms / jobs) if jobs else None,
        **{f"p{share}": quantile(buckets, share / 100) for share in (50, 95, 99)},
    }


class Reports:
    """Reads what was counted.

    Args:
        database: The ledger's.
        clock: Returns the time now.
    """

    def __init__(self, database: Database, *, clock: Clock = utcnow) -> None:
        self._database = database
        self._clock = clock

    def scope(self, user_id: str | None, first: date | None, last: date | None, group_by: str) -> Scope:
        """Return what a request asks for; the last thirty days where it names none.

        Raises:
            InvalidRequest: It is not possible to group so.
        """
        dimensions = [name for name in group_by.split(",") if name]
        if unknown := sorted(set(dimensions) - DIMENSIONS):
            raise InvalidRequest(f"group_by: {', '.join(unknown)} is none of {', '.join(sorted(DIMENSIONS))}.")
        end = last or self._clock().astimezone(UTC).date()
        return Scope(user_id, first or end - _MONTH, end, dimensions)

    async def usage(self, scope: Scope) -> dict[str, Any]:
        """Return a line for each group that the scope's dimensions make, in their order, and the totals."""
        with_storage = "model" not in scope.dimensions
        async with self._database.connection() as connection:
            groups = _grouped(
                await store.find_usage_days(connection, scope),
                await store.find_usage_failures(connection, scope),
                await store.find_usage_times(connection, scope),
            )
            flows = {_key(row): row for row in await store.find_storage_days(connection, scope)} if with_storage else {}
            stored = await store.find_stored_before(connection, scope.user_id, scope.first)
        totals = _Group()
        for group in groups.values():
            totals.add(group)
        lines = [
            {**_named(key, scope), **groups[key].shown(), **(_flow(flows.get(key)) if with_storage else {})}
            for key in sorted({*groups, *flows}, key=_order)
        ]
        if scope.dimensions == ["day"]:
            _add_levels(lines, stored)
        return {
            "from": scope.first,
            "to": scope.last,
            "group_by": scope.dimensions,
            "data": lines if scope.dimensions else [],
            "totals": {**totals.shown(), **(_total_flow(flows.values()) if with_storage else {})},
        }


def _grouped(
    days: Iterable[Mapping[str, Any]], failures: Iterable[Mapping[str, Any]], times: Iterable[Mapping[str, Any]]
) -> defaultdict[_Key, _Group]:
    groups: defaultdict[_Key, _Group] = defaultdict(_Group)
    for row in days:
        groups[_key(row)].sums.update({name: row[name] for name in _SUMS})
    for row in failures:
        groups[_key(row)].failures[row["code"]] += row["images"]
    for row in times:
        groups[_key(row)].times[row["bucket"]] += row["jobs"]
    return groups


def _key(row: Mapping[str, Any]) -> _Key:
    return tuple(row[name] for name in _COLUMNS)


def _order(key: _Key) -> list[str]:
    user_id, day, month, model = key
    return [str(part or "") for part in (day, month, model, user_id)]


def _named(key: _Key, scope: Scope) -> dict[str, Any]:
    wanted = {"user_id" if name == "user" else name for name in scope.dimensions}
    return {name: part for name, part in zip(_COLUMNS, key, strict=True) if name in wanted}


def _flow(row: Mapping[str, Any] | None) -> dict[str, int]:
    stored, released = (row["stored_bytes"], row["released_bytes"]) if row else (0, 0)
    return {"stored_bytes": stored, "released_bytes": released}


def _total_flow(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    flows = [_flow(row) for row in rows]
    return {name: sum(flow[name] for flow in flows) for name in ("stored_bytes", "released_bytes")}


def _add_levels(lines: list[dict[str, Any]], stored_before: int) -> None:
    """Add to each day's line how much was stored at its end."""
    level = stored_before
    for line in lines:
        level += line["stored_bytes"] - line["released_bytes"]
        line["storage_bytes"] = level
