"""What changes while a client looks on: hints from every process of the api, and a look at the database behind them.

A hint says which job changed and whose it is; it may be lost. As long as hints come, the database is asked for the
versions of the jobs that are watched only now and then; without them, several times a second, in one query for all
that this process watches. So any number of processes may serve streams, and an outage of RabbitMQ only slows them.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar
from uuid import UUID

import structlog

from pixorly import metrics, telemetry
from pixorly.db import Database
from pixorly.errors import OutageError
from pixorly_api import store
from pixorly_api.hints import Changed

_log = structlog.get_logger()
_Key = TypeVar("_Key")
_Watch = TypeVar("_Watch")
_AWAY_S: Final = 1.0
"""How often all jobs of a watched user are looked at while no hints come, and how long an outage is left alone."""
_HINTED_POLL_S: Final = 2.0

WATCHES = metrics.gauge("pixorly_watches", "Clients who wait for a change: streams, and requests that wait.")


class JobWatch:
    """Somebody who follows a job.

    Args:
        known: Whether the job is read after this began. Else it counts as changed: what happened between the reading
            and this sent no hint.
    """

    def __init__(self, *, known: bool = False) -> None:
        self._flag = asyncio.Event()
        if not known:
            self._flag.set()
        self._version = 0

    async def changed(self, version: int, timeout_s: float) -> bool:
        """Wait until the job may have another version than this; False if it has not within `timeout_s`."""
        self._version = version
        if not await _set_within(self._flag, timeout_s):
            return False
        self._flag.clear()
        return True

    def hint(self) -> None:
        """Have it look."""
        self._flag.set()

    def compare(self, version: int | None) -> None:
        """Have it look if its version is not this one."""
        if version is not None and version != self._version:
            self._flag.set()


class UserWatch:
    """Somebody who follows all jobs of a user. A new watch is to look at all of them."""

    def __init__(self) -> None:
        self._flag = asyncio.Event()
        self._flag.set()
        self._jobs: set[UUID] = set()
        self._all = True

    async def changed(self, timeout_s: float) -> set[UUID] | None:
        """Wait for a change, `timeout_s` at most; return which jobs changed, None where it may be any of them."""
        if not await _set_within(self._flag, timeout_s):
            return None
        self._flag.clear()
        jobs, looks_at_all = self._jobs, self._all
        self._jobs, self._all = set(), False
        return None if looks_at_all else jobs

    def hint(self, job_id: UUID) -> None:
        """Have it look at a job."""
        self._jobs.add(job_id)
        self._flag.set()

    def look(self) -> None:
        """Have it look at all jobs."""
        self._all = True
        self._flag.set()


async def _set_within(flag: asyncio.Event, timeout_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            return await flag.wait()
    return False


class Watcher:
    """Tells who watches that something has changed.

    Args:
        database: Where jobs are.
        poll_s: How often to look while no hints come.
        hinted: Tells whether hints come.

    Attributes:
        stopping: Whether nobody is to wait any more, since the process is told to stop.
    """

    def __init__(self, database: Database, *, poll_s: float = 0.1, hinted: Callable[[], bool] = lambda: False) -> None:
        self._database = database
        self._poll_s = poll_s
        self._hinted = hinted
        self._jobs: defaultdict[UUID, set[JobWatch]] = defaultdict(set)
        self._users: defaultdict[str, set[UserWatch]] = defaultdict(set)
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopping = False

    @contextmanager
    def job(self, job_id: UUID, *, known: bool = False) -> Iterator[JobWatch]:
        """Watch a job; `known` tells that it will be read only now."""
        # Who comes after all were woken to go is to go, too.
        watch = JobWatch(known=known and not self.stopping)
        with WATCHES.track_inprogress(), _kept(self._jobs, job_id, watch):
            self._look_on()
            yield watch

    @contextmanager
    def user(self, user_id: str) -> Iterator[UserWatch]:
        """Watch all jobs of a user."""
        watch = UserWatch()
        with WATCHES.track_inprogress(), _kept(self._users, user_id, watch):
            self._look_on()
            yield watch

    def hear(self, changes: Iterable[Changed]) -> None:
        """Take hints."""
        for change in changes:
            telemetry.keep(change.trace_id)
            for watch in self._jobs.get(change.job_id, ()):
                watch.hint()
            for one in self._users.get(change.user_id, ()):
                one.hint(change.job_id)

    def stop(self) -> None:
        """Let nobody wait any more. A signal's handler may call it."""
        self.stopping = True
        if self._loop:
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for watches in self._jobs.values():
            for watch in watches:
                watch.hint()
        self._look_at_users()

    def _look_at_users(self) -> None:
        for watches in self._users.values():
            for watch in watches:
                watch.look()

    def _look_on(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._looking is None or self._looking.done():
            self._looking = telemetry.detached(self._look())

    async def _look(self) -> None:
        """Look for what no hint told of, as long as anybody watches."""
        loop = asyncio.get_running_loop()
        users_at = loop.time() + _AWAY_S
        while self._jobs or self._users:
            await asyncio.sleep(_HINTED_POLL_S if self._hinted() else self._poll_s)
            try:
                await self._compare()
            except OutageError as error:
                _log.warning("watching waits", part=error.part)
                await asyncio.sleep(_AWAY_S)
            if not self._hinted() and loop.time() >= users_at:
                users_at = loop.time() + max(_AWAY_S, self._poll_s)
                self._look_at_users()

    async def _compare(self) -> None:
        if not self._jobs:
            return
        async with self._database.connection() as connection:
            versions = await store.versions(connection, list(self._jobs))
        for job_id, watches in self._jobs.items():
            for watch in watches:
                watch.compare(versions.get(job_id))

    async def close(self) -> None:
        """Stop looking."""
        if self._looking:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking


@contextmanager
def _kept(by_key: defaultdict[_Key, set[_Watch]], key: _Key, watch: _Watch) -> Iterator[None]:
    by_key[key].add(watch)
    try:
        yield
    finally:
        by_key[key].discard(watch)
        if not by_key[key]:
            del by_key[key]
