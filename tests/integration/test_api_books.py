"""The operator's books over HTTP: statements, reports, CSV, and the audits of money and of storage."""

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import api_world as api
import pytest
from api_world import ADMIN_KEY, World, open_world

from pixorly.events import JobCreated

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
LINE = {
    "id": "019a0000-0000-7000-8000-000000000001",
    "kind": "charge",
    "amount_credits": -5,
    "balance_credits": 995,
    "job_id": None,
    "grant_id": None,
    "reason": None,
    "created_at": "2026-01-01T00:00:00Z",
}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


async def get(world: World, path: str, **params: Any) -> Any:
    answer = await world.http.get(path, headers=ADMIN, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


# Statements and reports


async def test_a_statement_as_csv_is_the_whole_of_it_and_not_one_page(world: World) -> None:
    pages = [{"data": [LINE], "next_cursor": "7"}, {"data": [LINE | {"kind": "grant"}], "next_cursor": None}]
    world.ledger.answers["/internal/accounts/demo/transactions"] = list(pages) * 2

    own = await world.call("GET", "/v1/transactions", headers={"Accept": "text/csv"})
    operators = await world.http.get("/admin/v1/users/demo/transactions?format=csv", headers=ADMIN)

    for answer in (own, operators):
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert [(row["kind"], row["amount_credits"]) for row in rows] == [("charge", "-5"), ("grant", "-5")]
    assert [asked["cursor"] for _, asked in world.ledger.asked] == [None, "7"] * 2


async def test_a_statement_can_be_of_a_time(world: World) -> None:
    path = "/internal/accounts/demo/transactions"
    world.ledger.answers[path] = [{"data": [LINE], "next_cursor": None}]

    answer = await world.call("GET", "/v1/transactions?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z&limit=7")

    assert answer.json()["data"][0]["balance_credits"] == 995
    expected = {"from": "2026-01-01T00:00:00+00:00", "to": "2026-02-01T00:00:00+00:00", "limit": 7, "cursor": None}
    assert world.ledger.asked == [(path, expected)]


async def test_usage_of_all_is_grouped_as_the_operator_asks(world: World) -> None:
    report = {"data": [{"user_id": "ada", "failures": {"no_image": 1}}], "totals": {}}
    world.ledger.answers["/internal/usage"] = [report, report]

    assert (await get(world, "/admin/v1/usage", group_by="user,month"))["data"] == report["data"]
    sheet = await world.http.get("/admin/v1/usage?group_by=user&format=csv", headers=ADMIN)
    refused = await world.http.get("/admin/v1/usage?group_by=colour", headers=ADMIN)

    assert [asked["group_by"] for _, asked in world.ledger.asked] == ["user,month", "user"]
    assert sheet.text.splitlines() == ["user_id,failures.no_image", "ada,1"]
    assert refused.status_code == 422


async def test_margins_put_the_ledgers_revenue_beside_the_generators_cost(world: World) -> None:
    usage = {"month": "2026-01-01", "model": "m", "jobs": 1, "images_uploaded": 1, "credits_captured": 10}
    cost = {"month": "2026-01-01", "model": "m", "provider": "p", "calls": 1, "unpriced_calls": 0, "cost_usd": "0.04"}
    world.ledger.answers["/internal/usage"] = [{"data": [usage]}] * 2
    world.provider_calls.answers["/internal/costs"] = [{"data": [cost]}] * 2

    found = await get(world, "/admin/v1/margins", to="2026-01-31")
    sheet = await world.http.get("/admin/v1/margins?format=csv", headers=ADMIN)

    (line,) = found["data"]
    assert (line["revenue_usd"], line["cost_usd"], line["margin_usd"]) == ("0.1", "0.04", "0.06")
    assert found["totals"]["margin_share"] == 0.6
    assert world.provider_calls.asked[0] == ("/internal/costs", {"from": "2025-02-01", "to": "2026-01-31"})
    assert sheet.text.splitlines()[0].startswith("month,model,jobs")


async def test_provider_calls_come_in_pages(world: World) -> None:
    call = {
        "job_id": LINE["id"],
        "call_no": 0,
        "attempt": 1,
        "provider": "p",
        "model": "m",
        "started_at": LINE["created_at"],
        "ended_at": None,
        "code": None,
        "late": False,
        "cost_usd": "0.039",
        "generation_id": "gen-1",
    }
    world.provider_calls.answers["/internal/attempts"] = [{"data": [call], "next_cursor": "x/0/1"}]

    found = await get(world, "/admin/v1/provider-calls", limit=1)

    assert (found["data"][0]["cost_usd"], found["next_cursor"]) == ("0.039", "x/0/1")


# Audits


@pytest.mark.parametrize("path", ["usage", "users/demo/usage", "users/demo/transactions", "margins", "provider-calls"])
async def test_a_time_that_ends_before_it_begins_is_refused_everywhere(world: World, path: str) -> None:
    moment = "T00:00:00Z" if path.endswith("transactions") else ""
    span = {"from": f"2026-02-01{moment}", "to": f"2026-01-31{moment}"}

    refused = await world.http.get(f"/admin/v1/{path}", params=span, headers=ADMIN)

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "to")


async def test_an_audit_is_told_step_by_step_or_whole(world: World) -> None:
    steps = [{"name": "balances", "ok": True, "found": []}, {"clean": True, "checks": [], "totals": {}}]
    world.ledger.answers["/internal/audit"] = steps

    whole = await get(world, "/admin/v1/audit", quiet="true")
    told = await world.http.get("/admin/v1/audit?stream=true", headers=ADMIN)

    assert whole["clean"]
    assert [json.loads(line) for line in told.text.splitlines()] == steps
    assert [asked["quiet"] for _, asked in world.ledger.asked] == ["true", "false"]


async def test_an_audit_that_can_not_begin_is_an_error_and_no_beginning(world: World) -> None:
    world.ledger.away = True

    answer = await world.http.get("/admin/v1/audit?stream=true", headers=ADMIN)

    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")


def put(world: World, job: JobCreated, index: int = 0, place: str = "") -> None:
    """Store the objects of an image, 15 bytes, as the uploader does."""
    prefix = f"{place}users/{job.user_id}/{job.job_id}/{index}-{job.image_ids[index]}"
    world.blobs.objects |= {f"{prefix}.png": b"x" * 10, f"{prefix}_256.webp": b"x" * 5}


def count(world: World, user_id: str, image_id: UUID, size_bytes: int = 15) -> None:
    """Let the ledger count an image's storage."""
    world.ledger.stored.setdefault(user_id, {})[image_id] = size_bytes


async def test_storage_that_is_the_same_everywhere_is_clean(world: World) -> None:
    # In the order of keys `demo-2/` comes before `demo/`.
    for user_id in ("demo", "demo-2", "eve"):
        job = await world.created(2, user_id=user_id)
        for index in range(2):
            put(world, job, index, "public/" if index or user_id == "eve" else "")
            count(world, user_id, job.image_ids[index])
            await world.jobs.follow(api.uploaded(job, index))

    found = await get(world, "/admin/v1/audit/storage")

    assert found["clean"]
    assert (found["users"], found["objects"], found["object_bytes"], found["images"]) == (3, 12, 90, 6)


async def test_whatever_is_missing_on_one_side_is_named(world: World) -> None:
    uploaded = [await world.created(1) for _ in range(4)]
    for job in uploaded:
        await world.jobs.follow(api.uploaded(job))
    no_object, not_counted, other_size, fine = uploaded
    for job in (not_counted, other_size, fine):
        put(world, job)
    for job in (no_object, fine):
        count(world, "demo", job.image_ids[0])
    count(world, "demo", other_size.image_ids[0], 14)
    stranger, only_counted = api.some_id(), api.some_id()
    world.blobs.objects |= {f"users/ghost/{api.some_id()}/0-{stranger}.png": b"x", "public/users/ghost/strange": b"x"}
    count(world, "bob", only_counted)

    found = await get(world, "/admin/v1/audit/storage")

    assert not found["clean"]
    assert {(finding["user_id"], finding["id"]): finding["kind"] for finding in found["findings"]} == {
        ("demo", str(no_object.image_ids[0])): "image_without_objects",
        ("demo", str(not_counted.image_ids[0])): "image_without_storage",
        ("demo", str(other_size.image_ids[0])): "bytes_differ",
        ("ghost", str(stranger)): "object_without_image",
        ("ghost", "public/users/ghost/strange"): "unknown_key",
        ("bob", str(only_counted)): "storage_without_image",
    }
    assert sum(found["found"].values()) == 6


async def test_an_image_that_is_moved_may_lie_in_two_places(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.uploaded(job))
    put(world, job)
    count(world, "demo", job.image_ids[0])
    asked = {"visibility": "public"}
    assert (await world.call("PATCH", f"/v1/images/{job.image_ids[0]}", json=asked)).status_code == 200
    put(world, job, place="public/")

    found = await get(world, "/admin/v1/audit/storage")

    assert (found["clean"], found["under_way"]) == (True, 1)


async def test_what_is_under_way_is_not_off(world: World) -> None:
    arriving, leaving = await world.created(2), await world.created(1)
    put(world, arriving)
    count(world, "demo", arriving.image_ids[0])
    await world.jobs.follow(api.uploaded(leaving))
    put(world, leaving)
    count(world, "demo", leaving.image_ids[0])
    assert (await world.call("DELETE", f"/v1/images/{leaving.image_ids[0]}")).status_code == 204

    found = await get(world, "/admin/v1/audit/storage")

    assert (found["clean"], found["under_way"]) == (True, 2)
