"""What clients read of a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from pixorly.db import Connection
from pixorly_api.lifecycle import Job, Slot
from pixorly_api.store.images import Image, images_of
from pixorly_api.store.jobs import JOB_COLUMNS, job_of, slots_of

_READ_COLUMNS: Final = f"{JOB_COLUMNS}, metadata, version, balance_credits, retry_of"


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

    status: str | None = None
    model: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    prompt: str | None = None
    metadata: Mapping[str, str] | None = None


async def records(connection: Connection, user_id: str, job_ids: Sequence[UUID]) -> list[Record]:
    """Return a user's jobs with these ids, newest first; what is not theirs is left out."""
    rows = await connection.fetch(
        f"""select {_READ_COLUMNS} from jobs
            where job_id = any($1::uuid[]) and user_id = $2 and status not in ('intent', 'abandoned')
            order by job_id desc""",  # noqa: S608 - constants
        job_ids,
        user_id,
    )
    return await _records(connection, rows)


async def news_of(
    connection: Connection, user_id: str, after: UUID, settled_since: datetime, limit: int
) -> list[Record]:
    """Return a user's jobs after the id `after` that are open, or were settled since then, newest first."""
    rows = await connection.fetch(
        f"""select {_READ_COLUMNS} from jobs
            where user_id = $1 and job_id > $2 and status not in ('intent', 'abandoned')
              and (settled_at is null or settled_at >= $3)
            order by job_id desc limit $4""",  # noqa: S608 - constants
        user_id,
        after,
        settled_since,
        limit,
    )
    return await _records(connection, rows)


async def list_records(
    connection: Connection, user_id: str, filters: Filters, before: UUID | None, limit: int
) -> list[Record]:
    """Return a user's newest jobs before the job `before`."""
    rows = await connection.fetch(
        f"""select {_READ_COLUMNS} from jobs
            where user_id = $1 and status not in ('intent', 'abandoned')
              and ($2::uuid is null or job_id < $2) and ($3::text is null or status = $3)
              and ($4::text is null or model = $4) and ($5::timestamptz is null or created_at > $5)
              and ($6::timestamptz is null or created_at < $6)
              and ($7::text is null or position(lower($7) in lower(prompt)) > 0)
              and ($8::jsonb is null or metadata @> $8)
            order by job_id desc limit $9""",  # noqa: S608 - constants
        user_id,
        before,
        filters.status,
        filters.model,
        filters.created_after,
        filters.created_before,
        filters.prompt,
        dict(filters.metadata) if filters.metadata else None,
        limit,
    )
    return await _records(connection, rows)


async def _records(connection: Connection, rows: Sequence[asyncpg.Record]) -> list[Record]:
    job_ids = [row["job_id"] for row in rows]
    if not job_ids:
        return []
    slots = await slots_of(connection, job_ids)
    images: dict[UUID, list[Image]] = {job_id: [] for job_id in job_ids}
    for image in await images_of(connection, [slot.image_id for of_job in slots.values() for slot in of_job]):
        images[image.job_id].append(image)
    return [record_of(row, slots[row["job_id"]], tuple(images[row["job_id"]])) for row in rows]


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
