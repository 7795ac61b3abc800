"""Exchanges, queues and permissions on a real RabbitMQ: each service may do what the contract gives it, and no more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from samples import SAMPLES
from waiting import until

from pixorly.broker import Publisher
from pixorly.delivery import Consumer, Delivery, Following, Subscription
from pixorly.errors import ProviderUnavailable
from pixorly.events import EVENTS, Event
from pixorly.settings import AmqpSettings
from pixorly.topology import (
    DEAD_EXCHANGE,
    EVENTS_EXCHANGE,
    EXCHANGES,
    PUBLISHES,
    QUEUES,
    REPEATS,
    RETRY_EXCHANGE,
    WorkQueue,
    declare,
    delays_s,
    permissions,
    queues_of,
    topic_permissions,
)
from pixorly_stack.access import Access
from pixorly_stack.management import Management, ManagementError

SERVICES = sorted(PUBLISHES)
PASSWORD = "pixorly-tests"


@dataclass
class Realm:
    """A virtual host with the whole topology and a user for each service.

    Attributes:
        urls: By service; `admin` may do everything.
    """

    urls: dict[str, str]

    @asynccontextmanager
    async def channel(self, service: str = "admin") -> AsyncIterator[AbstractChannel]:
        async with await aio_pika.connect(self.urls[service]) as connection:
            yield await connection.channel(on_return_raises=True)

    async def may(self, service: str, attempt: Callable[[AbstractChannel], Awaitable[object]]) -> bool:
        """Tell whether a service may do something; whatever else it meets is a failure of the test."""
        async with self.channel(service) as channel:
            try:
                await attempt(channel)
            except ChannelAccessRefused:
                return False
            return True

    def settings(self, service: str, **more: object) -> AmqpSettings:
        return AmqpSettings.model_validate({"amqp_url": self.urls[service], **more})


@asynccontextmanager
async def founded(servers: Access) -> AsyncIterator[Realm]:
    """Make a virtual host with the topology and the services' users, and take it all down again."""
    parts, vhost = urlsplit(servers.amqp_url), f"test-{uuid4().hex}"
    names = {service: f"{vhost}-{service}" for service in SERVICES}
    async with Management(servers.management_url) as management, AsyncExitStack() as stack:
        try:
            await management.overview()
        except ManagementError as error:
            pytest.skip(f"permissions are set through RabbitMQ's management API, and there is none: {error}")
        await management.make_vhost(vhost)
        stack.push_async_callback(management.delete_vhost, vhost)
        await management.permit(parts.username or "guest", vhost, {"configure": ".*", "write": ".*", "read": ".*"})
        for service, name in names.items():
            await management.make_user(name, PASSWORD)
            stack.push_async_callback(management._call, "DELETE", f"users/{name}")
            await management.permit(name, vhost, permissions(service))
            for exchange, rights in topic_permissions(service).items():
                await management.permit_topics(name, vhost, exchange, rights)
        here = parts._replace(path=f"/{vhost}")
        urls = {
            service: urlunsplit(here._replace(netloc=f"{name}:{PASSWORD}@{parts.hostname}:{parts.port}"))
            for service, name in names.items()
        }
        realm = Realm({**urls, "admin": urlunsplit(here)})
        async with realm.channel() as channel:
            await declare(channel, QUEUES)
        yield realm


@pytest.fixture
async def realm(servers: Access) -> AsyncIterator[Realm]:
    """A realm for tests that change it."""
    async with founded(servers) as realm:
        yield realm


@pytest.fixture(scope="module")
def shared(servers: Access) -> Iterator[Realm]:
    """A realm for tests that only ask what may be done in it: to make one takes a while."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        realm = runner.run(stack.enter_async_context(founded(servers)))
        yield realm
        runner.run(stack.aclose())


def message() -> aio_pika.Message:
    return aio_pika.Message(b"{}", delivery_mode=aio_pika.DeliveryMode.PERSISTENT, message_id=uuid4().hex)


def publishing(exchange: str, key: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    async def publish(channel: AbstractChannel) -> None:
        target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        await target.publish(message(), key, mandatory=False)

    return publish


def reading(queue: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    async def read(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).get(fail=False)

    return read


def binding(queue: str, exchange: str, key: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    async def bind(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).bind(exchange, key)

    return bind


def deleting(queue: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    async def delete(channel: AbstractChannel) -> None:
        await channel.queue_delete(queue)

    return delete


def purging(queue: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    async def purge(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).purge()

    return purge


def declaring(queue: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    async def make(channel: AbstractChannel) -> None:
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})

    return make


# Declarations ------------------------------------------------------------------------------------------------------


async def test_what_is_declared_twice_is_the_same(amqp_url: str) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        for _ in range(2):
            channel = await connection.channel()
            await declare(channel, QUEUES)
            await channel.close()


async def test_a_queue_that_is_there_with_other_arguments_is_refused(amqp_url: str) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("uploader.store_image", durable=True, arguments={"x-queue-type": "quorum"})

        with pytest.raises(ChannelPreconditionFailed):
            await declare(channel, queues_of("uploader"))


async def test_another_ladder_makes_new_queues_beside_the_old_ones(amqp_url: str) -> None:
    (queue,) = [queue for queue in QUEUES if queue.name == "uploader.store_image"]
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await declare(channel, [queue])
        await declare(channel, [queue], ladder_s=(1, 3))

        for delay_s in (1, 2, 3, 4, 8, 15, 30, 60):
            await channel.declare_queue(queue.retry(delay_s), passive=True)
    assert delays_s((1, 3)) == [1, 2, 3, 15, 30, 60]


async def test_every_event_reaches_the_queues_that_take_it_and_no_others(realm: Realm) -> None:
    async with realm.channel() as channel:
        exchange = await channel.get_exchange(EVENTS_EXCHANGE)
        for kind in EVENTS:
            await exchange.publish(message(), kind, mandatory=True)
        depths = {}
        for queue in QUEUES:
            declared = await channel.declare_queue(queue.name, passive=True)
            depths[queue.name] = declared.declaration_result.message_count

    assert depths == {queue.name: len(queue.events) for queue in QUEUES}


# What each may -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_declares_all_it_needs_by_itself(realm: Realm, service: str) -> None:
    async with realm.channel() as channel:
        for queue in queues_of(service):
            await channel.queue_delete(queue.name)
        for exchange in EXCHANGES:
            await channel.exchange_delete(exchange)

    async with realm.channel(service) as channel:
        await declare(channel, queues_of(service))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_publishes_its_own_events_and_no_others(shared: Realm, service: str) -> None:
    may = {kind for kind in EVENTS if await shared.may(service, publishing(EVENTS_EXCHANGE, kind))}

    assert may == {event.type for event in (*PUBLISHES[service], *REPEATS.get(service, ()))}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_binds_its_queues_to_what_it_takes_and_hears_nothing_else(shared: Realm, service: str) -> None:
    queue = queues_of(service)[0]
    takes = {event.type for other in queues_of(service) for event in other.events}

    may = {
        key
        for key in (*EVENTS, "#", "job.*", "*")
        if await shared.may(service, binding(queue.name, EVENTS_EXCHANGE, key))
    }

    assert may == takes


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_reads_and_purges_its_own_queues_and_the_api_all_that_is_dead(
    shared: Realm, service: str
) -> None:
    names = [name for queue in QUEUES for name in (queue.name, queue.dead, queue.retry(2))]
    own = {name for name in names if name.startswith(f"{service}.")}
    dead = {name for name in names if name.endswith(".dead")} if service == "api" else set()

    may_read = {name for name in names if await shared.may(service, reading(name))}
    may_purge = {name for name in names if await shared.may(service, purging(name))}

    assert may_read == own | dead
    assert may_purge == own | dead


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_makes_binds_and_deletes_no_queue_of_anothers(shared: Realm, service: str) -> None:
    others = [queue for queue in QUEUES if queue.service != service]

    for other in others:
        assert not await shared.may(service, declaring(f"{other.service}.new_queue"))
        assert not await shared.may(service, deleting(other.name))
        assert not await shared.may(service, binding(other.name, RETRY_EXCHANGE, f"{service}.x"))
    assert not await shared.may(service, declaring("elsewhere"))
    assert not await shared.may(service, declaring(f"not.{service}.x"))
    assert await shared.may(service, declaring(f"{service}.new_queue"))
    assert await shared.may(service, deleting(f"{service}.new_queue"))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_puts_messages_on_its_own_ladder_only_and_the_api_replays_to_all(
    shared: Realm, service: str
) -> None:
    keys = [key for queue in QUEUES for key in (queue.name, queue.retry(2))]

    may = {key for key in keys if await shared.may(service, publishing(RETRY_EXCHANGE, key))}

    assert may == {key for key in keys if service == "api" or key.startswith(f"{service}.")}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_puts_aside_what_is_its_own_only(shared: Realm, service: str) -> None:
    keys = [queue.name for queue in QUEUES]

    may = {key for key in keys if await shared.may(service, publishing(DEAD_EXCHANGE, key))}

    assert may == {key for key in keys if key.startswith(f"{service}.")}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_binds_to_the_retries_and_the_dead_of_its_own_and_the_api_to_all_the_dead(
    shared: Realm, service: str
) -> None:
    queue, keys = queues_of(service)[0], [queue.name for queue in QUEUES]

    retried = {key for key in keys if await shared.may(service, binding(queue.name, RETRY_EXCHANGE, key))}
    dead = {key for key in keys if await shared.may(service, binding(queue.name, DEAD_EXCHANGE, key))}

    own = {key for key in keys if key.startswith(f"{service}.")}
    assert retried == own
    assert dead == (set(keys) if service == "api" else own)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_has_no_way_round_the_three_exchanges(shared: Realm, service: str) -> None:
    for key in (queue.name for queue in QUEUES):
        assert not await shared.may(service, publishing("", key))
    for exchange in ("amq.topic", "amq.direct", "amq.fanout"):
        assert not await shared.may(service, publishing(exchange, "job.created"))
        assert not await shared.may(service, binding(queues_of(service)[0].name, exchange, "#"))


@pytest.mark.parametrize("service", SERVICES)
async def test_only_the_api_makes_live_queues(shared: Realm, service: str) -> None:
    async def make(channel: AbstractChannel) -> None:
        queue = await channel.declare_queue("pixorly.live.worker-1", exclusive=True)
        await queue.bind(EVENTS_EXCHANGE, "image.uploaded")
        await queue.get(fail=False)

    assert await shared.may(service, make) == (service == "api")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_is_nobody_at_the_management_api(shared: Realm, servers: Access, service: str) -> None:
    user = urlsplit(shared.urls[service]).username or ""
    address = urlsplit(servers.management_url)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            f"http://{address.hostname}:{address.port}/api/overview", auth=httpx.BasicAuth(user, PASSWORD)
        )

    assert answer.status_code == 401


# Each at its work --------------------------------------------------------------------------------------------------


@dataclass
class Shift:
    """A handler that, of one event, fails once for a while and once for good, and works otherwise."""

    about: Event
    raises: list[Exception] = field(default_factory=lambda: [ProviderUnavailable(), ZeroDivisionError()])
    seen: list[Event] = field(default_factory=list)

    async def handle(self, event: Event, _: Delivery) -> Following:
        if event == self.about:
            self.seen.append(event)
            if self.raises:
                raise self.raises.pop(0)
        return None


def subscription(queue: WorkQueue, shift: Shift) -> Subscription:
    return Subscription(queue=queue, handler=shift.handle, reads=tuple(EVENTS.values()))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_does_its_whole_work_with_the_rights_it_has(realm: Realm, service: str) -> None:
    """It publishes, takes, retries and puts aside, and its probes answer; nothing of it needs more."""
    queue = queues_of(service)[0]
    event = SAMPLES[queue.events[0].type]
    shift = Shift(event)
    settings = realm.settings(service, retry_delays_s="1,2,4")
    publisher = Publisher(settings, service)
    consumer = Consumer(settings, service, publisher, [subscription(queue, shift) for queue in queues_of(service)])
    await publisher.start()
    await consumer.start()
    try:
        for published in (*PUBLISHES[service], *REPEATS.get(service, ())):
            await publisher.publish(SAMPLES[published.type])
        await publisher.probe()
        async with realm.channel() as channel:
            exchange = await channel.get_exchange(RETRY_EXCHANGE)
            await exchange.publish(
                aio_pika.Message(event.to_json(), type=event.type, message_id="m"), queue.name, mandatory=True
            )
            await until(lambda: len(shift.seen) == 2)

            async def buried() -> bool:
                graveyard = await channel.declare_queue(queue.dead, passive=True)
                return graveyard.declaration_result.message_count == 1

            await until(buried)
        await consumer.probe()
    finally:
        await consumer.stop(5)
        await publisher.close()
