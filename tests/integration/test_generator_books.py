"""What the generator tells of its provider calls, on a real PostgreSQL."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from pixorly.db import Database, migrate
from pixorly.ids import new_id
from pixorly.tokens import Tokens
from pixorly_generator.routes import routes

TOKEN = "service-token"
ADD = """with call as (insert into calls (job_id, call_no, user_id, model) values ($1, 0, 'ada', $2))
         insert into attempts (job_id, call_no, attempt, provider, model, started_at, ended_at, cost_usd, generation_id,
                               late)
         values ($1, 0, 1, 'openrouter', $2, $3::text::timestamptz, now(), $4::text::numeric, $5, $6)"""
ROWS = (
    ("a", "2026-01-31T23:59:59Z", "0.0390000001", "gen-1", False),
    ("a", "2026-02-01T00:00:00Z", "0.1", "gen-2", True),
    ("a", "2026-02-28T23:59:59Z", None, None, False),
    ("b", "2026-02-01T00:00:00Z", "2", "gen-3", False),
)


@pytest.fixture
async def generator(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    await migrate(database_url, "pixorly", "pixorly_generator")
    database = Database(database_url)
    await database.open()
    async with database.connection() as connection:
        for row in ROWS:
            await connection.execute(ADD, new_id(), *row)
    app = FastAPI()
    app.include_router(routes(database, Tokens(SecretStr(TOKEN))))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://generator", headers=headers) as client:
        yield client
    await database.close()


async def test_costs_add_up_by_month_and_model_to_the_last_digit(generator: httpx.AsyncClient) -> None:
    lines = (await generator.get("/internal/costs")).json()["data"]

    assert [
        (line["month"], line["model"], line["calls"], line["unpriced_calls"], line["cost_usd"]) for line in lines
    ] == [
        ("2026-01-01", "a", 1, 0, "0.0390000001"),
        ("2026-02-01", "a", 2, 1, "0.1"),
        ("2026-02-01", "b", 1, 0, "2"),
    ]
    assert [line["late_calls"] for line in lines] == [0, 1, 0]


async def test_a_span_of_days_has_both_its_ends_in_it(generator: httpx.AsyncClient) -> None:
    asked = {"from": "2026-01-31", "to": "2026-02-01"}

    lines = (await generator.get("/internal/costs", params=asked)).json()["data"]
    calls = (await generator.get("/internal/attempts", params=asked)).json()["data"]

    assert [line["calls"] for line in lines] == [1, 1, 1]
    assert {call["generation_id"] for call in calls} == {"gen-1", "gen-2", "gen-3"}


async def test_attempts_come_in_pages_each_once(generator: httpx.AsyncClient) -> None:
    found, cursor = [], None
    while True:
        asked = {"limit": "3", **({"cursor": cursor} if cursor else {})}
        page = (await generator.get("/internal/attempts", params=asked)).json()
        found += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert [call["generation_id"] for call in found] == ["gen-1", "gen-2", None, "gen-3"]
    assert found[2]["cost_usd"] is None


async def test_without_the_token_nothing_is_told(generator: httpx.AsyncClient) -> None:
    for path in ("/internal/costs", "/internal/attempts"):
        assert (await generator.get(path, headers={"Authorization": "Bearer x"})).status_code == 401


@pytest.mark.parametrize("cursor", ["x", "x/0/1", "019a0000-0000-7000-8000-000000000001"])
async def test_a_cursor_that_is_none_is_refused(generator: httpx.AsyncClient, cursor: str) -> None:
    assert (await generator.get("/internal/attempts", params={"cursor": cursor})).status_code == 422
