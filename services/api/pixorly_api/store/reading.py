"""What clients read of a job."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, get_args
from uuid import UUID

import asyncpg

from pixorly.db import OF_USER, Connection, created_between, where
from pixorly_api.lifecycle import Job, JobStatus, Slot
from pixorly_api.store.images import IMAGE_FIELDS, Image
from pixorly_api.store.jobs import JOB_COLUMNS, SLOT_COLUMNS, SLOTS, job_of, slot_of

_READ_COLUMNS: Final = f"{JOB_COLUMNS}, metadata, version, balance_credits, retry_of"
_SLOT_COLUMNS: Final = ", ".join(
    [
        SLOT_COLUMNS,
        *(f"i.{name}" for name in IMAGE_FIELDS if name not in {"job_id", "index", "image_id", "original_key"}),
    ]
)
_PROMISED: Final = "status not in ('intent', 'abandoned')"
_STATUS: Final = {None: _PROMISED, **{each: f"{_PROMISED} and status = '{each}'" for each in get_args(JobStatus)}}


@dataclass(frozen=True, slots=True)
class Record:
    """A job as clients see it.

    Attributes:
        job: The job.
        metadata: What its caller noted on it.
        version: Moves with every change.
        balance_credits: What its charge left.
        images: Its images that are in the bucket, in order.
        retry_of: The failed job that it is another try of.
    """

    job: Job
    metadata: Mapping[str, str]
    version: int
    balance_credits: int
    images: tuple[Image, ...] = ()
    retry_of: UUID | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs of a user to list; None leaves a thing open."""

    status: JobStatus | None = None
    model: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    prompt: str | None = None
    metadata: Mapping[str, str] | None = None


async def records(connection: Connection, wanted: Collection[tuple[str, UUID]]) -> list[Record]:
    """Return jobs by their users and ids, newest first; what is not that user's is left out."""
    rows = await connection.fetch(
        f"""select {_READ_COLUMNS} from unnest($1::text[], $2::uuid[]) as wanted(user_id, job_id)
                join jobs using (user_id, job_id)
            where status not in ('intent', 'abandoned') order by job_id desc""",  # noqa: S608 - constants
        [user_id for user_id, _ in wanted],
        [job_id for _, job_id in wanted],
    )
    return await _records(connection, rows)


async def news_of(
    connection: Connection, user_id: str, after: UUID, settled_since: datetime, limit: int
) -> list[Record]:
    """Return a user's jobs after the id `after` that are open, or were settled since then, newest first."""
    rows = await connection.fetch(
        f"""select {_READ_COLUMNS} from jobs
            where {OF_USER.format("$1")} and job_id > $2 and status not in ('intent', 'abandoned')
              and (settled_at is null or settled_at >= $3)
            order by user_id, job_id desc limit $4""",  # noqa: S608 - constants
        user_id,
        after,
        settled_since,
        limit,
    )
    return await _records(connection, rows)


async def list_records(
    connection: Connection, user_id: str, filters: Filters, before: UUID | None, limit: int
) -> list[Record]:
    """Return a user's newest jobs before the job `before`.

    What lies before and after the span of time that is asked for is passed over by its ids; a status stands in the
    statement itself, so that an index of those that are open serves those who ask for them.
    """
    asked, arguments = where(
        (OF_USER, user_id),
        ("job_id < {}", before),
        ("model = {}", filters.model),
        *created_between("job_id", filters.created_after, filters.created_before),
        ("position(lower({}) in lower(prompt)) > 0", filters.prompt),
        ("metadata @> {}", dict(filters.metadata) if filters.metadata else None),
    )
    rows = await connection.fetch(
        f"""select {_READ_COLUMNS} from jobs where {asked} and {_STATUS[filters.status]}
            order by user_id, job_id desc limit ${len(arguments) + 1}""",  # noqa: S608 - constants
        *arguments,
        limit,
    )
    return await _records(connection, rows)


async def _records(connection: Connection, rows: Sequence[asyncpg.Record]) -> list[Record]:
    """Return each of these jobs once, with its slots and those of its images that are not deleted."""
    jobs = {row["job_id"]: row for row in rows}
    if not jobs:
        return []
    slots: dict[UUID, list[Slot]] = {job_id: [] for job_id in jobs}
    images: dict[UUID, list[Image]] = {job_id: [] for job_id in jobs}
    for row in await connection.fetch(f"select {_SLOT_COLUMNS} from {SLOTS}", list(jobs)):  # noqa: S608 - constants
        slots[row["job_id"]].append(slot_of(row))
        if row["original_key"] and not row["deleted"]:
            images[row["job_id"]].append(Image(**{name: row[name] for name in IMAGE_FIELDS}))
    return [record_of(row, tuple(slots[job_id]), tuple(images[job_id])) for job_id, row in jobs.items()]


def record_of(row: asyncpg.Record, slots: tuple[Slot, ...], images: tuple[Image, ...]) -> Record:
    """Return a job as its row, its slots and its images have it."""
    return Record(
        job=job_of(row, slots),
        metadata=row["metadata"],
        version=row["version"],
        balance_credits=row["balance_credits"],
        images=images,
        retry_of=row["retry_of"],
    )


async def attempts_of(connection: Connection, job_id: UUID) -> list[dict[str, Any]]:
    """Return what workers tried for a job, in order of time."""
    rows = await connection.fetch(
        """select kind, stage, index, attempt, provider, model, code, message, delay_s, at
           from attempts where job_id = $1 order by at, attempt""",
        job_id,
    )
    return [dict(row) for row in rows]


async def slot_times(connection: Connection, job_id: UUID) -> list[dict[str, Any]]:
    """Return when each slot of a job moved."""
    rows = await connection.fetch(
        """select index, image_id, state, code, message, stage, generated_at, ended_at, generated ->> 'model' as model
           from slots where job_id = $1 order by index""",
        job_id,
    )
    return [dict(row) for row in rows]
