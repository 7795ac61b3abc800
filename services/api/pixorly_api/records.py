"""Jobs as clients see them, read in groups: those who ask while a read is under way share the next one."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pixorly.db import Database
from pixorly.grouping import Grouper
from pixorly_api import store
from pixorly_api.errors import NotFound
from pixorly_api.store import Record

_GROUP: Final = 64


class Records:
    """Reads single jobs, for whoever asks for one and for all streams of this process that a change woke together.

    Args:
        database: Where jobs are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read: Grouper[tuple[str, UUID], Record | None] = Grouper(
            self._read_group, max_group=_GROUP, workers=2, name="records.read"
        )

    async def of(self, user_id: str, job_id: UUID) -> Record:
        """Return a user's job.

        Raises:
            NotFound: They have none with this id.
            OutageError: PostgreSQL is away.
        """
        found = await self._read((user_id, job_id))
        if found is None:
            raise NotFound
        return found

    async def _read_group(self, wanted: Sequence[tuple[str, UUID]]) -> Sequence[Record | None]:
        async with self._database.connection() as connection:
            found = await store.records(connection, wanted)
        by_key = {(record.job.user_id, record.job.job_id): record for record in found}
        return [by_key.get(key) for key in wanted]
