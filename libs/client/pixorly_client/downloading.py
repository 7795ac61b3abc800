"""Fetching the bytes of an image: by its link, by a fresh one where that is too old, and checked."""

from hashlib import sha256
from typing import Final

from pixorly_client.calls import follow_link, get_image
from pixorly_client.errors import DamagedDownload, PixorlyAPIError
from pixorly_client.flows import Flow, answered
from pixorly_client.models import Image
from pixorly_client.patience import Patience

_LINK_IS_OLD: Final = frozenset({400, 401, 403, 404, 410})
"""What stores and CDNs say to a link that is not good any more."""


def downloaded(image: Image | str, patience: Patience, thumbnail: int | None = None) -> Flow[bytes]:
    """Return the bytes of an image, or of its thumbnail with this long side.

    Raises:
        DamagedDownload: What arrived is not the image.
    """
    known = image if isinstance(image, Image) else (yield from answered(get_image(image), patience))
    try:
        body = yield from answered(follow_link(_link(known, thumbnail)), patience)
    except PixorlyAPIError as error:
        if error.status not in _LINK_IS_OLD:
            raise
        known = yield from answered(get_image(known.id), patience)
        body = yield from answered(follow_link(_link(known, thumbnail)), patience)
    if thumbnail is None and known.sha256 is not None and sha256(body).hexdigest() != known.sha256:
        raise DamagedDownload(f"The {len(body)} bytes that arrived are not those of the image {known.id}.")
    return body


def _link(image: Image, thumbnail: int | None) -> str:
    if thumbnail is None:
        return image.url
    try:
        return image.thumbnails[str(thumbnail)]
    except KeyError:
        there = ", ".join(image.thumbnails) or "none"
        raise ValueError(f"the image {image.id} has no thumbnail of {thumbnail} pixels; there are: {there}") from None
