"""Who calls: API keys, and the one key of the operator. A key is known here by its hash only."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import SecretStr

from pixorly.db import Database
from pixorly.ids import new_id
from pixorly_api import store
from pixorly_api.errors import Forbidden, NotFound, Unauthorized
from pixorly_api.fields import Scope
from pixorly_api.store import ApiKey

PREFIX: Final = "px_live_"
STREAM_PREFIX: Final = "px_stream_"
_SHOWN: Final = len(PREFIX) + 4
_SECRET_BYTES: Final = 32
_LONGEST: Final = 200
_CACHE_S: Final = 5.0
_CACHE_SIZE: Final = 10_000
_TOUCH_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what they may do."""

    user_id: str
    scopes: frozenset[str]
    key_id: UUID | None = None


ADMIN: Final = Caller("", frozenset({"admin"}))
"""Who holds the operator's key; no user."""


def new_key() -> str:
    """Return a fresh key."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def hash_of(key: str) -> bytes:
    """Return what we keep of a key. It has 256 random bits, so a plain hash can't be guessed back."""
    return hashlib.sha256(key.encode()).digest()


@dataclass(slots=True)
class _Known:
    key: ApiKey
    until: float


class Auth:
    """Tells callers by their keys.

    A revoked or expired key opens nothing after at most five seconds, which is how long a key is remembered.

    Args:
        database: Where the keys are.
        admin_key: The operator's key; empty is none.
        monotonic: Tells the time for the memory.
    """

    def __init__(
        self, database: Database, admin_key: SecretStr, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._admin_hash = hash_of(admin_key.get_secret_value()) if admin_key.get_secret_value() else None
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._used: dict[UUID, float] = {}

    async def caller(self, authorization: str | None, scope: Scope) -> Caller:
        """Return who calls.

        Args:
            authorization: The request's header.
            scope: What the call needs.

        Raises:
            Forbidden: The key may not do that.
            Unauthorized: There is no valid key.
        """
        digest = hash_of(_bearer(authorization))
        if self._admin_hash and hmac.compare_digest(digest, self._admin_hash):
            if scope == "admin":
                return ADMIN
            raise Forbidden("The admin key opens /admin/v1 only; make an API key for a user there.")
        key = await self._find(digest)
        if scope not in key.scopes:
            raise Forbidden(f"This key has not the scope {scope!r}.", scopes=list(key.scopes))
        return Caller(key.user_id, frozenset(key.scopes), key.key_id)

    async def _find(self, digest: bytes) -> ApiKey:
        now = self._monotonic()
        known = self._known.get(digest)
        if known is None or known.until <= now:
            known = _Known(await self._load(digest), now + _CACHE_S)
            self._remember(digest, known)
        if now - self._used.get(known.key.key_id, float("-inf")) > _TOUCH_S:
            await self._touch(known.key.key_id, now)
        return known.key

    async def _load(self, digest: bytes) -> ApiKey:
        async with self._database.connection() as connection:
            found = await store.valid_api_key(connection, digest)
        if found is None or not hmac.compare_digest(found[1], digest):
            raise Unauthorized
        return found[0]

    def _remember(self, digest: bytes, known: _Known) -> None:
        self._known[digest] = known
        self._known.move_to_end(digest)
        while len(self._known) > _CACHE_SIZE:
            self._known.popitem(last=False)

    async def _touch(self, key_id: UUID, now: float) -> None:
        """Note that a key is in use, at most once a minute in this process."""
        if len(self._used) > _CACHE_SIZE:
            self._used.clear()
        self._used[key_id] = now
        async with self._database.connection() as connection:
            await store.touch_api_keys(connection, [key_id])

    async def make(
        self, user_id: str, name: str, scopes: Sequence[Scope], expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        """Make a key and return it with its secret, which is never shown again."""
        secret = new_key()
        async with self._database.connection() as connection:
            key = await store.insert_api_key(
                connection,
                new_id(),
                user_id,
                name=name,
                prefix=secret[:_SHOWN],
                digest=hash_of(secret),
                scopes=scopes,
                expires_at=expires_at,
            )
        return key, secret

    async def make_stream_token(self, user_id: str, ttl_s: float) -> tuple[str, datetime]:
        """Make a token that opens a user's streams and nothing else; return it with the time it expires at."""
        token = STREAM_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        async with self._database.connection() as connection:
            return token, await store.insert_stream_token(connection, hash_of(token), user_id, ttl_s)

    async def listener(self, token: str) -> Caller:
        """Return who opens a stream with a token.

        Raises:
            Unauthorized: It is none, or has expired.
        """
        async with self._database.connection() as connection:
            user_id = await store.user_of_stream_token(connection, hash_of(token))
        if user_id is None:
            raise Unauthorized("This stream token is not valid, or not any more; get another.")
        return Caller(user_id, frozenset({"read"}))

    async def keys_of(self, user_id: str) -> list[ApiKey]:
        """Return a user's keys, newest first, without their secrets."""
        async with self._database.connection() as connection:
            return await store.list_api_keys(connection, user_id)

    async def revoke(self, user_id: str, key_id: UUID) -> None:
        """Revoke a key for good.

        Raises:
            NotFound: The user has none with this id.
        """
        async with self._database.connection() as connection:
            if not await store.revoke_api_key(connection, user_id, key_id):
                raise NotFound
        self._known = OrderedDict(
            (digest, known) for digest, known in self._known.items() if known.key.key_id != key_id
        )


def _bearer(authorization: str | None) -> str:
    """Return the key in the header.

    Raises:
        Unauthorized: There is none that could be one.
    """
    kind, _, key = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not 0 < len(key) <= _LONGEST or not key.isascii():
        raise Unauthorized
    return key
