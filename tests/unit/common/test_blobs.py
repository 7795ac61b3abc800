"""Blobs in memory do what the bucket does, so that a test that passes on them means something."""

import pytest

from pixorly.blobs import MemoryBlobs
from pixorly.errors import StagedBytesMissing


async def test_what_is_put_can_be_got() -> None:
    blobs = MemoryBlobs()

    await blobs.put("a/b", b"bytes", content_type="image/png", cache_control="immutable", metadata={"job": "1"})

    assert await blobs.get("a/b") == b"bytes"
    assert blobs.attributes["a/b"] == {"Content-Type": "image/png", "Cache-Control": "immutable", "job": "1"}


async def test_a_second_put_takes_the_place_of_the_first_with_all_its_attributes() -> None:
    blobs = MemoryBlobs()
    await blobs.put("a", b"1", content_type="image/png", metadata={"old": "1"})

    await blobs.put("a", b"22", content_type="image/webp")

    assert await blobs.get("a") == b"22"
    assert blobs.attributes["a"] == {"Content-Type": "image/webp", "Cache-Control": ""}


async def test_what_is_not_there_is_missed_in_our_own_words() -> None:
    with pytest.raises(StagedBytesMissing):
        await MemoryBlobs().get("nothing")


async def test_a_deletion_takes_what_is_there_and_minds_nothing_else() -> None:
    blobs = MemoryBlobs()
    for key in ("a", "b", "c"):
        await blobs.put(key, b"x", content_type="image/png")

    await blobs.delete(["a", "c", "never was"])
    await blobs.delete([])

    assert blobs.objects == {"b": b"x"}
    assert set(blobs.attributes) == {"b"}


async def test_a_listing_is_of_one_prefix_in_order_with_sizes() -> None:
    blobs = MemoryBlobs()
    for key in ("users/b/1", "users/a/2", "users/a/1", "users/ab/1", "staging/a/1"):
        await blobs.put(key, key.encode(), content_type="image/png")

    found = [(blob.key, blob.size_bytes) async for blob in blobs.list("users/a/")]

    assert found == [("users/a/1", 9), ("users/a/2", 9)]


async def test_it_is_always_there() -> None:
    await MemoryBlobs().probe()
