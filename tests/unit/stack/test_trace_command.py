"""`pixorly trace` draws a job's trace, and says what to do where there is none."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pixorly_stack.cli import app
from pixorly_stack.errors import StackError
from pixorly_stack.files import write_json
from pixorly_stack.folder import Folder
from pixorly_stack.trace import fetch, observe_url, show

FOUND = {
    "trace_id": "0a" * 16,
    "job_ids": ["01a20582-e05c-7059-b335-4aa9bdbb5d22"],
    "duration_ms": 2000.0,
    "services": ["pixorly-api", "pixorly-generator"],
    "errors": 1,
    "orphans": 0,
    "spans": [
        {
            "depth": 0,
            "orphan": False,
            "service": "pixorly-api",
            "name": "POST /v1/generations",
            "start_ms": 0.0,
            "duration_ms": 20.0,
            "error": False,
            "attributes": {},
        },
        {
            "depth": 1,
            "orphan": False,
            "service": "pixorly-generator",
            "name": "process [generator]",
            "start_ms": 1000.0,
            "duration_ms": 1000.0,
            "error": True,
            "attributes": {"pixorly.attempt": 2, "error.type": "provider_unavailable"},
        },
    ],
}


def test_a_trace_is_drawn_with_services_times_attempts_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    show(FOUND)

    lines = capsys.readouterr().out.splitlines()
    assert "01a20582-e05c-7059-b335-4aa9bdbb5d22" in lines[0]
    assert "2 spans, 1 with errors" in lines[0]
    (first,) = [line for line in lines if "POST" in line]
    (second,) = [line for line in lines if "process" in line]
    assert first.split()[:5] == ["POST", "/v1/generations", "api", "20.0", "ms"]
    assert second.startswith("  process [generator]  attempt 2  provider_unavailable  generator")
    assert second.count("█") == 20
    assert second.index("█") > first.index("█")


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="pixorly up --observe"):
        observe_url(Folder(tmp_path / ".pixorly"))


def test_a_stack_that_keeps_no_traces_is_no_riddle(tmp_path: Path) -> None:
    folder = Folder(tmp_path / ".pixorly")
    folder.make()
    write_json(folder.dev, {"api_url": "http://127.0.0.1:1", "observe_url": None})

    with folder.held(), pytest.raises(StackError, match=r"keeps no traces.*pixorly down.*pixorly up --observe"):
        observe_url(Folder(folder.root))


def test_an_observer_that_is_away_is_no_traceback() -> None:
    with pytest.raises(StackError, match="does not answer"):
        fetch("http://127.0.0.1:1", None)


def test_the_command_is_there_with_its_options() -> None:
    result = CliRunner().invoke(app, ["trace", "--help"])

    assert result.exit_code == 0
    assert "--json" in result.output
