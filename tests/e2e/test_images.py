"""What becomes of stored images, through HTTP and in the bucket, on all services and real servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from invariants import storage_settings
from stack import Client, Stack

from pixorly.blobs import S3Blobs, s3_client
from pixorly_api.creation import estimated_bytes
from pixorly_api.lifecycle import ImageParams

pytestmark = pytest.mark.timeout(300)


async def heads(stack: Stack, user_id: str) -> dict[str, dict[str, Any]]:
    """What the store says of every object of a user's, private and public."""
    settings = storage_settings(stack)
    blobs = S3Blobs(settings)
    keys = [blob.key for place in ("", "public/") async for blob in blobs.list(f"{place}users/{user_id}/")]
    async with s3_client(settings) as client:
        return {key: dict(await client.head_object(Bucket=settings.aws_s3_bucket, Key=key)) for key in keys}


async def settled_image(client: Client, image_id: str) -> dict[str, Any]:
    """An image that lies where it belongs."""
    async with asyncio.timeout(60):
        while True:
            image: dict[str, Any] = await client.ok("GET", f"/v1/images/{image_id}")
            if not image["moving"]:
                return image
            await asyncio.sleep(0.1)


async def used_bytes(client: Client) -> int:
    return int((await client.ok("GET", "/v1/account"))["storage"]["used_bytes"])


async def test_every_object_is_encrypted_typed_and_its_users_and_is_gone_when_it_is_deleted(stack: Stack) -> None:
    user_id, key = await stack.user()
    async with stack.client(key) as client, httpx.AsyncClient(trust_env=False) as anyone:
        wanted = [
            {"output_format": "png"},
            {"output_format": "jpeg"},
            {"output_format": "webp", "visibility": "public"},
        ]
        done = await client.all_settled([await client.create("a fox", **each) for each in wanted])
        images = [image for job in done for image in job["images"]]
        found = await heads(stack, user_id)

        assert len(images) == 3
        assert len(found) == 9
        types = {image["id"]: image["content_type"] for image in images}
        for object_key, head in found.items():
            image_id = next(each for each in types if each in object_key)
            expected = "image/webp" if "_" in object_key.rsplit("/", 1)[1] else types[image_id]
            reader = "public" if image_id == images[2]["id"] else "private"
            assert object_key.startswith("public/users/" if reader == "public" else "users/")
            assert (head["ServerSideEncryption"], head["ContentType"]) == ("AES256", expected)
            assert head["CacheControl"] == f"{reader}, max-age=31536000, immutable"
        assert await used_bytes(client) == sum(head["ContentLength"] for head in found.values())

        ids = [image["id"] for image in images]
        assert (await client.ok("POST", "/v1/images/delete", {"ids": ids}))["deleted"] == ids
        async with asyncio.timeout(60):
            while await used_bytes(client) or await heads(stack, user_id):
                await asyncio.sleep(0.2)
        assert (await anyone.get(images[0]["url"])).status_code == httpx.codes.NOT_FOUND
    assert await stack.audit() == []


async def test_an_image_is_moved_to_the_public_and_back_and_its_links_follow(stack: Stack) -> None:
    user_id, key = await stack.user()
    async with stack.client(key) as client, httpx.AsyncClient(trust_env=False) as anyone:
        job = await client.settled((await client.create("a fox"))["id"])
        image_id, body = job["images"][0]["id"], (await anyone.get(job["images"][0]["url"])).content
        before = await used_bytes(client)
        places = []
        for visibility in ("public", "private", "public"):
            await client.ok("PATCH", f"/v1/images/{image_id}", {"visibility": visibility})
            image = await settled_image(client, image_id)
            assert image["visibility"] == visibility
            for url in (image["url"], *image["thumbnails"].values()):
                assert (await anyone.get(url)).status_code == httpx.codes.OK
            assert (await anyone.get(image["url"])).content == body
            async with asyncio.timeout(30):
                while len(found := await heads(stack, user_id)) != 3:
                    await asyncio.sleep(0.1)
            places.append(set(found))
            assert {each.startswith("public/") for each in found} == {visibility == "public"}

        assert not places[0] & places[2], "a public address is never used twice"
        assert await used_bytes(client) == before
    audited = await asyncio.to_thread(stack.run, "audit", "--storage")
    assert audited.returncode == 0, audited.stdout + audited.stderr


async def test_a_link_lasts_as_long_as_is_asked_and_a_download_has_a_name(stack: Stack) -> None:
    _, key = await stack.user()
    async with stack.client(key) as client, httpx.AsyncClient(trust_env=False) as anyone:
        job = await client.settled((await client.create("a fox"))["id"])
        path = f"/v1/images/{job['images'][0]['id']}"
        now = datetime.now(UTC)
        image = await client.ok("GET", path, params={"download": 1, "expires_in": 60})
        saved = await anyone.get(image["url"])

        ends = datetime.fromisoformat(image["url_expires_at"])
        assert timedelta(seconds=55) < ends - now < timedelta(seconds=75)
        name = f"pixorly-{job['id'][-8:]}-0.png"
        assert saved.headers["content-disposition"] == f'attachment; filename="{name}"'
        assert (await anyone.get(image["url"].replace("Expires=60", "Expires=600"))).status_code == 403
        for expires_in in (59, 604_801):
            answer = await client.http.get(path, params={"expires_in": expires_in})
            assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY


async def test_of_twenty_jobs_at_once_into_room_for_ten_ten_are_refused_and_cost_nothing(stack: Stack) -> None:
    user_id, key = await stack.user(amount_credits=1000, plan="free")
    room = 10 * estimated_bytes(ImageParams(width=64, height=64, output_format="png"))
    async with room_taken(stack, user_id, 10**9 - room), stack.client(key) as client:
        body = {"model": "sandbox/aurora", "prompt": "a fox", "width": 64, "height": 64}
        answers = await asyncio.gather(*(client.http.post("/v1/generations", json=body) for _ in range(20)))

        taken = [answer.json() for answer in answers if answer.status_code == httpx.codes.ACCEPTED]
        refused = [answer.json()["code"] for answer in answers if answer.status_code == httpx.codes.FORBIDDEN]
        assert (len(taken), refused) == (10, ["storage_quota_exceeded"] * 10)
        done = await client.all_settled(taken)
        assert {job["status"] for job in done} == {"completed"}
        assert await client.credits() == 1000 - 10 * 5
        # What they really take is less than was kept for them, so there is room again: nobody is stuck.
        again = await client.settled((await client.create("another"))["id"])
        assert again["status"] == "completed"
    assert await stack.audit() == []


@asynccontextmanager
async def room_taken(stack: Stack, user_id: str, size_bytes: int) -> AsyncIterator[None]:
    """Keep room for an image of a charge that no job stands behind, and give it back in the end."""
    headers = {"Authorization": f"Bearer {stack.dev['service_token']}"}
    image = {"image_id": str(uuid4()), "estimate_bytes": size_bytes}
    job_id = str(uuid4())
    body = {"job_id": job_id, "user_id": user_id, "amount_credits": 0, "images": [image]}
    url = stack.dev["service_urls"]["ledger"]
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as ledger:
        (await ledger.post("/internal/charges", json=body)).raise_for_status()
        yield
        (await ledger.post(f"/internal/charges/{job_id}/void", json={"user_id": user_id})).raise_for_status()
