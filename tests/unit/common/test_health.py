"""Readiness: which part is away, and what that means."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from clock import now_s, virtual_time
from fastapi import FastAPI

from pixorly.errors import OutageError
from pixorly.health import Check, Readiness, routes


async def fine() -> None:
    return


async def away() -> None:
    raise OutageError("postgres", "PostgreSQL is away: ConnectionRefusedError.")


async def silent() -> None:
    await asyncio.sleep(3600)


async def get(path: str, *checks: Check) -> httpx.Response:
    app = FastAPI()
    app.include_router(routes(checks))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get(path)


async def test_a_process_whose_parts_are_there_is_ready() -> None:
    answer = await get("/readyz", Check("postgres", fine), Check("s3", fine))

    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "parts": {"postgres": "ok", "s3": "ok"}}


async def test_a_required_part_that_is_away_is_named_and_the_process_waits() -> None:
    answer = await get("/readyz", Check("postgres", away), Check("s3", fine))

    assert answer.status_code == 503
    assert answer.json() == {
        "status": "waiting",
        "parts": {"postgres": "PostgreSQL is away: ConnectionRefusedError.", "s3": "ok"},
    }


async def test_a_part_that_is_not_required_is_only_reported() -> None:
    answer = await get("/readyz", Check("postgres", fine), Check("ledger", away, required=False))

    assert answer.status_code == 200
    assert answer.json()["parts"]["ledger"] != "ok"


async def test_a_process_lives_whatever_is_away() -> None:
    answer = await get("/livez", Check("postgres", away))

    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_metrics_are_those_of_prometheus() -> None:
    answer = await get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "pixorly_messages_total" in answer.text or "# HELP" in answer.text


@virtual_time
async def test_a_part_that_says_nothing_is_away_after_three_seconds_and_parts_are_asked_at_once() -> None:
    readiness = Readiness([Check("s3", silent), Check("rabbitmq", silent), Check("postgres", fine)])

    ready, parts = await readiness.ask()

    assert not ready
    assert parts == {
        "s3": "s3 did not answer within 3 s.",
        "rabbitmq": "rabbitmq did not answer within 3 s.",
        "postgres": "ok",
    }
    assert now_s() == pytest.approx(3)


def counted() -> tuple[list[None], Callable[[], Awaitable[None]]]:
    calls: list[None] = []

    async def check() -> None:
        calls.append(None)
        await asyncio.sleep(0.01)

    return calls, check


async def test_answers_are_kept_for_half_a_second_so_that_probes_cost_little() -> None:
    calls, check = counted()
    readiness = Readiness([Check("s3", check)])

    await asyncio.gather(*(readiness.ask() for _ in range(20)))
    assert len(calls) == 1

    await asyncio.sleep(0.55)
    await readiness.ask()
    assert len(calls) == 2


async def test_a_part_that_comes_back_is_found() -> None:
    state = {"away": True}

    async def check() -> None:
        if state["away"]:
            raise OutageError("s3")

    readiness = Readiness([Check("s3", check)])
    assert (await readiness.ask())[0] is False

    state["away"] = False
    await asyncio.sleep(0.55)
    assert await readiness.ask() == (True, {"s3": "ok"})
