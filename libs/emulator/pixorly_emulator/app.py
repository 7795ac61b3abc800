"""The emulator as an ASGI app: routes, and the life of one call from its bearer key to its bill."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pixorly_emulator import control, discovery
from pixorly_emulator.bill import Bill
from pixorly_emulator.calling import Calling
from pixorly_emulator.errors import ERRORS, openrouter_body
from pixorly_emulator.latency import parse_latency
from pixorly_emulator.models import Models
from pixorly_emulator.script import Script


@dataclass(frozen=True, slots=True)
class Options:
    """How the emulator behaves.

    Attributes:
        latency: How long every answer takes, as `parse_latency` reads it.
        keys: The bearer keys that are taken; any where there are none.
        script: The rules to begin with.
        seed: Makes what is left to chance repeatable.
        serve_any: Whether a model that nobody knows is served too.
        bill_disconnected: Whether a call is billed though its client went away before the answer was ready. OpenRouter
            says that its image route does not; its chat route may, and does so here.
    """

    latency: str = "0"
    keys: tuple[str, ...] = ()
    script: tuple[Mapping[str, Any], ...] = field(default=())
    seed: int = 0
    serve_any: bool = False
    bill_disconnected: bool = False


def create_app(options: Options | None = None) -> Starlette:
    """Return the emulator.

    Raises:
        ValueError: An option can't be understood.
    """
    options = options or Options()
    random = Random(options.seed)  # noqa: S311 - faults and latencies are no secrets
    bill, models, script = Bill(), Models(serve_any=options.serve_any), Script(random)
    script.extend(options.script)
    calling = Calling(
        bill=bill,
        models=models,
        script=script,
        random=random,
        latency=parse_latency(options.latency),
        keys=frozenset(options.keys),
        bill_disconnected=options.bill_disconnected,
    )
    return Starlette(
        routes=[
            Route("/livez", _alive),
            Route("/readyz", _alive),
            Route("/api/v1/images", calling.images, methods=["POST"]),
            Route("/api/v1/chat/completions", calling.chat, methods=["POST"]),
            Route("/v1/images/generations", calling.openai, methods=["POST"]),
            *discovery.routes(bill, models, frozenset(options.keys)),
            *control.routes(bill, script),
            Route("/{path:path}", _nothing, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
        ]
    )


async def _alive(_: Request) -> Response:
    return Response(orjson.dumps({"status": "ok"}), media_type="application/json")


async def _nothing(_: Request) -> Response:
    """Answer what is not there; `/api/v1/images/generations` is not, although many clients believe so."""
    return Response(orjson.dumps(openrouter_body(ERRORS["404"])), status_code=404, media_type="application/json")
