"""What the client asks for, and how it reads the answers."""

import json
from datetime import UTC, date, datetime

import httpx
import pytest
from fake_api import FakeApi, image, job, ok, problem

from pixorly_client import (
    Conflict,
    Forbidden,
    InsufficientCredits,
    InvalidRequest,
    NotFound,
    PixorlyAPIError,
    RateLimited,
    ServerFailed,
    Unauthorized,
    UnreadableAnswer,
)


def test_create_sends_what_was_asked_and_the_key(api: FakeApi) -> None:
    api.will(ok(job(credits_remaining=995), 202))

    created = api.client().create("a lighthouse", model="sandbox/aurora", n=1, width=64, height=64, seed=7)

    request = api.requests[0]
    assert api.asked == ["POST /v1/generations"]
    assert json.loads(request.content) == {
        "prompt": "a lighthouse",
        "model": "sandbox/aurora",
        "n": 1,
        "width": 64,
        "height": 64,
        "seed": 7,
    }
    assert request.headers["Authorization"] == "Bearer px_live_test"
    assert request.headers["Idempotency-Key"]
    assert request.headers["User-Agent"].startswith("pixorly-python/")
    assert (created.status, created.credits_used, created.credits_remaining) == ("pending", 5, 995)
    assert not created.settled


def test_each_create_has_a_key_of_its_own_unless_one_is_given(api: FakeApi) -> None:
    api.will(*(ok(job(), 202) for _ in range(3)))
    client = api.client()

    client.create("x")
    client.create("x")
    client.create("x", idempotency_key="order-17")

    first, second, third = (request.headers["Idempotency-Key"] for request in api.requests)
    assert first != second
    assert third == "order-17"


def test_create_may_wait_for_the_job(api: FakeApi) -> None:
    api.will(ok(job("completed", images=[image()])))

    done = api.client().create("x", wait_s=20)

    assert api.requests[0].headers["Prefer"] == "wait=20"
    assert api.requests[0].extensions["timeout"]["read"] == 50
    assert done.settled


@pytest.mark.parametrize(
    "base_url", ["http://api.test", "http://api.test/", "http://api.test/v1", "http://api.test/v1/"]
)
def test_the_address_may_end_as_it_likes(api: FakeApi, base_url: str) -> None:
    api.will(ok(job()))

    api.client(base_url).get("abc")

    assert str(api.requests[0].url) == "http://api.test/v1/generations/abc"


def test_an_id_stays_one_part_of_the_path(api: FakeApi) -> None:
    api.will(ok(job()))

    api.client().get("../images/1?x=2#y")

    assert api.asked == ["GET /v1/generations/..%2Fimages%2F1%3Fx%3D2%23y"]


def test_lists_take_filters_and_hand_out_a_cursor(api: FakeApi) -> None:
    api.will(ok({"data": [job(), job("failed")], "next_cursor": "c2"}))

    page = api.client().list(
        status="failed", created_after=datetime(2025, 1, 2, tzinfo=UTC), created_before=date(2025, 2, 1), limit=2
    )

    assert dict(api.requests[0].url.params) == {
        "status": "failed",
        "created_after": "2025-01-02T00:00:00+00:00",
        "created_before": "2025-02-01",
        "limit": "2",
    }
    assert [found.status for found in page.data] == ["pending", "failed"]
    assert page.next_cursor == "c2"


def test_the_account_and_what_moved_in_it(api: FakeApi) -> None:
    api.will(
        ok(
            {
                "user_id": "demo",
                "plan": "pro",
                "credits_remaining": 940,
                "storage": {"used_bytes": 7},
                "status": "active",
            }
        ),
        ok({"data": [{"id": "t", "kind": "charge", "amount_credits": -10, "created_at": "2025-01-02T03:04:05Z"}]}),
        ok(
            {
                "from": "2025-01-01",
                "to": "2025-01-02",
                "data": [{"day": "2025-01-02", "jobs": 3}],
                "totals": {"jobs": 3},
            }
        ),
        ok({"data": [{"id": "sandbox/aurora", "name": "Aurora", "credits": 5}], "next_cursor": None}),
    )
    client = api.client()

    assert client.account().storage.used_bytes == 7
    assert client.transactions(limit=5).data[0].amount_credits == -10
    usage = client.usage(date(2025, 1, 1), group_by="day")
    assert (usage.from_, usage.data[0].jobs, usage.totals.jobs) == (date(2025, 1, 1), 3, 3)
    assert client.models()[0].id == "sandbox/aurora"
    assert api.asked == [
        "GET /v1/account",
        "GET /v1/transactions?limit=5",
        "GET /v1/usage?from=2025-01-01&group_by=day",
        "GET /v1/models",
    ]


def test_images_can_be_listed_read_and_deleted(api: FakeApi) -> None:
    api.will(ok({"data": [image(0), image(1)], "next_cursor": None}), ok(image(1)), httpx.Response(204))
    client = api.client()

    assert [found.id for found in client.images.list(limit=2).data] == ["img-0", "img-1"]
    assert client.images.get("img-1").extension == "png"
    client.images.delete("img-1")
    assert api.asked == ["GET /v1/images?limit=2", "GET /v1/images/img-1", "DELETE /v1/images/img-1"]


def test_images_can_be_published_and_deleted_together(api: FakeApi) -> None:
    api.will(ok(image(1, visibility="public", moving=True)), ok({"deleted": ["img-1"], "not_found": ["img-2"]}))
    client = api.client()

    changed = client.images.change("img-1", visibility="public")
    done = client.images.delete_many(["img-1", "img-2"])

    assert (changed.visibility, changed.moving) == ("public", True)
    assert (done.deleted, done.not_found) == (["img-1"], ["img-2"])
    assert api.asked == ["PATCH /v1/images/img-1", "POST /v1/images/delete"]


def test_unknown_members_are_kept(api: FakeApi) -> None:
    api.will(ok(job(new_thing={"a": 1}, images=[image(blurred=True)])))

    found = api.client().get("abc")

    assert found.model_dump()["new_thing"] == {"a": 1}
    assert found.images[0].model_dump()["blurred"] is True


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (402, InsufficientCredits),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, InvalidRequest),
        (418, PixorlyAPIError),
        (422, InvalidRequest),
        (429, RateLimited),
        (500, ServerFailed),
        (503, ServerFailed),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(api: FakeApi, status: int, kind: type[PixorlyAPIError]) -> None:
    api.will(problem(status, "some_code", "Words.", needed_credits=9, headers={"X-Request-Id": "r-1"}))

    with pytest.raises(PixorlyAPIError) as caught:
        api.client(tries=1).account()

    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.request_id) == (status, "some_code", "Words.", "r-1")
    assert error.facts == {"needed_credits": 9}
    assert str(error) == f"Words. ({status} some_code)"


def test_what_a_proxy_answers_is_an_error_too(api: FakeApi) -> None:
    api.will(httpx.Response(502, text="<html>Bad Gateway</html>"))

    with pytest.raises(ServerFailed) as caught:
        api.client(tries=1).account()

    assert (caught.value.code, caught.value.detail, caught.value.facts) == ("http_502", "Bad Gateway", {})


@pytest.mark.parametrize("body", ["<html>hello</html>", "", '{"user_id": 5}'])
def test_an_answer_that_is_not_the_apis_is_told_as_such(api: FakeApi, body: str) -> None:
    api.will(httpx.Response(200, text=body))

    with pytest.raises(UnreadableAnswer, match="GET /v1/account was answered with something else"):
        api.client().account()


def test_the_key_is_in_no_words_about_the_client(api: FakeApi) -> None:
    client = api.client()

    assert "px_live" not in repr(client._core)
