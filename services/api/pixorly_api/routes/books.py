"""The operator's books: statements, usage, revenue and cost, and whether everything adds up."""

from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from pixorly.events import utcnow
from pixorly_api.admin_schemas import Audit, MarginList, ProviderCallList
from pixorly_api.edge import JsonRoute
from pixorly_api.fields import Day
from pixorly_api.margins import margins, total
from pixorly_api.parts import Admin, JobId, P, UserId
from pixorly_api.problems import documented
from pixorly_api.schemas import Receipt, TransactionList
from pixorly_api.sheets import CSV, AsCsv, sheet
from pixorly_api.statement import AskedStatement, Days, Last, days, report
from pixorly_api.views import receipt as shown_receipt

router = APIRouter(prefix="/admin/v1", tags=["admin"], route_class=JsonRoute)

_READ: Final = documented(401, 403, 404, 422, 429, 500, 503)
_SHEET: Final = {**_READ, **CSV}
_NDJSON: Final = "application/x-ndjson"
_STEPS: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {_NDJSON: {"schema": {"type": "string"}}}}}
"""What `stream` asks for: a JSON object on each line, as it is found."""
_CALL: Final = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9]{1,4}/[0-9]{1,6}$"
"""The cursor of the generator's records: a job, its call, and the attempt."""

GroupBy = Annotated[
    str,
    Query(
        pattern=r"^(user|day|month|model)(,(user|day|month|model)){0,3}$",
        description="Any of `user`, `day`, `month`, `model`, with commas between them.",
    ),
]
Many = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
Stream = Annotated[bool, Query(description="Each step as a line of JSON as soon as it is done, the whole at the end.")]


@router.get(
    "/users/{user_id}/transactions",
    operation_id="listUserTransactions",
    summary="A user's statement",
    response_model=TransactionList,
    responses=_SHEET,
)
async def transactions(
    parts: P,
    _: Admin,
    user_id: UserId,
    asked: AskedStatement,
    limit: Many = 50,
) -> Any:
    """Return a page of a user's statement, newest first; as CSV, all that follows from the cursor on."""
    return await asked.of(user_id, parts.ledger, limit)


@router.get("/receipts/{generation_id}", operation_id="getReceipt", summary="Who paid for a job", responses=_READ)
async def receipt(parts: P, _: Admin, generation_id: JobId) -> Receipt:
    """Return what any user's job took, and what became of it, image by image."""
    return shown_receipt(await parts.ledger.get_charge(generation_id))


@router.get(
    "/users/{user_id}/usage",
    operation_id="getUserUsage",
    summary="What a user made and spent",
    response_model=dict[str, Any],
    responses=_SHEET,
)
async def usage_of_user(
    parts: P,
    _: Admin,
    user_id: UserId,
    *,
    span: Days,
    as_csv: AsCsv,
    group_by: GroupBy = "day",
) -> Any:
    """Return a user's jobs, images, credits and bytes."""
    path = f"/internal/accounts/{user_id}/usage"
    return await report(parts.ledger, path, {**span, "group_by": group_by}, f"usage-{user_id}", as_csv=as_csv)


@router.get(
    "/usage",
    operation_id="getAllUsage",
    summary="What all users made and spent",
    response_model=dict[str, Any],
    responses=_SHEET,
)
async def usage(parts: P, _: Admin, *, span: Days, as_csv: AsCsv, group_by: GroupBy = "day") -> Any:
    """Return all users' jobs, images, credits and bytes."""
    return await report(parts.ledger, "/internal/usage", {**span, "group_by": group_by}, "usage", as_csv=as_csv)


# Revenue and cost


@router.get(
    "/margins",
    operation_id="listMargins",
    summary="Revenue, cost and margin",
    response_model=MarginList,
    responses=_SHEET,
)
async def list_margins(
    parts: P,
    _: Admin,
    *,
    as_csv: AsCsv,
    first: Annotated[Day | None, Query(alias="from", description="The first day (UTC); a year without it.")] = None,
    last: Last = None,
) -> Any:
    """Return what was earned and what it cost upstream, by month and model."""
    end = last or utcnow().date()
    span = days(first or _a_year_before(end), end)
    earned = await parts.ledger.get("/internal/usage", {**span, "group_by": "month,model"})
    spent = await parts.provider_calls.get("/internal/costs", span)
    lines = margins(earned["data"], spent["data"], parts.settings.credit_usd)
    if as_csv:
        return sheet([line.model_dump() for line in lines], "margins")
    return MarginList(data=lines, totals=total(lines))


def _a_year_before(day: date) -> date:
    """Return the first day of the month eleven months before a day's."""
    months = day.year * 12 + day.month - 1 - 11
    return date(months // 12, months % 12 + 1, 1)


@router.get(
    "/provider-calls",
    operation_id="listProviderCalls",
    summary="What providers were called for, and what they charged",
    response_model=ProviderCallList,
    responses=_SHEET,
)
async def list_provider_calls(
    parts: P,
    _: Admin,
    *,
    span: Days,
    as_csv: AsCsv,
    limit: Many = 1000,
    cursor: Annotated[str | None, Query(max_length=60, pattern=_CALL)] = None,
) -> Any:
    """Return a page of the generator's records, by job: to compare with a provider's bill."""
    asked = {**span, "cursor": cursor, "limit": limit}
    found = ProviderCallList.model_validate(await parts.provider_calls.get("/internal/attempts", asked))
    return sheet([call.model_dump() for call in found.data], "provider-calls") if as_csv else found


# Audits


@router.get(
    "/audit",
    operation_id="getAudit",
    summary="Whether everything adds up",
    response_model=Audit,
    responses={**_READ, **_STEPS},
)
async def audit(parts: P, _: Admin, *, quiet: bool = False, stream: Stream = False) -> Any:
    """Return what the ledger's checks found; with `quiet`, nothing may be under way either."""
    asked = {"quiet": str(quiet).lower(), "stream": "true"}
    return await _told(parts.ledger.lines("/internal/audit", asked, parts.settings.books_timeout_s), stream=stream)


@router.get(
    "/audit/storage",
    operation_id="getStorageAudit",
    summary="Whether the bucket holds what it should",
    response_model=dict[str, Any],
    responses={**_READ, **_STEPS},
)
async def audit_storage(parts: P, _: Admin, *, stream: Stream = False) -> Any:
    """Compare the images, the ledger's storage and the bucket's objects, both ways.

    Findings come as `{finding: {kind, user_id, id, object_bytes, image_bytes, ledger_bytes}}`; without `stream`, the
    first hundred of them stand in `findings`.
    """
    return await _told(parts.inventory.steps(), stream=stream)


async def _told(steps: AsyncIterator[dict[str, Any]], *, stream: bool) -> Any:
    """Return the steps as they come, or the last one with the findings among them."""
    # What can't even begin is an error, and not the beginning of an answer.
    first = await anext(steps)
    if stream:
        return StreamingResponse(_lines(first, steps), media_type=_NDJSON)
    findings, last = list[Any](), first
    async for last in steps:
        if "finding" in last and len(findings) < _MOST_FINDINGS:
            findings.append(last["finding"])
    return {**last, **({"findings": findings} if findings else {})}


_MOST_FINDINGS: Final = 100


async def _lines(first: dict[str, Any], steps: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    yield orjson.dumps(first) + b"\n"
    async for step in steps:
        yield orjson.dumps(step) + b"\n"
