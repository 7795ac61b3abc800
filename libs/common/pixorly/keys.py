"""The names of objects in the bucket. Each follows from what it is, so that a repeat writes over itself.

Everything of an image begins with one prefix, in the private part of the bucket and in the public one. An image that is
moved from one part to the other gets a name that was never used before: so a public address, once taken back, stays
dead, and to delete what lies under an old name is harmless however late it happens.
"""

import re
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from pixorly.events import StoredKeys, Visibility

STAGING: Final = "staging/"
PUBLIC: Final = "public/"
"""What lies under it may be read by everybody, through the CDN."""

_ENDING: Final = re.compile(r"(?:-\d+)?([._].+)")


def image_prefix(user_id: str, job_id: UUID, index: int, image_id: UUID) -> str:
    """Return what the name of every object of an image begins with, in the private part."""
    return f"users/{user_id}/{job_id}/{index}-{image_id}"


def image_keys(prefix: str, extension: str, sizes: Iterable[int], visibility: Visibility) -> StoredKeys:
    """Return where an image and its thumbnails of these long sides are stored at first."""
    place = PUBLIC + prefix if visibility == "public" else prefix
    return StoredKeys(
        original=f"{place}.{extension}",
        thumbnails={str(long_px): f"{place}_{long_px}.webp" for long_px in sorted(sizes)},
    )


def moved_keys(keys: StoredKeys, prefix: str, visibility: Visibility, move: int) -> StoredKeys:
    """Return where an image goes with its `move`-th move.

    Raises:
        ValueError: These are not keys of the image with this prefix.
    """
    place = f"{PUBLIC if visibility == 'public' else ''}{prefix}-{move}"

    def moved(key: str) -> str:
        ending = _ENDING.fullmatch(key.removeprefix(PUBLIC).removeprefix(prefix))
        if ending is None:
            raise ValueError(f"{key} is not a key of the image under {prefix}")
        return place + ending[1]

    return StoredKeys(original=moved(keys.original), thumbnails={px: moved(key) for px, key in keys.thumbnails.items()})


def staged_key(job_id: UUID, index: int, sha256: str) -> str:
    """Return where an image's bytes wait for the uploader."""
    return f"{STAGING}{job_id}/{index}-{sha256}"


def is_public(key: str) -> bool:
    """Tell whether everybody may read what lies under a key."""
    return key.startswith(PUBLIC)
