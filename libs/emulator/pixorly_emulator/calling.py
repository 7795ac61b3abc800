"""The life of one call: key, gates, fault, latency, images, bill, answer."""

import asyncio
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final, cast

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from pixorly_emulator import answers, wire
from pixorly_emulator.bill import Bill, Call
from pixorly_emulator.errors import ERRORS, Refusal, openai_body, openrouter_body, retry_after_header
from pixorly_emulator.faults import Fault
from pixorly_emulator.latency import Latency
from pixorly_emulator.models import Models
from pixorly_emulator.requests import Asked, prompt_of, understand
from pixorly_emulator.script import CallFacts, Script

_LONGEST_S: Final = 3600.0
_GONE: Final = 499
_HTML: Final = "<!doctype html><html><head><title>Bad gateway</title></head><body><h1>Error</h1></body></html>"
_WORDS: Final = {"prompt", "messages", "input_references"}
_DEEP: Final = 100_000


class Calling:
    """The routes that make images.

    Args:
        bill: Where calls and charges are noted.
        models: The models on offer.
        script: Which fault meets which call.
        random: Draws the latencies.
        latency: How long an answer takes where neither tag nor rule says so.
        keys: The bearer keys that are taken; any where there are none.
        bill_disconnected: Whether a call is billed though its client went away.
    """

    def __init__(
        self,
        *,
        bill: Bill,
        models: Models,
        script: Script,
        random: Random,
        latency: Latency,
        keys: frozenset[str],
        bill_disconnected: bool,
    ) -> None:
        self._bill = bill
        self._models = models
        self._script = script
        self._random = random
        self._latency = latency
        self._keys = keys
        self._bill_disconnected = bill_disconnected

    async def images(self, request: Request) -> Response:
        """`POST /api/v1/images`."""
        return await self._serve(request, "images")

    async def chat(self, request: Request) -> Response:
        """`POST /api/v1/chat/completions`."""
        return await self._serve(request, "chat")

    async def openai(self, request: Request) -> Response:
        """`POST /v1/images/generations`, OpenAI's own."""
        return await self._serve(request, "openai")

    async def _serve(self, request: Request, route: str) -> Response:
        key = bearer(request)
        if not key or (self._keys and key not in self._keys):
            return _error(route, "401")
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError:
            return _error(route, "400", message="The body is not valid JSON")
        except ClientDisconnect:
            return Response(status_code=_GONE)
        if not isinstance(body, dict):
            return _error(route, "400", message="The body must be an object")
        call = self._open(request, route, key, body)
        self._bill.in_flight += 1
        self._bill.most_in_flight = max(self._bill.most_in_flight, self._bill.in_flight)
        began = time.perf_counter()
        try:
            response = await self._answer(request, route, key, body, call)
        finally:
            self._bill.in_flight -= 1
            call.took_s = round(time.perf_counter() - began, 4)
        call.status = None if isinstance(response, wire.Cut) else response.status_code
        return response

    def _open(self, request: Request, route: str, key: str, body: Mapping[str, Any]) -> Call:
        session_id = body.get("session_id") or request.headers.get("x-session-id")
        if route == "openai":
            session_id = request.headers.get("x-client-request-id", "").partition("/")[0]
        user = body.get("user") or body.get("safety_identifier")
        return self._bill.open(
            session_id=str(session_id) if session_id else None,
            route=route,
            model=str(body.get("model", "")),
            key_tail=key[-4:],
            user=str(user) if user else None,
            parameters={name: value for name, value in body.items() if name not in _WORDS},
        )

    async def _answer(self, request: Request, route: str, key: str, body: Mapping[str, Any], call: Call) -> Response:
        prompt = prompt_of(route, body)
        try:
            asked = understand(route, body, self._models)
            fault, latency = self._script.meet(
                CallFacts(
                    number=call.number,
                    session_call=call.session_call,
                    session_id=call.session_id if call.session_id != "-" else "",
                    route=route,
                    model=asked.model_id,
                    key=key,
                    prompt=prompt,
                )
            )
        except Refusal as refusal:
            return _error(route, refusal.name, message=refusal.message, prompt=prompt, model=call.model)
        except ValueError as error:
            return _error(route, "400", message=str(error))
        call.fault = str(fault) if fault else None
        return await self._unless_client_leaves(request, self._work(asked, call, fault, latency), asked, call)

    async def _unless_client_leaves(self, request: Request, work: Any, asked: Asked, call: Call) -> Response:
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(wire.wait_for_client(request.receive))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return cast("Response", working.result())
            call.left = True
            if self._bill_disconnected or asked.route == "chat":
                self._bill.charge(call, asked.n, asked.usd * asked.n)
            return Response(status_code=_GONE)
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _work(self, asked: Asked, call: Call, fault: Fault | None, latency: Latency | None) -> Response:
        await asyncio.sleep((latency or self._latency)(self._random))
        if fault and fault.name in ERRORS:
            return _fault_error(asked, fault)
        if fault and (early := await _before_the_bill(asked, call, fault)):
            return early
        items = await asyncio.to_thread(answers.make_images, asked, fault)
        if items:
            self._bill.charge(call, len(items), asked.usd * len(items))
        answer = answers.make_answer(asked, items, call, fault)
        if asked.stream and not fault:
            return StreamingResponse(answers.events(answer), headers=answer.headers, media_type="text/event-stream")
        body = await asyncio.to_thread(orjson.dumps, answers.written(answer, call))
        return _on_the_wire(body, answer.headers, fault)


def bearer(request: Request) -> str:
    """Return the request's bearer key, empty where there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type="application/json")


def _error(route: str, name: str, *, message: str | None = None, **about: Any) -> Response:
    shape = ERRORS[name]
    status, body = shape.status, openrouter_body(shape, message=message, **about)
    if route == "openai":
        status, body = openai_body(shape, message=message)
    return _json(body, status, {"retry-after": shape.retry_after} if shape.retry_after else None)


def _fault_error(asked: Asked, fault: Fault) -> Response:
    about: dict[str, Any] = {"prompt": asked.wanted.prompt, "model": asked.model_id}
    if "resets" in fault.options:
        about["resets"] = fault.options["resets"]
    response = _error(asked.route, fault.name, **about)
    if "retry-after" in fault.options:
        value = retry_after_header(fault.options["retry-after"])
        del response.headers["retry-after"]
        if value is not None:
            response.headers["retry-after"] = value
    return response


_NO_ANSWER: Final[dict[str, Callable[[Fault], Response]]] = {
    "endless": lambda _: wire.endless(),
    "redirect": lambda fault: RedirectResponse(fault.argument or "http://127.0.0.1/"),
    "html": lambda fault: Response(_HTML, status_code=fault.number(502), media_type="text/html"),
    "nothing": lambda fault: Response(b"", status_code=fault.number(502)),
    "notjson": lambda fault: Response(b'{"created": 1, "data": [', fault.number(200), media_type="application/json"),
    "deep": lambda _: Response(b'{"data":' + b"[" * _DEEP + b"]" * _DEEP + b"}", media_type="application/json"),
}


async def _before_the_bill(asked: Asked, call: Call, fault: Fault) -> Response | None:
    """Return the answer of a fault that makes no image; None where images are made."""
    if fault.name == "timeout":
        await asyncio.sleep(_LONGEST_S)
    if fault.name == "cut" and fault.argument in {None, "before"}:
        return wire.Cut()
    if fault.name == "gzip":
        bomb = await asyncio.to_thread(wire.gzip_bomb, fault.number(200))
        return Response(bomb, headers={"content-encoding": "gzip"}, media_type="application/json")
    if fault.name in _NO_ANSWER:
        return _NO_ANSWER[fault.name](fault)
    return _error_in_200(asked, call, fault)


def _error_in_200(asked: Asked, call: Call, fault: Fault) -> Response | None:
    """Return an answer with the status 200 whose body says that it failed."""
    name = fault.argument if fault.argument in ERRORS else "502"
    body = openrouter_body(ERRORS[name or "502"], prompt=asked.wanted.prompt, model=asked.model_id)
    match fault.name:
        case "200error":
            return _json(body)
        case "codestring":
            shape = ERRORS[fault.argument if fault.argument in ERRORS else "503"]
            body = openrouter_body(shape)
            body["error"]["code"] = str(shape.status)
            return _json(body, shape.status)
        case "200choice" | "200finish" | "filtered" if asked.route != "chat":
            return _json(openrouter_body(ERRORS["400policy"]) if fault.name == "filtered" else body)
        case "200choice" | "200finish" | "filtered":
            reason = "content_filter" if fault.name == "filtered" else "error"
            empty = answers.Answer(asked, [], text="")
            chat = answers.chat_body(empty, call, finish_reason=reason)
            if fault.name == "200choice":
                chat["choices"][0]["error"] = body["error"]
            return _json(chat)
        case _:
            return None


def _on_the_wire(body: bytes, headers: dict[str, str], fault: Fault | None) -> Response:
    """Return a billed answer, as the fault lets it through."""
    name = fault.name if fault else ""
    if fault and name == "cut":
        return wire.Cut(body if fault.argument == "body" else None)
    if fault and name == "drip":
        return wire.drip(body, fault.number(1))
    if fault and name == "huge":
        return wire.huge(body, fault.number(100))
    if fault and name == "headers":
        return wire.with_headers(body, fault.number(10), headers)
    return Response(body, headers=headers, media_type="application/json")
