"""The commands, as far as they need no servers."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pixorly_stack.cli import app
from pixorly_stack.errors import StackError
from pixorly_stack.folder import Folder, Record, Row


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_the_help_names_the_commands() -> None:
    said = run("--help").output

    assert all(name in said for name in ("up", "down", "ps", "logs", "doctor"))


def test_ps_of_an_empty_folder_is_an_empty_list(tmp_path: Path) -> None:
    done = run("ps", "--json", "--dir", str(tmp_path))

    assert (done.exit_code, json.loads(done.output)) == (0, [])


def test_ps_says_what_runs(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make()
    rows = [Row("api", 7, 8080, "ready", 1.0), Row("epmd", 8, 4369, "ready", 1.0, shown=False)]
    folder.write(Record("ready", None, rows))

    with folder.held():
        done = run("ps", "--json", "--dir", str(tmp_path))

    assert json.loads(done.output) == [{"name": "api", "pid": 7, "port": 8080, "state": "ready"}]


def test_a_second_up_says_that_it_runs_already(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make()
    folder.write(Record("ready", None, [Row("api", 7, 8080, "ready", 1.0)]))

    with folder.held():
        done = run("up", "--dir", str(tmp_path))

    assert done.exit_code == 0
    assert "runs already" in done.output
    assert "8080" in done.output


def test_down_of_an_empty_folder_says_that_nothing_runs(tmp_path: Path) -> None:
    done = run("down", "--dir", str(tmp_path))

    assert done.exit_code == 0
    assert "Nothing runs" in done.output


def test_logs_shows_the_last_lines_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "api.log").write_text("one\ntwo [not markup]\n")

    done = run("logs", "api", "-n", "1", "--dir", str(tmp_path))

    assert done.output == "api        | two [not markup]\n"


def test_logs_of_an_unknown_name_says_which_there_are(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "api.log").touch()

    done = run("logs", "apy", "--dir", str(tmp_path))

    assert isinstance(done.exception, StackError)
    assert "those there are: api" in str(done.exception)


def test_an_error_is_a_message_and_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["logs", "apy", "--dir", str(tmp_path)])

    assert ended.value.code == 1
    assert "error: there is no log of apy" in capsys.readouterr().err


def test_the_doctor_finds_something_to_say_about_each_part(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--dir", str(tmp_path))

    names = [finding["name"] for finding in json.loads(done.output)]
    assert names == ["python", "platform", "hosts", "disk", "postgres", "rabbitmq", "s3", "stack"]


def test_a_line_of_json_is_shown_in_words(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    line = {"time": "2026-11-22T16:45:18.367Z", "level": "info", "message": "a job ended", "service": "api", "n": 2}
    (tmp_path / "logs" / "api.log").write_text(json.dumps(line) + "\n")

    assert run("logs", "--dir", str(tmp_path)).output == "api        | 16:45:18.367 INFO    a job ended n=2\n"
    assert run("logs", "--raw", "--dir", str(tmp_path)).output == f"api        | {json.dumps(line)}\n"


def test_a_traceback_in_json_is_shown_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    line = {"time": "2026-11-22T16:45:18.367Z", "level": "error", "message": "it failed", "exception": "one\n  two"}
    (tmp_path / "logs" / "api.log").write_text(json.dumps(line) + "\n")

    shown = run("logs", "--dir", str(tmp_path)).output.splitlines()

    assert shown == ["api        | 16:45:18.367 ERROR   it failed", "api        | one", "api        |   two"]
