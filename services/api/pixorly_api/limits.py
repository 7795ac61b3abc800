"""What a user may do at once and in a minute: as plan and settings say, or as the operator says for one user."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeVar
from urllib.parse import quote

from pixorly.db import Database
from pixorly_api import store
from pixorly_api.ledger import Ledger
from pixorly_api.settings import ApiSettings
from pixorly_api.store import Overrides

_PLAN_KNOWN_S: Final = 30.0
_OVERRIDES_KNOWN_S: Final = 5.0
_MOST_KNOWN: Final = 10_000
_Known = TypeVar("_Known")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a user may do; 0 is any number.

    Attributes:
        plan: The user's plan.
        jobs_at_once: Jobs under way at a time.
        requests_per_minute: Requests of each key in a minute.
        overrides: What of it the operator has said for this user.
    """

    plan: str
    jobs_at_once: int
    requests_per_minute: int
    overrides: Overrides


class _Memory(Generic[_Known]):
    """What was found for users, for a while."""

    def __init__(
        self, find: Callable[[str], Awaitable[_Known]], lasts_s: float, monotonic: Callable[[], float]
    ) -> None:
        self._find = find
        self._lasts_s = lasts_s
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[_Known, float]] = OrderedDict()

    async def of(self, user_id: str) -> _Known:
        known = self._known.get(user_id)
        if known and known[1] > self._monotonic():
            return known[0]
        found = await self._find(user_id)
        self._known[user_id] = found, self._monotonic() + self._lasts_s
        self._known.move_to_end(user_id)
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return found

    def forget(self, user_id: str) -> None:
        self._known.pop(user_id, None)


class Limits:
    """Tells what users may do.

    What the operator changes counts in every process within five seconds, a change of plan within half a minute.

    Args:
        database: Has what the operator says for single users.
        ledger: Knows each user's plan.
        jobs_at_once: By plan; a plan that is not named, or has 0, is not limited.
        requests_per_minute: For each key; 0 is any number.
        monotonic: Tells the time for the memory.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        *,
        jobs_at_once: Mapping[str, int],
        requests_per_minute: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._jobs_at_once = jobs_at_once
        self._requests_per_minute = requests_per_minute
        self._plans = _Memory(self._find_plan, _PLAN_KNOWN_S, monotonic)
        self._overrides = _Memory(self._find_overrides, _OVERRIDES_KNOWN_S, monotonic)

    @classmethod
    def of(cls, database: Database, ledger: Ledger, settings: ApiSettings) -> Self:
        """Return the limits that the settings name."""
        return cls(
            database,
            ledger,
            jobs_at_once=settings.jobs_at_once,
            requests_per_minute=settings.requests_per_minute,
        )

    async def jobs_at_once(self, user_id: str) -> int:
        """Return how many jobs a user may have under way; 0 is any number.

        Raises:
            AccountNotFound: There is no such user.
            OutageError: PostgreSQL or the ledger is away.
        """
        said = (await self._overrides.of(user_id)).jobs_at_once
        if said is not None:
            return said
        if not any(self._jobs_at_once.values()):
            return 0
        return self._jobs_at_once.get(await self._plans.of(user_id), 0)

    async def requests_per_minute(self, user_id: str) -> int:
        """Return how many requests each key of a user may make in a minute; 0 is any number.

        Raises:
            OutageError: PostgreSQL is away.
        """
        said = (await self._overrides.of(user_id)).requests_per_minute
        return self._requests_per_minute if said is None else said

    async def read(self, user_id: str) -> tuple[Allowed, int]:
        """Return what a user may do as of now, and how many jobs they have under way.

        Raises:
            AccountNotFound: There is no such user.
            OutageError: PostgreSQL or the ledger is away.
        """
        plan = await self._find_plan(user_id)
        async with self._database.connection() as connection:
            said = await store.overrides_of(connection, user_id)
            under_way = await store.count_open_jobs(connection, user_id)
        jobs, requests = said.jobs_at_once, said.requests_per_minute
        allowed = Allowed(
            plan,
            self._jobs_at_once.get(plan, 0) if jobs is None else jobs,
            self._requests_per_minute if requests is None else requests,
            said,
        )
        return allowed, under_way

    async def override(self, user_id: str, said: Mapping[str, int | None]) -> None:
        """Note what the operator says for a user; what is not said stays, None is taken back.

        Raises:
            AccountNotFound: There is no such user.
            OutageError: PostgreSQL or the ledger is away.
        """
        await self._find_plan(user_id)
        async with self._database.connection() as connection:
            await store.set_overrides(connection, user_id, said)
        self._overrides.forget(user_id)

    async def reset(self, user_id: str) -> None:
        """Take back all that the operator said for a user.

        Raises:
            AccountNotFound: There is no such user.
            OutageError: PostgreSQL or the ledger is away.
        """
        await self._find_plan(user_id)
        async with self._database.connection() as connection:
            await store.delete_overrides(connection, user_id)
        self._overrides.forget(user_id)

    async def _find_plan(self, user_id: str) -> str:
        return str((await self._ledger.get(f"/internal/accounts/{quote(user_id, safe='')}"))["plan"])

    async def _find_overrides(self, user_id: str) -> Overrides:
        async with self._database.connection() as connection:
            return await store.overrides_of(connection, user_id)
