"""The observer's spans, in a small SQLite file that never grows beyond a bound: the oldest traces go first."""

import json
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from pixorly_stack.observer.spans import Span

MOST_SPANS: Final = 100_000
"""About a hundred megabytes at most, and two thousand jobs."""
_SCHEMA: Final = """
    create table if not exists spans (
        span_id text primary key, trace_id text not null, parent_id text, service text not null, name text not null,
        kind text not null, start_ns integer not null, end_ns integer not null, error integer not null,
        attributes text not null, links text not null, job_id text);
    create index if not exists spans_of_trace on spans (trace_id);
    create index if not exists spans_of_job on spans (job_id) where job_id is not null;
"""


class Store:
    """The spans of one run after the other.

    Args:
        file: Where they are kept; `:memory:` for a test.
        most_spans: How many are kept.
    """

    def __init__(self, file: Path | str, most_spans: int = MOST_SPANS) -> None:
        self._most_spans = most_spans
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # What is lost with the machine is no loss: nothing but a look at the past.
        self._db.executescript("pragma journal_mode = wal; pragma synchronous = off;" + _SCHEMA)
        self._count: int = self._db.execute("select count(*) from spans").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, spans: Sequence[Span]) -> None:
        """Keep spans; one that comes twice is kept once."""
        with self._lock, closing(self._db.cursor()) as cursor:
            cursor.execute("begin")
            before = self._db.total_changes
            cursor.executemany(
                "insert or ignore into spans values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, spans)
            )
            self._count += self._db.total_changes - before
            while self._count > self._most_spans:
                cursor.execute(
                    """delete from spans where trace_id in
                       (select trace_id from spans order by rowid limit max(1, ? / 20))""",
                    (self._most_spans,),
                )
                self._count -= cursor.rowcount
            cursor.execute("commit")

    def traces(self, *, of_jobs: bool, failed: bool, limit: int) -> list[dict[str, Any]]:
        """Return what there is to say of the newest traces.

        Args:
            of_jobs: Whether only traces that made a job count.
            failed: Whether only those in which something failed count.
            limit: How many.
        """
        rows = self._all(
            """select trace_id, min(start_ns) as started_at_ns, (max(end_ns) - min(start_ns)) / 1e6 as duration_ms,
                      count(*) as spans, count(distinct service) as services, sum(error) as errors,
                      max(job_id) as job_id,
                      (select name from spans r where r.trace_id = s.trace_id order by parent_id is not null, start_ns
                       limit 1) as name
               from spans s group by trace_id
               having (not ? or max(job_id) is not null) and (not ? or sum(error) > 0)
               order by started_at_ns desc limit ?""",
            (of_jobs, failed, limit),
        )
        return [dict(row) for row in rows]

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace; none where there is no such trace."""
        return [_span(row) for row in self._all("select * from spans where trace_id = ?", (trace_id,))]

    def trace_of_job(self, job_id: str) -> str | None:
        """Return the trace in which a job was made: that of most of its spans. The end of an id is enough."""
        rows = self._all(
            """select trace_id from spans
               where job_id = ?1 or (length(?2) >= 8 and substr(replace(job_id, '-', ''), -length(?2)) = ?2)
               group by trace_id order by count(*) desc limit 1""",
            (job_id, job_id.replace("-", "")),
        )
        return rows[0]["trace_id"] if rows else None

    def _all(self, query: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()


def _row(span: Span) -> tuple[Any, ...]:
    return (
        *(span.span_id, span.trace_id, span.parent_id, span.service, span.name, span.kind, span.start_ns, span.end_ns),
        *(int(span.error), json.dumps(span.attributes), json.dumps(span.links), span.job_id),
    )


def _span(row: sqlite3.Row) -> Span:
    return Span(
        trace_id=row["trace_id"],
        span_id=row["span_id"],
        parent_id=row["parent_id"],
        service=row["service"],
        name=row["name"],
        kind=row["kind"],
        start_ns=row["start_ns"],
        end_ns=row["end_ns"],
        error=bool(row["error"]),
        attributes=json.loads(row["attributes"]),
        links=[(trace_id, span_id) for trace_id, span_id in json.loads(row["links"])],
    )
