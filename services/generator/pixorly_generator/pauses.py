"""Models and providers that the operator has paused: their calls wait, or go to a fallback."""

import time
from collections.abc import Callable, Collection
from typing import Final

from pixorly.catalogue import Model
from pixorly.db import Database
from pixorly.errors import OutageError
from pixorly_generator import store

_LOOK_EVERY_S: Final = 2.0
_AGAIN_S: Final = 10.0


class Pauses:
    """What is paused, as it was at most two seconds ago.

    Args:
        database: Where it is written down.
        monotonic: Tells the time.
    """

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._names: Collection[str] = ()
        self._known_until = float("-inf")

    async def check(self, model: Model) -> None:
        """Let a call pass.

        Raises:
            OutageError: Its model or provider is paused.
        """
        now = self._monotonic()
        if now >= self._known_until:
            self._known_until = now + _LOOK_EVERY_S
            async with self._database.connection() as connection:
                self._names = await store.paused(connection)
        if model.id in self._names or model.provider in self._names:
            raise OutageError(f"provider:{model.provider}", f"{model.id} is paused.", retry_after_s=_AGAIN_S)
