"""What is left of our account at a provider is measured; where nobody says, the last word stands."""

import asyncio
from contextlib import suppress

from prometheus_client import REGISTRY

from pixorly.errors import ProviderUnavailable
from pixorly_generator.account import keep_asking


class Account:
    """An account that says one thing after the other."""

    name = "told"

    def __init__(self, *answers: float | Exception | None) -> None:
        self.answers = list(answers)

    async def left_usd(self) -> float | None:
        if not self.answers:
            raise asyncio.CancelledError
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_the_gauge_says_what_was_heard_last() -> None:
    with suppress(asyncio.CancelledError):
        await keep_asking([Account(9.5, 7.25, ProviderUnavailable(), None)], every_s=0)

    assert REGISTRY.get_sample_value("pixorly_provider_account_left_usd", {"provider": "told"}) == 7.25
