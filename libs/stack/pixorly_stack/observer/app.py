"""The observer's HTTP: OTLP in; the page, and the JSON that it is drawn from, out."""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any, Final

import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pixorly_stack.observer import series, spans
from pixorly_stack.observer.series import Metrics
from pixorly_stack.observer.spans import Unreadable
from pixorly_stack.observer.store import Store

_PROTOBUF: Final = "application/x-protobuf"
_MOST_BYTES: Final = 32_000_000
_MOST_TRACES: Final = 500
_SCRAPE_EVERY_S: Final = 5.0
_GZIP: Final = 31
"""What tells zlib to expect gzip's frame."""
_PAGE: Final = files("pixorly_stack.observer").joinpath("page.html").read_text(encoding="utf-8")
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def make_app(store: Store, metrics: Metrics, scrapes: Sequence[tuple[str, str]] = ()) -> Starlette:
    """Return the app.

    Args:
        store: Where spans go.
        metrics: Where metrics go.
        scrapes: Whom to ask for Prometheus' text now and then: names and addresses.
    """

    def take(keep: Callable[[bytes], None]) -> Callable[[Request], Any]:
        async def taking(request: Request) -> Response:
            try:
                body = await _body(request)
                await run_in_threadpool(keep, body)
            except Unreadable as error:
                return JSONResponse({"message": str(error)}, 400)
            # An empty answer is an empty protobuf message: all was accepted.
            return Response(b"", media_type=_PROTOBUF)

        return taking

    def list_traces(request: Request) -> Response:
        wanted = request.query_params
        of_jobs, failed = wanted.get("jobs", "1") != "0", wanted.get("errors") == "1"
        return JSONResponse({"data": store.traces(of_jobs=of_jobs, failed=failed, limit=_MOST_TRACES)})

    def show_trace(request: Request) -> Response:
        return _shown(store, request.path_params["trace_id"])

    def show_job(request: Request) -> Response:
        return _shown(store, store.trace_of_job(request.path_params["job_id"]))

    def list_metrics(_: Request) -> Response:
        return JSONResponse({"data": metrics.all()})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        scraping = [asyncio.create_task(_scrape(metrics, name, url)) for name, url in scrapes]
        yield
        for task in scraping:
            task.cancel()
        store.close()

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/v1/traces", take(lambda body: store.add(spans.read(body))), methods=["POST"]),
            Route("/v1/metrics", take(lambda body: metrics.add(series.read(body))), methods=["POST"]),
            Route("/api/traces", list_traces),
            Route("/api/traces/{trace_id}", show_trace),
            Route("/api/jobs/{job_id}", show_job),
            Route("/api/metrics", list_metrics),
            Route("/readyz", lambda _: JSONResponse({"status": "ready"})),
            Route("/", lambda _: HTMLResponse(_PAGE, headers=_HEADERS)),
        ],
    )


def _shown(store: Store, trace_id: str | None) -> Response:
    found = store.trace(trace_id) if trace_id else []
    if not found:
        return JSONResponse({"message": "There is no such trace here, or not any more."}, 404)
    return JSONResponse(spans.as_json(found))


async def _body(request: Request) -> bytes:
    """Return a request's body, unpacked and bounded.

    Raises:
        Unreadable: It is too large, packed in another way than gzip, or not protobuf.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != _PROTOBUF:
        raise Unreadable(f"only {_PROTOBUF} is taken")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise Unreadable("too large")
    if request.headers.get("content-encoding", "identity") == "identity":
        return bytes(body)
    unpacking = zlib.decompressobj(_GZIP)
    try:
        unpacked = unpacking.decompress(bytes(body), _MOST_BYTES)
    except zlib.error as error:
        raise Unreadable("not gzip") from error
    if unpacking.unconsumed_tail:
        raise Unreadable("too large")
    return unpacked


async def _scrape(metrics: Metrics, name: str, url: str) -> None:
    """Ask for Prometheus' text for ever; what does not answer is asked again."""
    async with httpx.AsyncClient(timeout=_SCRAPE_EVERY_S, trust_env=False, verify=False) as client:  # noqa: S501 - plain HTTP on loopback; the authorities take long to read
        while True:
            with suppress(httpx.HTTPError, ValueError):
                answer = (await client.get(url)).raise_for_status()
                metrics.add(series.scraped(name, answer.text, time.time()))
            await asyncio.sleep(_SCRAPE_EVERY_S)
