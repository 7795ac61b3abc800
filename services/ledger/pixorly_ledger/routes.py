"""The ledger's internal HTTP, for Pixorly's own services and its command.

Every call shows the service token: `Authorization: Bearer …`. Bodies are JSON, refusals are problem bodies whose `code`
is in the table of outcomes and whose facts are extra members. Lists are `{"data": […], "next_cursor": …}`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime

from pixorly.tokens import Tokens
from pixorly_ledger.accounts import Accounts, Terms
from pixorly_ledger.audit import Audit
from pixorly_ledger.credits import Credits
from pixorly_ledger.door import AppWithDoor
from pixorly_ledger.problems import Unauthorized
from pixorly_ledger.reports import Reports
from pixorly_ledger.rows import GrantRequest, ImageState
from pixorly_ledger.schemas import GrantIn, ReleaseIn, TermsIn, VoidIn
from pixorly_ledger.statements import NEWEST, Statements
from pixorly_ledger.storage import Storage

_NO_UUID: Final = UUID(int=0)

UserPath = Annotated[str, Path(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Limit = Annotated[int, Query(ge=1, le=1000)]
First = Annotated[date | None, Query(alias="from")]
Last = Annotated[date | None, Query(alias="to")]
GroupBy = Annotated[str, Query(max_length=40)]


class Json(Response):
    """A JSON answer: dates as RFC 3339 UTC, ids as text."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        # asyncpg has a UUID type of its own.
        return orjson.dumps(content, default=str, option=orjson.OPT_UTC_Z)


def _listed(rows: list[dict[str, Any]], limit: int, key: str) -> Json:
    """Return one page of rows that were asked for with one more than `limit`."""
    more = len(rows) > limit
    return Json({"data": rows[:limit], "next_cursor": str(rows[limit - 1][key]) if more else None})


def _token_check(tokens: Tokens) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        if not tokens.open(request.headers.get("authorization", "").encode()):
            raise Unauthorized

    return check


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rules that the routes lead to."""

    credits: Credits
    storage: Storage
    accounts: Accounts
    statements: Statements
    reports: Reports
    audit: Audit


def add_routes(app: AppWithDoor, ledger: Ledger, tokens: Tokens) -> None:
    """Let the app answer all of `/internal`."""
    app.set_door(ledger.credits, ledger.storage, tokens)
    router = APIRouter(prefix="/internal", dependencies=[Depends(_token_check(tokens))])
    router.include_router(_charge_routes(ledger.credits, ledger.statements))
    router.include_router(_image_routes(ledger.storage))
    router.include_router(_account_routes(ledger.accounts, ledger.statements))
    router.include_router(_report_routes(ledger.accounts, ledger.reports))
    router.include_router(_audit_routes(ledger.audit))
    app.include_router(router)


def _charge_routes(credits_: Credits, statements: Statements) -> APIRouter:
    router = APIRouter(prefix="/charges")

    @router.post("/{job_id}/void")
    async def void(job_id: UUID, body: Annotated[VoidIn | None, Body()] = None) -> Response:
        """Refund an open charge, or refuse one that comes later: `{status: "voided" | "settled"}`."""
        return Json({"status": await credits_.void(job_id, body.user_id if body else None)})

    @router.get("/{job_id}")
    async def receipt(job_id: UUID) -> Response:
        """Return the receipt of a job.

        `{job_id, status: open | settled | voided, user_id, plan, amount_credits, lot_credits, balance_credits,
        captured_credits, refunded_credits, outcome, model, created_at, closed_at,
        images: [{index, image_id, amount_credits, code, paid_by: user | pixorly | null, storage: {state, bytes}}],
        transfers: [{id, kind, from_account, to_account, amount_credits, reason, created_at}]}`; 404 `not_found`.
        """
        return Json(await statements.receipt(job_id))

    @router.get("")
    async def open_charges(
        status: Literal["open"] = "open",
        created_before: AwareDatetime | None = None,
        after: UUID = _NO_UUID,
        limit: Limit = 100,
    ) -> Response:
        """List charges that are still open: `[{job_id, user_id, amount_credits, created_at}]`; `after` is a cursor."""
        del status
        before = created_before or datetime.max.replace(tzinfo=UTC)
        return _listed(await statements.open_charges(before, after, limit + 1), limit, "job_id")

    return router


def _image_routes(storage: Storage) -> APIRouter:
    router = APIRouter(prefix="/images")

    @router.post("/release")
    async def release(body: ReleaseIn) -> Response:
        """Let the room of images go: `{released: [image_id, …]}`; ids that there never were are left out."""
        return Json({"released": await storage.release(body.image_ids)})

    @router.get("")
    async def images(
        user_id: Annotated[str, Query(min_length=1, max_length=128)],
        state: ImageState = "stored",
        after: UUID = _NO_UUID,
        limit: Limit = 1000,
    ) -> Response:
        """List the storage of a user's images, to compare with the bucket.

        `[{image_id, user_id, job_id, state, bytes}]`.
        """
        return _listed(await storage.images(user_id, state, after, limit + 1), limit, "image_id")

    return router


def _account_routes(accounts: Accounts, statements: Statements) -> APIRouter:
    router = APIRouter(prefix="/accounts")

    @router.get("")
    async def list_accounts(cursor: Annotated[str, Query(max_length=128)] = "", limit: Limit = 100) -> Response:
        """List accounts, by user id."""
        return _listed(await accounts.list(cursor, limit + 1), limit, "user_id")

    @router.get("/{user_id}")
    async def account(user_id: UserPath) -> Response:
        """Return an account.

        `{user_id, plan, status: active | suspended, credits_remaining, storage: {used_bytes, reserved_bytes,
        quota_bytes}, allowance: bool, expiring: [{grant_id, credits, expires_at}]}`; 404 `account_not_found`.
        """
        return Json(await accounts.get(user_id))

    @router.put("/{user_id}")
    async def put_account(user_id: UserPath, body: TermsIn) -> Response:
        """Open an account or change it: `{plan?, status?, allowance?}`; what is left out stays as it is.

        `allowance: false` stops the monthly allowance, before the first one if it is given when the account is
        opened. Whatever is due of this month's is given at once.
        """
        return Json(await accounts.put(user_id, Terms(body.plan, body.status, body.allowance)))

    @router.post("/{user_id}/grants")
    async def grant(user_id: UserPath, body: GrantIn) -> Response:
        """Give credits: `{grant_id, amount_credits, balance_credits, expires_at}`.

        A repeat answers what the first answered.
        """
        request = GrantRequest(body.grant_id, body.amount_credits, body.reason, body.expires_at, body.kind)
        given = await accounts.grant(user_id, request)
        fields = ("grant_id", "amount_credits", "balance_credits", "expires_at")
        return Json({field: getattr(given, field) for field in fields})

    @router.get("/{user_id}/transactions")
    async def transactions(
        user_id: UserPath,
        cursor: Annotated[int, Query(ge=1, le=NEWEST)] = NEWEST,
        limit: Limit = 50,
        since: Annotated[AwareDatetime | None, Query(alias="from")] = None,
        until: Annotated[AwareDatetime | None, Query(alias="to")] = None,
    ) -> Response:
        """Return the statement, newest first; the sum of all amounts is the balance.

        `[{id, kind: grant | purchase | allowance | expiry | charge | refund, amount_credits, balance_credits, job_id,
        grant_id, reason, created_at}]`.
        """
        data, following = await statements.statement(user_id, before=cursor, since=since, until=until, limit=limit)
        return Json({"data": data, "next_cursor": str(following) if following else None})

    return router


def _report_routes(accounts: Accounts, reports: Reports) -> APIRouter:
    router = APIRouter()

    @router.get("/plans")
    async def plans() -> Response:
        """List the plans: `[{plan, quota_bytes, allowance_credits}]`."""
        data = [{"plan": name, **plan.model_dump()} for name, plan in accounts.plans.items()]
        return Json({"data": data, "next_cursor": None})

    @router.get("/accounts/{user_id}/usage")
    async def usage(user_id: UserPath, first: First = None, last: Last = None, group_by: GroupBy = "day") -> Response:
        """Return a user's usage between two days (UTC), both included; the last thirty where none are named.

        `{from, to, group_by, data: [{day?, month?, model?, user_id?, jobs, completed, failed, canceled, images,
        images_uploaded, credits_used, credits_refunded, credits_captured, retries, retries_per_job, success_rate,
        failures: {code: images}, processing_time_ms: {count, sum, average, p50, p95, p99}, stored_bytes,
        released_bytes, storage_bytes}], totals: {…}}`. `group_by` is any of `day`, `month`, `model`, `user` with
        commas between them. A job counts on the day of its settlement. What was used and not refunded is captured.
        Bytes that came and went are left out by model; `storage_bytes`, how much was stored at the day's end, is there
        by day only.
        """
        return Json(await reports.usage(reports.scope(user_id, first, last, group_by)))

    @router.get("/usage")
    async def usage_of_all(first: First = None, last: Last = None, group_by: GroupBy = "day") -> Response:
        """Return the usage of all users, in the same shape; revenue by model and month is `group_by=model,month`."""
        return Json(await reports.usage(reports.scope(None, first, last, group_by)))

    return router


def _audit_routes(audit: Audit) -> APIRouter:
    router = APIRouter(prefix="/audit")

    @router.get("")
    async def audit_books(*, quiet: bool = False, stream: bool = False) -> Response:
        """Check the books: `{clean, checks: [{name, ok, found: [id, …], more, quiet}], totals: {…}}`.

        With `quiet=true`, what has to hold only when nothing is under way counts too. With `stream=true` each check
        comes as a line of JSON as soon as it is done, and the whole in the last line.
        """
        if not stream:
            return Json((await audit.run(quiet=quiet)).shown())

        async def lines() -> AsyncIterator[bytes]:
            async for step in audit.steps(quiet=quiet):
                yield orjson.dumps(step.shown()) + b"\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return router
