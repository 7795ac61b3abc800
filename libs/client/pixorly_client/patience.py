"""When a call is repeated, and after how long: only where sending it twice does no more than sending it once."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pixorly_client.calls import Call
from pixorly_client.errors import ConnectionTrouble, PixorlyAPIError, PixorlyError

_PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses that tell of a state that passes."""
_STILL_UNDER_WAY: Final = "idempotency_in_progress"


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a client tries.

    Attributes:
        tries: How often a call is sent at most.
        first_pause_s: The longest first pause; each may be twice as long as the one before.
        longest_pause_s: No pause is longer; a `Retry-After` beyond it ends the tries.
        jitter: A random number from 0 to 1, so that many clients do not return at once.
        clock: Seconds that only grow.
    """

    tries: int = 5
    first_pause_s: float = 0.25
    longest_pause_s: float = 30.0
    jitter: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def pause_s(self, call: Call[Any], error: PixorlyError, tried: int) -> float | None:
        """Return how long to wait before the next try, or None where there is to be none."""
        if not call.repeatable or tried >= self.tries or not passes(error):
            return None
        asked_s = error.retry_after_s if isinstance(error, PixorlyAPIError) else None
        if asked_s is None:
            return self.backoff_s(tried)
        return asked_s if asked_s <= self.longest_pause_s else None

    def backoff_s(self, tried: int) -> float:
        """Return a pause that grows with the tries, from half of what it may be to all of it."""
        longest_s = min(self.longest_pause_s, self.first_pause_s * 2.0 ** (tried - 1))
        return longest_s * (0.5 + self.jitter() / 2)


def passes(error: PixorlyError) -> bool:
    """Tell whether an error tells of a state that passes."""
    if isinstance(error, PixorlyAPIError):
        return error.status in _PASSING or error.code == _STILL_UNDER_WAY
    return isinstance(error, ConnectionTrouble)
