"""Running one seed: faults, then calm, with the invariants after every action and at the end."""

from dataclasses import dataclass
from typing import Final

from simulator.clients import Clients
from simulator.clockwork import TRACE_LINES
from simulator.ending import check_ending, is_quiet, left_to_do, note_what_came
from simulator.invariants import Invariants
from simulator.violation import Violation, must
from simulator.weather import Weather
from simulator.world import World

_QUIET_WITHIN_S: Final = 40 * 3600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a seed showed.

    Attributes:
        violation: What did not hold; None where everything did.
        weather: The faults, in words.
        steps: How many atomic actions there were.
        trace: What happened last.
        seen: What came to pass, in a few words each.
    """

    seed: int
    violation: str | None
    weather: str
    steps: int
    trace: list[str]
    seen: frozenset[str]

    def __str__(self) -> str:
        last = "\n".join(self.trace)
        what = self.violation or "everything held"
        return f"seed {self.seed}: {what}\n{self.weather}; {self.steps} actions\n{last}"


def simulate(
    seed: int,
    flaw: str | None = None,
    *,
    weather: Weather | None = None,
    whole_trace: bool = False,
) -> Finding:
    """Run the world of a seed to its end.

    Args:
        seed: Decides everything.
        flaw: A rule to be broken on purpose.
        weather: The faults; those of the seed where it is left out.
        whole_trace: Whether to keep the whole trace.
    """
    world = World(seed, flaw, weather, keep=None if whole_trace else TRACE_LINES)
    clients = Clients(world)
    invariants = Invariants(world)
    world.clockwork.after = invariants.check
    violation = None
    try:
        clients.come()
        quiet = world.clockwork.run(world.weather.calm_s + _QUIET_WITHIN_S, lambda: is_quiet(world, clients))
        must(quiet, f"it never becomes quiet: {'' if quiet else left_to_do(world, clients)}")
        check_ending(world, clients)
        note_what_came(world, clients)
    except Violation as broken:
        violation = str(broken)
    finally:
        world.clockwork.close()
    return Finding(
        seed, violation, str(world.weather), world.clockwork.steps, world.clockwork.lines(), frozenset(world.seen)
    )
