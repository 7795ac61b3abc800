"""Downloads: without our key, by a fresh link where the first is old, and checked."""

from hashlib import sha256

import httpx
import pytest
from fake_api import FakeApi, image, ok

from pixorly_client import DamagedDownload, Image, ServerFailed

BYTES = b"\x89PNG and so on"
KNOWN = Image.model_validate(
    image(sha256=sha256(BYTES).hexdigest(), thumbnails={"256": "https://cdn.test/small", "768": "https://cdn.test/mid"})
)


def test_a_link_never_sees_the_key(api: FakeApi) -> None:
    api.will(httpx.Response(200, content=BYTES))

    assert api.client().images.download(KNOWN) == BYTES
    assert str(api.requests[0].url) == "https://cdn.test/0"
    assert "Authorization" not in api.requests[0].headers


def test_an_image_known_by_its_id_is_looked_up(api: FakeApi) -> None:
    api.will(ok(KNOWN.model_dump(mode="json")), httpx.Response(200, content=BYTES))

    assert api.client().images.download("img-0") == BYTES


def test_an_old_link_is_exchanged_for_a_fresh_one(api: FakeApi) -> None:
    fresh = KNOWN.model_copy(update={"url": "https://cdn.test/fresh"})
    api.will(
        httpx.Response(403, text="<Error>expired</Error>"),
        ok(fresh.model_dump(mode="json")),
        httpx.Response(200, content=BYTES),
    )

    assert api.client().images.download(KNOWN) == BYTES
    assert str(api.requests[-1].url) == "https://cdn.test/fresh"


def test_a_store_that_fails_is_asked_again(api: FakeApi) -> None:
    api.will(*(httpx.Response(503) for _ in range(5)))

    with pytest.raises(ServerFailed):
        api.client().images.download(KNOWN)


def test_bytes_that_are_not_the_images_are_refused(api: FakeApi) -> None:
    api.will(httpx.Response(200, content=BYTES[:-1]))

    with pytest.raises(DamagedDownload, match="bytes that arrived"):
        api.client().images.download(KNOWN)


def test_a_thumbnail_is_fetched_by_its_size(api: FakeApi) -> None:
    api.will(httpx.Response(200, content=b"small"))

    assert api.client().images.download(KNOWN, thumbnail=256) == b"small"
    assert str(api.requests[0].url) == "https://cdn.test/small"


def test_a_thumbnail_that_there_is_not_is_refused_with_those_there_are(api: FakeApi) -> None:
    with pytest.raises(ValueError, match="there are: 256, 768"):
        api.client().images.download(KNOWN, thumbnail=100)


async def test_the_asynchronous_client_downloads_too(api: FakeApi) -> None:
    api.will(httpx.Response(200, content=BYTES))

    async with api.aclient() as client:
        assert await client.images.download(KNOWN) == BYTES
