"""Links to what lies in the bucket: public ones of the CDN, signed ones of the CDN, or presigned ones of S3.

A public image lies under `public/` and its link never expires. Any other link is good for an hour, and is made fresh
each time a client asks.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from botocore.signers import CloudFrontSigner
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typing_extensions import override

from pixorly.blobs import S3Blobs
from pixorly.errors import UserError
from pixorly.events import utcnow
from pixorly.keys import is_public

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

LEAST_S: Final = 60
MOST_S: Final = 604_800
"""How long a link may be good: a week is the most that S3 signs for."""
_DISPOSITION: Final = "response-content-disposition"
_SIGNED_AT: Final = re.compile(r"[?&]X-Amz-Date=(\w+)&X-Amz-Expires=(\d+)")


class NotOffered(UserError):
    """Links for one network only need CloudFront in front of the bucket."""

    code = "invalid_request"


@dataclass(frozen=True, slots=True)
class Link:
    """Where a client finds what lies under a key, and until when; None is for ever."""

    url: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of links besides that they lead there.

    Attributes:
        expires_in_s: How long they are good; as long as the setting says if None.
        network: From where alone they may be used.
        file_names: By key, the name under which a browser saves what it finds there, instead of showing it.
    """

    expires_in_s: int | None = None
    network: IPv4Network | None = None
    file_names: Mapping[str, str] = field(default_factory=dict)

    def disposition(self, key: str) -> str | None:
        """Return the header that has a browser save what lies under `key`."""
        name = self.file_names.get(key)
        return f'attachment; filename="{name}"' if name else None


PLAIN: Final = Terms()


class Links(Protocol):
    """Makes links."""

    async def of(self, keys: Sequence[str], terms: Terms = PLAIN) -> list[Link]:
        """Return a link to each key, in order.

        Raises:
            NotOffered: This kind of link can't be bound to a network.
        """


class Cdn(Links):
    """A CDN in front of the bucket: what is public needs no signature.

    Args:
        domain: Where the CDN answers.
        private: Makes the links to what is not public.
    """

    def __init__(self, domain: str, private: Links) -> None:
        self._domain = domain
        self._private = private

    @override
    async def of(self, keys: Sequence[str], terms: Terms = PLAIN) -> list[Link]:
        private = [key for key in keys if not is_public(key)]
        signed = dict(zip(private, await self._private.of(private, terms), strict=True)) if private else {}
        return [signed.get(key) or Link(cdn_url(self._domain, key, terms), None) for key in keys]


def cdn_url(domain: str, key: str, terms: Terms = PLAIN) -> str:
    """Return the address of a key at a CDN, which has S3 send the header that a download needs."""
    disposition = terms.disposition(key)
    query = f"?{_DISPOSITION}={quote(disposition, safe='')}" if disposition else ""
    return f"https://{domain}/{quote(key)}{query}"


class CloudFront(Links):
    """Signed CloudFront links: a canned policy (this address, until then), or a custom one where a network is named.

    Args:
        domain: The distribution's.
        key_pair_id: The id of the public key that the distribution trusts.
        private_key: The RSA key as PEM; a backslash and an n may stand for the end of a line.
        ttl_s: How long a link is good where nothing else is asked for.
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
        ttl_s: int = 3600,
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
    async def of(self, keys: Sequence[str], terms: Terms = PLAIN) -> list[Link]:
        expires_at = (self._clock() + timedelta(seconds=terms.expires_in_s or self._ttl_s)).replace(microsecond=0)
        # A millisecond of arithmetic each: off the event loop, where it lets go of the interpreter.
        urls = await asyncio.to_thread(lambda: [self._signed(key, expires_at, terms) for key in keys])
        return [Link(url, expires_at) for url in urls]

    def _signed(self, key: str, expires_at: datetime, terms: Terms) -> str:
        url = cdn_url(self._domain, key, terms)
        if terms.network is None:
            return self._signer.generate_presigned_url(url, date_less_than=expires_at)
        policy = self._signer.build_policy(url, expires_at, ip_address=str(terms.network))
        return self._signer.generate_presigned_url(url, policy=policy)


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
        blobs: The bucket, at the address that clients reach it at.
        client: boto's client for the same: it signs for headers of the answer, too, but takes thirty times as long.
        bucket: The bucket's name.
        ttl_s: How long a link is good where nothing else is asked for.
    """

    def __init__(self, blobs: S3Blobs, client: "S3Client", bucket: str, *, ttl_s: int = 3600) -> None:
        self._blobs = blobs
        self._client = client
        self._bucket = bucket
        self._ttl_s = ttl_s

    @override
    async def of(self, keys: Sequence[str], terms: Terms = PLAIN) -> list[Link]:
        if terms.network is not None:
            raise NotOffered(param="ip")
        expires_in_s = terms.expires_in_s or self._ttl_s
        urls: Sequence[str]
        if terms.file_names:
            urls = [await self._download(key, terms.disposition(key), expires_in_s) for key in keys]
        else:
            urls = await self._blobs.presigned(keys, timedelta(seconds=expires_in_s))
        return [Link(url, _end_of(url)) for url in urls]

    async def _download(self, key: str, disposition: str | None, expires_in_s: int) -> str:
        # Signing never waits by itself, so a long list would hold up everybody else.
        await asyncio.sleep(0)
        params = {"Bucket": self._bucket, "Key": key}
        if disposition:
            params["ResponseContentDisposition"] = disposition
        return await self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=expires_in_s)


def _end_of(url: str) -> datetime:
    """Return when a presigned link ends, by its own words: those the store goes by."""
    ((signed_at, good_for_s),) = _SIGNED_AT.findall(url)
    return _moment(signed_at) + timedelta(seconds=int(good_for_s))


@lru_cache(maxsize=8)
def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
