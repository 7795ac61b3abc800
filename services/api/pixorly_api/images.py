"""Transactions around stored images: they are deleted, made public and taken back.

The row of an image is the one truth of where it lies. A change of visibility asks the uploader to copy the image under
a name that was never used before; when it lies there, the row and every link from then on say so, and what is left
under the old name is cleared up. Each step is written down, so it is said again if its event gets lost.
"""

from collections.abc import Sequence
from typing import Self
from uuid import UUID

from pixorly.events import ImageDeleted, ImageMoved, ImageMoving, ImageVacated, Visibility
from pixorly.keys import image_prefix, moved_keys
from pixorly.outbox import Outbox, Transaction
from pixorly_api import lifecycle, store
from pixorly_api.errors import NotFound
from pixorly_api.hints import Announce, Changed, nobody
from pixorly_api.settings import ApiSettings
from pixorly_api.store import Image, Move


class Images:
    """The images of one database.

    Args:
        outbox: Opens transactions that carry events.
        again_after_s: After how long a deletion, and what a move left behind, is said once more.
        nudge_after_s: After how long a move without news is asked for again.
        announce: Tells those who watch a job that it changed.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        again_after_s: float = 3600,
        nudge_after_s: float = 120,
        announce: Announce = nobody,
    ) -> None:
        self._outbox = outbox
        self._announce = announce
        self._again_after_s = again_after_s
        self._nudge_after_s = nudge_after_s

    @classmethod
    def of(cls, outbox: Outbox, settings: ApiSettings, announce: Announce = nobody) -> Self:
        """Return those of a process with these settings."""
        return cls(
            outbox,
            again_after_s=settings.delete_again_after_s,
            nudge_after_s=settings.nudge_after_s,
            announce=announce,
        )

    async def delete(self, user_id: str, image_ids: Sequence[UUID]) -> list[UUID]:
        """Have images of a user's removed, and return those that the user has or had; a repeat changes nothing."""
        wanted = set(image_ids)
        async with self._outbox.transaction() as transaction:
            connection = transaction.connection
            images = await store.bury_images(connection, user_id, list(wanted))
            events = [(image.index, _deleted(image)) for image in images]
            # The job before the deletion: a late upload locks them in this order too.
            await store.touch_jobs(connection, (image.job_id for image in images))
            await store.add_deletions(connection, events, self._again_after_s)
            transaction.append(*(event for _, event in events))
            gone = await store.deleted_ones(connection, user_id, list(wanted))
        self._announce(Changed(image.job_id, user_id) for image in images)
        return [image_id for image_id in dict.fromkeys(image_ids) if image_id in gone]

    async def set_visibility(self, user_id: str, image_id: UUID, visibility: Visibility) -> Image:
        """Say who is to read an image, and return it; it moves soon after.

        Raises:
            NotFound: The user has none with this id.
        """
        async with self._outbox.transaction() as transaction:
            connection = transaction.connection
            image = await store.lock_image(connection, image_id, user_id)
            if image is None:
                raise NotFound
            if image.visibility == visibility:
                return image
            await store.set_visibility(connection, image_id, visibility)
            dropped = await store.drop_move(connection, image_id, self._again_after_s)
            if dropped is not None:
                # It never left, so it is where it belongs again; a copy that was made meanwhile is not.
                transaction.append(_vacated(dropped))
            else:
                move = _move_of(image, visibility, 1 + await store.moves_made(connection, image_id))
                await store.add_move(connection, move, self._nudge_after_s)
                transaction.append(_moving(move))
            await store.touch_jobs(connection, [image.job_id])
            changed = await store.lock_image(connection, image_id, user_id)
        self._announce([Changed(image.job_id, user_id)])
        return changed or image

    async def follow_move(self, event: ImageMoved) -> None:
        """Take down that an image lies at a move's target, if it is still wanted there; else have that cleared up."""
        async with self._outbox.transaction() as transaction:
            connection = transaction.connection
            image = await store.lock_image(connection, event.image_id)
            move = await store.find_move(connection, event.image_id, event.move)
            if move is None:
                return
            if image is None:
                await self._delete_again(transaction, move)
            elif move.state == "asked":
                await store.finish_move(connection, move, self._again_after_s)
                await store.touch_jobs(connection, [move.job_id])
                transaction.append(_vacated(move, done=True))
            elif image.original_key != move.target.original:
                transaction.append(_vacated(move))
        self._announce([Changed(event.job_id, event.user_id)])

    async def _delete_again(self, transaction: Transaction, move: Move) -> None:
        event = lifecycle.deleted_event(
            move.job_id, move.user_id, move.index, move.image_id, keys=tuple(move.target.all()), reason="deleted"
        )
        await store.touch_jobs(transaction.connection, [move.job_id])
        await store.add_deletions(transaction.connection, [(move.index, event)], self._again_after_s)
        transaction.append(event)


def said_again(move: Move) -> ImageMoving | ImageVacated:
    """Return the event that a move waits for somebody to handle."""
    return _moving(move) if move.state == "asked" else _vacated(move, done=move.state == "done")


def _move_of(image: Image, visibility: Visibility, number: int) -> Move:
    prefix = image_prefix(image.user_id, image.job_id, image.index, image.image_id)
    return Move(
        image_id=image.image_id,
        move=number,
        user_id=image.user_id,
        job_id=image.job_id,
        index=image.index,
        state="asked",
        source=image.place,
        target=moved_keys(image.place, prefix, visibility, number),
        content_type=image.content_type,
        bytes=image.bytes + image.thumbnail_bytes,
    )


def _moving(move: Move) -> ImageMoving:
    return ImageMoving.of(
        move.job_id,
        move.user_id,
        index=move.index,
        image_id=move.image_id,
        move=move.move,
        source=move.source,
        target=move.target,
        content_type=move.content_type,
        bytes=move.bytes,
    )


def _vacated(move: Move, *, done: bool = False) -> ImageVacated:
    """Return the event that clears up where an image was, or where it was never wanted."""
    keys = tuple((move.source if done else move.target).all())
    return ImageVacated.of(move.job_id, move.user_id, image_id=move.image_id, move=move.move, keys=keys)


def _deleted(image: Image) -> ImageDeleted:
    return lifecycle.deleted_event(
        image.job_id, image.user_id, image.index, image.image_id, keys=image.keys, reason="user"
    )
