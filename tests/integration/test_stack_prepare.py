"""What each service may do on the servers, and what it may not."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import pytest

from pixorly import migrate, topology
from pixorly_stack import handover
from pixorly_stack.access import Access
from pixorly_stack.files import Secrets
from pixorly_stack.management import Management
from pixorly_stack.prepare import DATABASES, Prepared, prepare

# The roles and databases have names of their own on the shared server: one process at a time.
pytestmark = pytest.mark.xdist_group("stack-prepare")
REFUSED = (aio_pika.exceptions.ChannelClosed, aio_pika.exceptions.DeliveryError)


@pytest.fixture
async def prepared(servers: Access, amqp_url: str, tmp_path: Path) -> Prepared:
    access = Access(servers.database_url, amqp_url, servers.management_url, servers.s3)
    return await prepare(access, Secrets(tmp_path / "secrets.json"), own_server=True)


@pytest.mark.parametrize("service", DATABASES)
async def test_a_service_makes_tables_in_its_own_database(prepared: Prepared, service: str) -> None:
    connection = await asyncpg.connect(prepared.database_urls[service])

    await connection.execute("CREATE TABLE mine (id int)")
    await connection.execute("DROP TABLE mine")

    await connection.close()


@pytest.mark.parametrize("database", ["pixorly_ledger", "pixorly_generator", "postgres", "template1"])
async def test_a_service_cannot_reach_any_other_database(prepared: Prepared, database: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(urlsplit(prepared.database_urls["api"])._replace(path=f"/{database}").geturl())


async def test_a_service_reads_its_own_queues_only(prepared: Prepared) -> None:
    async with await aio_pika.connect(prepared.amqp_urls["ledger"]) as connection:
        channel = await connection.channel()
        await (await channel.get_queue("ledger.settle_job", ensure=False)).get(fail=False)

        with pytest.raises(REFUSED, match="ACCESS_REFUSED"):
            await (await channel.get_queue("api.follow_job", ensure=False)).get(fail=False)


async def test_a_service_publishes_its_own_events_only(prepared: Prepared) -> None:
    async with await aio_pika.connect(prepared.amqp_urls["uploader"]) as connection:
        channel = await connection.channel()
        events = await channel.get_exchange(topology.EVENTS_EXCHANGE, ensure=False)
        await events.publish(aio_pika.Message(b"{}"), "image.uploaded")

        with pytest.raises(REFUSED, match="ACCESS_REFUSED"):
            await events.publish(aio_pika.Message(b"{}"), "job.completed")


async def test_the_whole_topology_is_there(prepared: Prepared) -> None:
    async with await aio_pika.connect(prepared.amqp_admin_url) as connection:
        channel = await connection.channel()
        for queue in topology.QUEUES:
            await channel.declare_queue(queue.name, passive=True)
            await channel.declare_queue(queue.dead, passive=True)


async def test_the_command_writes_down_how_each_service_reaches_servers_of_others(
    servers: Access, amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PIXORLY_DATABASE_URL": servers.database_url,
        "PIXORLY_AMQP_URL": amqp_url,
        "PIXORLY_RABBITMQ_MANAGEMENT_URL": servers.management_url,
    }.items():
        monkeypatch.setenv(name, value)

    await asyncio.to_thread(handover.prepare, tmp_path / "secrets.json", env_dir=tmp_path / "env", bucket=False)

    told = dict(line.split("=", 1) for line in (tmp_path / "env/ledger.env").read_text().splitlines())
    monkeypatch.setenv("PIXORLY_LEDGER_DATABASE_URL", told["PIXORLY_LEDGER_DATABASE_URL"])
    await asyncio.to_thread(migrate.main, ["ledger"])
    connection = await asyncpg.connect(told["PIXORLY_LEDGER_DATABASE_URL"])
    assert await connection.fetchval("SELECT count(*) FROM charges") == 0
    await connection.close()
    async with await aio_pika.connect(told["PIXORLY_AMQP_URL"]) as broker:
        channel = await broker.channel()
        await (await channel.get_queue("ledger.settle_job", ensure=False)).get(fail=False)


@pytest.mark.long
async def test_while_passwords_are_rotated_a_services_first_and_second_users_do_the_same_work(
    servers: Access, prepared: Prepared, tmp_path: Path
) -> None:
    access = Access(servers.database_url, prepared.amqp_admin_url, servers.management_url, servers.s3)

    turned = await prepare(access, Secrets(tmp_path / "secrets.json", "b"), own_server=True)

    assert not {*turned.database_urls.values(), *turned.amqp_urls.values()} & {
        *prepared.database_urls.values(),
        *prepared.amqp_urls.values(),
    }
    first = await asyncpg.connect(prepared.database_urls["ledger"])
    second = await asyncpg.connect(turned.database_urls["ledger"])
    await second.execute("CREATE TABLE made_in_turn (id int)")
    assert await second.fetchval("SELECT session_user") == "pixorly_ledger_b"
    # Neither role's end takes with it what it made.
    await first.execute("DROP TABLE made_in_turn")
    await first.close()
    await second.close()
    for urls in (prepared.amqp_urls, turned.amqp_urls):
        async with await aio_pika.connect(urls["ledger"]) as connection:
            channel = await connection.channel()
            await (await channel.get_queue("ledger.settle_job", ensure=False)).get(fail=False)
            with pytest.raises(REFUSED, match="ACCESS_REFUSED"):
                await (await channel.get_queue("api.follow_job", ensure=False)).get(fail=False)
        async with await aio_pika.connect(urls["uploader"]) as connection:
            channel = await connection.channel()
            events = await channel.get_exchange(topology.EVENTS_EXCHANGE, ensure=False)
            await events.publish(aio_pika.Message(b"{}"), "image.uploaded")
            with pytest.raises(REFUSED, match="ACCESS_REFUSED"):
                await events.publish(aio_pika.Message(b"{}"), "job.completed")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(urlsplit(turned.database_urls["api"])._replace(path="/pixorly_ledger").geturl())
    # A repeat keeps the passwords, those of the first users as well.
    again = await prepare(access, Secrets(tmp_path / "secrets.json", "b"), own_server=True)
    assert again == turned
    assert await prepare(access, Secrets(tmp_path / "secrets.json"), own_server=True) == prepared
    await _dropped(servers, [f"pixorly_{service}_b" for service in DATABASES])


async def test_a_users_connections_outlive_its_password_but_not_itself(servers: Access, amqp_url: str) -> None:
    """Why passwords take turns: nothing would show that one was changed in place, until the next reconnect."""
    vhost, name = urlsplit(amqp_url).path.removeprefix("/"), f"rotated-{uuid4().hex[:8]}"
    place = urlsplit(amqp_url).netloc.rpartition("@")[2]
    url = urlsplit(amqp_url)._replace(netloc=f"{name}:first@{place}").geturl()
    async with Management(servers.management_url) as management:
        await management.make_user(name, "first")
        await management.permit(name, vhost, {"configure": ".*", "write": ".*", "read": ".*"})
        live = await aio_pika.connect(url)
        closed = asyncio.Event()
        live.close_callbacks.add(lambda *_: closed.set())

        await management.make_user(name, "second")
        channel = await live.channel()
        queue = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(aio_pika.Message(b"still here"), queue.name)
        assert (await queue.get(no_ack=True)).body == b"still here"
        with pytest.raises(aio_pika.exceptions.AMQPError):
            await aio_pika.connect(url)

    async with httpx.AsyncClient(trust_env=False) as http:
        (await http.delete(f"{servers.management_url}/api/users/{name}")).raise_for_status()
    await asyncio.wait_for(closed.wait(), 60)


async def _dropped(servers: Access, roles: list[str]) -> None:
    """Roles are the whole server's, and outlive the test."""
    admin = await asyncpg.connect(servers.database_url)
    for role in roles:
        await admin.execute(f"DROP ROLE {role}")
    await admin.close()


async def test_a_repeat_changes_nothing(servers: Access, prepared: Prepared, tmp_path: Path) -> None:
    access = Access(servers.database_url, prepared.amqp_admin_url, servers.management_url, servers.s3)

    assert await prepare(access, Secrets(tmp_path / "secrets.json"), own_server=True) == prepared
