"""The books on what providers were asked and what it cost, and what is not to be asked."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, Self
from uuid import UUID

from pixorly.db import Connection


class Place(NamedTuple):
    """A place in the list of attempts."""

    job_id: UUID
    call_no: int
    attempt: int

    @classmethod
    def of(cls, attempt: Mapping[str, Any]) -> Self:
        """Return where an attempt stands."""
        return cls(attempt["job_id"], attempt["call_no"], attempt["attempt"])

    @classmethod
    def read(cls, text: str | None) -> Self:
        """Return the place that a text is, or the one before all."""
        if text is None:
            return cls(UUID(int=0), 0, 0)
        job_id, call_no, attempt = text.split("/")
        return cls(UUID(job_id), int(call_no), int(attempt))

    @property
    def text(self) -> str:
        """The place as a text."""
        return f"{self.job_id}/{self.call_no}/{self.attempt}"


async def costs(connection: Connection, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return what the attempts that began in a time came to, by month (UTC), provider and model."""
    rows = await connection.fetch(
        """select date_trunc('month', started_at at time zone 'UTC')::date as month, provider, model,
                  count(*) as calls, count(*) filter (where cost_usd is null) as unpriced_calls,
                  count(*) filter (where late) as late_calls, coalesce(sum(cost_usd), 0) as cost_usd
           from attempts where started_at >= $1 and started_at < $2 group by 1, 2, 3 order by 1, 2, 3""",
        since,
        until,
    )
    return [dict(row) for row in rows]


async def list_attempts(
    connection: Connection, since: datetime, until: datetime, after: Place, limit: int
) -> list[dict[str, Any]]:
    """Return the attempts that began in a time, by job, from after a place."""
    rows = await connection.fetch(
        """select job_id, call_no, attempt, provider, model, started_at, ended_at, code, late, cost_usd, generation_id
           from attempts
           where started_at >= $1 and started_at < $2 and (job_id, call_no, attempt) > ($3, $4, $5)
           order by job_id, call_no, attempt limit $6""",
        since,
        until,
        *after,
        limit,
    )
    return [dict(row) for row in rows]


async def paused(connection: Connection) -> set[str]:
    """Return which models and providers are paused."""
    return {row["name"] for row in await connection.fetch("select name from pauses")}


async def pause(connection: Connection, name: str) -> None:
    """Pause a model or a provider."""
    await connection.execute("insert into pauses (name) values ($1) on conflict (name) do nothing", name)


async def resume(connection: Connection, name: str) -> None:
    """Go on with a model or a provider."""
    await connection.execute("delete from pauses where name = $1", name)
