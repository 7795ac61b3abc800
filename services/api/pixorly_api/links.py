"""Links to what lies in the bucket: public ones of the CDN, signed ones of the CDN, or presigned ones of S3.

A public image lies under `public/` and its link never expires. Any other link is good for an hour, and is made fresh
each time a client asks.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from botocore.signers import CloudFrontSigner
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typing_extensions import override

from pixorly.events import utcnow

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

PUBLIC: Final = "public/"


@dataclass(frozen=True, slots=True)
class Link:
    """Where a client finds what lies under a key, and until when; None is for ever."""

    url: str
    expires_at: datetime | None


class Links(Protocol):
    """Makes links."""

    async def of(self, keys: Sequence[str]) -> list[Link]:
        """Return a link to each key, in order."""


class Cdn(Links):
    """A CDN in front of the bucket.

    Args:
        domain: Where the CDN answers.
        private: Makes the links to what is not public.
    """

    def __init__(self, domain: str, private: Links) -> None:
        self._domain = domain
        self._private = private

    @override
    async def of(self, keys: Sequence[str]) -> list[Link]:
        private = [key for key in keys if not key.startswith(PUBLIC)]
        signed = dict(zip(private, await self._private.of(private), strict=True)) if private else {}
        return [signed.get(key) or Link(cdn_url(self._domain, key), None) for key in keys]


def cdn_url(domain: str, key: str) -> str:
    """Return the address of a key at a CDN."""
    return f"https://{domain}/{quote(key)}"


class CloudFront(Links):
    """Signed CloudFront links with a canned policy: this address, until then.

    Args:
        domain: The distribution's.
        key_pair_id: The id of the public key that the distribution trusts.
        private_key: The RSA key as PEM; a backslash and an n may stand for the end of a line.
        ttl_s: How long a link is good.
        clock: Tells the time.

    Raises:
        ValueError: That is not an RSA key.
    """

    def __init__(
        self,
        domain: str,
        key_pair_id: str,
        private_key: str,
        *,
        ttl_s: float = 3600,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._domain = domain
        self._key = _rsa_key(private_key)
        self._signer = CloudFrontSigner(key_pair_id, self._sign)
        self._ttl_s = ttl_s
        self._clock = clock

    def _sign(self, message: bytes) -> bytes:
        return self._key.sign(message, PKCS1v15(), SHA1())  # noqa: S303 - CloudFront knows no other

    @override
    async def of(self, keys: Sequence[str]) -> list[Link]:
        expires_at = (self._clock() + timedelta(seconds=self._ttl_s)).replace(microsecond=0)
        # A millisecond of arithmetic each: off the event loop, where it lets go of the interpreter.
        urls = await asyncio.to_thread(lambda: [self._signed(key, expires_at) for key in keys])
        return [Link(url, expires_at) for url in urls]

    def _signed(self, key: str, expires_at: datetime) -> str:
        url = cdn_url(self._domain, key)
        return self._signer.generate_presigned_url(url, date_less_than=expires_at)


def _rsa_key(pem: str) -> RSAPrivateKey:
    text = pem.strip().strip("\"'").replace("\\n", "\n")
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("AWS_CLOUDFRONT_PRIVATE_KEY is not a private key in PEM form") from error
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("AWS_CLOUDFRONT_PRIVATE_KEY is not an RSA key")  # noqa: TRY004 - it is a bad value
    return key


class Presigned(Links):
    """Presigned links to the bucket itself.

    Args:
        client: The process's S3 client.
        bucket: The bucket.
        ttl_s: How long a link is good.
        clock: Tells the time.
    """

    def __init__(
        self, client: "S3Client", bucket: str, *, ttl_s: int = 3600, clock: Callable[[], datetime] = utcnow
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._ttl_s = ttl_s
        self._clock = clock

    @override
    async def of(self, keys: Sequence[str]) -> list[Link]:
        expires_at = (self._clock() + timedelta(seconds=self._ttl_s)).replace(microsecond=0)
        links = []
        for key in keys:
            url = await self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=self._ttl_s
            )
            links.append(Link(url, expires_at))
            # Signing never waits by itself, so a long list would hold up everybody else.
            await asyncio.sleep(0)
        return links
