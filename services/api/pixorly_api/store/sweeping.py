"""Sweeping. What a sweep takes is locked, and what another holds is skipped, so any number of sweepers may run."""

from datetime import datetime
from uuid import UUID

from pixorly.db import Connection


async def abandon_intents(connection: Connection, ttl_s: float, limit: int) -> list[tuple[UUID, str]]:
    """Give up intents older than `ttl_s` that nobody is at work on; return their ids and users."""
    rows = await connection.fetch(
        """update jobs set status = 'abandoned', version = version + 1
           where job_id in (
               select job_id from jobs
               where status = 'intent' and created_at < now() - make_interval(secs => $1) and claimed_until <= now()
               order by created_at limit $2 for update skip locked)
           returning job_id, user_id""",
        ttl_s,
        limit,
    )
    return [(row["job_id"], row["user_id"]) for row in rows]


async def unvoided(connection: Connection, limit: int) -> list[tuple[UUID, str]]:
    """Return abandoned jobs whose charge is not known to be void."""
    rows = await connection.fetch(
        """select job_id, user_id from jobs where status = 'abandoned' and voided_at is null
           order by created_at limit $1""",
        limit,
    )
    return [(row["job_id"], row["user_id"]) for row in rows]


async def note_voided(connection: Connection, job_id: UUID) -> None:
    """Note that the charge of an abandoned job is void."""
    await connection.execute("update jobs set voided_at = now() where job_id = $1 and voided_at is null", job_id)


async def overdue(connection: Connection, limit: int) -> list[UUID]:
    """Return open jobs whose deadline has passed."""
    rows = await connection.fetch(
        """select job_id from jobs where status in ('pending', 'processing', 'uploading') and deadline <= now()
           order by deadline limit $1 for update skip locked""",
        limit,
    )
    return [row["job_id"] for row in rows]


async def unsettled(connection: Connection, limit: int) -> list[UUID]:
    """Return open jobs whose slots are all terminal, which no step should leave behind."""
    rows = await connection.fetch(
        """select job_id from jobs j
           where status in ('pending', 'processing', 'uploading')
             and not exists (select 1 from slots s where s.job_id = j.job_id and s.state in ('pending', 'generated'))
           limit $1 for update skip locked""",
        limit,
    )
    return [row["job_id"] for row in rows]


async def postpone_nudges(connection: Connection, after_s: float) -> None:
    """Leave jobs alone of which there was news within `after_s`."""
    await connection.execute(
        """update jobs set nudges = 0, nudge_at = news_at + make_interval(secs => $1)
           where job_id in (
               select job_id from jobs
               where status in ('pending', 'processing', 'uploading') and nudge_at <= now()
                 and news_at > now() - make_interval(secs => $1)
               for update skip locked)""",
        after_s,
    )


async def has_said_again(connection: Connection, jobs: int) -> bool:
    """Tell whether so many jobs, and a tenth of those that have not begun, were said again and have not begun since."""
    found: bool = await connection.fetchval(
        "select count(*) filter (where nudges > 0) >= greatest($1, count(*) / 10) from jobs where status = 'pending'",
        jobs,
    )
    return found


async def quiet(connection: Connection, after_s: float, limit: int, *, more_pending: bool = True) -> list[UUID]:
    """Return open jobs without news for long, and say when to look at them again: each time after twice as long.

    Args:
        connection: Where to.
        after_s: How long is long.
        limit: The most to return.
        more_pending: Whether jobs that have not begun are among them for the first time.
    """
    rows = await connection.fetch(
        """update jobs set nudges = nudges + 1,
                  nudge_at = now() + make_interval(secs => $1 * power(2, least(nudges + 1, 10)))
           where job_id in (
               select job_id from jobs
               where status in ('pending', 'processing', 'uploading') and nudge_at <= now()
                 and news_at <= now() - make_interval(secs => $1) and (status <> 'pending' or nudges > 0 or $3)
               order by nudge_at limit $2 for update skip locked)
           returning job_id""",
        after_s,
        limit,
        more_pending,
    )
    return [row["job_id"] for row in rows]


async def keep_partitions(connection: Connection, at: datetime) -> int:
    """Have partitions for the month of `at` and some to come, and return how many were made."""
    made: int = await connection.fetchval(
        """select keep_partitions('jobs', at => $1) + keep_partitions('slots', at => $1)
                  + keep_partitions('attempts', at => $1) + keep_partitions('images', at => $1)""",
        at,
    )
    return made


async def purge_idempotency_keys(connection: Connection, ttl_s: float, limit: int) -> int:
    """Delete keys older than `ttl_s`, and return how many."""
    rows = await connection.fetch(
        """delete from idempotency_keys where (user_id, key) in (
               select user_id, key from idempotency_keys where created_at < now() - make_interval(secs => $1)
               order by created_at limit $2 for update skip locked)
           returning true""",
        ttl_s,
        limit,
    )
    return len(rows)


async def purge_abandoned(connection: Connection, ttl_s: float, limit: int) -> int:
    """Delete abandoned jobs whose charge is void, some time after, and return how many."""
    rows = await connection.fetch(
        """delete from jobs where job_id in (
               select job_id from jobs
               where status = 'abandoned' and voided_at is not null and created_at < now() - make_interval(secs => $1)
               order by created_at limit $2 for update skip locked)
           returning true""",
        ttl_s,
        limit,
    )
    return len(rows)


async def measure(connection: Connection) -> list[tuple[str, int, int, float]]:
    """Return by status how many jobs are open, how many of them are overdue, and the age of the oldest in seconds."""
    rows = await connection.fetch(
        """select status, count(*), count(*) filter (where deadline < now()),
                  greatest(0, extract(epoch from now() - min(created_at)))::float8
           from jobs where status in ('pending', 'processing', 'uploading') group by status"""
    )
    return [tuple(row) for row in rows]
