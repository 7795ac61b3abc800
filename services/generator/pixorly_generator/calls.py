"""Leased provider calls: each is paid for once, whatever happens around it.

Before a call its row is leased, in one transaction with `job.started`; after it one conditional transaction writes the
result, the cost and the events. Between the two the call runs in a task of its own, which the loss of RabbitMQ does
not cancel. A finished call, or one whose job is settled, is never made again: a repeated message publishes what is
recorded. A lease that ran out is taken over on the second look only, so that an outage of PostgreSQL, which keeps all
from renewing theirs, costs nothing: whoever lives renews first. Only a process that dies or stands still between the
two transactions leaves a call that somebody makes once more.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

import structlog

from pixorly import metrics
from pixorly.blobs import Blobs
from pixorly.delivery import Held
from pixorly.errors import (
    InvalidImage,
    OutageError,
    PixorlyError,
    ServerError,
    StorageUnavailable,
    TransientError,
    UserError,
)
from pixorly.events import JobCreated, PlannedCall
from pixorly.failpoints import failpoint
from pixorly.outbox import Outbox
from pixorly.topology import LADDER_S
from pixorly_generator import store
from pixorly_generator.intake import Intake
from pixorly_generator.leases import Leases
from pixorly_generator.providers import ProviderAnswer
from pixorly_generator.results import results
from pixorly_generator.staging import StagedImage, stage
from pixorly_generator.upstream import Attempt, Upstream

_log = structlog.get_logger()
_T = TypeVar("_T")

_RENEWAL: Final = 0.25
"""A lease is renewed after this part of it."""

LATE = metrics.counter(
    "pixorly_provider_calls_late", "Answers that came when their call was finished already.", "provider"
)


@dataclass(frozen=True, slots=True)
class _Brought:
    """What an attempt brought: images for some of its slots, and codes for the others."""

    answer: ProviderAnswer
    model: str
    images: list[StagedImage]
    failures: dict[str, str]
    """The code by the slot's index, which is text as in JSON."""


class Calls:
    """The provider calls of this process.

    Args:
        outbox: The generator's database.
        blobs: Where images are staged.
        upstream: Asks providers.
        intake: Says when a call may begin.
        lease_s: How long a lease holds.
        ladder_s: The delays of the retries.
    """

    def __init__(
        self,
        outbox: Outbox,
        blobs: Blobs,
        upstream: Upstream,
        intake: Intake,
        *,
        lease_s: float = 20,
        ladder_s: Sequence[int] = LADDER_S,
    ) -> None:
        self._leases = Leases(outbox, upstream.provider_of, lease_s=lease_s, ladder_s=ladder_s)
        self._blobs = blobs
        self._upstream = upstream
        self._intake = intake
        self._renew_every_s = lease_s * _RENEWAL
        self._running: dict[tuple[UUID, int], asyncio.Task[None]] = {}

    async def make_all(self, event: JobCreated, *, again: bool = False) -> None:
        """See to it that every call of the job is made and recorded.

        Args:
            event: The job.
            again: Whether it was tried before.

        Raises:
            TransientError: A call failed and is worth another try.
            Held: Another process is at a call.
            OutageError: A part is away.
        """
        done = await asyncio.gather(
            *(self._make(event, call, again=again) for call in event.calls), return_exceptions=True
        )
        errors = [error for error in done if isinstance(error, BaseException)]
        for kind in (TransientError, OutageError, Held, BaseException):
            for error in errors:
                if isinstance(error, kind):
                    raise error

    async def _make(self, event: JobCreated, call: PlannedCall, *, again: bool) -> None:
        key = event.job_id, call.call_no
        # The task goes on if we are cancelled; a message that is delivered again joins it here.
        await asyncio.shield(self._running.get(key) or self._start(event, call, again=again))

    def _start(self, event: JobCreated, call: PlannedCall, *, again: bool) -> asyncio.Task[None]:
        key = event.job_id, call.call_no
        task = self._running[key] = asyncio.create_task(self._lease_and_run(event, call, again=again))
        task.add_done_callback(lambda done: self._forget(key, done))
        return task

    async def _lease_and_run(self, event: JobCreated, call: PlannedCall, *, again: bool) -> None:
        await self._intake.turn(len(call.indexes), again=again)
        attempt = await self._leases.lease(event, call)
        if attempt is not None:
            await self._run(attempt)

    def _forget(self, key: tuple[UUID, int], task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # perhaps nobody is left who waits for it

    async def _run(self, attempt: Attempt) -> None:
        """Make the call and record how it ended.

        Raises:
            TransientError: It is worth another try, and the lease is given up.
            OutageError: A part is away, and the lease is given up.
        """
        failpoint("call.leased")
        try:
            answer, model = await self._upstream.generate(attempt, partial(self._leases.turn_to, attempt))
        except (TransientError, OutageError) as error:
            await self._insist(partial(self._leases.reopen, attempt, error))
            raise
        except (ServerError, UserError) as error:
            await self._insist(partial(self._record_failure, attempt, error))
            return
        failpoint("call.answered")
        with self._intake.in_hand(len(answer.images)):
            brought = await self._stage(attempt, answer, model)
            failpoint("call.staged")
            await self._insist(partial(self._record, attempt, brought))
        failpoint("call.recorded")

    async def _stage(self, attempt: Attempt, answer: ProviderAnswer, model: str) -> _Brought:
        """Make what came durable, however long the object store is away: it is paid for."""
        event = attempt.event
        wanted = event.params.output_format

        async def one(index: int, position: int) -> StagedImage | InvalidImage:
            image = answer.images[position]
            try:
                return await self._insist(
                    partial(stage, self._blobs, event.job_id, index, event.image_ids[index], image, wanted=wanted)
                )
            except InvalidImage as error:
                return error

        indexes = attempt.call.indexes[: len(answer.images)]
        staged = await asyncio.gather(*(one(index, position) for position, index in enumerate(indexes)))
        failures = {str(index): "missing_image" for index in attempt.call.indexes[len(answer.images) :]}
        for index, came in zip(indexes, staged, strict=True):
            if isinstance(came, InvalidImage):
                failures[str(index)] = came.code
        return _Brought(answer, model, [came for came in staged if isinstance(came, StagedImage)], failures)

    async def _record(self, attempt: Attempt, brought: _Brought) -> None:
        answer, code = brought.answer, None if brought.images else next(iter(brought.failures.values()), None)
        ending = store.Ending(
            *attempt.key,
            attempt.number,
            "done",
            code,
            brought.failures,
            model=brought.model,
            images=[image.as_json() for image in brought.images],
            cost_usd=answer.cost_usd,
            generation_id=answer.generation_id,
            usage=answer.usage,
        )
        fate = await self._leases.record(
            ending, results(attempt.event, brought.model, brought.images, brought.failures)
        )
        if fate.ended and not fate.finished:
            LATE.labels(answer.provider).inc()
            _log.warning("an answer came too late", job_id=str(attempt.event.job_id), call_no=attempt.call.call_no)

    async def _record_failure(self, attempt: Attempt, error: PixorlyError) -> None:
        failures = dict.fromkeys(map(str, attempt.call.indexes), error.code)
        ending = store.Ending(
            *attempt.key,
            attempt.number,
            "failed",
            error.code,
            failures,
            cost_usd=error.facts.get("cost_usd"),
            generation_id=error.facts.get("generation_id"),
        )
        await self._leases.record(ending, results(attempt.event, attempt.event.model, [], failures))

    async def give_up(self, event: JobCreated, code: str) -> None:
        """Fail every call of the job that is still open: its retries are used up.

        Raises:
            OutageError: PostgreSQL is away.
        """
        await self._leases.give_up(event, code)

    async def close(self, job_id: UUID) -> None:
        """Close what is left of a settled job, so that nothing is bought for it any more.

        Raises:
            OutageError: PostgreSQL is away.
        """
        await self._leases.close(job_id)

    async def renew(self) -> None:
        """Renew the leases of this process, for ever."""
        while True:
            await asyncio.sleep(self._renew_every_s)
            if not self._running:
                continue
            try:
                # A connection that hangs must not use up the notice that comes after an outage.
                async with asyncio.timeout(self._renew_every_s):
                    await self._leases.renew()
            except (OutageError, TimeoutError):
                _log.warning("leases could not be renewed", held=len(self._running))

    async def drain(self, grace_s: float) -> None:
        """Wait for the calls that are under way; what is left after `grace_s` seconds is cut off."""
        if self._running:
            _, left = await asyncio.wait(self._running.values(), timeout=grace_s)
            for task in left:
                task.cancel()

    async def _insist(self, action: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `action` returns, however long the database or the object store is away."""
        delay_s = 0.25
        while True:
            try:
                return await action()
            except (OutageError, StorageUnavailable) as error:
                _log.warning("a paid result waits", code=error.code, reason=error.message)
            await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads callers
            delay_s = min(delay_s * 2, 5.0)
