"""Creating a job: an intent, what it may repeat, and the promise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg

from pixorly.db import Connection
from pixorly.events import ImageParams, PlannedCall, Visibility
from pixorly_api.lifecycle import Slot
from pixorly_api.store.reading import Record, record_of

_PROMISED_COLUMNS: Final = """job_id, user_id, status, model, fallback_models, prompt, params, n, jobs.plan, calls,
    visibility, credits_per_image, created_at, deadline, started_at, settled_at, retry_count, metadata, version,
    balance_credits, trace_id, retry_of"""


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
    place: str | None = None
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
        "trace_id": intent.place,
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
                     trace_id as place, fallback_models, visibility""",
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
        row["job_id"]: record_of(row, tuple(Slot(*numbered) for numbered in enumerate(row["image_ids"])), ())
        for row in rows
    }
