"""The alerts: each says how bad it is and what to do, has a test of its own, and asks for what there is."""

import re
from typing import Any

import pytest
import yaml
from observed import anchors, names_in, unknown
from sources import ROOT

RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/rules/pixorly.yaml").read_text())
ALL = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
TRIED = yaml.safe_load((ROOT / "deploy/prometheus/tests/pixorly.yaml").read_text())["tests"]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_it_means(name: str) -> None:
    rule = ALERTS[name]

    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_names_a_section_of_the_runbook(name: str) -> None:
    file, _, anchor = ALERTS[name]["annotations"]["runbook"].partition("#")

    assert file == "docs/runbook.md"
    assert anchor in anchors((ROOT / file).read_text())


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tried_both_ways(name: str) -> None:
    cases = [case for test in TRIED for case in test["alert_rule_test"] if case["alertname"] == name]

    assert any(case["exp_alerts"] for case in cases)


def test_rules_ask_for_metrics_and_labels_that_there_are() -> None:
    recorded = {rule["record"] for rule in ALL if "record" in rule}
    asked = {name: labels for rule in ALL for name, labels in names_in(rule["expr"]).items() if name not in recorded}

    assert unknown(asked) == {}


def test_the_runbooks_links_lead_somewhere() -> None:
    text = (ROOT / "docs/runbook.md").read_text()

    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors(text)
