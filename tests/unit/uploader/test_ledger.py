"""The ledger's answers, in the uploader's words."""

import asyncio
import json
from collections.abc import Callable
from uuid import UUID

import httpx
import pytest

from pixorly.errors import OutageError, ServerError
from pixorly.settings import LedgerClientSettings
from pixorly_uploader.ledger import HttpLedger

IMAGE, JOB = UUID(int=1), UUID(int=2)


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> HttpLedger:
    settings = LedgerClientSettings(ledger_url="http://ledger", service_token="secret", ledger_timeout_s=0.2)
    return HttpLedger(settings, httpx.MockTransport(handler))


async def true_up(ledger: HttpLedger) -> str:
    return await ledger.true_up(IMAGE, size_bytes=5, user_id="demo", job_id=JOB)


@pytest.mark.parametrize("state", ["stored", "closed"])
async def test_a_true_up_says_whether_the_image_may_be_stored(state: str) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"state": state})

    assert await true_up(answering(answer)) == state
    assert asked[0].url.path == f"/internal/images/{IMAGE}/true-up"
    assert asked[0].headers["Authorization"] == "Bearer secret"
    assert json.loads(asked[0].content) == {"bytes": 5, "user_id": "demo", "job_id": str(JOB)}


async def test_a_release_names_the_images() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"released": []})

    await answering(answer).release([IMAGE])

    assert asked[0].url.path == "/internal/images/release"
    assert json.loads(asked[0].content) == {"image_ids": [str(IMAGE)]}


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503])
async def test_a_ledger_that_can_not_answer_is_away(status: int) -> None:
    with pytest.raises(OutageError) as error:
        await true_up(answering(lambda _: httpx.Response(status)))

    assert error.value.part == "ledger"


@pytest.mark.parametrize("status", [404, 409, 422])
async def test_a_refusal_is_our_fault(status: int) -> None:
    with pytest.raises(ServerError, match=str(status)):
        await true_up(answering(lambda _: httpx.Response(status)))


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"state": "perhaps"}', b"[]"])
async def test_an_answer_that_can_not_be_read_is_an_outage(body: bytes) -> None:
    with pytest.raises(OutageError):
        await true_up(answering(lambda _: httpx.Response(200, content=body)))


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
async def test_a_ledger_that_can_not_be_reached_is_away(error: type[httpx.TransportError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error("no", request=request)

    with pytest.raises(OutageError):
        await true_up(answering(fail))


async def test_an_answer_in_drips_meets_the_deadline() -> None:
    async def slowly(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(5)
        return httpx.Response(200, json={"state": "stored"})

    settings = LedgerClientSettings(ledger_url="http://ledger", ledger_timeout_s=0.05)
    with pytest.raises(OutageError, match="TimeoutError"):
        await true_up(HttpLedger(settings, httpx.MockTransport(slowly)))
