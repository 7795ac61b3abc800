"""What the services find on the servers: databases, roles, a virtual host, users, the topology, the bucket."""

from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import aio_pika
import asyncpg

from pixorly import topology
from pixorly.bucket import ensure_bucket
from pixorly.errors import PixorlyError
from pixorly.settings import StorageSettings
from pixorly_stack import store
from pixorly_stack.access import Access, S3Access
from pixorly_stack.errors import StackError
from pixorly_stack.files import Secrets
from pixorly_stack.management import Management, ManagementError

DATABASES = ("api", "generator", "ledger")
USERS = ("api", "generator", "ledger", "uploader")
VHOST = "pixorly"
EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """How the services reach the servers, each as itself.

    Attributes:
        database_urls: By service, its own database with its own role.
        amqp_urls: By service, with its own user.
        amqp_admin_url: With the user that may do everything.
        own_users: Whether each service has a user of its own (a server without its management API leaves them one).
    """

    database_urls: dict[str, str] = field(repr=False)
    amqp_urls: dict[str, str] = field(repr=False)
    amqp_admin_url: str = field(repr=False)
    own_users: bool
    s3: S3Access


async def prepare(
    access: Access, secrets: Secrets, *, own_server: bool, storage: StorageSettings | None = None, bucket: bool = True
) -> Prepared:
    """Make what is missing on the servers, and return how the services reach them. A repeat changes nothing.

    Where the secrets are those of a turn, its users are made beside the first, which stay as they are. With
    `own_server`, the database that every PostgreSQL has is closed to the services as well. `storage` says more about
    the bucket than how to reach it; without `bucket` it is left alone.

    Raises:
        StackError: A server refused a step.
    """
    database_urls = await _prepare_databases(access.database_url, secrets, own_server=own_server)
    amqp_urls, admin_url, own_users = await _prepare_broker(access, secrets)
    await _declare_topology(admin_url)
    if bucket:
        try:
            await ensure_bucket(storage or access.s3.settings())
        except PixorlyError as error:
            raise StackError(str(error)) from error
    return Prepared(database_urls, amqp_urls, admin_url, own_users, access.s3)


async def _prepare_databases(admin_url: str, secrets: Secrets, *, own_server: bool) -> dict[str, str]:
    urls = {}
    try:
        connection = await asyncpg.connect(admin_url, timeout=10)
        try:
            for service in DATABASES:
                name, password = f"pixorly_{service}", secrets[secrets.in_turn(f"database-{service}")]
                role = secrets.in_turn(name).replace("-", "_")
                if role == name:
                    await store.make_role(connection, name, password)
                    await store.make_database(connection, name, name)
                else:
                    await store.make_stand_in(connection, role, name, password)
                urls[service] = _with(admin_url, role, password, name)
            if own_server:
                for name in ("postgres", "template1"):
                    await store.close_database(connection, name)
        finally:
            await connection.close(timeout=10)
    except (asyncpg.PostgresError, OSError) as error:
        raise StackError(f"the databases could not be made on PostgreSQL: {error}") from error
    return urls


async def _prepare_broker(access: Access, secrets: Secrets) -> tuple[dict[str, str], str, bool]:
    """Return the URL of each service, that of the admin, and whether the services have users of their own."""
    vhost = unquote(urlsplit(access.amqp_url).path.removeprefix("/")).strip("/") or VHOST
    admin = unquote(urlsplit(access.amqp_url).username or "guest")
    async with Management(access.management_url) as management:
        try:
            await management.overview()
        except ManagementError:
            return dict.fromkeys(USERS, access.amqp_url), access.amqp_url, False
        await management.make_vhost(vhost)
        await management.permit(admin, vhost, EVERYTHING)
        urls = {}
        for service in USERS:
            user, password = secrets.in_turn(f"pixorly-{service}"), secrets[secrets.in_turn(f"broker-{service}")]
            await _make_user(management, vhost, service, user, password)
            urls[service] = _with(access.amqp_url, user, password, vhost)
    parts = urlsplit(access.amqp_url)
    return urls, urlunsplit(parts._replace(path=f"/{quote(vhost, safe='')}")), True


async def _declare_topology(url: str) -> None:
    try:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            await topology.declare(channel, topology.QUEUES)
    except (aio_pika.exceptions.AMQPError, OSError) as error:
        raise StackError(f"RabbitMQ's queues could not be declared: {error}") from error


async def _make_user(management: Management, vhost: str, service: str, user: str, password: str) -> None:
    await management.make_user(user, password)
    await management.permit(user, vhost, topology.permissions(service))
    for exchange, rights in topology.topic_permissions(service).items():
        await management.permit_topics(user, vhost, exchange, rights)


def _with(url: str, user: str, password: str, path: str) -> str:
    """Return a URL with another user and another path."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{place}", path=f"/{quote(path, safe='')}"))
