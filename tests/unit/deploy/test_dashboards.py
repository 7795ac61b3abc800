"""Grafana's dashboards: whole, each panel in a place of its own, and asking for what there is."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from observed import METRICS, names_in, unknown
from sources import ROOT

GRAFANA = ROOT / "deploy/grafana"
PAGES: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")}
SOURCES = yaml.safe_load((GRAFANA / "provisioning/datasources/pixorly.yaml").read_text())["datasources"]


def panels(page: str) -> list[dict[str, Any]]:
    return [panel for panel in PAGES[page]["panels"] if panel["type"] != "row"]


def test_the_journey_of_a_job_money_services_and_queues_are_shown() -> None:
    assert set(PAGES) == {"journey", "money", "services", "queues"}
    assert len({page["uid"] for page in PAGES.values()}) == len(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_asks_for_metrics_and_labels_that_there_are(page: str) -> None:
    queries = [target["expr"] for panel in panels(page) for target in panel["targets"]]

    assert queries
    for query in queries:
        assert unknown(names_in(query)) == {}, query


def test_every_metric_is_shown_somewhere() -> None:
    shown = {
        name
        for page in PAGES
        for panel in panels(page)
        for target in panel["targets"]
        for name in names_in(target["expr"])
    }
    endings = ("_bucket", "_sum", "_count")
    whole = {name.removesuffix(ending) for name in shown for ending in endings} | shown

    measured = {name for name in METRICS if name.startswith("pixorly_") and not name.endswith(endings)}
    assert measured - whole == set()


@pytest.mark.parametrize("page", PAGES)
def test_panels_lie_side_by_side_within_the_page(page: str) -> None:
    places = [panel["gridPos"] for panel in PAGES[page]["panels"]]

    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_from_the_source_that_is_provisioned(page: str) -> None:
    known = {source["uid"] for source in SOURCES}

    assert {target["datasource"]["uid"] for panel in panels(page) for target in panel["targets"]} <= known
    assert len({panel["id"] for panel in PAGES[page]["panels"]}) == len(PAGES[page]["panels"])


def test_the_pages_are_where_grafana_looks_for_them() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/pixorly.yaml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]

    assert any(str(volume).split(":")[1] == provider["options"]["path"] for volume in compose["volumes"])
    home = Path(compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (str(home.parent), home.stem) == (provider["options"]["path"], "journey")
