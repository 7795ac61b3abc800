"""A provider of images, and its bill."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pixorly.errors import (
    ContentRejected,
    NoImage,
    OutageError,
    PixorlyError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from pixorly.events import JobCreated, PlannedCall
from simulator.bus import short
from simulator.clockwork import Process
from simulator.violation import must

if TYPE_CHECKING:
    from simulator.world import World

LEASE_S: Final = 20.0
RENEW_S: Final = 5.0
Key = tuple[UUID, int]
"""A planned call: the job and its number."""


class Provider:
    """Makes images, and counts what it was paid for.

    Attributes:
        paid: How often each planned call was paid for.
        unrecorded: What a process was answered and has not recorded yet.
        lost: How often a process died, or was taken for dead, with such an answer.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self.paid: Counter[Key] = Counter()
        self.unrecorded: dict[tuple[Process, int], set[Key]] = defaultdict(set)
        self.lost: Counter[Key] = Counter()
        self._images = 0

    async def generate(self, process: Process, event: JobCreated, call: PlannedCall) -> list[bytes]:
        """Make the images of one call.

        Raises:
            PixorlyError: As a real one does; then nothing was paid.
        """
        world, key = self._world, (event.job_id, call.call_no)
        await world.step(f"asks the provider for {short(event.job_id)}, call {call.call_no}")
        if world.away("provider"):
            raise OutageError("provider:sandbox")
        if error := self._refusal():
            await world.clockwork.sleep(world.clockwork.random.uniform(0, 5))
            raise error
        self.paid[key] += 1
        self.unrecorded[process, process.life].add(key)
        world.clockwork.tell(f"the provider is paid for {short(event.job_id)}, call {call.call_no}: {self.paid[key]}")
        world.touch()
        images = [self._image() for _ in range(self._number(len(call.indexes)))]
        await world.clockwork.sleep(
            world.clockwork.random.choice((0.1, 2.0, 8.0, 30.0)) * world.clockwork.random.random()
        )
        return images

    def _refusal(self) -> PixorlyError | None:
        chance = self._world.clockwork.random
        if self._world.happens("call_transient"):
            return chance.choice(
                (
                    ProviderUnavailable(),
                    ProviderTimeout(),
                    NoImage(),
                    ProviderRateLimited(retry_after_s=chance.choice((None, 1, 5, 20, 45, 3600))),
                )
            )
        if self._world.happens("call_refused"):
            return ProviderRefused()
        return ContentRejected() if self._world.happens("call_rejected") else None

    def _number(self, wanted: int) -> int:
        if self._world.happens("call_short"):
            return self._world.clockwork.random.randint(1, wanted)
        return wanted

    def _image(self) -> bytes:
        """Return bytes that no other image has."""
        self._images += 1
        kind = "garbage" if self._world.happens("call_garbage") else "image"
        return f"{kind}-{self._images}".ljust(self._world.clockwork.random.randint(10, 40), ".").encode()

    def note_recorded(self, process: Process, key: Key) -> None:
        """A process has recorded what it was answered."""
        self.unrecorded[process, process.life].discard(key)

    def note_death(self, process: Process) -> None:
        """A process has died with all that it had not recorded."""
        lost = self.unrecorded.pop((process, process.life), set())
        self.lost.update(lost)
        if lost:
            self._world.note("died with a paid answer")

    def note_takeover(self, owner: tuple[Process, int], key: Key) -> None:
        """A lease has run out. An owner that lives all the same may pay, or have paid, too.

        That happens only to one that could not renew for as long as a lease: it was frozen, or PostgreSQL was away.
        """
        process, life = owner
        self._world.note("taken over")
        if process.alive and process.life == life:
            must(self._world.could_not_renew(process), f"the lease of {process.name}, which lives, is taken over")
            self._world.note("taken over from the living")
            self.lost[key] += 1
            self.unrecorded[owner].discard(key)
