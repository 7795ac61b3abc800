"""Links: what CloudFront would accept, checked with the public key."""

import base64
import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1

from pixorly_api.links import Cdn, CloudFront

NOW = datetime(2026, 1, 1, 12, 0, 0, 700_000, tzinfo=UTC)
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
).decode()


def cloudfront(pem: str = PEM) -> CloudFront:
    return CloudFront("d1.cloudfront.net", "APKATEST", pem, ttl_s=3600, clock=lambda: NOW)


def from_cloudfront_base64(text: str) -> bytes:
    return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")))


async def test_a_signed_link_verifies_with_the_public_key_and_ends_in_an_hour() -> None:
    (link,) = await cloudfront().of(["users/demo/job/0-image.png"])
    parts = urlsplit(link.url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "d1.cloudfront.net", "/users/demo/job/0-image.png")
    assert query["Key-Pair-Id"] == "APKATEST"
    expires = int(query["Expires"])
    assert expires == int(NOW.timestamp()) + 3600
    assert link.expires_at == datetime.fromtimestamp(expires, UTC)
    policy = {
        "Statement": [
            {
                "Resource": f"https://d1.cloudfront.net{parts.path}",
                "Condition": {"DateLessThan": {"AWS:EpochTime": expires}},
            }
        ]
    }
    canned = json.dumps(policy, separators=(",", ":")).encode()
    signature = from_cloudfront_base64(query["Signature"])
    KEY.public_key().verify(signature, canned, PKCS1v15(), SHA1())  # noqa: S303
    with pytest.raises(InvalidSignature):
        KEY.public_key().verify(signature, canned.replace(b"image.png", b"other.png"), PKCS1v15(), SHA1())  # noqa: S303


async def test_a_key_with_special_characters_is_escaped_before_it_is_signed() -> None:
    (link,) = await cloudfront().of(["users/a@b:c/job/0-x.png"])
    assert urlsplit(link.url).path == "/users/a%40b%3Ac/job/0-x.png"


@pytest.mark.parametrize("pem", [PEM.replace("\n", "\\n"), f'"{PEM}"', PEM.strip()])
async def test_the_private_key_may_come_on_one_line(pem: str) -> None:
    assert await cloudfront(pem).of(["k"]) == await cloudfront().of(["k"])


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "not a key",
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode(),
    ],
)
def test_what_is_no_rsa_key_is_refused_without_being_shown(pem: str) -> None:
    with pytest.raises(ValueError, match="AWS_CLOUDFRONT_PRIVATE_KEY") as raised:
        cloudfront(pem)
    assert not pem or pem not in str(raised.value)


async def test_public_images_have_links_without_an_end() -> None:
    links = Cdn("cdn.test", cloudfront())
    private, public, other = await links.of(["users/x.png", "public/users/x.png", "users/y.png"])
    assert (public.url, public.expires_at) == ("https://cdn.test/public/users/x.png", None)
    assert "Signature=" in private.url
    assert "/users/y.png" in other.url
