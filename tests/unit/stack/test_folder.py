"""One supervisor a folder, and a record of what it runs."""

import subprocess
from pathlib import Path

import pytest

from pixorly_stack.errors import StackError
from pixorly_stack.folder import Folder, Record, Row, RunningAlreadyError
from pixorly_stack.processes import Identity


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / ".pixorly")
    made.make()
    return made


def test_the_folder_is_for_its_owner_only(folder: Folder) -> None:
    assert folder.root.stat().st_mode & 0o077 == 0


def test_a_second_supervisor_is_told_that_there_is_one(folder: Folder) -> None:
    with folder.held():
        assert folder.runs()
        with pytest.raises(RunningAlreadyError), Folder(folder.root, patience_s=0.01).held():
            pass
    assert not folder.runs()


def test_nothing_runs_in_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert not Folder(tmp_path / "missing").runs()
    assert Folder(tmp_path / "missing").rows() == []


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StackError, match="--dir"):
        Folder(tmp_path / "file" / ".pixorly").make()


def test_the_record_is_read_as_it_was_written(folder: Folder) -> None:
    record = Record("ready", Row("supervisor", 7, None, "ready", 1.5), [Row("api", 8, 8080, "ready", 2.5)])

    folder.write(record)

    assert folder.record() == record


def test_rows_are_shown_only_while_a_supervisor_is_there(folder: Folder) -> None:
    api, hidden = Row("api", 8, 8080, "ready", 2.5), Row("epmd", 9, 4369, "ready", 2.5, shown=False)
    folder.write(Record("ready", None, [api, hidden]))

    assert folder.rows() == []
    with folder.held():
        assert folder.rows() == [api]


def test_what_a_killed_supervisor_left_behind_is_killed_and_nothing_else(folder: Folder) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as left, subprocess.Popen(["/bin/sleep", "60"]) as other:
        mine, foreign = Identity.of(left.pid), Identity.of(other.pid)
        assert mine
        assert foreign
        # The second number was given to another process since.
        rows = [
            Row("api", mine.pid, 1, "ready", mine.started),
            Row("s3", foreign.pid, 2, "ready", foreign.started - 100),
        ]
        folder.write(Record("ready", None, [*rows, Row("postgres", None, 3, "external")]))

        assert folder.clear_away() == ["api"]

        assert mine.process() is None
        assert foreign.process() is not None
        other.kill()
