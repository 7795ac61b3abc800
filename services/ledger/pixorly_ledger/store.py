"""All of the ledger's SQL. Functions take a connection; whoever calls them opens the transaction.

What takes several rows writes them in one statement; a single row takes a plain one, which is quicker for PostgreSQL.
Rows of a user's are only changed while the user's account is locked.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from operator import attrgetter
from typing import Any, Final, get_args
from uuid import UUID

import asyncpg

from pixorly.db import OF_USER, Connection, where
from pixorly.errors import InsufficientCredits, PixorlyError
from pixorly_ledger.rows import (
    Account,
    Charge,
    Closing,
    Draw,
    Grant,
    ImageState,
    Lot,
    Posting,
    Released,
    Return,
    Scope,
    Transfer,
    UsageDays,
)

Row = dict[str, Any]
"""What is only shown, column by column."""


class Conflict(PixorlyError):
    """Somebody else wrote the same row first: look again."""


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise Conflict from error
    except asyncpg.CheckViolationError as error:
        if error.constraint_name == "accounts_not_overdrawn":
            raise InsufficientCredits from error
        raise


def _columns(rows: Sequence[Sequence[Any]], width: int = 0) -> list[list[Any]]:
    """Return rows column by column; where there may be none, `width` says how many columns there are."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _array(values: Iterable[Any]) -> str:
    """Return ids or numbers as PostgreSQL writes an array."""
    return "{" + ",".join(map(str, values)) + "}"


_moving: Final = attrgetter(
    "user_id", "balance_credits", "expiring_credits", "transfer_count", "used_bytes", "reserved_bytes"
)
"""What of an account moves with every job."""
_burned: Final = attrgetter("user_id", "lot_id", "remaining_credits", "expired_credits")


# Accounts


async def lock_accounts(connection: Connection, user_ids: Collection[str]) -> list[Account]:
    """Return the accounts that there are, locked, in an order that is the same in every process."""
    if len(user_ids) == 1:
        rows = await connection.fetch(
            """select user_id, plan, status, balance_credits, expiring_credits, transfer_count, used_bytes,
                      reserved_bytes, takes_allowance, allowance_month, allowance_credits
               from accounts where user_id = $1 for no key update""",
            next(iter(user_ids)),
        )
    else:
        rows = await connection.fetch(
            """select user_id, plan, status, balance_credits, expiring_credits, transfer_count, used_bytes,
                      reserved_bytes, takes_allowance, allowance_month, allowance_credits
               from accounts where user_id = any($1::text[]) order by user_id for no key update""",
            list(user_ids),
        )
    return [Account(*row) for row in rows]


async def find_accounts_for_charges(
    connection: Connection, user_ids: Collection[str], job_ids: Collection[UUID]
) -> tuple[list[Account], list[UUID]]:
    """Return the accounts as they are, not locked, and which of the jobs are charged already."""
    rows = await connection.fetch(
        """select user_id, plan, status, balance_credits, expiring_credits, transfer_count, used_bytes,
                  reserved_bytes, takes_allowance, allowance_month, allowance_credits, xmin,
                  array(select job_id from charges where job_id = any($2::uuid[])) as charged
           from accounts where user_id = any($1::text[])""",
        list(user_ids),
        list(job_ids),
    )
    return _accounts_for_charges(rows)


async def lock_accounts_for_charges(
    connection: Connection, user_ids: Collection[str], job_ids: Collection[UUID]
) -> tuple[list[Account], list[UUID]]:
    """Return the accounts as `lock_accounts` does, and which of the jobs are charged already.

    A charge that another process makes while this waits for a lock is not among them. It ends in a `Conflict`.
    """
    rows = await connection.fetch(
        """select user_id, plan, status, balance_credits, expiring_credits, transfer_count, used_bytes,
                  reserved_bytes, takes_allowance, allowance_month, allowance_credits, xmin,
                  array(select job_id from charges where job_id = any($2::uuid[])) as charged
           from accounts where user_id = any($1::text[]) order by user_id for no key update""",
        list(user_ids),
        list(job_ids),
    )
    return _accounts_for_charges(rows)


def _accounts_for_charges(rows: Sequence[asyncpg.Record]) -> tuple[list[Account], list[UUID]]:
    return [Account(*fields) for *fields, _ in rows], rows[0][-1] if rows else []


async def insert_account(connection: Connection, user_id: str, plan: str) -> None:
    """Open an account, unless it is open."""
    await connection.execute(
        "insert into accounts (user_id, plan) values ($1, $2) on conflict (user_id) do nothing", user_id, plan
    )


async def save_accounts(connection: Connection, accounts: Sequence[Account]) -> None:
    """Write what moves with every job.

    Raises:
        InsufficientCredits: A balance would fall below zero.
    """
    rows = [_moving(account) for account in accounts]
    with _translated():
        if len(rows) == 1:
            await connection.execute(
                """update accounts set balance_credits = $2, expiring_credits = $3, transfer_count = $4,
                                       used_bytes = $5, reserved_bytes = $6
                   where user_id = $1""",
                *rows[0],
            )
            return
        await connection.execute(
            """update accounts a set balance_credits = n.balance_credits, expiring_credits = n.expiring_credits,
                                     transfer_count = n.transfer_count, used_bytes = n.used_bytes,
                                     reserved_bytes = n.reserved_bytes
               from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                    as n(user_id, balance_credits, expiring_credits, transfer_count, used_bytes, reserved_bytes)
               where a.user_id = n.user_id""",
            *_columns(rows),
        )


async def save_terms(connection: Connection, account: Account) -> None:
    """Write what an account is entitled to."""
    await connection.execute(
        """update accounts set plan = $2, status = $3, takes_allowance = $4, allowance_month = $5,
                               allowance_credits = $6
           where user_id = $1""",
        account.user_id, account.plan, account.status, account.takes_allowance, account.allowance_month,
        account.allowance_credits,
    )  # fmt: skip


async def find_account(connection: Connection, user_id: str) -> Account | None:
    """Return an account as it is, without locking it."""
    row = await connection.fetchrow(
        """select user_id, plan, status, balance_credits, expiring_credits, transfer_count, used_bytes,
                  reserved_bytes, takes_allowance, allowance_month, allowance_credits
           from accounts where user_id = $1""",
        user_id,
    )
    return Account(*row) if row else None


async def list_accounts(connection: Connection, after: str, limit: int) -> list[Account]:
    """Return accounts in the order of their user's id."""
    rows = await connection.fetch(
        """select user_id, plan, status, balance_credits, expiring_credits, transfer_count, used_bytes,
                  reserved_bytes, takes_allowance, allowance_month, allowance_credits
           from accounts where user_id > $1 order by user_id limit $2""",
        after,
        limit,
    )
    return [Account(*row) for row in rows]


# Transfers, grants and lots


async def insert_transfers(connection: Connection, transfers: Sequence[Transfer]) -> None:
    """Add transfers.

    Raises:
        Conflict: The job was charged, captured or refunded already.
    """
    with _translated():
        if len(transfers) == 1:
            await connection.execute(
                """insert into transfers (id, user_id, seq, kind, from_account, to_account, amount_credits,
                                          balance_credits, job_id, grant_id, reason, created_at)
                   values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)""",
                *transfers[0],
            )
            return
        await connection.execute(
            """insert into transfers (id, user_id, seq, kind, from_account, to_account, amount_credits,
                                      balance_credits, job_id, grant_id, reason, created_at)
               select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::transfer_kind[], $5::account_kind[],
                                    $6::account_kind[], $7::bigint[], $8::bigint[], $9::uuid[], $10::text[],
                                    $11::text[], $12::timestamptz[])""",
            *_columns(transfers),
        )


async def find_grant(connection: Connection, user_id: str, grant_id: str) -> Grant | None:
    """Return what was granted under this id."""
    row = await connection.fetchrow(
        """select user_id, grant_id, kind, amount_credits, balance_credits, reason, expires_at, created_at
           from grants where user_id = $1 and grant_id = $2""",
        user_id,
        grant_id,
    )
    return Grant(*row) if row else None


async def insert_grants(connection: Connection, grants: Sequence[Grant]) -> None:
    """Record what was given."""
    await connection.execute(
        """insert into grants (user_id, grant_id, kind, amount_credits, balance_credits, reason, expires_at, created_at)
           select * from unnest($1::text[], $2::text[], $3::transfer_kind[], $4::bigint[], $5::bigint[], $6::text[],
                                $7::timestamptz[], $8::timestamptz[])""",
        *_columns(grants),
    )


async def insert_lots(connection: Connection, lots: Sequence[Lot]) -> None:
    """Add lots."""
    rows = [
        (lot.user_id, lot.lot_id, lot.grant_id, lot.granted_credits, lot.remaining_credits, lot.expires_at)
        for lot in lots
    ]
    await connection.execute(
        """insert into lots (user_id, lot_id, grant_id, granted_credits, remaining_credits, expires_at)
           select * from unnest($1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[])""",
        *_columns(rows),
    )


async def find_lots(connection: Connection, user_ids: Collection[str], lot_ids: Collection[UUID]) -> list[Lot]:
    """Return those lots of these users that are live or among `lot_ids`."""
    rows = await connection.fetch(
        """select user_id, lot_id, grant_id, granted_credits, remaining_credits, expired_credits, expires_at
           from lots where user_id = any($1::text[]) and live
           union
           select user_id, lot_id, grant_id, granted_credits, remaining_credits, expired_credits, expires_at
           from lots where user_id = any($1::text[]) and lot_id = any($2::uuid[])""",
        list(user_ids),
        list(lot_ids),
    )
    return [Lot(*row) for row in rows]


async def save_lots(connection: Connection, lots: Sequence[Lot]) -> None:
    """Write what is left of lots."""
    rows = [(lot.user_id, lot.lot_id, lot.remaining_credits, lot.expired_credits, lot.expires_at) for lot in lots]
    if len(rows) == 1:
        await connection.execute(
            """update lots set remaining_credits = $3, expired_credits = $4, expires_at = $5
               where user_id = $1 and lot_id = $2""",
            *rows[0],
        )
        return
    await connection.execute(
        """update lots l set remaining_credits = n.remaining_credits, expired_credits = n.expired_credits,
                             expires_at = n.expires_at
           from unnest($1::text[], $2::uuid[], $3::bigint[], $4::bigint[], $5::timestamptz[])
                as n(user_id, lot_id, remaining_credits, expired_credits, expires_at)
           where l.user_id = n.user_id and l.lot_id = n.lot_id""",
        *_columns(rows),
    )


async def find_draws(connection: Connection, job_ids: Collection[UUID]) -> list[Draw]:
    """Return which lots these jobs drew from, in the order of drawing."""
    rows = await connection.fetch(
        """select job_id, ordinal, user_id, lot_id, amount_credits from lot_draws
           where job_id = any($1::uuid[]) order by job_id, ordinal""",
        list(job_ids),
    )
    return [Draw(*row) for row in rows]


async def save_returns(connection: Connection, returns: Sequence[Return]) -> None:
    """Record what went back into lots."""
    await connection.execute(
        """update lot_draws d set returned_credits = n.returned_credits
           from unnest($1::uuid[], $2::smallint[], $3::bigint[]) as n(job_id, ordinal, returned_credits)
           where d.job_id = n.job_id and d.ordinal = n.ordinal""",
        *_columns(returns),
    )


async def users_with_due_lots(connection: Connection, now: datetime, limit: int) -> list[str]:
    """Return users with lots whose time is over."""
    rows = await connection.fetch(
        "select distinct user_id from lots where live and expires_at <= $1 limit $2", now, limit
    )
    return [row["user_id"] for row in rows]


async def users_due_an_allowance(connection: Connection, month: date, limit: int) -> list[str]:
    """Return users who did not get this month's allowance yet."""
    rows = await connection.fetch(
        """select user_id from accounts
           where takes_allowance and status = 'active' and allowance_month < $1
           order by allowance_month, user_id limit $2""",
        month,
        limit,
    )
    return [row["user_id"] for row in rows]


async def save_allowances(connection: Connection, accounts: Sequence[Account]) -> None:
    """Write which allowance accounts have got."""
    rows = [(account.user_id, account.allowance_month, account.allowance_credits) for account in accounts]
    await connection.execute(
        """update accounts a set allowance_month = n.month, allowance_credits = n.credits
           from unnest($1::text[], $2::date[], $3::bigint[]) as n(user_id, month, credits)
           where a.user_id = n.user_id""",
        *_columns(rows),
    )


async def keep_partitions(connection: Connection, at: datetime) -> int:
    """Have a partition of the transfers for the month of `at` and some to come, and return how many were made."""
    made: int = await connection.fetchval("select keep_partitions('transfers', at => $1)", at)
    return made


async def try_lock_upkeep(connection: Connection, key: int) -> bool:
    """Tell whether this transaction is the only one at the job with this key."""
    return bool(await connection.fetchval("select pg_try_advisory_xact_lock($1)", key))


# Charges


async def find_charges(connection: Connection, job_ids: Collection[UUID]) -> dict[UUID, Charge]:
    """Return the charges that there are, by job."""
    if len(job_ids) == 1:
        rows = await connection.fetch(
            """select job_id, status, user_id, plan, amount_credits, lot_credits, balance_credits, image_ids, created_at
               from charges where job_id = $1""",
            next(iter(job_ids)),
        )
    else:
        rows = await connection.fetch(
            """select job_id, status, user_id, plan, amount_credits, lot_credits, balance_credits, image_ids, created_at
               from charges where job_id = any($1::uuid[])""",
            list(job_ids),
        )
    return {row["job_id"]: Charge(*row) for row in rows}


_POST_CHARGES: Final = """
with m as materialized (
    select * from unnest($12::text[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
                         $17::bigint[], $18::xid[])
         as m(user_id, balance_credits, expiring_credits, transfer_count, used_bytes, reserved_bytes,
              version)
), held as materialized (
    -- Everybody locks accounts in this order.
    select a.user_id from accounts a join m on a.user_id = m.user_id and a.xmin = m.version
    order by a.user_id for no key update of a
), n as materialized (
    select job_id, user_id, plan, amount_credits, lot_credits, balance_credits,
           image_ids::uuid[], sizes::bigint[], transfer_id, seq
    from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::text[], $8::text[], $9::uuid[], $10::bigint[])
         as n(job_id, user_id, plan, amount_credits, lot_credits, balance_credits, image_ids, sizes,
              transfer_id, seq)
    where user_id in (select user_id from held)
), charged as (
    insert into charges (job_id, status, user_id, plan, amount_credits, lot_credits, balance_credits,
                         image_ids, created_at)
    select job_id, 'open', user_id, plan, amount_credits, lot_credits, balance_credits, image_ids, $11
    from n
), kept as (
    insert into images (image_id, user_id, job_id, bytes)
    select i.image_id, n.user_id, n.job_id, i.bytes
    from n, unnest(n.image_ids, n.sizes) as i(image_id, bytes)
), moved as (
    insert into transfers (id, user_id, seq, kind, from_account, to_account, amount_credits,
                           balance_credits, job_id, created_at)
    select transfer_id, user_id, seq, 'charge', 'available', 'escrow', amount_credits, balance_credits,
           job_id, $11
    from n where seq is not null
), burned as (
    update lots l set remaining_credits = b.remaining_credits, expired_credits = b.expired_credits
    from unnest($19::text[], $20::uuid[], $21::bigint[], $22::bigint[])
         as b(user_id, lot_id, remaining_credits, expired_credits)
    where l.user_id = b.user_id and l.lot_id = b.lot_id and l.user_id in (select user_id from held)
), drawn as (
    insert into lot_draws (job_id, ordinal, user_id, lot_id, amount_credits)
    select * from unnest($23::uuid[], $24::smallint[], $25::text[], $26::uuid[], $27::bigint[])
         as d(job_id, ordinal, user_id, lot_id, amount_credits)
    where user_id in (select user_id from held)
)
update accounts a set balance_credits = m.balance_credits, expiring_credits = m.expiring_credits,
                      transfer_count = m.transfer_count, used_bytes = m.used_bytes,
                      reserved_bytes = m.reserved_bytes
from m where a.user_id = m.user_id and a.user_id in (select user_id from held)
returning a.user_id"""


async def post_charges(connection: Connection, posting: Posting) -> set[str]:
    """Write open charges with their transfers and the room for their images, and what that leaves of accounts and lots.

    All at one go: it comes with every job, and each way to the server and back costs more than most of what is done
    there. Of an account that is another version by now nothing is written.

    Returns:
        The users whose account was still what it had been read as.

    Raises:
        Conflict: A charge or an image is there already.
        InsufficientCredits: A balance would fall below zero.
    """
    rows = [
        # An array of arrays would have to be even, and would come apart in unnest.
        (*charge[:6], _array(i for i, _ in charge.images), _array(size for _, size in charge.images), *charge[7:])
        for charge in posting.charges
    ]
    with _translated():
        held = await connection.fetch(
            _POST_CHARGES,
            *_columns(rows),
            posting.now,
            *_columns([(*_moving(account), account.version) for account in posting.accounts]),
            *_columns([_burned(lot) for lot in posting.lots], 4),
            *_columns(posting.draws, 5),
        )
    return {row["user_id"] for row in held}


async def close_charges(connection: Connection, closings: Sequence[Closing]) -> None:
    """Write how charges ended."""
    await connection.executemany(
        """update charges set status = $2, slot_codes = $3, slot_refunded = $4, captured_credits = $5,
                              refunded_credits = $6, outcome = $7, model = $8, closed_at = $9
           where job_id = $1 and status = 'open'""",
        closings,
    )


async def insert_tombstone(connection: Connection, job_id: UUID, user_id: str | None, now: datetime) -> bool:
    """Refuse a charge before it is made, and tell whether there was nothing before."""
    return bool(
        await connection.fetchval(
            """insert into charges (job_id, status, user_id, amount_credits, created_at, closed_at)
               values ($1, 'voided', $2, 0, $3, $3) on conflict (job_id) do nothing returning true""",
            job_id,
            user_id,
            now,
        )
    )


async def list_open_charges(connection: Connection, created_before: datetime, after: UUID, limit: int) -> list[Row]:
    """Return open charges in the order of their job's id."""
    rows = await connection.fetch(
        """select job_id, user_id, amount_credits, created_at from charges
           where status = 'open' and created_at < $1 and job_id > $2 order by job_id limit $3""",
        created_before,
        after,
        limit,
    )
    return [dict(row) for row in rows]


async def find_receipt(connection: Connection, job_id: UUID) -> Row | None:
    """Return a charge with all that became of it."""
    row = await connection.fetchrow(
        """select job_id, status, user_id, plan, amount_credits, lot_credits, balance_credits, image_ids, slot_codes,
                  slot_refunded, captured_credits, refunded_credits, outcome, model, created_at, closed_at
           from charges where job_id = $1""",
        job_id,
    )
    return dict(row) if row else None


async def find_transfers_of_job(connection: Connection, job_id: UUID) -> list[Row]:
    """Return what moved for a job, in the order in which it did."""
    rows = await connection.fetch(
        """select id, kind, from_account, to_account, amount_credits, reason, created_at
           from transfers where job_id = $1 order by created_at, seq nulls last""",
        job_id,
    )
    return [dict(row) for row in rows]


async def last_place_before(connection: Connection, user_id: str, moment: datetime) -> int | None:
    """Return how many transfers of a statement were made before a moment; None where there is no such account.

    A statement is in the order of time, so that halving it finds the place, in as many steps as the number has digits.
    """
    place: int | None = await connection.fetchval(
        """with recursive halves (low, high) as (
               select 0::bigint, transfer_count from accounts where user_id = $1
               union all
               select case when t.created_at < $2 then middle else low end,
                      case when t.created_at < $2 then high else middle - 1 end
               from halves, lateral (select (low + high + 1) / 2 as middle) as half,
                    lateral (select created_at from transfers
                             where user_id = $1 and seq = middle and seq is not null) as t
               where low < high)
           select low from halves where low = high""",
        user_id,
        moment,
    )
    return place


async def find_statement(
    connection: Connection,
    user_id: str,
    *,
    after: int | None,
    before: int,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> list[Row]:
    """Return the transfers that changed a user's balance, newest first, between the `after`-th and the `before`-th."""
    asked, arguments = where(
        ("user_id = {}", user_id),
        ("seq > {}", after),
        ("seq < {}", before),
        ("created_at >= {}", since),
        ("created_at < {}", until),
    )
    rows = await connection.fetch(
        f"""select id, seq, kind, case when to_account = 'available' then amount_credits else -amount_credits end
                  as amount_credits, balance_credits, job_id, grant_id, reason, created_at
           from transfers where {asked} and seq is not null order by seq desc limit ${len(arguments) + 1}""",  # noqa: S608 - constants
        *arguments,
        limit,
    )
    return [dict(row) for row in rows]


# Storage


async def find_images(connection: Connection, image_ids: Collection[UUID]) -> dict[UUID, Row]:
    """Return the storage of these images, by id."""
    rows = await connection.fetch(
        "select image_id, user_id, state, bytes from images where image_id = any($1::uuid[])", list(image_ids)
    )
    return {row["image_id"]: dict(row) for row in rows}


async def owners_of_images(connection: Connection, image_ids: Collection[UUID]) -> set[str]:
    """Return whose images these are."""
    rows = await connection.fetch(
        "select distinct user_id from images where image_id = any($1::uuid[])", list(image_ids)
    )
    return {row["user_id"] for row in rows}


async def store_images(connection: Connection, sizes: Sequence[tuple[UUID, int]]) -> None:
    """Write how much images really take."""
    await connection.execute(
        """update images i set state = 'stored', bytes = n.bytes
           from unnest($1::uuid[], $2::bigint[]) as n(image_id, bytes)
           where i.image_id = n.image_id and i.state <> 'released'""",
        *_columns(sizes),
    )


async def release_images(connection: Connection, image_ids: Collection[UUID]) -> list[Released]:
    """Let the room of images go, and return those that had some."""
    rows = await connection.fetch(
        """update images i set state = 'released'
           from (select image_id, state, bytes from images
                 where image_id = any($1::uuid[]) and state <> 'released') as before
           where i.image_id = before.image_id
           returning i.image_id, i.user_id, before.state, before.bytes""",
        list(image_ids),
    )
    return [Released(*row) for row in rows]


async def find_known_images(connection: Connection, image_ids: Collection[UUID]) -> list[UUID]:
    """Return which of these images there are."""
    rows = await connection.fetch("select image_id from images where image_id = any($1::uuid[])", list(image_ids))
    return [row["image_id"] for row in rows]


_IN_STATE: Final[Mapping[str, str]] = {state: f"state = '{state}'" for state in get_args(ImageState)}


async def list_images(connection: Connection, user_id: str, state: ImageState, after: UUID, limit: int) -> list[Row]:
    """Return the storage of a user's images in the order of their ids.

    The state stands in the statement itself, so that the index of those that are stored serves who asks for them.
    """
    rows = await connection.fetch(
        f"""select image_id, user_id, job_id, state, bytes from images
            where {OF_USER.format("$1")} and {_IN_STATE[state]} and image_id > $2
            order by user_id, image_id limit $3""",  # noqa: S608 - constants
        user_id,
        after,
        limit,
    )
    return [dict(row) for row in rows]


async def add_storage_days(connection: Connection, day: date, flows: Sequence[tuple[str, int, int]]) -> None:
    """Count bytes that came and went: user, stored, released."""
    await connection.execute(
        """insert into storage_days (user_id, day, stored_bytes, released_bytes)
           select n.user_id, $1, n.stored, n.released
           from unnest($2::text[], $3::bigint[], $4::bigint[]) as n(user_id, stored, released)
           on conflict (user_id, day) do update
               set stored_bytes = storage_days.stored_bytes + excluded.stored_bytes,
                   released_bytes = storage_days.released_bytes + excluded.released_bytes""",
        day,
        *_columns(flows),
    )


# Usage


async def add_usage_days(connection: Connection, days: UsageDays) -> None:
    """Add to what users' jobs came to."""
    rows = [
        (*key, day.jobs, day.completed, day.failed, day.canceled, day.images, day.images_uploaded,
         day.credits_charged, day.credits_captured, day.credits_refunded, day.retries, day.processed,
         day.processing_time_ms)
        for key, day in days.items()
    ]  # fmt: skip
    await connection.execute(
        """insert into usage_days as u (user_id, day, model, jobs, completed, failed, canceled, images,
                                        images_uploaded, credits_charged, credits_captured, credits_refunded, retries,
                                        processed, processing_time_ms)
           select * from unnest($1::text[], $2::date[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                                $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
                                $13::bigint[], $14::bigint[], $15::bigint[])
           on conflict (user_id, day, model) do update
               set jobs = u.jobs + excluded.jobs, completed = u.completed + excluded.completed,
                   failed = u.failed + excluded.failed, canceled = u.canceled + excluded.canceled,
                   images = u.images + excluded.images,
                   images_uploaded = u.images_uploaded + excluded.images_uploaded,
                   credits_charged = u.credits_charged + excluded.credits_charged,
                   credits_captured = u.credits_captured + excluded.credits_captured,
                   credits_refunded = u.credits_refunded + excluded.credits_refunded,
                   retries = u.retries + excluded.retries, processed = u.processed + excluded.processed,
                   processing_time_ms = u.processing_time_ms + excluded.processing_time_ms""",
        *_columns(rows),
    )


async def add_usage_failures(connection: Connection, rows: Sequence[tuple[str, date, str, str, int]]) -> None:
    """Add to how many images failed: user, day, model, code, images."""
    await connection.execute(
        """insert into usage_failures as u (user_id, day, model, code, images)
           select * from unnest($1::text[], $2::date[], $3::text[], $4::text[], $5::bigint[])
           on conflict (user_id, day, model, code) do update set images = u.images + excluded.images""",
        *_columns(rows),
    )


async def add_usage_times(connection: Connection, rows: Sequence[tuple[str, date, str, int, int]]) -> None:
    """Add to the histogram of processing times: user, day, model, bucket, jobs."""
    await connection.execute(
        """insert into usage_times as u (user_id, day, model, bucket, jobs)
           select * from unnest($1::text[], $2::date[], $3::text[], $4::smallint[], $5::bigint[])
           on conflict (user_id, day, model, bucket) do update set jobs = u.jobs + excluded.jobs""",
        *_columns(rows),
    )


def _within(scope: Scope) -> tuple[str, list[Any]]:
    """Return the conditions of a report, whose first argument are the dimensions to add up by."""
    return where(
        ("{}::text[] is not null", scope.dimensions),
        ("day >= {}", scope.first),
        ("day <= {}", scope.last),
        ("user_id = {}", scope.user_id),
    )


async def find_usage_days(connection: Connection, scope: Scope) -> list[Row]:
    """Return what jobs came to, added up by the wanted dimensions; the other dimensions are null."""
    asked, arguments = _within(scope)
    rows = await connection.fetch(
        f"""select case when 'user' = any($1::text[]) then user_id end as user_id,
                  case when 'day' = any($1::text[]) then day end as day,
                  case when 'month' = any($1::text[]) then date_trunc('month', day)::date end as month,
                  case when 'model' = any($1::text[]) then model end as model,
                  sum(jobs)::bigint as jobs, sum(completed)::bigint as completed, sum(failed)::bigint as failed,
                  sum(canceled)::bigint as canceled, sum(images)::bigint as images,
                  sum(images_uploaded)::bigint as images_uploaded, sum(credits_charged)::bigint as credits_charged,
                  sum(credits_captured)::bigint as credits_captured,
                  sum(credits_refunded)::bigint as credits_refunded, sum(retries)::bigint as retries,
                  sum(processed)::bigint as processed, sum(processing_time_ms)::bigint as processing_time_ms
           from usage_days
           where {asked} group by 1, 2, 3, 4""",  # noqa: S608 - constants
        *arguments,
    )
    return [dict(row) for row in rows]


async def find_usage_failures(connection: Connection, scope: Scope) -> list[Row]:
    """Return how many images failed with which code, added up by the wanted dimensions."""
    asked, arguments = _within(scope)
    rows = await connection.fetch(
        f"""select case when 'user' = any($1::text[]) then user_id end as user_id,
                  case when 'day' = any($1::text[]) then day end as day,
                  case when 'month' = any($1::text[]) then date_trunc('month', day)::date end as month,
                  case when 'model' = any($1::text[]) then model end as model,
                  code, sum(images)::bigint as images
           from usage_failures
           where {asked} group by 1, 2, 3, 4, code""",  # noqa: S608 - constants
        *arguments,
    )
    return [dict(row) for row in rows]


async def find_usage_times(connection: Connection, scope: Scope) -> list[Row]:
    """Return the histogram of processing times, added up by the wanted dimensions."""
    asked, arguments = _within(scope)
    rows = await connection.fetch(
        f"""select case when 'user' = any($1::text[]) then user_id end as user_id,
                  case when 'day' = any($1::text[]) then day end as day,
                  case when 'month' = any($1::text[]) then date_trunc('month', day)::date end as month,
                  case when 'model' = any($1::text[]) then model end as model,
                  bucket, sum(jobs)::bigint as jobs
           from usage_times
           where {asked} group by 1, 2, 3, 4, bucket""",  # noqa: S608 - constants
        *arguments,
    )
    return [dict(row) for row in rows]


async def find_storage_days(connection: Connection, scope: Scope) -> list[Row]:
    """Return the bytes that came and went, added up by the wanted dimensions; storage has no model."""
    asked, arguments = _within(scope)
    rows = await connection.fetch(
        f"""select case when 'user' = any($1::text[]) then user_id end as user_id,
                  case when 'day' = any($1::text[]) then day end as day,
                  case when 'month' = any($1::text[]) then date_trunc('month', day)::date end as month,
                  null::text as model,
                  sum(stored_bytes)::bigint as stored_bytes, sum(released_bytes)::bigint as released_bytes
           from storage_days
           where {asked} group by 1, 2, 3""",  # noqa: S608 - constants
        *arguments,
    )
    return [dict(row) for row in rows]


async def find_stored_before(connection: Connection, user_id: str | None, day: date) -> int:
    """Return how many bytes were stored when the day began."""
    asked, arguments = where(("day < {}", day), ("user_id = {}", user_id))
    found: int = await connection.fetchval(
        f"select coalesce(sum(stored_bytes - released_bytes), 0)::bigint from storage_days where {asked}",  # noqa: S608 - constants
        *arguments,
    )
    return found


# Audit

AUDITS: Final[Mapping[str, str]] = {
    "balances": "select id from audit_balances limit $1",
    "statements": "select id from audit_statements limit $1",
    "charges": "select id from audit_charges limit $1",
    "settlements": "select id from audit_settlements limit $1",
    "grants": "select id from audit_grants limit $1",
    "lots": "select id from audit_lots limit $1",
    "lot_flows": "select id from audit_lot_flows limit $1",
    "lot_draws": "select id from audit_lot_draws limit $1",
    "storage": "select id from audit_storage limit $1",
    "images": "select id from audit_images limit $1",
    "storage_days": "select id from audit_storage_days limit $1",
    "usage": "select id from audit_usage limit $1",
    "usage_details": "select id from audit_usage_details limit $1",
    "open_charges": "select id from audit_open_charges limit $1",
    "reserved_images": "select id from audit_reserved_images limit $1",
}
"""The checks: each shows the ids of what is off."""

QUIET_AUDITS: Final = frozenset({"open_charges", "reserved_images"})
"""Those that have to be empty only when nothing is under way."""

_AUDIT_TIMEOUT_S: Final = 600


async def read_whole_tables(connection: Connection) -> None:
    """Let this transaction read large tables as a whole, and join them in memory."""
    await connection.execute("set local work_mem = '64MB'; set local enable_seqscan = on")


async def find_off(connection: Connection, check: str, limit: int) -> list[str]:
    """Return the ids of what a check finds."""
    rows = await connection.fetch(AUDITS[check], limit, timeout=_AUDIT_TIMEOUT_S)
    return [row["id"] for row in rows]


async def find_totals(connection: Connection) -> list[Row]:
    """Return what each account has by its transfers, and what the other tables say."""
    rows = await connection.fetch("select place, credits, expected_credits from audit_totals", timeout=_AUDIT_TIMEOUT_S)
    return [dict(row) for row in rows]


async def count_rows(connection: Connection) -> dict[str, int]:
    """Return how much there is."""
    row = await connection.fetchrow(
        """select (select count(*) from accounts) as accounts, (select count(*) from transfers) as transfers,
                  (select count(*) from charges) as charges,
                  (select count(*) from charges where status = 'open') as open_charges,
                  (select count(*) from images where state = 'stored') as stored_images,
                  (select coalesce(sum(used_bytes), 0)::bigint from accounts) as used_bytes,
                  (select coalesce(sum(reserved_bytes), 0)::bigint from accounts) as reserved_bytes""",
        timeout=_AUDIT_TIMEOUT_S,
    )
    return dict(row or {})


async def measure(connection: Connection) -> dict[str, Any]:
    """Return how much is open, available and stored."""
    row = await connection.fetchrow(
        """select coalesce(sum(amount_credits), 0)::bigint as escrow_credits, count(*) as open_charges,
                  greatest(0, coalesce(extract(epoch from now() - min(created_at)), 0))::float8 as oldest_open_s,
                  a.available_credits, a.used_bytes, a.reserved_bytes
           from charges right join (
               select coalesce(sum(balance_credits), 0)::bigint as available_credits,
                      coalesce(sum(used_bytes), 0)::bigint as used_bytes,
                      coalesce(sum(reserved_bytes), 0)::bigint as reserved_bytes from accounts) a on status = 'open'
           group by a.available_credits, a.used_bytes, a.reserved_bytes"""
    )
    return dict(row or {})
