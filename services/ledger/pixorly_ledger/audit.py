"""The audit: every invariant of money and storage, checked over the whole database, as of one moment.

It reads in one snapshot, so it is right while traffic flows. The checks themselves are views in the migrations; one
that shows nothing is passed.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from pixorly.db import Database
from pixorly_ledger import store

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One check and what it found.

    Attributes:
        name: As in the view `audit_…`.
        found: Ids of what is off, at most 20.
        more: Whether there are others.
        quiet: Whether it has to hold only when nothing is under way.
    """

    name: str
    found: list[str]
    more: bool = False
    quiet: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.found

    def shown(self) -> dict[str, Any]:
        """Return it as it is shown."""
        return {"name": self.name, "ok": self.ok, "found": self.found, "more": self.more, "quiet": self.quiet}


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit ends with.

    Attributes:
        clean: Whether every check that has to hold now is passed.
    """

    clean: bool
    checks: list[Check]
    totals: dict[str, int]

    def shown(self) -> dict[str, Any]:
        """Return it as it is shown."""
        return {"clean": self.clean, "checks": [check.shown() for check in self.checks], "totals": self.totals}


class Audit:
    """Checks the books.

    Args:
        database: The ledger's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def steps(self, *, quiet: bool = False) -> AsyncIterator[Check | Report]:
        """Yield each check as it is done, and the report in the end.

        Args:
            quiet: Whether the system is said to be quiet, so that the checks for that count too.
        """
        checks: list[Check] = []
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await store.read_whole_tables(connection)
            totals = await store.find_totals(connection)
            checks.append(
                Check("totals", [row["place"] for row in totals if row["credits"] != row["expected_credits"]])
            )
            yield checks[-1]
            for name in store.AUDITS:
                found = await store.find_off(connection, name, _SHOWN + 1)
                checks.append(Check(name, found[:_SHOWN], len(found) > _SHOWN, quiet=name in store.QUIET_AUDITS))
                yield checks[-1]
            counts = await store.count_rows(connection)
        clean = all(check.ok for check in checks if quiet or not check.quiet)
        yield Report(clean, checks, {f"{row['place']}_credits": row["credits"] for row in totals} | counts)

    async def run(self, *, quiet: bool = False) -> Report:
        """Return the report of a whole audit."""
        async for step in self.steps(quiet=quiet):
            if isinstance(step, Report):
                return step
        raise AssertionError("an audit ends with its report")
