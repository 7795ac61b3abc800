"""What becomes of a message after its handler; mirrors `pixorly.delivery.Worker`, around the same `fate`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pixorly.delivery import Dead, Fail, Fate, Following, Hold, Retry, Wait, fate
from pixorly.errors import OutageError
from pixorly.events import Event, JobRetrying, Stage
from pixorly.topology import HELD_S
from simulator.bus import Message
from simulator.clockwork import Process

if TYPE_CHECKING:
    from simulator.world import World

_T = TypeVar("_T")
_HAND_BACK_AFTER_S: Final = 600.0
_LONGEST_BACKOFF_S: Final = 10.0


class _HandedBack(Exception):
    """The message goes back to its queue."""


@dataclass(frozen=True)
class Subscription:
    """A work queue and what is done with its events."""

    queue: str
    handler: Callable[[Any], Awaitable[Following]]
    stage: Stage | None = None
    on_failure: Callable[[Any, Fail], Awaitable[Following]] | None = None


class Worker:
    """Does what a subscription says with each message of its queue."""

    def __init__(self, world: "World", process: Process, subscription: Subscription) -> None:
        self._world = world
        self._process = process
        self._subscription = subscription

    def listen(self) -> None:
        """Begin to consume."""
        self._world.bus.listen(
            self._subscription.queue,
            self._process,
            lambda message: self._world.clockwork.spawn(
                self._consume(message, message.returns), self._process, self._world.latency()
            ),
        )

    async def _consume(self, message: Message, delivery: int) -> None:
        world = self._world
        await world.step(f"takes {message}")
        if world.broken("acknowledge first"):
            world.bus.acknowledge(message, delivery)
        try:
            await self._handle(message)
        except _HandedBack:
            world.bus.hand_back(message, delivery)
            return
        await world.step(f"acknowledges {message}")
        world.bus.acknowledge(message, delivery)

    async def _handle(self, message: Message) -> None:
        outcome = await self._insist(lambda: self._decide(message))
        bus = self._world.bus
        match outcome:
            case Retry():
                await self._insist(lambda: self._retry(outcome, message))
            case Hold():
                await self._insist(lambda: bus.delay(message, HELD_S, message.attempt))
            case Dead(reason=reason):
                await self._insist(lambda: bus.bury(message, reason))
            case Wait() | Fail():
                raise RuntimeError(f"{outcome} should have been dealt with")
            case following:
                await self._insist(lambda: self._publish(following))

    async def _decide(self, message: Message) -> Following | Fate:
        subscription = self._subscription
        try:
            return await subscription.handler(message.event)
        except OutageError:
            raise
        except Exception as error:
            decided = fate(error, message.attempt)
            if isinstance(decided, Dead) and not isinstance(error, Bug):
                raise
        match decided:
            case Fail() if subscription.on_failure:
                return await subscription.on_failure(message.event, decided)
            case Fail(code=code):
                return Dead(code)
            case Wait(part=part):
                raise OutageError(part)
            case _:
                return decided

    async def _insist(self, action: Callable[[], Awaitable[_T]]) -> _T:
        delay_s, waited_s = 0.5, 0.0
        while True:
            try:
                return await action()
            except OutageError:
                wait_s = delay_s * self._world.clockwork.random.uniform(0.8, 1.0)
            waited_s += wait_s
            if waited_s > _HAND_BACK_AFTER_S:
                raise _HandedBack
            await self._world.clockwork.sleep(wait_s)
            delay_s = min(delay_s * 2, _LONGEST_BACKOFF_S)

    async def _publish(self, following: Following) -> None:
        for event in [following] if isinstance(following, Event) else following or ():
            await self._world.bus.publish(event)

    async def _retry(self, retry: Retry, message: Message) -> None:
        event = message.event
        if self._subscription.stage:
            news = JobRetrying.of(
                event.job_id,
                event.user_id,
                occurred_at=self._world.now(),
                stage=self._subscription.stage,
                index=getattr(event, "index", 0),
                attempt=message.attempt,
                delay_s=retry.delay_s,
                code=retry.code,
                message=retry.message,
            )
            await self._world.bus.publish(news)
        await self._world.bus.delay(message, retry.delay_s, message.attempt + 1)


class Bug(Exception):
    """A bug of ours that a message has met: not one of the simulator's."""
