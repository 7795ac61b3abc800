"""Who may do what in the object store of docker-compose.yml, by the keys of deploy/secrets.sh, on a real SeaweedFS."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sources import ROOT

from pixorly.blobs import S3Blobs, s3_client
from pixorly.bucket import ensure_bucket
from pixorly.errors import OutageError, StorageUnavailable
from pixorly.settings import StorageSettings
from pixorly_api.links import Presigned
from pixorly_stack.keeper import Keeper
from pixorly_stack.ports import Ports
from pixorly_stack.s3 import ObjectStore
from pixorly_stack.servers import START_WITHIN_S

PLACES = ("staging", "users", "public")
MAY_READ = {"api": {"users", "public"}, "generator": set[str](), "uploader": {"staging", "users", "public"}}
MAY_WRITE = {"api": set[str](), "generator": {"staging"}, "uploader": {"users", "public"}}


@dataclass
class Compose:
    """The store of a compose installation.

    Attributes:
        url: Where it is.
        file: Who may do what in it, by which keys.
        pid: Its process.
    """

    url: str | None
    file: Path
    pid: int

    @property
    def identities(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.file.read_text())["identities"]
        return found

    def settings(self, name: str) -> StorageSettings:
        """The store as one of its users reaches it, with the newest of their keys."""
        (key,) = [one["credentials"][-1] for one in self.identities if one["name"] == name]
        return StorageSettings(
            s3_endpoint_url=self.url,
            aws_access_key_id=SecretStr(key["accessKey"]),
            aws_secret_access_key=SecretStr(key["secretKey"]),
        )

    def give_keys(self, name: str, keys: list[dict[str, str]]) -> None:
        """Let a user have these keys, as the runbook says."""
        changed = [{**one, "credentials": keys} if one["name"] == name else one for one in self.identities]
        self.file.write_text(json.dumps({"identities": changed}))
        os.kill(self.pid, signal.SIGHUP)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    folder = tmp_path_factory.mktemp("compose")
    script = folder / "secrets.sh"
    script.write_text((ROOT / "deploy/secrets.sh").read_text())
    subprocess.run(["sh", script], check=True, capture_output=True, env={"PATH": os.environ["PATH"]})  # noqa: S607
    identities = (folder / "secrets/s3.json").read_text()
    store = ObjectStore(folder / "s3", Ports(folder / "ports.json"), "unused", "unused")

    async def begin(stack: AsyncExitStack) -> int:
        unit = await store.prepare()
        (folder / "s3/keys.json").write_text(identities)
        # Nobody wants the data, so nobody waits for a good end.
        keeper = Keeper(replace(unit, stop_signal=signal.SIGKILL), folder, lambda _: None)
        stack.push_async_callback(keeper.stop)
        await keeper.start(START_WITHIN_S)
        assert keeper.identity
        return keeper.identity.pid

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield Compose(store.access.endpoint_url, folder / "s3/keys.json", runner.run(begin(stack)))
        runner.run(stack.aclose())


@pytest.fixture
def stores(compose: Compose) -> dict[str, StorageSettings]:
    """The store as each of its users reaches it."""
    return {one["name"]: compose.settings(one["name"]) for one in compose.identities}


async def test_each_reads_and_writes_where_its_work_is_and_nowhere_else(stores: dict[str, StorageSettings]) -> None:
    await ensure_bucket(stores["admin"])
    for place in PLACES:
        await S3Blobs(stores["admin"]).put(f"{place}/a", b"there", content_type="image/png")

    for service, places in MAY_READ.items():
        blobs = S3Blobs(stores[service])
        await blobs.probe()
        read, written = set(), set()
        for place in PLACES:
            try:
                await blobs.get(f"{place}/a")
                read.add(place)
            except (StorageUnavailable, OutageError):
                pass
            try:
                await blobs.put(f"{place}/b", b"new", content_type="image/png")
                written.add(place)
            except (StorageUnavailable, OutageError):
                pass
        assert (read, written) == (places, MAY_WRITE[service]), service


async def test_a_link_of_the_apis_leads_where_clients_reach_the_store(stores: dict[str, StorageSettings]) -> None:
    await ensure_bucket(stores["admin"])
    await S3Blobs(stores["admin"]).put("users/c", b"bytes", content_type="image/png")
    inside = stores["api"].model_copy(update={"s3_endpoint_url": "http://s3:8333"})

    async with s3_client(inside, stores["api"].s3_endpoint_url) as client, httpx.AsyncClient(trust_env=False) as anyone:
        (link,) = await Presigned(S3Blobs(stores["api"]), client, inside.aws_s3_bucket).of(["users/c"])
        assert (await anyone.get(link.url)).content == b"bytes"


async def test_a_users_key_is_rotated_while_the_store_runs_and_its_links_end_with_it(compose: Compose) -> None:
    await ensure_bucket(compose.settings("admin"))
    await S3Blobs(compose.settings("admin")).put("users/d", b"bytes", content_type="image/png")
    (identity,) = [one for one in compose.identities if one["name"] == "api"]
    old, new = identity["credentials"][0], {"accessKey": "pixorly-api-b", "secretKey": "new" * 8}
    before = compose.settings("api")
    async with s3_client(before) as client, httpx.AsyncClient(trust_env=False) as anyone:
        (link,) = await Presigned(S3Blobs(before), client, before.aws_s3_bucket).of(["users/d"])

        compose.give_keys("api", [old, new])
        after = compose.settings("api")
        await until(lambda: works(after))
        assert await works(before)
        assert (await anyone.get(link.url)).content == b"bytes"

        compose.give_keys("api", [new])
        await until(lambda: fails(before))
        assert await works(after)
        assert (await anyone.get(link.url)).status_code == httpx.codes.FORBIDDEN


async def works(settings: StorageSettings) -> bool:
    try:
        return await S3Blobs(settings).get("users/d") == b"bytes"
    except (StorageUnavailable, OutageError):
        return False


async def fails(settings: StorageSettings) -> bool:
    return not await works(settings)


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await met():
            await asyncio.sleep(0.1)
