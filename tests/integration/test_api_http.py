"""The public HTTP on a real database: who may what, what is refused, lists, waiting and streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import api_world as api
import httpx
import pytest
from api_world import ADMIN_KEY, World, open_world
from starlette.routing import Route

from pixorly.blobs import S3Blobs, s3_client
from pixorly.settings import StorageSettings
from pixorly_api.links import Presigned
from pixorly_api.routes import account, admin, books, dead, generations, images, openai, quotes, streams

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = dict(answer.json())
    assert {"type", "title", "status", "detail", "code", "request_id"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    assert answer.headers["x-request-id"] == body["request_id"]
    return body


# What is refused, and costs nothing.


@pytest.mark.parametrize(
    ("given", "status", "code", "field"),
    [
        ({"n": 0}, 422, "invalid_request", "n"),
        ({"n": 11}, 422, "invalid_request", "n"),
        ({"model": "no/such"}, 422, "unknown_model", "model"),
        ({"fallback_models": ["sandbox/mosaik"]}, 422, "unknown_model", "fallback_models"),
        ({"fallback_models": ["sandbox/aurora"]}, 422, "invalid_request", "fallback_models"),
        ({"fallback_models": ["sandbox/mosaic"] * 2}, 422, "invalid_request", "fallback_models"),
        ({"fallback_models": ["google/gemini-3.1-flash-image"]}, 422, "invalid_request", "fallback_models"),
        ({"fallback_models": ["sandbox/mosaic"], "quality": "low"}, 422, "invalid_request", "fallback_models"),
        ({"fallback_models": ["a", "b", "c", "d"]}, 422, "invalid_request", "fallback_models"),
        ({"prompt": ""}, 422, "invalid_request", "prompt"),
        ({"prompt": "x" * 4001}, 422, "invalid_request", "prompt"),
        ({"prompt": "x" * 100_000}, 413, "body_too_large", None),
        ({"width": 63, "height": 64}, 422, "invalid_request", "width"),
        ({"width": 64}, 422, "invalid_request", "height"),
        ({"quality": "best"}, 422, "invalid_request", "quality"),
        ({"deadline_s": 1801}, 422, "invalid_request", "deadline_s"),
        ({"surprise": 1}, 422, "invalid_request", "surprise"),
        ({"prompt": "a\0b"}, 422, "invalid_request", "prompt"),
    ],
)
async def test_what_can_not_be_made_is_refused_and_costs_nothing(
    world: World, given: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    body = is_problem(await world.create(**given), status, code)
    if field:
        assert [entry["field"] for entry in body["errors"]] == [field]
    assert world.ledger.calls == []
    row = await world.sql("select count(*) as n from jobs")
    assert row["n"] == 0


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed_body"),
        (b"\xff\xfe", 400, "malformed_body"),
        (b"[" * 20_000, 400, "malformed_body"),
        (rb'{"model": "sandbox/aurora", "prompt": "\ud800"}', 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b"", 422, "invalid_request"),
    ],
)
async def test_a_bad_body_is_refused(world: World, content: bytes, status: int, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    is_problem(await world.call("POST", "/v1/generations", headers=headers, content=content), status, code)


async def test_a_body_without_an_end_is_cut_off(world: World) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 1000

    is_problem(await world.call("POST", "/v1/generations", content=endless()), 413, "body_too_large")


async def test_a_boundary_prompt_is_taken_as_it_is(world: World) -> None:
    prompt = "🌌" * 4000
    answer = await world.create(prompt=prompt)
    assert answer.status_code == 202
    assert (await world.get(answer.json()["id"]))["prompt"] == prompt


@pytest.mark.parametrize("key", [b"", b'""', b'"', b'"x', b"x" * 256, b"a b", "ü".encode()])
async def test_an_odd_idempotency_key_is_refused(world: World, key: bytes) -> None:
    answer = await world.create(headers={"Idempotency-Key": key})  # type: ignore[dict-item]
    assert is_problem(answer, 422, "invalid_request")["errors"][0]["field"].lower() == "idempotency-key"


# Who may what.


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer px_live_wrong",
        "Bearer  x",
        "Bearer " + "x" * 5000,
        "Bearer \x7f",
    ],
)
async def test_without_a_valid_key_there_is_nothing(world: World, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization is not None else {}
    answer = await world.http.get("/v1/account", headers=headers)
    is_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_in_another_case_or_with_a_space_is_none(world: World) -> None:
    key = await world.key()
    for bad in (key.upper(), key.swapcase(), f"{key} ", key[:-1]):
        answer = await world.http.get("/v1/account", headers={"Authorization": f"Bearer {bad}"})
        is_problem(answer, 401, "unauthorized")


async def test_a_key_does_what_its_scopes_say(world: World) -> None:
    for scopes, create, read, operate in [
        (("read",), 403, 200, 403),
        (("generate",), 202, 403, 403),
        (("generate", "read"), 202, 200, 403),
        (("admin",), 403, 403, 200),
    ]:
        headers = {"Authorization": f"Bearer {await world.key('demo', scopes=scopes)}"}
        body = {"model": "sandbox/aurora", "prompt": "x"}
        assert (await world.http.post("/v1/generations", headers=headers, json=body)).status_code == create
        assert (await world.http.get("/v1/generations", headers=headers)).status_code == read
        assert (await world.http.get("/admin/v1/users/demo", headers=headers)).status_code == operate


async def test_the_admin_key_is_no_users_key(world: World) -> None:
    is_problem(await world.http.get("/v1/account", headers=ADMIN), 403, "forbidden")


async def test_every_route_asks_for_a_key(world: World) -> None:
    asked = 0
    for path, operations in world.app.openapi()["paths"].items():
        for method in operations:
            answer = await world.http.request(method, path.replace("{", "").replace("}", ""), json={})
            assert answer.status_code in {401, 422}, (method, path)
            asked += answer.status_code == 401
    assert asked >= 20
    modules = (generations, quotes, streams, images, account, admin, books, dead, openai)
    plain = {
        route.path.replace(":path", "")
        for module in modules
        for route in module.router.routes
        if isinstance(route, Route)
    }
    assert plain == set(world.app.openapi()["paths"])


@pytest.mark.parametrize("path", ["x", "0", "%00", "..%2f..", "48c55670-aa42-47d0-a8df-5b71385cae06"])
async def test_what_is_no_id_is_not_there(world: World, path: str) -> None:
    assert (await world.call("GET", f"/v1/generations/{path}")).status_code == 404
    assert (await world.call("GET", f"/v1/images/{path}")).status_code == 404


async def test_an_address_that_is_none_and_a_method_that_is_wrong_are_problems_too(world: World) -> None:
    is_problem(await world.call("GET", "/v1/nothing"), 404, "not_found")
    is_problem(await world.call("GET", "/v1/generations/"), 404, "not_found")
    answer = await world.call("PUT", "/v1/generations")
    is_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"
    is_problem(await world.call("TRACE", "/v1/account"), 405, "method_not_allowed")


async def test_a_request_id_is_taken_over_if_it_is_harmless(world: World) -> None:
    mine = await world.call("GET", "/v1/account", headers={"X-Request-Id": "my-id.1"})
    assert mine.headers["x-request-id"] == "my-id.1"
    evil = await world.call("GET", "/v1/account", headers={"X-Request-Id": "a b"})
    assert evil.headers["x-request-id"] not in {"a b", ""}


async def test_a_bug_is_a_problem_that_tells_nothing(world: World) -> None:
    world.ledger.bug = ZeroDivisionError("secret")
    answer = await world.call("GET", "/v1/account")
    is_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert "Zero" not in answer.text


# Lists.


async def test_pages_do_not_shift_when_new_jobs_come(world: World) -> None:
    old = [str((await world.created(1)).job_id) for _ in range(5)]
    first = (await world.call("GET", "/v1/generations", params={"limit": 2})).json()
    await world.created(1)
    second = (await world.call("GET", "/v1/generations", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    third = (await world.call("GET", "/v1/generations", params={"limit": 2, "cursor": second["next_cursor"]})).json()
    seen = [job["id"] for page in (first, second, third) for job in page["data"]]
    assert seen == old[::-1]
    assert third["next_cursor"] is None


async def test_lists_can_be_narrowed(world: World) -> None:
    done = await world.created(1)
    await world.jobs.follow(api.uploaded(done))
    other = await world.created(1, model="sandbox/mosaic")

    async def ids(**params: str) -> list[str]:
        return [job["id"] for job in (await world.call("GET", "/v1/generations", params=params)).json()["data"]]

    assert await ids(status="completed") == [str(done.job_id)]
    assert await ids(model="sandbox/mosaic") == [str(other.job_id)]
    assert await ids(created_after=other.occurred_at.isoformat()) == []
    assert await ids(created_before=other.occurred_at.isoformat()) == [str(done.job_id)]
    assert len(await ids(created_after="2020-01-01T00:00:00+00:00")) == 2


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=",
        "cursor=x",
        "cursor=%00",
        "cursor=" + "A" * 22 + "==",
        "cursor=" + "A" * 300,
        "status=odd",
        "model=%00",
        "created_after=yesterday",
        "created_after=0001-01-01T00:00:00%2B14:00",
        "created_before=9999-12-31T23:59:59-14:00",
        "created_after=2026-01-01T00:00:00",
        "created_after=1767225600",
    ],
)
async def test_a_bad_query_is_refused(world: World, query: str) -> None:
    is_problem(await world.call("GET", f"/v1/generations?{query}"), 422, "invalid_request")


async def test_images_are_listed_newest_first(world: World) -> None:
    job = await world.created(3)
    for index in range(3):
        await world.jobs.follow(api.uploaded(job, index))
    first = (await world.call("GET", "/v1/images", params={"limit": 2})).json()
    second = (await world.call("GET", "/v1/images", params={"cursor": first["next_cursor"]})).json()
    assert [image["index"] for image in [*first["data"], *second["data"]]] == [2, 1, 0]
    one = (await world.call("GET", f"/v1/images/{job.image_ids[1]}")).json()
    assert (one["generation_id"], one["index"], one["model"]) == (str(job.job_id), 1, "sandbox/aurora")


# Waiting and watching.


async def finish_first(world: World) -> None:
    """Wait for a job and let it be done."""
    while not world.bus.events:
        await asyncio.sleep(0.01)
    (job,) = world.bus.take()
    await world.jobs.follow(api.uploaded(job))


async def test_who_waits_gets_the_settled_job(world: World) -> None:
    await world.headers()
    answer, _ = await asyncio.gather(world.create(headers={"Prefer": "wait=30"}), finish_first(world))
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.json()["credits_remaining"] == 995
    assert answer.json()["images"][0]["url"]


async def test_who_has_waited_long_enough_gets_the_job_as_it_is(world: World) -> None:
    answer = await world.create(headers={"Prefer": "respond-async, wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert answer.headers["location"].endswith(answer.json()["id"])


async def test_a_stream_tells_what_changes_and_ends_with_the_job(world: World) -> None:
    job = await world.created(1)

    async def work() -> None:
        for event in (api.started(job), api.generated(job), api.uploaded(job)):
            await asyncio.sleep(0.1)
            await world.jobs.follow(event)

    answer, _ = await asyncio.gather(world.call("GET", f"/v1/generations/{job.job_id}/events"), work())
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [dict(line.split(": ", 1) for line in block.split("\n")) for block in answer.text.strip().split("\n\n")]
    assert [event["event"] for event in told] == ["snapshot", "update", "update", "settled"]
    assert [json.loads(event["data"])["status"] for event in told] == [
        "pending",
        "processing",
        "uploading",
        "completed",
    ]
    versions = [int(event["id"]) for event in told]
    assert versions == sorted(set(versions))
    late = await world.call("GET", f"/v1/generations/{job.job_id}/events", headers={"Last-Event-ID": "1"})
    assert "event: settled" in late.text


async def test_a_quiet_stream_is_kept_alive(database_url: str) -> None:
    async with open_world(database_url, stream_keepalive_s=0.05) as world:
        job = await world.created(1)

        async def work() -> None:
            await asyncio.sleep(0.3)
            await world.jobs.follow(api.uploaded(job))

        answer, _ = await asyncio.gather(world.call("GET", f"/v1/generations/{job.job_id}/events"), work())
        assert ": still here" in answer.text
        assert "event: settled" in answer.text


# The account, and the operator.


async def test_the_account_and_the_tables_can_be_read(world: World) -> None:
    assert (await world.call("GET", "/v1/account")).json()["credits_remaining"] == 1000
    models = (await world.call("GET", "/v1/models")).json()["data"]
    assert {"sandbox/aurora", "sandbox/mosaic"} <= {model["id"] for model in models}
    aurora = next(model for model in models if model["id"] == "sandbox/aurora")
    assert aurora["quality_credits"] == {"low": 3, "medium": 5, "high": 8}
    assert (aurora["max_n"], aurora["seed"], aurora["transparent"]) == (10, True, True)
    outcomes = {row["code"]: row for row in (await world.call("GET", "/v1/outcomes")).json()["data"]}
    assert outcomes["content_rejected"]["refunded"] is False
    assert outcomes["provider_timeout"]["retries"] == 3


async def test_the_operator_opens_accounts_gives_credits_and_makes_keys(world: World) -> None:
    opened = await world.http.put("/admin/v1/users/new@x.org", headers=ADMIN, json={"plan": "free"})
    assert opened.json()["user_id"] == "new@x.org"
    grant = {"amount_credits": 50, "reason": "welcome", "grant_id": "g1"}
    given = await world.http.post("/admin/v1/users/new@x.org/grants", headers=ADMIN, json=grant)
    assert given.json()["balance_credits"] == 50
    made = await world.http.post("/admin/v1/users/new@x.org/keys", headers=ADMIN, json={"name": "laptop"})
    assert made.status_code == 201
    secret = made.json()["key"]
    assert secret.startswith(made.json()["prefix"])
    mine = {"Authorization": f"Bearer {secret}"}
    assert (await world.http.get("/v1/account", headers=mine)).json()["credits_remaining"] == 50
    listed = (await world.http.get("/admin/v1/users/new@x.org/keys", headers=ADMIN)).json()["data"]
    assert "key" not in listed[0]
    assert secret not in str(listed)
    assert listed[0]["last_used_at"]
    path = f"/admin/v1/users/new@x.org/keys/{made.json()['id']}"
    assert [(await world.http.delete(path, headers=ADMIN)).status_code for _ in range(2)] == [204, 204]
    is_problem(await world.http.get("/v1/account", headers=mine), 401, "unauthorized")


async def test_an_expired_key_opens_nothing(world: World) -> None:
    world.ledger.balances["demo"] = 1
    body = {"expires_at": "2020-01-01T00:00:00Z"}
    made = await world.http.post("/admin/v1/users/demo/keys", headers=ADMIN, json=body)
    headers = {"Authorization": f"Bearer {made.json()['key']}"}
    is_problem(await world.http.get("/v1/account", headers=headers), 401, "unauthorized")


async def test_only_a_hash_of_a_key_is_stored(world: World) -> None:
    key = await world.key()
    row = await world.sql("select api_keys::text as row from api_keys")
    assert key not in row["row"]


@pytest.mark.parametrize("user_id", ["a b", "a%2Fb", "x" * 65, "%00", "ü", "a\\b", "..%2f", "%2e", "%2e%2e", ".a"])
async def test_a_user_id_that_could_not_be_in_a_key_is_refused(world: World, user_id: str) -> None:
    answer = await world.http.put(f"/admin/v1/users/{user_id}", headers=ADMIN, json={})
    assert answer.status_code in {404, 422}
    assert world.ledger.balances == {}


async def test_no_key_for_a_user_that_there_is_not(world: World) -> None:
    answer = await world.http.post("/admin/v1/users/nobody/keys", headers=ADMIN, json={})
    is_problem(answer, 404, "account_not_found")


async def test_postgres_away_is_a_503_that_says_when_to_come_back(world: World) -> None:
    await world.headers()
    await world.database.close()
    answer = await world.create()
    is_problem(answer, 503, "service_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


# Descriptions.


async def test_openapi_describes_every_operation_and_its_errors(world: World) -> None:
    schema = (await world.http.get("/openapi.json")).json()
    ids = set()
    for operations in schema["paths"].values():
        for operation in operations.values():
            ids.add(operation["operationId"])
            assert operation["summary"]
            statuses = set(operation["responses"])
            assert {"401", "403", "500", "503"} <= statuses
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert response["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")
    assert {"createGeneration", "getGeneration", "listGenerations", "cancelGeneration", "deleteImage"} <= ids
    create = schema["paths"]["/v1/generations"]["post"]["responses"]
    assert {"200", "202", "400", "402", "404", "409", "413", "422", "429"} <= set(create)


async def test_presigned_links_open_what_lies_in_the_bucket(s3_settings: StorageSettings) -> None:
    async with s3_client(s3_settings) as client:
        await client.put_object(Bucket=s3_settings.aws_s3_bucket, Key="users/a@b/1.png", Body=b"bytes")
        (link,) = await Presigned(S3Blobs(s3_settings), client, s3_settings.aws_s3_bucket, ttl_s=60).of(
            ["users/a@b/1.png"]
        )
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(link.url)).content == b"bytes"
        forged = await http.get(link.url.replace("1.png", "2.png"))
        assert forged.status_code == 403
    assert link.expires_at is not None


async def test_only_models_of_providers_that_there_are_keys_for_are_on_offer(database_url: str) -> None:
    async with open_world(database_url, providers=("sandbox",)) as world:
        listed = (await world.call("GET", "/v1/models")).json()["data"]
        assert {model["id"].partition("/")[0] for model in listed} == {"sandbox"}
        refused = await world.create(model="google/gemini-3.1-flash-image")
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_model")
        assert "not offered here" in refused.json()["detail"]
        assert await world.published() == []
