"""The world of one seed: its processes, its parts, its clients and its weather."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from pixorly.topology import DELIVERY_LIMIT
from pixorly_generator.leases import NOTICE
from pixorly_ledger.books import Book
from pixorly_ledger.rows import Account, GrantRequest
from pixorly_ledger.settings import Plan
from simulator import api, generator, ledger, uploader
from simulator.bucket import Bucket
from simulator.bus import Bus, Message
from simulator.clockwork import TRACE_LINES, Clockwork, Process
from simulator.generator import Calls, CallTables
from simulator.jobs import JobTables
from simulator.ledger import Ledger
from simulator.provider import LEASE_S, RENEW_S, Provider
from simulator.weather import SKEW_S, Weather

START: Final = datetime(2031, 3, 3, tzinfo=UTC)
PLANS: Final = {
    "free": Plan(quota_bytes=10**9, allowance_credits=0),
    "tiny": Plan(quota_bytes=350_000, allowance_credits=0),
}
_BOOTS: Final[dict[str, Callable[["World", Process], None]]] = {
    "api": api.boot,
    "api-worker": api.boot_worker,
    "generator": generator.boot,
    "uploader": uploader.boot,
    "ledger": ledger.boot,
}
_HEARTBEATS_S: Final = 25.0
"""After how long without a sign RabbitMQ gives a connection up."""


class World:
    """Everything there is.

    Args:
        seed: Decides everything that is left to chance.
        flaw: Which rule is broken on purpose, to see that it is noticed.
        weather: The faults; those of the seed where it is left out.
        keep: How many lines of the trace to keep; None keeps all.

    Attributes:
        calm: Whether the faults have ended.
        seen: What came to pass, in a few words each: that a fault was met, that a net was needed.
        dirty: Whether something changed since the invariants were looked at.
        published: Called with what RabbitMQ took.
    """

    def __init__(
        self,
        seed: int,
        flaw: str | None = None,
        weather: Weather | None = None,
        *,
        keep: int | None = TRACE_LINES,
    ) -> None:
        self.clockwork = Clockwork(seed, keep)
        self._flaw = flaw
        self.calm = False
        self.seen: set[str] = set()
        self.dirty = True
        self.published: Callable[[list[Message]], None] = lambda _: None
        self.weather = weather or Weather.of(self.clockwork.random, DELIVERY_LIMIT)
        self._decided: dict[tuple[str, str], bool] = {}
        self.bus = Bus(self)
        self.bucket = Bucket(self)
        self.provider = Provider(self)
        self.ledger = Ledger(self, PLANS)
        self.generator = CallTables(self)
        self.calls: dict[Process, Calls] = {}
        self.api = JobTables(self)
        self.apis: dict[Process, api.Api] = {}
        self.processes = {service: self._processes(service) for service in _BOOTS}
        self._schedule()

    # What there is

    def _processes(self, service: str) -> list[Process]:
        boot = _BOOTS[service]
        return [
            Process(
                f"{service}-{number}",
                lambda process: boot(self, process),
                self._bury,
                skew_s=self.clockwork.random.choice((0.0, 0.0, -SKEW_S, SKEW_S)),
            )
            for number in range(1, self.clockwork.random.choice((1, 2, 2)) + 1)
        ]

    def _schedule(self) -> None:
        self.clockwork.dies = self._strike
        for process in self.all():
            process.start()
        for outage in self.weather.outages:
            if outage.part == "rabbitmq":
                self.clockwork.later(outage.from_s, self._cut_all)
                self.clockwork.later(outage.until_s, self.bus.back)
        self.clockwork.later(self.weather.calm_s, self._calm_down)

    def _calm_down(self) -> None:
        self.calm = True
        self.clockwork.tell_of("world", "the faults end")
        for process in self.all():
            process.frozen_until_s = 0.0
            process.start()
        self.bus.back()

    def open_account(self, user_id: str, plan: str, credits_: int) -> None:
        """Open an account with credits."""
        account = Account(user_id, plan, "active", 0, 0, 0, 0, 0, False, START.date(), 0)  # noqa: FBT003 - a row
        book = Book([account], self.now())
        book.grant(account, GrantRequest("first", credits_))
        self.ledger.database.commit(lambda _: self.ledger.post(book))

    def all(self) -> list[Process]:
        """Return every process."""
        return [process for service in self.processes.values() for process in service]

    def of(self, service: str) -> list[Process]:
        """Return the processes of a service."""
        return self.processes[service]

    # What time and chance do

    def now(self, process: Process | None = None) -> datetime:
        """Return the time, as a process sees it."""
        return START + timedelta(seconds=self.clockwork.now_s + (process.skew_s if process else 0.0))

    def new_id(self) -> UUID:
        """Return a fresh id."""
        return UUID(int=self.clockwork.random.getrandbits(128), version=4)

    def happens(self, kind: str) -> bool:
        """Tell whether a fault happens here and now."""
        rate: float = getattr(self.weather, kind)
        return not self.calm and rate > 0 and self.clockwork.random.random() < rate

    def decided_once(self, kind: str, about: str) -> str | None:
        """Return `kind` if this fault is a property of that thing, each time the same."""
        known = self._decided.setdefault((kind, about), (kind, about) in self._decided or self.happens(kind))
        return kind if known else None

    def away(self, part: str) -> bool:
        """Tell whether a part is away."""
        return not self.calm and self.weather.away(part, self.clockwork.now_s)

    def latency(self) -> float:
        """Return how long something takes: mostly milliseconds."""
        if self.happens("slow"):
            return min(self.clockwork.random.expovariate(0.2) * self.clockwork.random.choice((1, 1, 5)), 90.0)
        return 0.06 * self.clockwork.random.random() ** 3

    async def step(self, what: str) -> None:
        """Come to the next atomic action; a process may die before it."""
        await self.clockwork.sleep(self.latency())
        self.clockwork.tell(what)

    def broken(self, flaw: str) -> bool:
        """Tell whether this rule is broken on purpose."""
        return self._flaw == flaw

    def could_not_renew(self, process: Process) -> bool:
        """Tell whether a process of the generator may have stood still until its leases were taken over."""
        return process.frozen_s > LEASE_S * NOTICE - RENEW_S

    def note(self, what: str) -> None:
        """Note that something came to pass."""
        self.seen.add(what)

    def touch(self) -> None:
        """Note that something changed."""
        self.dirty = True

    def note_published(self, messages: list[Message]) -> None:
        """Note what RabbitMQ took."""
        self.touch()
        self.published(messages)

    # What happens to processes

    def _strike(self, process: Process) -> bool:
        """Do to a process what the weather wants, and tell whether it dies."""
        if self.calm:
            return False
        if self.happens("cut"):
            self.clockwork.tell_of(process.name, "loses its connection to RabbitMQ")
            self.bus.disconnect(process)
        if self.happens("freeze"):
            self._freeze(process, self.clockwork.random.choice((3.0, 30.0, 90.0)))
        if self.happens("purge"):
            self.bus.purge(self.clockwork.random.choice(list(self.bus.listeners)))
        return self.happens("crash")

    def _freeze(self, process: Process, for_s: float) -> None:
        process.frozen_s += for_s
        self.clockwork.tell_of(process.name, f"freezes for {for_s:.0f} s")
        process.frozen_until_s = self.clockwork.now_s + for_s
        if for_s > _HEARTBEATS_S:
            self.clockwork.later(_HEARTBEATS_S, lambda: self.bus.disconnect(process))

    def _cut_all(self) -> None:
        if not self.calm:
            self.clockwork.tell_of("rabbitmq", "is away")
            for process in self.all():
                self.bus.disconnect(process)

    def _bury(self, process: Process) -> None:
        self.touch()
        self.bus.forget(process)
        self.provider.note_death(process)
        self.calls.pop(process, None)
        self.apis.pop(process, None)
        down_s = 0.1 if self.calm else self.clockwork.random.choice((0.2, 1.0, 5.0, 25.0, 100.0))
        self.clockwork.later(down_s, process.start)
