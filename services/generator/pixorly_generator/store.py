"""All of the generator's SQL. Functions take a connection; whoever calls them opens the transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Self
from uuid import UUID

from pixorly.db import Connection


@dataclass(frozen=True, slots=True)
class Call:
    """A row of `calls`, as the rules need it.

    Attributes:
        model: The one in the catalogue that made the images.
        images: What `staging.StagedImage` is as JSON.
        failures: The code by index of each slot that got no image.
        held: Whether another owner's lease on it is running.
        expired: Whether another owner's lease on it ran out.
        contested: Whether somebody has noticed already that it ran out.
        early: Whether the ladder has not come to its next attempt yet.
        now: The database's time; a process's own clock may be wrong.
    """

    state: str
    attempts: int
    model: str
    images: list[dict[str, Any]]
    failures: dict[str, str]
    held: bool
    expired: bool
    contested: bool
    early: bool
    now: datetime


async def is_settled(connection: Connection, job_id: UUID) -> bool:
    """Tell whether the job needs no call any more."""
    found = await connection.fetchval("select true from settled_jobs where job_id = $1", job_id)
    return bool(found)


async def lock_call(
    connection: Connection, job_id: UUID, call_no: int, *, user_id: str, model: str, owner: UUID
) -> Call:
    """Return the call's row, locked, made if it was not there."""
    await connection.execute(
        "insert into calls (job_id, call_no, user_id, model) values ($1, $2, $3, $4) on conflict do nothing",
        job_id,
        call_no,
        user_id,
        model,
    )
    row = await connection.fetchrow(
        """select state, attempts, model, images, failures,
                  coalesce(owner <> $3 and leased_until > now(), false) as held,
                  coalesce(owner <> $3 and leased_until <= now(), false) as expired, contested,
                  coalesce(retry_at > now(), false) as early, now() as now
           from calls where job_id = $1 and call_no = $2 for update""",
        job_id,
        call_no,
        owner,
    )
    if row is None:
        raise LookupError(f"call {call_no} of {job_id} vanished")
    return Call(**dict(row))


async def lease(connection: Connection, job_id: UUID, call_no: int, owner: UUID, lease_s: float) -> int:
    """Reserve an open call and return the number of the attempt that begins."""
    attempt: int = await connection.fetchval(
        """update calls set owner = $3, leased_until = now() + make_interval(secs => $4), contested = false,
                            attempts = attempts + 1, retry_at = null, code = null
           where job_id = $1 and call_no = $2 and state = 'open' returning attempts""",
        job_id,
        call_no,
        owner,
        lease_s,
    )
    return attempt


async def contest_lease(connection: Connection, job_id: UUID, call_no: int, notice_s: float) -> None:
    """Give the owner of an expired lease a while to renew it."""
    await connection.execute(
        """update calls set leased_until = now() + make_interval(secs => $3), contested = true
           where job_id = $1 and call_no = $2""",
        job_id,
        call_no,
        notice_s,
    )


async def begin_attempt(
    connection: Connection, job_id: UUID, call_no: int, attempt: int, *, provider: str, model: str
) -> None:
    """Record that a provider is about to be called."""
    await connection.execute(
        """insert into attempts (job_id, call_no, attempt, provider, model) values ($1, $2, $3, $4, $5)
           on conflict (job_id, call_no, attempt) do update
           set provider = excluded.provider, model = excluded.model, started_at = now(), ended_at = null,
               code = null""",
        job_id,
        call_no,
        attempt,
        provider,
        model,
    )


async def end_attempt(
    connection: Connection,
    job_id: UUID,
    call_no: int,
    attempt: int,
    *,
    code: str | None,
    late: bool,
    model: str | None = None,
    cost_usd: Decimal | None = None,
    generation_id: str | None = None,
    usage: Mapping[str, Any] | None = None,
) -> bool:
    """Record how a provider call ended and what it cost, and return whether that was news."""
    found = await connection.fetchval(
        """update attempts set ended_at = now(), code = $4, late = $5, model = coalesce($6, model), cost_usd = $7,
                               generation_id = $8, usage = $9
           where job_id = $1 and call_no = $2 and attempt = $3 and ended_at is null returning true""",
        job_id,
        call_no,
        attempt,
        code,
        late,
        model,
        cost_usd,
        generation_id,
        dict(usage or {}),
    )
    return bool(found)


async def renew_leases(connection: Connection, owner: UUID, lease_s: float) -> int:
    """Prolong all leases of a process, and return how many it holds."""
    status = await connection.execute(
        """update calls set leased_until = now() + make_interval(secs => $2), contested = false
           where owner = $1 and state = 'open'""",
        owner,
        lease_s,
    )
    return int(status.rpartition(" ")[2])


async def reopen(
    connection: Connection,
    job_id: UUID,
    call_no: int,
    owner: UUID,
    *,
    code: str,
    retry_at_s: float | None,
    forget_attempt: bool,
) -> None:
    """Give up the lease on a call that is to be tried again.

    Args:
        connection: Where to.
        job_id: Whose call.
        call_no: Which one.
        owner: Who held it.
        code: What went wrong.
        retry_at_s: In how many seconds it may be tried again at the earliest.
        forget_attempt: Whether nothing was attempted after all: the provider was not asked, a part was away.
    """
    await connection.execute(
        """update calls set owner = null, leased_until = null, code = $4,
                            retry_at = now() + make_interval(secs => $5), attempts = attempts - $6::integer
           where job_id = $1 and call_no = $2 and owner = $3 and state = 'open'""",
        job_id,
        call_no,
        owner,
        code,
        retry_at_s,
        int(forget_attempt),
    )


async def finish(
    connection: Connection,
    job_id: UUID,
    call_no: int,
    *,
    state: str,
    code: str | None,
    failures: Mapping[str, str],
    model: str | None = None,
    images: Sequence[Mapping[str, Any]] = (),
) -> bool:
    """Record a call's end, whoever owns it by now, and return whether it was still open."""
    found = await connection.fetchval(
        """update calls set state = $3, code = $4, failures = $5, images = $6, finished_at = now(),
                            model = coalesce($7, model),
                            owner = null, leased_until = null, retry_at = null
           where job_id = $1 and call_no = $2 and state = 'open' returning true""",
        job_id,
        call_no,
        state,
        code,
        dict(failures),
        list(images),
        model,
    )
    return bool(found)


async def settle_job(connection: Connection, job_id: UUID) -> None:
    """Remember that the job needs no call any more."""
    await connection.execute("insert into settled_jobs (job_id) values ($1) on conflict do nothing", job_id)


async def close_calls(connection: Connection, job_id: UUID) -> int:
    """Close the job's open calls, and return how many there were."""
    status = await connection.execute(
        """update calls set state = 'closed', finished_at = now(), owner = null, leased_until = null, retry_at = null
           where job_id = $1 and state = 'open'""",
        job_id,
    )
    return int(status.rpartition(" ")[2])


async def unfinished_attempts(connection: Connection, before: datetime) -> list[dict[str, Any]]:
    """Return attempts that began before a time and never ended: calls that may have been paid for twice."""
    rows = await connection.fetch(
        """select job_id, call_no, attempt, provider, model, started_at from attempts
           where ended_at is null and started_at < $1 order by started_at limit 1000""",
        before,
    )
    return [dict(row) for row in rows]


# The books


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
