"""A RabbitMQ of three nodes under the stack: a node dies and comes back, the leader of the queues is cut off."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from cluster import NAMES, Cluster, rabbitmq_cluster
from invariants import books_and_bucket_agree, nothing_is_lost, nothing_left
from proxies import in_background
from stack import Stack, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

QUEUE = "generator.generate_image"


@dataclass(frozen=True)
class Rig:
    """A stack on a cluster."""

    stack: Stack
    cluster: Cluster

    async def leader(self) -> str:
        """The node that leads the queue of the generator."""
        return await self.cluster.leader("pixorly", QUEUE)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with in_background(rabbitmq_cluster(tmp_path_factory.mktemp("cluster"))) as cluster:
        environment = {
            "PIXORLY_AMQP_URL": cluster.amqp_url,
            "PIXORLY_RABBITMQ_MANAGEMENT_URL": cluster.management_url,
            "PIXORLY_SANDBOX_LATENCY_S": "0.5",
        }
        for stack in running(tmp_path_factory.mktemp("clustered") / ".pixorly", **environment):
            yield Rig(stack, cluster)


Fault = Callable[[Rig], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def no_fault(_: Rig) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def each_node_dies_in_turn(rig: Rig) -> AsyncIterator[None]:
    """Each is started again, and is a member again before the next one dies."""

    async def strike() -> None:
        for node in NAMES:
            rig.cluster.send(node, signal.SIGKILL)
            await asyncio.sleep(3)
            await rig.cluster.whole()

    striking = asyncio.create_task(strike())
    yield
    await striking


@asynccontextmanager
async def the_leader_dies(rig: Rig) -> AsyncIterator[None]:
    rig.cluster.send(await rig.leader(), signal.SIGKILL)
    yield


@asynccontextmanager
async def the_leader_is_cut_off(rig: Rig) -> AsyncIterator[None]:
    """It says nothing and hears nothing, and its connections look alive; then it comes back as if nothing had been."""
    leader = await rig.leader()
    rig.cluster.send(leader, signal.SIGSTOP)
    try:
        yield
        async with asyncio.timeout(90):
            while await rig.leader() == leader:
                await asyncio.sleep(1)
    finally:
        await rig.cluster.thaw(leader)


@asynccontextmanager
async def the_majority_is_cut_off(rig: Rig) -> AsyncIterator[None]:
    """Nothing can be published; jobs are taken all the same."""
    for node in NAMES[:2]:
        rig.cluster.send(node, signal.SIGSTOP)
    try:
        began = time.monotonic()
        yield
        assert time.monotonic() - began < 60, "jobs were not taken"
        await asyncio.sleep(20)
    finally:
        await rig.cluster.thaw(*NAMES[:2])


@asynccontextmanager
async def all_nodes_die(rig: Rig) -> AsyncIterator[None]:
    for node in NAMES:
        rig.cluster.send(node, signal.SIGKILL)
    yield


FAULTS: dict[str, Fault] = {
    "none": no_fault,
    "the leader dies": the_leader_dies,
    "each node dies in turn": each_node_dies_in_turn,
    "the leader is cut off": the_leader_is_cut_off,
    "the majority is cut off": the_majority_is_cut_off,
    "all nodes die": all_nodes_die,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_cluster_loses_nothing(rig: Rig, fault: str) -> None:
    await rig.cluster.whole()
    await rig.stack.ready()
    _, key = await rig.stack.user(amount_credits=10_000)
    jobs = []
    async with rig.stack.client(key) as client:
        jobs += [await client.create(f"before {number}") for number in range(5)]
        async with FAULTS[fault](rig):
            for number in range(20):
                jobs.append(await client.create(f"{fault} {number}", n=1 + number % 2))
                await asyncio.sleep(0.2)
    await rig.cluster.whole()
    done = await nothing_is_lost(rig.stack, key, jobs, 10_000)

    assert {job["status"] for job in done} == {"completed"}
    assert all(len(job["images"]) == job["n"] for job in done)
    await nothing_left(rig.stack)
    await books_and_bucket_agree(rig.stack)
