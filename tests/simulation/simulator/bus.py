"""RabbitMQ in memory: the topology's queues, with what a network, a crash and a broker may do to messages.

It stands for `pixorly.broker.Publisher` on the one side and for the broker and its consumers on the other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from pixorly.errors import OutageError
from pixorly.events import EVENTS, Event
from pixorly.topology import PUBLISHES, QUEUES, REPEATS
from simulator.clockwork import Process
from simulator.violation import must

if TYPE_CHECKING:
    from simulator.world import World

_WORK: Final = {queue.name: queue for queue in QUEUES}


@dataclass(eq=False, slots=True)
class Message:
    """One message in one queue.

    Attributes:
        attempt: What its header says, as the ladder counts.
        returns: How often it went back to its queue without an acknowledgement; an acknowledgement is of one delivery,
            and void after the next return.
        holder: Which process has it in hand.
    """

    event: Event
    queue: str
    attempt: int = 1
    returns: int = 0
    holder: Process | None = None

    def __str__(self) -> str:
        return f"{told(self.event)} in {self.queue}" + (f" (attempt {self.attempt})" if self.attempt > 1 else "")


def told(event: Event) -> str:
    """Return an event in a few words."""
    index = getattr(event, "index", getattr(event, "call_no", None))
    code = getattr(event, "code", None)
    return (
        f"{event.type} {short(event.job_id)}" + (f"/{index}" if index is not None else "") + (f" {code}" * bool(code))
    )


def short(id_: object) -> str:
    """Return the first letters of an id, for the trace."""
    return str(id_)[:4]


@dataclass
class Bus:
    """Takes what is published, and hands it to processes that listen.

    Attributes:
        messages: Those in queues, in hand or on the ladder.
        dead: Those that were put aside, with the reason.
        purged: Whether somebody emptied a queue.
        listeners: What to do with a message of a queue, by process.
    """

    world: "World"
    messages: dict[Message, None] = field(default_factory=dict)
    dead: list[tuple[Message, str]] = field(default_factory=list)
    purged: bool = False
    listeners: dict[str, dict[Process, Callable[[Message], object]]] = field(default_factory=lambda: defaultdict(dict))
    _waiting: dict[str, dict[Message, None]] = field(default_factory=lambda: defaultdict(dict))

    async def publish(self, event: Event) -> None:
        """Publish an event as `Publisher.publish` does; it returns when the message is safe.

        Raises:
            OutageError: RabbitMQ did not take it, or perhaps did.
        """
        self._may_publish(event)
        # What is delivered is what can be read from the wire.
        read = EVENTS[event.type].model_validate_json(event.to_json())
        queues = [queue.name for queue in QUEUES if type(event) in queue.events]
        await self._send(f"publish {told(event)}", [Message(read, queue) for queue in queues])

    def _may_publish(self, event: Event) -> None:
        process = self.world.clockwork.running().process
        service = process.name.partition("-")[0] if process else "nobody"
        allowed = (*PUBLISHES[service], *REPEATS.get(service, ()))
        must(type(event) in allowed, f"{service} may not publish {event.type}")

    async def delay(self, message: Message, delay_s: float, attempt: int) -> None:
        """Publish a message to its ladder, which brings it back after a delay.

        Raises:
            OutageError: As for `publish`.
        """
        again = Message(message.event, message.queue, attempt)
        await self._send(f"put {again} on the ladder for {delay_s} s", [again], delay_s)

    async def bury(self, message: Message, reason: str) -> None:
        """Publish a message to the dead exchange.

        Raises:
            OutageError: As for `publish`.
        """
        await self._send(f"bury {message}: {reason}", _undertakers(message), dead=[(message, reason)])

    async def _send(
        self, what: str, messages: list[Message], delay_s: float = 0.0, dead: Iterable[tuple[Message, str]] = ()
    ) -> None:
        world = self.world
        await world.step(what)
        if world.away("rabbitmq") or world.happens("publish_lost"):
            raise OutageError("rabbitmq")
        for message in messages:
            self._take(message, delay_s)
        self.dead.extend(dead)
        world.note_published(messages)
        await world.step("is confirmed")
        if world.happens("publish_ambiguous"):
            world.clockwork.tell("the confirm is lost")
            raise OutageError("rabbitmq")

    def _take(self, message: Message, delay_s: float) -> None:
        copies = 2 if self.world.happens("duplicate") else 1
        for copy in [message, *(Message(message.event, message.queue, message.attempt) for _ in range(copies - 1))]:
            self.messages[copy] = None
            self.world.clockwork.later(delay_s + self.world.latency(), partial(self._arrive, copy))

    def _arrive(self, message: Message) -> None:
        if message in self.messages:
            self._waiting[message.queue][message] = None
            self._hand_out(message.queue)

    def _hand_out(self, queue: str) -> None:
        waiting, listeners = self._waiting[queue], list(self.listeners[queue].items())
        while waiting and listeners and not self.world.away("rabbitmq"):
            message = next(iter(waiting))
            del waiting[message]
            process, consume = self.world.clockwork.random.choice(listeners)
            message.holder = process
            consume(message)

    def listen(self, queue: str, process: Process, consume: Callable[[Message], object]) -> None:
        """Have a process consume a queue."""
        self.listeners[queue][process] = consume
        self._hand_out(queue)

    def acknowledge(self, message: Message, delivery: int) -> None:
        """Take an acknowledgement, unless the connection over which the message was handed out is gone."""
        if message.returns == delivery and message in self.messages:
            del self.messages[message]
            self.world.touch()

    def hand_back(self, message: Message, delivery: int) -> None:
        """Take a message back from a process that can't handle it now."""
        if message.returns == delivery and message in self.messages:
            self._return(message)

    def disconnect(self, process: Process) -> None:
        """Take back all that a process has in hand."""
        for message in [message for message in self.messages if message.holder is process]:
            self._return(message)

    def forget(self, process: Process) -> None:
        """Take back all that a process that died had in hand, and send it nothing more."""
        for of_queue in self.listeners.values():
            of_queue.pop(process, None)
        self.disconnect(process)

    def _return(self, message: Message) -> None:
        message.holder = None
        message.returns += 1
        self.world.touch()
        if message.returns <= self.world.weather.delivery_limit:
            self.world.clockwork.later(self.world.latency(), lambda: self._arrive(message))
            return
        del self.messages[message]
        self.dead.append((message, "delivery limit"))
        self.world.clockwork.tell_of("rabbitmq", f"{message} dies of its returns")
        for other in _undertakers(message):
            self._take(other, 0)

    def purge(self, queue: str) -> None:
        """Empty a queue of what nobody has in hand."""
        self.purged = True
        gone = [message for message in self.messages if message.queue == queue and message.holder is None]
        for message in gone:
            del self.messages[message]
        self._waiting[queue].clear()
        self.world.clockwork.tell_of("rabbitmq", f"somebody purges {queue}: {len(gone)} messages")

    def back(self) -> None:
        """Hand out what waits, after an outage."""
        for queue in _WORK:
            self._hand_out(queue)

    def events_in(self, *queues: str) -> Iterator[Event]:
        """Return the events that are under way to or in these queues."""
        return (message.event for message in self.messages if message.queue in queues)


def _undertakers(message: Message) -> list[Message]:
    """Return the message as the queues get it that settle the dead; the one for a person is `Bus.dead`."""
    return [Message(message.event, queue.name) for queue in QUEUES if message.queue in queue.dead_keys]
