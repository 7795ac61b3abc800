"""The bill: what the real thing would have charged, and every call that was made."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

_KEPT_CALLS: Final = 20_000
_NO_SESSION: Final = "-"


@dataclass(slots=True)
class Call:
    """One call.

    Attributes:
        number: Since the last reset, from 1.
        session_call: Among the calls of its session, from 1.
        route: `images`, `chat` or `openai`.
        session_id: The session that it belongs to, or `-`.
        model: As the request named it.
        key_tail: The last four characters of the key.
        user: The end user's tag.
        parameters: The request but for its words and images.
        fault: The fault that it met.
        status: What was answered; None where nothing was.
        images: How many images were made.
        usd: What was billed.
        billed: Whether it was billed.
        left: Whether the client went away before the answer was ready.
        id: The generation's id.
        began_at: Unix seconds.
        took_s: How long it took.
    """

    number: int
    session_call: int
    route: str
    session_id: str
    model: str
    key_tail: str
    user: str | None
    parameters: Mapping[str, Any]
    fault: str | None = None
    status: int | None = None
    images: int = 0
    usd: Decimal = Decimal(0)
    billed: bool = False
    left: bool = False
    id: str = field(default_factory=lambda: f"gen-{int(time.time())}-{uuid4().hex[:20]}")
    began_at: float = field(default_factory=time.time)
    took_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the call as `GET /_emulator/calls` shows it."""
        shown = {name: getattr(self, name) for name in self.__slots__}
        return {**shown, "usd": str(self.usd)}


@dataclass(slots=True)
class _Sum:
    calls: int = 0
    billed_calls: int = 0
    images: int = 0
    usd: Decimal = Decimal(0)

    def as_json(self) -> dict[str, Any]:
        return {"calls": self.calls, "billed_calls": self.billed_calls, "images": self.images, "usd": str(self.usd)}


class Bill:
    """What was called and what it cost, by session."""

    def __init__(self) -> None:
        self.calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self.in_flight = 0
        self.most_in_flight = 0
        self._by_id: dict[str, Call] = {}
        self._sessions: dict[str, _Sum] = {}
        self._total = _Sum()

    def reset(self) -> None:
        """Begin anew."""
        self.calls.clear()
        self._by_id.clear()
        self._sessions.clear()
        self._total = _Sum()
        self.most_in_flight = self.in_flight

    def open(self, *, session_id: str | None, **facts: Any) -> Call:
        """Note that a call came in."""
        session = self._sessions.setdefault(session_id or _NO_SESSION, _Sum())
        session.calls += 1
        self._total.calls += 1
        call = Call(number=self._total.calls, session_call=session.calls, session_id=session_id or _NO_SESSION, **facts)
        if len(self.calls) == _KEPT_CALLS:
            self._by_id.pop(self.calls[0].id, None)
        self.calls.append(call)
        self._by_id[call.id] = call
        return call

    def charge(self, call: Call, images: int, usd: Decimal) -> None:
        """Put the call on the bill."""
        call.billed, call.images, call.usd = True, images, usd
        for total in (self._sessions.setdefault(call.session_id, _Sum()), self._total):
            total.billed_calls += 1
            total.images += images
            total.usd += usd

    def find(self, call_id: str) -> Call | None:
        """Return the call with this generation id."""
        return self._by_id.get(call_id)

    def usd(self) -> Decimal:
        """Return the whole bill."""
        return self._total.usd

    def as_json(self, session_id: str | None = None) -> dict[str, Any]:
        """Return the bill: the total and each session, or the one that is asked for."""
        if session_id is not None:
            return {"session_id": session_id, **self._sessions.get(session_id, _Sum()).as_json()}
        return {
            "total": {**self._total.as_json(), "in_flight": self.in_flight, "most_in_flight": self.most_in_flight},
            "sessions": {name: session.as_json() for name, session in self._sessions.items()},
        }
