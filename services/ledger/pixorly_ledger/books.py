"""The book of a transaction: the accounts that it holds, and every way in which credits move between them.

The rules decide in terms of a book: it is opened with the accounts locked, changed in memory, and posted in a few
statements, whether it holds one job or hundreds. There is no other way to write a transfer.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, Self
from uuid import UUID

from pixorly.db import Connection
from pixorly.ids import new_id, new_id_beside
from pixorly_ledger import store
from pixorly_ledger.rows import (
    Account,
    Charge,
    Draw,
    Grant,
    GrantRequest,
    Kind,
    Lot,
    NewCharge,
    Place,
    Posting,
    Return,
    Transfer,
)

Clock = Callable[[], datetime]

PLACES: Final[Mapping[Kind, tuple[Place, Place]]] = {
    "grant": ("issued", "available"),
    "purchase": ("issued", "available"),
    "allowance": ("issued", "available"),
    "expiry": ("available", "issued"),
    "charge": ("available", "escrow"),
    "capture": ("escrow", "revenue"),
    "refund": ("escrow", "available"),
}
"""From where to where each kind of transfer goes."""

SECOND_LIFE: Final = timedelta(hours=24)
"""How long a lot lives on that gets a refund after it expired."""


def month_of(moment: datetime) -> date:
    """Return the first day of the calendar month (UTC)."""
    return moment.astimezone(UTC).date().replace(day=1)


def end_of_month(month: date) -> datetime:
    """Return the moment at which the month is over."""
    following = (month + timedelta(days=32)).replace(day=1)
    return datetime(following.year, following.month, 1, tzinfo=UTC)


class Book:
    """The accounts that a transaction holds, and what it will write.

    Args:
        accounts: Locked until the transaction ends.
        now: The time of all that the transaction does; taken after the locks, so that it is not before what they
            waited for.
    """

    def __init__(self, accounts: Iterable[Account], now: datetime) -> None:
        self.accounts = {account.user_id: account for account in accounts}
        self.now = now
        self._lots: dict[str, dict[UUID, Lot]] = defaultdict(dict)
        self._changed: dict[str, Account] = {}
        self._transfers: list[Transfer] = []
        self._new_lots: list[Lot] = []
        self._changed_lots: dict[UUID, Lot] = {}
        self._draws: list[Draw] = []
        self._returns: list[Return] = []
        self._grants: list[Grant] = []
        self._new_charges: list[NewCharge] = []

    @classmethod
    async def open(cls, connection: Connection, user_ids: Collection[str], clock: Clock) -> Self:
        """Lock the accounts, in the same order in every process, and return a book of those that there are."""
        accounts = await store.lock_accounts(connection, user_ids)
        return cls(accounts, clock())

    async def load_lots(self, connection: Connection, draws: Collection[Draw] = ()) -> None:
        """Fetch the live lots of the accounts that have any, and those that `draws` came from."""
        owners = {account.user_id for account in self.accounts.values() if account.expiring_credits}
        owners.update(draw.user_id for draw in draws)
        if owners:
            for lot in await store.find_lots(connection, owners, {draw.lot_id for draw in draws}):
                self._lots[lot.user_id][lot.lot_id] = lot

    async def post(self, connection: Connection) -> None:
        """Write what changed.

        Raises:
            Conflict: Somebody else wrote what this would, or an account that is charged was not locked and has changed.
        """
        if self._transfers:
            await store.insert_transfers(connection, self._transfers)
        if self._new_charges:
            if await self._post_charges(connection) != self.changed:
                raise store.Conflict
        elif self._changed:
            await store.save_accounts(connection, list(self._changed.values()))
        if self._grants:
            await store.insert_grants(connection, self._grants)
        if self._new_lots:
            await store.insert_lots(connection, self._new_lots)
        if self._changed_lots and not self._new_charges:
            await store.save_lots(connection, list(self._changed_lots.values()))
        if self._returns:
            await store.save_returns(connection, self._returns)

    async def post_unlocked(self, connection: Connection) -> set[str]:
        """Write charges with all that comes with them, and return the users of whom it was written.

        It is one statement, so it needs no lock: of a user whose account has changed since it was read, nothing is. Of
        a book with more in it than charges, since a lot has expired, nothing is either.
        """
        return set() if self._transfers or not self._new_charges else await self._post_charges(connection)

    async def _post_charges(self, connection: Connection) -> set[str]:
        accounts, lots = list(self._changed.values()), list(self._changed_lots.values())
        return await store.post_charges(connection, Posting(self._new_charges, accounts, lots, self._draws, self.now))

    # Credits

    @property
    def changed(self) -> set[str]:
        """The users whose accounts are not what they were."""
        return set(self._changed)

    def charged_credits(self, user_ids: Collection[str]) -> int:
        """Return what was taken for jobs of these users."""
        return sum(charge.amount_credits for charge in self._new_charges if charge.user_id in user_ids)

    def grant(self, account: Account, request: GrantRequest) -> Grant:
        """Give credits; as a lot if they expire."""
        amount_credits, grant_id = request.amount_credits, request.grant_id
        if request.expires_at is not None:
            lot = Lot(account.user_id, new_id(), grant_id, amount_credits, amount_credits, 0, request.expires_at)
            self._lots[account.user_id][lot.lot_id] = lot
            self._new_lots.append(lot)
            account.expiring_credits += amount_credits
        self._move(account, request.kind, amount_credits, grant_id=grant_id, reason=request.reason)
        grant = Grant(
            user_id=account.user_id,
            grant_id=grant_id,
            kind=request.kind,
            amount_credits=amount_credits,
            balance_credits=account.balance_credits,
            reason=request.reason,
            expires_at=request.expires_at,
            created_at=self.now,
        )
        self._grants.append(grant)
        return grant

    def take(
        self, account: Account, job_id: UUID, amount_credits: int, images: Sequence[tuple[UUID, int]]
    ) -> NewCharge:
        """Charge a job, soonest-expiring lots first, and keep room for its images."""
        from_lots = min(amount_credits, account.expiring_credits)
        if from_lots:
            self._draw(account, from_lots, job_id)
        if amount_credits:
            account.balance_credits -= amount_credits
            account.transfer_count += 1
        account.reserved_bytes += sum(size_bytes for _, size_bytes in images)
        self._changed[account.user_id] = account
        charge = NewCharge(
            job_id,
            account.user_id,
            account.plan,
            amount_credits,
            from_lots,
            account.balance_credits,
            images,
            new_id_beside(job_id),
            account.transfer_count if amount_credits else None,
        )
        self._new_charges.append(charge)
        return charge

    def _draw(self, account: Account, wanted: int, job_id: UUID) -> None:
        lots = sorted(self._live_lots(account), key=lambda lot: (lot.expires_at, lot.lot_id))
        account.expiring_credits -= wanted
        for ordinal, lot in enumerate(lots):
            drawn = min(lot.remaining_credits, wanted)
            lot.remaining_credits -= drawn
            self._changed_lots[lot.lot_id] = lot
            self._draws.append(Draw(job_id, ordinal, account.user_id, lot.lot_id, drawn))
            wanted -= drawn
            if not wanted:
                return

    def give_back(
        self, account: Account, charge: Charge, amount_credits: int, draws: Sequence[Draw], reason: str
    ) -> None:
        """Refund a part of a charge to where it came from: what was taken last goes back first.

        So the account ends as if only the rest had been charged.
        """
        if not amount_credits:
            return
        from_pool = charge.amount_credits - charge.lot_credits
        left = amount_credits - min(amount_credits, from_pool)
        if left:
            # What a lot had left when it expired must not come back to life with the refund.
            self.expire(account)
            account.expiring_credits += left
        for draw in reversed(draws):
            returned = min(left, draw.amount_credits)
            if returned:
                self._refill(account, draw, returned)
                left -= returned
        self._move(account, "refund", amount_credits, job_id=charge.job_id, reason=reason)

    def _refill(self, account: Account, draw: Draw, returned: int) -> None:
        lot = self._lots[account.user_id][draw.lot_id]
        lot.remaining_credits += returned
        if lot.expires_at <= self.now:
            lot.expires_at = self.now + SECOND_LIFE
        self._changed_lots[lot.lot_id] = lot
        self._returns.append(Return(draw.job_id, draw.ordinal, returned))

    def capture(self, user_id: str, amount_credits: int, job_id: UUID) -> None:
        """Turn a part of a charge into revenue."""
        if amount_credits:
            self._record(user_id, "capture", amount_credits, None, None, job_id=job_id)

    def expire(self, account: Account) -> int:
        """Take back what is left of lots whose time is over, and return how much that was."""
        taken = 0
        for lot in self._live_lots(account):
            if lot.expires_at <= self.now:
                gone, lot.remaining_credits = lot.remaining_credits, 0
                lot.expired_credits += gone
                account.expiring_credits -= gone
                self._changed_lots[lot.lot_id] = lot
                self._move(account, "expiry", gone, grant_id=lot.grant_id, reason="expired")
                taken += gone
        return taken

    def expire_all(self) -> int:
        """Expire what is due in every account whose lots are loaded, and return how much that was."""
        return sum(self.expire(self.accounts[user_id]) for user_id in list(self._lots))

    def _live_lots(self, account: Account) -> list[Lot]:
        return [lot for lot in self._lots[account.user_id].values() if lot.remaining_credits]

    def _move(
        self,
        account: Account,
        kind: Kind,
        amount_credits: int,
        *,
        job_id: UUID | None = None,
        grant_id: str | None = None,
        reason: str | None = None,
    ) -> None:
        account.balance_credits += amount_credits if PLACES[kind][1] == "available" else -amount_credits
        account.transfer_count += 1
        self._changed[account.user_id] = account
        self._record(
            account.user_id, kind, amount_credits, account.transfer_count, account.balance_credits,
            job_id=job_id, grant_id=grant_id, reason=reason,
        )  # fmt: skip

    def _record(
        self,
        user_id: str,
        kind: Kind,
        amount_credits: int,
        seq: int | None,
        balance_credits: int | None,
        *,
        job_id: UUID | None = None,
        grant_id: str | None = None,
        reason: str | None = None,
    ) -> None:
        source, target = PLACES[kind]
        self._transfers.append(
            Transfer(
                new_id_beside(job_id) if job_id else new_id(),
                user_id,
                seq,
                kind,
                source,
                target,
                amount_credits,
                balance_credits,
                job_id,
                grant_id,
                reason,
                self.now,
            )
        )

    # Storage

    def occupy(self, account: Account, *, was_reserved: int = 0, was_stored: int = 0, stored: int = 0) -> None:
        """Let reserved or stored bytes go and count those that are stored now."""
        account.reserved_bytes -= was_reserved
        account.used_bytes += stored - was_stored
        self._changed[account.user_id] = account
