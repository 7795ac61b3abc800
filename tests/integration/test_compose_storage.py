"""Who may do what in the object store of docker-compose.yml, by the keys of deploy/secrets.sh, on a real SeaweedFS."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

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


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, StorageSettings]]:
    """The store of a compose installation, as each of its users reaches it."""
    folder = tmp_path_factory.mktemp("compose")
    script = folder / "secrets.sh"
    script.write_text((ROOT / "deploy/secrets.sh").read_text())
    subprocess.run(["sh", script], check=True, capture_output=True, env={"PATH": os.environ["PATH"]})  # noqa: S607
    identities = (folder / "secrets/s3.json").read_text()
    keys = {one["name"]: one["credentials"][0] for one in json.loads(identities)["identities"]}
    store = ObjectStore(folder / "s3", Ports(folder / "ports.json"), "unused", "unused")

    async def begin(stack: AsyncExitStack) -> None:
        unit = await store.prepare()
        (folder / "s3/keys.json").write_text(identities)
        # Nobody wants the data, so nobody waits for a good end.
        keeper = Keeper(replace(unit, stop_signal=signal.SIGKILL), folder, lambda _: None)
        stack.push_async_callback(keeper.stop)
        await keeper.start(START_WITHIN_S)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        runner.run(begin(stack))
        yield {
            name: StorageSettings(
                s3_endpoint_url=store.access.endpoint_url,
                aws_access_key_id=SecretStr(key["accessKey"]),
                aws_secret_access_key=SecretStr(key["secretKey"]),
            )
            for name, key in keys.items()
        }
        runner.run(stack.aclose())


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
        (link,) = await Presigned(client, inside.aws_s3_bucket).of(["users/c"])
        assert (await anyone.get(link.url)).content == b"bytes"
