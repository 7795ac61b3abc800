"""Folders with spaces in their names have others for those who cannot bear them."""

from pathlib import Path

import pytest

from pixorly_stack.aliases import Alias
from pixorly_stack.errors import StackError


def test_a_folder_without_spaces_goes_by_its_own_name(tmp_path: Path) -> None:
    alias = Alias(tmp_path)
    alias.make()
    alias.remove()

    assert alias.path == tmp_path
    assert tmp_path.is_dir()


def test_a_folder_with_spaces_is_found_under_another_name_while_it_is_needed(tmp_path: Path) -> None:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    (folder / "file").touch()
    alias = Alias(folder)

    alias.make()
    alias.make()

    assert " " not in str(alias.path)
    assert (alias.path / "file").exists()
    alias.remove()
    assert not alias.path.exists()
    assert (folder / "file").exists()


def test_what_is_in_the_way_is_left_alone_and_named(tmp_path: Path) -> None:
    alias = Alias(tmp_path / "my pictures")
    alias.path.mkdir()

    with pytest.raises(StackError, match=alias.path.name):
        alias.make()
    alias.path.rmdir()
