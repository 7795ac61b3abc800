"""Tokens of an identity provider: what is accepted, what is not, and what happens while the provider is away."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pixorly.errors import OutageError
from pixorly_api.errors import Unauthorized
from pixorly_api.oidc import Issuer, Oidc

ADDRESS, AUDIENCE = "https://id.example/", "pixorly"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def listed(**keys: Any) -> dict[str, Any]:
    """Return a provider's key set."""
    found = []
    for key_id, key in keys.items():
        algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        found.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"})
    return {"keys": found}


def token(key: Any = RSA, algorithm: str = "RS256", key_id: str | None = "one", **claims: Any) -> str:
    now = int(time.time())
    body = {"iss": ADDRESS, "aud": AUDIENCE, "sub": "ada", "exp": now + 60, "iat": now, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm, headers={"kid": key_id} if key_id else None)


class Provider:
    """An identity provider on the other end of a transport."""

    def __init__(self, keys: dict[str, Any]) -> None:
        self.keys = keys
        self.away = False
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        if self.away:
            raise httpx.ConnectError("away", request=request)
        if request.url.path == "/.well-known/openid-configuration":
            return httpx.Response(200, json={"jwks_uri": "https://keys.example/all"})
        return httpx.Response(200, json=self.keys)


def make(provider: Provider, monotonic: Callable[[], float] = time.monotonic, **more: Any) -> Oidc:
    issuer = Issuer(ADDRESS, AUDIENCE, **more)
    return Oidc(issuer, transport=httpx.MockTransport(provider), monotonic=monotonic)


async def test_a_token_stands_for_its_subject_and_the_keys_are_fetched_once() -> None:
    provider = Provider(listed(one=RSA, two=CURVE))
    oidc = make(provider, plan_claim="tier")

    first = await oidc.identify(token(tier="pro"))
    second = await oidc.identify(token(CURVE, "ES256", "two", sub="bob"))

    assert (first.user_id, first.plan) == ("ada", "pro")
    assert (second.user_id, second.plan) == ("bob", None)
    assert provider.asked == ["https://id.example/.well-known/openid-configuration", "https://keys.example/all"]


async def test_a_subject_that_can_be_no_user_id_has_one_of_its_own() -> None:
    oidc = make(Provider(listed(one=RSA)))
    ids = [(await oidc.identify(token(sub=subject))).user_id for subject in ("auth0|1", "auth0|2", "auth0|1", "../x")]

    assert ids[0] == ids[2] != ids[1]
    assert all(user_id.startswith("oidc-") and len(user_id) == 45 for user_id in ids)


@pytest.mark.parametrize(
    "wrong",
    [
        token(OTHER),
        token(exp=int(time.time()) - 120),
        token(nbf=int(time.time()) + 120),
        token(aud="another"),
        token(aud=None),
        token(iss="https://evil.example/"),
        token(sub=None),
        token(exp=None),
        token(key_id="unknown"),
        token("a shared secret of enough bytes to sign with", "HS256"),
        jwt.encode({"iss": ADDRESS, "aud": AUDIENCE, "sub": "ada", "exp": 2**40}, "", "none"),
        token()[:-4] + "AAAA",
        "a.b.c",
        "..",
        "x" * 9000 + ".y.z",
    ],
)
async def test_what_is_no_token_of_the_issuer_for_us_and_now_opens_nothing(wrong: str) -> None:
    with pytest.raises(Unauthorized):
        await make(Provider(listed(one=RSA))).identify(wrong)


async def test_the_public_key_does_not_pass_for_a_shared_secret() -> None:
    public = listed(one=RSA)["keys"][0]["n"]
    forged = jwt.encode({"iss": ADDRESS, "aud": AUDIENCE, "sub": "ada", "exp": 2**40}, public, "HS256", {"kid": "one"})

    with pytest.raises(Unauthorized):
        await make(Provider(listed(one=RSA))).identify(forged)


async def test_a_new_key_is_found_and_unknown_ones_do_not_make_us_ask_all_the_time() -> None:
    now = [0.0]
    provider = Provider(listed(one=RSA))
    oidc = make(provider, lambda: now[0], jwks_url="https://keys.example/all")
    await oidc.identify(token())
    for _ in range(5):
        with pytest.raises(Unauthorized):
            await oidc.identify(token(OTHER, key_id="two"))
    assert len(provider.asked) == 1

    provider.keys = listed(two=OTHER)
    now[0] += 31
    assert (await oidc.identify(token(OTHER, key_id="two"))).user_id == "ada"
    assert len(provider.asked) == 2


async def test_known_keys_outlive_their_provider_and_unknown_ones_are_an_outage() -> None:
    now = [0.0]
    provider = Provider(listed(one=RSA))
    oidc = make(provider, lambda: now[0])
    await oidc.identify(token())
    provider.away = True
    now[0] += 100_000

    assert (await oidc.identify(token())).user_id == "ada"
    with pytest.raises(OutageError):
        await make(provider).identify(token())
