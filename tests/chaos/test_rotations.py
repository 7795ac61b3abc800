"""Secrets are rotated while clients are at work, as the runbook says: new processes beside the old, which then end."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import aio_pika
import asyncpg
import httpx
import psutil  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from invariants import books_and_bucket_agree, nothing_is_lost, nothing_left
from stack import Client, Job, Stack, running
from twins import twin

from pixorly_stack.access import Access, S3Access
from pixorly_stack.files import Secrets
from pixorly_stack.prepare import DATABASES, USERS, Prepared, prepare

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]

EMULATED: Final = "google/gemini-3.1-flash-image"
SECOND_KEY: Final = {"accessKey": "second", "secretKey": "new" * 8}
IN_ORDER: Final = ("ledger", "generator", "uploader", "api-worker", "api")
"""Who is called by others comes first."""

Urls = dict[str, str]
Told = Callable[[str, Urls], dict[str, str]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(tmp_path_factory.mktemp("rotations") / ".pixorly", "--emulator", PIXORLY_SANDBOX_LATENCY_S="1")


async def prepared(stack: Stack, turn: str = "") -> Prepared:
    """Do what `pixorly prepare --turn` does."""
    dev = stack.dev
    access = Access(
        dev["database_url"], dev["amqp_url"], dev["rabbitmq_management_url"], S3Access(None, "", "", "", "")
    )
    return await prepare(access, Secrets(stack.folder / "secrets.json", turn), own_server=True, bucket=False)


def give_keys(stack: Stack, *keys: dict[str, str]) -> None:
    """Let the services reach the bucket with these keys and no others."""
    file = stack.folder / "s3/keys.json"
    identities = json.loads(file.read_text())
    identities["identities"][0]["credentials"] = list(keys)
    file.write_text(json.dumps(identities))
    stack.kill("s3", signal.SIGHUP)


async def revoke(stack: Stack) -> None:
    """End every password and key that the old processes came in with."""
    dev = stack.dev
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        for name in USERS:
            (await http.delete(f"{dev['rabbitmq_management_url']}/api/users/pixorly-{name}")).raise_for_status()
    admin = await asyncpg.connect(dev["database_url"])
    for name in DATABASES:
        await admin.execute(f"ALTER ROLE pixorly_{name} NOLOGIN")
    await admin.close()
    give_keys(stack, SECOND_KEY)


@asynccontextmanager
async def replaced(stack: Stack, names: tuple[str, ...], told: Told) -> AsyncIterator[Urls]:
    """Have new processes, which are told other things, do the work of the stack's; yield their URLs.

    What the supervisor starts in the place of the old is frozen before it can do anything, until the block ends.
    """
    urls: Urls = {}
    async with AsyncExitStack() as new:
        for name in names:
            urls[name] = await new.enter_async_context(twin(stack, name, told(name, urls)))
        try:
            yield urls
        finally:
            for name in names:
                stack.kill(name, signal.SIGCONT)
            await stack.ready()


async def ended(stack: Stack, name: str) -> None:
    """End a process in good order, and keep it from coming back."""
    pid = stack.pids()[name]
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    with suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(psutil.Process(pid).wait, 90)
    async with asyncio.timeout(60):
        while stack.pids()[name] in {pid, None}:
            await asyncio.sleep(0.02)
    stack.kill(name, signal.SIGSTOP)
    assert f"{name} ended (exit status 0) and is started again" in stack.logs("supervisor")


@asynccontextmanager
async def load(api_urls: list[str], key: str) -> AsyncIterator[list[Job]]:
    """Ask for two jobs a second at the last of these addresses, whichever it is at the time."""
    jobs: list[Job] = []

    async def ask() -> None:
        while True:
            headers = {"Authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(base_url=api_urls[-1], headers=headers, timeout=60, trust_env=False) as http:
                jobs.append(await Client(http).create())
            await asyncio.sleep(0.5)

    asking = asyncio.create_task(ask())
    yield jobs
    assert not asking.done(), asking
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking


async def test_passwords_and_keys_of_all_servers_are_rotated_under_load_and_no_job_notices(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=100_000)
    first_key = json.loads((stack.folder / "s3/keys.json").read_text())["identities"][0]["credentials"][0]
    api_urls = [stack.dev["api_url"]]
    async with load(api_urls, key) as jobs:
        turned = await prepared(stack, "b")
        give_keys(stack, first_key, SECOND_KEY)

        def told(name: str, urls: Urls) -> dict[str, str]:
            service = name.removesuffix("-worker")
            databases = {f"PIXORLY_{of.upper()}_DATABASE_URL": url for of, url in turned.database_urls.items()}
            return {
                "PIXORLY_AMQP_URL": turned.amqp_urls[service],
                "AWS_ACCESS_KEY_ID": SECOND_KEY["accessKey"],
                "AWS_SECRET_ACCESS_KEY": SECOND_KEY["secretKey"],
                **{name: url for name, url in databases.items() if service.upper() in name},
                **{f"PIXORLY_{other.upper()}_URL": urls[other] for other in ("ledger", "generator") if other in urls},
            }

        async with replaced(stack, IN_ORDER, told) as urls:
            api_urls.append(urls["api"])
            try:
                for name in reversed(IN_ORDER):
                    await ended(stack, name)
                first = await prepared(stack)
                await revoke(stack)
                with pytest.raises(aio_pika.exceptions.AMQPError):
                    await aio_pika.connect(first.amqp_urls["ledger"])
                with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                    await asyncpg.connect(first.database_urls["ledger"])
                before = len(jobs)
                await asyncio.sleep(5)
                headers = {"Authorization": f"Bearer {key}"}
                async with httpx.AsyncClient(
                    base_url=urls["api"], headers=headers, timeout=30, trust_env=False
                ) as http:
                    done = await Client(http).all_settled(jobs[: before + 3])
                    image = await http.get(done[-1]["images"][0]["url"], headers={"Authorization": ""})
            finally:
                await prepared(stack)
                give_keys(stack, first_key, SECOND_KEY)
                api_urls.append(stack.dev["api_url"])
    done = await nothing_is_lost(stack, key, jobs, 100_000)

    assert image.is_success
    assert {job["status"] for job in done} == {"completed"}
    assert {job["retry_count"] for job in done} == {0}
    await nothing_left(stack)
    await books_and_bucket_agree(stack)


async def test_a_providers_key_is_rotated_while_it_is_called_and_nothing_is_paid_twice(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=1000)
    emulator = httpx.AsyncClient(base_url=stack.dev["emulator_url"], trust_env=False)
    async with emulator, stack.client(key) as client:

        async def calls_of(job: Job) -> list[dict[str, Any]]:
            answer = await emulator.get("/_emulator/calls", params={"session_id": job["id"]})
            found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
            return found

        jobs = [await client.create(f"[[latency:8]] number {n}", model=EMULATED, size=1024) for n in range(3)]
        async with asyncio.timeout(60):
            while not all([await calls_of(job) for job in jobs]):
                await asyncio.sleep(0.1)

        async with replaced(stack, ("generator",), lambda _name, _urls: {"OPENROUTER_API_KEY": "sk-or-v1-next"}):
            await ended(stack, "generator")
            rules = {"rules": [{"fault": "401", "key": "emulator"}]}
            (await emulator.post("/_emulator/script", json=rules)).raise_for_status()
            later = [await client.create(f"number {n}", model=EMULATED, size=1024) for n in range(3, 6)]
            done = await client.all_settled([*jobs, *later])
            (await emulator.delete("/_emulator/script")).raise_for_status()
        calls = [await calls_of(job) for job in done]
    await nothing_is_lost(stack, key, [*jobs, *later], 1000)

    assert {job["status"] for job in done} == {"completed"}
    assert [len(of) for of in calls] == [1] * 6
    assert [of[0]["key_tail"] for of in calls] == ["ator"] * 3 + ["next"] * 3
