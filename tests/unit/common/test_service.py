"""Loops that a process runs beside its work."""

import asyncio
from contextlib import suppress

from clock import now_s, virtual_time
from structlog.testing import capture_logs

from pixorly.errors import OutageError
from pixorly.service import keep_measuring


@virtual_time
async def test_gauges_are_measured_again_after_a_part_was_away() -> None:
    measured_at_s: list[float] = []

    async def measure() -> None:
        measured_at_s.append(now_s())
        if len(measured_at_s) == 2:
            raise OutageError("postgres")

    with capture_logs() as logs, suppress(TimeoutError):
        await asyncio.wait_for(keep_measuring(measure, "jobs could not be counted"), 40)

    assert measured_at_s == [0, 15, 30]
    assert [(log["event"], log["part"]) for log in logs] == [("jobs could not be counted", "postgres")]
