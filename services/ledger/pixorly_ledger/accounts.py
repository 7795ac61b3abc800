"""Accounts and what they are given: plans, grants, the monthly allowance, and what expires of it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from pixorly import metrics
from pixorly.db import Connection, Database
from pixorly.errors import InvalidRequest, OutageError
from pixorly.events import utcnow
from pixorly_ledger import store
from pixorly_ledger.books import Book, Clock, end_of_month, month_of
from pixorly_ledger.credits import AccountNotFound
from pixorly_ledger.rows import Account, Grant, GrantRequest
from pixorly_ledger.settings import Plan, plan_of

_log = structlog.get_logger()
_BATCH: Final = 200
_EXPIRY_LOCK: Final = 0x65787069
_ALLOWANCE_LOCK: Final = 0x616C6C6F

GRANTED = metrics.counter("pixorly_credits_granted", "Credits given to users.", "kind")


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account is to be entitled to; None leaves it as it is."""

    plan: str | None = None
    status: str | None = None
    allowance: bool | None = None


class Accounts:
    """Opens accounts, changes their terms, and gives.

    Args:
        database: The ledger's.
        plans: What each plan gives, by its name.
        default_plan: The plan of an account that is opened without one.
        clock: Returns the time now.
    """

    def __init__(
        self, database: Database, plans: Mapping[str, Plan], *, default_plan: str = "free", clock: Clock = utcnow
    ) -> None:
        self._database = database
        self.plans = plans
        self._default_plan = default_plan
        self._clock = clock

    async def put(self, user_id: str, terms: Terms) -> dict[str, Any]:
        """Open an account or change its terms, and give what is due of the month's allowance at once.

        Raises:
            InvalidRequest: There is no such plan.
        """
        if terms.plan is not None and terms.plan not in self.plans:
            raise InvalidRequest("There is no such plan.", plans=sorted(self.plans))
        async with self._database.transaction() as connection:
            book = await Book.open(connection, [user_id], self._clock)
            if user_id not in book.accounts:
                await store.insert_account(connection, user_id, terms.plan or self._default_plan)
                book = await Book.open(connection, [user_id], self._clock)
            account = book.accounts[user_id]
            account.plan = terms.plan or account.plan
            account.status = terms.status or account.status
            account.takes_allowance = account.takes_allowance if terms.allowance is None else terms.allowance
            await book.load_lots(connection)
            book.expire_all()
            self._give_allowance(book, account)
            await store.save_terms(connection, account)
            await book.post(connection)
        return await self.get(user_id)

    async def get(self, user_id: str) -> dict[str, Any]:
        """Return an account as it is shown, with what of its credits will expire.

        Raises:
            AccountNotFound: There is none.
        """
        async with self._database.connection() as connection:
            account = await store.find_account(connection, user_id)
            if account is None:
                raise AccountNotFound
            lots = await store.find_lots(connection, [user_id], []) if account.expiring_credits else []
        expiring = [
            {"grant_id": lot.grant_id, "credits": lot.remaining_credits, "expires_at": lot.expires_at}
            for lot in sorted(lots, key=lambda lot: lot.expires_at)
        ]
        return {**self._shown(account), "expiring": expiring}

    async def list(self, after: str, limit: int) -> list[dict[str, Any]]:
        """Return accounts in the order of their user's id."""
        async with self._database.connection() as connection:
            return [self._shown(account) for account in await store.list_accounts(connection, after, limit)]

    def _shown(self, account: Account) -> dict[str, Any]:
        return {
            "user_id": account.user_id,
            "plan": account.plan,
            "status": account.status,
            "credits_remaining": account.balance_credits,
            "storage": {
                "used_bytes": account.used_bytes,
                "reserved_bytes": account.reserved_bytes,
                "quota_bytes": plan_of(self.plans, account.plan).quota_bytes,
            },
            "allowance": account.takes_allowance,
        }

    # Grants

    async def grant(self, user_id: str, request: GrantRequest) -> Grant:
        """Give credits; a repeat answers what the first answered.

        Raises:
            AccountNotFound: There is no such account.
            InvalidRequest: It would expire before it is given.
        """
        async with self._database.transaction() as connection:
            book = await Book.open(connection, [user_id], self._clock)
            if user_id not in book.accounts:
                raise AccountNotFound
            given = await store.find_grant(connection, user_id, request.grant_id)
            if given is None:
                if request.expires_at is not None and request.expires_at <= book.now:
                    raise InvalidRequest("expires_at is in the past.")
                given = book.grant(book.accounts[user_id], request)
                await book.post(connection)
                GRANTED.labels(request.kind).inc(request.amount_credits)
            return given

    def _give_allowance(self, book: Book, account: Account) -> bool:
        """Give what the plan's allowance of this month has over what was given of it, and tell whether that is settled.

        So an upgrade gives the difference at once, and a downgrade counts from the next month. A month in which
        nobody asked is not made up for: what it would have given ended with it.
        """
        if account.status != "active" or not account.takes_allowance:
            return False
        month = month_of(book.now)
        given = account.allowance_credits if account.allowance_month == month else 0
        due = plan_of(self.plans, account.plan).allowance_credits - given
        account.allowance_month, account.allowance_credits = month, given + max(0, due)
        if due > 0:
            grant_id = f"allowance/{month:%Y-%m}/{account.allowance_credits}"
            reason = f"{account.plan} plan, {month:%B %Y}"
            book.grant(account, GrantRequest(grant_id, due, reason, end_of_month(month), "allowance"))
            GRANTED.labels("allowance").inc(due)
        return True

    # Upkeep

    async def give_allowances(self) -> int:
        """Give this month's allowance to those who did not get it yet, and return to how many."""
        return await self._batches(_ALLOWANCE_LOCK, self._give_some_allowances)

    async def _give_some_allowances(self, connection: Connection) -> int:
        users = await store.users_due_an_allowance(connection, month_of(self._clock()), _BATCH)
        if users:
            book = await Book.open(connection, users, self._clock)
            given = [account for account in book.accounts.values() if self._give_allowance(book, account)]
            await store.save_allowances(connection, given)
            await book.post(connection)
        return len(users)

    async def expire_lots(self) -> int:
        """Take back what expired, and return from how many users."""
        return await self._batches(_EXPIRY_LOCK, self._expire_some_lots)

    async def _expire_some_lots(self, connection: Connection) -> int:
        users = await store.users_with_due_lots(connection, self._clock(), _BATCH)
        if users:
            book = await Book.open(connection, users, self._clock)
            await book.load_lots(connection)
            book.expire_all()
            await book.post(connection)
        return len(users)

    async def keep_partitions(self) -> int:
        """Make the partitions of the months to come, and return how many."""
        async with self._database.connection() as connection:
            return await store.keep_partitions(connection, self._clock())

    async def _batches(self, lock: int, batch: Callable[[Connection], Awaitable[int]]) -> int:
        """Run `batch`, each time in a transaction, until it finds little; nothing if another process is at it."""
        total, found = 0, _BATCH
        while found == _BATCH:
            async with self._database.transaction() as connection:
                found = await batch(connection) if await store.try_lock_upkeep(connection, lock) else 0
                total += found
        return total

    async def keep_up(self, every_s: float) -> None:
        """Give and take back what is due, for ever."""
        while True:
            try:
                await self.keep_partitions()
                expired, given = await self.expire_lots(), await self.give_allowances()
                if expired or given:
                    _log.info("upkeep", accounts_with_expired_lots=expired, accounts_given_an_allowance=given)
            except OutageError as error:
                _log.warning("upkeep waits", part=error.part)
            await asyncio.sleep(every_s)
