"""What a caller has, may ask for, and has used."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from pixorly.catalogue import Model
from pixorly.outcomes import OUTCOMES
from pixorly_api.edge import JsonRoute
from pixorly_api.parts import Limit, P, Reader
from pixorly_api.problems import documented
from pixorly_api.schemas import MAX_N, Account, ModelList, ModelOut, OutcomeList, OutcomeOut, TransactionList
from pixorly_api.sheets import CSV, AsCsv
from pixorly_api.statement import AskedStatement, Days, report

router = APIRouter(prefix="/v1", tags=["account"], route_class=JsonRoute)

GroupBy = Annotated[Literal["day", "model"], Query()]
_READ = documented(401, 403, 404, 422, 429, 500, 503)


@router.get("/account", operation_id="getAccount", summary="Credits and storage", responses=_READ)
async def account(parts: P, caller: Reader) -> Account:
    """Return the caller's account."""
    return Account.model_validate(await parts.ledger.get(f"/internal/accounts/{caller.user_id}"))


@router.get(
    "/transactions",
    operation_id="listTransactions",
    summary="Changes of the balance",
    response_model=TransactionList,
    responses={**_READ, **CSV},
)
async def transactions(
    parts: P,
    caller: Reader,
    asked: AskedStatement,
    limit: Limit = 50,
) -> Any:
    """Return a page of the caller's statement, newest first; as CSV, all that follows from the cursor on."""
    return await asked.of(caller.user_id, parts.ledger, limit)


@router.get(
    "/usage",
    operation_id="getUsage",
    summary="What was made and spent",
    response_model=dict[str, Any],
    responses={**_READ, **CSV},
)
async def usage(
    parts: P,
    caller: Reader,
    *,
    span: Days,
    as_csv: AsCsv,
    group_by: GroupBy = "day",
) -> Any:
    """Return the caller's jobs, images, credits and bytes, by day or by model."""
    path = f"/internal/accounts/{caller.user_id}/usage"
    return await report(parts.ledger, path, {**span, "group_by": group_by}, "usage", as_csv=as_csv)


@router.get(
    "/models", operation_id="listModels", summary="The models on offer", responses=documented(401, 403, 429, 500, 503)
)
async def models(parts: P, _: Reader) -> ModelList:
    """Return the models on offer, what they cost and what they accept."""
    return ModelList(data=[_model(model) for model in parts.catalogue.all()])


def _model(model: Model) -> ModelOut:
    return ModelOut(
        id=model.id,
        name=model.name,
        description=model.description,
        credits_per_image=model.credits,
        quality_credits={quality: model.credits_per_image(quality) for quality in model.qualities},
        max_n=MAX_N,
        min_px=model.min_px,
        max_px=model.max_px,
        default_width=model.default_width,
        default_height=model.default_height,
        aspect_ratios=model.aspect_ratios,
        output_formats=list(model.formats),
        qualities=list(model.qualities),
        transparent=model.transparent,
        seed=model.seed,
        typical_s=model.typical_s,
    )


@router.get(
    "/outcomes",
    operation_id="listOutcomes",
    summary="What each code means, and who pays",
    responses=documented(401, 403, 429, 500, 503),
)
async def outcomes(_: Reader) -> OutcomeList:
    """Return the table of outcomes."""
    return OutcomeList(
        data=[
            OutcomeOut(
                code=row.code,
                status=row.status,
                fault=row.fault,
                refunded=row.refunded,
                retries=row.retries,
                message=row.message,
            )
            for row in OUTCOMES.values()
        ]
    )
