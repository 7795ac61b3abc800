"""The ledger's internal HTTP, whole: over ASGI, on a real PostgreSQL, with RabbitMQ away."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from pixorly.ids import new_id
from pixorly_ledger.app import build
from pixorly_ledger.settings import LedgerSettings

TOKEN = "service-token"


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    settings = LedgerSettings(
        ledger_database_url=database_url,
        service_token=TOKEN,
        amqp_url="amqp://guest:guest@127.0.0.1:1/",
        shutdown_grace_s=1,
    )
    app = build(settings)
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://ledger", headers=headers) as client,
    ):
        yield client


def charge_body(user_id: str = "ada", amount: int = 10, n: int = 1, size_bytes: int = 100) -> dict[str, object]:
    images = [{"image_id": str(new_id()), "estimate_bytes": size_bytes} for _ in range(n)]
    return {"job_id": str(new_id()), "user_id": user_id, "amount_credits": amount, "images": images}


async def open_account(ledger: httpx.AsyncClient, user_id: str = "ada", credits_: int = 100) -> None:
    answer = await ledger.put(f"/internal/accounts/{user_id}", json={"plan": "free", "allowance": False})
    assert answer.status_code == 200
    body = {"grant_id": "first", "amount_credits": credits_, "reason": "welcome"}
    assert (await ledger.post(f"/internal/accounts/{user_id}/grants", json=body)).status_code == 200


async def test_a_job_from_charge_to_receipt(ledger: httpx.AsyncClient) -> None:
    await open_account(ledger)
    body = charge_body(n=2)
    job_id, images = body["job_id"], [image["image_id"] for image in body["images"]]  # type: ignore[attr-defined]

    for _ in range(2):
        answer = await ledger.post("/internal/charges", json=body)
        assert answer.json() == {
            "job_id": job_id,
            "amount_credits": 10,
            "balance_credits": 90,
            "plan": "free",
            "status": "open",
        }
    listed = (await ledger.get("/internal/charges", params={"status": "open"})).json()
    assert [(row["job_id"], row["user_id"], row["amount_credits"]) for row in listed["data"]] == [(job_id, "ada", 10)]
    trued = await ledger.post(
        f"/internal/images/{images[0]}/true-up", json={"bytes": 77, "user_id": "ada", "job_id": job_id}
    )
    assert trued.json() == {"state": "stored"}
    assert (await ledger.post("/internal/images/release", json={"image_ids": images})).json()["released"]
    assert (await ledger.post(f"/internal/charges/{job_id}/void", json={"user_id": "ada"})).json() == {
        "status": "voided"
    }
    receipt = (await ledger.get(f"/internal/charges/{job_id}")).json()
    assert (receipt["status"], receipt["refunded_credits"]) == ("voided", 10)
    assert [image["paid_by"] for image in receipt["images"]] == ["pixorly", "pixorly"]
    lines = (await ledger.get("/internal/accounts/ada/transactions", params={"limit": 2})).json()
    assert [(line["kind"], line["amount_credits"], line["balance_credits"]) for line in lines["data"]] == [
        ("refund", 10, 100),
        ("charge", -10, 90),
    ]
    following = {"cursor": lines["next_cursor"]}
    (line,) = (await ledger.get("/internal/accounts/ada/transactions", params=following)).json()["data"]
    assert (line["kind"], line["reason"], line["job_id"]) == ("grant", "welcome", None)
    assert datetime.fromisoformat(line["created_at"]).tzinfo == UTC


async def test_charges_of_a_batch_are_made_or_refused_each_by_itself(ledger: httpx.AsyncClient) -> None:
    await open_account(ledger)
    one = charge_body(amount=60)
    batch = [one, charge_body(amount=101), charge_body("nobody"), charge_body(amount=40), one]

    answers = (await ledger.post("/internal/charges/batch", json=batch)).json()
    again = (await ledger.post("/internal/charges/batch", json=batch)).json()

    assert [answer["status"] for answer in answers] == [200, 402, 404, 200, 200]
    assert [answer["body"].get("code") for answer in answers[1:3]] == ["insufficient_credits", "account_not_found"]
    assert answers[0]["body"]["job_id"] == one["job_id"]
    assert [one["body"] for one in again if one["status"] == 200] == [
        one["body"] for one in answers if one["status"] == 200
    ]
    assert (await ledger.get("/internal/accounts/ada")).json()["credits_remaining"] == 0
    wrong = await ledger.post("/internal/charges/batch", json=[one, {}])
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
    bare = await ledger.post("/internal/charges/batch", json=batch, headers={"Authorization": "Bearer wrong"})
    assert bare.status_code == 401


async def test_true_ups_of_one_request_are_made_or_refused_each_by_itself(ledger: httpx.AsyncClient) -> None:
    await open_account(ledger)
    bodies = [charge_body(amount=10) for _ in range(3)]
    await ledger.post("/internal/charges/batch", json=bodies)
    good, released, strange = (body["images"][0]["image_id"] for body in bodies)  # type: ignore[index]
    await ledger.post("/internal/images/release", json={"image_ids": [released]})
    wanted: list[dict[str, object]] = [
        {"image_id": good, "user_id": "ada", "bytes": 77},
        {"image_id": released, "user_id": "ada", "bytes": 77},
        {"image_id": str(new_id()), "user_id": "ada", "bytes": 77},
        {"image_id": strange, "user_id": "somebody else", "bytes": 77},
        {"image_id": good, "user_id": "ada", "bytes": 99},
    ]

    answers = (await ledger.post("/internal/images/true-ups", json=wanted)).json()

    assert [answer["status"] for answer in answers] == [200, 200, 404, 404, 200]
    assert [answer["body"].get("state") for answer in answers] == ["stored", "closed", None, None, "stored"]
    assert [answer["body"]["code"] for answer in answers[2:4]] == ["not_found"] * 2
    assert (await ledger.get("/internal/accounts/ada")).json()["storage"]["used_bytes"] == 99
    assert (await ledger.post("/internal/images/true-ups", json=wanted[4:])).json() == answers[4:]
    wrong = await ledger.post("/internal/images/true-ups", json=[*wanted, {}])
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
    bare = await ledger.post("/internal/images/true-ups", json=wanted, headers={"Authorization": "Bearer wrong"})
    assert bare.status_code == 401


async def test_a_true_up_of_what_is_no_image_is_refused(ledger: httpx.AsyncClient) -> None:
    body = {"bytes": 1, "user_id": "ada"}

    no_id = await ledger.post("/internal/images/seven/true-up", json=body)
    unknown = await ledger.post(f"/internal/images/{new_id()}/true-up", json=body)
    no_size = await ledger.post(f"/internal/images/{new_id()}/true-up", json={"user_id": "ada"})

    assert [answer.status_code for answer in (no_id, unknown, no_size)] == [422, 404, 422]
    assert unknown.json()["code"] == "not_found"


async def test_refusals_are_problems_with_their_facts(ledger: httpx.AsyncClient) -> None:
    await open_account(ledger)

    async def refused(body: dict[str, object]) -> tuple[int, dict[str, object]]:
        answer = await ledger.post("/internal/charges", json=body)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        return answer.status_code, answer.json()

    status, problem = await refused(charge_body(amount=101))
    assert (status, problem["code"], problem["needed_credits"], problem["available_credits"]) == (
        402,
        "insufficient_credits",
        101,
        100,
    )
    status, problem = await refused(charge_body(size_bytes=1_000_000_001))
    assert (status, problem["code"], problem["quota_bytes"]) == (403, "storage_quota_exceeded", 1_000_000_000)
    assert (await refused(charge_body("nobody")))[1]["code"] == "account_not_found"
    body = charge_body()
    await ledger.post(f"/internal/charges/{body['job_id']}/void")
    assert (await refused(body))[0] == 409
    await ledger.put("/internal/accounts/ada", json={"status": "suspended"})
    assert (await refused(charge_body()))[1]["code"] == "account_suspended"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"job_id": 1}',
        json.dumps(charge_body(amount=-1)).encode(),
        json.dumps(charge_body(amount=3, n=2)).encode(),
        json.dumps(charge_body(n=0)).encode(),
        json.dumps(charge_body("a\0b")).encode(),
        json.dumps(charge_body("x" * 129)).encode(),
    ],
)
async def test_a_body_that_makes_no_sense_is_a_422(ledger: httpx.AsyncClient, body: bytes) -> None:
    answer = await ledger.post("/internal/charges", content=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN} ", TOKEN])
async def test_without_the_service_token_there_is_nothing(ledger: httpx.AsyncClient, header: str | None) -> None:
    ledger.headers.pop("Authorization")
    headers = {} if header is None else {"Authorization": header}

    for method, path in (("GET", "/internal/accounts"), ("POST", "/internal/charges"), ("GET", "/internal/audit")):
        answer = await ledger.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_unknown_addresses_methods_and_ids_are_problems(ledger: httpx.AsyncClient) -> None:
    for method, path, status, code in (
        ("GET", "/internal/nothing", 404, "not_found"),
        ("DELETE", "/internal/charges", 405, "method_not_allowed"),
        ("GET", f"/internal/charges/{new_id()}", 404, "not_found"),
        ("GET", "/internal/charges/x", 422, "invalid_request"),
        ("GET", "/internal/accounts/nobody", 404, "account_not_found"),
        ("GET", "/internal/accounts?limit=0", 422, "invalid_request"),
        ("GET", "/internal/usage?group_by=colour", 422, "invalid_request"),
        ("GET", "/internal/usage?from=yesterday", 422, "invalid_request"),
    ):
        answer = await ledger.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (status, code), path


async def test_accounts_plans_usage_and_audit_are_there(ledger: httpx.AsyncClient) -> None:
    for user_id in ("ada", "bob", "eve"):
        await open_account(ledger, user_id)
    page = (await ledger.get("/internal/accounts", params={"limit": 2})).json()
    assert [account["user_id"] for account in page["data"]] == ["ada", "bob"]
    page = (await ledger.get("/internal/accounts", params={"cursor": page["next_cursor"]})).json()
    assert [account["user_id"] for account in page["data"]] == ["eve"]
    assert page["next_cursor"] is None
    plans = (await ledger.get("/internal/plans")).json()["data"]
    assert {"plan": "free", "quota_bytes": 10**9, "allowance_credits": 50} in plans
    usage = (
        await ledger.get("/internal/accounts/ada/usage", params={"from": "2026-01-01", "group_by": "model"})
    ).json()
    assert (usage["from"], usage["data"], usage["totals"]["jobs"]) == ("2026-01-01", [], 0)
    assert (await ledger.get("/internal/usage?group_by=month,model")).status_code == 200
    audit = (await ledger.get("/internal/audit", params={"quiet": True})).json()
    assert (audit["clean"], audit["totals"]["issued_credits"]) == (True, -300)
    streamed = (await ledger.get("/internal/audit", params={"stream": True})).text.splitlines()
    assert json.loads(streamed[0])["ok"] is True
    assert json.loads(streamed[-1])["clean"] is True


async def test_it_is_ready_for_money_while_rabbitmq_is_away(ledger: httpx.AsyncClient) -> None:
    assert (await ledger.get("/livez")).status_code == 200
    ready = await ledger.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["parts"]["postgres"] == "ok"
    assert ready.json()["parts"]["rabbitmq"] != "ok"
    assert "pixorly_credits_charged_total" in (await ledger.get("/metrics")).text
