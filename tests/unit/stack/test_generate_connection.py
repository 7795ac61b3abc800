"""Which API the commands talk to."""

from pathlib import Path

import pytest

from pixorly_stack.connection import NoStackError, find_api
from pixorly_stack.errors import StackError
from pixorly_stack.files import write_json
from pixorly_stack.folder import Folder

URL = {"PIXORLY_API_URL": "https://pixorly.example"}
KEY = {"PIXORLY_API_KEY": "px_live_mine"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.make()
    write_json(made.dev, {"api_url": "http://127.0.0.1:8080", "api_key": "px_live_demo"})
    return made


def test_the_environment_goes_first(folder: Folder) -> None:
    with folder.held():
        access = find_api(URL | KEY, folder)

    assert (access.url, access.key, access.local) == ("https://pixorly.example", "px_live_mine", False)


def test_else_the_stack_that_runs_here(folder: Folder) -> None:
    with folder.held():
        access = find_api({}, folder)

    assert (access.url, access.key, access.local) == ("http://127.0.0.1:8080", "px_live_demo", True)


def test_a_key_alone_is_another_users_on_the_stack_here(folder: Folder) -> None:
    with folder.held():
        assert find_api(KEY, folder).key == "px_live_mine"


def test_the_stacks_key_is_never_sent_elsewhere(folder: Folder) -> None:
    with folder.held(), pytest.raises(StackError, match="PIXORLY_API_KEY must be set"):
        find_api(URL, folder)


def test_a_stack_that_is_stopped_is_no_stack(folder: Folder) -> None:
    with pytest.raises(NoStackError, match="pixorly up"):
        find_api({}, folder)


def test_a_stack_that_never_ran_is_no_stack(tmp_path: Path) -> None:
    with pytest.raises(NoStackError):
        find_api({}, Folder(tmp_path / "none"))


def test_the_key_is_not_in_the_words_about_it(folder: Folder) -> None:
    assert "px_live" not in repr(find_api(URL | KEY, folder))
