"""The room that images take: reserved with the charge, trued up before the upload, released in the end."""

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from pixorly.db import Database
from pixorly.errors import UserError
from pixorly.events import utcnow
from pixorly_ledger import store
from pixorly_ledger.books import Book, Clock
from pixorly_ledger.credits import release
from pixorly_ledger.usage import Flow


class ImageNotFound(UserError):
    """No room was ever kept for this image."""

    code = "not_found"


class Storage:
    """Trues up and releases.

    Args:
        database: The ledger's.
        clock: Returns the time now.
    """

    def __init__(self, database: Database, *, clock: Clock = utcnow) -> None:
        self._database = database
        self._clock = clock

    async def true_up(self, image_id: UUID, user_id: str, size_bytes: int) -> Literal["stored", "closed"]:
        """Replace the estimate for an image by what it really takes, whether the quota has room for it or not.

        Returns:
            `closed` where the image was released: it must not be stored any more.

        Raises:
            ImageNotFound: It is not an image of this user's.
        """
        async with self._database.transaction() as connection:
            book = await Book.open(connection, [user_id], self._clock)
            image = await store.find_image(connection, image_id)
            if image is None or image["user_id"] != user_id:
                raise ImageNotFound
            if image["state"] == "released":
                return "closed"
            was_stored = image["bytes"] if image["state"] == "stored" else 0
            if image["state"] == "stored" and was_stored == size_bytes:
                return "stored"
            await store.store_image(connection, image_id, size_bytes)
            was_reserved = image["bytes"] - was_stored
            book.occupy(book.accounts[user_id], was_reserved=was_reserved, was_stored=was_stored, stored=size_bytes)
            await book.post(connection)
            flow = Flow()
            flow.add(user_id, size_bytes - was_stored)
            await flow.post(connection, book.now.date())
            return "stored"

    async def release(self, image_ids: Sequence[UUID]) -> list[UUID]:
        """Let the room of images go, and return those that there are, whether or not they had some left."""
        async with self._database.transaction() as connection:
            owners = await store.owners_of_images(connection, image_ids)
            if owners:
                book = await Book.open(connection, owners, self._clock)
                await release(connection, book, image_ids)
                await book.post(connection)
            return await store.find_known_images(connection, image_ids)

    async def images(self, state: str, after: UUID, limit: int) -> list[dict[str, Any]]:
        """Return the storage of images in one state, in the order of their ids."""
        async with self._database.connection() as connection:
            return await store.list_images(connection, state, after, limit)
