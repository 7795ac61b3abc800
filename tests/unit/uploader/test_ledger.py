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


Many = Callable[[list[dict[str, object]]], httpx.Response]


async def trued_up_together(images: int, many: Many) -> tuple[list[object], list[str], int]:
    """True up images at once; return what came of each, the paths that were asked, and the most in one request."""
    asked, largest = list[str](), 1

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal largest
        asked.append(request.url.path)
        await asyncio.sleep(0.01)
        if request.url.path != "/internal/images/true-ups":
            return httpx.Response(200, json={"state": "stored"})
        wanted = json.loads(request.content)
        largest = max(largest, len(wanted))
        return many(wanted)

    settings = LedgerClientSettings(ledger_url="http://ledger", service_token="secret", ledger_timeout_s=30)
    ledger = HttpLedger(settings, httpx.MockTransport(answer))
    trued_up = (
        ledger.true_up(UUID(int=number), size_bytes=number, user_id="demo", job_id=JOB) for number in range(images)
    )
    found = await asyncio.gather(*trued_up, return_exceptions=True)
    return [*found], asked, largest


async def test_images_that_come_together_share_a_request_and_each_has_its_own_answer() -> None:
    answers = {5: (200, {"state": "closed"}), 6: (404, {"code": "not_found"}), 7: (503, {})}

    def many(wanted: list[dict[str, object]]) -> httpx.Response:
        rows = [answers.get(int(str(one["bytes"])), (200, {"state": "stored"})) for one in wanted]
        return httpx.Response(200, json=[{"status": status, "body": body} for status, body in rows])

    found, asked, largest = await trued_up_together(12, many)

    assert len(asked) < 12
    assert largest > 1
    assert [answer for answer in found if answer == "stored"] == ["stored"] * 9
    assert found[5] == "closed"
    assert isinstance(found[6], ServerError)
    assert isinstance(found[7], OutageError)


async def test_a_ledger_that_knows_no_list_is_asked_for_each_image() -> None:
    found, asked, largest = await trued_up_together(9, lambda _: httpx.Response(404, json={"code": "not_found"}))

    assert largest > 1
    assert found == ["stored"] * 9
    assert sum(path.endswith("/true-up") for path in asked) == 9


@pytest.mark.parametrize("answer", [httpx.Response(503), httpx.Response(200, json={}), httpx.Response(200, json=[7])])
async def test_a_ledger_that_goes_away_amid_a_group_is_away_for_each_of_it(answer: httpx.Response) -> None:
    def many(_: list[dict[str, object]]) -> httpx.Response:
        return httpx.Response(answer.status_code, content=answer.content)

    found, asked, _ = await trued_up_together(9, many)

    away = [one for one in found if one != "stored"]
    assert len(away) > 1
    assert all(isinstance(one, OutageError) for one in away)
    assert len(asked) < 9


async def test_releases_that_come_together_share_a_request() -> None:
    asked: list[list[str]] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["image_ids"])
        await asyncio.sleep(0.01)
        return httpx.Response(200, json={"released": []})

    ledger = answering(answer)  # type: ignore[arg-type]  # httpx takes a coroutine, too
    images = [UUID(int=number) for number in range(9)]
    await asyncio.gather(*(ledger.release([image]) for image in images))

    assert len(asked) < 9
    assert sorted(name for names in asked for name in names) == [str(image) for image in images]
