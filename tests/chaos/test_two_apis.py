"""Two processes of the api behind a proxy are one api; and OpenAI's stock clients on jobs that take long."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import httpx
import psutil  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from listening import Listener, address_of
from openai import AsyncOpenAI, OpenAI
from proxies import impatient_proxy, tcp_proxy
from stack import Stack, running
from twins import twin

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]
LATENCY_S = 30.0
BODY = {"model": "sandbox/aurora", "prompt": "a fox", "n": 1, "width": 64, "height": 64}
PRICE = 5
IDLE_S = 20.0
"""After how long proxies of the web usually cut what is silent."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from running(tmp_path_factory.mktemp("two-apis") / ".pixorly", PIXORLY_SANDBOX_LATENCY_S=f"{LATENCY_S:g}")


@asynccontextmanager
async def client_at(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that opens a connection for each request."""
    each = httpx.Limits(max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=each, timeout=60, trust_env=False) as http:
        yield http


async def limit(stack: Stack, user_id: str, **said: int) -> None:
    async with stack.admin() as admin:
        await admin.ok("PUT", f"/admin/v1/users/{user_id}/limits", said)


async def early_in_the_minute() -> None:
    while time.time() % 60 > 35:
        await asyncio.sleep(1)


async def test_limits_are_those_of_one_api(stack: Stack) -> None:
    often, much = await stack.user(), await stack.user()
    await limit(stack, often[0], requests_per_minute=20)
    await limit(stack, much[0], jobs_at_once=3)
    first = stack.dev["api_url"]
    async with twin(stack, "api") as second, tcp_proxy(first, second) as front:
        url = f"http://127.0.0.1:{front.listens_on}"
        async with client_at(url, often[1]) as http:
            await early_in_the_minute()
            asked = await asyncio.gather(*(http.get("/v1/models") for _ in range(60)))
        async with client_at(url, much[1]) as http:
            ordered = await asyncio.gather(*(http.post("/v1/generations", json=BODY) for _ in range(12)))

    assert Counter(answer.status_code for answer in asked) == {200: 20, 429: 40}
    left = [answer.headers["ratelimit"].split(";")[1] for answer in asked if answer.is_success]
    assert sorted(left) == sorted(f"r={number}" for number in range(20))
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in asked if not answer.is_success)
    assert Counter(answer.status_code for answer in ordered) == {202: 3, 429: 9}
    async with stack.client(much[1]) as client:
        assert await client.credits() == 1000 - 3 * PRICE


async def test_idempotency_is_that_of_one_api(stack: Stack) -> None:
    _, key = await stack.user(amount_credits=1000)
    async with (
        twin(stack, "api") as second,
        client_at(stack.dev["api_url"], key) as here,
        client_at(second, key) as there,
    ):
        made = await asyncio.gather(*(_at_both(here, there, str(uuid4())) for _ in range(20)))

    assert len(set(made)) == 20
    async with stack.client(key) as client:
        assert await client.credits() == 1000 - 20 * PRICE
        await asyncio.gather(*(client.settled(job_id) for job_id in made))
        assert await client.credits() == 1000 - 20 * PRICE
    assert await stack.audit() == []


async def _at_both(here: httpx.AsyncClient, there: httpx.AsyncClient, key: str) -> str:
    """Send one order to both processes at once, then again, then another with its key; return its job's id."""
    headers = {"Idempotency-Key": key}
    both = await asyncio.gather(
        *(http.post("/v1/generations", json=BODY, headers=headers) for http in (here, there, here, there))
    )
    assert {answer.status_code for answer in both} <= {202, 409}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in both if answer.status_code == 409)
    ids = {answer.json()["id"] for answer in both if answer.status_code == 202}
    assert sum("idempotent-replayed" not in answer.headers for answer in both if answer.status_code == 202) == 1
    for http in (here, there):
        again = await http.post("/v1/generations", json=BODY, headers=headers)
        other = await http.post("/v1/generations", json={**BODY, "prompt": "a hen"}, headers=headers)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        ids.add(again.json()["id"])
    (job_id,) = ids
    return str(job_id)


async def test_a_stream_at_one_tells_of_what_the_other_did_and_goes_on_there(stack: Stack) -> None:
    _, key = await stack.user()
    first = stack.dev["api_url"]
    async with twin(stack, "api") as second, client_at(second, key) as there, stack.client(key) as client:
        listener = Listener("/v1/events", set(), key, address_of(first))
        listener.wanted = {"one that never is"}
        listening = asyncio.create_task(listener.listen())
        job = (await there.post("/v1/generations", json=BODY)).json()
        async with asyncio.timeout(LATENCY_S):
            while listener.told.get(job["id"], {}).get("status") != "processing":
                await asyncio.sleep(0.05)
        listening.cancel()
        await asyncio.wait([listening])

        # It is settled while nobody listens.
        done = await client.settled(job["id"])
        listener.address, listener.wanted = address_of(second), {job["id"]}
        async with asyncio.timeout(60):
            await listener.listen()

    assert listener.told[job["id"]]["settled_at"] == done["settled_at"]


async def test_all_tries_that_reach_an_api_at_once_are_one_job(stack: Stack) -> None:
    """It was frozen while they came, and finds the first one beside its repeats."""
    _, key = await stack.user(amount_credits=100)
    async with (
        twin(stack, "api") as url,
        AsyncOpenAI(base_url=f"{url}/openai/v1", api_key=key, timeout=0.5, max_retries=30) as client,
    ):
        await client.models.list()
        with frozen(url):
            making: asyncio.Future[Any] = asyncio.ensure_future(
                client.images.with_raw_response.generate(
                    prompt="a fox", size="64x64", extra_headers={"Prefer": "respond-async"}
                )
            )
            await asyncio.sleep(8)
        answer = await making

    assert answer.retries_taken >= 2
    async with stack.client(key) as pixorly:
        assert await pixorly.credits() == 100 - PRICE
        assert len((await pixorly.ok("GET", "/v1/generations"))["data"]) == 1


@contextmanager
def frozen(url: str) -> Iterator[None]:
    """Have the process that serves an address stand still."""
    port = address_of(url)[1]
    (pid,) = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.pid and one.status == psutil.CONN_LISTEN and one.laddr.port == port
    }
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("timeout_s", [10.0, 600.0])
@pytest.mark.parametrize("keepalive_s", [15.0, 100.0])
async def test_openais_clients_through_a_proxy_that_cuts_what_is_idle_pay_once(
    stack: Stack, timeout_s: float, keepalive_s: float
) -> None:
    _, key = await stack.user(amount_credits=100)
    async with (
        twin(stack, "api", {"PIXORLY_STREAM_KEEPALIVE_S": f"{keepalive_s:g}"}) as url,
        impatient_proxy(url, IDLE_S) as (front, seen),
    ):
        told: dict[str, Any] = {"base_url": f"{front}/openai/v1", "api_key": key}
        # The number of repeats is left as it is where time-outs do not use them up.
        repeats = 2 if timeout_s > IDLE_S else 10
        with OpenAI(**told, timeout=timeout_s, max_retries=repeats) as waiting:
            async with AsyncOpenAI(**told, timeout=timeout_s, max_retries=repeats) as client:
                answers = await asyncio.gather(
                    client.images.with_raw_response.generate(prompt="a fox", size="64x64"),
                    asyncio.to_thread(waiting.images.with_raw_response.generate, prompt="a hen", size="64x64", n=2),
                )

    assert [len(answer.parse().data or ()) for answer in answers] == [1, 2]
    forced = timeout_s < IDLE_S or keepalive_s > IDLE_S
    assert [answer.retries_taken > 0 for answer in answers] == [forced] * 2
    if timeout_s > IDLE_S:
        assert ("cut" in seen) == (keepalive_s > IDLE_S)
    async with stack.client(key) as pixorly:
        assert await pixorly.credits() == 100 - 3 * PRICE
        assert len((await pixorly.ok("GET", "/v1/generations"))["data"]) == 2
    assert await stack.audit() == []
