"""The generator's internal HTTP as the api calls it."""

import asyncio
import time

import pytest
from pydantic import SecretStr
from raw_server import raw_server

from pixorly.errors import OutageError
from pixorly_api.provider_calls import HttpProviderCalls
from pixorly_api.settings import ApiSettings


async def test_a_generator_that_says_nothing_is_given_up_soon_although_its_books_may_take_minutes() -> None:
    async with raw_server(lambda _: asyncio.sleep(60)) as frozen:
        settings = ApiSettings.model_construct(
            generator_url=frozen.url, service_token=SecretStr("token"), books_timeout_s=600
        )
        generator = HttpProviderCalls(settings, patience_s=0.2)
        began = time.monotonic()
        with pytest.raises(OutageError, match="say it again") as raised:
            await generator.send("/internal/pauses", {"name": "sandbox", "paused": True})
        await generator.close()

    assert raised.value.part == "generator"
    assert time.monotonic() - began < 30
    assert frozen.connections == 1
