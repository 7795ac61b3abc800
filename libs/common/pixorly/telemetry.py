"""One trace for each job: spans, and the context that ties them together across tasks, queues and processes.

Where no OTLP endpoint is set there are no spans, and all of this costs next to nothing; a context that a client sends
is handed on all the same. What a span says of an error is its code: messages may hold what belongs in no trace.
"""

import asyncio
import contextvars
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Literal, TypeVar
from uuid import uuid4

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span as RecordedSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from pixorly import logs, metrics
from pixorly.sampling import Keeper, ShareAndFailures
from pixorly.settings import ProcessSettings

_T = TypeVar("_T")
_HEADERS: Final = ("traceparent", "tracestate")
_W3C: Final = TraceContextTextMapPropagator()
"""Baggage is neither read nor sent: whatever somebody puts there would go to every queue."""
_NOWHERE: Final = Context()
_KINDS: Final = {kind.name.lower(): kind for kind in SpanKind}

BUILD = metrics.gauge("pixorly_build_info", "Always 1; which process this is, of which version.", "service", "version")

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, AttributeValue]


class _Tracing:
    """What there is while spans are made."""

    def __init__(self, settings: ProcessSettings, endpoint_url: str, resource: Resource) -> None:
        from pixorly import otlp  # noqa: PLC0415 - it takes a moment to import, and most processes send nothing

        self._stop = otlp.stop
        spans = otlp.make_span_sender(endpoint_url)
        self.senders: list[Any] = [spans]
        if settings.otlp_metrics_every_s:
            self.senders.append(otlp.make_metrics_sender(endpoint_url, resource, settings.otlp_metrics_every_s))
        sampler = ShareAndFailures(settings.trace_sample_ratio)
        self.keeper = Keeper(spans.add, sampler.chooses)
        self.provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(self.keeper)
        self.tracer = self.provider.get_tracer("pixorly")
        for sender in self.senders:
            sender.start()

    def stop(self) -> None:
        """Send what is left."""
        self._stop(self.senders)


_tracing: _Tracing | None = None


def setup(service: str, settings: ProcessSettings) -> None:
    """Send this process's logs to standard error as JSON, and its spans to the OTLP endpoint, if one is set."""
    logs.set_up(service, settings.log_level)
    BUILD.labels(service, version("pixorly")).set(1)
    if settings.otlp_endpoint_url:
        begin(service, settings, settings.otlp_endpoint_url)


def begin(service: str, settings: ProcessSettings, endpoint_url: str) -> None:
    """Make spans from now on, and send them to an endpoint."""
    global _tracing  # noqa: PLW0603 - there is one for a process, as there is one standard error
    resource = Resource.create(
        {
            "service.name": f"pixorly-{service}",
            "service.namespace": "pixorly",
            "service.version": version("pixorly"),
            "service.instance.id": str(uuid4()),
            "deployment.environment.name": settings.environment,
        }
    )
    _tracing = _Tracing(settings, endpoint_url, resource)


def shutdown() -> None:
    """Send what is left of the spans, within two seconds."""
    global _tracing
    ended, _tracing = _tracing, None
    if ended:
        ended.stop()


def on() -> bool:
    """Tell whether spans are made."""
    return _tracing is not None


class _Block(AbstractContextManager[Span]):
    """A block that is a span; what it raises is noted by its code."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context.detach(self._token)
        if isinstance(error, Exception):
            failed(self._span, error)
        self._span.end()


class _Nothing(AbstractContextManager[Span]):
    """A block that is no span."""

    def __enter__(self) -> Span:
        return INVALID_SPAN

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


_NOTHING: Final = _Nothing()


def span(
    name: str,
    kind: Kind = "internal",
    attributes: Attributes | None = None,
    *,
    links: Sequence[Mapping[str, Any]] = (),
    root: bool = False,
) -> AbstractContextManager[Span]:
    """Make a block a span of the current trace; where there is none, it is no span.

    Args:
        name: Its name.
        kind: Its role, in OpenTelemetry's words.
        attributes: What is known of it already.
        links: Headers with the contexts of other spans that it has to do with.
        root: Whether it begins a trace where there is none.
    """
    if _tracing is None or not (root or trace.get_current_span().get_span_context().is_valid):
        return _NOTHING
    linked = [Link(found) for headers in links if (found := _context_in(headers)).is_valid]
    return _Block(
        _tracing.tracer.start_span(
            name,
            kind=_KINDS[kind],
            attributes=attributes,
            links=linked,
            record_exception=False,
            set_status_on_exception=False,
        )
    )


def note(**attributes: AttributeValue) -> None:
    """Note attributes on the current span; `job_id` becomes `pixorly.job_id`."""
    if _tracing is not None:
        trace.get_current_span().set_attributes({f"pixorly.{name}": value for name, value in attributes.items()})


def failed(span: Span, error: Exception | str) -> None:
    """Note on a span that it failed, by the code of an error; its trace is sent whether or not it is in the share."""
    code = error if isinstance(error, str) else getattr(error, "code", None) or type(error).__name__
    if _tracing is None or not span.get_span_context().is_valid:
        return
    span.set_attribute("error.type", str(code))
    span.set_status(StatusCode.ERROR)
    # At once, for what it sends on before it ends is to carry the flag.
    _tracing.keeper.keep(span.get_span_context().trace_id)


def failed_here(error: Exception | str) -> None:
    """Note on the current span that it failed."""
    if _tracing is not None:
        failed(trace.get_current_span(), error)


def past(name: str, kind: Kind, elapsed_s: float, attributes: Attributes, error: BaseException | None = None) -> None:
    """Make a span of something that has just ended, if it belongs to a span that was under way when it began."""
    around = trace.get_current_span()
    if _tracing is None or not isinstance(around, RecordedSpan):
        return
    ended_ns = time.time_ns()
    began_ns = ended_ns - int(elapsed_s * 1e9)
    if around.end_time is not None and around.end_time < began_ns:
        return  # it is another task's by now, which was begun by this one
    made = _tracing.tracer.start_span(name, kind=_KINDS[kind], attributes=attributes, start_time=began_ns)
    if isinstance(error, Exception):
        failed(made, error)
    made.end(ended_ns)


def here() -> str | None:
    """Return where we are as one word, `trace-span`, to be kept for later; None outside of any trace."""
    found = trace.get_current_span().get_span_context()
    return f"{found.trace_id:032x}-{found.span_id:016x}" if found.is_valid else None


def there(place: str | None) -> dict[str, str]:
    """Return the headers of a place that `here` gave; none where it is no whole place."""
    trace_id, _, span_id = (place or "").partition("-")
    return {"traceparent": f"00-{trace_id}-{span_id}-00"} if span_id else {}


def trace_id_of(place: str | None) -> str | None:
    """Return the trace of a place that `here` gave."""
    return place.partition("-")[0] if place else None


def kept(place: str | None) -> str | None:
    """Return the trace of a place if something failed in it that has it sent though it is not in the share."""
    trace_id = trace_id_of(place)
    return trace_id if _tracing is not None and trace_id and _tracing.keeper.keeps(int(trace_id, 16)) else None


def keep(trace_id: str | None) -> None:
    """Send what this process has of a trace, for something failed in another."""
    if _tracing is not None and trace_id:
        _tracing.keeper.keep(int(trace_id, 16))


@contextmanager
def visit(place: str | None, name: str, attributes: Attributes) -> Iterator[None]:
    """Make a block a span of the trace of another place, linked to where we are."""
    if _tracing is None:
        yield
        return
    links = [carried()]
    with continued(there(place)), span(name, attributes=attributes, links=links):
        yield


def carried() -> dict[str, str]:
    """Return the current trace context as headers."""
    headers: dict[str, str] = {}
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return headers
    _W3C.inject(headers)
    return {**headers, **flagged(headers)}


def flagged(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the trace context in `headers`, which are sent on as they came, with the flag of a trace that failed."""
    if _tracing is None or not (found := _context_in(headers)).is_valid:
        return {}
    if found.trace_flags.sampled or not _tracing.keeper.keeps(found.trace_id):
        return {}
    return {"traceparent": f"{headers['traceparent'][:-2]}{found.trace_flags | TraceFlags.SAMPLED:02x}"}


def _extracted(headers: Mapping[str, Any]) -> Context:
    if "traceparent" not in headers:
        return _NOWHERE
    return _W3C.extract({key: str(headers[key]) for key in _HEADERS if key in headers}, _NOWHERE)


def _context_in(headers: Mapping[str, Any]) -> trace.SpanContext:
    return trace.get_current_span(_extracted(headers)).get_span_context()


@contextmanager
def continued(headers: Mapping[str, Any]) -> Iterator[None]:
    """Make the trace context in `headers` the current one."""
    token = context.attach(_extracted(headers))
    try:
        yield
    finally:
        context.detach(token)


def from_outside(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the trace context that a stranger sends; whether its spans are sent is ours to decide."""
    found = {key: headers[key] for key in _HEADERS if key in headers}
    if _tracing is not None and len(found.get("traceparent", "")) > len("00"):
        found["traceparent"] = f"{found['traceparent'][:-2]}00"
    return found


@contextmanager
def shared(spans: Sequence[Span]) -> Iterator[None]:
    """Do something for several spans at once: it is part of the first, to which the others link."""
    first = next((span for span in spans if span.is_recording()), None)
    if first is None:
        yield
        return
    first.set_attribute("pixorly.group.size", len(spans))
    for other in spans:
        if other is not first and other.is_recording():
            other.add_link(first.get_span_context())
    token = context.attach(trace.set_span_in_context(first))
    try:
        yield
    finally:
        context.detach(token)


def detached(coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Run something that outlives what began it, outside of any trace."""
    around = contextvars.copy_context()
    around.run(context.attach, _NOWHERE)
    return asyncio.create_task(coroutine, context=around)
