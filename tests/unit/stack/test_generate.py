"""`pixorly generate`: what it asks for, what it shows, what it saves, and how it ends."""

import json
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from fake_api import FakeApi, image, job, news, ok, problem, stream
from typer.testing import CliRunner, Result

from pixorly_stack.cli import app
from pixorly_stack.errors import StackError

BYTES = b"bytes of an image"
ID = "0199aaaa-0000-7000-8000-0000deadbeef"
STORED = image(width=64, height=64, bytes=17, sha256=sha256(BYTES).hexdigest())


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def run(api: FakeApi, *words: str) -> Result:
    result = CliRunner().invoke(app, words, obj=lambda _folder: api.client(tries=2))
    assert not api.answers, "the command did not ask for everything"
    return result


def completed(**fields: object) -> dict[str, object]:
    return job("completed", id=ID, images=[STORED], processing_time_ms=1234, **fields)


def test_a_prompt_becomes_a_file(api: FakeApi, tmp_path: Path) -> None:
    created = job(id=ID, credits_remaining=995, slots=[{"index": 0, "state": "pending"}])
    drawn = job("uploading", id=ID, slots=[{"index": 0, "state": "generated"}])
    api.will(
        ok(created, 202),
        stream(news("snapshot", created), news("update", drawn), news("settled", completed())),
        httpx.Response(200, content=BYTES),
    )

    result = run(api, "generate", "a fox", "--size", "64", "--seed", "7", "--out", str(tmp_path / "new"))

    assert result.exit_code == 0, result.output
    path = tmp_path / "new" / "deadbeef-0.png"
    assert path.read_bytes() == BYTES
    assert [file.name for file in path.parent.iterdir()] == ["deadbeef-0.png"]
    assert json.loads(api.requests[0].content) == {
        "prompt": "a fox",
        "model": "sandbox/aurora",
        "n": 1,
        "width": 64,
        "height": 64,
        "seed": 7,
    }
    said = [line.split("s  ", 1)[-1].strip() for line in result.output.splitlines()]
    assert said == [
        "job deadbeef  pending  5 credits, 995 left",
        "image 0 storing",
        "uploading",
        "image 0 done",
        "completed",
        f"{path}  64x64  17 B",
        "https://cdn.test/0",
        "Completed in 1.2 s: 5 credits used, 995 left.",
    ]


def test_every_wish_reaches_the_api(api: FakeApi, tmp_path: Path) -> None:
    api.will(ok(completed()))

    words = ("--aspect-ratio", "16:9", "--quality", "high", "--format", "webp", "-m", "x/y", "-n", "3")
    result = run(api, "generate", "a fox", *words, "--no-download", "--out", str(tmp_path))

    assert result.exit_code == 0, result.output
    assert json.loads(api.requests[0].content) == {
        "prompt": "a fox",
        "model": "x/y",
        "n": 3,
        "aspect_ratio": "16:9",
        "quality": "high",
        "output_format": "webp",
    }
    assert list(tmp_path.iterdir()) == []


def test_json_is_the_job_and_its_files_and_nothing_else(api: FakeApi, tmp_path: Path) -> None:
    api.will(ok(completed(credits_remaining=995)), httpx.Response(200, content=BYTES))

    result = run(api, "generate", "a fox", "--json", "--out", str(tmp_path))

    found = json.loads(result.stdout)
    assert (found["id"], found["status"]) == (ID, "completed")
    assert found["files"] == [str(tmp_path / "deadbeef-0.png")]


def test_a_failed_job_says_why_and_what_came_back(api: FakeApi, tmp_path: Path) -> None:
    failure = {"index": 0, "code": "provider_unavailable", "message": "It was away.", "fault": "server"}
    ended = job("failed", id=ID, failures=[failure], credits_refunded=5, retry_count=3)
    api.will(ok(job(id=ID, credits_remaining=95), 202), stream(news("settled", ended)))

    result = run(api, "generate", "a fox", "--out", str(tmp_path))

    assert result.exit_code == 1
    assert "image 0: It was away. (provider_unavailable; your credits are back)" in result.stderr
    assert "Failed in -: 5 credits used, 5 refunded, 100 left." in result.stdout
    assert "3 retries" in result.stdout


def test_what_the_users_own_prompt_cost_is_said_not_to_come_back(api: FakeApi) -> None:
    failure = {"index": 0, "code": "content_rejected", "message": "Refused.", "fault": "user"}
    api.will(ok(job("failed", id=ID, failures=[failure])))

    result = run(api, "generate", "a fox")

    assert result.exit_code == 1
    assert "(content_rejected; not refunded)" in result.stderr


def test_some_of_several_images_are_a_success(api: FakeApi, tmp_path: Path) -> None:
    failure = {"index": 1, "code": "missing_image", "message": "One is missing.", "fault": "server"}
    api.will(
        ok(completed(n=2, failures=[failure], credits_used=10, credits_refunded=5)), httpx.Response(200, content=BYTES)
    )

    result = run(api, "generate", "a fox", "-n", "2", "--out", str(tmp_path))

    assert result.exit_code == 0
    assert "image 1: One is missing." in result.stderr
    assert "10 credits used, 5 refunded." in result.stdout


def test_a_refusal_says_what_is_wrong_with_which_field(api: FakeApi) -> None:
    errors = [{"field": "n", "message": "Input should be less than or equal to 10"}]
    api.will(problem(422, detail="Not valid: n.", errors=errors, request_id="r-9"))

    result = run(api, "generate", "a [bold]fox", "-n", "11")

    assert result.exit_code == 2
    assert "error: Not valid: n. (422 invalid_request)" in result.stderr
    assert "n: Input should be less than or equal to 10" in result.stderr
    assert "request r-9" in result.stderr


def test_missing_credits_are_told_in_numbers(api: FakeApi) -> None:
    api.will(problem(402, "insufficient_credits", "Not enough.", needed_credits=50, available_credits=4))

    result = run(api, "generate", "a fox", "-n", "10")

    assert result.exit_code == 2
    assert "needed credits: 50" in result.stderr
    assert "available credits: 4" in result.stderr


def test_a_refusal_as_json_is_json(api: FakeApi) -> None:
    api.will(problem(402, "insufficient_credits", "Not enough.", needed_credits=50))

    result = run(api, "generate", "a fox", "--json")

    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"] == {
        "status": 402,
        "code": "insufficient_credits",
        "detail": "Not enough.",
        "request_id": None,
        "needed_credits": 50,
    }


def test_an_api_that_fails_is_no_refusal(api: FakeApi) -> None:
    api.will(problem(500, "internal_error", "Something failed on our side."))

    assert run(api, "generate", "a fox").exit_code == 1


def test_nobody_who_answers_means_start_it(api: FakeApi) -> None:
    api.will(httpx.ConnectError("refused"), httpx.ConnectError("refused"))

    result = run(api, "generate", "a fox")

    assert result.exit_code == 1
    assert "nothing answers at http://api.test" in result.stderr
    assert "pixorly up" in result.stderr


def test_ctrl_c_leaves_the_job_running_and_says_how_to_look_at_it(api: FakeApi) -> None:
    def interrupted(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    api.will(ok(job(id=ID), 202), interrupted)

    result = run(api, "generate", "a fox")

    assert result.exit_code == 130
    assert f"pixorly jobs watch {ID}" in result.stderr
    assert f"pixorly jobs cancel {ID}" in result.stderr


def test_ctrl_c_before_there_is_a_job_says_that_it_is_not_known(api: FakeApi) -> None:
    def interrupted(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    api.will(interrupted)

    result = run(api, "generate", "a fox")

    assert result.exit_code == 130
    assert "pixorly jobs list" in result.stderr


@pytest.mark.parametrize("size", ["big", "64x", "x64", "-1", "1024*1024", ""])
def test_what_is_no_size_is_refused_before_anything_is_asked(api: FakeApi, size: str) -> None:
    result = run(api, "generate", "a fox", "--size", size)

    assert result.exit_code == 2
    assert api.requests == []


def test_files_that_cannot_be_written_are_a_clear_error(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    api.will(ok(completed()), httpx.Response(200, content=BYTES))

    result = run(api, "generate", "a fox", "--out", str(tmp_path / "file"))

    assert isinstance(result.exception, StackError)
    assert "cannot be written" in str(result.exception)


def test_without_a_stack_it_says_how_to_get_one(tmp_path: Path) -> None:
    told = {"PIXORLY_DIR": str(tmp_path), "PIXORLY_API_URL": None, "PIXORLY_API_KEY": None}

    result = CliRunner(env=told).invoke(app, ["generate", "a fox"])

    assert isinstance(result.exception, StackError)
    assert f"no Pixorly runs in {tmp_path}. Start one with `pixorly up`" in str(result.exception)
