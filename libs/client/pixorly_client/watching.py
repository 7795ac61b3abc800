"""Following a job until it is settled: by its live news, or by looking now and then where there are none."""

from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from pixorly_client.answers import error_of, value_of
from pixorly_client.calls import Call, generation_events, get_generation
from pixorly_client.errors import JobFailed, NotSettledYet
from pixorly_client.flows import Flow, Hear, Listen, Pause, Tell, answered
from pixorly_client.models import Generation
from pixorly_client.patience import Patience, passes
from pixorly_client.sse import EventReader, ServerEvent

FIRST_LOOK_S: Final = 0.1
SLOWEST_LOOK_S: Final = 1.0
LONGEST_SILENCE_S: Final = 30.0
"""The API says something on a stream every 15 s; one that is silent for twice as long is taken up anew."""
SHORTEST_LISTENING_S: Final = 2.0
"""With less time left than this, looking is simpler than listening."""
NEWS: Final = frozenset({"snapshot", "update", "settled"})
MORE_TRIES: Final = 4
"""Whoever waits for a job tries this much more often than others: an API that is started again is worth a minute."""


def generated(call: Call[Generation], patience: Patience, timeout_s: float) -> Flow[Generation]:
    """Create a job and follow it until it is settled.

    Raises:
        JobFailed: It was settled without an image.
        NotSettledYet: The time is up.
    """
    created = yield from answered(call, patience)
    yield Tell(created)
    job = created if created.settled else (yield from waited(created.id, patience, timeout_s))
    job = job.model_copy(update={"credits_remaining": created.credits_remaining})
    if job.status != "completed":
        raise JobFailed(job)
    return job


def waited(job_id: str, patience: Patience, timeout_s: float) -> Flow[Generation]:
    """Follow a job until it is settled, whatever came of it.

    Raises:
        NotSettledYet: The time is up.
    """
    watch = Watch(job_id, replace(patience, tries=patience.tries + MORE_TRIES), patience.clock() + timeout_s)
    job = yield from watch.listen()
    if job is None:
        job = yield from watch.look()
    if job is None:
        raise NotSettledYet(job_id, timeout_s)
    return job


@dataclass(slots=True)
class Watch:
    """Someone who follows a job until a deadline of the patience's clock."""

    job_id: str
    patience: Patience
    deadline: float
    reader: EventReader = field(default_factory=EventReader)
    _told: tuple[object, ...] = ()
    _troubles: int = 0

    @property
    def left_s(self) -> float:
        """The time left, in seconds."""
        return self.deadline - self.patience.clock()

    def look(self) -> Flow[Generation | None]:
        """Look at the job now and then, and return it settled, or None when the time is up."""
        pause_s = FIRST_LOOK_S
        while True:
            job = yield from answered(get_generation(self.job_id), self.patience, self.deadline)
            yield from self._tell(job)
            if job.settled:
                return job
            if self.left_s <= 0:
                return None
            yield Pause(min(pause_s, self.left_s))
            pause_s = min(pause_s * 1.5, SLOWEST_LOOK_S)

    def listen(self) -> Flow[Generation | None]:
        """Listen to the job's news, and return it settled, or None where there are none to be had.

        A stream may be silent for half of the time left at most, so that a silence never outlasts the caller's time.
        """
        while self._troubles < self.patience.tries and self.left_s > SHORTEST_LISTENING_S:
            silence_s = min(LONGEST_SILENCE_S, self.left_s / 2)
            try:
                response: httpx.Response = yield Listen(
                    generation_events(self.job_id, self.reader.last_event_id), silence_s
                )
                if not _is_stream(response) and not (response.is_error and passes(error_of(response))):
                    return None
                if _is_stream(response) and (job := (yield from self._read(silence_s))):
                    return job
            except httpx.RequestError:
                pass  # the stream broke, or was silent for too long: it is taken up anew
            self._troubles += 1
            yield Pause(min(self.patience.backoff_s(self._troubles), max(0.0, self.left_s)))
        return None

    def _read(self, silence_s: float) -> Flow[Generation | None]:
        """Read a stream to its end, or until another silence could outlast the caller's time."""
        self.reader.start_over()
        while self.left_s >= silence_s:
            chunk: bytes | None = yield Hear()
            if chunk is None:
                return None
            for event in self.reader.take(chunk):
                job = yield from self._note(event)
                if job is not None and job.settled:
                    return job
        return None

    def _note(self, event: ServerEvent) -> Flow[Generation | None]:
        """Tell of the job that a stream's event carries, and return it; None where it carries none."""
        if event.name not in NEWS:
            return None
        self._troubles = 0
        job = value_of(get_generation(self.job_id), event.data.encode())
        yield from self._tell(job)
        return job

    def _tell(self, job: Generation) -> Flow[None]:
        """Tell of the job if it is not as it was; links differ with each look and are no news."""
        states = tuple(slot.state for slot in job.slots)
        now = (job.status, job.retry_count, len(job.images), len(job.failures), states)
        if now != self._told:
            self._told = now
            yield Tell(job)


def _is_stream(response: httpx.Response) -> bool:
    kind = str(response.headers.get("Content-Type", ""))
    return response.is_success and kind.startswith("text/event-stream")
