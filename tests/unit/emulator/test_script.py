"""Faults are asked for by tags and rules, and meet the calls that they are meant for."""

import statistics
from random import Random
from typing import Any

import pytest

from pixorly_emulator.cli import options_of, parser
from pixorly_emulator.errors import ERRORS
from pixorly_emulator.faults import BODY_FAULTS, CONTENT_FAULTS, WIRE_FAULTS, Fault, find_tags, help_text, parse_fault
from pixorly_emulator.latency import parse_latency
from pixorly_emulator.script import CallFacts, Rule, Script


def a_call(**facts: Any) -> CallFacts:
    usual: dict[str, Any] = {
        "number": 1,
        "session_call": 1,
        "session_id": "job-1",
        "route": "images",
        "model": "a/b",
        "key": "k",
        "prompt": "a fox",
    }
    return CallFacts(**{**usual, **facts})


def names(script: Script, *calls: CallFacts) -> list[str | None]:
    return [str(fault) if (fault := script.meet(call)[0]) else None for call in calls]


@pytest.mark.parametrize(
    ("text", "fault", "times"),
    [
        ("503", Fault("503"), None),
        ("503x3", Fault("503"), 3),
        ("403moderation", Fault("403moderation"), None),
        ("text", Fault("text"), None),
        ("missing:2", Fault("missing", "2"), None),
        ("missing:2x1", Fault("missing", "2"), 1),
        ("cut:afterx2", Fault("cut", "after"), 2),
        ("429,retry-after=5x1", Fault("429", None, {"retry-after": "5"}), 1),
        ("429,retry-after=date+7", Fault("429", None, {"retry-after": "date+7"}), None),
        ("url:http://127.0.0.1:80/a.png", Fault("url", "http://127.0.0.1:80/a.png"), None),
    ],
)
def test_a_fault_is_read(text: str, fault: Fault, times: int | None) -> None:
    assert parse_fault(text) == (fault, times)


@pytest.mark.parametrize("text", ["", "999", "nonsense", "missing:two", "503x", "503 503"])
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_fault(text)


def test_every_fault_is_read_by_its_name_and_stands_in_the_help() -> None:
    told = help_text()

    for name in (*ERRORS, *CONTENT_FAULTS, *BODY_FAULTS, *WIRE_FAULTS):
        assert parse_fault(name)[0].name == name
        assert f"\n  {name} " in told


def test_a_counted_tag_is_used_up_for_each_session_apart() -> None:
    script, prompt = Script(Random(1)), "a fox [[fault:503x2]]"
    one, other = a_call(prompt=prompt, session_id="one"), a_call(prompt=prompt, session_id="other")

    assert names(script, one, one, one, other) == ["503", "503", None, "503"]


def test_a_counted_tag_is_used_up_by_the_prompt_where_there_is_no_session() -> None:
    script, call = Script(Random(1)), a_call(prompt="a fox [[fault:503x1]]", session_id="")

    assert names(script, call, call) == ["503", None]


def test_tags_come_one_after_the_other() -> None:
    script, call = Script(Random(1)), a_call(prompt="[[fault:503x1]] a fox [[fault:429x2]]")

    assert names(script, call, call, call, call) == ["503", "429", "429", None]


def test_a_rule_meets_what_it_is_meant_for() -> None:
    script = Script(Random(1))
    script.extend(
        [
            {"fault": "401", "key": "bad"},
            {"fault": "404model", "model": "gone/model"},
            {"fault": "cut:after", "call": [2, 3]},
            {"fault": "503", "session_call": 2, "session_id": "job-2"},
            {"fault": "413", "prompt": "huge"},
            {"fault": "500", "route": "chat", "times": 1},
        ]
    )

    assert names(
        script,
        a_call(key="bad"),
        a_call(model="gone/model"),
        a_call(number=3),
        a_call(session_id="job-2", session_call=2),
        a_call(session_id="job-2", session_call=1),
        a_call(prompt="a huge fox"),
        a_call(route="chat"),
        a_call(route="chat"),
    ) == ["401", "404model", "cut:after", "503", None, "413", "500", None]


def test_a_tag_goes_before_a_rule() -> None:
    script = Script(Random(1))
    script.extend([{"fault": "503"}])

    assert names(script, a_call(prompt="[[fault:429]]"), a_call()) == ["429", "503"]


def test_a_chance_is_kept_and_repeats_with_its_seed() -> None:
    def run() -> list[str | None]:
        script = Script(Random(7))
        script.extend([{"fault": "503", "chance": 0.3}])
        return names(script, *(a_call(number=number) for number in range(1000)))

    assert 250 < run().count("503") < 350
    assert run() == run()


@pytest.mark.parametrize(
    "told", [{}, {"fault": "nope"}, {"fault": "503", "colour": "red"}, {"latency": "soon"}, {"model": "a/b"}]
)
def test_what_is_no_rule_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Rule.of(told)


def test_a_script_with_a_bad_rule_changes_nothing() -> None:
    script = Script(Random(1))
    script.extend([{"fault": "503"}])

    with pytest.raises(ValueError):
        script.extend([{"fault": "429"}, {"fault": "nope"}], replace=True)

    assert [rule["fault"] for rule in script.as_json()] == ["503"]


@pytest.mark.parametrize(
    ("text", "low", "high"), [("2", 2, 2), ("fixed:2", 2, 2), ("1-3", 1, 3), ("uniform:1-3", 1, 3), ("0", 0, 0)]
)
def test_a_latency_lies_where_it_should(text: str, low: float, high: float) -> None:
    chance = Random(1)

    assert all(low <= parse_latency(text)(chance) <= high for _ in range(100))


def test_a_lognormal_latency_has_its_median() -> None:
    chance, latency = Random(1), parse_latency("lognormal:8,0.4")

    assert 7.5 < statistics.median(latency(chance) for _ in range(2000)) < 8.5


@pytest.mark.parametrize("text", ["", "soon", "3-1", "-1", "lognormal:8", "lognormal:0,1", "gamma:1", "inf", "nan"])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_latency(text)


def test_a_tag_sets_the_latency() -> None:
    [tag] = find_tags("a fox [[latency:5]]")

    assert tag.latency is not None
    assert tag.latency(Random(1)) == 5


def test_the_command_line_gives_options(tmp_path: Any) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"rules": [{"fault": "503"}]}')

    options = options_of(parser().parse_args(["--latency", "1-2", "--key", "k", "--script", str(script)]))

    assert (options.latency, options.keys, options.script) == ("1-2", ("k",), ({"fault": "503"},))


def test_the_help_lists_every_fault() -> None:
    assert help_text() in parser().format_help()
