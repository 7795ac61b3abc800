"""The three addresses that every process answers: `/livez`, `/readyz` and `/metrics`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pixorly import metrics
from pixorly.errors import OutageError

_TIMEOUT_S: Final = 3.0
_FRESH_S: Final = 0.5

UP = metrics.gauge("pixorly_part_up", "1 where a part answered when readiness was last asked, else 0.", "part")


@dataclass(frozen=True, slots=True)
class Check:
    """Whether one part is there.

    Attributes:
        part: Its name: `postgres`, `rabbitmq`, `ledger`, `s3`.
        run: Returns when it is, raises `OutageError` when it is not.
        required: Whether the process can do nothing without it; one that is not required is only reported.
    """

    part: str
    run: Callable[[], Awaitable[None]]
    required: bool = True


@dataclass(slots=True)
class Readiness:
    """Asks all checks at once, and remembers the answers for half a second, so that probes cost little."""

    checks: Sequence[Check]
    _answers: dict[str, str] = field(default_factory=dict)
    _asked_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def ask(self) -> tuple[bool, dict[str, str]]:
        """Return whether the process is ready, and `ok` or the reason by part."""
        async with self._lock:
            if time.monotonic() - self._asked_at > _FRESH_S:
                answers = await asyncio.gather(*(_answer(check) for check in self.checks))
                self._answers = {check.part: answer for check, answer in zip(self.checks, answers, strict=True)}
                self._asked_at = time.monotonic()
                for part, answer in self._answers.items():
                    UP.labels(part).set(answer == "ok")
        ready = all(self._answers[check.part] == "ok" for check in self.checks if check.required)
        return ready, self._answers


async def _answer(check: Check) -> str:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await check.run()
    except OutageError as error:
        return error.message
    except TimeoutError:
        return f"{check.part} did not answer within {_TIMEOUT_S:g} s."
    return "ok"


def routes(checks: Sequence[Check]) -> APIRouter:
    """Return the three routes; readiness is 200 or 503, with the state of each part."""
    router = APIRouter(include_in_schema=False)
    readiness = Readiness(checks)

    @router.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        ready, parts = await readiness.ask()
        body = {"status": "ready" if ready else "waiting", "parts": parts}
        return JSONResponse(body, status_code=200 if ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router
