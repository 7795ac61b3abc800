"""How many jobs are under way, measured now and then."""

from typing import Final

from pixorly import metrics
from pixorly.db import Database
from pixorly_api import store

OPEN_STATUSES: Final = ("pending", "processing", "uploading")

OPEN = metrics.gauge("pixorly_jobs_open", "Jobs that are not settled.", "status")
OVERDUE = metrics.gauge("pixorly_jobs_overdue", "Jobs that are not settled though their deadline has passed.")
OLDEST_SECONDS = metrics.gauge("pixorly_jobs_oldest_open_seconds", "Age of the oldest job that is not settled.")


async def measure(database: Database) -> None:
    """Set the gauges.

    Raises:
        OutageError: PostgreSQL is away.
    """
    async with database.connection() as connection:
        found = await store.measure(connection)
    for status in OPEN_STATUSES:
        OPEN.labels(status).set(sum(jobs for of, jobs, _, _ in found if of == status))
    OVERDUE.set(sum(overdue for _, _, overdue, _ in found))
    OLDEST_SECONDS.set(max((oldest_s for _, _, _, oldest_s in found), default=0.0))
