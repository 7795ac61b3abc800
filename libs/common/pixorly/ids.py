"""Ids: UUIDv7 for what is new (its time is in it), UUIDv5 for what follows from something else."""

from datetime import datetime
from uuid import UUID, uuid5

from uuid_utils import compat

_EVENTS = UUID("6f1f64c6-3f6e-5a0a-9a6b-2f2f0f0d7c11")


def new_id() -> UUID:
    """Return a fresh UUIDv7."""
    return compat.uuid7()


def first_id(at: datetime) -> UUID:
    """Return the smallest UUIDv7 of a moment: those of later moments are greater, since their time comes first."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def new_id_beside(other: UUID) -> UUID:
    """Return a fresh UUIDv7 with the time of another, so that both lie in the same month's partition."""
    return UUID(int=other.int >> 80 << 80 | new_id().int & (1 << 80) - 1)


def derived_id(*parts: object) -> UUID:
    """Return the id that always belongs to `parts`, so that a repeat carries the same one."""
    return uuid5(_EVENTS, "/".join(str(part) for part in parts))
