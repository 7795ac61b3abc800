"""Clients: they ask for images, repeat what was not answered, cancel, and delete."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pixorly.catalogue import load
from pixorly.errors import OutageError, PixorlyError, UserError
from pixorly_api.errors import IdempotencyInProgress
from simulator.api import Api
from simulator.clockwork import Gone, Process, TimedOut
from simulator.creation import Order

if TYPE_CHECKING:
    from simulator.world import World

_MODELS: Final = ("sandbox/aurora", "sandbox/mosaic")
_TRIES: Final = 8


class Unanswered(Exception):
    """The client got no answer; what it asked for may be done all the same."""


@dataclass
class Clients:
    """The clients of a world.

    Attributes:
        promised: What they were told is theirs, by idempotency key where they sent one.
        active: How many are still at it.
        refused: What they were refused with.
    """

    world: "World"
    promised: dict[UUID, str | None] = field(default_factory=dict)
    active: int = 0
    refused: list[str] = field(default_factory=list)

    def come(self) -> None:
        """Open the accounts, and let the clients come."""
        chance = self.world.clockwork.random
        for user_id in ("ada", "bob"):
            self.world.open_account(user_id, chance.choice(("free", "free", "tiny")), chance.choice((9, 30, 1000)))
        for number in range(chance.choice((1, 2, 2, 3, 4))):
            self.active += 1
            self.world.clockwork.spawn(self._client(self._order(number)), None, chance.uniform(0, 15))

    def _order(self, number: int) -> Order:
        chance = self.world.clockwork.random
        model = load().find(chance.choice(_MODELS))
        return Order(
            user_id=chance.choice(("ada", "ada", "bob")),
            model=model,
            params=model.params(width=64, height=64),
            n=chance.choice((1, 1, 2, 3)),
            deadline_s=chance.choice((15, 60, 300, 1800)),
            key=f"key-{number}" if chance.random() < 0.8 else None,
        )

    async def _client(self, order: Order) -> None:
        try:
            job_id = await self._ask_for(order)
            if job_id is not None:
                self.promised[job_id] = order.key
                await self._change_its_mind(order, job_id)
        finally:
            self.active -= 1

    async def _ask_for(self, order: Order) -> UUID | None:
        clockwork = self.world.clockwork
        for _ in range(_TRIES if order.key else 1):
            try:
                job_id: UUID = await self._call("asks for a job", lambda api: api.creation.create(order))
            except (Unanswered, OutageError, IdempotencyInProgress):
                await clockwork.sleep(clockwork.random.choice((0.5, 9.0, 11.0, 13.0, 40.0)))
            except UserError as error:
                self.refused.append(error.code)
                return None
            else:
                return job_id
        return None

    async def _change_its_mind(self, order: Order, job_id: UUID) -> None:
        """Cancel, or delete what was made; nothing is repeated that was not answered."""
        clockwork = self.world.clockwork
        whim = clockwork.random.random()
        if whim < 0.25:
            await clockwork.sleep(clockwork.random.choice((0.0, 0.1, 3.0)))
            await self._attempt("cancels", lambda api: api.jobs.cancel(job_id))
        elif whim < 0.55:
            await clockwork.sleep(clockwork.random.choice((1.0, 5.0, 30.0, 100.0)))
            for image_id in [image_id for image_id, row in self.world.api.images.items() if row.event.job_id == job_id]:
                await self._attempt("deletes", lambda api, of=image_id: api.jobs.delete_image(order.user_id, of))

    async def _attempt(self, what: str, ask: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        try:
            await self._call(what, ask)
        except (Unanswered, PixorlyError):
            return

    async def _call(self, what: str, ask: Callable[[Api], Coroutine[Any, Any, Any]]) -> Any:
        """Send a request to one of the api's processes.

        Raises:
            Unanswered: The process died, it took too long, or the answer was lost.
        """
        world = self.world
        await world.step(f"a client {what}")
        alive = [process for process in world.of("api") if process.alive]
        if not alive:
            raise Unanswered
        process: Process = world.clockwork.random.choice(alive)
        task = world.clockwork.spawn(ask(world.apis[process]), process, world.latency())
        try:
            answer = await world.clockwork.join(task, timeout_s=world.clockwork.random.choice((1.0, 3.0, 30.0)))
        except (Gone, TimedOut) as error:
            raise Unanswered from error
        if world.happens("answer_lost"):
            raise Unanswered
        return answer
