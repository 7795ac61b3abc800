"""The user `demo`, who has credits to try things with."""

from typing import Any

import httpx

from pixorly_stack.errors import StackError

USER = "demo"
PLAN = "enterprise"
CREDITS = 100_000
GRANT_ID = "019a0000-0000-7000-8000-000000000001"
"""The same each time, so that the credits are granted once."""
TIMEOUT_S = 30.0


async def demo_key(
    api_url: str, admin_key: str, known: str | None, transport: httpx.AsyncBaseTransport | None = None
) -> str:
    """Return an API key of the user `demo`, whose account is made where it is missing: `known`, if that still works.

    Raises:
        StackError: The api refused a step.
    """
    async with httpx.AsyncClient(base_url=api_url, timeout=TIMEOUT_S, trust_env=False, transport=transport) as client:
        try:
            if known and await _works(client, known):
                return known
            admin = {"Authorization": f"Bearer {admin_key}"}
            grant = {"grant_id": GRANT_ID, "amount_credits": CREDITS, "reason": "demo"}
            await _call(client, "PUT", f"/admin/v1/users/{USER}", {"plan": PLAN, "allowance": False}, admin)
            await _call(client, "POST", f"/admin/v1/users/{USER}/grants", grant, admin)
            return str((await _call(client, "POST", f"/admin/v1/users/{USER}/keys", {"name": "dev"}, admin))["key"])
        except httpx.HTTPError as error:
            raise StackError(f"the user {USER} could not be made: {error}") from error


async def _works(client: httpx.AsyncClient, key: str) -> bool:
    answer = await client.get("/v1/account", headers={"Authorization": f"Bearer {key}"})
    return answer.status_code == httpx.codes.OK


async def _call(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], admin: dict[str, str]) -> Any:
    answer = await client.request(method, path, json=body, headers=admin)
    if answer.is_error:
        raise StackError(
            f"the user {USER} could not be made: {method} {path} was answered {answer.status_code}: {answer.text}"
        )
    return answer.json()
