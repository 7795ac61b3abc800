"""Logs: JSON, one object a line, with the trace's and the job's ids. Prompts, keys and signed links belong in none."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from opentelemetry import trace

_MAX_TEXT: Final = 4096
_DETAIL: Final = re.compile(r"^(DETAIL|Failing row).*$", re.MULTILINE)
"""The line in which PostgreSQL shows the values of a row that it refused: a prompt may be among them."""


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


def _without_rows(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if "exception" in entry:
        entry["exception"] = _DETAIL.sub("DETAIL: left out", entry["exception"])
    return entry


def set_up(service: str, level_name: str) -> None:
    """Send this process's logs, and those of the libraries it uses, to standard error."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _without_rows,
        _bounded,
    ]
    level = logging.getLevelNamesMapping().get(level_name.upper(), logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.processors.EventRenamer("message"), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    _route_standard_logging(shared, level)


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
