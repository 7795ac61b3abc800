"""All of the api's SQL. One function per statement; a function takes a connection and opens no transaction.

Functions that move a state say from which states they move it, so that a repeat or a late call moves nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from pixorly.db import Connection
from pixorly.events import (
    ImageDeleted,
    ImageGenerated,
    ImageParams,
    ImageUploaded,
    JobRetrying,
    JobStarted,
    PlannedCall,
    StoredKeys,
    Visibility,
)
from pixorly.keys import is_public
from pixorly_api.lifecycle import Job, Slot

_JOB_COLUMNS: Final = """job_id, user_id, status, model, fallback_models, prompt, params, n, plan, calls,
    visibility, credits_per_image, created_at, deadline, started_at, settled_at, retry_count"""
_PROMISED_COLUMNS: Final = """job_id, user_id, status, model, fallback_models, prompt, params, n, jobs.plan, calls,
    visibility, credits_per_image, created_at, deadline, started_at, settled_at, retry_count, metadata, version,
    balance_credits, trace_id, retry_of"""
_READ_COLUMNS: Final = f"{_JOB_COLUMNS}, metadata, version, balance_credits, trace_id, retry_of"
_IMAGE_COLUMNS: Final = """image_id, user_id, job_id, index, model, visibility, original_key, thumbnail_keys, bytes,
    thumbnail_bytes, width, height, content_type, sha256, thumbhash, created_at"""


_ATTEMPT_KEY: Final = 5
"""How many of the columns of an attempt tell it from others."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A job that was asked for and is not promised yet.

    Attributes:
        tried: Whether an earlier request drove it, too, and may have had it charged.
    """

    job_id: UUID
    user_id: str
    model: str
    prompt: str = field(repr=False)
    params: ImageParams
    image_ids: tuple[UUID, ...]
    calls: tuple[PlannedCall, ...]
    credits_per_image: int
    metadata: Mapping[str, str]
    body_hash: bytes
    trace_id: str | None = None
    fallback_models: tuple[str, ...] = ()
    tried: bool = False
    visibility: Visibility = "private"
    retry_of: UUID | None = None

    @property
    def amount_credits(self) -> int:
        """What the whole job costs."""
        return self.credits_per_image * len(self.image_ids)


@dataclass(frozen=True, slots=True)
class Asked:
    """An intent to be noted, its client's idempotency key, and how long the job may take."""

    intent: Intent
    key: str | None
    deadline_s: int


@dataclass(frozen=True, slots=True)
class Charged:
    """An intent whose charge was made: the payer's plan, and what the charge left."""

    intent: Intent
    plan: str
    balance_credits: int


@dataclass(frozen=True, slots=True)
class Earlier:
    """The job of an earlier request that this one may repeat."""

    job_id: UUID
    status: str
    body_hash: bytes
    expired: bool


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the bucket.

    Attributes:
        visibility: Who is to read it; it lies accordingly, or is on its way.
    """

    image_id: UUID
    user_id: str
    job_id: UUID
    index: int
    model: str
    visibility: Visibility
    original_key: str
    thumbnail_keys: dict[str, str]
    bytes: int
    thumbnail_bytes: int
    width: int
    height: int
    content_type: str
    sha256: str
    thumbhash: str
    created_at: datetime

    @property
    def keys(self) -> tuple[str, ...]:
        """Return every key."""
        return (self.original_key, *self.thumbnail_keys.values())

    @property
    def place(self) -> StoredKeys:
        """Where it lies."""
        return StoredKeys(original=self.original_key, thumbnails=self.thumbnail_keys)

    @property
    def moving(self) -> bool:
        """Whether it is on its way to where its visibility wants it."""
        return is_public(self.original_key) != (self.visibility == "public")


@dataclass(frozen=True, slots=True)
class Move:
    """A way of an image from one part of the bucket to another.

    Attributes:
        state: asked → done, or dropped if its user changed their mind before.
    """

    image_id: UUID
    move: int
    user_id: str
    job_id: UUID
    index: int
    state: Literal["asked", "done", "dropped"]
    source: StoredKeys
    target: StoredKeys
    content_type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """A job as clients see it.

    Attributes:
        job: The job.
        metadata: What its caller noted on it.
        version: Moves with every change.
        balance_credits: What its charge left.
        trace_id: The trace of the request that made it.
        images: Its images that are in the bucket, in order.
        retry_of: The failed job that it is another try of.
    """

    job: Job
    metadata: Mapping[str, str]
    version: int
    balance_credits: int
    trace_id: str | None
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


@dataclass(frozen=True, slots=True)
class ImageFilters:
    """Which images of a user to list; None leaves a thing open."""

    job_id: UUID | None = None
    model: str | None = None
    visibility: Visibility | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as its holder's list shows it."""

    key_id: UUID
    user_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


# Creating a job.


async def insert_intents(connection: Connection, asked: Sequence[Asked], claim_s: float) -> set[UUID]:
    """Note jobs that were asked for, each tied to its key, at work on by us for `claim_s` seconds.

    Returns:
        The ids of those that are noted: a job whose key is tied to another one is not.
    """
    rows = await connection.fetch(
        """with asked as (
               select * from jsonb_to_recordset($1) as given(
                   job_id uuid, user_id text, key text, body_hash text, model text, prompt text, params jsonb,
                   image_ids uuid[], calls jsonb, credits_per_image bigint, metadata jsonb, trace_id text,
                   fallback_models text[], visibility text, retry_of uuid, deadline_s integer)),
           tied as (
               insert into idempotency_keys (user_id, key, body_hash, job_id)
               select user_id, key, decode(body_hash, 'hex'), job_id from asked where key is not null
               -- In one order everywhere, so that two groups never wait for each other.
               order by user_id, key
               on conflict (user_id, key) do nothing returning job_id)
           insert into jobs (job_id, user_id, status, model, prompt, params, n, image_ids, calls, credits_per_image,
                             metadata, body_hash, trace_id, fallback_models, visibility, retry_of, deadline,
                             claimed_until)
           select job_id, user_id, 'intent', model, prompt, params, cardinality(image_ids), image_ids, calls,
                  credits_per_image, metadata, decode(body_hash, 'hex'), trace_id, fallback_models, visibility,
                  retry_of, now() + make_interval(secs => deadline_s), now() + make_interval(secs => $2)
           from asked where key is null or job_id in (select job_id from tied)
           returning job_id""",
        [_row_of(one) for one in asked],
        claim_s,
    )
    return {row["job_id"] for row in rows}


def _row_of(asked: Asked) -> dict[str, Any]:
    intent = asked.intent
    return {
        "job_id": intent.job_id,
        "user_id": intent.user_id,
        "key": asked.key,
        "body_hash": intent.body_hash.hex(),
        "model": intent.model,
        "prompt": intent.prompt,
        "params": intent.params.model_dump(mode="json"),
        "image_ids": intent.image_ids,
        "calls": [call.model_dump(mode="json") for call in intent.calls],
        "credits_per_image": intent.credits_per_image,
        "metadata": dict(intent.metadata),
        "trace_id": intent.trace_id,
        "fallback_models": intent.fallback_models,
        "visibility": intent.visibility,
        "retry_of": intent.retry_of,
        "deadline_s": asked.deadline_s,
    }


async def lock_user(connection: Connection, user_id: str) -> None:
    """Let one user's requests that are counted go one after the other, until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 1))", user_id)


async def count_open_jobs(connection: Connection, user_id: str) -> int:
    """Return how many jobs of a user are asked for or under way."""
    count: int = await connection.fetchval(
        """select count(*) from jobs
           where user_id = $1 and status in ('intent', 'pending', 'processing', 'uploading')""",
        user_id,
    )
    return count


async def earlier_by_key(connection: Connection, user_id: str, key: str, ttl_s: float) -> Earlier | None:
    """Return the job that a key is tied to, and lock the tie."""
    row = await connection.fetchrow(
        """select k.job_id, coalesce(j.status, 'abandoned') as status, k.body_hash,
                  k.created_at < now() - make_interval(secs => $3) as expired
           from idempotency_keys k left join jobs j using (job_id)
           where k.user_id = $1 and k.key = $2 for update of k""",
        user_id,
        key,
        ttl_s,
    )
    return Earlier(**row) if row else None


async def lock_body(connection: Connection, user_id: str, body_hash: bytes) -> None:
    """Let repeats of one request without a key go one after the other, until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"{user_id}/{body_hash.hex()}")


async def earlier_by_body(connection: Connection, user_id: str, body_hash: bytes, ttl_s: float) -> Earlier | None:
    """Return the caller's newest job with the same body that is younger than `ttl_s`."""
    row = await connection.fetchrow(
        """select job_id, status, body_hash, false as expired from jobs
           where user_id = $1 and body_hash = $2 and status <> 'abandoned'
             and created_at > now() - make_interval(secs => $3)
           order by job_id desc limit 1""",
        user_id,
        body_hash,
        ttl_s,
    )
    return Earlier(**row) if row else None


async def delete_idempotency_key(connection: Connection, user_id: str, key: str) -> None:
    """Free a key."""
    await connection.execute("delete from idempotency_keys where user_id = $1 and key = $2", user_id, key)


async def claim_intent(connection: Connection, job_id: UUID, claim_s: float) -> Intent | None:
    """Take up an intent that nobody is at work on."""
    row = await connection.fetchrow(
        """update jobs set claimed_until = now() + make_interval(secs => $2)
           where job_id = $1 and status = 'intent' and claimed_until <= now()
           returning job_id, user_id, model, prompt, params, image_ids, calls, credits_per_image, metadata, body_hash,
                     trace_id, fallback_models, visibility""",
        job_id,
        claim_s,
    )
    return _intent(row) if row else None


def _intent(row: asyncpg.Record) -> Intent:
    fields = dict(row)
    fields["params"] = ImageParams.model_validate(fields["params"])
    fields["image_ids"] = tuple(fields["image_ids"])
    fields["fallback_models"] = tuple(fields["fallback_models"])
    fields["calls"] = tuple(PlannedCall.model_validate(call) for call in fields["calls"])
    return Intent(**fields, tried=True)


async def release_intent(connection: Connection, job_id: UUID) -> None:
    """Let a repeat of the request take up the intent."""
    await connection.execute("update jobs set claimed_until = now() where job_id = $1 and status = 'intent'", job_id)


async def abandon_intent(connection: Connection, job_id: UUID) -> None:
    """Give up an intent of which it is not known whether it is charged: its charge is voided, its key is free."""
    await connection.execute(
        "update jobs set status = 'abandoned', version = version + 1 where job_id = $1 and status = 'intent'", job_id
    )


async def forget_intent(connection: Connection, job_id: UUID) -> None:
    """Delete an intent that was never charged, and free its key."""
    await connection.execute(
        """with gone as (delete from jobs where job_id = $1 and status = 'intent' returning job_id, user_id)
           delete from idempotency_keys k using gone where k.user_id = gone.user_id and k.job_id = gone.job_id""",
        job_id,
    )


async def promise(connection: Connection, charged: Sequence[Charged], nudge_s: float) -> dict[UUID, Record]:
    """Make intents pending jobs with their slots, and return them by id: those that were intents still."""
    rows = await connection.fetch(
        f"""with promised as (
                update jobs set status = 'pending', plan = charged.plan, balance_credits = charged.balance,
                       news_at = now(), deadline = now() + (deadline - created_at),
                       nudge_at = now() + make_interval(secs => $4)
                from unnest($1::uuid[], $2::text[], $3::bigint[]) as charged(id, plan, balance)
                where job_id = charged.id and status = 'intent'
                returning {_PROMISED_COLUMNS}, image_ids),
            made as (
                insert into slots (job_id, user_id, index, image_id)
                select job_id, user_id, place - 1, image_id
                from promised, unnest(image_ids) with ordinality as given(image_id, place))
            select * from promised""",  # noqa: S608 - constants
        [one.intent.job_id for one in charged],
        [one.plan for one in charged],
        [one.balance_credits for one in charged],
        nudge_s,
    )
    return {
        row["job_id"]: _record(row, tuple(Slot(index, image_id) for index, image_id in enumerate(row["image_ids"])), ())
        for row in rows
    }


async def status_of(connection: Connection, job_id: UUID) -> str | None:
    """Return a job's status."""
    status: str | None = await connection.fetchval("select status from jobs where job_id = $1", job_id)
    return status


# Following a job.


def _job(row: asyncpg.Record, slots: tuple[Slot, ...]) -> Job:
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
    )


def _slot(row: asyncpg.Record) -> Slot:
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
        f"""select {_JOB_COLUMNS} from jobs where job_id = any($1::uuid[]) and status not in ('intent', 'abandoned')
            order by job_id for update""",  # noqa: S608 - constants
        sorted(job_ids),
    )
    slots = await _slots(connection, [row["job_id"] for row in rows])
    return {row["job_id"]: _job(row, slots[row["job_id"]]) for row in rows}


async def _slots(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, tuple[Slot, ...]]:
    rows = await connection.fetch(
        """select s.job_id, s.index, s.image_id, s.state, s.code, s.message, s.stage, s.generated,
                  i.deleted_at is not null as deleted, i.original_key
           from slots s left join images i using (image_id)
           where s.job_id = any($1::uuid[]) order by s.job_id, s.index""",
        job_ids,
    )
    found: dict[UUID, list[Slot]] = {job_id: [] for job_id in job_ids}
    for row in rows:
        found[row["job_id"]].append(_slot(row))
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


async def add_deletions(connection: Connection, events: Sequence[tuple[int, ImageDeleted]], again_s: float) -> None:
    """Note what must not lie in the bucket, each with its index, and when to say so once more."""
    if not events:
        return
    rows = [
        (event.image_id, event.user_id, event.job_id, index, event.prefix, list(event.keys), event.reason, again_s)
        for index, event in events
    ]
    await connection.executemany(
        """insert into deletions (image_id, user_id, job_id, index, prefix, keys, reason, due_at)
           values ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))
           on conflict (image_id) do update
              set sends = 1, due_at = excluded.due_at, confirmed_at = null,
                  keys = case when cardinality(excluded.keys) > 0 then excluded.keys else deletions.keys end""",
        rows,
    )


# What clients read.


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
    slots = await _slots(connection, job_ids)
    images: dict[UUID, list[Image]] = {job_id: [] for job_id in job_ids}
    for image in await images_of(connection, job_ids):
        images[image.job_id].append(image)
    return [_record(row, slots[row["job_id"]], tuple(images[row["job_id"]])) for row in rows]


def _record(row: asyncpg.Record, slots: tuple[Slot, ...], images: tuple[Image, ...]) -> Record:
    return Record(
        job=_job(row, slots),
        metadata=row["metadata"],
        version=row["version"],
        balance_credits=row["balance_credits"],
        trace_id=row["trace_id"],
        images=images,
        retry_of=row["retry_of"],
    )


async def versions(connection: Connection, job_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Return the version of each of these jobs."""
    rows = await connection.fetch("select job_id, version from jobs where job_id = any($1::uuid[])", list(job_ids))
    return {row["job_id"]: row["version"] for row in rows}


async def images_of(connection: Connection, job_ids: Sequence[UUID]) -> list[Image]:
    """Return the images of jobs, but for the deleted, in the order of their slots."""
    rows = await connection.fetch(
        f"""select {_IMAGE_COLUMNS} from images
            where job_id = any($1::uuid[]) and deleted_at is null order by job_id, index""",  # noqa: S608 - constants
        job_ids,
    )
    return [Image(**row) for row in rows]


async def image(connection: Connection, user_id: str, image_id: UUID) -> Image | None:
    """Return a user's image."""
    row = await connection.fetchrow(
        f"""select {_IMAGE_COLUMNS} from images
            where image_id = $1 and user_id = $2 and deleted_at is null""",  # noqa: S608 - constants
        image_id,
        user_id,
    )
    return Image(**row) if row else None


async def list_images(
    connection: Connection, user_id: str, filters: ImageFilters, before: UUID | None, limit: int
) -> list[Image]:
    """Return a user's newest images before the image `before`."""
    rows = await connection.fetch(
        f"""select {_IMAGE_COLUMNS} from images
            where user_id = $1 and deleted_at is null and ($2::uuid is null or image_id < $2)
              and ($3::uuid is null or job_id = $3) and ($4::text is null or model = $4)
              and ($5::text is null or visibility = $5) and ($6::timestamptz is null or created_at > $6)
              and ($7::timestamptz is null or created_at < $7)
            order by image_id desc limit $8""",  # noqa: S608 - constants
        user_id,
        before,
        filters.job_id,
        filters.model,
        filters.visibility,
        filters.created_after,
        filters.created_before,
        limit,
    )
    return [Image(**row) for row in rows]


async def bury_images(connection: Connection, user_id: str, image_ids: Sequence[UUID]) -> list[Image]:
    """Mark a user's images as deleted, and return those that were not so before, in the order of their ids."""
    rows = await connection.fetch(
        f"""update images set deleted_at = now()
            where image_id in (
                select image_id from images
                where image_id = any($1::uuid[]) and user_id = $2 and deleted_at is null
                order by image_id for update)
            returning {_IMAGE_COLUMNS}""",  # noqa: S608 - constants
        image_ids,
        user_id,
    )
    return sorted((Image(**row) for row in rows), key=lambda image: image.image_id)


async def deleted_ones(connection: Connection, user_id: str, image_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these images a user had and deleted."""
    rows = await connection.fetch(
        "select image_id from images where image_id = any($1::uuid[]) and user_id = $2 and deleted_at is not null",
        image_ids,
        user_id,
    )
    return {row["image_id"] for row in rows}


async def touch_jobs(connection: Connection, job_ids: Iterable[UUID]) -> None:
    """Tell those who watch jobs that something about them changed; they are locked in the order of their ids."""
    await connection.execute(
        """update jobs set version = version + 1
           where job_id in (select job_id from jobs where job_id = any($1::uuid[]) order by job_id for update)""",
        sorted(set(job_ids)),
    )


# Moving an image between the private and the public part of the bucket.

_MOVE_COLUMNS: Final = "image_id, move, user_id, job_id, index, state, source, target, content_type, bytes"


def _move(row: asyncpg.Record) -> Move:
    fields = dict(row)
    return Move(**{**fields, **{name: StoredKeys.model_validate(fields[name]) for name in ("source", "target")}})


async def lock_image(connection: Connection, image_id: UUID, user_id: str | None = None) -> Image | None:
    """Lock an image that is not deleted and return it; a user's only, where one is named."""
    row = await connection.fetchrow(
        f"""select {_IMAGE_COLUMNS} from images
            where image_id = $1 and ($2::text is null or user_id = $2) and deleted_at is null
            for update""",  # noqa: S608 - constants
        image_id,
        user_id,
    )
    return Image(**row) if row else None


async def set_visibility(connection: Connection, image_id: UUID, visibility: Visibility) -> None:
    """Note who is to read an image."""
    await connection.execute("update images set visibility = $2 where image_id = $1", image_id, visibility)


async def moves_made(connection: Connection, image_id: UUID) -> int:
    """Return how many moves of an image there were."""
    made: int = await connection.fetchval("select count(*) from moves where image_id = $1", image_id)
    return made


async def add_move(connection: Connection, move: Move, again_s: float) -> None:
    """Note that an image is to be moved, and when to say so once more."""
    await connection.execute(
        """insert into moves (image_id, move, user_id, job_id, index, source, target, content_type, bytes, due_at)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10))""",
        move.image_id,
        move.move,
        move.user_id,
        move.job_id,
        move.index,
        move.source.model_dump(),
        move.target.model_dump(),
        move.content_type,
        move.bytes,
        again_s,
    )


async def find_move(connection: Connection, image_id: UUID, move: int) -> Move | None:
    """Return a move of an image."""
    row = await connection.fetchrow(
        f"select {_MOVE_COLUMNS} from moves where image_id = $1 and move = $2",  # noqa: S608 - constants
        image_id,
        move,
    )
    return _move(row) if row else None


async def drop_move(connection: Connection, image_id: UUID, again_s: float) -> Move | None:
    """Drop the move of an image that is under way, and return it."""
    row = await connection.fetchrow(
        f"""update moves set state = 'dropped', sends = 1, due_at = now() + make_interval(secs => $2)
            where image_id = $1 and state = 'asked' returning {_MOVE_COLUMNS}""",  # noqa: S608 - constants
        image_id,
        again_s,
    )
    return _move(row) if row else None


async def finish_move(connection: Connection, move: Move, again_s: float) -> None:
    """Note that an image lies where a move was to bring it."""
    await connection.execute(
        """with done as (
               update moves set state = 'done', sends = 1, due_at = now() + make_interval(secs => $3)
               where image_id = $1 and move = $2 and state = 'asked' returning image_id, target)
           update images set original_key = done.target ->> 'original', thumbnail_keys = done.target -> 'thumbnails'
           from done where images.image_id = done.image_id""",
        move.image_id,
        move.move,
        again_s,
    )


async def due_moves(connection: Connection, again_s: float, limit: int) -> list[Move]:
    """Return moves of which something is to be said again; of one that is over, this is the last time."""
    rows = await connection.fetch(
        f"""update moves set sends = sends + 1,
                   due_at = case when state = 'asked'
                       then now() + make_interval(secs => $1 * power(2, least(sends, 6))) end
            where (image_id, move) in (
                select image_id, move from moves where due_at <= now()
                order by due_at limit $2 for update skip locked)
            returning {_MOVE_COLUMNS}""",  # noqa: S608 - constants
        again_s,
        limit,
    )
    return [_move(row) for row in rows]


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


# Limits.


async def count_requests(
    connection: Connection, counts: Mapping[str, int], window_s: int
) -> dict[str, tuple[int, int]]:
    """Add requests to those of their callers in this window; return by caller how many there are, and its end in s."""
    rows = await connection.fetch(
        """with counted as (
               select caller, count, date_bin(make_interval(secs => $3), now(), 'epoch') as window_at
               from unnest($1::text[], $2::bigint[]) as asked(caller, count))
           insert into rates as known (caller, window_at, taken)
           -- In one order everywhere, so that two groups never wait for each other.
           select caller, window_at, count from counted order by caller
           on conflict (caller) do update
           set taken = excluded.taken + case when known.window_at = excluded.window_at then known.taken else 0 end,
               window_at = excluded.window_at
           returning caller, taken,
                     ceil(extract(epoch from window_at + make_interval(secs => $3) - now()))::int as resets_s""",
        list(counts),
        list(counts.values()),
        window_s,
    )
    return {row["caller"]: (row["taken"], row["resets_s"]) for row in rows}


# API keys.

_KEY_COLUMNS: Final = "key_id, user_id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at"


def _api_key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(**{**row, "scopes": tuple(row["scopes"])})


async def insert_api_key(
    connection: Connection,
    key_id: UUID,
    user_id: str,
    *,
    name: str,
    prefix: str,
    digest: bytes,
    scopes: Sequence[str],
    expires_at: datetime | None,
) -> ApiKey:
    """Add a key, of which we keep the hash only."""
    row = await connection.fetchrow(
        f"""insert into api_keys (key_id, user_id, name, prefix, hash, scopes, expires_at)
            values ($1, $2, $3, $4, $5, $6, $7) returning {_KEY_COLUMNS}""",  # noqa: S608 - constants
        key_id,
        user_id,
        name,
        prefix,
        digest,
        list(scopes),
        expires_at,
    )
    assert row is not None  # noqa: S101 - an insert returns its row
    return _api_key(row)


async def valid_api_key(connection: Connection, digest: bytes) -> tuple[ApiKey, bytes] | None:
    """Return the key with this hash, and the hash, unless it is revoked or has expired."""
    row = await connection.fetchrow(
        f"""select {_KEY_COLUMNS}, hash from api_keys
            where hash = $1 and revoked_at is null and (expires_at is null or expires_at > now())""",  # noqa: S608
        digest,
    )
    if row is None:
        return None
    fields = dict(row)
    digest = fields.pop("hash")
    return ApiKey(**{**fields, "scopes": tuple(fields["scopes"])}), digest


async def list_api_keys(connection: Connection, user_id: str) -> list[ApiKey]:
    """Return a user's keys, newest first."""
    rows = await connection.fetch(
        f"select {_KEY_COLUMNS} from api_keys where user_id = $1 order by key_id desc limit 1000",  # noqa: S608
        user_id,
    )
    return [_api_key(row) for row in rows]


async def revoke_api_key(connection: Connection, user_id: str, key_id: UUID) -> bool:
    """Revoke a key for good; False if the user has none with this id."""
    found = await connection.fetchval(
        """update api_keys set revoked_at = coalesce(revoked_at, now())
           where key_id = $1 and user_id = $2 returning true""",
        key_id,
        user_id,
    )
    return bool(found)


async def insert_quote(
    connection: Connection, quote_id: UUID, user_id: str, order_hash: bytes, *, credits_per_image: int, ttl_s: float
) -> datetime:
    """Store a price that was told, and return until when it is kept to."""
    expires_at: datetime = await connection.fetchval(
        """insert into quotes (quote_id, user_id, order_hash, credits_per_image, expires_at)
           values ($1, $2, $3, $4, now() + make_interval(secs => $5)) returning expires_at""",
        quote_id,
        user_id,
        order_hash,
        credits_per_image,
        ttl_s,
    )
    return expires_at


async def quoted_credits(connection: Connection, quote_id: UUID, user_id: str, order_hash: bytes) -> int | None:
    """Return the price of an image that a user was told for an order; None where it is not kept to any more."""
    found: int | None = await connection.fetchval(
        """select credits_per_image from quotes
           where quote_id = $1 and user_id = $2 and order_hash = $3 and expires_at > now()""",
        quote_id,
        user_id,
        order_hash,
    )
    return found


async def purge_quotes(connection: Connection, limit: int) -> int:
    """Delete quotes that have expired, and return how many."""
    status = await connection.execute(
        """delete from quotes
           where quote_id in (select quote_id from quotes where expires_at < now() limit $1 for update skip locked)""",
        limit,
    )
    return int(status.rpartition(" ")[2])


async def insert_stream_token(connection: Connection, digest: bytes, user_id: str, ttl_s: float) -> datetime:
    """Store a stream token by its hash, and return when it expires."""
    expires_at: datetime = await connection.fetchval(
        """insert into stream_tokens (hash, user_id, expires_at)
           values ($1, $2, now() + make_interval(secs => $3)) returning expires_at""",
        digest,
        user_id,
        ttl_s,
    )
    return expires_at


async def user_of_stream_token(connection: Connection, digest: bytes) -> str | None:
    """Return whose stream token it is; None where there is none, or none any more."""
    user_id: str | None = await connection.fetchval(
        "select user_id from stream_tokens where hash = $1 and expires_at > now()", digest
    )
    return user_id


async def purge_stream_tokens(connection: Connection, limit: int) -> int:
    """Delete stream tokens that have expired, and return how many."""
    status = await connection.execute(
        """delete from stream_tokens
           where hash in (select hash from stream_tokens where expires_at < now() limit $1 for update skip locked)""",
        limit,
    )
    return int(status.rpartition(" ")[2])


async def touch_api_keys(connection: Connection, key_ids: Sequence[UUID]) -> None:
    """Note that keys were used just now."""
    await connection.execute("update api_keys set last_used_at = now() where key_id = any($1::uuid[])", list(key_ids))


# Sweeping. What a sweep takes is locked, and what another holds is skipped, so any number of sweepers may run.


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


async def quiet(connection: Connection, after_s: float, limit: int) -> list[UUID]:
    """Return open jobs without news for long, and say when to look at them again: each time after twice as long."""
    rows = await connection.fetch(
        """update jobs set nudges = nudges + 1,
                  nudge_at = now() + make_interval(secs => $1 * power(2, least(nudges + 1, 10)))
           where job_id in (
               select job_id from jobs
               where status in ('pending', 'processing', 'uploading') and nudge_at <= now()
                 and news_at <= now() - make_interval(secs => $1)
               order by nudge_at limit $2 for update skip locked)
           returning job_id""",
        after_s,
        limit,
    )
    return [row["job_id"] for row in rows]


async def due_deletions(connection: Connection, again_s: float, limit: int) -> list[dict[str, Any]]:
    """Return deletions that are to be said again, and note it; the next time comes after twice as long."""
    rows = await connection.fetch(
        """update deletions set sends = sends + 1,
                  due_at = now() + make_interval(secs => $1 * power(2, least(sends, 6)))
           where image_id in (
               select image_id from deletions where confirmed_at is null and due_at <= now()
               order by due_at limit $2 for update skip locked)
           returning image_id, user_id, job_id, index, keys, reason, sends""",
        again_s,
        limit,
    )
    return [dict(row) for row in rows]


async def confirm_deletions(connection: Connection, image_ids: Sequence[UUID]) -> None:
    """Note that images are gone, and that nobody needs to say so again."""
    await connection.execute(
        """update deletions set confirmed_at = now()
           where image_id = any($1::uuid[]) and confirmed_at is null and sends > 1""",
        list(image_ids),
    )


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


async def statuses(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the status of those jobs that there are."""
    rows = await connection.fetch("select job_id, status from jobs where job_id = any($1::uuid[])", list(job_ids))
    return {row["job_id"]: row["status"] for row in rows}


# The audit of storage


@dataclass(frozen=True, slots=True)
class Inventory:
    """A user's images.

    Attributes:
        stored: The bytes of each, thumbnails included, that has to lie in the bucket.
        moving: Those of open jobs, those whose deletion is not confirmed, and those that lie in two places for a while.
    """

    stored: Mapping[UUID, int]
    moving: frozenset[UUID]


async def inventory(connection: Connection, user_id: str) -> Inventory:
    """Return what of a user's has to lie in the bucket, and what is on its way in or out."""
    rows = await connection.fetch(
        """select image_id, bytes + thumbnail_bytes as bytes, false as moving
           from images where user_id = $1 and deleted_at is null
           union all
           select i.image_id, null, true from jobs j, unnest(j.image_ids) as i(image_id)
           where j.user_id = $1 and j.status in ('pending', 'processing', 'uploading')
           union all
           select image_id, null, true from deletions where user_id = $1 and confirmed_at is null
           union all
           select image_id, null, true from moves where user_id = $1 and due_at is not null""",
        user_id,
    )
    stored = {row["image_id"]: row["bytes"] for row in rows if not row["moving"]}
    return Inventory(stored, frozenset(row["image_id"] for row in rows if row["moving"]))


async def owners_of_images(connection: Connection) -> list[str]:
    """Return whose images there are."""
    rows = await connection.fetch("select distinct user_id from images where deleted_at is null")
    return [row["user_id"] for row in rows]


async def measure(connection: Connection) -> list[tuple[str, int, int, float]]:
    """Return by status how many jobs are open, how many of them are overdue, and the age of the oldest in seconds."""
    rows = await connection.fetch(
        """select status, count(*), count(*) filter (where deadline < now()),
                  greatest(0, extract(epoch from now() - min(created_at)))::float8
           from jobs where status in ('pending', 'processing', 'uploading') group by status"""
    )
    return [tuple(row) for row in rows]
