"""What a run says of itself: one trace for a job, through every hop and every retry; metrics; and no secret in either.

A stack of its own, with the observer and the emulator, which answers 503 where a prompt says so.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from stack import SERVICES, Stack, running

from pixorly.outcomes import OUTCOMES
from pixorly.topology import QUEUES

CANARY: Final = "zq-canary-prompt-7391"
MODEL: Final = "google/gemini-3.1-flash-image"

EDGES: Final = [
    # child, its service, its parent, its parent's service
    ("charges.send", "api", "POST /v1/generations", "api"),
    ("POST ledger", "api", "charges.send", "api"),
    ("POST /internal/charges", "ledger", "POST ledger", "api"),
    ("ledger.charge", "ledger", "POST /internal/charges", "ledger"),
    ("jobs.promise", "api", "POST /v1/generations", "api"),
    ("INSERT outbox", "api", "jobs.promise", "api"),
    ("outbox job.created", "api", "POST /v1/generations", "api"),
    ("publish job.created", "api", "outbox job.created", "api"),
    ("process generator.generate_image", "generator", "publish job.created", "api"),
    ("generate_content google/gemini-3.1-flash-image", "generator", "process generator.generate_image", "generator"),
    ("POST provider", "generator", "generate_content google/gemini-3.1-flash-image", "generator"),
    ("publish job.retrying", "generator", "process generator.generate_image", "generator"),
    ("process api.follow_job", "api-worker", "publish job.retrying", "generator"),
    ("publish generator.generate_image.retry.2s", "generator", "process generator.generate_image", "generator"),
    ("S3.PutObject", "generator", "process generator.generate_image", "generator"),
    ("outbox image.generated", "generator", "process generator.generate_image", "generator"),
    ("publish image.generated", "generator", "outbox image.generated", "generator"),
    ("process uploader.store_image", "uploader", "publish image.generated", "generator"),
    ("S3.GetObject", "uploader", "process uploader.store_image", "uploader"),
    ("S3.PutObject", "uploader", "process uploader.store_image", "uploader"),
    ("true_ups.send", "uploader", "process uploader.store_image", "uploader"),
    ("POST ledger", "uploader", "true_ups.send", "uploader"),
    ("POST /internal/images/{image_id}/true-up", "ledger", "POST ledger", "uploader"),
    ("publish image.uploaded", "uploader", "process uploader.store_image", "uploader"),
    ("process api.follow_job", "api-worker", "publish image.uploaded", "uploader"),
    ("jobs.change", "api-worker", "process api.follow_job", "api-worker"),
    ("outbox job.completed", "api-worker", "process api.follow_job", "api-worker"),
    ("publish job.completed", "api-worker", "outbox job.completed", "api-worker"),
    ("process ledger.settle_job", "ledger", "publish job.completed", "api-worker"),
    ("ledger.settle", "ledger", "process ledger.settle_job", "ledger"),
    ("process generator.close_job", "generator", "publish job.completed", "api-worker"),
    ("tell settled", "api", "POST /v1/generations", "api"),
]
"""The way of a job whose first call met a 503: every hop, each below the one that it follows from."""


@dataclass
class Run:
    """A stack in which something has happened.

    Attributes:
        retried: The trace of a job that met a 503 and succeeded.
        rejected: The trace of a job that a provider refused.
        secrets: What must not be found anywhere, by what it is.
    """

    stack: Stack
    retried: dict[str, Any]
    rejected: dict[str, Any]
    secrets: dict[str, str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("observed") / ".pixorly"
    for stack in running(folder, "--observe", "--emulator", PIXORLY_SWEEP_INTERVAL_S="0.5"):
        yield asyncio.run(happen(stack))


async def happen(stack: Stack) -> Run:
    """Have a job retried and another rejected; call with wrong keys, follow a stream, look at an image's link."""
    async with stack.client() as client:
        retried, rejected = [
            await client.create(f"{CANARY} [[fault:{fault}]]", model=MODEL, size=1024)
            for fault in ("503x1", "400policy")
        ]
        token = (await client.ok("POST", "/v1/stream-tokens"))["token"]
        async with client.http.stream(
            "GET", f"/v1/generations/{retried['id']}/events", params={"token": token}
        ) as told:
            assert "event: settled" in "".join([line + "\n" async for line in told.aiter_lines()])
        done = await client.settled(retried["id"])
        assert done["status"] == "completed", done
        assert (await client.settled(rejected["id"]))["status"] == "failed"
        await client.http.get("/v1/account", headers={"Authorization": "Bearer px_live_canary-wrong-key"})
        await client.http.post("/v1/generations", json={"model": MODEL, "prompt": CANARY * 2000, "n": "x"})
    made = json.loads((stack.folder / "secrets.json").read_text())
    signature = re.search("X-Amz-Signature=([0-9a-f]+)", done["images"][0]["url"])
    assert signature
    secrets = {
        "the prompt": CANARY,
        "the demo key": stack.dev["api_key"],
        "a wrong key": "canary-wrong-key",
        "a stream token": token,
        "a link's signature": signature[1],
        **{f"secrets.json: {name}": secret for name, secret in made.items()},
    }
    return Run(
        stack,
        await trace(stack, retried["id"], "outbox job.completed", "tell settled"),
        await trace(stack, rejected["id"], "outbox job.failed"),
        secrets,
    )


async def trace(stack: Stack, job_id: str, *ends: str) -> dict[str, Any]:
    """A job's trace, once all of its last spans have arrived."""
    last = {"process ledger.settle_job", "process generator.close_job", *ends}
    async with asyncio.timeout(60), httpx.AsyncClient(base_url=stack.dev["observe_url"], trust_env=False) as http:
        while True:
            answer = await http.get(f"/api/jobs/{job_id}")
            found: dict[str, Any] = answer.json()
            if answer.is_success and last <= {span["name"] for span in found["spans"]} and not found["orphans"]:
                return found
            await asyncio.sleep(0.3)


def named(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [span for span in found["spans"] if span["name"] == name]


def edges(found: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    spans = {span["span_id"]: span for span in found["spans"]}
    return {
        (child["name"], short(child), parent["name"], short(parent))
        for child in spans.values()
        if (parent := spans.get(child["parent_id"]))
    }


def short(span: dict[str, Any]) -> str:
    return str(span["service"]).removeprefix("pixorly-")


def test_a_job_that_was_retried_is_one_trace_with_every_hop(run: Run) -> None:
    found = run.retried

    assert [span["name"] for span in found["spans"] if span["parent_id"] is None] == ["POST /v1/generations"]
    assert found["orphans"] == 0
    assert [edge for edge in EDGES if edge not in edges(found)] == []
    assert {short(span) for span in found["spans"]} == set(SERVICES)


def test_what_touches_the_database_shows_its_statements(run: Run) -> None:
    spans = {span["span_id"]: span for span in run.retried["spans"]}

    asked = {
        spans[span["parent_id"]]["name"]
        for span in spans.values()
        if span["attributes"].get("db.system.name") == "postgresql"
    }
    assert {"jobs.promise", "jobs.change", "ledger.charge", "ledger.true_up", "ledger.settle"} <= asked


def test_each_attempt_is_a_span_and_links_to_the_one_before(run: Run) -> None:
    first, second = sorted(
        named(run.retried, "process generator.generate_image"), key=lambda span: span["attributes"]["pixorly.attempt"]
    )

    assert first["parent_id"] == second["parent_id"]
    assert (first["error"], first["attributes"]["error.type"]) == (True, "provider_unavailable")
    assert not second["error"]
    assert [link["span_id"] for link in second["links"]] == [first["span_id"]]


def test_spans_speak_opentelemetrys_words(run: Run) -> None:
    def attributes(name: str) -> dict[str, Any]:
        span: dict[str, Any] = named(run.retried, name)[-1]
        return {**span["attributes"], "kind": span["kind"]}

    job_id = run.retried["job_ids"][0]
    expected: dict[str, dict[str, Any]] = {
        "POST /v1/generations": {
            "kind": "server",
            "http.request.method": "POST",
            "http.route": "/v1/generations",
            "http.response.status_code": 202,
            "pixorly.job_id": job_id,
        },
        "publish job.created": {
            "kind": "producer",
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "send",
            "messaging.destination.name": "pixorly.events:job.created",
            "messaging.message.conversation_id": job_id,
        },
        "process ledger.settle_job": {
            "kind": "consumer",
            "messaging.operation.type": "process",
            "messaging.destination.name": "pixorly.events:job.completed:ledger.settle_job",
        },
        "INSERT outbox": {"kind": "client", "db.system.name": "postgresql", "db.operation.name": "INSERT"},
        f"generate_content {MODEL}": {
            "kind": "client",
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "openrouter",
            "gen_ai.request.model": MODEL,
            "gen_ai.output.type": "image",
        },
        "S3.GetObject": {"kind": "client", "rpc.method": "S3/GetObject", "aws.s3.bucket": "pixorly-images"},
        "POST ledger": {"kind": "client", "http.request.method": "POST", "http.response.status_code": 200},
    }
    assert {name: {key: attributes(name).get(key) for key in wanted} for name, wanted in expected.items()} == expected


def test_a_job_that_failed_shows_where(run: Run) -> None:
    (made,) = named(run.rejected, f"generate_content {MODEL}")

    assert (made["error"], made["attributes"]["error.type"]) == (True, "content_rejected")
    assert run.rejected["orphans"] == 0


def test_log_lines_name_the_trace_and_the_job(run: Run) -> None:
    lines = [json.loads(line) for line in run.stack.logs("api-worker").splitlines() if line.startswith("{")]

    (ended,) = [line for line in lines if line["message"] == "a job ended" and line["job_id"] in run.retried["job_ids"]]
    assert ended["trace_id"] == run.retried["trace_id"]


async def told(run: Run) -> dict[str, str]:
    """All that the run has said of itself, by who said it."""
    logs = (run.stack.folder / "logs").glob("*.log")
    texts = {f"the log of {log.stem}": log.read_text(errors="replace") for log in logs}
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        url = run.stack.dev["observe_url"]
        texts["metrics over OTLP"] = (await http.get(f"{url}/api/metrics")).text
        for one in (await http.get(f"{url}/api/traces?jobs=0")).json()["data"]:
            texts[f"trace {one['trace_id']}"] = (await http.get(f"{url}/api/traces/{one['trace_id']}")).text
        for name in SERVICES:
            texts[f"/metrics of {name}"] = (await http.get(f"{run.stack.dev['service_urls'][name]}/metrics")).text
    return texts


async def test_no_secret_is_in_any_span_log_or_metric(run: Run) -> None:
    texts = await told(run)

    assert {name for name in texts if name.startswith("trace")} > {f"trace {run.retried['trace_id']}"}
    assert len(run.secrets) > 8
    found = {(what, where) for what, secret in run.secrets.items() for where, text in texts.items() if secret in text}
    assert found == set()


async def test_every_service_serves_metrics_whose_labels_are_bounded(run: Run) -> None:
    allowed = {
        "queue": {queue.name for queue in QUEUES},
        "code": {*OUTCOMES, "ok"},
        "stage": {"generate", "upload", "settle", "none"},
        "fate": {"done", "retried", "held", "dead", "replayed", "discarded"},
        "outcome": {"delivered", "server_fault", "user_fault", "canceled"},
        "part": {"postgres", "rabbitmq", "ledger", "s3", "provider"},
    }
    wanted = {
        "api": "jobs_created http_request_seconds",
        "api-worker": "jobs_settled job_seconds jobs_open dead_letters_waiting",
        "generator": "provider_calls retries outbox_lag_seconds provider_cost_usd",
        "uploader": "object_seconds image_develop_seconds message_age_seconds",
        "ledger": "credits_charged escrow_credits storage_used_bytes queue_messages",
    }
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        for name in SERVICES:
            text = (await http.get(f"{run.stack.dev['service_urls'][name]}/metrics")).text
            families = {family.name: family for family in text_string_to_metric_families(text)}
            names = {f"pixorly_{word}" for word in (*wanted[name].split(), "build_info", "part_up")}
            assert names - set(families) == set()
            strange = [
                sample
                for family in families.values()
                for sample in family.samples
                for label, value in sample.labels.items()
                if family.name.startswith("pixorly") and label in allowed and value not in allowed[label]
            ]
            assert strange == []


async def test_metrics_go_out_over_otlp_with_rabbitmqs_own_beside_them(run: Run) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=run.stack.dev["observe_url"], trust_env=False) as http:
        while True:
            found = (await http.get("/api/metrics")).json()["data"]
            services = {one["service"] for one in found}
            settled = [one for one in found if one["name"] == "pixorly.jobs.settled"]
            if {"rabbitmq", *(f"pixorly-{name}" for name in SERVICES)} <= services and len(settled) == 2:
                break
            await asyncio.sleep(0.5)
    assert {one["labels"]["status"] for one in settled} == {"completed", "failed"}
    assert any(one["name"] == "rabbitmq_detailed_queue_messages" for one in found)


def test_the_command_draws_the_same_trace(run: Run) -> None:
    drawn = run.stack.run("trace", run.retried["job_ids"][0][-8:]).stdout

    words = (run.retried["trace_id"], "POST /v1/generations", "attempt 2", "provider_unavailable", "█")
    assert [word for word in words if word not in drawn] == []
