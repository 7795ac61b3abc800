"""Images as clients see them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from pixorly.db import OF_USER, Connection, created_between, where
from pixorly.events import StoredKeys, Visibility
from pixorly.keys import is_public

_LONGEST: Final = timedelta(days=7)
"""More than lies between the time in an image's id, which is its job's, and `created_at`, when it came."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the bucket.

    Attributes:
        visibility: Who is to read it; it lies accordingly, or is on its way.
    """

    image_id: UUID
    user_id: str
    job_id: UUID
    index: int
    model: str
    visibility: Visibility
    original_key: str
    thumbnail_keys: dict[str, str]
    bytes: int
    thumbnail_bytes: int
    width: int
    height: int
    content_type: str
    sha256: str
    thumbhash: str
    created_at: datetime

    @property
    def keys(self) -> tuple[str, ...]:
        """Return every key."""
        return (self.original_key, *self.thumbnail_keys.values())

    @property
    def place(self) -> StoredKeys:
        """Where it lies."""
        return StoredKeys(original=self.original_key, thumbnails=self.thumbnail_keys)

    @property
    def moving(self) -> bool:
        """Whether it is on its way to where its visibility wants it."""
        return is_public(self.original_key) != (self.visibility == "public")


IMAGE_FIELDS: Final = tuple(field.name for field in fields(Image))
"""The columns that clients see, which are called as the fields are."""
_IMAGE_COLUMNS: Final = ", ".join(IMAGE_FIELDS)


@dataclass(frozen=True, slots=True)
class ImageFilters:
    """Which images of a user to list; None leaves a thing open."""

    job_id: UUID | None = None
    model: str | None = None
    visibility: Visibility | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


async def image(connection: Connection, user_id: str, image_id: UUID) -> Image | None:
    """Return a user's image."""
    row = await connection.fetchrow(
        f"""select {_IMAGE_COLUMNS} from images
            where image_id = $1 and user_id = $2 and deleted_at is null""",  # noqa: S608 - constants
        image_id,
        user_id,
    )
    return Image(**row) if row else None


async def list_images(
    connection: Connection, user_id: str, filters: ImageFilters, before: UUID | None, limit: int
) -> list[Image]:
    """Return a user's newest images before the image `before`.

    What lies before and after the span of time that is asked for is passed over by its ids.
    """
    asked, arguments = where(
        (OF_USER, user_id),
        ("image_id < {}", before),
        ("job_id = {}", filters.job_id),
        ("model = {}", filters.model),
        ("visibility = {}", filters.visibility),
        *created_between("image_id", filters.created_after, filters.created_before, late=_LONGEST),
    )
    rows = await connection.fetch(
        f"""select {_IMAGE_COLUMNS} from images where {asked} and deleted_at is null
            order by user_id, image_id desc limit ${len(arguments) + 1}""",  # noqa: S608 - constants
        *arguments,
        limit,
    )
    return [Image(**row) for row in rows]


async def bury_images(connection: Connection, user_id: str, image_ids: Sequence[UUID]) -> list[Image]:
    """Mark a user's images as deleted, and return those that were not so before, in the order of their ids."""
    rows = await connection.fetch(
        f"""update images set deleted_at = now()
            where image_id in (
                select image_id from images
                where image_id = any($1::uuid[]) and user_id = $2 and deleted_at is null
                order by image_id for update)
            returning {_IMAGE_COLUMNS}""",  # noqa: S608 - constants
        image_ids,
        user_id,
    )
    return sorted((Image(**row) for row in rows), key=lambda image: image.image_id)


async def deleted_ones(connection: Connection, user_id: str, image_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these images a user had and deleted."""
    rows = await connection.fetch(
        "select image_id from images where image_id = any($1::uuid[]) and user_id = $2 and deleted_at is not null",
        image_ids,
        user_id,
    )
    return {row["image_id"] for row in rows}


async def lock_image(connection: Connection, image_id: UUID, user_id: str | None = None) -> Image | None:
    """Lock an image that is not deleted and return it; a user's only, where one is named."""
    asked, arguments = where(("image_id = {}", image_id), ("user_id = {}", user_id))
    row = await connection.fetchrow(
        f"select {_IMAGE_COLUMNS} from images where {asked} and deleted_at is null for update",  # noqa: S608 - constants
        *arguments,
    )
    return Image(**row) if row else None


async def set_visibility(connection: Connection, image_id: UUID, visibility: Visibility) -> None:
    """Note who is to read an image."""
    await connection.execute("update images set visibility = $2 where image_id = $1", image_id, visibility)
