"""The ledger as the api hears it, over a transport of our own."""

import asyncio
from collections.abc import Callable
from uuid import UUID

import httpx
import orjson
import pytest

from pixorly.errors import InsufficientCredits, OutageError, PixorlyError, ServerError
from pixorly.settings import LedgerClientSettings
from pixorly_api.errors import AccountNotFound, ChargeVoided, LedgerUnreached, StorageQuotaExceeded
from pixorly_api.ledger import Charge, HttpLedger

JOB, IMAGE = UUID(int=1), UUID(int=2)
Answer = Callable[[httpx.Request], httpx.Response]


def ledger(answer: Answer, timeout_s: float = 5) -> HttpLedger:
    settings = LedgerClientSettings(ledger_url="http://ledger.test", service_token="t0ken", ledger_timeout_s=timeout_s)
    return HttpLedger(settings, transport=httpx.MockTransport(answer))


async def charge(answer: Answer, timeout_s: float = 0.3) -> Charge:
    return await ledger(answer, timeout_s).charge(JOB, "demo", 10, [(IMAGE, 1000)])


async def test_a_charge_says_all_that_the_ledger_needs() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"balance_credits": 90, "plan": "pro", "status": "open"})

    assert await charge(answer) == Charge(90, "pro")
    (request,) = asked
    assert (request.method, request.url.path) == ("POST", "/internal/charges")
    assert request.headers["authorization"] == "Bearer t0ken"
    assert orjson.loads(request.content) == {
        "job_id": str(JOB),
        "user_id": "demo",
        "amount_credits": 10,
        "images": [{"image_id": str(IMAGE), "estimate_bytes": 1000}],
    }


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (402, "insufficient_credits", InsufficientCredits),
        (403, "storage_quota_exceeded", StorageQuotaExceeded),
        (404, "account_not_found", AccountNotFound),
        (409, "charge_voided", ChargeVoided),
        (401, "unauthorized", OutageError),
        (429, "rate_limited", OutageError),
        (418, "teapot", ServerError),
        (500, "internal_error", OutageError),
        (503, "service_unavailable", OutageError),
    ],
)
async def test_a_problem_is_raised_in_our_words(status: int, code: str, error: type[PixorlyError]) -> None:
    body = {"type": "about:blank", "title": "t", "status": status, "detail": "words", "code": code, "needed_credits": 9}
    with pytest.raises(error) as raised:
        await charge(lambda _: httpx.Response(status, json=body))
    if error is InsufficientCredits:
        assert raised.value.facts == {"needed_credits": 9}
        assert raised.value.message == "words"


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
async def test_what_was_never_sent_is_known_to_be(failure: type[httpx.HTTPError]) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise failure("no")

    with pytest.raises(LedgerUnreached):
        await charge(answer)


@pytest.mark.parametrize("failure", [httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError])
async def test_what_may_have_arrived_is_left_open(failure: type[httpx.HTTPError]) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise failure("no")

    with pytest.raises(OutageError) as raised:
        await charge(answer)
    assert not isinstance(raised.value, LedgerUnreached)
    assert raised.value.part == "ledger"


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError])
async def test_a_ledger_that_is_restarted_fails_no_call(failure: type[httpx.HTTPError]) -> None:
    tries = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise failure("no")
        return httpx.Response(200, json={"balance_credits": 90, "plan": "pro"})

    assert await charge(answer, timeout_s=5) == Charge(90, "pro")


async def test_what_may_have_arrived_once_is_left_open_though_the_ledger_is_refused_afterwards() -> None:
    failures = iter([httpx.ReadError("no")])

    def answer(_: httpx.Request) -> httpx.Response:
        raise next(failures, httpx.ConnectError("no"))

    with pytest.raises(OutageError) as raised:
        await charge(answer)
    assert not isinstance(raised.value, LedgerUnreached)


async def test_whether_the_ledger_is_there_is_asked_once() -> None:
    tries = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        raise httpx.ConnectError("no")

    with pytest.raises(OutageError):
        await ledger(answer).ping()
    assert tries == 1


async def test_an_answer_that_drips_is_given_up() -> None:
    async def answer(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(10)
        return httpx.Response(200)

    slow = ledger(answer, timeout_s=0.05)  # type: ignore[arg-type]
    with pytest.raises(OutageError):
        await slow.ping()


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff"])
async def test_an_answer_that_is_no_json_is_an_outage(content: bytes) -> None:
    with pytest.raises(OutageError):
        await charge(lambda _: httpx.Response(200, content=content))


async def test_charges_that_come_together_go_together_and_each_has_its_own_answer() -> None:
    asked: list[list[str]] = []
    refused = {"code": "insufficient_credits", "detail": "words", "needed_credits": 9}

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.05)
        body = orjson.loads(request.content)
        if request.url.path == "/internal/charges":
            asked.append([body["user_id"]])
            return httpx.Response(200, json={"balance_credits": 1, "plan": "free"})
        asked.append([one["user_id"] for one in body])
        answers = [
            {"status": 402, "body": refused}
            if one["user_id"] == "poor"
            else {"status": 503, "body": {"code": "service_unavailable"}}
            if one["user_id"] == "unlucky"
            else {"status": 200, "body": {"balance_credits": 7, "plan": "pro"}}
            for one in body
        ]
        return httpx.Response(200, json=answers)

    link = ledger(answer)  # type: ignore[arg-type]  # httpx takes a coroutine, too
    users = ["one", "two", "rich", "poor", "unlucky", "rich"]
    found = await asyncio.gather(*(link.charge(JOB, user, 10, []) for user in users), return_exceptions=True)

    assert len(asked) < len(users)
    assert max(map(len, asked)) > 1
    assert found[2] == found[5] == Charge(7, "pro")
    assert isinstance(found[3], InsufficientCredits)
    assert found[3].facts == {"needed_credits": 9}
    assert isinstance(found[4], OutageError)


async def test_a_ledger_that_knows_no_batch_is_asked_one_by_one() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/internal/charges/batch":
            return httpx.Response(404, json={"code": "not_found", "detail": "no"})
        return httpx.Response(200, json={"balance_credits": 7, "plan": "pro"})

    link = ledger(answer)
    found = await asyncio.gather(*(link.charge(JOB, f"user {number}", 10, []) for number in range(9)))

    assert found == [Charge(7, "pro")] * 9
