"""The supervisor: it starts everything in order, keeps it running, and stops it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from pixorly_stack.accounts import demo_key
from pixorly_stack.errors import StackError, StartError
from pixorly_stack.files import Secrets, read_json, write_json
from pixorly_stack.folder import EXTERNAL, Folder, Record, Row
from pixorly_stack.keeper import Keeper
from pixorly_stack.logs import keep_small
from pixorly_stack.prepare import Prepared, prepare
from pixorly_stack.processes import Identity
from pixorly_stack.servers import Servers, all_or_first_error, revealed
from pixorly_stack.services import OBSERVER, SERVICES, Service, Tellings
from pixorly_stack.settings import StackSettings, environment

START_WITHIN_S = 180.0
ORDER = ("rabbitmq", "postgres", "s3", "api", "api-worker", "generator", "uploader", "ledger", "emulator", "observer")
"""In which people see them."""
EVERY_FAILURE = (StackError, OSError)


class Supervisor:
    """Runs the stack of one folder.

    Args:
        settings: Where, and which parts are somebody else's.
        say: Told in words what happens, a line at a time.
        emulator: Whether to run the provider's emulator, too.
        observe: Whether to collect traces and metrics, and show them.
        services: The table of services.
    """

    def __init__(
        self,
        settings: StackSettings,
        say: Callable[[str], None],
        *,
        emulator: bool = False,
        observe: bool = False,
        services: Sequence[Service] = SERVICES,
    ) -> None:
        self.folder = Folder(settings.dir)
        self._settings = settings
        self._say = say
        self._emulator = emulator
        self._observed = self.folder.root / "observed.sqlite" if observe else None
        wanted = {"emulator": emulator, OBSERVER: observe}
        self._services = [service for service in services if not service.optional or wanted.get(service.name)]
        self._keepers: list[Keeper] = []
        self._status = "starting"

    async def run(self, told_to_stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Run everything until told to stop; call `ready` when all of it is.

        Raises:
            RunningAlreadyError: Another supervisor has this folder.
            StackError: Something did not come up; the rest has been stopped again.
        """
        self.folder.make()
        with self.folder.held():
            self.folder.clear_away()
            logs = asyncio.create_task(keep_small(self.folder.logs))
            running = asyncio.create_task(self._run(ready))
            told = asyncio.create_task(told_to_stop.wait())
            try:
                await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
                self._change_status("stopping", running)
            finally:
                told.cancel()
                logs.cancel()
                running.cancel()
                await self._end(running)

    def hurry(self) -> None:
        """Kill what still runs, in the middle of a stop."""
        for keeper in self._keepers:
            keeper.kill()

    async def _end(self, running: asyncio.Task[None]) -> None:
        """Wait until all has stopped, and write down how it ended."""
        try:
            await running
        except asyncio.CancelledError:
            self._write(Record("stopped"))
        except EVERY_FAILURE as error:
            self._write(
                Record("failed", error=str(error), failed=error.name if isinstance(error, StartError) else None)
            )
            raise

    def _change_status(self, status: str, running: asyncio.Task[None]) -> None:
        if not running.done():
            self._status = status
            self._write()

    async def _run(self, ready: Callable[[], None]) -> None:
        self._write()
        secrets = Secrets(self.folder.root / "secrets.json")
        async with Servers(self.folder.root, self._settings, on_change=self._note, say=self._say) as servers:
            own_server = self._settings.database_url is None
            prepared = await prepare(servers.access, secrets, own_server=own_server)
            if not prepared.own_users:
                self._say("RabbitMQ's management API does not answer: all services share the user of PIXORLY_AMQP_URL")
            tellings = Tellings(environment(), prepared, secrets, servers.ports, self._observed)
            async with self._serving(tellings):
                await self._write_dev(tellings, prepared, servers, secrets)
                self._status = "ready"
                self._write()
                ready()
                await asyncio.Event().wait()

    @asynccontextmanager
    async def _serving(self, tellings: Tellings) -> AsyncIterator[None]:
        root = self.folder.root.parent
        units = [tellings.unit(service, root, emulator=self._emulator) for service in self._services]
        keepers = [Keeper(unit, self.folder.logs, self._note) for unit in units]
        self._keepers += keepers
        try:
            await all_or_first_error(keeper.start(START_WITHIN_S) for keeper in keepers)
            yield
        finally:
            # The observer last: what services say when they stop is worth hearing.
            for last in (False, True):
                ending = (keeper for keeper in keepers if (keeper.unit.name == OBSERVER) is last)
                await asyncio.gather(*(keeper.stop() for keeper in ending))

    async def _write_dev(self, tellings: Tellings, prepared: Prepared, servers: Servers, secrets: Secrets) -> None:
        """Write down how to use the stack, for people, tests and the `pixorly` command."""
        known = read_json(self.folder.dev) or {}
        api_url, admin_key, s3 = tellings.url("api"), secrets["admin-key"], prepared.s3
        key = await demo_key(api_url, admin_key, known.get("api_key"))
        dev = {
            "api_url": api_url,
            "api_key": key,
            "admin_key": admin_key,
            "amqp_url": prepared.amqp_admin_url,
            "s3_endpoint_url": s3.endpoint_url,
            "emulator_url": tellings.url("emulator") if self._emulator else None,
            "observe_url": tellings.url(OBSERVER) if self._observed else None,
            "database_url": servers.access.database_url,
            "rabbitmq_management_url": servers.access.management_url,
            "s3": s3.environment(),
            "service_token": secrets["service-token"],
            "service_urls": {service.name: tellings.url(service.name) for service in self._services},
        }
        write_json(self.folder.dev, dev)

    def _note(self, keeper: Keeper) -> None:
        """Write down a change, and say what people want to know."""
        if keeper not in self._keepers:
            self._keepers.append(keeper)
        self._write()
        if keeper.unit.shown and self._status != "stopping" and (words := keeper.in_words()):
            self._say(words)

    def _write(self, record: Record | None = None) -> None:
        me = Identity.of(os.getpid())
        supervisor = Row("supervisor", me.pid, None, self._status, me.started) if me else None
        rows = sorted([*self._external(), *map(_row, self._keepers)], key=_place)
        self.folder.write(record or Record(self._status, supervisor, rows))

    def _external(self) -> list[Row]:
        """Return the rows of the parts that are somebody else's."""
        settings = self._settings
        urls = {
            "rabbitmq": revealed(settings.amqp_url),
            "postgres": revealed(settings.database_url),
            "s3": settings.s3_endpoint_url,
        }
        return [Row(name, None, urlsplit(url).port, EXTERNAL) for name, url in urls.items() if url]


def _place(row: Row) -> int:
    return ORDER.index(row.name) if row.name in ORDER else len(ORDER)


def _row(keeper: Keeper) -> Row:
    identity, unit = keeper.identity, keeper.unit
    pid, started = (identity.pid, identity.started) if identity else (None, None)
    return Row(unit.name, pid, unit.port, keeper.state, started, unit.shown)
