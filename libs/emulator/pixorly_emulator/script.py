"""Which fault meets which call: tags in the prompt first, then the rules of the script."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any, Final

from pixorly_emulator.faults import Fault, find_tags, parse_fault
from pixorly_emulator.latency import Latency, parse_latency

_FIELDS: Final = {"fault", "latency", "model", "key", "session_id", "prompt", "route", "call", "session_call"}
_OPTIONS: Final = {"times", "chance"}


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What a rule can look at.

    Attributes:
        number: The call's number since the last reset, from 1.
        session_call: Its number among the calls of its session, from 1.
        session_id: The session, or an empty text.
        route: `images`, `chat` or `openai`.
        model: As the request names it.
        key: The bearer key.
        prompt: The prompt.
    """

    number: int
    session_call: int
    session_id: str
    route: str
    model: str
    key: str
    prompt: str


@dataclass(slots=True)
class Rule:
    """One line of the script: when it holds, the call meets the fault or the latency.

    Attributes:
        fault: What happens; None where only the latency counts.
        latency: How long it takes; None for the usual.
        texts: Fields that must be equal; `prompt` must be contained.
        numbers: `call` and `session_call`: the numbers that are meant.
        times: How often the rule holds; None is always.
        chance: How likely it holds, 0 to 1.
        used: How often it did.
        told: The rule as it was given.
    """

    fault: Fault | None = None
    latency: Latency | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, frozenset[int]] = field(default_factory=dict)
    times: int | None = None
    chance: float | None = None
    used: int = 0
    told: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Rule":
        """Return the rule that a JSON object describes.

        Raises:
            ValueError: It describes none.
        """
        unknown = set(told) - _FIELDS - _OPTIONS
        if unknown or not (told.get("fault") or told.get("latency")):
            raise ValueError(f"a rule has a fault or a latency, and perhaps {sorted(_FIELDS | _OPTIONS)}: {told}")
        fault, times = parse_fault(told["fault"]) if told.get("fault") else (None, None)
        numbers = {name: _numbers(told[name]) for name in ("call", "session_call") if name in told}
        return cls(
            fault=fault,
            latency=parse_latency(str(told["latency"])) if told.get("latency") else None,
            texts={name: str(told[name]) for name in ("model", "key", "session_id", "prompt", "route") if name in told},
            numbers=numbers,
            times=int(told["times"]) if "times" in told else times,
            chance=float(told["chance"]) if "chance" in told else None,
            told=dict(told),
        )

    def holds(self, call: CallFacts, random: Random) -> bool:
        """Tell whether the rule is meant for this call."""
        if self.times is not None and self.used >= self.times:
            return False
        for name, text in self.texts.items():
            value = getattr(call, name)
            if text not in value if name == "prompt" else text != value:
                return False
        if "call" in self.numbers and call.number not in self.numbers["call"]:
            return False
        if "session_call" in self.numbers and call.session_call not in self.numbers["session_call"]:
            return False
        return self.chance is None or random.random() < self.chance


def _numbers(value: Any) -> frozenset[int]:
    return frozenset(int(number) for number in (value if isinstance(value, list) else [value]))


class Script:
    """What the next calls will meet."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._rules: list[Rule] = []
        self._tags_used: Counter[tuple[str, int]] = Counter()

    def extend(self, rules: Iterable[Mapping[str, Any]], *, replace: bool = False) -> None:
        """Add rules, perhaps instead of those that are there; the first that holds counts.

        Raises:
            ValueError: One of them is none; then nothing changes.
        """
        added = [Rule.of(told) for told in rules]
        if replace:
            self.clear()
        self._rules += added

    def clear(self) -> None:
        """Forget the rules, and what tags were used up."""
        self._rules.clear()
        self._tags_used.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """Return the rules and how often each held."""
        return [{**rule.told, "used": rule.used} for rule in self._rules]

    def meet(self, call: CallFacts) -> tuple[Fault | None, Latency | None]:
        """Return the fault and the latency that the call meets.

        Raises:
            ValueError: A tag in the prompt asks for what there is not.
        """
        fault, latency = self._from_tags(call)
        for rule in self._rules:
            if (fault if rule.fault else latency) is None and rule.holds(call, self._random):
                rule.used += 1
                fault, latency = fault or rule.fault, latency or rule.latency
        return fault, latency

    def _from_tags(self, call: CallFacts) -> tuple[Fault | None, Latency | None]:
        fault, latency = None, None
        owner = call.session_id or sha256(call.prompt.encode("utf-8", "backslashreplace")).hexdigest()
        for place, tag in enumerate(find_tags(call.prompt)):
            latency = latency or tag.latency
            if tag.fault and fault is None and (tag.times is None or self._tags_used[owner, place] < tag.times):
                self._tags_used[owner, place] += 1
                fault = tag.fault
        return fault, latency
