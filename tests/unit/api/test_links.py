"""Links: what CloudFront would accept, checked with the public key."""

import base64
import json
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from urllib.parse import parse_qs, urlsplit

import pytest
from cloudfront import Refused, serve
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1

from pixorly_api.links import Cdn, CloudFront, Terms

NOW = datetime(2026, 1, 1, 12, 0, 0, 700_000, tzinfo=UTC)
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
).decode()


def cloudfront(pem: str = PEM, key_pair_id: str = "APKATEST") -> CloudFront:
    return CloudFront("d1.cloudfront.net", key_pair_id, pem, ttl_s=3600, clock=lambda: NOW)


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


KEYS = {"APKATEST": KEY.public_key()}
IMAGE = "users/demo/job/0-image.png"
SAVED = Terms(file_names={IMAGE: "pixorly-0a1b2c3d-0.png"})
BOUND = Terms(network=IPv4Network("198.51.100.0/24"))
INSIDE = "198.51.100.7"


@pytest.mark.parametrize("terms", [Terms(), SAVED, BOUND], ids=["canned", "canned, to be saved", "custom"])
async def test_a_link_works_until_it_expires_and_not_a_second_longer(terms: Terms) -> None:
    (link,) = await cloudfront().of([IMAGE], terms)
    assert link.expires_at
    for early in (NOW, link.expires_at - timedelta(seconds=1), link.expires_at - timedelta(microseconds=1)):
        assert serve(link.url, KEYS, now=early, ip=INSIDE).startswith(f"https://d1.cloudfront.net/{IMAGE}")
    for late in (link.expires_at, link.expires_at + timedelta(seconds=1)):
        with pytest.raises(Refused, match="too late"):
            serve(link.url, KEYS, now=late, ip=INSIDE)


@pytest.mark.parametrize("expires_in_s", [60, 604_800])
async def test_a_link_is_good_for_as_long_as_is_asked(expires_in_s: int) -> None:
    (link,) = await cloudfront().of([IMAGE], Terms(expires_in_s))
    assert link.expires_at == NOW.replace(microsecond=0) + timedelta(seconds=expires_in_s)


@pytest.mark.parametrize("terms", [Terms(), SAVED, BOUND], ids=["canned", "canned, to be saved", "custom"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0-image.png", "1-image.png"),
        ("/users/", "/public/users/"),
        ("d1.cloudfront.net", "d2.cloudfront.net"),
        ("Expires=1", "Expires=2"),
        ("Policy=ey", "Policy=fy"),
        ("Signature=", "Signature=AAAA"),
        ("Key-Pair-Id=APKATEST", "Key-Pair-Id=APKAOTHER"),
        ("attachment", "inline"),
        ("?", "?response-content-type=text/html&"),
    ],
)
async def test_a_link_that_was_changed_is_refused(terms: Terms, old: str, new: str) -> None:
    (link,) = await cloudfront().of([IMAGE], terms)
    if old not in link.url:
        pytest.skip("not in this kind of link")
    with pytest.raises(Refused):
        serve(link.url.replace(old, new, 1), KEYS, now=NOW, ip=INSIDE)


async def test_a_link_for_one_network_has_a_custom_policy_and_works_from_there_only() -> None:
    (link,) = await cloudfront().of([IMAGE], BOUND)
    assert "Policy=" in link.url
    assert "Expires=" not in link.url
    assert serve(link.url, KEYS, now=NOW, ip=INSIDE)
    with pytest.raises(Refused, match="from elsewhere"):
        serve(link.url, KEYS, now=NOW, ip="198.51.101.7")


async def test_the_policy_of_another_key_is_refused() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (link,) = await cloudfront().of([IMAGE], BOUND)
    with pytest.raises(Refused, match="signature"):
        serve(link.url, {"APKATEST": other.public_key()}, now=NOW, ip=INSIDE)


async def test_a_download_says_under_which_name_to_save_it_in_what_is_signed() -> None:
    (link,) = await cloudfront().of([IMAGE], SAVED)
    asked = serve(link.url, KEYS, now=NOW)
    assert parse_qs(urlsplit(asked).query) == {
        "response-content-disposition": ['attachment; filename="pixorly-0a1b2c3d-0.png"']
    }


async def test_a_public_download_needs_no_signature() -> None:
    key = f"public/{IMAGE}"
    (link,) = await Cdn("cdn.test", cloudfront()).of([key], Terms(60, file_names={key: "a.png"}))
    assert link.expires_at is None
    assert link.url == (f"https://cdn.test/{key}?response-content-disposition=attachment%3B%20filename%3D%22a.png%22")


async def test_while_a_key_pair_is_rotated_the_old_ones_links_are_good_until_they_end_as_the_new_ones_are() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    other_pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    (old,) = await cloudfront().of(["users/x.png"])
    (new,) = await cloudfront(other_pem, "APKANEXT").of(["users/x.png"])
    both = {"APKATEST": KEY.public_key(), "APKANEXT": other.public_key()}
    last_second = NOW + timedelta(seconds=3598)

    for link in (old, new):
        assert serve(link.url, both, now=last_second) == "https://d1.cloudfront.net/users/x.png"
        with pytest.raises(Refused, match="too late"):
            serve(link.url, both, now=NOW + timedelta(seconds=3600))
    # The new one must be in the group before anybody signs with it, and the old one stay as long as its links.
    with pytest.raises(Refused, match="an unknown key"):
        serve(new.url, {"APKATEST": KEY.public_key()}, now=NOW)
    with pytest.raises(Refused, match="an unknown key"):
        serve(old.url, {"APKANEXT": other.public_key()}, now=NOW)
    # An id with the other's private key is what a rotation by halves would sign with.
    (mixed,) = await cloudfront(other_pem, "APKATEST").of(["users/x.png"])
    with pytest.raises(Refused, match="the signature is not right"):
        serve(mixed.url, both, now=NOW)
