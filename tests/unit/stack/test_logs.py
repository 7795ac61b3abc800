"""Logs are followed while they grow, and kept from growing without end."""

from pathlib import Path

from pixorly_stack.logs import Follower, last_lines, trim


def test_what_is_added_is_read_in_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("before\n")
    follower = Follower(log)

    with log.open("a") as file:
        file.write("one\ntw")
    assert follower.new_lines() == ["one"]
    with log.open("a") as file:
        file.write("o\n")
    assert follower.new_lines() == ["two"]
    assert follower.new_lines() == []


def test_a_log_that_does_not_exist_yet_is_read_once_it_does(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "api.log")
    assert follower.new_lines() == []

    (tmp_path / "api.log").write_text("first\n")

    assert follower.new_lines() == ["first"]


def test_a_log_that_was_emptied_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("a long line\n")
    follower = Follower(log)

    log.write_text("new\n")

    assert follower.new_lines() == ["new"]


def test_bytes_that_are_no_text_are_shown_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    follower = Follower(log)
    log.write_bytes(b"\xff\xfe\n")

    assert follower.new_lines() == ["\ufffd\ufffd"]


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_text("".join(f"{number}\n" for number in range(100)))

    assert last_lines(log, 2) == ["98", "99"]
    assert last_lines(log, 0) == []
    assert last_lines(tmp_path / "missing.log", 5) == []


def test_a_long_log_is_moved_aside_under_its_writers_feet(tmp_path: Path) -> None:
    log, short = tmp_path / "api.log", tmp_path / "short.log"
    short.write_text("short\n")
    with log.open("a") as writer:
        writer.write("x" * 100 + "\n")
        writer.flush()

        trim(tmp_path, longest_bytes=50)
        writer.write("after\n")

    assert log.read_text() == "after\n"
    assert (tmp_path / "api.log.1").read_text() == "x" * 100 + "\n"
    assert short.read_text() == "short\n"
