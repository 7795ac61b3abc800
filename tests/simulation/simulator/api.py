"""The api's two processes: one answers clients, the other takes messages, relays the outbox and sweeps."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.clockwork import Process
from simulator.creation import Creation
from simulator.delivery import Subscription, Worker
from simulator.jobs import Jobs
from simulator.sweeper import Sweeper

if TYPE_CHECKING:
    from simulator.world import World


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes of one process lead to."""

    creation: Creation
    jobs: Jobs


def boot(world: "World", process: Process) -> None:
    """Start a process that answers clients."""
    world.apis[process] = Api(Creation(world, process), Jobs(world, process))


def boot_worker(world: "World", process: Process) -> None:
    """Start a worker."""
    jobs = Jobs(world, process)
    for subscription in (
        Subscription("api.follow_job", jobs.follow),
        Subscription("api.settle_dead", jobs.bury),
    ):
        Worker(world, process, subscription).listen()
    world.clockwork.spawn(jobs.outbox.relay(), process)
    Sweeper(world, process, jobs).start()
