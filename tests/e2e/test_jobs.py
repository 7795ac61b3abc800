"""The main job through HTTP, on all services and real servers, as a client sees it."""

import asyncio
import hashlib
import io
from uuid import uuid4

import httpx
import pytest
from PIL import Image
from stack import Stack

pytestmark = pytest.mark.timeout(300)


async def test_a_prompt_becomes_stored_images_with_working_links(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=100)
    async with stack.client(key) as client, httpx.AsyncClient(trust_env=False) as anyone:
        job = await client.create("a lighthouse in a storm", n=2, size=256)
        assert (job["status"], job["credits_used"], job["credits_remaining"]) == ("pending", 10, 90)
        job = await client.settled(job["id"])

        assert job["status"] == "completed"
        assert job["failures"] == []
        assert [image["index"] for image in job["images"]] == [0, 1]
        for image in job["images"]:
            original = (await anyone.get(image["url"])).raise_for_status()
            assert original.headers["content-type"] == image["content_type"] == "image/png"
            assert len(original.content) == image["bytes"]
            assert hashlib.sha256(original.content).hexdigest() == image["sha256"]
            with Image.open(io.BytesIO(original.content)) as picture:
                picture.load()
                assert picture.size == (image["width"], image["height"]) == (256, 256)
            thumbnail = (await anyone.get(image["thumbnails"]["256"])).raise_for_status()
            with Image.open(io.BytesIO(thumbnail.content)) as picture:
                assert picture.format == "WEBP"
        assert await client.credits() == 90


async def test_twenty_jobs_at_once_all_complete_and_the_balance_is_exact(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=1000)
    async with stack.client(key) as client:
        jobs = await asyncio.gather(*(client.create(f"number {number}", n=1 + number % 3) for number in range(20)))
        done = await client.all_settled(jobs)

        assert {job["status"] for job in done} == {"completed"}
        assert await client.credits() == 1000 - sum(5 * job["n"] for job in done)
    assert await stack.audit() == []


async def test_a_job_that_costs_more_than_the_balance_creates_nothing(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=9)
    async with stack.client(key) as client:
        body = {"model": "sandbox/aurora", "prompt": "a fox", "n": 2}
        answer = await client.http.post("/v1/generations", json=body)

        assert answer.status_code == httpx.codes.PAYMENT_REQUIRED
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["code"], problem["needed_credits"], problem["available_credits"]) == (
            "insufficient_credits",
            10,
            9,
        )
        assert (await client.ok("GET", "/v1/generations"))["data"] == []
        assert await client.credits() == 9


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "sandbox/aurora", "prompt": "x", "n": 0}, {422}),
        ({"model": "sandbox/aurora", "prompt": "x", "n": 11}, {422}),
        ({"model": "no/such", "prompt": "x"}, {422}),
        ({"model": "sandbox/aurora", "prompt": ""}, {422}),
        ({"model": "sandbox/aurora", "prompt": "x" * 100_000}, {413, 422}),
        ({"model": "sandbox/aurora", "prompt": "nul \x00 byte"}, {422}),
        ({"model": "sandbox/aurora", "prompt": "x", "width": 63, "height": 64}, {422}),
        ({"model": "sandbox/aurora", "prompt": "x", "width": 4097, "height": 64}, {422}),
        ({"model": "sandbox/aurora", "prompt": "x", "surprise": 1}, {422}),
        ({"prompt": "x"}, {422}),
        ("{not json", {400}),
        ("[]", {422}),
    ],
)
async def test_bad_input_gets_a_clear_problem_and_costs_nothing(stack: Stack, body: object, status: set[int]) -> None:
    async with stack.client() as client:
        before = await client.credits()
        if isinstance(body, str):
            headers = {"Content-Type": "application/json"}
            answer = await client.http.post("/v1/generations", content=body, headers=headers)
        else:
            answer = await client.http.post("/v1/generations", json=body)

        assert answer.status_code in status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"]
        assert answer.json()["code"]
        assert await client.credits() == before


async def test_what_is_not_the_callers_own_is_not_there(stack: Stack) -> None:
    _, mine = await stack.user()
    _, theirs = await stack.user()
    async with stack.client(mine) as me, stack.client(theirs) as other:
        job = await me.settled((await me.create())["id"])
        image_id = job["images"][0]["id"]
        for method, path in (
            ("GET", f"/v1/generations/{job['id']}"),
            ("POST", f"/v1/generations/{job['id']}/cancel"),
            ("GET", f"/v1/images/{image_id}"),
            ("DELETE", f"/v1/images/{image_id}"),
            ("GET", f"/v1/generations/{uuid4()}"),
        ):
            answer = await other.http.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
        assert (await other.ok("GET", "/v1/generations"))["data"] == []
        assert (await me.ok("GET", f"/v1/images/{image_id}"))["id"] == image_id


async def test_without_a_good_key_there_is_no_answer(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.dev["api_url"], trust_env=False) as anyone:
        for headers in ({}, {"Authorization": "Bearer px_live_wrong"}, {"Authorization": "Basic eDp5"}):
            answer = await anyone.get("/v1/account", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_the_same_idempotency_key_gives_the_same_job_once(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=100)
    async with stack.client(key) as client:
        body = {"model": "sandbox/aurora", "prompt": "a fox", "width": 64, "height": 64}
        headers = {"Idempotency-Key": str(uuid4())}
        first = await client.ok("POST", "/v1/generations", body, headers=headers)
        again = await client.http.post("/v1/generations", json=body, headers=headers)
        assert again.json()["id"] == first["id"]
        assert again.headers["idempotent-replayed"] == "true"
        other = await client.http.post("/v1/generations", json={**body, "prompt": "a hare"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        await client.settled(first["id"])
        assert await client.credits() == 95


async def test_a_deleted_image_is_gone_and_its_storage_released(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=100)
    async with stack.client(key) as client, httpx.AsyncClient(trust_env=False) as anyone:
        job = await client.settled((await client.create(size=128))["id"])
        image = job["images"][0]
        assert (await client.ok("GET", "/v1/account"))["storage"]["used_bytes"] >= image["bytes"]
        for _ in range(2):
            assert (await client.http.delete(f"/v1/images/{image['id']}")).status_code == httpx.codes.NO_CONTENT
        async with asyncio.timeout(30):
            while (await client.ok("GET", "/v1/account"))["storage"]["used_bytes"] != 0:
                await asyncio.sleep(0.1)
        assert (await anyone.get(image["url"])).status_code == httpx.codes.NOT_FOUND
