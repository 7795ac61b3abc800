"""The demo: what it makes of what it saw, and what it takes for a success."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_api import image, job
from PIL import Image as Pictures

from pixorly_client import Generation, Receipt, Timeline
from pixorly_client import Image as Stored
from pixorly_stack import demonstration
from pixorly_stack.demonstration import DemoFailed, Story, check, show_summary, steps
from pixorly_stack.folder import Record, Row
from pixorly_stack.observing import Ear, Heard
from pixorly_stack.starting import waited_for

ID = "0199aaaa-0000-7000-8000-0000deadbeef"


def timeline(*entries: tuple[str, str]) -> Timeline:
    data = [{"at": f"2025-01-02T03:04:{seconds}Z", "what": what} for what, seconds in entries]
    return Timeline.model_validate({"generation_id": ID, "data": data})


WHOLE = timeline(
    ("job.created", "05.0"),
    ("job.started", "05.5"),
    ("job.started", "07.0"),
    ("image.generated", "08.0"),
    ("image.generated", "08.5"),
    ("image.uploaded", "08.2"),
    ("image.uploaded", "09.0"),
    ("job.completed", "09.25"),
)


def picture(size: tuple[int, int] = (1024, 1024)) -> bytes:
    buffer = io.BytesIO()
    Pictures.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def saved(folder: Path, *bodies: bytes) -> list[tuple[Stored, Path]]:
    found = []
    for index, body in enumerate(bodies):
        path = folder / f"{index}.png"
        path.write_bytes(body)
        found.append((Stored.model_validate(image(index, width=1024, height=1024, bytes=len(body))), path))
    return found


def finished(**fields: Any) -> Generation:
    return Generation.model_validate(job("completed", id=ID, n=2, **fields))


def test_steps_go_from_the_first_start_to_the_last_image() -> None:
    assert steps(WHOLE) == [
        ("created → started", 0.5),
        ("started → generated", 3.0),
        ("generated → uploaded", 0.5),
        ("uploaded → settled", 0.25),
    ]


def test_steps_that_are_not_known_are_left_out() -> None:
    assert steps(timeline(("job.created", "05.0"))) == []


def test_two_images_of_the_asked_size_are_a_success(tmp_path: Path) -> None:
    check(finished(), saved(tmp_path, picture(), picture()))


def test_one_image_of_two_is_none(tmp_path: Path) -> None:
    failure = {"index": 1, "code": "storage_unavailable", "message": "No room.", "stage": "upload"}

    with pytest.raises(DemoFailed, match="1 images of 2: image 1: No room") as caught:
        check(finished(failures=[failure]), saved(tmp_path, picture()))

    assert caught.value.part == "uploader"


def test_an_image_of_another_size_is_none(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="is 64x64, not 1024x1024"):
        check(finished(), saved(tmp_path, picture(), picture((64, 64))))


@pytest.mark.parametrize("body", [b"", b"<html>", picture()[:-400]])
def test_what_cannot_be_decoded_is_no_image(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(DemoFailed, match="is not an image"):
        check(finished(), saved(tmp_path, picture(), body))


async def test_the_ear_tells_one_jobs_events_from_anothers() -> None:
    ear = Ear()
    for job_id, kind in (("a", "job.created"), ("b", "job.completed"), ("a", "job.completed")):
        message: Any = SimpleNamespace(routing_key=kind, body=json.dumps({"job_id": job_id}))
        await ear.take(message)

    events = await ear.until_settled("a", within_s=5)

    assert [event.type for event in events] == ["job.created", "job.completed"]


async def test_the_ear_does_not_listen_for_ever() -> None:
    assert await Ear().until_settled("a", within_s=0.01) == []


def test_the_summary_tells_the_whole_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = Receipt(generation_id=ID, status="settled", amount_credits=10, captured_credits=10)
    events = [
        Heard(1.0, "job.created", {}),
        Heard(1.5, "job.started", {"attempt": 1, "provider": "sandbox"}),
        Heard(2.0, "job.retrying", {"code": "no_image", "delay_s": 2.0}),
        Heard(2.25, "image.generated", {"index": 1, "bytes": 792_000}),
        Heard(3.0, "job.completed", {}),
    ]
    files = saved(tmp_path, picture(), picture())

    show_summary(Story(finished(), files, (100, 90), WHOLE, receipt, events))

    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"{files[0][1]} 1024x1024 {len(picture()) / 1000:.1f} kB" in said
    assert f"started → generated 3.00 s {'█' * demonstration.WIDTH_OF_A_BAR}" in said
    assert "100 before, 90 after: 10 credits for 2 images, 0 refunded" in said
    assert "+0.50 s job.started attempt 1 on sandbox" in said
    assert "+1.00 s job.retrying no_image, again in 2.0 s" in said
    assert "+1.25 s image.generated image 1 792 kB" in said


def test_what_is_waited_for_is_named() -> None:
    rows = [
        Row("postgres", 1, 1, "ready"),
        Row("s3", None, 1, "external"),
        Row("epmd", 1, 1, "starting", shown=False),
        Row("rabbitmq", 1, 1, "starting"),
        Row("api", 1, 1, "restarting"),
    ]

    assert waited_for(Record("starting", rows=rows)) == "waiting for rabbitmq, api"
    assert waited_for(Record("starting", rows=rows[:3])) == "starting: almost there"
    assert waited_for(None) == "starting"
