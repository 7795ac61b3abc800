"""A user's statement, in pages or as one CSV."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import Query, Response

from pixorly_api.fields import Day, Moment
from pixorly_api.ledger import Ledger, Params, moment
from pixorly_api.schemas import Transaction, TransactionList
from pixorly_api.sheets import long_sheet

_PAGE: Final = 1000

StatementCursor = Annotated[str | None, Query(max_length=19, pattern=r"^[1-9][0-9]{0,17}$")]
Since = Annotated[Moment | None, Query(alias="from", description="Only from this moment on.")]
Until = Annotated[Moment | None, Query(alias="to", description="Only before this moment.")]
First = Annotated[Day | None, Query(alias="from", description="The first day (UTC); thirty days without it.")]
Last = Annotated[Day | None, Query(alias="to", description="The last day; today without it.")]


@dataclass(frozen=True, slots=True)
class Statement:
    """Which part of whose statement is asked for."""

    user_id: str
    cursor: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    async def page(self, ledger: Ledger, limit: int) -> TransactionList:
        """Return its first page."""
        return TransactionList.model_validate(await ledger.get(self._path, self._asked(self.cursor, limit)))

    def as_csv(self, ledger: Ledger) -> Response:
        """Return all of it."""
        return long_sheet(self._pages(ledger), list(Transaction.model_fields), f"transactions-{self.user_id}")

    async def _pages(self, ledger: Ledger) -> AsyncIterator[list[dict[str, Any]]]:
        cursor = self.cursor
        while True:
            page = await ledger.get(self._path, self._asked(cursor, _PAGE))
            yield page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    @property
    def _path(self) -> str:
        return f"/internal/accounts/{self.user_id}/transactions"

    def _asked(self, cursor: str | None, limit: int) -> Params:
        return {"limit": limit, "cursor": cursor, "from": moment(self.since), "to": moment(self.until)}
