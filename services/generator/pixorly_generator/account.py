"""Our own account at a provider: how much is left of it."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from pixorly import metrics
from pixorly.errors import PixorlyError

_log = structlog.get_logger()

EVERY_S: Final = 60.0

LEFT_USD = metrics.gauge(
    "pixorly_provider_account_left_usd", "What is left of our own limit at a provider that says so.", "provider"
)


class Account(Protocol):
    """A provider that tells how much is left."""

    @property
    def name(self) -> str:
        """The stable name, as the catalogue has it."""
        ...

    async def left_usd(self) -> float | None:
        """Return what is left; None where there is no limit."""
        ...


async def keep_asking(accounts: Sequence[Account], every_s: float = EVERY_S) -> None:
    """Keep the gauge up to date, for ever; while a provider does not answer it says what was seen last."""
    while True:
        for account in accounts:
            try:
                left_usd = await account.left_usd()
            except PixorlyError as error:
                _log.warning("a provider does not say what is left", provider=account.name, code=error.code)
                continue
            if left_usd is not None:
                LEFT_USD.labels(account.name).set(left_usd)
        await asyncio.sleep(every_s)
