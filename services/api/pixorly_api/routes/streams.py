"""What happens, live: server-sent events of one job, or of all jobs of the caller."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Header
from fastapi.responses import StreamingResponse

from pixorly import telemetry
from pixorly.errors import OutageError
from pixorly.ids import first_id
from pixorly_api import store, views
from pixorly_api.edge import JsonRoute
from pixorly_api.live import JobWatch, UserWatch
from pixorly_api.parts import JobId, Listener, P, Parts, Reader
from pixorly_api.problems import documented
from pixorly_api.schemas import StreamToken
from pixorly_api.store import Record

router = APIRouter(prefix="/v1", tags=["streams"], route_class=JsonRoute)

HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Of an answer that comes bit by bit: nobody on its way may hold it back."""
_OVERLAP: Final = timedelta(seconds=30)
"""A job's end is written with the time its transaction began at, and may be seen this much later."""
_FARTHEST: Final = timedelta(days=1)
_LIVES_LONGER: Final = timedelta(hours=1)
"""By how much a job may outlive its deadline while a part is away."""
_MOST_JOBS: Final = 1000
STILL_HERE: Final = b": still here\n\n"
"""A comment, which says nothing and keeps a quiet stream open."""


async def _watch(parts: P, generation_id: JobId) -> AsyncIterator[JobWatch]:
    """Watch a job until the answer is sent: from before it is read, so that one reading is enough to begin with."""
    with parts.watcher.job(generation_id, known=True) as watch:
        yield watch


Watch = Annotated[JobWatch, Depends(_watch)]


@router.get(
    "/generations/{generation_id}/events",
    operation_id="streamGeneration",
    summary="Follow a job live",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **documented(401, 403, 404, 422, 429, 500, 503)},
)
async def of_one(parts: P, caller: Listener, generation_id: JobId, watch: Watch) -> StreamingResponse:
    """Stream server-sent events: `snapshot`, then `update` with the job each time, then `settled`, and the end.

    The id of an event is the job's version. Who comes back with `Last-Event-ID` gets the job as it is then, so
    nothing final is ever missed: neither where the connection breaks, nor where the server is stopped and ends the
    stream without `settled`.
    """
    record = await parts.records.of(caller.user_id, generation_id)
    return StreamingResponse(_job_events(parts, record, watch), media_type="text/event-stream", headers=HEADERS)


async def _job_events(parts: Parts, record: Record, watch: JobWatch) -> AsyncIterator[bytes]:
    """Yield a job's events until it is settled, or the process is told to stop."""
    yield await _event(parts, "snapshot", record, record.version)
    while not record.job.settled:
        if not await watch.changed(record.version, parts.settings.stream_keepalive_s):
            yield STILL_HERE
            continue
        if parts.watcher.stopping:
            return  # to come back, to another process, is what clients of such streams do
        try:
            newer = await parts.records.of(record.job.user_id, record.job.job_id)
        except OutageError as error:
            await asyncio.sleep(error.retry_after_s or 1)
            continue
        if newer.version != record.version and not newer.job.settled:
            yield await _event(parts, "update", newer, newer.version)
        record = newer
    yield await _event(parts, "settled", record, record.version)


@router.get(
    "/events",
    operation_id="streamAllGenerations",
    summary="Follow all jobs live",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **documented(401, 403, 422, 429, 500, 503)},
)
async def of_all(
    parts: P,
    caller: Listener,
    last_event_id: Annotated[str | None, Header(max_length=20, pattern=r"^[0-9]{0,16}$")] = None,
) -> StreamingResponse:
    """Stream server-sent events of all the caller's jobs, without an end.

    Of each open job there is a `snapshot`, then an `update` with the job each time one changes, and `settled` when it
    has ended. Who comes back with `Last-Event-ID` within a day also gets the jobs that were settled meanwhile, so
    nothing final is ever missed; one that was settled just before may come twice.
    """
    told_until = datetime.fromtimestamp(int(last_event_id) / 1e6, UTC) if last_event_id else None
    news = _News(parts, caller.user_id, told_until)
    return StreamingResponse(news.events(), media_type="text/event-stream", headers=HEADERS)


@dataclass(slots=True)
class _News:
    """What a client of all its user's jobs was told.

    Attributes:
        told_until: The database's time at the last look, an earlier connection's perhaps.
        began: From when on a job's end is news, also where the client never heard of the job.
        seen: The version that was told, and when the job was settled.
    """

    parts: Parts
    user_id: str
    told_until: datetime | None
    began: datetime | None = None
    seen: dict[UUID, tuple[int, datetime | None]] = field(default_factory=dict)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield events until the process is told to stop."""
        yield STILL_HERE
        first = True
        with self.parts.watcher.user(self.user_id) as watch:
            while not self.parts.watcher.stopping:
                try:
                    found, event_id = await self._look(watch)
                except OutageError as error:
                    watch.look()
                    await asyncio.sleep(error.retry_after_s or 1)
                    continue
                for record in found:
                    name = "settled" if record.job.settled else "snapshot" if first else "update"
                    yield await _event(self.parts, name, record, event_id)
                first = False
                if not found:
                    yield STILL_HERE

    async def _look(self, watch: UserWatch) -> tuple[list[Record], int]:
        """Return what is new, the oldest job first, and the id of an event that tells of it."""
        jobs = await watch.changed(self.parts.settings.stream_keepalive_s)
        async with self.parts.database.connection() as connection:
            now = await store.now(connection)
            since = max((self.told_until or now) - _OVERLAP, now - _FARTHEST)
            self.began = self.began or (since if self.told_until else now)
            if jobs is None:
                after = first_id(since - timedelta(seconds=self.parts.settings.job_deadline_s) - _LIVES_LONGER)
                found = await store.news_of(connection, self.user_id, after, since, _MOST_JOBS)
                self.told_until = now
            else:
                found = await store.records(connection, [(self.user_id, job_id) for job_id in jobs])
        return self._unseen(reversed(found), since, self.began), int(now.timestamp() * 1e6)

    def _unseen(self, found: Iterable[Record], since: datetime, began: datetime) -> list[Record]:
        """Return what was not told yet, and forget what will not be found again."""
        new = [
            record
            for record in found
            if self.seen.get(record.job.job_id, (0, None))[0] != record.version
            and (record.job.job_id in self.seen or not record.job.settled_at or record.job.settled_at >= began)
        ]
        self.seen.update({record.job.job_id: (record.version, record.job.settled_at) for record in new})
        for job_id in [job_id for job_id, (_, settled_at) in self.seen.items() if settled_at and settled_at < since]:
            del self.seen[job_id]
        return new


async def _event(parts: Parts, name: str, record: Record, event_id: int) -> bytes:
    with telemetry.visit(record.job.place, f"tell {name}", {"pixorly.job_id": str(record.job.job_id)}):
        shown = await views.generation(record, parts.links)
    return f"event: {name}\nid: {event_id}\ndata: {shown.model_dump_json()}\n\n".encode()


@router.post(
    "/stream-tokens",
    status_code=201,
    operation_id="createStreamToken",
    summary="Get a token for a browser's EventSource",
    responses=documented(401, 403, 413, 422, 429, 500, 503),
)
async def make_token(parts: P, caller: Reader) -> StreamToken:
    """Return a token that opens the caller's streams as `?token=…`, and nothing else, for a few minutes.

    `EventSource` sends no header. A stream that is open goes on after the token has expired; to open it again takes a
    new one.
    """
    token, expires_at = await parts.auth.make_stream_token(caller.user_id, parts.settings.stream_token_ttl_s)
    return StreamToken(token=token, expires_at=expires_at)
