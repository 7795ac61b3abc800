"""Which faults a seed brings, and how often. Some seeds see one kind only, some see everything, some see none."""

import random
from dataclasses import dataclass, fields
from typing import Final

PARTS: Final = ("rabbitmq", "s3", "provider", "ledger", "postgres:api", "postgres:generator", "postgres:ledger")
"""What can be away."""
SKEW_S: Final = 3.0
"""How far a process's clock may be off."""
_OFTEN: Final = {
    "crash": 0.03,
    "freeze": 0.05,
    "cut": 0.004,
    "purge": 0.02,
    "publish_lost": 0.2,
    "publish_ambiguous": 0.2,
    "duplicate": 0.3,
    "slow": 0.3,
    "commit_ambiguous": 0.1,
    "answer_lost": 0.2,
    "request_late": 0.25,
    "call_transient": 0.4,
    "call_refused": 0.15,
    "call_rejected": 0.2,
    "call_short": 0.5,
    "call_garbage": 0.3,
    "object_fails": 0.25,
    "object_late": 0.2,
    "undecodable": 0.2,
    "bug": 0.1,
}
"""The highest chance of each fault."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A part that is away for a time."""

    part: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Weather:
    """The chance of each fault, each time that it could happen.

    Attributes:
        crash: A process dies at this step.
        freeze: A process does nothing for a while, longer than its leases and its connection last.
        cut: A process loses its connection to RabbitMQ, which hands out anew what it had.
        purge: Somebody empties a queue.
        publish_lost: RabbitMQ neither keeps nor confirms a message.
        publish_ambiguous: RabbitMQ keeps a message, and its confirm is lost.
        duplicate: A message is delivered twice.
        slow: A step takes seconds.
        commit_ambiguous: A transaction is committed, and the client is told otherwise.
        answer_lost: What was asked over HTTP is done, and the answer is lost.
        request_late: What was asked over HTTP is done long after the client gave up.
        call_transient: A provider fails in a way that is worth another try.
        call_refused: A provider refuses for good, through our fault.
        call_rejected: A provider refuses the content.
        call_short: A provider sends fewer images than asked for.
        call_garbage: A provider sends something that is no image.
        object_fails: The object store fails on one object.
        object_late: A write to the object store is given up and takes effect later.
        undecodable: The uploader can't decode an image.
        bug: The uploader meets a bug of ours with an image.
        outages: Which parts are away when.
        calm_s: When all faults end.
        delivery_limit: How often a message may be delivered, where the seed makes the fuse short.
    """

    crash: float
    freeze: float
    cut: float
    purge: float
    publish_lost: float
    publish_ambiguous: float
    duplicate: float
    slow: float
    commit_ambiguous: float
    answer_lost: float
    request_late: float
    call_transient: float
    call_refused: float
    call_rejected: float
    call_short: float
    call_garbage: float
    object_fails: float
    object_late: float
    undecodable: float
    bug: float
    outages: tuple[Outage, ...]
    calm_s: float
    delivery_limit: int

    @classmethod
    def of(cls, chance: random.Random, delivery_limit: int) -> "Weather":
        """Draw the weather of a seed."""
        kinds = list(_OFTEN)
        likely = chance.choice((0.0, 0.12, 0.3, 0.6))
        rates = {kind: _rate(chance, _OFTEN[kind], likely) for kind in kinds}
        if chance.random() < 0.3:
            # One kind of fault alone shows most clearly what it does.
            only = chance.choice(kinds)
            rates = dict.fromkeys(kinds, 0.0) | {only: _OFTEN[only]}
        calm_s = chance.choice((20.0, 60.0, 200.0, 900.0))
        outages = tuple(_outage(chance, calm_s) for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 4))))
        limit = chance.choice((delivery_limit, delivery_limit, 3))
        return cls(**rates, outages=outages, calm_s=calm_s, delivery_limit=limit)

    def away(self, part: str, now_s: float) -> bool:
        """Tell whether a part is away."""
        return any(outage.part == part and outage.from_s <= now_s < outage.until_s for outage in self.outages)

    def __str__(self) -> str:
        rates = ", ".join(
            f"{item.name} {value:.3f}"
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), float) and value and item.name != "calm_s"
        )
        outages = ", ".join(f"{outage.part} {outage.from_s:.0f}-{outage.until_s:.0f} s" for outage in self.outages)
        return f"faults until {self.calm_s:.0f} s: {rates or 'none'}; outages: {outages or 'none'}"


def _rate(chance: random.Random, most: float, likely: float) -> float:
    return most * chance.random() ** 2 if chance.random() < likely else 0.0


def _outage(chance: random.Random, calm_s: float) -> Outage:
    from_s = chance.uniform(0, min(calm_s, 60.0))
    return Outage(chance.choice(PARTS), from_s, min(calm_s, from_s + chance.choice((2.0, 8.0, 30.0, 150.0, 800.0))))
