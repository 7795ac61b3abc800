"""Usage on a real PostgreSQL: each job counts once, on the day of its settlement."""

from collections.abc import AsyncIterator
from datetime import date

import pytest
from ledger_world import World, ledger_world, settlement

from pixorly.errors import InvalidRequest


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with ledger_world(database_url) as world:
        await world.open("ada", 1000)
        await world.open("bob", 1000)
        yield world


async def test_a_job_counts_once_however_often_its_end_is_told(world: World) -> None:
    wanted = await world.charge("ada", 20, n=4)
    for image_id, _ in wanted.images[:2]:
        await world.storage.true_up(image_id, "ada", 100)
    codes = [None, None, "no_image", "content_rejected"]
    ended = settlement(wanted, codes, world.clock.now, processing_ms=2000, retries=3)
    for _ in range(3):
        await world.credits.settle(ended)

    report = await world.reports.usage(world.reports.scope("ada", None, None, "day"))

    (line,) = report["data"]
    times = line.pop("processing_time_ms")
    assert line == {
        "day": date(2026, 5, 10),
        "jobs": 1,
        "completed": 1,
        "failed": 0,
        "canceled": 0,
        "images": 4,
        "images_uploaded": 2,
        "credits_used": 20,
        "credits_refunded": 5,
        "credits_captured": 15,
        "retries": 3,
        "success_rate": 1.0,
        "retries_per_job": 3.0,
        "failures": {"content_rejected": 1, "no_image": 1},
        "stored_bytes": 200,
        "released_bytes": 0,
        "storage_bytes": 200,
    }
    assert (times["count"], times["sum"], times["average"]) == (1, 2000, 2000)
    assert times["p50"] == pytest.approx(2000, rel=0.05)


async def test_usage_is_grouped_by_what_is_asked_for(world: World) -> None:
    for user, model, codes in (
        ("ada", "fast", [None]),
        ("ada", "fine", ["provider_timeout"]),
        ("bob", "fast", [None]),
    ):
        await world.settle(await world.charge(user, 10), *codes, model=model)
        world.clock.advance(days=25)

    async def lines(user: str | None, group_by: str) -> list[tuple[object, ...]]:
        scope = world.reports.scope(user, date(2026, 5, 1), date(2026, 7, 31), group_by)
        names = ["user_id" if name == "user" else name for name in group_by.split(",")]
        report = await world.reports.usage(scope)
        return [(*(str(line[name]) for name in names), line["credits_captured"]) for line in report["data"]]

    assert await lines("ada", "model") == [("fast", 10), ("fine", 0)]
    assert await lines(None, "month,model") == [
        ("2026-05-01", "fast", 10),
        ("2026-06-01", "fine", 0),
        ("2026-06-01", "fast", 10),
    ] or await lines(None, "month,model") == [
        ("2026-05-01", "fast", 10),
        ("2026-06-01", "fast", 10),
        ("2026-06-01", "fine", 0),
    ]
    assert await lines(None, "user") == [("ada", 10), ("bob", 10)]
    with pytest.raises(InvalidRequest):
        world.reports.scope(None, None, None, "colour")


async def test_success_average_time_and_retries_come_from_the_totals(world: World) -> None:
    for code, time_ms, retries in ((None, 1000, 0), (None, 3000, 2), ("no_image", 8000, 1), ("canceled", None, 0)):
        outcome = "canceled" if code == "canceled" else None
        await world.settle(await world.charge("ada", 1), code, processing_ms=time_ms, retries=retries, outcome=outcome)

    totals = (await world.reports.usage(world.reports.scope("ada", None, None, "")))["totals"]

    assert totals["success_rate"] == pytest.approx(2 / 3)
    assert totals["retries_per_job"] == 3 / 4
    assert (totals["canceled"], totals["failed"]) == (1, 1)
    assert totals["processing_time_ms"]["average"] == 4000
    assert totals["processing_time_ms"]["p95"] == pytest.approx(8000, rel=0.05)


async def test_storage_by_day_shows_what_came_what_went_and_what_is_there(world: World) -> None:
    first = await world.charge("ada", 2, n=2)
    for image_id, _ in first.images:
        await world.storage.true_up(image_id, "ada", 100)
    world.clock.advance(days=2)
    await world.storage.release([first.images[0][0]])
    second = await world.charge("ada", 1)
    await world.storage.true_up(second.images[0][0], "ada", 30)

    async def levels(first: date | None = None) -> list[tuple[int, int, int]]:
        report = await world.reports.usage(world.reports.scope("ada", first, None, "day"))
        return [(line["stored_bytes"], line["released_bytes"], line["storage_bytes"]) for line in report["data"]]

    assert await levels() == [(200, 0, 200), (30, 100, 130)]
    assert await levels(date(2026, 5, 11)) == [(30, 100, 130)]
