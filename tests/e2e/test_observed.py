"""What the dashboards and alerts ask, asked of a Prometheus that watches a running Pixorly (Debian's, unpacked)."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from observed import names_in
from sources import ROOT
from stack import SERVICES, Stack

from pixorly_stack.ports import LOOPBACK, Ports

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
SELDOM: Final = {
    "pixorly_charges_refused_total",
    "pixorly_dead_letters_handled_total",
    "pixorly_dead_letters_total",
    "pixorly_messages_waiting",
    "pixorly_provider_account_faults_total",
    "pixorly_provider_account_left_usd",
    "pixorly_provider_breaker_open",
    "pixorly_provider_calls_late_total",
    "pixorly_retries_total",
    "pixorly_slots_failed_total",
    "pixorly_swept_total",
    "pixorly_telemetry_dropped_total",
}
"""What has no series until it happens for the first time, or what a provider does not tell."""


def queries() -> Iterator[str]:
    """Yield every query of dashboards and rules."""
    for page in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(page.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield target["expr"].replace("$__rate_interval", "1m").replace("$job", ".+")
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/pixorly.yaml").read_text())
    yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])


def configuration(stack: Stack) -> str:
    """Return the configuration of docker-compose.yml's Prometheus, with this stack's addresses and in a hurry."""
    told = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    metrics = json.loads((stack.folder / "ports.json").read_text())["rabbitmq-metrics"]
    places = {f"pixorly-{name}": urlsplit(stack.dev["service_urls"][name]).netloc for name in SERVICES}
    places["rabbitmq"] = f"{LOOPBACK}:{metrics}"
    assert {scrape["job_name"] for scrape in told["scrape_configs"]} == set(places)
    for scrape in told["scrape_configs"]:
        scrape["static_configs"] = [{"targets": [places[scrape["job_name"]]]}]
    # Here RabbitMQ is not told to show each queue where it shows its sums and alarms.
    queues = {**told["scrape_configs"][-1], "job_name": "rabbitmq-queues", "metrics_path": "/metrics/per-object"}
    told["scrape_configs"].append(queues)
    told["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    told["rule_files"] = [str(ROOT / "deploy/prometheus/rules/*.yaml")]
    return yaml.safe_dump(told)


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that watches the stack."""
    found = subprocess.run([ROOT / "scripts/promtool.sh"], capture_output=True, text=True, check=True)
    (tmp_path / "prometheus.yml").write_text(configuration(stack))
    address = f"{LOOPBACK}:{Ports(tmp_path / 'ports.json').port('prometheus')}"
    words = [f"{found.stdout.strip()}/prometheus", f"--config.file={tmp_path}/prometheus.yml"]
    words += [f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={address}"]
    with (tmp_path / "prometheus.log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        yield f"http://{address}"
        process.terminate()


async def asked(client: httpx.AsyncClient, query: str) -> list[Any]:
    answer = (await client.get("/api/v1/query", params={"query": query})).json()
    assert answer["status"] == "success", f"{query}: {answer}"
    result: list[Any] = answer["data"]["result"]
    return result


async def all_watched(client: httpx.AsyncClient) -> None:
    """Wait until every process has been read a few times."""
    async with asyncio.timeout(120):
        while True:
            try:
                if len(await asked(client, "count_over_time(up[1m]) > 4 and up == 1")) == len(SERVICES) + 2:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(1)


async def test_every_query_is_understood_and_finds_what_it_asks_for(stack: Stack, prometheus: str) -> None:
    watcher = httpx.AsyncClient(base_url=prometheus, timeout=30, trust_env=False)
    async with watcher as watching, stack.client() as client:
        jobs = [await client.create(n=2) for _ in range(3)]
        for job in jobs:
            await client.settled(job["id"])
        await all_watched(watching)
        there = {row["metric"]["__name__"] for row in await asked(watching, '{__name__=~"pixorly_.+|rabbitmq_.+|up"}')}

        missing = set()
        for query in queries():
            await asked(watching, query)
            missing |= {name for name in names_in(query) if name not in there}
        assert {name for name in missing if name.removesuffix("_bucket") not in SELDOM} == set()

        rules = (await watching.get("/api/v1/rules")).json()["data"]["groups"]
        assert rules
        assert [rule for group in rules for rule in group["rules"] if rule.get("lastError")] == []
        firing = [rule["name"] for group in rules for rule in group["rules"] if rule.get("state") == "firing"]
        assert firing == []
