"""Who calls, and how much: API keys, stream tokens, quotes, counts of requests, and limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from pixorly.db import Connection

_KEY_COLUMNS: Final = "key_id, user_id, name, prefix, scopes, created_at, expires_at, revoked_at, last_used_at"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the operator says for one user; None is as for everybody, 0 any number."""

    jobs_at_once: int | None = None
    requests_per_minute: int | None = None


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


async def touch_api_keys(connection: Connection, key_ids: Sequence[UUID]) -> None:
    """Note that keys were used just now."""
    await connection.execute("update api_keys set last_used_at = now() where key_id = any($1::uuid[])", list(key_ids))


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


async def overrides_of(connection: Connection, user_id: str) -> Overrides:
    """Return what the operator says for a user."""
    row = await connection.fetchrow("select jobs_at_once, requests_per_minute from limits where user_id = $1", user_id)
    return Overrides(**row) if row else Overrides()


async def set_overrides(connection: Connection, user_id: str, said: Mapping[str, int | None]) -> None:
    """Note what the operator says for a user; what is not said stays."""
    await connection.execute(
        """insert into limits as known (user_id, jobs_at_once, requests_per_minute) values ($1, $2, $4)
           on conflict (user_id) do update
           set jobs_at_once = case when $3 then $2 else known.jobs_at_once end,
               requests_per_minute = case when $5 then $4 else known.requests_per_minute end""",
        user_id,
        said.get("jobs_at_once"),
        "jobs_at_once" in said,
        said.get("requests_per_minute"),
        "requests_per_minute" in said,
    )


async def delete_overrides(connection: Connection, user_id: str) -> None:
    """Take back what the operator said for a user."""
    await connection.execute("delete from limits where user_id = $1", user_id)


async def pauses(connection: Connection) -> list[tuple[str, str, datetime]]:
    """Return which models and providers are paused, why, and since when."""
    rows = await connection.fetch("select name, reason, since from pauses order by name")
    return [(row["name"], row["reason"], row["since"]) for row in rows]


async def pause(connection: Connection, name: str, reason: str) -> None:
    """Pause a model or a provider."""
    await connection.execute(
        "insert into pauses (name, reason) values ($1, $2) on conflict (name) do update set reason = excluded.reason",
        name,
        reason,
    )


async def resume(connection: Connection, name: str) -> None:
    """Go on with a model or a provider."""
    await connection.execute("delete from pauses where name = $1", name)
