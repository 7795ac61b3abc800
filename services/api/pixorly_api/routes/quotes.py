"""What an order would cost, before it is placed."""

from typing import Any

from fastapi import APIRouter

from pixorly.ids import new_id
from pixorly.outcomes import outcome_of
from pixorly_api import store
from pixorly_api.creation import estimated_bytes
from pixorly_api.edge import JsonRoute
from pixorly_api.parts import Maker, P
from pixorly_api.problems import documented
from pixorly_api.routes.generations import ordered
from pixorly_api.schemas import CreateGeneration, Quote, Refusal

router = APIRouter(prefix="/v1/quotes", tags=["generations"], route_class=JsonRoute)


@router.post(
    "",
    operation_id="createQuote",
    summary="Ask what a job would cost",
    responses=documented(400, 401, 403, 404, 413, 422, 429, 500, 503),
)
async def quote(parts: P, caller: Maker, body: CreateGeneration) -> Quote:
    """Return the price of an order, which is kept to for ten minutes, and what the order would be refused for now.

    Nothing is taken and nothing is made. What can't be made at all is refused here just as it would be there.
    """
    order = ordered(parts, caller.user_id, body)
    account = await parts.ledger.get(f"/internal/accounts/{caller.user_id}")
    quote_id, cost = new_id(), order.credits_per_image * order.n
    needed_bytes = estimated_bytes(order.params) * order.n
    async with parts.database.connection() as connection:
        expires_at = await store.insert_quote(
            connection,
            quote_id,
            caller.user_id,
            order.body_hash,
            credits_per_image=order.credits_per_image,
            ttl_s=parts.settings.quote_ttl_s,
        )
    return Quote(
        quote_id=quote_id,
        expires_at=expires_at,
        model=order.model.id,
        n=order.n,
        params=order.params.model_dump(mode="json", exclude_none=True),
        credits_per_image=order.credits_per_image,
        credits=cost,
        credits_remaining=account["credits_remaining"],
        storage_bytes=needed_bytes,
        expected_s=order.model.typical_s,
        refusals=_refusals(account, cost, needed_bytes),
    )


def _refusals(account: dict[str, Any], cost: int, needed_bytes: int) -> list[Refusal]:
    storage = account["storage"]
    free_bytes = storage["quota_bytes"] - storage["used_bytes"] - storage["reserved_bytes"]
    found = {
        "account_suspended": account["status"] == "suspended",
        "insufficient_credits": cost > account["credits_remaining"],
        "storage_quota_exceeded": needed_bytes > free_bytes,
    }
    return [Refusal(code=code, message=outcome_of(code).message) for code, holds in found.items() if holds]
