"""Forgetting: a user who wants to be, and prompts that are old enough.

What is asked for is a row, and a worker carries it out in batches, so that no crash leaves it half done. Money is not
forgotten: the ledger's transfers stay, with the user's id and without a word of theirs.
"""

from itertools import takewhile
from typing import Final

from pixorly.db import Database
from pixorly_api import store
from pixorly_api.errors import NotFound
from pixorly_api.images import Images
from pixorly_api.ledger import Ledger
from pixorly_api.store import Erasure

_BATCH: Final = 100
_GONE: Final = {"status": "suspended", "allowance": False}


class Erasures:
    """The erasures of one database.

    Args:
        database: Where jobs, images and keys are.
        images: Deletes images.
        ledger: Takes no more charges of the user.
        prompt_days: How many days after its settlement a job keeps its prompt; 0 is for ever.
    """

    def __init__(self, database: Database, images: Images, ledger: Ledger, prompt_days: int = 0) -> None:
        self._database = database
        self._images = images
        self._ledger = ledger
        self._prompt_days = prompt_days

    async def ask(self, user_id: str) -> Erasure:
        """Close every door of a user's at once, and have the rest done; a repeat looks once more.

        Raises:
            AccountNotFound: There is no such user.
        """
        await self._ledger.get(f"/internal/accounts/{user_id}")
        await self._ledger.send("PUT", f"/internal/accounts/{user_id}", _GONE)
        async with self._database.transaction() as connection:
            await store.ask_for_erasure(connection, user_id)
        return await self.read(user_id)

    async def read(self, user_id: str) -> Erasure:
        """Return how far it is.

        Raises:
            NotFound: Nobody asked for it.
        """
        async with self._database.connection() as connection:
            found = await store.find_erasure(connection, user_id)
        if found is None:
            raise NotFound
        return found

    async def erase(self) -> int:
        """Go on with the erasures that were asked for, and return how much was erased."""
        async with self._database.connection() as connection:
            users = await store.open_erasures(connection, _BATCH)
        return sum([await self._erase(user_id) for user_id in users])

    async def _erase(self, user_id: str) -> int:
        async with self._database.connection() as connection:
            # Before the rest: what a job leaves that ends now is seen below.
            under_way = await store.end_open_jobs(connection, user_id)
        images, jobs = await self._erase_images(user_id), await self._erase_jobs(user_id)
        async with self._database.connection() as connection:
            await store.note_erased(connection, user_id, images=images, jobs=jobs, finished=not under_way)
        return images + jobs

    async def _erase_images(self, user_id: str) -> int:
        erased = 0
        while True:
            async with self._database.connection() as connection:
                found = await store.some_images_of(connection, user_id, _BATCH)
            if not found:
                return erased
            await self._images.delete(user_id, found)
            erased += len(found)

    async def _erase_jobs(self, user_id: str) -> int:
        erased = 0
        while True:
            async with self._database.transaction() as connection:
                found = await store.some_told_jobs_of(connection, user_id, _BATCH)
                if not found:
                    return erased
                await store.blank_jobs(connection, found, prompt_only=False)
            erased += len(found)

    async def forget_prompts(self) -> int:
        """Blank the prompts of a batch of jobs that were settled long enough ago, and return how many."""
        if not self._prompt_days:
            return 0
        async with self._database.transaction() as connection:
            aged = await store.aged_jobs(connection, self._prompt_days, _BATCH)
            over = [job_id for job_id, _ in takewhile(lambda row: row[1], aged)]
            if over:
                await store.blank_jobs(connection, over, prompt_only=True)
                await store.note_aged(connection, over[-1])
        return len(over)
