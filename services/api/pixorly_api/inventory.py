"""The audit of storage: the images we know, the ledger's storage and the objects in the bucket, compared both ways.

It goes through the bucket once, user by user, so it needs no more memory than one user's images take. Traffic may go
on: what belongs to an open job, or to a deletion or a move under way, is left out, and what looks wrong is looked at
again.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

from pixorly.blobs import BlobInfo, Blobs
from pixorly.db import Database
from pixorly.keys import PUBLIC
from pixorly_api import store
from pixorly_api.ledger import Ledger

_ROOTS: Final = ("users/", f"{PUBLIC}users/")
_UUID_CHARS: Final = 36
_PAGE: Final = 1000
_TELL_EVERY: Final = 100
_SUSPECTS: Final = 200
"""So many users are looked at again together."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is off.

    Attributes:
        kind: `object_without_image`: it lies in the bucket, and there is no such image. `image_without_objects`: the
            other way round. `image_without_storage`: the ledger counts no storage for it. `storage_without_image`:
            the other way round. `bytes_differ`: it has not the same size everywhere. `unknown_key`: no image has it.
        id: The image's, or the key.
    """

    kind: str
    user_id: str
    id: str
    object_bytes: int | None = None
    image_bytes: int | None = None
    ledger_bytes: int | None = None

    def shown(self) -> dict[str, Any]:
        """Return it as it is shown."""
        return {"finding": asdict(self)}


@dataclass(slots=True)
class Tally:
    """How far the audit is, and in the end what it found."""

    users: int = 0
    objects: int = 0
    object_bytes: int = 0
    images: int = 0
    under_way: int = 0
    found: Counter[str] = field(default_factory=Counter)

    def shown(self, *, done: bool = False) -> dict[str, Any]:
        """Return it as it is shown: `clean` is there when it is done."""
        counts = {name: getattr(self, name) for name in ("users", "objects", "object_bytes", "images", "under_way")}
        return {**counts, "found": dict(self.found), **({"clean": not self.found} if done else {})}


class StorageAudit:
    """Compares.

    Args:
        database: The api's.
        blobs: The bucket.
        ledger: What counts the storage.
        look_again_s: How long to wait before what looks wrong is looked at once more.
        sleep: What waits.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        ledger: Ledger,
        *,
        look_again_s: float = 3,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._ledger = ledger
        self._look_again_s = look_again_s
        self._sleep = sleep

    async def steps(self) -> AsyncIterator[dict[str, Any]]:
        """Yield how far it is now and then, each finding, and in the end what it came to, with `clean`."""
        tally, suspects = Tally(), dict[str, list[Finding]]()
        yield tally.shown()
        async for user_id, objects in self._users():
            if findings := await self._compare(user_id, objects, tally):
                suspects[user_id] = findings
            if len(suspects) >= _SUSPECTS:
                for finding in await self._confirmed(suspects, tally):
                    yield finding.shown()
                suspects.clear()
            if tally.users % _TELL_EVERY == 0:
                yield tally.shown()
        for finding in await self._confirmed(suspects, tally):
            yield finding.shown()
        yield tally.shown(done=True)

    async def _users(self) -> AsyncIterator[tuple[str, list[BlobInfo]]]:
        """Yield each user and the objects that there are of theirs."""
        seen = set()
        async for user_id, objects in self._folders():
            seen.add(user_id)
            yield user_id, objects
        # Whoever has nothing in the bucket should have nothing anywhere.
        for user_id in sorted(await self._owners() - seen):
            yield user_id, []

    async def _folders(self) -> AsyncIterator[tuple[str, list[BlobInfo]]]:
        """Yield each user's objects, the private and the public ones."""
        private, public = (self._folders_under(root) for root in _ROOTS)
        one, other = await anext(private, None), await anext(public, None)
        while one or other:
            # Keys come in their order, in which a user's name ends with a slash.
            if one and other and one[0] == other[0]:
                yield one[0], [*one[1], *other[1]]
                one, other = await anext(private, None), await anext(public, None)
            elif one and (other is None or f"{one[0]}/" < f"{other[0]}/"):
                yield one
                one = await anext(private, None)
            elif other:
                yield other
                other = await anext(public, None)

    async def _folders_under(self, root: str) -> AsyncIterator[tuple[str, list[BlobInfo]]]:
        """Yield each user's objects under one root, where they stand together."""
        owner, held = "", list[BlobInfo]()
        async for blob in self._blobs.list(root):
            user_id = blob.key.removeprefix(root).partition("/")[0]
            if user_id != owner and held:
                yield owner, held
                held = []
            owner = user_id
            held.append(blob)
        if held:
            yield owner, held

    async def _confirmed(self, suspects: Mapping[str, list[Finding]], tally: Tally) -> list[Finding]:
        """Look once more at users with whom something seemed off, and return what still is."""
        if not suspects:
            return []
        await self._sleep(self._look_again_s)
        confirmed = []
        for user_id, findings in suspects.items():
            again = [blob for root in _ROOTS async for blob in self._blobs.list(f"{root}{user_id}/")]
            still = {(finding.kind, finding.id) for finding in await self._compare(user_id, again, Tally())}
            confirmed += [finding for finding in findings if (finding.kind, finding.id) in still]
        tally.found.update(finding.kind for finding in confirmed)
        return confirmed

    async def _compare(self, user_id: str, objects: list[BlobInfo], tally: Tally) -> list[Finding]:
        tally.users += 1
        tally.objects += len(objects)
        tally.object_bytes += sum(blob.size_bytes for blob in objects)
        findings, in_bucket = list[Finding](), Counter[UUID]()
        for blob in objects:
            image_id = _image_of(blob.key)
            if image_id is None:
                findings.append(Finding("unknown_key", user_id, blob.key, blob.size_bytes))
            else:
                in_bucket[image_id] += blob.size_bytes
        async with self._database.connection() as connection:
            known = await store.inventory(connection, user_id)
        counted = await self._counted(user_id)
        for image_id in sorted({*in_bucket, *known.stored, *counted}):
            tally.images += image_id in known.stored
            if image_id in known.moving:
                tally.under_way += 1
                continue
            sizes = in_bucket.get(image_id), known.stored.get(image_id), counted.get(image_id)
            findings += [Finding(kind, user_id, str(image_id), *sizes) for kind in _faults(*sizes)]
        return findings

    async def _counted(self, user_id: str) -> dict[UUID, int]:
        """Return the bytes of each image that the ledger says is stored."""
        counted, after = dict[UUID, int](), None
        while True:
            page = await self._ledger.get("/internal/images", {"user_id": user_id, "limit": _PAGE, "after": after})
            counted |= {UUID(row["image_id"]): row["bytes"] for row in page["data"]}
            after = page["next_cursor"]
            if after is None:
                return counted

    async def _owners(self) -> set[str]:
        """Return who has images, or storage in the ledger."""
        async with self._database.connection() as connection:
            owners = set(await store.owners_of_images(connection))
        cursor = None
        while True:
            page = await self._ledger.get("/internal/accounts", {"limit": _PAGE, "cursor": cursor})
            owners.update(row["user_id"] for row in page["data"] if row["storage"]["used_bytes"])
            cursor = page["next_cursor"]
            if cursor is None:
                return owners


def _image_of(key: str) -> UUID | None:
    """Return the image that an object belongs to: `…users/{user}/{job}/{index}-{image_id}….…`."""
    name = key.rpartition("/")[2].partition("-")[2]
    try:
        return UUID(name[:_UUID_CHARS])
    except ValueError:
        return None


def _faults(in_bucket: int | None, stored: int | None, counted: int | None) -> list[str]:
    faults = []
    if stored is None:
        faults += ["object_without_image"] if in_bucket is not None else []
        faults += ["storage_without_image"] if counted is not None else []
        return faults
    faults += ["image_without_objects"] if in_bucket is None else []
    faults += ["image_without_storage"] if counted is None else []
    return faults or ([] if in_bucket == stored == counted else ["bytes_differ"])
