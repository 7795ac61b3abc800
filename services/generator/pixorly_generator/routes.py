"""The generator's internal HTTP: what provider calls there were and what they cost, for the operator's books.

Every call shows the service token: `Authorization: Bearer …`; without one in the settings there are no such routes.
Amounts are US dollars, written as text so that nothing is rounded.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from pixorly.db import Database
from pixorly.tokens import Tokens
from pixorly_generator import store

_FIRST: Final = date(2000, 1, 1)
_LAST: Final = date(2199, 12, 31)

First = Annotated[date, Query(alias="from")]
Last = Annotated[date, Query(alias="to")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9]{1,4}/[0-9]{1,6}$")]


class PauseIn(BaseModel):
    """What is to be paused, or to go on."""

    name: str = Field(min_length=1, max_length=128)
    paused: bool


def routes(database: Database, tokens: Tokens) -> APIRouter:
    """Return the routes under `/internal`."""
    router = APIRouter(prefix="/internal", dependencies=[Depends(_token_check(tokens))])

    @router.get("/costs")
    async def costs(first: First = _FIRST, last: Last = _LAST) -> Response:
        """Return what providers charged for the calls that began between two days (UTC), both included.

        `{data: [{month, provider, model, calls, unpriced_calls, late_calls, cost_usd}]}`; a call without a price is one
        whose provider said none, or whose process died before it could be written down.
        """
        async with database.connection() as connection:
            return _json({"data": await store.costs(connection, _start(first), _start(last + timedelta(days=1)))})

    @router.get("/attempts")
    async def attempts(
        first: First = _FIRST, last: Last = _LAST, cursor: Cursor = None, limit: Limit = 1000
    ) -> Response:
        """List the calls that began between two days (UTC), by job.

        `{data: [{job_id, call_no, attempt, provider, model, started_at, ended_at, code, late, cost_usd,
        generation_id}], next_cursor}`.
        """
        async with database.connection() as connection:
            found = await store.list_attempts(
                connection, _start(first), _start(last + timedelta(days=1)), store.Place.read(cursor), limit + 1
            )
        more = len(found) > limit
        return _json({"data": found[:limit], "next_cursor": store.Place.of(found[limit - 1]).text if more else None})

    @router.put("/pauses")
    async def put_pause(body: PauseIn) -> Response:
        """Pause a model or a provider, or go on with it: `{name, paused}`; every process obeys within two seconds."""
        async with database.connection() as connection:
            await (store.pause if body.paused else store.resume)(connection, body.name)
        return _json({"name": body.name, "paused": body.paused})

    return router


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _token_check(tokens: Tokens) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        if not tokens.open(request.headers.get("authorization", "").encode()):
            raise HTTPException(401)

    return check


def _json(content: Any) -> Response:
    # asyncpg has a UUID type of its own, and a Decimal is written whole.
    return Response(orjson.dumps(content, default=str, option=orjson.OPT_UTC_Z), media_type="application/json")
