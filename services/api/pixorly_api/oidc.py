"""Who calls with a token of an OpenID provider: its signature, its issuer, its audience and its time are checked here.

The provider's keys are fetched once and kept; a key that is not known yet has them fetched again, at most every half
minute. While the provider is away, the keys that are known go on to open the api.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt
import structlog

from pixorly.errors import OutageError
from pixorly_api.errors import Unauthorized
from pixorly_api.fields import USER_ID

_log = structlog.get_logger()
_PART: Final = "identity provider"
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Those with a key pair: with a shared secret, whoever can check a token could make one."""
_FRESH_S: Final = 600.0
_AGAIN_S: Final = 30.0
_LONGEST: Final = 8192
_BODY_MAX: Final = 1_000_000
_DISCOVERY: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token stands for.

    Attributes:
        user_id: The token's `sub`, or what follows from it where that can't be a user id here.
        plan: The plan it names.
    """

    user_id: str
    plan: str | None


@dataclass(frozen=True, slots=True)
class Issuer:
    """An OpenID provider.

    Attributes:
        address: What stands in its tokens as `iss`.
        audience: What its tokens must be for.
        jwks_url: Where its keys are; its discovery document tells where this is None.
        plan_claim: The claim that names a plan.
        leeway_s: By how much its clock may differ from ours.
    """

    address: str
    audience: str
    jwks_url: str | None = None
    plan_claim: str | None = None
    leeway_s: float = 30


class Oidc:
    """Checks the tokens of one issuer.

    Args:
        issuer: Whose tokens.
        transport: Another transport than the network, for tests.
        monotonic: Tells the time for the memory.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._client = httpx.AsyncClient(timeout=5, transport=transport, follow_redirects=False)
        self._monotonic = monotonic
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def identify(self, token: str) -> Identity:
        """Return who a token stands for.

        Raises:
            OutageError: The provider is away, and none of its keys is known.
            Unauthorized: The token is not valid.
        """
        issuer = self._issuer
        try:
            if len(token) > _LONGEST:
                raise Unauthorized("This token is too long.")
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in _ALGORITHMS:
                raise Unauthorized("This token is not signed in a way that is accepted.")
            claims: dict[str, Any] = jwt.decode(
                token,
                await self._key(header.get("kid")),
                algorithms=_ALGORITHMS,
                audience=issuer.audience,
                issuer=issuer.address,
                leeway=issuer.leeway_s,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthorized("This token has expired.") from error
        except jwt.PyJWTError as error:
            raise Unauthorized(f"This token is not valid: {type(error).__name__}.") from error
        plan = claims.get(issuer.plan_claim) if issuer.plan_claim else None
        return Identity(_user_id(issuer.address, claims["sub"]), plan if isinstance(plan, str) else None)

    async def _key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key with this id; the only one where the token names none."""
        async with self._fetching:
            now = self._monotonic()
            stale = now - self._fetched_at > _FRESH_S
            if (stale or self._find(key_id) is None) and now - self._tried_at > _AGAIN_S:
                self._tried_at = now
                await self._fetch()
        found = self._find(key_id)
        if found is not None:
            return found
        if not self._keys:
            raise OutageError(_PART, "The identity provider's keys could not be fetched.")
        raise Unauthorized("This token is signed with a key that its issuer does not list.")

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _fetch(self) -> None:
        """Fetch the issuer's keys; those that are known stay if that fails."""
        try:
            url = self._issuer.jwks_url or (await self._get(self._issuer.address.rstrip("/") + _DISCOVERY))["jwks_uri"]
            found = jwt.PyJWKSet.from_dict(await self._get(url)).keys
        except (httpx.HTTPError, jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            _log.warning("the identity provider's keys could not be fetched", reason=type(error).__name__)
            return
        self._keys = {key.key_id: key for key in found if key.public_key_use != "enc"}
        self._fetched_at = self._monotonic()

    async def _get(self, url: str) -> dict[str, Any]:
        async with self._client.stream("GET", url) as response:
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _BODY_MAX:
                    raise ValueError("the answer is too long")
        document = httpx.Response(200, content=bytes(body)).json()
        if not isinstance(document, dict):
            raise TypeError("the answer is no JSON object")
        return document


def _user_id(issuer: str, subject: str) -> str:
    """Return the user id of a subject: the subject itself where it can be one."""
    if re.fullmatch(USER_ID, subject):
        return subject
    return "oidc-" + hashlib.sha256(f"{issuer}\n{subject}".encode()).hexdigest()[:40]
