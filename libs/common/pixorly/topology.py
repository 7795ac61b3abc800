"""The exchanges and queues, who owns them, and who may do what: RabbitMQ's side of the contract, as data.

Every event goes to the topic exchange `pixorly.events` under its type. A work queue `service.handler` has three or more
retry queues behind the topic exchange `pixorly.retry`, whose time to live sends a message back to the work queue, and a
queue `….dead` behind the topic exchange `pixorly.dead`, where a person finds what could not be handled. The retry and
dead exchanges are topic exchanges only so that RabbitMQ can limit by routing key what a service may send there.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

from pixorly.events import (
    Event,
    ImageDeleted,
    ImageFailed,
    ImageGenerated,
    ImageMoved,
    ImageMoving,
    ImageUploaded,
    ImageVacated,
    JobCanceled,
    JobCompleted,
    JobCreated,
    JobFailed,
    JobRetrying,
    JobStarted,
)

EVENTS_EXCHANGE: Final = "pixorly.events"
RETRY_EXCHANGE: Final = "pixorly.retry"
DEAD_EXCHANGE: Final = "pixorly.dead"
LIVE_EXCHANGE: Final = "pixorly.live"
"""The api's own, a fanout: which jobs changed, for clients who look on. What goes there may be lost."""
EXCHANGES: Final = (EVENTS_EXCHANGE, RETRY_EXCHANGE, DEAD_EXCHANGE)

LADDER_S: Final = (2, 4, 8)
"""The delays of the three retries, in seconds."""
RETRY_AFTER_S: Final = (15, 30, 60)
"""Longer steps, taken where the other side asks for more than the ladder's."""
HELD_S: Final = 2
"""The step on which a message waits for a call that another process holds."""
DELIVERY_LIMIT: Final = 50
"""A fuse against messages that kill their consumer, not the retry counter."""
DEAD_DELIVERY_LIMIT: Final = 1_000_000_000
"""Each look at a dead letter counts as a delivery, and RabbitMQ 4 would drop it after 20 (decision 5)."""


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A work queue, named `service.handler`.

    Attributes:
        name: The queue's name; its first part is the service that owns and reads it.
        events: What it takes from the events exchange.
        dead_keys: What it takes from the dead exchange (only the queue that settles the dead).
    """

    name: str
    events: tuple[type[Event], ...] = ()
    dead_keys: tuple[str, ...] = ()

    @property
    def service(self) -> str:
        """The service that owns the queue."""
        return self.name.partition(".")[0]

    @property
    def handler(self) -> str:
        """The name of the handler that works on it."""
        return self.name.partition(".")[2]

    @property
    def dead(self) -> str:
        """The name of the queue for a person."""
        return f"{self.name}.dead"

    @property
    def dead_arguments(self) -> dict[str, Any]:
        """The arguments of the queue for a person: looked at as often as one likes, nothing of it is dropped."""
        return {"x-queue-type": "quorum", "x-delivery-limit": DEAD_DELIVERY_LIMIT}

    def retry(self, delay_s: int) -> str:
        """Return the name of the retry queue with this delay, which is also its key on the retry exchange."""
        return f"{self.name}.retry.{delay_s}s"

    @property
    def arguments(self) -> dict[str, Any]:
        """The queue's arguments: what is rejected or kills its consumer ends in the dead queue, and nowhere else."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            **_dead_letters_to(DEAD_EXCHANGE, self.name),
        }


QUEUES: Final = (
    WorkQueue("generator.generate_image", (JobCreated,)),
    WorkQueue("generator.close_job", (JobCompleted, JobFailed, JobCanceled)),
    WorkQueue("uploader.store_image", (ImageGenerated,)),
    WorkQueue("uploader.delete_image", (ImageDeleted,)),
    WorkQueue("uploader.move_image", (ImageMoving, ImageVacated)),
    WorkQueue("ledger.settle_job", (JobCompleted, JobFailed, JobCanceled)),
    WorkQueue("api.follow_job", (JobStarted, JobRetrying, ImageGenerated, ImageUploaded, ImageFailed, ImageMoved)),
    WorkQueue("api.settle_dead", dead_keys=("generator.generate_image", "uploader.store_image")),
)

PUBLISHES: Final[dict[str, tuple[type[Event], ...]]] = {
    "api": (JobCreated, JobCompleted, JobFailed, JobCanceled, ImageDeleted, ImageMoving, ImageVacated),
    "generator": (JobStarted, JobRetrying, ImageGenerated, ImageFailed),
    "uploader": (ImageUploaded, ImageFailed, ImageMoved, JobRetrying),
    "ledger": (),
}
"""Which service publishes what."""

REPEATS: Final[dict[str, tuple[type[Event], ...]]] = {"api": (ImageGenerated,)}
"""What a service says again though another said it first: the api's reconciler, for a slot that waits on it."""


def queue_named(name: str) -> WorkQueue:
    """Return the work queue with this name.

    Raises:
        KeyError: There is none.
    """
    return {queue.name: queue for queue in QUEUES}[name]


def _dead_letters_to(exchange: str, routing_key: str) -> dict[str, Any]:
    """Return arguments by which a leader that dies in mid-transfer loses nothing; each needs the other."""
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-routing-key": routing_key,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def delays_s(ladder_s: Sequence[int] = LADDER_S) -> list[int]:
    """Return the delays that a work queue has retry queues for."""
    return sorted({*ladder_s, *RETRY_AFTER_S, HELD_S})


async def declare(
    channel: AbstractChannel, queues: Iterable[WorkQueue], ladder_s: Sequence[int] = LADDER_S
) -> dict[str, int]:
    """Declare the exchanges, and `queues` with their retry and dead queues and all bindings. A repeat changes nothing.

    Returns:
        How many messages wait in each of `queues`, by its name.

    Raises:
        aio_pika.exceptions.ChannelPreconditionFailed: A queue is there with other arguments.
    """
    waiting: dict[str, int] = {}
    events, retry, dead = [await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True) for name in EXCHANGES]
    for queue in queues:
        # What a message may end in stands before the message can get there.
        graveyard = await channel.declare_queue(queue.dead, durable=True, arguments=queue.dead_arguments)
        await graveyard.bind(dead, queue.name)
        work = await channel.declare_queue(queue.name, durable=True, arguments=queue.arguments)
        await work.bind(retry, queue.name)
        for delay_s in delays_s(ladder_s):
            arguments = {
                "x-queue-type": "quorum",
                "x-message-ttl": delay_s * 1000,
                **_dead_letters_to(RETRY_EXCHANGE, queue.name),
            }
            step = await channel.declare_queue(queue.retry(delay_s), durable=True, arguments=arguments)
            await step.bind(retry, queue.retry(delay_s))
        for event in queue.events:
            await work.bind(events, event.type)
        for key in queue.dead_keys:
            await work.bind(dead, key)
        waiting[queue.name] = work.declaration_result.message_count or 0
    return waiting


def queues_of(service: str) -> list[WorkQueue]:
    """Return the work queues that a service owns."""
    return [queue for queue in QUEUES if queue.service == service]


def _any_of(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in names)


def permissions(service: str) -> dict[str, str]:
    """Return RabbitMQ's three permission patterns of a service's user.

    It configures and reads its own queues only, and writes to the three exchanges; what it may write there,
    `topic_permissions` says. The api may also make live queues of its own (`pixorly.live`) and read every dead queue.
    """
    live = r"|pixorly\.live(\..*)?" if service == "api" else ""
    dead = r"|.*\.dead" if service == "api" else ""
    own = rf"{re.escape(service)}\..*"
    return {
        "configure": rf"^({own}|{_any_of(EXCHANGES)}{live})$",
        "write": rf"^({own}|{_any_of(EXCHANGES)}{live})$",
        "read": rf"^({own}|{_any_of(EXCHANGES)}{live}{dead})$",
    }


def topic_permissions(service: str) -> dict[str, dict[str, str]]:
    """Return, by exchange, the patterns of routing keys that a service's user may write and read."""
    published = (*PUBLISHES[service], *REPEATS.get(service, ()))
    read = sorted({event.type for queue in queues_of(service) for event in queue.events})
    own = rf"^{re.escape(service)}\..*$"
    dead_read = own if service != "api" else r"^.*$"
    return {
        EVENTS_EXCHANGE: {
            "write": rf"^({_any_of(event.type for event in published)})$" if published else "^$",
            "read": rf"^({_any_of(read)})$",
        },
        # The api replays dead letters of every queue.
        RETRY_EXCHANGE: {"write": own if service != "api" else r"^.*$", "read": own},
        DEAD_EXCHANGE: {"write": own, "read": dead_read},
    }
