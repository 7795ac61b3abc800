"""The uploader: the real names, events and deletion, around a bucket in memory; mirrors `pixorly_uploader.handlers`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import UUID

from typing_extensions import override

from pixorly.delivery import Delivery, Fail
from pixorly.errors import InvalidImage, OutageError, ServerError
from pixorly.events import ImageDeleted, ImageFailed, ImageGenerated, ImageUploaded
from pixorly_uploader import handlers
from pixorly_uploader.handlers import Uploader
from pixorly_uploader.images import Facts, Picture
from pixorly_uploader.ledger import Ledger
from simulator.bus import short
from simulator.clockwork import Process
from simulator.delivery import Bug, Subscription, Worker
from simulator.ledger import Line

if TYPE_CHECKING:
    from simulator.world import World


def boot(world: "World", process: Process) -> None:
    """Start a process of the uploader."""
    store = Store(world)
    for subscription in (
        Subscription("uploader.store_image", store.store_image, "upload", handlers.fail_image),
        Subscription("uploader.delete_image", store.delete_image, on_failure=handlers.leave_image),
    ):
        Worker(world, process, subscription).listen()


class _Ledger(Ledger):
    """The uploader's way to the ledger."""

    def __init__(self, world: "World") -> None:
        self._line = Line(world, {}, lambda: OutageError("ledger"))

    @override
    async def true_up(
        self, image_id: UUID, *, size_bytes: int, user_id: str, job_id: UUID
    ) -> Literal["stored", "closed"]:
        try:
            return await self._line.call(
                f"true up {short(image_id)}", lambda ledger: ledger.true_up(image_id, user_id, size_bytes)
            )
        except OutageError:
            raise
        except Exception as error:
            raise ServerError("The ledger refused a call.") from error

    @override
    async def release(self, image_ids: Sequence[UUID]) -> None:
        await self._line.call(f"release {short(image_ids[0])}", lambda ledger: ledger.release(list(image_ids)))


class Store:
    """The handlers of one process."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._uploader = Uploader(
            blobs=world.bucket,
            ledger=_Ledger(world),
            workshop=cast(Any, None),
            staged=cast(Any, None),
            max_bytes=10**6,
            recipe=cast(Any, None),
        )

    async def store_image(self, event: ImageGenerated) -> ImageUploaded | None:
        """Mirrors `handlers.store_image`, one object after the other."""
        data = await self._uploader.blobs.get(event.staged_key)
        picture = self._develop(event, data)
        state = await self._uploader.ledger.true_up(
            event.image_id,
            size_bytes=len(picture.original) + picture.thumbnail_bytes,
            user_id=event.user_id,
            job_id=event.job_id,
        )
        if state == "closed":
            self._world.note("the ledger refused to store")
            return None
        keys = handlers.keys_of(event, picture)
        objects = {keys.original: picture.original} | {
            keys.thumbnails[str(long_px)]: data for long_px, data in picture.thumbnails.items()
        }
        for key, content in objects.items():
            await self._uploader.blobs.put(key, content, content_type="image/png")
        return handlers._uploaded(event, keys, picture)

    def _develop(self, event: ImageGenerated, data: bytes) -> Picture:
        """Stands for the workshop: what an image leads to is the same each time."""
        fate = self._world.decided_once("undecodable", event.sha256) or self._world.decided_once("bug", event.sha256)
        if fate == "undecodable":
            raise InvalidImage
        if fate == "bug":
            raise Bug(event.sha256)
        return Picture(Facts("image/png", "png", 8, 8, animated=False, sha256=event.sha256), data, {256: data[:7]}, "")

    async def delete_image(self, event: ImageDeleted) -> None:
        """The real handler."""
        await handlers.delete_image(self._uploader, event, Delivery())

    async def fail_image(self, event: ImageGenerated, failure: Fail) -> ImageFailed:
        """The real handler."""
        return await handlers.fail_image(event, failure)
