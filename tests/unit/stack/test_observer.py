"""The observer takes OTLP, keeps a bounded part of it, and shows a trace as a tree."""

import gzip
import json
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pixorly_stack.observer import series, spans
from pixorly_stack.observer.app import make_app
from pixorly_stack.observer.series import Metrics, Sample
from pixorly_stack.observer.spans import Span
from pixorly_stack.observer.store import Store

TRACE = "0a" * 16
JOB = "01a20582-e05c-7059-b335-4aa9bdbb5d22"
PROTOBUF = {"content-type": "application/x-protobuf"}
MS = 1_000_000


def span(number: int, parent: int | None = None, trace_id: str = TRACE, **more: Any) -> Span:
    facts: dict[str, Any] = {
        "service": "pixorly-api",
        "name": f"span {number}",
        "kind": "internal",
        "start_ns": number * MS,
        "end_ns": (number + 10) * MS,
        "error": False,
        **more,
    }
    return Span(trace_id, f"{number:016x}", f"{parent:016x}" if parent is not None else None, **facts)


def request(*given: Span) -> bytes:
    """What an exporter sends."""
    message = ExportTraceServiceRequest()
    for one in given:
        batch = message.resource_spans.add()
        batch.resource.attributes.add(key="service.name").value.string_value = one.service
        out = batch.scope_spans.add().spans.add(
            trace_id=bytes.fromhex(one.trace_id),
            span_id=bytes.fromhex(one.span_id),
            parent_span_id=bytes.fromhex(one.parent_id or ""),
            name=one.name,
            kind=("unspecified", "internal", "server", "client", "producer", "consumer").index(one.kind),
            start_time_unix_nano=one.start_ns,
            end_time_unix_nano=one.end_ns,
        )
        out.status.code = 2 if one.error else 0
        for name, value in one.attributes.items():
            kind = {bool: "bool_value", int: "int_value", float: "double_value"}.get(type(value), "string_value")
            setattr(out.attributes.add(key=name).value, kind, value)
        for trace_id, span_id in one.links:
            out.links.add(trace_id=bytes.fromhex(trace_id), span_id=bytes.fromhex(span_id))
    return bytes(message.SerializeToString())


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(Store(":memory:"), Metrics()))
    async with httpx.AsyncClient(transport=transport, base_url="http://observer") as client:
        yield client


def test_a_span_is_read_as_it_was_sent() -> None:
    given = span(
        3,
        2,
        kind="consumer",
        error=True,
        attributes={"pixorly.job_id": JOB, "pixorly.attempt": 2, "cost": 0.5, "late": True},
        links=[(TRACE, "00" * 8)],
    )

    assert spans.read(request(given)) == [given]


def test_attributes_are_bounded() -> None:
    given = span(1, attributes={f"a{number}": "x" * 5000 for number in range(200)})

    (read,) = spans.read(request(given))

    assert len(read.attributes) == 64
    assert {len(str(value)) for value in read.attributes.values()} == {2000}


def test_a_tree_has_each_span_after_its_parent_and_marks_those_whose_parent_is_missing() -> None:
    tree = spans.placed([span(5, 99), span(4, 1), span(3, 2), span(2, 1), span(1)])

    assert [(place.span.name, place.depth, place.orphan) for place in tree] == [
        ("span 1", 0, False),
        ("span 2", 1, False),
        ("span 3", 2, False),
        ("span 4", 1, False),
        ("span 5", 0, True),
    ]


def test_a_span_that_is_its_own_parent_is_shown_once() -> None:
    assert [place.span.name for place in spans.placed([span(1, 1)])] == ["span 1"]


async def test_a_trace_comes_back_with_its_job(client: httpx.AsyncClient) -> None:
    root, child = span(1, attributes={"pixorly.job_id": JOB}), span(2, 1, service="pixorly-ledger", error=True)

    answer = await client.post("/v1/traces", content=request(root, child), headers=PROTOBUF)

    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"", "application/x-protobuf")
    (listed,) = (await client.get("/api/traces")).json()["data"]
    assert (listed["job_id"], listed["name"], listed["spans"], listed["errors"]) == (JOB, "span 1", 2, 1)
    found = (await client.get(f"/api/jobs/{JOB}")).json()
    assert found == (await client.get(f"/api/traces/{TRACE}")).json()
    assert (found["job_ids"], found["services"], found["orphans"]) == ([JOB], ["pixorly-api", "pixorly-ledger"], 0)
    shown = [(one["depth"], one["start_ms"], one["error"]) for one in found["spans"]]
    assert shown == [(0, 0.0, False), (1, 1.0, True)]


async def test_the_end_of_a_jobs_id_is_enough(client: httpx.AsyncClient) -> None:
    await client.post("/v1/traces", content=request(span(1, attributes={"pixorly.job_id": JOB})), headers=PROTOBUF)

    assert (await client.get("/api/jobs/bdbb5d22")).status_code == 200
    assert (await client.get("/api/jobs/5d22")).status_code == 404
    assert (await client.get("/api/jobs/%25%25%25%25%25%25%25%25")).status_code == 404


async def test_what_is_sent_twice_is_kept_once(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await client.post("/v1/traces", content=request(span(1)), headers=PROTOBUF)

    assert len((await client.get(f"/api/traces/{TRACE}")).json()["spans"]) == 1


async def test_lists_can_be_narrowed_to_jobs_and_to_errors(client: httpx.AsyncClient) -> None:
    job = span(1, trace_id="0b" * 16, attributes={"pixorly.job_id": JOB})
    await client.post("/v1/traces", content=request(job, span(2, trace_id="0c" * 16, error=True)), headers=PROTOBUF)

    async def listed(query: str) -> set[str]:
        return {one["trace_id"][:2] for one in (await client.get(f"/api/traces?{query}")).json()["data"]}

    assert await listed("") == {"0b"}
    assert await listed("jobs=0") == {"0b", "0c"}
    assert await listed("jobs=0&errors=1") == {"0c"}


async def test_a_packed_request_is_unpacked(client: httpx.AsyncClient) -> None:
    packed = {**PROTOBUF, "content-encoding": "gzip"}

    answer = await client.post("/v1/traces", content=gzip.compress(request(span(1))), headers=packed)

    assert answer.status_code == 200
    assert (await client.get(f"/api/traces/{TRACE}")).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"\xff\xff\xff", PROTOBUF),
        (b"{}", {"content-type": "application/json"}),
        (b"no gzip", {**PROTOBUF, "content-encoding": "gzip"}),
        (gzip.compress(b"\0" * 40_000_000), {**PROTOBUF, "content-encoding": "gzip"}),
    ],
    ids=["garbage", "another type", "not packed", "a bomb"],
)
@pytest.mark.parametrize("path", ["/v1/traces", "/v1/metrics"])
async def test_what_is_not_otlp_is_refused(
    client: httpx.AsyncClient, path: str, content: bytes, headers: dict[str, str]
) -> None:
    assert (await client.post(path, content=content, headers=headers)).status_code == 400


def test_the_oldest_traces_go_when_there_are_too_many_spans() -> None:
    store = Store(":memory:", most_spans=100)

    for number in range(300):
        store.add([span(number, trace_id=f"{number // 10:032x}")])

    kept = store.traces(of_jobs=False, failed=False, limit=500)
    assert sum(trace["spans"] for trace in kept) <= 100
    assert kept[0]["trace_id"] == f"{29:032x}"
    assert store.trace(f"{0:032x}") == []


def test_spans_are_there_after_a_restart(tmp_path: Any) -> None:
    store = Store(tmp_path / "observed.sqlite")
    store.add([span(1)])
    store.close()

    assert [one.name for one in Store(tmp_path / "observed.sqlite").trace(TRACE)] == ["span 1"]


async def test_metrics_come_back_with_their_points(client: httpx.AsyncClient) -> None:
    for value in (1.0, 4.0):
        message = ExportMetricsServiceRequest()
        batch = message.resource_metrics.add()
        batch.resource.attributes.add(key="service.name").value.string_value = "pixorly-ledger"
        metric = batch.scope_metrics.add().metrics.add(name="pixorly.credits.charged", unit="{credit}")
        point = metric.sum.data_points.add(as_double=value, time_unix_nano=7_000_000_000)
        point.attributes.add(key="kind").value.string_value = "grant"
        answer = await client.post("/v1/metrics", content=message.SerializeToString(), headers=PROTOBUF)
        assert answer.status_code == 200

    (found,) = (await client.get("/api/metrics")).json()["data"]
    assert (found["service"], found["name"], found["labels"]) == (
        "pixorly-ledger",
        "pixorly.credits.charged",
        {"kind": "grant"},
    )
    assert (found["value"], found["unit"], found["points"]) == (4.0, "{credit}", [[7.0, 1.0], [7.0, 4.0]])


def test_series_and_their_points_are_bounded() -> None:
    metrics = Metrics(most_series=10)

    for number in range(500):
        metrics.add([Sample("s", "busy", (), "gauge", "1", number, number)])
        metrics.add([Sample("s", f"m{number}", (), "gauge", "1", number, number)])

    found = {one["name"]: one for one in metrics.all()}
    assert len(found) == 10
    assert len(found["busy"]["points"]) == series.POINTS


def test_a_quantile_is_drawn_through_its_bucket() -> None:
    assert series.quantile([1.0, 2.0], [50, 50, 0], 0.95) == pytest.approx(1.9)
    assert series.quantile([1.0, 2.0], [0, 0, 9], 0.95) == 2.0
    assert series.quantile([1.0], [0, 0], 0.95) is None


def test_prometheus_text_is_read() -> None:
    text = '# TYPE rabbitmq_detailed_queue_messages gauge\nrabbitmq_detailed_queue_messages{queue="q"} 3\n'

    (sample,) = series.scraped("rabbitmq", text, 5.0)

    assert (sample.name, sample.labels, sample.value) == ("rabbitmq_detailed_queue_messages", (("queue", "q"),), 3.0)


async def test_the_page_needs_nothing_from_elsewhere_and_makes_no_markup_of_what_it_is_told(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/")
    page = files("pixorly_stack.observer").joinpath("page.html").read_text()

    assert answer.text == page
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert set(re.findall(r"https?://[^\"']+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", page)


async def test_what_is_not_there_is_said_so(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/jobs/none-such")

    assert answer.status_code == 404
    assert "no such trace" in json.loads(answer.content)["message"]
