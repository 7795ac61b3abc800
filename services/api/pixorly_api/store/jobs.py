"""Following a job: what a step reads, locks and writes."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from pixorly.db import Connection
from pixorly.events import ImageGenerated, ImageParams, ImageUploaded, JobRetrying, JobStarted, PlannedCall
from pixorly.keys import is_public
from pixorly_api.lifecycle import Job, Slot

JOB_COLUMNS: Final = """job_id, user_id, status, model, fallback_models, prompt, params, n, plan, calls,
    visibility, credits_per_image, created_at, deadline, started_at, settled_at, retry_count, trace_id"""
SLOT_COLUMNS: Final = """s.job_id, s.index, s.image_id, s.state, s.code, s.message, s.stage, s.generated,
    i.deleted_at is not null as deleted, i.original_key"""
"""Of `SLOTS`."""
SLOTS: Final = """unnest($1::uuid[]) as wanted(job_id) join slots s using (job_id) left join images i using (image_id)
    order by s.job_id, s.index"""
"""The slots of these jobs, in order, each with its image if there is one."""
_ATTEMPT_KEY: Final = 5
"""How many of the columns of an attempt tell it from others."""


def job_of(row: asyncpg.Record, slots: tuple[Slot, ...]) -> Job:
    """Return a job as its row and its slots have it."""
    return Job(
        job_id=row["job_id"],
        user_id=row["user_id"],
        status=row["status"],
        model=row["model"],
        prompt=row["prompt"],
        params=ImageParams.model_validate(row["params"]),
        n=row["n"],
        plan=row["plan"],
        calls=tuple(PlannedCall.model_validate(call) for call in row["calls"]),
        credits_per_image=row["credits_per_image"],
        created_at=row["created_at"],
        deadline=row["deadline"],
        started_at=row["started_at"],
        settled_at=row["settled_at"],
        retry_count=row["retry_count"],
        slots=slots,
        fallback_models=tuple(row["fallback_models"]),
        visibility=row["visibility"],
        place=row["trace_id"],
    )


def slot_of(row: asyncpg.Record) -> Slot:
    """Return a slot as its row has it."""
    return Slot(
        index=row["index"],
        image_id=row["image_id"],
        state=row["state"],
        code=row["code"],
        message=row["message"],
        stage=row["stage"],
        generated=ImageGenerated.model_validate(row["generated"]) if row["generated"] else None,
        deleted=row["deleted"],
        original_key=row["original_key"],
    )


async def now(connection: Connection) -> datetime:
    """Return the time that ends jobs: this transaction's."""
    time: datetime = await connection.fetchval("select now()")
    return time


async def lock_jobs(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, Job]:
    """Lock promised jobs, always in the order of their ids, and return them with their slots."""
    rows = await connection.fetch(
        f"""select {JOB_COLUMNS} from unnest($1::uuid[]) as wanted(job_id) join jobs using (job_id)
            where status not in ('intent', 'abandoned') order by job_id for update of jobs""",  # noqa: S608 - constants
        sorted(job_ids),
    )
    slots = await slots_of(connection, [row["job_id"] for row in rows])
    return {row["job_id"]: job_of(row, slots[row["job_id"]]) for row in rows}


async def slots_of(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, tuple[Slot, ...]]:
    """Return the slots of each of these jobs, in order."""
    rows = await connection.fetch(f"select {SLOT_COLUMNS} from {SLOTS}", job_ids)  # noqa: S608 - constants
    found: dict[UUID, list[Slot]] = {job_id: [] for job_id in job_ids}
    for row in rows:
        found[row["job_id"]].append(slot_of(row))
    return {job_id: tuple(slots) for job_id, slots in found.items()}


async def add_attempts(connection: Connection, events: Sequence[JobStarted | JobRetrying]) -> set[UUID]:
    """Note what workers tried, and return the ids of the events that were new.

    An attempt that went on to another model is known by the last one that it asked.
    """
    told = {_attempt(event): event.event_id for event in sorted(events, key=lambda event: event.occurred_at)}
    rows = {row[:_ATTEMPT_KEY]: (row, event_id) for row, event_id in told.items()}
    fresh = await connection.fetch(
        """insert into attempts (job_id, kind, stage, index, attempt, user_id, provider, model, code, message, delay_s,
                                 at)
           select * from unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::int[], $6::text[], $7::text[],
                                $8::text[], $9::text[], $10::text[], $11::real[], $12::timestamptz[])
           on conflict (job_id, kind, stage, index, attempt) do update
           set provider = excluded.provider, model = excluded.model, at = excluded.at
           where attempts.kind = 'started' and attempts.at < excluded.at
           returning job_id, kind, stage, index, attempt""",
        *_columns([row for row, _ in rows.values()]),
    )
    return {rows[tuple(row)][1] for row in fresh}


def _attempt(event: JobStarted | JobRetrying) -> tuple[Any, ...]:
    if isinstance(event, JobStarted):
        where: tuple[Any, ...] = ("started", "generate", event.call_no)
        told: tuple[Any, ...] = (event.provider, event.model, None, None, None)
    else:
        where = ("retrying", event.stage, event.index)
        told = (None, None, event.code, event.message[:500], event.delay_s)
    return (event.job_id, *where, event.attempt, event.user_id, *told, event.occurred_at)


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


async def write_jobs(connection: Connection, jobs: Sequence[Job]) -> None:
    """Write what a step may change of open jobs, and note that there was news of them."""
    if not jobs:
        return
    rows = [(job.job_id, job.status, job.started_at, job.settled_at, job.retry_count) for job in jobs]
    await connection.execute(
        """update jobs set status = new.status, started_at = new.started_at, settled_at = new.settled_at,
                  retry_count = new.retry_count, news_at = now(), version = version + 1
           from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::int[])
                as new(job_id, status, started_at, settled_at, retry_count)
           where jobs.job_id = new.job_id and jobs.status in ('pending', 'processing', 'uploading')""",
        *_columns(rows),
    )


async def write_slots(connection: Connection, slots: Sequence[tuple[UUID, Slot]]) -> None:
    """Write what a step changed of open slots."""
    if not slots:
        return
    rows = [
        (
            job_id,
            slot.index,
            slot.state,
            slot.code,
            slot.message,
            slot.fault,
            slot.stage,
            slot.generated.model_dump(mode="json") if slot.generated else None,
        )
        for job_id, slot in slots
    ]
    await connection.execute(
        """update slots set state = new.state, code = new.code, message = new.message, fault = new.fault,
                  stage = new.stage, generated = coalesce(slots.generated, new.generated),
                  generated_at = case when new.generated is not null then coalesce(slots.generated_at, now()) end,
                  ended_at = case when new.state in ('uploaded', 'failed') then now() end
           from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                       $8::jsonb[]) as new(job_id, index, state, code, message, fault, stage, generated)
           where slots.job_id = new.job_id and slots.index = new.index and slots.state in ('pending', 'generated')""",
        *_columns(rows),
    )


async def add_images(connection: Connection, uploads: Sequence[tuple[str, ImageUploaded]]) -> None:
    """Note images, each with the model that made it, that are in the bucket now."""
    if not uploads:
        return
    rows = [
        (
            event.image_id,
            event.user_id,
            event.job_id,
            event.index,
            model,
            event.keys.original,
            event.keys.thumbnails,
            event.bytes,
            event.thumbnail_bytes,
            event.width,
            event.height,
            event.content_type,
            event.sha256,
            event.thumbhash,
            "public" if is_public(event.keys.original) else "private",
        )
        for model, event in uploads
    ]
    await connection.executemany(
        """insert into images (image_id, user_id, job_id, index, model, original_key, thumbnail_keys, bytes,
                               thumbnail_bytes, width, height, content_type, sha256, thumbhash, visibility)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
           on conflict (image_id) do nothing""",
        rows,
    )


async def touch_jobs(connection: Connection, job_ids: Iterable[UUID]) -> None:
    """Tell those who watch jobs that something about them changed; they are locked in the order of their ids."""
    await connection.execute(
        """update jobs set version = version + 1
           where job_id in (select job_id from jobs where job_id = any($1::uuid[]) order by job_id for update)""",
        sorted(set(job_ids)),
    )


async def status_of(connection: Connection, job_id: UUID) -> str | None:
    """Return a job's status."""
    status: str | None = await connection.fetchval("select status from jobs where job_id = $1", job_id)
    return status


async def statuses(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the status of those jobs that there are."""
    rows = await connection.fetch("select job_id, status from jobs where job_id = any($1::uuid[])", list(job_ids))
    return {row["job_id"]: row["status"] for row in rows}


async def versions(connection: Connection, job_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Return the version of each of these jobs."""
    rows = await connection.fetch(
        "select job_id, version from unnest($1::uuid[]) as wanted(job_id) join jobs using (job_id)", list(job_ids)
    )
    return {row["job_id"]: row["version"] for row in rows}
