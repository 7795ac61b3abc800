"""The `pixorly` command and the Python client against a whole Pixorly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest
from PIL import Image as Pictures
from stack import PIXORLY, Stack
from typer.testing import CliRunner

from pixorly_client import AsyncPixorly, Conflict, InvalidRequest, JobFailed, NotFound, Pixorly
from pixorly_stack.cli import app

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(300)]


def hears_ctrl_c() -> None:
    """Undo what a shell does to a command in the background: it has it ignore Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def client(stack: Stack) -> Pixorly:
    return Pixorly(stack.dev["api_key"], stack.dev["api_url"], trust_env=False)


def test_generate_saves_what_was_asked_for(stack: Stack, tmp_path: Path) -> None:
    words = ("--size", "96x64", "-n", "2", "--format", "webp", "--seed", "3", "--out", str(tmp_path), "--json")

    done = stack.run("generate", "a fox in snow", *words)

    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["status"], job["credits_used"], len(job["files"])) == ("completed", 10, 2)
    for name in job["files"]:
        with Pictures.open(name) as picture:
            picture.load()
            assert (picture.size, picture.format) == ((96, 64), "WEBP")


def test_generate_shows_progress_line_by_line_without_a_terminal(stack: Stack, tmp_path: Path) -> None:
    done = stack.run("generate", "a fox", "--size", "64", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "image 0 done" in done.stdout
    assert "5 credits used" in done.stdout
    (file,) = tmp_path.iterdir()
    assert str(file) in done.stdout
    assert "http" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a fox", "-n", "0"], "n:"),
        (["a fox", "--model", "sandbox/auroa"], "sandbox/aurora"),
        (["a fox", "--size", "5000"], "4096"),
        (["  "], "prompt:"),
    ],
)
def test_a_refused_request_exits_with_two_and_costs_nothing(stack: Stack, words: list[str], said: str) -> None:
    with client(stack) as pixorly:
        before = pixorly.account().credits_remaining

        done = stack.run("generate", *words)

        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr
        assert pixorly.account().credits_remaining == before


def test_ctrl_c_leaves_the_job_running(stack: Stack, tmp_path: Path) -> None:
    environment = {**os.environ, "PIXORLY_DIR": str(stack.folder)}
    words = [PIXORLY, "generate", "a fox", "--size", "2048", "-n", "4", "--out", str(tmp_path)]
    process = subprocess.Popen(
        words,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hears_ctrl_c,
    )
    assert process.stdout is not None
    assert "pending" in process.stdout.readline()

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 130
    job_id = errors.partition("pixorly jobs watch ")[2].split()[0]
    watched = stack.run("jobs", "watch", job_id)
    assert watched.returncode == 0, watched.stdout + watched.stderr


def test_jobs_images_account_usage_and_models(stack: Stack, tmp_path: Path) -> None:
    made = json.loads(stack.run("generate", "a fox", "--size", "64", "--no-download", "--json").stdout)
    image_id = made["images"][0]["id"]

    listed = json.loads(stack.run("jobs", "list", "--status", "completed", "--json").stdout)
    shown = json.loads(stack.run("jobs", "show", made["id"], "--json").stdout)
    saved = json.loads(stack.run("images", "get", image_id, "--out", str(tmp_path), "--json").stdout)
    deleted = stack.run("images", "delete", image_id)
    gone = stack.run("images", "get", image_id)

    assert listed["data"][0]["id"] == made["id"]
    assert shown["receipt"]["amount_credits"] == 5
    assert [shown["timeline"][place]["what"] for place in (0, -1)] == ["job.created", "job.completed"]
    assert Path(saved["file"]).stat().st_size == saved["bytes"]
    assert (deleted.returncode, gone.returncode) == (0, 2)


@pytest.mark.parametrize("words", ["jobs list", "images list", "account", "usage", "usage --by model", "models"])
def test_what_there_is_can_be_shown(stack: Stack, words: str) -> None:
    # In this process, for starting Python is most of what a command takes; the others show that it can be started.
    done = CliRunner().invoke(app, words.split(), obj=lambda _folder: client(stack))

    assert done.exit_code == 0, done.output
    assert done.stdout.strip()


def test_too_late_to_cancel_is_a_refusal(stack: Stack) -> None:
    with client(stack) as pixorly:
        job = pixorly.generate("a fox", model="sandbox/aurora", width=64, height=64)

        with pytest.raises(Conflict, match="already_started"):
            pixorly.cancel(job.id)

    assert stack.run("jobs", "cancel", job.id).returncode == 2


def test_the_client_hears_of_every_step(stack: Stack) -> None:
    told: list[str] = []

    with client(stack) as pixorly:
        job = pixorly.generate(
            "a fox", model="sandbox/aurora", n=2, width=512, height=512, on_progress=lambda now: told.append(now.status)
        )
        bodies = [pixorly.images.download(image) for image in job.images]
        small = pixorly.images.download(job.images[0], thumbnail=256)

    assert [len(body) for body in bodies] == [image.bytes for image in job.images]
    assert small
    assert told[0] == "pending"
    assert told[-1] == "completed"
    assert told == sorted(told, key=["pending", "processing", "uploading", "completed"].index)


async def test_the_asynchronous_client_does_the_same(stack: Stack) -> None:
    async with AsyncPixorly(stack.dev["api_key"], stack.dev["api_url"], trust_env=False) as pixorly:
        job = await pixorly.generate("a fox", model="sandbox/mosaic", width=64, height=64)
        body = await pixorly.images.download(job.images[0])

    assert len(body) == job.images[0].bytes


def test_the_clients_readme_works(stack: Stack, tmp_path: Path) -> None:
    readme = Path(__file__).parents[2] / "libs" / "client" / "README.md"
    example = readme.read_text().partition("```python\n")[2].partition("```")[0]
    example = example.replace("px_live_…", stack.dev["api_key"]).replace("http://127.0.0.1:8080", stack.dev["api_url"])

    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, text=True, capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "completed"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.png", "1.png"]


def test_the_same_key_is_the_same_job(stack: Stack) -> None:
    key = str(uuid4())

    with client(stack) as pixorly:
        first = pixorly.create("a fox", model="sandbox/mosaic", idempotency_key=key)
        again = pixorly.create("a fox", model="sandbox/mosaic", idempotency_key=key)
        with pytest.raises(InvalidRequest, match="idempotency_key_reused"):
            pixorly.create("another fox", model="sandbox/mosaic", idempotency_key=key)

    assert first.id == again.id


def test_what_is_not_there_is_not_found(stack: Stack) -> None:
    with client(stack) as pixorly, pytest.raises(NotFound):
        pixorly.wait(str(uuid4()), timeout_s=5)


def test_a_job_past_its_deadline_is_an_error_with_the_job_in_it(stack: Stack) -> None:
    with client(stack) as pixorly, pytest.raises(JobFailed, match="deadline_exceeded") as caught:
        pixorly.generate("a fox", model="sandbox/aurora", n=10, width=4096, height=4096, deadline_s=1)

    assert caught.value.job.credits_refunded == caught.value.job.credits_used


def test_the_demo_uses_the_stack_that_runs_and_leaves_it_running(stack: Stack, tmp_path: Path) -> None:
    done = stack.run("demo", "--out", str(tmp_path))

    assert done.returncode == 0, done.stdout + done.stderr
    sizes = []
    for file in tmp_path.iterdir():
        with Pictures.open(file) as picture:
            picture.load()
            sizes.append(picture.size)
    assert sizes == [(1024, 1024), (1024, 1024)]
    assert stack.ps()["api"]["state"] == "ready"
    for said in ("Where the time went", "job.created", "image.uploaded", "job.completed", "10 credits for 2 images"):
        assert said in done.stdout


@pytest.mark.parametrize(
    "sig",
    [pytest.param(None, marks=pytest.mark.long), pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM],
)
def test_the_demo_stops_what_it_started(tmp_path: Path, sig: signal.Signals | None) -> None:
    own = Stack(tmp_path / ".pixorly")
    environment = {**os.environ, "PIXORLY_DIR": str(own.folder)}
    words = [PIXORLY, "demo", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(words, env=environment, text=True, preexec_fn=hears_ctrl_c)
    state = own.folder / "state.json"
    if sig is not None:
        while not (state.exists() and any(row["pid"] for row in json.loads(state.read_text())["rows"])):
            time.sleep(0.1)
        process.send_signal(sig)

    status = process.wait(timeout=240)

    assert status == {None: 0, signal.SIGINT: 130, signal.SIGTERM: 143}[sig]
    assert json.loads(own.run("ps", "--json").stdout) == []
    assert own.run("down").stdout.startswith("Nothing runs in"), "nothing was left behind"
