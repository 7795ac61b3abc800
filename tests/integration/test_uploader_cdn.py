"""What the uploader asks of CloudFront's API, by a server that answers like it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from aiohttp import web

from pixorly.errors import ServerError, StorageUnavailable
from pixorly_uploader.cdn import Cdn
from pixorly_uploader.settings import UploaderSettings
from pixorly_uploader.worker import cdn_of

REFERENCE = UUID(int=5)


@dataclass
class Api:
    """CloudFront's API, which keeps one invalidation for each reference of a caller."""

    refuses: tuple[int, str] | None = None
    url: str = ""
    paths: dict[str, list[str]] = field(default_factory=dict)
    calls: int = 0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.calls += 1
        if self.refuses:
            return self._error(*self.refuses)
        if request.path != "/2020-05-31/distribution/E123/invalidation":
            return self._error(404, "NoSuchDistribution")
        body = (await request.read()).decode()
        (reference,) = re.findall("<CallerReference>(.*?)</CallerReference>", body)
        paths = re.findall("<Path>(.*?)</Path>", body)
        if self.paths.setdefault(reference, paths) != paths:
            return self._error(400, "InvalidationBatchAlreadyExists")
        return web.Response(status=201, text="<Invalidation><Id>I1</Id><Status>InProgress</Status></Invalidation>")

    def _error(self, status: int, code: str) -> web.Response:
        return web.Response(
            status=status,
            text=f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>",
        )


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    server = Api()
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}"
        yield server
    finally:
        await runner.cleanup()


def settings(url: str, distribution_id: str | None = "E123") -> UploaderSettings:
    return UploaderSettings(
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        cloudfront_endpoint_url=url,
        cloudfront_distribution_id=distribution_id,
        s3_timeout_s=5,
    )


@asynccontextmanager
async def speaking_to(url: str, distribution_id: str | None = "E123") -> AsyncIterator[Cdn]:
    cdn = cdn_of(settings(url, distribution_id))
    await cdn.open()
    try:
        yield cdn
    finally:
        await cdn.close()


async def test_paths_are_forgotten_once_for_each_reference(api: Api) -> None:
    async with speaking_to(api.url) as cdn:
        for keys in (["public/users/a@b/1.png", "users/x.png"], ["users/x.png"], []):
            await cdn.forget(keys, REFERENCE)

    assert api.paths == {str(REFERENCE): ["/public/users/a%40b/1.png", "/users/x.png"]}
    assert api.calls == 2


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ((400, "TooManyInvalidationsInProgress"), StorageUnavailable),
        ((503, "ServiceUnavailable"), StorageUnavailable),
        ((403, "AccessDenied"), ServerError),
        ((404, "NoSuchDistribution"), ServerError),
    ],
)
async def test_a_refusal_is_tried_again_or_given_up(api: Api, refusal: tuple[int, str], error: type[Exception]) -> None:
    api.refuses = refusal
    async with speaking_to(api.url) as cdn:
        with pytest.raises(error):
            await cdn.forget(["users/x.png"], REFERENCE)


async def test_a_cdn_that_is_away_holds_nobody_up() -> None:
    async with speaking_to("http://127.0.0.1:9") as cdn:
        with pytest.raises(StorageUnavailable):
            await cdn.forget(["users/x.png"], REFERENCE)


async def test_without_a_distribution_nobody_is_asked(api: Api) -> None:
    async with speaking_to(api.url, None) as cdn:
        await cdn.forget(["users/x.png"], REFERENCE)
    assert api.calls == 0
