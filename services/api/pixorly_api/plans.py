"""How many jobs a user may have under way at once, by the user's plan."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from pixorly_api.ledger import Ledger

_KNOWN_S: Final = 30.0
_MOST_KNOWN: Final = 10_000


class Plans:
    """Tells what the plans of users allow. A change of plan counts here within half a minute.

    Args:
        ledger: Knows each user's plan.
        jobs_at_once: By plan; a plan that is not named, or has 0, is not limited.
        monotonic: Tells the time for the memory.
    """

    def __init__(
        self, ledger: Ledger, jobs_at_once: Mapping[str, int], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._jobs_at_once = jobs_at_once
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def jobs_at_once(self, user_id: str) -> int:
        """Return how many jobs a user may have under way; 0 is any number.

        Raises:
            AccountNotFound: There is no such user.
            OutageError: The ledger is away.
        """
        if not any(self._jobs_at_once.values()):
            return 0
        return self._jobs_at_once.get(await self._plan_of(user_id), 0)

    async def _plan_of(self, user_id: str) -> str:
        plan, until = self._known.get(user_id, ("", 0.0))
        if until > self._monotonic():
            return plan
        plan = str((await self._ledger.get(f"/internal/accounts/{quote(user_id, safe='')}"))["plan"])
        self._known[user_id] = plan, self._monotonic() + _KNOWN_S
        self._known.move_to_end(user_id)
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return plan
