"""Breakers open over a window, make calls wait, and close after a probe."""

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from pixorly.errors import (
    ContentRejected,
    NoImage,
    OutageError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from pixorly_generator.providers.breaker import AccountAway, BreakerRule, Gates

RULE = BreakerRule(failures=5, ratio=0.8, window_s=30, open_s=5, longest_s=30)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def gates(clock: Clock, name: str = "test", **limits: int) -> Gates:
    return Gates(
        name, rule=RULE, account_rule=BreakerRule(failures=1, open_s=5, longest_s=60), clock=clock, limits=limits
    )


async def call(gate: Gates, error: BaseException | None = None, model: str = "m") -> None:
    async with gate.passed(model, 1):
        if error is not None:
            raise error


async def fail(gate: Gates, times: int, error: type[Exception] = ProviderUnavailable, model: str = "m") -> None:
    for _ in range(times):
        with pytest.raises(error):
            await call(gate, error(), model)


async def waits(gate: Gates, model: str = "m") -> OutageError | None:
    try:
        await call(gate, model=model)
    except OutageError as error:
        return error
    return None


@pytest.mark.parametrize("error", [ProviderUnavailable, ProviderTimeout, ProviderRateLimited])
async def test_it_opens_over_a_window_of_failures_and_not_on_one(error: type[Exception]) -> None:
    gate = gates(Clock())

    await fail(gate, 4, error)
    assert await waits(gate) is None
    await fail(gate, 1, error)

    away = await waits(gate)
    assert away is not None
    assert away.part == "provider:test/m"
    assert away.retry_after_s == 5


@pytest.mark.parametrize("error", [ContentRejected, ProviderRefused, NoImage])
async def test_an_answer_that_is_not_what_we_wanted_shows_that_the_provider_is_there(error: type[Exception]) -> None:
    gate = gates(Clock())

    await fail(gate, 50, error)

    assert await waits(gate) is None


async def test_failures_that_are_long_ago_do_not_count() -> None:
    clock = Clock()
    gate = gates(clock)

    for _ in range(20):
        await fail(gate, 1)
        clock.now += 10

    assert await waits(gate) is None


async def test_failures_among_many_successes_do_not_open_it() -> None:
    gate = gates(Clock())

    for _ in range(20):
        await fail(gate, 1)
        await call(gate)

    assert await waits(gate) is None


async def test_another_model_goes_on() -> None:
    gate = gates(Clock())
    await fail(gate, 5)

    assert await waits(gate, "other") is None


async def test_after_a_while_one_call_is_let_through_as_a_probe() -> None:
    clock = Clock()
    gate = gates(clock)
    await fail(gate, 5)
    clock.now += 5

    async with gate.passed("m", 1):
        beside = await waits(gate)

    assert beside is not None
    assert beside.retry_after_s == 1
    assert await waits(gate) is None


async def test_a_probe_that_fails_opens_it_again_for_twice_as_long() -> None:
    clock = Clock()
    gate = gates(clock)
    await fail(gate, 5)

    for expected in (10, 20, 30, 30):
        clock.now += 60
        await fail(gate, 1)
        away = await waits(gate)
        assert away is not None
        assert away.retry_after_s == expected


async def test_a_probe_that_is_given_up_makes_room_for_another() -> None:
    clock = Clock()
    gate = gates(clock)
    await fail(gate, 5)
    clock.now += 5

    with pytest.raises(asyncio.CancelledError):
        await call(gate, asyncio.CancelledError())

    assert await waits(gate) is None


async def test_a_call_from_before_it_opened_does_not_close_it() -> None:
    gate = gates(Clock())

    async with gate.passed("m", 1):
        await fail(gate, 5)

    assert await waits(gate) is not None


async def test_a_call_from_before_it_opened_does_not_end_a_probe() -> None:
    clock = Clock()
    gate = gates(clock)
    old = gate.passed("m", 1)
    await old.__aenter__()
    await fail(gate, 5)
    clock.now += 5

    async with gate.passed("m", 1):
        assert not await old.__aexit__(ProviderUnavailable, ProviderUnavailable(), None)
        assert await waits(gate) is not None

    assert await waits(gate) is None


async def test_a_rate_limit_that_says_how_long_holds_everybody_back() -> None:
    clock = Clock()
    gate = gates(clock)
    with pytest.raises(ProviderRateLimited):
        await call(gate, ProviderRateLimited(retry_after_s=7))

    away = await waits(gate)
    clock.now += 7

    assert away is not None
    assert away.retry_after_s == 7
    assert await waits(gate) is None


async def test_a_rate_limit_of_an_hour_holds_nobody_for_an_hour() -> None:
    clock = Clock()
    gate = gates(clock)
    with pytest.raises(ProviderRateLimited):
        await call(gate, ProviderRateLimited(retry_after_s=3600))
    clock.now += 60

    assert await waits(gate) is None


def metric(name: str, **labels: Any) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_trouble_with_our_account_opens_it_at_once_for_every_model_and_raises_an_alert() -> None:
    clock = Clock()
    gate = gates(clock, "alerted")
    with pytest.raises(AccountAway):
        await call(gate, AccountAway("alerted", "money"))

    away = await waits(gate, "another model")

    assert away is not None
    assert away.part == "provider:alerted"
    assert metric("pixorly_provider_account_faults_total", provider="alerted", reason="money") == 1
    assert metric("pixorly_provider_breaker_open", provider="alerted", model="*") == 1
    clock.now += 5
    assert await waits(gate) is None
    assert metric("pixorly_provider_breaker_open", provider="alerted", model="*") == 0


async def test_the_account_is_looked_at_again_when_the_provider_says_within_bounds() -> None:
    clock = Clock()
    gate = gates(clock)
    with pytest.raises(AccountAway):
        await call(gate, AccountAway("test", "budget", retry_after_s=40))

    away = await waits(gate)
    clock.now += 40
    with pytest.raises(AccountAway):
        await call(gate, AccountAway("test", "budget", retry_after_s=86_400))
    later = await waits(gate)

    assert away is not None
    assert later is not None
    assert (away.retry_after_s, later.retry_after_s) == (40, 60)


async def test_a_model_whose_breaker_is_open_does_not_use_up_the_account_s_probe() -> None:
    clock = Clock()
    gate = gates(clock)
    await fail(gate, 5)
    with pytest.raises(AccountAway):
        await call(gate, AccountAway("test", "key"), "other")
    clock.now += 5
    await fail(gate, 1)  # the model's probe: it fails, and says nothing of the account
    assert (await waits(gate)) is not None

    assert await waits(gate, "other") is None


async def test_a_limit_lets_so_many_through_at_once() -> None:
    gate = gates(Clock(), m=2)
    inside = 0
    most = 0

    async def one() -> None:
        nonlocal inside, most
        async with gate.passed("m", 5):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(one() for _ in range(10)))

    assert most == 2


async def test_who_waits_too_long_for_a_place_uses_up_no_retry() -> None:
    gate = gates(Clock(), m=1)

    async with gate.passed("m", 1):
        with pytest.raises(OutageError):
            async with gate.passed("m", 0.01):
                pass

    assert await waits(gate) is None
