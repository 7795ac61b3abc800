"""The emulator's own routes: the bill, the calls, the script, and a fresh start."""

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pixorly_emulator.bill import Bill
from pixorly_emulator.faults import help_text
from pixorly_emulator.script import Script


def routes(bill: Bill, script: Script) -> list[Route]:
    """Return the routes."""
    control = _Control(bill, script)
    return [
        Route("/_emulator/bill", control.bill),
        Route("/_emulator/calls", control.calls),
        Route("/_emulator/faults", control.faults),
        Route("/_emulator/reset", control.reset, methods=["POST"]),
        Route("/_emulator/script", control.script, methods=["GET", "POST", "DELETE"]),
    ]


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")


class _Control:
    def __init__(self, bill: Bill, script: Script) -> None:
        self._bill = bill
        self._script = script

    async def bill(self, request: Request) -> Response:
        """Show the bill: the total and every session, or the one of `?session_id=`."""
        return _json(self._bill.as_json(request.query_params.get("session_id")))

    async def calls(self, request: Request) -> Response:
        """Show the latest calls, oldest first; `?session_id=` those of one session, `?limit=` the last so many."""
        session_id = request.query_params.get("session_id")
        calls = [call for call in self._bill.calls if session_id is None or call.session_id == session_id]
        limit = request.query_params.get("limit", "")
        return _json({"data": [call.as_json() for call in calls[-int(limit) if limit.isdecimal() else 0 :]]})

    async def faults(self, _: Request) -> Response:
        """List every fault."""
        return Response(help_text() + "\n", media_type="text/plain")

    async def reset(self, _: Request) -> Response:
        """Forget the bill, the calls and the script."""
        self._bill.reset()
        self._script.clear()
        return _json(self._bill.as_json())

    async def script(self, request: Request) -> Response:
        """Show the rules, add some (`{"rules": […], "replace": true}`), or forget them."""
        if request.method == "DELETE":
            self._script.clear()
        elif request.method == "POST":
            try:
                self._take(orjson.loads(await request.body()))
            except (ValueError, TypeError, AttributeError) as error:
                return _json({"error": {"code": 400, "message": f"not a script: {error}"}}, 400)
        return _json({"rules": self._script.as_json()})

    def _take(self, told: Any) -> None:
        rules = told if isinstance(told, list) else told.get("rules", [told])
        self._script.extend(rules, replace=isinstance(told, dict) and bool(told.get("replace")))
