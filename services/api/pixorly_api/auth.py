"""Who calls: API keys, and the one key of the operator. A key is known here by its hash only."""

import hashlib
import hmac
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote
from uuid import UUID

import structlog
from pydantic import SecretStr

from pixorly.db import Database
from pixorly.errors import InvalidRequest
from pixorly.ids import new_id
from pixorly_api import store
from pixorly_api.errors import AccountNotFound, Forbidden, NotFound, RateLimited, Unauthorized
from pixorly_api.fields import Scope
from pixorly_api.ledger import Ledger
from pixorly_api.oidc import Identity, Oidc
from pixorly_api.store import ApiKey

_log = structlog.get_logger()
PREFIX: Final = "px_live_"
STREAM_PREFIX: Final = "px_stream_"
_SHOWN: Final = len(PREFIX) + 4
_SECRET_BYTES: Final = 32
_LONGEST: Final = 8192
_JWT_DOTS: Final = 2
_MINUTE_S: Final = 60.0
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


_OF_MEMBERS: Final = frozenset({"generate", "read"})
"""What a user of an identity provider may do."""


class Members:
    """The users of an identity provider; an account is opened on the first call of each.

    Args:
        oidc: Checks tokens.
        ledger: Has the accounts.
    """

    def __init__(self, oidc: Oidc, ledger: Ledger) -> None:
        self._oidc = oidc
        self._ledger = ledger
        self._known: OrderedDict[str, None] = OrderedDict()

    async def user_id(self, token: str) -> str:
        """Return the user that a token stands for, who has an account now.

        Raises:
            OutageError: The provider or the ledger is away.
            Unauthorized: The token is not valid.
        """
        identity = await self._oidc.identify(token)
        if identity.user_id not in self._known:
            await self._open(identity)
            self._known[identity.user_id] = None
            while len(self._known) > _CACHE_SIZE:
                self._known.popitem(last=False)
        return identity.user_id

    async def _open(self, identity: Identity) -> None:
        path = f"/internal/accounts/{quote(identity.user_id, safe='')}"
        try:
            await self._ledger.get(path)
        except AccountNotFound:
            plan = {"plan": identity.plan} if identity.plan else {}
            try:
                await self._ledger.send("PUT", path, plan)
            except InvalidRequest:
                # A plan that is none of ours: the user gets in, on the one that everybody has.
                _log.warning("a token names no plan of ours", plan=identity.plan)
                await self._ledger.send("PUT", path, {})


class Failures:
    """Counts requests without a valid key by where they come from.

    Args:
        per_minute: How many are answered with 401; 0 is any number.
        monotonic: Tells the time.
    """

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._minute = 0.0
        self._counts: Counter[str] = Counter()

    @contextmanager
    def counted(self, address: str) -> Iterator[None]:
        """Count a failure of the body.

        Raises:
            RateLimited: It failed, as too many have before it.
        """
        try:
            yield
        except Unauthorized:
            if not self._per_minute:
                raise
            now = self._monotonic()
            if now - self._minute >= _MINUTE_S or len(self._counts) > _CACHE_SIZE:
                self._minute, self._counts = now, Counter()
            self._counts[address] += 1
            if self._counts[address] > self._per_minute:
                raise RateLimited(retry_after_s=max(1.0, self._minute + _MINUTE_S - now)) from None
            raise


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
        admin_key_also: Another one, while it is changed.
        members: Tells the users of an identity provider.
        failures_per_minute: How many requests without a valid key an address may make; 0 is any number.
        monotonic: Tells the time for the memory.
    """

    def __init__(
        self,
        database: Database,
        admin_key: SecretStr,
        *,
        members: Members | None = None,
        failures_per_minute: int = 0,
        admin_key_also: SecretStr | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._members = members
        self._failures = Failures(failures_per_minute, monotonic)
        given = (key.get_secret_value() for key in (admin_key, admin_key_also) if key)
        self._admin_hashes = [hash_of(key) for key in given if key]
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._used: dict[UUID, float] = {}

    async def caller(self, authorization: str | None, scope: Scope, address: str = "") -> Caller:
        """Return who calls.

        Args:
            authorization: The request's header.
            scope: What the call needs.
            address: Where it comes from; too many failures from there are answered with a wait.

        Raises:
            Forbidden: The key may not do that.
            RateLimited: There is no valid key, and there were too many such requests from this address.
            Unauthorized: There is no valid key.
        """
        with self._failures.counted(address):
            return await self._caller(_bearer(authorization), scope)

    async def _caller(self, key: str, scope: Scope) -> Caller:
        if self._members and key.count(".") == _JWT_DOTS and not key.startswith(PREFIX):
            if scope == "admin":
                raise Forbidden("A user's token opens no admin call.")
            return Caller(await self._members.user_id(key), _OF_MEMBERS)
        return await self._holder(hash_of(key), scope)

    async def _holder(self, digest: bytes, scope: Scope) -> Caller:
        if any(hmac.compare_digest(digest, admin_hash) for admin_hash in self._admin_hashes):
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

    async def listener(self, token: str, address: str = "") -> Caller:
        """Return who opens a stream with a token.

        Raises:
            RateLimited: It is none, and there were too many such requests from this address.
            Unauthorized: It is none, or has expired.
        """
        with self._failures.counted(address):
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
