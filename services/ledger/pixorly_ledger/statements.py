"""What users and bookkeepers read: the statement of an account, the receipt of a job, and what is open."""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pixorly.db import Database
from pixorly_ledger import store
from pixorly_ledger.credits import ChargeNotFound

NEWEST = 2**63 - 1
"""The place on a statement that everything is before."""
_SKEW: Final = timedelta(hours=1)
"""More than the clocks of two ledgers are apart: within this, a later transfer may say an earlier time."""


class Statements:
    """Reads.

    Args:
        database: The ledger's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def statement(
        self,
        user_id: str,
        *,
        before: int = NEWEST,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return the newest transfers that changed a user's balance, and where to go on, if there are more."""
        async with self._database.connection() as connection:
            # What is asked for is found by its place: a year may lie between it and the end of the statement.
            after = await store.last_place_before(connection, user_id, since - _SKEW) if since else None
            end = await store.last_place_before(connection, user_id, until + _SKEW) if until else None
            rows = await store.find_statement(
                connection,
                user_id,
                after=after,
                before=before if end is None else min(before, end + 1),
                since=since,
                until=until,
                limit=limit + 1,
            )
        data = [{key: value for key, value in row.items() if key != "seq"} for row in rows[:limit]]
        return data, rows[limit - 1]["seq"] if len(rows) > limit else None

    async def receipt(self, job_id: UUID) -> dict[str, Any]:
        """Return what a job cost, image by image, and every transfer that it made.

        Raises:
            ChargeNotFound: The job was never charged.
        """
        async with self._database.connection() as connection:
            charge = await store.find_receipt(connection, job_id)
            if charge is None:
                raise ChargeNotFound
            transfers = await store.find_transfers_of_job(connection, job_id)
            storage = await store.find_images(connection, charge["image_ids"])
        shown = {key: value for key, value in charge.items() if key not in {"image_ids", "slot_codes", "slot_refunded"}}
        images = [_slot(charge, index, storage.get(image_id)) for index, image_id in enumerate(charge["image_ids"])]
        return {**shown, "images": images, "transfers": transfers}

    async def open_charges(self, created_before: datetime, after: UUID, limit: int) -> list[dict[str, Any]]:
        """Return charges that are neither settled nor voided, in the order of their job's id."""
        async with self._database.connection() as connection:
            return await store.list_open_charges(connection, created_before, after, limit)


def _slot(charge: store.Row, index: int, storage: store.Row | None) -> dict[str, Any]:
    """Return one image of a receipt: `paid_by` is `user` or `pixorly`, or None while it is open."""
    refunded = charge["slot_refunded"][index] if charge["slot_refunded"] else charge["status"] == "voided"
    return {
        "index": index,
        "image_id": charge["image_ids"][index],
        "amount_credits": charge["amount_credits"] // len(charge["image_ids"]),
        "code": charge["slot_codes"][index] if charge["slot_codes"] else None,
        "paid_by": None if charge["status"] == "open" else "pixorly" if refunded else "user",
        "storage": {"state": storage["state"], "bytes": storage["bytes"]} if storage else None,
    }
