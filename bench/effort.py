"""How much a run takes upon itself, and how it says where it is."""

import sys
import time
from dataclasses import dataclass

_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Effort:
    """How much to do.

    Attributes:
        rounds: How often each way has its turn.
        seconds: About how long a turn takes.
        quick: Whether it is only to be seen that all of it runs.
        full: Whether large states and long runs are part of it.
    """

    rounds: int = 5
    seconds: float = 3
    quick: bool = False
    full: bool = False

    def some(self, side: int) -> int:
        """The fewest jobs that a round has."""
        return (10 if self.quick else 40) if side < 512 else (4 if self.quick else 16)


def progress(words: str) -> None:
    spent = int(time.monotonic() - _BEGAN)
    print(f"  {spent // 60:3}:{spent % 60:02}  {words}", file=sys.stderr, flush=True)
