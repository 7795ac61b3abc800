"""The commands beside `pixorly generate`: jobs, images, account, usage, models."""

import json
from pathlib import Path

import httpx
import pytest
from fake_api import FakeApi, image, job, news, ok, problem, stream
from typer.testing import CliRunner, Result

from pixorly_stack.cli import app

ID = "0199aaaa-0000-7000-8000-0000deadbeef"
TIMELINE = {
    "generation_id": ID,
    "trace_id": "t",
    "data": [
        {"at": "2025-01-02T03:04:05Z", "what": "job.created"},
        {"at": "2025-01-02T03:04:05.5Z", "what": "job.started", "attempt": 1, "provider": "sandbox", "index": 0},
        {"at": "2025-01-02T03:04:06Z", "what": "job.retrying", "code": "no_image", "delay_s": 2.0},
        {"at": "2025-01-02T03:04:09Z", "what": "image.generated", "index": 0},
    ],
}
RECEIPT = {
    "generation_id": ID,
    "status": "settled",
    "amount_credits": 10,
    "captured_credits": 5,
    "refunded_credits": 5,
    "created_at": "2025-01-02T03:04:05Z",
    "images": [],
    "transfers": [],
}
LINE = {
    "jobs": 4,
    "completed": 3,
    "failed": 1,
    "images_uploaded": 6,
    "credits_used": 30,
    "credits_refunded": 5,
    "success_rate": 0.75,
    "failures": {"no_image": 2},
    "processing_time_ms": {"count": 4, "average": 1500, "p50": 1200, "p95": 2500},
    "storage_bytes": 12_000_000,
}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def run(api: FakeApi, words: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, words.split(), obj=lambda _folder: api.client(tries=2))
    assert not api.answers, "the command did not ask for everything"
    assert result.exit_code == status, result.output
    return result


def test_jobs_are_listed_with_whole_ids(api: FakeApi) -> None:
    mine = job("completed", id=ID, images=[image()], n=2, credits_used=10, credits_refunded=5, prompt="a\nfox [bold]")
    api.will(ok({"data": [mine], "next_cursor": "c2"}))

    output = run(api, "jobs list --status completed --model sandbox/aurora --limit 1 --cursor c1").output

    assert api.asked == ["GET /v1/generations?limit=1&status=completed&model=sandbox%2Faurora&cursor=c1"]
    assert " ".join(output.splitlines()[1].split()) == f"{ID} 2025-01-02 completed 1/2 5 a fox [bold]"
    assert "More: --cursor c2" in output


def test_no_jobs_yet_says_how_to_make_one(api: FakeApi) -> None:
    api.will(ok({"data": [], "next_cursor": None}))

    assert "pixorly generate" in run(api, "jobs list").output


def test_a_job_is_shown_with_its_story_and_its_bill(api: FakeApi) -> None:
    mine = job("completed", id=ID, images=[image(width=64, height=64)], params={"width": 64, "height": 64})
    api.will(ok(mine), ok(TIMELINE), ok(RECEIPT))

    output = run(api, f"jobs show {ID}").output

    assert f"{ID}  completed  sandbox/aurora  64x64" in output
    assert "https://cdn.test/0" in output
    assert "+0.50 s  job.started" in output
    assert "sandbox  attempt 1" in output
    assert "no_image  again in 2 s" in output
    assert "10 credits charged, 5 kept, 5 refunded (settled)." in output


def test_a_job_is_shown_even_while_the_ledger_is_away(api: FakeApi) -> None:
    api.will(ok(job(id=ID)), ok(TIMELINE), problem(503, "service_unavailable"), problem(503, "service_unavailable"))

    found = json.loads(run(api, f"jobs show {ID} --json").stdout)

    assert (found["id"], found["receipt"]) == (ID, None)
    assert found["timeline"][0]["what"] == "job.created"


def test_a_job_is_taken_back(api: FakeApi) -> None:
    api.will(ok(job("canceled", credits_refunded=5)))

    assert "Canceled; 5 credits came back." in run(api, f"jobs cancel {ID}").output
    assert api.asked == [f"POST /v1/generations/{ID}/cancel"]


def test_too_late_to_take_back_is_a_refusal(api: FakeApi) -> None:
    api.will(problem(409, "already_started", "It was started already."))

    assert "already_started" in run(api, f"jobs cancel {ID}", status=2).stderr


def test_a_job_is_watched_to_its_end(api: FakeApi) -> None:
    api.will(
        stream(news("snapshot", job("processing", id=ID)), news("settled", job("completed", id=ID, images=[image()])))
    )

    output = run(api, f"jobs watch {ID}").output

    assert "image 0 done" in output
    assert "https://cdn.test/0" in output


def test_watching_a_job_that_fails_fails(api: FakeApi) -> None:
    api.will(stream(news("snapshot", job("failed", id=ID))))

    assert json.loads(run(api, f"jobs watch {ID} --json", status=1).stdout)["status"] == "failed"


def test_images_are_listed(api: FakeApi) -> None:
    mine = image(width=64, height=32, bytes=1234, generation_id=ID, created_at="2025-01-02T03:04:05Z")
    api.will(ok({"data": [mine], "next_cursor": None}))

    line = run(api, "images list").output.splitlines()[1]

    assert " ".join(line.split()) == f"img-0 2025-01-02 64x32 1.2 kB png private {ID}"


def test_an_image_is_saved_where_a_folder_is_named(api: FakeApi, tmp_path: Path) -> None:
    api.will(
        ok(image(1, generation_id=ID, thumbnails={"256": "https://cdn.test/small"})), httpx.Response(200, content=b"x")
    )

    output = run(api, f"images get img-1 --out {tmp_path}").output

    assert (tmp_path / "deadbeef-1.png").read_bytes() == b"x"
    assert "original  https://cdn.test/1" in output
    assert "256       https://cdn.test/small" in output


def test_a_thumbnail_is_saved_under_a_name_of_its_own(api: FakeApi, tmp_path: Path) -> None:
    api.will(
        ok(image(1, generation_id=ID, thumbnails={"256": "https://cdn.test/small"})), httpx.Response(200, content=b"x")
    )

    found = json.loads(run(api, f"images get img-1 --thumbnail 256 --out {tmp_path} --json").stdout)

    assert found["file"] == str(tmp_path / "deadbeef-1-256.webp")


def test_a_thumbnail_that_there_is_not_is_refused(api: FakeApi, tmp_path: Path) -> None:
    api.will(ok(image(1, thumbnails={"256": "https://cdn.test/small"})))

    assert "there are: 256" in run(api, f"images get img-1 --thumbnail 99 --out {tmp_path}", status=2).stderr


def test_images_are_deleted(api: FakeApi) -> None:
    api.will(ok({"deleted": ["a", "b"], "not_found": []}))

    assert "Deleted a.\nDeleted b." in run(api, "images delete a b").output
    assert api.asked == ["POST /v1/images/delete"]


def test_an_image_that_there_is_not_is_named_and_the_others_are_deleted(api: FakeApi) -> None:
    api.will(ok({"deleted": ["a"], "not_found": ["b"]}))

    assert "Deleted a.\nThere is no image b." in run(api, "images delete a b", status=1).output


def test_publishing_waits_until_the_image_has_moved(api: FakeApi) -> None:
    moving = image(1, visibility="public", moving=True)
    api.will(ok(moving), ok(moving), ok({**moving, "moving": False}))

    assert "img-1 is public: https://cdn.test/1" in run(api, "images publish img-1").output
    assert api.asked == ["PATCH /v1/images/img-1", "GET /v1/images/img-1", "GET /v1/images/img-1"]


def test_the_account_shows_credits_and_room(api: FakeApi) -> None:
    storage = {"used_bytes": 40 * 10**9, "reserved_bytes": 10 * 10**9, "quota_bytes": 100 * 10**9}
    api.will(ok({"user_id": "ann", "plan": "pro", "credits_remaining": 940, "storage": storage, "status": "suspended"}))

    output = run(api, "account").output

    assert "ann  plan pro  suspended" in output
    assert "940 credits" in output
    assert f"40.0 GB of 100 GB stored  {'█' * 12}{'░' * 12}" in output


def test_usage_is_a_chart(api: FakeApi) -> None:
    lines = [LINE | {"day": "2025-01-01", "credits_used": 15}, LINE | {"day": "2025-01-02"}]
    api.will(ok({"from": "2025-01-01", "to": "2025-01-02", "data": lines, "totals": LINE}))

    output = run(api, "usage --from 2025-01-01 --to 2025-01-02").output

    assert api.asked == ["GET /v1/usage?from=2025-01-01&to=2025-01-02&group_by=day"]
    assert " ".join(output.splitlines()[1].split()) == f"2025-01-01 15 {'█' * 12} 4 6 75% 1.5 s"
    assert " ".join(output.splitlines()[2].split()) == f"2025-01-02 30 {'█' * 24} 4 6 75% 1.5 s"
    assert "4 jobs, 6 images, 30 credits used, 5 refunded; 75% succeeded, half within 1.2 s" in output
    assert "failed images  no_image 2" in output


def test_usage_can_be_of_models_and_of_storage(api: FakeApi) -> None:
    api.will(ok({"data": [LINE | {"model": "sandbox/aurora"}], "totals": LINE}))

    output = run(api, "usage --by model --show storage").output

    assert api.asked == ["GET /v1/usage?group_by=model"]
    assert "sandbox/aurora" in output
    assert "12.0 MB" in output


def test_no_usage_is_said_so(api: FakeApi) -> None:
    api.will(ok({"data": [], "totals": {}}))

    assert "Nothing was used" in run(api, "usage").output


def test_models_have_prices_and_sizes(api: FakeApi) -> None:
    aurora = {
        "id": "sandbox/aurora",
        "credits_per_image": 5,
        "quality_credits": {"low": 3, "high": 8},
        "typical_s": 1.0,
    }
    fixed = {"id": "x/y", "credits_per_image": 8, "aspect_ratios": {"1:1": [1024, 1024], "16:9": [1344, 768]}}
    api.will(ok({"data": [aurora | {"min_px": 64, "max_px": 4096}, fixed], "next_cursor": None}))

    lines = [" ".join(line.split()) for line in run(api, "models").output.splitlines()]

    assert lines[1] == "sandbox/aurora 3-8 1 s 64 to 4096 px a side"
    assert lines[2] == "x/y 8 - 1:1 16:9"


@pytest.mark.parametrize(
    ("words", "answer", "shown"),
    [
        ("jobs list --json", {"data": [job()], "next_cursor": None}, ("data", 0, "id")),
        ("images list --json", {"data": [image()], "next_cursor": None}, ("data", 0, "id")),
        ("account --json", {"user_id": "a", "plan": "pro", "credits_remaining": 1}, ("user_id",)),
        ("usage --json", {"from": "2025-01-01", "data": [], "totals": {}}, ("from",)),
        ("models --json", {"data": [{"id": "x"}]}, (0, "id")),
        (f"jobs cancel {ID} --json", job("canceled"), ("status",)),
        ("images get a --json", image(), ("url",)),
    ],
)
def test_every_answer_can_be_json(api: FakeApi, words: str, answer: object, shown: tuple[str | int, ...]) -> None:
    api.will(ok(answer))

    found = json.loads(run(api, words).stdout)

    for step in shown:
        found = found[step]
    assert found
