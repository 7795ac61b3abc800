"""A stack is saved while it works, destroyed, and put back: nothing that was promised then is lost, and it adds up."""

import asyncio
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from stack import Client, Job, Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

QUICK = {
    "PIXORLY_SANDBOX_LATENCY_S": "3",
    "PIXORLY_NUDGE_AFTER_S": "5",
    "PIXORLY_RECONCILE_INTERVAL_S": "2",
    "PIXORLY_AUDIT_INTERVAL_S": "2",
    "PIXORLY_CHARGE_OVERDUE_S": "5",
    "PIXORLY_INTENT_TTL_S": "4",
}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / ".pixorly", QUICK)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def done(stack: Stack, *words: str) -> None:
    ended = stack.run(*words)
    assert ended.returncode == 0, ended.stdout + ended.stderr


async def bytes_of(client: Client, job: Job) -> list[bytes]:
    found = await client.ok("GET", f"/v1/generations/{job['id']}")
    return [(await client.http.get(image["url"])).content for image in found["images"]]


async def quiet(stack: Stack, within_s: float = 180) -> None:
    """Wait until the reconciler has brought everything together, and then ask the audit of storage, too."""
    async with stack.admin() as admin, asyncio.timeout(within_s):
        while not (await admin.ok("GET", "/admin/v1/audit?quiet=true"))["clean"]:
            await asyncio.sleep(1)
    done(stack, "audit", "--storage")


async def test_a_destroyed_stack_comes_back_as_it_was_saved(stack: Stack, tmp_path: Path) -> None:
    user_id, key = await stack.user()
    saved = tmp_path / "saved"
    async with stack.client(key) as client:
        settled = [await client.settled((await client.create(n=2))["id"]) for _ in range(3)]
        pictures = [await bytes_of(client, job) for job in settled]
        under_way = [await client.create() for _ in range(5)]
        await asyncio.to_thread(done, stack, "backup", str(saved))
        await client.all_settled(under_way)
        balance = await client.credits()
        later = await client.settled((await client.create())["id"])
    stack.down()
    shutil.rmtree(stack.folder)

    done(stack, "restore", "--yes", str(saved))
    stack.up()

    async with stack.client(key) as client:
        for job, before in zip(settled, pictures, strict=True):
            assert await bytes_of(client, job) == before
        again = await client.all_settled(under_way)
        assert {job["status"] for job in again} == {"completed"}
        assert (await client.http.get(f"/v1/generations/{later['id']}")).status_code == 404
        assert await client.credits() == balance
        assert (await client.settled((await client.create())["id"]))["status"] == "completed"
    assert user_id
    await quiet(stack)


async def test_databases_of_different_moments_are_brought_together(stack: Stack, tmp_path: Path) -> None:
    """The api is put back to an earlier moment than the rest, as when one database's newest changes were lost."""
    _, key = await stack.user()
    early, late = tmp_path / "early", tmp_path / "late"
    async with stack.client(key) as client:
        known = [await client.create() for _ in range(4)]
        await asyncio.to_thread(done, stack, "backup", str(early))
        await client.all_settled(known)
        before = await client.credits()
        # Frozen, so that these are not settled before the second backup: what is settled, a person must see to.
        stack.kill("generator", signal.SIGSTOP)
        unknown = [await client.create(n=2) for _ in range(4)]
        await asyncio.to_thread(done, stack, "backup", str(late))
        stack.kill("generator", signal.SIGCONT)
    shutil.copy(early / "api.dump", late / "api.dump")
    stack.down()
    shutil.rmtree(stack.folder)

    done(stack, "restore", "--yes", str(late))
    stack.up()

    async with stack.client(key) as client:
        again = await client.all_settled(known)
        assert {job["status"] for job in again} == {"completed"}
        assert [(await client.http.get(f"/v1/generations/{job['id']}")).status_code for job in unknown] == [404] * 4
        with suppress(TimeoutError):
            async with asyncio.timeout(120):
                while await client.credits() != before:
                    await asyncio.sleep(0.5)
        # Charges of jobs that nobody knows are given back.
        assert await client.credits() == before
    await quiet(stack)


async def test_a_backup_is_not_written_over_another(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / str(uuid4())).touch()

    refused = stack.run("backup", str(tmp_path / "taken"))

    assert refused.returncode == 1
    assert "is not empty" in refused.stderr
