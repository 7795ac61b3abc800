"""The room that images take: reserved with the charge, trued up before the upload, released in the end."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

from pixorly.db import Database
from pixorly.errors import UserError
from pixorly.events import utcnow
from pixorly.grouping import Grouper
from pixorly_ledger import store
from pixorly_ledger.books import Book, Clock
from pixorly_ledger.credits import release
from pixorly_ledger.rows import ImageState
from pixorly_ledger.usage import Flow


class ImageNotFound(UserError):
    """No room was ever kept for this image."""

    code = "not_found"


TruedUp = Literal["stored", "closed"]


class TrueUp(NamedTuple):
    """What an image really takes."""

    image_id: UUID
    user_id: str
    size_bytes: int


class Storage:
    """Trues up and releases.

    Args:
        database: The ledger's.
        clock: Returns the time now.
    """

    def __init__(self, database: Database, *, clock: Clock = utcnow) -> None:
        self._database = database
        self._clock = clock
        self._true_ups: Grouper[TrueUp, TruedUp] = Grouper(self._true_up_group, name="ledger.true_up")

    async def true_up(self, image_id: UUID, user_id: str, size_bytes: int) -> TruedUp:
        """Replace the estimate for an image by what it really takes, whether the quota has room for it or not.

        Returns:
            `closed` where the image was released: it must not be stored any more.

        Raises:
            ImageNotFound: It is not an image of this user's.
        """
        return await self._true_ups(TrueUp(image_id, user_id, size_bytes))

    async def _true_up_group(self, wanted: Sequence[TrueUp]) -> Sequence[TruedUp | Exception]:
        async with self._database.transaction() as connection:
            book = await Book.open(connection, {each.user_id for each in wanted}, self._clock)
            images = await store.find_images(connection, {each.image_id for each in wanted})
            flow, changed = Flow(), dict[UUID, int]()
            answers = [_true_up(book, images, flow, changed, each) for each in wanted]
            if changed:
                await store.store_images(connection, list(changed.items()))
                await book.post(connection)
                await flow.post(connection, book.now.date())
        return answers

    async def release(self, image_ids: Sequence[UUID]) -> list[UUID]:
        """Let the room of images go, and return those that there are, whether or not they had some left."""
        async with self._database.transaction() as connection:
            owners = await store.owners_of_images(connection, image_ids)
            if owners:
                book = await Book.open(connection, owners, self._clock)
                await release(connection, book, image_ids)
                await book.post(connection)
            return await store.find_known_images(connection, image_ids)

    async def images(self, user_id: str, state: ImageState, after: UUID, limit: int) -> list[dict[str, Any]]:
        """Return the storage of a user's images in one state, in the order of their ids."""
        async with self._database.connection() as connection:
            return await store.list_images(connection, user_id, state, after, limit)


def _true_up(
    book: Book, images: dict[UUID, store.Row], flow: Flow, changed: dict[UUID, int], wanted: TrueUp
) -> TruedUp | Exception:
    """Answer one request as if those before it had been answered."""
    image = images.get(wanted.image_id)
    if image is None or image["user_id"] != wanted.user_id:
        return ImageNotFound()
    if image["state"] == "released":
        return "closed"
    was_stored = image["bytes"] if image["state"] == "stored" else 0
    if image["state"] == "reserved" or was_stored != wanted.size_bytes:
        was_reserved = image["bytes"] - was_stored
        account = book.accounts[wanted.user_id]
        book.occupy(account, was_reserved=was_reserved, was_stored=was_stored, stored=wanted.size_bytes)
        flow.add(wanted.user_id, wanted.size_bytes - was_stored)
        changed[wanted.image_id] = wanted.size_bytes
        image.update(state="stored", bytes=wanted.size_bytes)
    return "stored"
