"""A user's statement, in pages or as one CSV, and reports of what was used."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, Query, Response

from pixorly.errors import InvalidRequest
from pixorly_api.fields import Day, Moment
from pixorly_api.ledger import Ledger, Params, moment
from pixorly_api.schemas import Transaction, TransactionList
from pixorly_api.sheets import AsCsv, long_sheet, sheet

_PAGE: Final = 1000

Last = Annotated[Day | None, Query(alias="to", description="The last day; today without it.")]


@dataclass(frozen=True, slots=True)
class Statement:
    """Which part of a statement is asked for, and how."""

    cursor: str | None
    since: datetime | None
    until: datetime | None
    as_csv: bool

    async def of(self, user_id: str, ledger: Ledger, limit: int) -> TransactionList | Response:
        """Return its first page; as CSV, all of it."""
        path = f"/internal/accounts/{user_id}/transactions"
        if self.as_csv:
            return long_sheet(self._pages(ledger, path), list(Transaction.model_fields), f"transactions-{user_id}")
        return TransactionList.model_validate(await ledger.get(path, self._asked(self.cursor, limit)))

    async def _pages(self, ledger: Ledger, path: str) -> AsyncIterator[list[dict[str, Any]]]:
        cursor = self.cursor
        while True:
            page = await ledger.get(path, self._asked(cursor, _PAGE))
            yield page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _asked(self, cursor: str | None, limit: int) -> Params:
        return {"limit": limit, "cursor": cursor, "from": moment(self.since), "to": moment(self.until)}


async def _statement(
    *,
    cursor: Annotated[str | None, Query(max_length=19, pattern=r"^[1-9][0-9]{0,17}$")] = None,
    since: Annotated[Moment | None, Query(alias="from", description="Only from this moment on.")] = None,
    until: Annotated[Moment | None, Query(alias="to", description="Only before this moment.")] = None,
    as_csv: AsCsv,
) -> Statement:
    _check_order(since, until)
    return Statement(cursor, since, until, as_csv)


def days(first: date | None, last: date | None) -> dict[str, str | None]:
    """Return a span of days as the services read it.

    Raises:
        InvalidRequest: It ends before it begins.
    """
    _check_order(first, last)
    return {"from": first.isoformat() if first else None, "to": last.isoformat() if last else None}


async def _days(
    first: Annotated[
        Day | None, Query(alias="from", description="The first day (UTC); thirty days without it.")
    ] = None,
    last: Last = None,
) -> dict[str, str | None]:
    return days(first, last)


def _check_order(first: date | None, last: date | None) -> None:
    if first and last and last < first:
        raise InvalidRequest("`to` lies before `from`.", param="to")


AskedStatement = Annotated[Statement, Depends(_statement)]
Days = Annotated[dict[str, str | None], Depends(_days)]


async def report(ledger: Ledger, path: str, asked: Params, name: str, *, as_csv: bool) -> dict[str, Any] | Response:
    """Return what the ledger reports under a path; as CSV, in a file of this name."""
    found = await ledger.get(path, asked)
    return sheet(found["data"], name) if as_csv else found
