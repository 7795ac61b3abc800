"""The operator's calls: users, credits and keys."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from pixorly.ids import new_id
from pixorly_api.admin_schemas import (
    AccountList,
    AdminAccount,
    CreatedKey,
    ErasureOut,
    Grant,
    KeyList,
    KeyOut,
    PauseList,
    PauseOut,
    PlanList,
    PostGrant,
    PostKey,
    PutLimits,
    PutPause,
    PutUser,
    UserLimits,
)
from pixorly_api.edge import JsonRoute
from pixorly_api.fields import USER_ID
from pixorly_api.parts import Admin, KeyId, Limit, P, Parts, UserId
from pixorly_api.problems import documented
from pixorly_api.store import ApiKey

router = APIRouter(prefix="/admin/v1", tags=["admin"], route_class=JsonRoute)

_READ = documented(401, 403, 404, 422, 429, 500, 503)
_WRITE = documented(400, 401, 403, 404, 413, 422, 429, 500, 503)


@router.put("/users/{user_id}", operation_id="putUser", summary="Open or change an account", responses=_WRITE)
async def put_user(parts: P, _: Admin, user_id: UserId, body: PutUser) -> AdminAccount:
    """Open an account, or change its plan, its state, or whether it gets the plan's monthly credits."""
    terms = body.model_dump(exclude_none=True)
    return AdminAccount.model_validate(await parts.ledger.send("PUT", f"/internal/accounts/{user_id}", terms))


@router.get("/users", operation_id="listUsers", summary="List accounts", responses=_READ)
async def list_users(
    parts: P, _: Admin, limit: Limit = 50, cursor: Annotated[str | None, Query(pattern=USER_ID)] = None
) -> AccountList:
    """Return a page of accounts, by user id."""
    return AccountList.model_validate(await parts.ledger.get("/internal/accounts", {"limit": limit, "cursor": cursor}))


@router.get("/users/{user_id}", operation_id="getUser", summary="Read an account", responses=_READ)
async def get_user(parts: P, _: Admin, user_id: UserId) -> AdminAccount:
    """Return an account."""
    return AdminAccount.model_validate(await parts.ledger.get(f"/internal/accounts/{user_id}"))


@router.get("/plans", operation_id="listPlans", summary="List the plans", responses=_READ)
async def list_plans(parts: P, _: Admin) -> PlanList:
    """Return the plans, with their storage and their monthly credits."""
    return PlanList.model_validate(await parts.ledger.get("/internal/plans"))


@router.post("/users/{user_id}/grants", operation_id="grantCredits", summary="Give credits", responses=_WRITE)
async def grant(parts: P, _: Admin, user_id: UserId, body: PostGrant) -> Grant:
    """Give a user credits; a repeat with the same `grant_id` gives nothing more and answers the same."""
    given = body.model_dump(mode="json", exclude_none=True)
    path = f"/internal/accounts/{user_id}/grants"
    return Grant.model_validate(await parts.ledger.send("POST", path, {"grant_id": str(new_id()), **given}))


@router.post(
    "/users/{user_id}/keys",
    operation_id="createKey",
    summary="Make an API key",
    status_code=201,
    responses=_WRITE,
)
async def create_key(parts: P, _: Admin, user_id: UserId, body: PostKey) -> CreatedKey:
    """Make a key for a user and show it, this one time."""
    await parts.ledger.get(f"/internal/accounts/{user_id}")
    key, secret = await parts.auth.make(user_id, body.name, sorted(set(body.scopes)), body.expires_at)
    return CreatedKey(key=secret, **_key(key))


@router.get("/users/{user_id}/keys", operation_id="listKeys", summary="List a user's API keys", responses=_READ)
async def list_keys(parts: P, _: Admin, user_id: UserId) -> KeyList:
    """Return a user's keys, newest first, without their secrets."""
    return KeyList(data=[KeyOut(**_key(key)) for key in await parts.auth.keys_of(user_id)])


@router.delete(
    "/users/{user_id}/keys/{key_id}",
    operation_id="revokeKey",
    summary="Revoke an API key",
    status_code=204,
    response_class=Response,
    responses=_WRITE,
)
async def revoke_key(parts: P, _: Admin, user_id: UserId, key_id: KeyId) -> None:
    """Revoke a key for good; every process obeys within five seconds."""
    await parts.auth.revoke(user_id, key_id)


@router.get("/users/{user_id}/limits", operation_id="getLimits", summary="Read what a user may do", responses=_READ)
async def get_limits(parts: P, _: Admin, user_id: UserId) -> UserLimits:
    """Return what a user may do at once and in a minute, and what of it was said for this user."""
    return await _limits(parts, user_id)


@router.put("/users/{user_id}/limits", operation_id="putLimits", summary="Limit a user otherwise", responses=_WRITE)
async def put_limits(parts: P, _: Admin, user_id: UserId, body: PutLimits) -> UserLimits:
    """Let a user do more or less than the plan and the settings say; every process obeys within five seconds."""
    await parts.limits.override(user_id, body.model_dump(exclude_unset=True))
    return await _limits(parts, user_id)


@router.delete(
    "/users/{user_id}/limits",
    operation_id="deleteLimits",
    summary="Limit a user as everybody",
    status_code=204,
    response_class=Response,
    responses=_WRITE,
)
async def delete_limits(parts: P, _: Admin, user_id: UserId) -> None:
    """Take back what was said for a user: the plan and the settings hold again."""
    await parts.limits.reset(user_id)


async def _limits(parts: Parts, user_id: str) -> UserLimits:
    allowed, under_way = await parts.limits.read(user_id)
    return UserLimits(user_id=user_id, jobs_under_way=under_way, **asdict(allowed))


@router.post(
    "/users/{user_id}/erasure",
    operation_id="eraseUser",
    summary="Erase a user",
    status_code=202,
    responses=_WRITE,
)
async def erase_user(parts: P, _: Admin, user_id: UserId) -> ErasureOut:
    """Suspend an account, revoke its keys, and have its images deleted and its prompts and notes blanked.

    Jobs under way end as if their deadline had passed. Transfers stay, for the books must add up. A worker carries it
    out; `getErasure` says when it is done. It can't be undone.
    """
    return ErasureOut(**asdict(await parts.erasures.ask(user_id)))


@router.get("/users/{user_id}/erasure", operation_id="getErasure", summary="How far it is", responses=_READ)
async def get_erasure(parts: P, _: Admin, user_id: UserId) -> ErasureOut:
    """Return how far the erasure of a user is."""
    return ErasureOut(**asdict(await parts.erasures.read(user_id)))


@router.get("/pauses", operation_id="listPauses", summary="What is paused", responses=_READ)
async def list_pauses(parts: P, _: Admin) -> PauseList:
    """Return the models and providers that are paused."""
    rows = await parts.pauses.all()
    return PauseList(data=[PauseOut(name=name, reason=reason, since=since) for name, reason, since in rows])


@router.put("/pauses", operation_id="putPause", summary="Pause a model or a provider, or go on", responses=_WRITE)
async def put_pause(parts: P, operator: Admin, body: PutPause) -> PauseList:
    """Take no new jobs for a model or a provider: 503 with `Retry-After`, but where a fallback is not paused.

    Jobs that were taken wait, or go to a fallback; their deadline goes on. Every process obeys within two seconds.
    """
    await parts.pauses.put(body.name, paused=body.paused, reason=body.reason)
    return await list_pauses(parts, operator)


def _key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "user_id": key.user_id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }
