"""Erasing: of all that a user gave us, and of prompts that are old enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pixorly.db import Connection


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased of a user's, and when there was nothing left."""

    user_id: str
    requested_at: datetime
    finished_at: datetime | None
    images: int
    jobs: int


async def ask_for_erasure(connection: Connection, user_id: str) -> None:
    """Note that a user is to be erased, once more where that was done before, and close every door of theirs."""
    await connection.execute(
        """with keys as (update api_keys set revoked_at = coalesce(revoked_at, now()), name = '' where user_id = $1),
                tokens as (delete from stream_tokens where user_id = $1),
                prices as (delete from quotes where user_id = $1),
                ties as (delete from idempotency_keys where user_id = $1)
           insert into erasures (user_id) values ($1)
           on conflict (user_id) do update set requested_at = now(), finished_at = null""",
        user_id,
    )


async def find_erasure(connection: Connection, user_id: str) -> Erasure | None:
    """Return how far the erasure of a user is."""
    row = await connection.fetchrow(
        "select user_id, requested_at, finished_at, images, jobs from erasures where user_id = $1", user_id
    )
    return Erasure(**row) if row else None


async def open_erasures(connection: Connection, limit: int) -> list[str]:
    """Return users who are to be erased and are not yet."""
    rows = await connection.fetch(
        "select user_id from erasures where finished_at is null order by requested_at limit $1", limit
    )
    return [row["user_id"] for row in rows]


async def end_open_jobs(connection: Connection, user_id: str) -> int:
    """Let the deadline of a user's open jobs be now, and return how many are open."""
    rows = await connection.fetch(
        """update jobs set deadline = least(deadline, now())
           where user_id = $1 and status in ('intent', 'pending', 'processing', 'uploading') returning true""",
        user_id,
    )
    return len(rows)


async def some_images_of(connection: Connection, user_id: str, limit: int) -> list[UUID]:
    """Return images of a user's that are not deleted."""
    rows = await connection.fetch(
        "select image_id from images where user_id = $1 and deleted_at is null limit $2",
        user_id,
        limit,
    )
    return [row["image_id"] for row in rows]


async def some_told_jobs_of(connection: Connection, user_id: str, limit: int) -> list[UUID]:
    """Return jobs of a user's that are over and say something still."""
    rows = await connection.fetch(
        """select job_id from jobs
           where user_id = $1 and status in ('completed', 'failed', 'canceled', 'abandoned')
             and (prompt <> '' or metadata <> '{}' or body_hash <> '')
           limit $2 for update skip locked""",
        user_id,
        limit,
    )
    return [row["job_id"] for row in rows]


async def blank_jobs(connection: Connection, job_ids: Sequence[UUID], *, prompt_only: bool) -> None:
    """Take what their user said, and what others said of it, out of jobs that are over."""
    await connection.execute(
        """with said as (
               update slots set generated = generated - 'prompt_revised', message = null
               where job_id = any($1::uuid[]) and (generated ? 'prompt_revised' or message is not null)),
           tried as (update attempts set message = null where job_id = any($1::uuid[]) and message is not null)
           update jobs set prompt = '', version = version + 1,
                  metadata = case when $2 then metadata else '{}' end,
                  body_hash = case when $2 then body_hash else '' end
           where job_id = any($1::uuid[])""",
        list(job_ids),
        prompt_only,
    )


async def note_erased(
    connection: Connection, user_id: str, *, images: int = 0, jobs: int = 0, finished: bool = False
) -> None:
    """Add to what was erased of a user's."""
    await connection.execute(
        """update erasures set images = images + $2, jobs = jobs + $3,
                  finished_at = case when $4 then now() else finished_at end
           where user_id = $1""",
        user_id,
        images,
        jobs,
        finished,
    )


async def aged_jobs(connection: Connection, days: int, limit: int) -> list[tuple[UUID, bool]]:
    """Return the next jobs that were created more than `days` ago, and of each whether it has been over for as long.

    Whoever asks goes on from where `note_aged` was told, and is alone at it until the transaction ends.
    """
    rows = await connection.fetch(
        """with reached as (
               insert into progress (task, after_id) values ('prompts', '00000000-0000-0000-0000-000000000000')
               on conflict (task) do update set after_id = progress.after_id returning after_id)
           select job_id,
                  status = 'abandoned' or coalesce(settled_at < now() - make_interval(days => $1), false) as over
           from jobs
           where job_id > (select after_id from reached) and job_id < id_floor(now() - make_interval(days => $1))
           order by job_id limit $2""",
        days,
        limit,
    )
    return [(row["job_id"], row["over"]) for row in rows]


async def note_aged(connection: Connection, job_id: UUID) -> None:
    """Note up to which job prompts were blanked."""
    await connection.execute("update progress set after_id = $1 where task = 'prompts'", job_id)
