"""Pausing a model or a provider: nothing new is taken for it, and what was taken waits or goes to a fallback."""

import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Any, Final

from pixorly.catalogue import Catalogue, Model
from pixorly.db import Database
from pixorly.errors import InvalidRequest, OutageError
from pixorly_api import store
from pixorly_api.provider_calls import ProviderCalls

_LOOK_EVERY_S: Final = 2.0
_AGAIN_S: Final = 60.0


class ModelPaused(OutageError):
    """This model is paused; nothing was stored, nothing charged."""

    def __init__(self, model_id: str) -> None:
        super().__init__("model", f"{model_id} is paused for the time being.", retry_after_s=_AGAIN_S)


class Pauses:
    """What is paused, as it was at most two seconds ago.

    Args:
        database: Where it is written down.
        generator: Told, too, for it makes the calls.
        catalogue: Which models and providers there are.
        monotonic: Tells the time.
    """

    def __init__(
        self,
        database: Database,
        generator: ProviderCalls,
        catalogue: Catalogue,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._generator = generator
        self._catalogue = catalogue
        self._monotonic = monotonic
        self._names: Collection[str] = ()
        self._known_until = float("-inf")

    async def over(self, models: Iterable[Model]) -> bool:
        """Tell whether all of these are paused."""
        now = self._monotonic()
        if now >= self._known_until:
            self._known_until = now + _LOOK_EVERY_S
            self._names = {name for name, _, _ in await self.all()}
        return bool(self._names) and all({model.id, model.provider} & set(self._names) for model in models)

    async def all(self) -> list[tuple[str, str, datetime]]:
        """Return what is paused, why, and since when."""
        async with self._database.connection() as connection:
            return await store.pauses(connection)

    async def put(self, name: str, *, paused: bool, reason: str) -> None:
        """Pause a model or a provider, or let it go on; a repeat changes nothing.

        Raises:
            InvalidRequest: There is no such thing.
            OutageError: The generator is away. It may have heard of it; say it again.
        """
        models = self._catalogue.all()
        if paused and name not in {model.id for model in models} | {model.provider for model in models}:
            raise InvalidRequest(f"There is no model or provider {name!r}.", param="name")
        told: dict[str, Any] = {"name": name, "paused": paused}
        await self._generator.send("/internal/pauses", told)
        async with self._database.connection() as connection:
            await (store.pause(connection, name, reason) if paused else store.resume(connection, name))
        self._known_until = float("-inf")
