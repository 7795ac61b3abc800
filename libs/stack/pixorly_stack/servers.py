"""PostgreSQL, RabbitMQ and S3: started here, or somebody else's where the environment names them."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from pixorly_stack.access import Access, S3Access
from pixorly_stack.files import Secrets
from pixorly_stack.keeper import Keeper
from pixorly_stack.ports import Ports
from pixorly_stack.postgres import Postgres
from pixorly_stack.rabbitmq import RabbitMQ, must_be_fetched
from pixorly_stack.s3 import ObjectStore
from pixorly_stack.settings import StackSettings
from pixorly_stack.units import Unit

START_WITHIN_S = 180.0
ACCESS_KEY_ID = "pixorly"


class Servers:
    """The three servers, from the moment they are ready until the end of the block.

    Those that were started here are started again when they die.
    """

    def __init__(
        self,
        folder: Path,
        settings: StackSettings,
        *,
        durable: bool = True,
        on_change: Callable[[Keeper], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.keepers: list[Keeper] = []
        self._folder = folder.absolute()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._settings = settings
        self._durable = durable
        self._on_change = on_change
        self._say = say
        self._secrets = Secrets(self._folder / "secrets.json")
        self.ports = Ports(self._folder / "ports.json")
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start what has to be started, and return when all of it is ready.

        Raises:
            PartMissingError: A server can neither be reached by a URL nor be started here.
            StartError: A server did not become ready.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop)
            # RabbitMQ is the slowest by far; what the others need is done meanwhile.
            parts = (self._start_rabbitmq(), self._start_postgres(), self._start_s3())
            await all_or_first_error(parts)
            self._running = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what was started here."""
        await self._running.aclose()

    @property
    def access(self) -> Access:
        """How to reach them, as someone who may do everything."""
        return Access(self._database_url(), self._amqp_url(), self._management_url(), self._s3_access())

    def _database_url(self) -> str:
        return revealed(self._settings.database_url) or self._postgres().url

    def _amqp_url(self) -> str:
        return revealed(self._settings.amqp_url) or self._rabbitmq().url

    def _management_url(self) -> str:
        if amqp_url := revealed(self._settings.amqp_url):
            return revealed(self._settings.rabbitmq_management_url) or usual_management_url(amqp_url)
        return self._rabbitmq().management_url

    def _s3_access(self) -> S3Access:
        if self._settings.s3_endpoint_url is None:
            return self._s3().access
        return S3Access.of(self._settings)

    def _postgres(self) -> Postgres:
        port, password = self.ports.port("postgres"), self._secrets["postgres"]
        folder = self._folder / "postgres"
        return Postgres(folder, port, password, self._settings.postgres_bin, durable=self._durable)

    def _rabbitmq(self) -> RabbitMQ:
        settings = self._settings
        folder = self._folder / "rabbitmq"
        return RabbitMQ(folder, self.ports, self._secrets["rabbitmq"], settings.cache_dir, settings.rabbitmq_bin)

    def _s3(self) -> ObjectStore:
        return ObjectStore(self._folder / "s3", self.ports, ACCESS_KEY_ID, self._secrets["s3"])

    async def _start_postgres(self) -> None:
        if self._settings.database_url is None:
            await self._keep(await self._postgres().prepare())

    async def _start_rabbitmq(self) -> None:
        if self._settings.amqp_url is None:
            if must_be_fetched(self._settings.cache_dir, self._settings.rabbitmq_bin):
                self._say("fetching RabbitMQ from the system's packages, this once (35 MB, nothing is installed)")
            for unit in await self._rabbitmq().prepare():
                await self._keep(unit)

    async def _start_s3(self) -> None:
        if self._settings.s3_endpoint_url is None:
            await self._keep(await self._s3().prepare())

    async def _keep(self, unit: Unit) -> None:
        if not self._durable:
            unit = replace(unit, stop_signal=signal.SIGKILL)  # nobody wants the data, so nobody waits for it
        keeper = Keeper(unit, self._folder / "logs", self._on_change)
        self.keepers.append(keeper)
        await keeper.start(START_WITHIN_S)

    async def _stop(self) -> None:
        """Stop the servers at once, and RabbitMQ's name server when nobody needs it any more."""
        await asyncio.gather(*(keeper.stop() for keeper in self.keepers if keeper.unit.shown))
        await asyncio.gather(*(keeper.stop() for keeper in self.keepers if not keeper.unit.shown))


async def all_or_first_error(tasks: Iterable[Coroutine[None, None, None]]) -> None:
    """Await all of these together until they are done or failed, and then raise the first failure."""
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def revealed(secret: SecretStr | None) -> str | None:
    """Return what a secret hides."""
    return None if secret is None else secret.get_secret_value()


def usual_management_url(amqp_url: str) -> str:
    """Return where RabbitMQ's management API usually is, with the user of the AMQP URL."""
    parts = urlsplit(amqp_url)
    user = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
    scheme, port = ("https", 15671) if parts.scheme == "amqps" else ("http", 15672)
    return f"{scheme}://{user}@{parts.hostname or 'localhost'}:{port}"
