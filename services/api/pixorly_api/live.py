"""What changes while a client looks on: one look at the database for everybody who waits in this process."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from pixorly.db import Database
from pixorly.errors import OutageError
from pixorly_api import store

_log = structlog.get_logger()
_AWAY_S: Final = 1.0


@dataclass(eq=False, slots=True)
class _Watch:
    """Somebody who has seen a version of a job and wants the next."""

    job_id: UUID
    version: int
    changed: asyncio.Event


class Watcher:
    """Tells who waits that a job has changed.

    While anyone waits, one query asks for the versions of all jobs that are waited for, every `poll_s` seconds.

    Args:
        database: Where jobs are.
        poll_s: How often to look.

    Attributes:
        stopping: Whether nobody is to wait any more, since the process is told to stop.
    """

    def __init__(self, database: Database, *, poll_s: float = 0.1) -> None:
        self.stopping = False
        self._database = database
        self._poll_s = poll_s
        self._watches: set[_Watch] = set()
        self._looking: asyncio.Task[None] | None = None

    async def changed(self, job_id: UUID, version: int, timeout_s: float) -> bool:
        """Wait until a job has another version than this; False if it has not within `timeout_s`, or we stop before."""
        if self.stopping:
            return False
        watch = _Watch(job_id, version, asyncio.Event())
        self._watches.add(watch)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(timeout_s):
                await watch.changed.wait()
                return not self.stopping
        except TimeoutError:
            return False
        finally:
            self._watches.discard(watch)

    async def _look(self) -> None:
        while self._watches:
            await asyncio.sleep(self._poll_s)
            if self.stopping:
                for watch in self._watches:
                    watch.changed.set()
                return
            try:
                async with self._database.connection() as connection:
                    versions = await store.versions(connection, {watch.job_id for watch in self._watches})
            except OutageError as error:
                _log.warning("watching waits", part=error.part)
                await asyncio.sleep(_AWAY_S)
                continue
            for watch in self._watches:
                if versions.get(watch.job_id, watch.version) != watch.version:
                    watch.changed.set()

    def stop(self) -> None:
        """Let nobody wait any more; who does is told within `poll_s` seconds. A signal's handler may call it."""
        self.stopping = True

    async def close(self) -> None:
        """Stop looking."""
        if self._looking:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
