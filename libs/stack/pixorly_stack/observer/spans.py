"""Spans as the observer keeps them: read from OTLP's protobuf, and put together again as a tree."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it has no types of its own
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

JOB: Final = "pixorly.job_id"
_MOST_ATTRIBUTES: Final = 64
_LONGEST_TEXT: Final = 2000
_ERROR: Final = 2
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_NS_PER_MS: Final = 1e6

Value = str | int | float | bool


class Unreadable(ValueError):
    """This is not what OTLP sends."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span.

    Attributes:
        parent_id: None for a root.
        links: The spans that it has to do with, as pairs of trace and span.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    error: bool
    attributes: dict[str, Value] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)

    @property
    def job_id(self) -> str | None:
        """The job that it belongs to, where it says so."""
        job_id = self.attributes.get(JOB)
        return str(job_id) if job_id else None


@dataclass(frozen=True, slots=True)
class Placed:
    """A span at its place in the tree.

    Attributes:
        depth: How many spans it is within.
        orphan: Whether it names a parent that is not there.
    """

    span: Span
    depth: int
    orphan: bool


def read(body: bytes) -> list[Span]:
    """Return the spans of a request.

    Raises:
        Unreadable: It is none.
    """
    request = parsed(ExportTraceServiceRequest, body)
    return [
        _span(given, str(attributes_of(batch.resource.attributes).get("service.name", "?")))
        for batch in request.resource_spans
        for scope in batch.scope_spans
        for given in scope.spans
    ]


def parsed(kind: type[Any], body: bytes) -> Any:
    """Return a body as a request of this kind.

    Raises:
        Unreadable: It is none.
    """
    request = kind()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise Unreadable(f"not an {kind.__name__}") from error
    return request


def _span(given: Any, service: str) -> Span:
    return Span(
        trace_id=given.trace_id.hex(),
        span_id=given.span_id.hex(),
        parent_id=given.parent_span_id.hex() or None,
        service=service,
        name=given.name[:_LONGEST_TEXT],
        kind=_KINDS[given.kind] if given.kind < len(_KINDS) else _KINDS[0],
        start_ns=given.start_time_unix_nano,
        end_ns=given.end_time_unix_nano,
        error=given.status.code == _ERROR,
        attributes=attributes_of(given.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in given.links],
    )


def attributes_of(given: Iterable[Any]) -> dict[str, Value]:
    """Return attributes as a dict, no more and no longer than a page can show."""
    return {one.key: _value(one.value) for _, one in zip(range(_MOST_ATTRIBUTES), given, strict=False)}


def _value(given: Any) -> Value:
    kind = given.WhichOneof("value")
    if kind in {"int_value", "double_value", "bool_value"}:
        number: int | float | bool = getattr(given, kind)
        return number
    text = given.string_value if kind == "string_value" else str(given).strip()
    return str(text)[:_LONGEST_TEXT]


def placed(spans: Sequence[Span]) -> Iterator[Placed]:
    """Yield spans as a tree: each after its parent, those beside each other in the order in which they began."""
    there = {span.span_id for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
        parent_id = span.parent_id if span.parent_id in there and span.parent_id != span.span_id else None
        children.setdefault(parent_id, []).append(span)
    left = [(span, 0) for span in reversed(children.get(None, []))]
    while left:
        span, depth = left.pop()
        yield Placed(span, depth, orphan=depth == 0 and span.parent_id is not None)
        left += [(child, depth + 1) for child in reversed(children.get(span.span_id, []))]


def as_json(spans: Sequence[Span]) -> dict[str, Any]:
    """Return a trace for a page, a command or a test: its spans as a tree, with times from its beginning."""
    tree = list(placed(spans))
    began_ns, ended_ns = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    jobs = sorted({span.job_id for span in spans if span.job_id})
    return {
        "trace_id": spans[0].trace_id,
        "job_ids": jobs,
        "started_at_ns": began_ns,
        "duration_ms": (ended_ns - began_ns) / _NS_PER_MS,
        "services": sorted({span.service for span in spans}),
        "errors": sum(span.error for span in spans),
        "orphans": sum(place.orphan for place in tree),
        "spans": [_shown(place, began_ns) for place in tree],
    }


def _shown(place: Placed, began_ns: int) -> dict[str, Any]:
    span = place.span
    return {
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "depth": place.depth,
        "orphan": place.orphan,
        "service": span.service,
        "name": span.name,
        "kind": span.kind,
        "start_ms": (span.start_ns - began_ns) / _NS_PER_MS,
        "duration_ms": (span.end_ns - span.start_ns) / _NS_PER_MS,
        "error": span.error,
        "attributes": span.attributes,
        "links": [{"trace_id": trace_id, "span_id": span_id} for trace_id, span_id in span.links],
    }
