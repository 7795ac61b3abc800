"""What takes several calls: leases and endings. Whoever takes several locks them in the order of their keys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson

from pixorly.db import Connection

Key = tuple[UUID, int]
"""A call: the job's id and the call's number."""


class Wanted(NamedTuple):
    """A call that is to be made, and the model that is asked."""

    job_id: UUID
    call_no: int
    user_id: str
    provider: str
    model: str
    deadline: datetime


class Ending(NamedTuple):
    """How a call ended, and the attempt that ended it.

    Attributes:
        attempt: Its number; 0 where the call ends without one.
        model: The one in the catalogue that was asked; None for the one that is known already.
        images: What `staging.StagedImage` is as JSON.
        failures: The code by index of each slot that got no image.
    """

    job_id: UUID
    call_no: int
    attempt: int
    state: Literal["done", "failed"]
    code: str | None
    failures: Mapping[str, str]
    model: str | None = None
    images: Sequence[Mapping[str, Any]] = ()
    cost_usd: Decimal | None = None
    generation_id: str | None = None
    usage: Mapping[str, Any] = {}


class Fate(NamedTuple):
    """What became of an ending.

    Attributes:
        finished: Whether the call was open until then.
        ended: Whether the attempt was.
    """

    finished: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A row of `calls`, as the rules need it.

    Attributes:
        settled: Whether its job needs no call any more.
        model: The one in the catalogue that made the images.
        images: What `staging.StagedImage` is as JSON.
        failures: The code by index of each slot that got no image.
        held: Whether another owner's lease on it is running.
        expired: Whether another owner's lease on it ran out.
        contested: Whether somebody has noticed already that it ran out.
        early: Whether the ladder has not come to its next attempt yet.
        now: The database's time; a process's own clock may be wrong.
    """

    job_id: UUID
    call_no: int
    state: str
    settled: bool
    attempts: int
    model: str
    images: list[dict[str, Any]]
    failures: dict[str, str]
    held: bool
    expired: bool
    contested: bool
    early: bool
    now: datetime


async def lease_new(
    connection: Connection, wanted: Sequence[Wanted], owner: UUID, lease_s: float
) -> dict[Key, datetime]:
    """Reserve the calls that nobody has seen before, begin their first attempts, and return which, with the time.

    Left out are those of settled jobs and those past their deadlines. Whoever takes several calls takes them in the
    order of their keys, here and below, so that no two wait for each other.
    """
    rows = await connection.fetch(
        """with wanted as (
               select * from unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
                        as wanted(job_id, call_no, user_id, provider, model, deadline)
           ), leased as (
               insert into calls (job_id, call_no, user_id, model, owner, leased_until, attempts)
               select job_id, call_no, user_id, model, $7, now() + make_interval(secs => $8), 1
               from wanted
               where deadline > now() and not exists (select from settled_jobs s where s.job_id = wanted.job_id)
               order by job_id, call_no
               on conflict do nothing
               returning job_id, call_no
           )
           insert into attempts (job_id, call_no, attempt, provider, model)
           select job_id, call_no, 1, provider, wanted.model from leased join wanted using (job_id, call_no)
           returning job_id, call_no, now() as now""",
        *_columns(wanted),
        owner,
        lease_s,
    )
    return {(row["job_id"], row["call_no"]): row["now"] for row in rows}


async def add_calls(connection: Connection, wanted: Sequence[Wanted]) -> None:
    """Make the rows of calls that are not there yet, without a lease."""
    job_ids, call_nos, user_ids, _, models, _ = _columns(wanted)
    await connection.execute(
        """insert into calls (job_id, call_no, user_id, model)
           select * from unnest($1::uuid[], $2::int[], $3::text[], $4::text[]) order by 1, 2
           on conflict do nothing""",
        job_ids,
        call_nos,
        user_ids,
        models,
    )


async def lock_calls(connection: Connection, keys: Sequence[Key], owner: UUID) -> dict[Key, Call]:
    """Lock the calls that there are, and return them as their owner-to-be sees them."""
    rows = await connection.fetch(
        """select c.job_id, c.call_no, state, attempts, model, images, failures, contested,
                  exists (select from settled_jobs s where s.job_id = c.job_id) as settled,
                  coalesce(owner <> $3 and leased_until > now(), false) as held,
                  coalesce(owner <> $3 and leased_until <= now(), false) as expired,
                  coalesce(retry_at > now(), false) as early, now() as now
           from unnest($1::uuid[], $2::int[]) as wanted(job_id, call_no) join calls c using (job_id, call_no)
           order by c.job_id, c.call_no for update of c""",
        *_columns(keys),
        owner,
    )
    return {(row["job_id"], row["call_no"]): Call(**dict(row)) for row in rows}


async def lease_again(connection: Connection, wanted: Sequence[Wanted], owner: UUID, lease_s: float) -> dict[Key, int]:
    """Reserve open calls that are locked, and return the number of each one's attempt that begins."""
    rows = await connection.fetch(
        """with wanted as (
               select * from unnest($1::uuid[], $2::int[], $3::text[], $4::text[])
                        as wanted(job_id, call_no, provider, model)
           ), leased as (
               update calls c set owner = $5, leased_until = now() + make_interval(secs => $6), contested = false,
                                  attempts = attempts + 1, retry_at = null, code = null
               from wanted where c.job_id = wanted.job_id and c.call_no = wanted.call_no and state = 'open'
               returning c.job_id, c.call_no, c.attempts
           )
           insert into attempts (job_id, call_no, attempt, provider, model)
           select job_id, call_no, attempts, provider, model from leased join wanted using (job_id, call_no)
           on conflict (job_id, call_no, attempt) do update
           set provider = excluded.provider, model = excluded.model, started_at = now(), ended_at = null, code = null
           returning job_id, call_no, attempt""",
        *_columns([(each.job_id, each.call_no, each.provider, each.model) for each in wanted]),
        owner,
        lease_s,
    )
    return {(row["job_id"], row["call_no"]): row["attempt"] for row in rows}


async def contest_leases(connection: Connection, keys: Sequence[Key], notice_s: float) -> None:
    """Give the owners of expired leases, which are locked, a while to renew them."""
    await connection.execute(
        """update calls c set leased_until = now() + make_interval(secs => $3), contested = true
           from unnest($1::uuid[], $2::int[]) as expired(job_id, call_no)
           where c.job_id = expired.job_id and c.call_no = expired.call_no""",
        *_columns(keys),
        notice_s,
    )


async def turn_attempt(connection: Connection, key: Key, attempt: int, *, provider: str, model: str) -> None:
    """Record that an attempt goes on with another model."""
    await connection.execute(
        """update attempts set provider = $4, model = $5, started_at = now(), ended_at = null, code = null
           where job_id = $1 and call_no = $2 and attempt = $3""",
        *key,
        attempt,
        provider,
        model,
    )


async def renew_leases(connection: Connection, owner: UUID, lease_s: float) -> int:
    """Prolong all leases of a process, and return how many it holds."""
    status = await connection.execute(
        """with held as (
               select job_id, call_no from calls where owner = $1 and state = 'open'
               order by job_id, call_no for update
           )
           update calls c set leased_until = now() + make_interval(secs => $2), contested = false
           from held where c.job_id = held.job_id and c.call_no = held.call_no""",
        owner,
        lease_s,
    )
    return int(status.rpartition(" ")[2])


async def reopen(
    connection: Connection,
    key: Key,
    attempt: int,
    owner: UUID,
    *,
    code: str,
    cost_usd: Decimal | None,
    generation_id: str | None,
    retry_at_s: float | None,
    forget_attempt: bool,
) -> None:
    """End an attempt, and give up the lease on its call, which is to be tried again.

    Args:
        connection: Where to.
        key: Which call.
        attempt: The number of the attempt.
        owner: Who held it.
        code: What went wrong.
        cost_usd: What it cost all the same.
        generation_id: The provider's own id of it.
        retry_at_s: In how many seconds it may be tried again at the earliest.
        forget_attempt: Whether nothing was attempted after all: the provider was not asked, a part was away.
    """
    await connection.execute(
        """with ended as (
               update attempts set ended_at = now(), code = $5, cost_usd = $6, generation_id = $7
               where job_id = $1 and call_no = $2 and attempt = $3 and ended_at is null
           )
           update calls set owner = null, leased_until = null, code = $5,
                            retry_at = now() + make_interval(secs => $8), attempts = attempts - $9::integer
           where job_id = $1 and call_no = $2 and owner = $4 and state = 'open'""",
        *key,
        attempt,
        owner,
        code,
        cost_usd,
        generation_id,
        retry_at_s,
        int(forget_attempt),
    )


async def finish(connection: Connection, endings: Sequence[Ending]) -> list[Fate]:
    """Record how calls ended, whoever owns them by now, and what their attempts cost; return what became of each.

    An ending that comes when its call is finished already changes nothing but its attempt.
    """
    rows = await connection.fetch(
        """with told as (
               select told.* from unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[],
                                         $7::text[], $8::text[], $9::numeric[], $10::text[], $11::text[])
                                  with ordinality as told(job_id, call_no, attempt, state, code, failures, model,
                                                          images, cost_usd, generation_id, usage, place)
               join calls using (job_id, call_no) order by job_id, call_no for update of calls
           ), finished as (
               update calls c set state = told.state, code = told.code, failures = told.failures::jsonb,
                                  images = told.images::jsonb, finished_at = now(),
                                  model = coalesce(told.model, c.model),
                                  owner = null, leased_until = null, retry_at = null
               from told where c.job_id = told.job_id and c.call_no = told.call_no and c.state = 'open'
               returning told.place
           ), ended as (
               update attempts a set ended_at = now(), code = told.code, late = finished.place is null,
                                     model = coalesce(told.model, a.model), cost_usd = told.cost_usd,
                                     generation_id = told.generation_id, usage = told.usage::jsonb
               from told left join finished using (place)
               where a.job_id = told.job_id and a.call_no = told.call_no and a.attempt = told.attempt
                 and a.ended_at is null
               returning told.place
           )
           select place, true as finished from finished union all select place, false from ended""",
        *_columns([_row(ending) for ending in endings]),
    )
    finished, ended = ({row["place"] for row in rows if row["finished"] is which} for which in (True, False))
    return [Fate(place in finished, place in ended) for place in range(1, len(endings) + 1)]


def _row(ending: Ending) -> tuple[Any, ...]:
    told: dict[str, Any] = ending._asdict()
    return tuple({**told, **{name: _json(told[name]) for name in ("failures", "images", "usage")}}.values())


async def close_jobs(connection: Connection, job_ids: Sequence[UUID]) -> None:
    """Remember that the jobs need no call any more, and close their open calls."""
    await connection.execute(
        """with settled as (
               insert into settled_jobs (job_id) select * from unnest($1::uuid[]) order by 1 on conflict do nothing
           ), locked as (
               select c.job_id, c.call_no from unnest($1::uuid[]) as settled(job_id) join calls c using (job_id)
               where c.state = 'open' order by c.job_id, c.call_no for update of c
           )
           update calls c set state = 'closed', finished_at = now(), owner = null, leased_until = null, retry_at = null
           from locked where c.job_id = locked.job_id and c.call_no = locked.call_no and c.state = 'open'""",
        job_ids,
    )


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _json(value: object) -> str:
    """Return JSON as text, for an array of it: asyncpg would take lists in a list for more dimensions."""
    return orjson.dumps(value).decode()
