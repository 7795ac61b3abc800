"""What is to lie in the bucket: the way between its private and its public part, deletions, and the audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from pixorly.db import Connection
from pixorly.events import ImageDeleted, StoredKeys

_MOVE_COLUMNS: Final = "image_id, move, user_id, job_id, index, state, source, target, content_type, bytes"


@dataclass(frozen=True, slots=True)
class Move:
    """A way of an image from one part of the bucket to another.

    Attributes:
        state: asked → done, or dropped if its user changed their mind before.
    """

    image_id: UUID
    move: int
    user_id: str
    job_id: UUID
    index: int
    state: Literal["asked", "done", "dropped"]
    source: StoredKeys
    target: StoredKeys
    content_type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """A user's images.

    Attributes:
        stored: The bytes of each, thumbnails included, that has to lie in the bucket.
        moving: Those of open jobs, those whose deletion is not confirmed, and those that lie in two places for a while.
    """

    stored: Mapping[UUID, int]
    moving: frozenset[UUID]


def _move(row: asyncpg.Record) -> Move:
    fields = dict(row)
    return Move(**{**fields, **{name: StoredKeys.model_validate(fields[name]) for name in ("source", "target")}})


async def moves_made(connection: Connection, image_id: UUID) -> int:
    """Return how many moves of an image there were."""
    made: int = await connection.fetchval("select count(*) from moves where image_id = $1", image_id)
    return made


async def add_move(connection: Connection, move: Move, again_s: float) -> None:
    """Note that an image is to be moved, and when to say so once more."""
    await connection.execute(
        """insert into moves (image_id, move, user_id, job_id, index, source, target, content_type, bytes, due_at)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10))""",
        move.image_id,
        move.move,
        move.user_id,
        move.job_id,
        move.index,
        move.source.model_dump(),
        move.target.model_dump(),
        move.content_type,
        move.bytes,
        again_s,
    )


async def find_move(connection: Connection, image_id: UUID, move: int) -> Move | None:
    """Return a move of an image."""
    row = await connection.fetchrow(
        f"select {_MOVE_COLUMNS} from moves where image_id = $1 and move = $2",  # noqa: S608 - constants
        image_id,
        move,
    )
    return _move(row) if row else None


async def drop_move(connection: Connection, image_id: UUID, again_s: float) -> Move | None:
    """Drop the move of an image that is under way, and return it."""
    row = await connection.fetchrow(
        f"""update moves set state = 'dropped', sends = 1, due_at = now() + make_interval(secs => $2)
            where image_id = $1 and state = 'asked' returning {_MOVE_COLUMNS}""",  # noqa: S608 - constants
        image_id,
        again_s,
    )
    return _move(row) if row else None


async def finish_move(connection: Connection, move: Move, again_s: float) -> None:
    """Note that an image lies where a move was to bring it."""
    await connection.execute(
        """with done as (
               update moves set state = 'done', sends = 1, due_at = now() + make_interval(secs => $3)
               where image_id = $1 and move = $2 and state = 'asked' returning image_id, target)
           update images set original_key = done.target ->> 'original', thumbnail_keys = done.target -> 'thumbnails'
           from done where images.image_id = done.image_id""",
        move.image_id,
        move.move,
        again_s,
    )


async def due_moves(connection: Connection, again_s: float, limit: int) -> list[Move]:
    """Return moves of which something is to be said again; of one that is over, this is the last time."""
    rows = await connection.fetch(
        f"""update moves set sends = sends + 1,
                   due_at = case when state = 'asked'
                       then now() + make_interval(secs => $1 * power(2, least(sends, 6))) end
            where (image_id, move) in (
                select image_id, move from moves where due_at <= now()
                order by due_at limit $2 for update skip locked)
            returning {_MOVE_COLUMNS}""",  # noqa: S608 - constants
        again_s,
        limit,
    )
    return [_move(row) for row in rows]


async def add_deletions(connection: Connection, events: Sequence[tuple[int, ImageDeleted]], again_s: float) -> None:
    """Note what must not lie in the bucket, each with its index, and when to say so once more."""
    if not events:
        return
    rows = [
        (event.image_id, event.user_id, event.job_id, index, event.prefix, list(event.keys), event.reason, again_s)
        for index, event in events
    ]
    await connection.executemany(
        """insert into deletions (image_id, user_id, job_id, index, prefix, keys, reason, due_at)
           values ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))
           on conflict (image_id) do update
              set sends = 1, due_at = excluded.due_at, confirmed_at = null,
                  keys = case when cardinality(excluded.keys) > 0 then excluded.keys else deletions.keys end""",
        rows,
    )


async def due_deletions(connection: Connection, again_s: float, limit: int) -> list[dict[str, Any]]:
    """Return deletions that are to be said again, and note it; the next time comes after twice as long."""
    rows = await connection.fetch(
        """update deletions set sends = sends + 1,
                  due_at = now() + make_interval(secs => $1 * power(2, least(sends, 6)))
           where image_id in (
               select image_id from deletions where confirmed_at is null and due_at <= now()
               order by due_at limit $2 for update skip locked)
           returning image_id, user_id, job_id, index, keys, reason, sends""",
        again_s,
        limit,
    )
    return [dict(row) for row in rows]


async def confirm_deletions(connection: Connection, image_ids: Sequence[UUID]) -> None:
    """Note that images are gone, and that nobody needs to say so again."""
    await connection.execute(
        """update deletions set confirmed_at = now()
           where image_id = any($1::uuid[]) and confirmed_at is null and sends > 1""",
        list(image_ids),
    )


async def inventory(connection: Connection, user_id: str) -> Inventory:
    """Return what of a user's has to lie in the bucket, and what is on its way in or out."""
    rows = await connection.fetch(
        """select image_id, bytes + thumbnail_bytes as bytes, false as moving
           from images where user_id = $1 and deleted_at is null
           union all
           select i.image_id, null, true from jobs j, unnest(j.image_ids) as i(image_id)
           where j.user_id = $1 and j.status in ('pending', 'processing', 'uploading')
           union all
           select image_id, null, true from deletions where user_id = $1 and confirmed_at is null
           union all
           select image_id, null, true from moves where user_id = $1 and due_at is not null""",
        user_id,
    )
    stored = {row["image_id"]: row["bytes"] for row in rows if not row["moving"]}
    return Inventory(stored, frozenset(row["image_id"] for row in rows if row["moving"]))


async def owners_of_images(connection: Connection) -> list[str]:
    """Return whose images there are."""
    rows = await connection.fetch("select distinct user_id from images where deleted_at is null")
    return [row["user_id"] for row in rows]
