"""How many requests a caller may make: counted in PostgreSQL, so that it is one count however many processes there are.

The windows are a minute long and the same for everybody, by PostgreSQL's clock. Requests that arrive while a count is
under way share the next one.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pixorly.db import Database
from pixorly.errors import OutageError
from pixorly.grouping import Grouper
from pixorly_api import store

WINDOW_S: Final = 60


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller may do in this window, after the request that asked.

    Attributes:
        limit: Requests in a window.
        left: Those that are left; below 0 where there was one too many.
        resets_s: When the next window begins, in seconds.
    """

    limit: int
    left: int
    resets_s: int

    @property
    def headers(self) -> dict[str, str]:
        """Return what clients are told with every answer (draft-ietf-httpapi-ratelimit-headers)."""
        return {
            "RateLimit-Policy": f'"requests";q={self.limit};w={WINDOW_S}',
            "RateLimit": f'"requests";r={max(self.left, 0)};t={self.resets_s}',
        }


class Rates:
    """Counts requests.

    Args:
        database: Where they are counted.
        limit: Tells how many a user's callers may each make in a minute; 0 is any number.
    """

    def __init__(self, database: Database, limit: Callable[[str], Awaitable[int]]) -> None:
        self._database = database
        self._limit = limit
        self._count = Grouper(self._count_group)

    async def take(self, caller: str, user_id: str) -> Allowance | None:
        """Count a request of one of a user's callers and return what is left; None where nothing limits it."""
        try:
            per_minute = await self._limit(user_id)
            if not per_minute:
                return None
            taken, resets_s = await self._count(caller)
        except OutageError:
            return None  # what can't be counted is let through: it will not come far
        return Allowance(per_minute, per_minute - taken, resets_s)

    async def _count_group(self, callers: Sequence[str]) -> Sequence[tuple[int, int]]:
        """Return for each request the how-manieth of its window it is, and when the window ends."""
        counts = Counter(callers)
        async with self._database.connection() as connection:
            taken = await store.count_requests(connection, counts, WINDOW_S)
        answers = []
        for caller in callers:
            total, resets_s = taken[caller]
            counts[caller] -= 1
            answers.append((total - counts[caller], resets_s))
        return answers
