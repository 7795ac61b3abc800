"""Logs, spans and what ties them together.

Logs are JSON, one object a line, with the trace's and the job's ids. Spans go out over OTLP where an endpoint is set.
Prompts, keys and signed links belong in neither.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import structlog
from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from pixorly import metrics
from pixorly.settings import ProcessSettings

_MAX_TEXT = 4096

BUILD = metrics.gauge("pixorly_build_info", "Always 1; which process this is, of which version.", "service", "version")


def _with_trace(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        entry["trace_id"], entry["span_id"] = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    return entry


def _bounded(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in entry.items():
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            entry[key] = value[:_MAX_TEXT] + "…"
    return entry


def setup(service: str, settings: ProcessSettings) -> None:
    """Send this process's logs to standard error as JSON, and its spans to the OTLP endpoint, if one is set."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _bounded,
    ]
    level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.processors.EventRenamer("message"), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    BUILD.labels(service, version("pixorly")).set(1)
    _route_standard_logging(shared, level)
    if settings.otlp_endpoint_url:
        _trace_to(settings.otlp_endpoint_url, service, settings)


def _route_standard_logging(shared: list[structlog.types.Processor], level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("message"),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers, root.level = [handler], max(level, logging.WARNING)


def _trace_to(endpoint_url: str, service: str, settings: ProcessSettings) -> None:
    resource = Resource.create(
        {
            "service.name": f"pixorly-{service}",
            "service.namespace": "pixorly",
            "deployment.environment.name": settings.environment,
        }
    )
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint_url.rstrip('/')}/v1/traces", timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def shutdown() -> None:
    """Send what is left of the spans."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def carried() -> dict[str, str]:
    """Return the current trace context as headers."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@contextmanager
def continued(headers: Mapping[str, Any]) -> Iterator[None]:
    """Make the trace context in `headers` the current one."""
    carrier = {key: str(value) for key, value in headers.items() if key in {"traceparent", "tracestate"}}
    token = context.attach(propagate.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)
