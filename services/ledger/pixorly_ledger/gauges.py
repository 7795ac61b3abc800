"""How much there is in the books, measured now and then."""

from pixorly import metrics
from pixorly.db import Database
from pixorly_ledger import store

ESCROW = metrics.gauge("pixorly_escrow_credits", "Credits of charges that are still open.")
OPEN = metrics.gauge("pixorly_charges_open", "Charges that are still open.")
OLDEST_SECONDS = metrics.gauge("pixorly_charges_oldest_open_seconds", "Age of the oldest charge that is still open.")
AVAILABLE = metrics.gauge("pixorly_credits_available", "Credits that users have.")
USED_BYTES = metrics.gauge("pixorly_storage_used_bytes", "Bytes that users' images take.")
RESERVED_BYTES = metrics.gauge("pixorly_storage_reserved_bytes", "Bytes that are kept for images under way.")


async def measure(database: Database) -> None:
    """Set the gauges.

    Raises:
        OutageError: PostgreSQL is away.
    """
    async with database.connection() as connection:
        found = await store.measure(connection)
    ESCROW.set(found["escrow_credits"])
    OPEN.set(found["open_charges"])
    OLDEST_SECONDS.set(found["oldest_open_s"])
    AVAILABLE.set(found["available_credits"])
    USED_BYTES.set(found["used_bytes"])
    RESERVED_BYTES.set(found["reserved_bytes"])
