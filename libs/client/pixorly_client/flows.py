"""What the client does, apart from how: a flow yields steps, and a driver (sync or async) takes them.

So repeats, waiting and live news are written and tested once. A flow is a generator: it yields a `Step`, is sent the
step's result or has httpx's error thrown into it, and returns its value.
"""

from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, TypeVar

import httpx

from pixorly_client.answers import error_of, value_of
from pixorly_client.calls import Call
from pixorly_client.errors import ConnectionTrouble, NotFound, PixorlyError
from pixorly_client.models import Generation
from pixorly_client.patience import Patience

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; the result is the response, which may take so long at most."""

    call: Call[Any]
    within_s: float = inf


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; there is no result."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Listen:
    """Open a stream and close the one before; the result is the response, whose body is then heard in chunks."""

    call: Call[Any]
    silence_s: float


@dataclass(frozen=True, slots=True)
class Hear:
    """Wait for what comes next on the stream; the result is a chunk of bytes, or None at the end."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the caller how far the job is; there is no result."""

    job: Generation


Step = Send | Pause | Listen | Hear | Tell
Flow = Generator[Step, Any, T]


def answered(call: Call[T], patience: Patience, until: float = inf) -> Flow[T]:
    """Send a call, again where that is safe and may help, and return what the answer says.

    Raises:
        PixorlyError: The last try's; no try goes on after `until`, a time of the patience's clock.
    """
    for tried in count(1):
        try:
            response: httpx.Response = yield Send(call, until - patience.clock())
        except httpx.RequestError as trouble:
            error: PixorlyError = ConnectionTrouble.of(trouble)
        else:
            if response.is_success:
                return value_of(call, response.content)
            error = error_of(response)
            if call.done_when_gone and tried > 1 and isinstance(error, NotFound):
                return call.read(b"")
        pause_s = patience.pause_s(call, error, tried)
        if pause_s is None or patience.clock() + pause_s >= until:
            raise error
        yield Pause(pause_s)
    raise AssertionError  # pragma: no cover - the tries do not end by themselves
