"""`pixorly dead`: what it asks of the API, what it shows, and that nothing is destroyed without a word."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_api import FakeApi, ok, problem
from typer.testing import CliRunner, Result

from pixorly_stack.cli import app
from pixorly_stack.connection import find_admin
from pixorly_stack.errors import StackError
from pixorly_stack.files import write_json
from pixorly_stack.folder import Folder

LETTER: dict[str, Any] = {
    "id": "m-1",
    "queue": "generator.generate_image",
    "type": "job.created",
    "job_id": "0199aaaa-0000-7000-8000-000000000001",
    "user_id": "ada",
    "reason": "KeyError",
    "attempt": 1,
    "died_at": "2026-01-31T12:00:00Z",
    "size_bytes": 1234,
}
COUNTS = [{"queue": "generator.generate_image", "waiting": 7}, {"queue": "uploader.store_image", "waiting": 0}]
HANDLED = {
    "data": [
        {"id": "m-1", "queue": "generator.generate_image", "job_id": None, "fate": "replayed", "why": None},
        {"id": "m-2", "queue": "generator.generate_image", "job_id": None, "fate": "discarded", "why": "settled"},
    ],
    "more": True,
}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def run(api: FakeApi, *words: str, says: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["dead", *words], obj=lambda _folder: api.client(tries=2), input=says)
    assert not api.answers, "the command did not ask for everything"
    return result


def test_a_list_says_how_many_where_and_why(api: FakeApi) -> None:
    api.will(ok({"queues": COUNTS, "data": [LETTER], "more": True}))

    result = run(api, "list", "--queue", "generator.generate_image", "--job", "j", "--reason", "Key", "--limit", "1")

    assert result.exit_code == 0, result.output
    assert api.asked == ["GET /admin/v1/dead?queue=generator.generate_image&job_id=j&reason=Key&limit=1"]
    assert all(word in result.output for word in ("m-1", "KeyError", "1.2 kB", "  7", "There may be more"))
    assert "uploader.store_image" not in result.output


def test_no_dead_letters_are_said_to_be_none(api: FakeApi) -> None:
    api.will(ok({"queues": [], "data": [], "more": False}))

    assert "There are no dead letters." in run(api, "list").output


def test_a_list_as_json_is_the_apis_own(api: FakeApi) -> None:
    found = {"queues": COUNTS, "data": [LETTER], "more": False}
    api.will(ok(found))

    assert json.loads(run(api, "list", "--json").output) == found


def test_one_is_shown_with_its_body(api: FakeApi) -> None:
    whole = LETTER | {"headers": {"traceparent": "00-1"}, "body": '{"prompt": "a [red] fox"}', "truncated": True}
    api.will(ok({"data": [whole]}))

    result = run(api, "show", "m/1")

    assert api.asked == ["GET /admin/v1/dead/m%2F1"]
    assert all(
        word in result.output for word in ('{"prompt": "a [red] fox"}', "traceparent: 00-1", "ada", "… and more")
    )


@pytest.mark.parametrize(
    ("words", "selection"),
    [
        (["m-1", "m-2"], {"message_ids": ["m-1", "m-2"]}),
        (["--queue", "q"], {"queue": "q", "all": True}),
        (["--all"], {"all": True}),
        (["--all", "--queue", "q"], {"queue": "q", "all": True}),
        (["--job", "j", "--reason", "r", "--queue", "q"], {"job_id": "j", "reason": "r", "queue": "q"}),
    ],
)
@pytest.mark.parametrize("command", ["replay", "discard"])
def test_what_is_meant_reaches_the_api(api: FakeApi, command: str, words: list[str], selection: dict[str, Any]) -> None:
    api.will(ok(HANDLED))

    result = run(api, command, *words, "--yes", "--limit", "5")

    assert result.exit_code == 0, result.output
    assert api.asked == [f"POST /admin/v1/dead/{command}"]
    assert json.loads(api.requests[0].content) == selection | {"limit": 5}
    assert "m-2  generator.generate_image  discarded: its job is settled" in result.output
    assert "1 replayed, 1 discarded." in result.output
    assert "There may be more" in result.output


@pytest.mark.parametrize("command", ["replay", "discard"])
@pytest.mark.parametrize("words", [[], ["--all", "--job", "j"], ["--all", "m-1"]])
def test_it_must_be_said_which(api: FakeApi, command: str, words: list[str]) -> None:
    assert run(api, command, *words, "--yes").exit_code == 2
    assert api.requests == []


@pytest.mark.parametrize("command", ["replay", "discard"])
@pytest.mark.parametrize("says", ["n\n", "", None])
def test_without_a_yes_nothing_is_destroyed(api: FakeApi, command: str, says: str | None) -> None:
    assert run(api, command, "--all", says=says).exit_code == 1
    assert api.requests == []


def test_a_yes_will_do(api: FakeApi) -> None:
    api.will(ok(HANDLED))

    assert run(api, "discard", "--queue", "q", says="y\n").exit_code == 0


def test_what_changes_something_is_asked_for_once(api: FakeApi) -> None:
    api.will(problem(503, "service_unavailable"))

    assert run(api, "discard", "--all", "--yes").exit_code == 1
    assert len(api.requests) == 1


# The operator's key ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.make()
    write_json(made.dev, {"api_url": "http://127.0.0.1:8080", "api_key": "px_live_demo", "admin_key": "boss"})
    return made


def test_the_operators_key_is_the_environments_or_the_stacks(folder: Folder) -> None:
    with folder.held():
        assert find_admin({}, folder).key == "boss"
        assert find_admin({"PIXORLY_API_KEY": "px_live_mine"}, folder).key == "boss"
        assert find_admin({"PIXORLY_ADMIN_KEY": "other"}, folder).key == "other"
        elsewhere = find_admin({"PIXORLY_API_URL": "https://x.example", "PIXORLY_ADMIN_KEY": "theirs"}, folder)
    assert (elsewhere.url, elsewhere.key) == ("https://x.example", "theirs")


def test_the_stacks_operators_key_is_never_sent_elsewhere(folder: Folder) -> None:
    told = {"PIXORLY_API_URL": "https://x.example", "PIXORLY_API_KEY": "px_live_mine"}

    with folder.held(), pytest.raises(StackError, match="PIXORLY_ADMIN_KEY"):
        find_admin(told, folder)
