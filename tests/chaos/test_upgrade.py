"""The version before the newest migration runs on the new schema: alone, and beside the new version.

It is taken from the repository's history, as a worktree, and runs with the packages that are installed.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import pytest
from stack import Client, Job

from pixorly.db import migrate
from pixorly_stack.files import Secrets
from pixorly_stack.ports import Ports
from pixorly_stack.prepare import Prepared, prepare
from pixorly_stack.servers import Servers
from pixorly_stack.services import SERVICES, Tellings
from pixorly_stack.settings import StackSettings

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ROOT: Final = Path(__file__).resolve().parents[2]
MIGRATIONS: Final = ("services/*/*/migrations/*.sql", "libs/common/pixorly/**/migrations/*.sql")
PACKAGES: Final = {
    "api": ("pixorly", "pixorly.partitions", "pixorly_api"),
    "generator": ("pixorly", "pixorly_generator"),
    "ledger": ("pixorly.partitions", "pixorly_ledger"),
}


def git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sources as they were before the newest migration."""
    newest = git(
        "log",
        "-1",
        "--first-parent",
        "-m",
        "--diff-filter=A",
        "--format=%H",
        "--",
        *(f":(glob){path}" for path in MIGRATIONS),
    )
    before = newest and git("rev-parse", "--verify", "--quiet", f"{newest}^")
    if not before:
        pytest.skip("the version before the newest migration is not in the history of this repository")
    folder = tmp_path_factory.mktemp("older") / "sources"
    assert git("worktree", "add", "--detach", str(folder), before) or folder.exists()
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


@dataclass
class Fleet:
    """The five processes of one version.

    Attributes:
        sources: Where its code is.
        tellings: What its processes are told.
        folder: Where they write their logs.
    """

    sources: Path
    tellings: Tellings
    folder: Path
    running: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self) -> None:
        self.folder.mkdir(parents=True)
        roots = [*self.sources.glob("libs/*"), *self.sources.glob("services/*")]
        path = os.pathsep.join(str(root) for root in roots)
        for service in SERVICES:
            if not service.optional:
                environment = {**self.tellings.environment(service, emulator=False), "PYTHONPATH": path}
                with (self.folder / f"{service.name}.log").open("wb") as log:
                    self.running.append(
                        await asyncio.create_subprocess_exec(
                            sys.executable, "-P", "-m", service.module, env=environment, cwd=self.folder,
                            stdout=log, stderr=log,
                        )
                    )  # fmt: skip
        async with asyncio.timeout(180), httpx.AsyncClient(timeout=5, trust_env=False) as http:
            for service in (service for service in SERVICES if not service.optional):
                while not await answers(http, f"{self.tellings.url(service.name)}/readyz"):
                    await asyncio.sleep(0.3)

    async def stop(self) -> None:
        for process in self.running:
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for process in self.running))
        self.running.clear()

    @asynccontextmanager
    async def client(self, key: str) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            base_url=self.tellings.url("api"), headers=headers, timeout=30, trust_env=False
        ) as http:
            yield Client(http)


async def answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).is_success
    except httpx.HTTPError:
        return False


@dataclass
class Site:
    """Servers, and what two versions need to share them."""

    prepared: Prepared
    secrets: Secrets
    folder: Path

    def fleet(self, name: str, sources: Path) -> Fleet:
        tellings = Tellings(os.environ, self.prepared, self.secrets, Ports(self.folder / f"ports-{name}.json"))
        return Fleet(sources, tellings, self.folder / f"logs-{name}")

    async def migrate(self) -> list[str]:
        """Bring the databases to the newest schema, with the rights that the services have."""
        applied = []
        for owner, packages in PACKAGES.items():
            applied += await migrate(self.prepared.database_urls[owner], *packages)
        return applied


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    folder = tmp_path / "site"
    async with Servers(folder, StackSettings.from_environment(), durable=False) as servers:
        secrets = Secrets(folder / "secrets.json")
        yield Site(await prepare(servers.access, secrets, own_server=True), secrets, folder)


async def a_user(fleet: Fleet, admin_key: str) -> str:
    async with fleet.client(admin_key) as admin:
        await admin.ok("PUT", "/admin/v1/users/ada", {"plan": "enterprise", "allowance": False})
        await admin.ok("POST", "/admin/v1/users/ada/grants", {"grant_id": str(uuid4()), "amount_credits": 10_000})
        key: str = (await admin.ok("POST", "/admin/v1/users/ada/keys", {"name": "test"}))["key"]
    return key


async def make(client: Client, count: int) -> list[Job]:
    jobs = await asyncio.gather(*(client.create(n=2) for _ in range(count)))
    return await client.all_settled(jobs)


async def test_the_version_before_runs_on_the_new_schema_and_beside_the_new_version(site: Site, older: Path) -> None:
    admin_key = site.secrets["admin-key"]
    old, new = site.fleet("old", older), site.fleet("new", ROOT)
    jobs: list[Job] = []
    try:
        await old.start()
        key = await a_user(old, admin_key)
        async with old.client(key) as client, new.client(key) as newer:
            jobs += await make(client, 5)

            meanwhile = asyncio.create_task(make(client, 10))
            assert await site.migrate(), "there is no new migration: the worktree is not older"
            jobs += await meanwhile
            jobs += await make(client, 5)
            assert await site.migrate() == []

            await new.start()
            both = await asyncio.gather(make(client, 10), make(newer, 10))
            jobs += [job for some in both for job in some]
            under_way = await asyncio.gather(*(client.create(n=2) for _ in range(5)))
            await old.stop()
            jobs += await newer.all_settled(under_way)
            jobs += await make(newer, 5)
            await nothing_is_lost(newer, jobs)
        async with new.client(admin_key) as admin:
            await everything_adds_up(admin)
    finally:
        await asyncio.gather(old.stop(), new.stop())


async def nothing_is_lost(client: Client, jobs: Sequence[Job]) -> None:
    assert [job["status"] for job in jobs if job["status"] != "completed"] == []
    seen = [await client.ok("GET", f"/v1/generations/{job['id']}") for job in jobs]
    assert {len(job["images"]) for job in seen} == {2}
    assert await client.credits() == 10_000 - sum(job["credits_used"] for job in jobs)


async def everything_adds_up(admin: Client) -> None:
    async with asyncio.timeout(120):
        while not (await admin.ok("GET", "/admin/v1/audit?quiet=true"))["clean"]:
            await asyncio.sleep(1)
    report = await admin.ok("GET", "/admin/v1/audit/storage", timeout=120)
    assert report["clean"], report
