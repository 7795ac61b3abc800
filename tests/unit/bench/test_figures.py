"""Figures, their targets, and the document made from them."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

sys.path.append(str(Path(__file__).parents[3] / "bench"))

from figures import Found, Store, percentile, ratio_of_rounds, table
from plots import Bar, bars, points, stacked
from report import PLOTS, write

ABOUT = {
    "rounds": 5,
    "quick": False,
    "cores": 2,
    "processor": "a processor",
    "memory_gb": 8,
    "system": "Linux",
    **dict.fromkeys(["python", "celery", "dramatiq", "faststream", "asyncpg", "pillow"], "1.0"),
}
SIDES = ("64", "1024")
SYSTEMS = ("pixorly", "celery", "dramatiq", "bare")


def found_throughput(per_s: float) -> Found:
    found = Found()
    found.add("throughput, 64 px", per_s, "jobs/s", ("celery", 20), at_least=2)
    found.details = {
        "rates": {side: {name: [per_s, per_s + 1] for name in SYSTEMS} for side in SIDES},
        "cpu_s_per_1000": {side: {name: {"api": 3.0, "s3": 4.0} for name in SYSTEMS} for side in SIDES},
        "counts": {"pixorly": {"transactions": 7.5, "messages": 6.5}},
        "crews": {"64": {"celery": {"2 processes": 40.0}}},
    }
    return found


@pytest.mark.parametrize(("per_s", "met"), [(39.9, False), (40.0, True), (80.0, True)])
def test_a_ratio_is_judged_as_found_and_not_as_rounded(per_s: float, met: bool) -> None:  # noqa: FBT001
    (figure,) = found_throughput(per_s).figures

    assert figure.met is met
    assert figure.target == "ratio at least 2"
    assert figure.compared_with == "celery: 20 jobs/s"


def test_a_target_of_the_value_does_not_look_at_the_ratio() -> None:
    found = Found()
    found.add("dispatch", 30, "ms", ("celery", 10), at_most=25, of="value")

    assert (found.figures[0].ratio, found.figures[0].met) == (3.0, False)


def test_what_had_no_aim_is_neither_met_nor_missed() -> None:
    found = Found()
    found.add("messages", 6, "", ("bare", 0))

    assert (found.figures[0].met, found.figures[0].ratio) == (None, None)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    assert ratio_of_rounds([10, 20, 300], [10, 10, 10]) == 2


def test_a_percentile_is_the_smallest_value_that_so_many_are_no_larger_than() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([5], 0.99) == 5
    assert percentile([3, 1, 2], 0.5) == 2


def test_a_part_that_is_measured_again_takes_the_place_of_what_it_found_and_leaves_others(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Found()
    other.add("retry", 0.1, "s")
    store.put("throughput", found_throughput(10), ABOUT)
    store.put("retries", other, ABOUT)

    store.put("throughput", found_throughput(50), ABOUT)

    values = {figure.part: figure.value for figure in store.figures()}
    assert values == {"retries": 0.1, "throughput": 50}
    line = json.loads((tmp_path / "latest.json").read_text())[-1]
    assert {"figure", "value", "unit", "compared_with", "ratio", "target", "met"} <= line.keys()


def test_what_was_measured_lately_is_fresh_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("throughput", found_throughput(10), ABOUT)

    assert store.fresh("throughput", 60)
    assert not store.fresh("throughput", -1)
    assert not store.fresh("latency", 60)


def test_the_document_says_what_was_missed_and_shows_every_plot_it_names(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.put("throughput", found_throughput(10), ABOUT)

    write(store, tmp_path / "docs")

    text = (tmp_path / "docs" / "performance.md").read_text()
    assert "**not met**" in text
    assert "7.5 transactions" in " ".join(text.split())
    assert "%" not in text.replace("99th", "")
    for name in ("throughput", "processor"):
        assert f"images/performance-{name}.svg" in text
        assert (tmp_path / "docs" / "images" / f"performance-{name}.svg").exists()
    assert "images/performance-latency.svg" not in text


OTHERS = {
    "latency": {
        "times_ms": {
            "64/20": {
                name: {"dispatch": {"0.5": 20, "0.99": 90}, "finish": {"0.5": 80, "0.99": 300}} for name in SYSTEMS[:3]
            }
        }
    },
    "backlog": {"10000": {"many": [28.0, 30.5], "few": [31.0, 30.0]}},
    "retries": {"at idle": {"2": [0.01, 0.05], "4": [0.1]}, "beside 50 jobs/s": {"2": [3.0], "4": []}},
}


def test_every_plot_is_drawn_of_what_the_parts_leave(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.put("throughput", found_throughput(10), ABOUT)
    for part, details in OTHERS.items():
        store.put(part, Found(details=details), ABOUT)

    write(store, tmp_path / "docs")

    drawn = {path.stem.removeprefix("performance-") for path in (tmp_path / "docs" / "images").iterdir()}
    assert drawn == set(PLOTS)


def test_a_document_without_figures_says_how_to_have_some(tmp_path: Path) -> None:
    write(Store(tmp_path / "results"), tmp_path / "docs")

    assert "Nothing has been measured yet" in (tmp_path / "docs" / "performance.md").read_text()


@pytest.mark.parametrize(
    "plot",
    [
        bars("a & b", "note", {"64 px": [Bar("pixorly", 3, 1, 5), Bar("other", 0)]}, "/s"),
        stacked("parts", "note", {"one": {"api": 1.0, "<s3>": 0.0}}, "s"),
        points("late", "note", {"2 s": [0.0, 130.5, -4.0], "4 s": []}),
        points("nothing", "note", {}),
    ],
    ids=["bars", "stacked", "points", "nothing"],
)
def test_a_plot_is_an_svg_that_can_be_read(plot: str) -> None:
    root = ET.fromstring(plot)  # noqa: S314 - our own

    assert root.tag.endswith("svg")
    assert float(root.attrib["viewBox"].split()[3]) > 0


def test_a_plot_of_what_was_not_measured_is_none() -> None:
    assert {name: draw({}) for name, draw in PLOTS.items()} == dict.fromkeys(PLOTS)


def test_a_table_names_what_was_not_met() -> None:
    assert "NOT MET" in table(found_throughput(10).figures)
    assert "NOT MET" not in table(found_throughput(100).figures)
