"""Quotes, second tries, and finding jobs by what was noted on them."""

from collections.abc import AsyncIterator
from typing import Any

import api_world as api
import pytest
from api_world import World, open_world

BODY = {"model": "sandbox/aurora", "prompt": "a lake", "n": 2}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url) as opened:
        yield opened


async def quoted(world: World, **more: Any) -> dict[str, Any]:
    answer = await world.call("POST", "/v1/quotes", json={**BODY, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_quote_tells_the_price_and_takes_nothing(world: World) -> None:
    quote = await quoted(world)

    assert (quote["credits"], quote["credits_per_image"], quote["credits_remaining"]) == (10, 5, 1000)
    assert (quote["refusals"], quote["model"], quote["n"]) == ([], "sandbox/aurora", 2)
    assert quote["expected_s"] > 0
    assert world.ledger.balances["demo"] == 1000
    assert (await world.call("GET", "/v1/generations")).json()["data"] == []


async def test_a_quote_tells_what_an_order_would_be_refused_for(world: World) -> None:
    await world.headers()
    world.ledger.balances["demo"] = 9
    refusals = (await quoted(world))["refusals"]
    assert [refusal["code"] for refusal in refusals] == ["insufficient_credits"]
    answer = await world.call("POST", "/v1/quotes", json={**BODY, "model": "sandbox/aurorra"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_model")


async def test_a_quoted_price_is_kept_to_for_the_same_order_and_its_own_user(world: World) -> None:
    quote_id = (await quoted(world))["quote_id"]
    # The catalogue's price rises meanwhile.
    await world.sql("update quotes set credits_per_image = 2")

    made = await world.call("POST", "/v1/generations", json={**BODY, "metadata": {"a": "b"}, "quote_id": quote_id})
    assert (made.status_code, made.json()["credits_used"], made.json()["credits_remaining"]) == (202, 4, 996)
    for body, user_id in ((BODY | {"n": 3}, "demo"), (BODY, "other")):
        refused = await world.call("POST", "/v1/generations", user_id=user_id, json={**body, "quote_id": quote_id})
        assert (refused.status_code, refused.json()["code"]) == (422, "quote_expired")
    await world.sql("update quotes set expires_at = now() - interval '1 s'")
    late = await world.call("POST", "/v1/generations", json={**BODY, "quote_id": quote_id})
    assert (late.status_code, late.json()["code"]) == (422, "quote_expired")
    assert await world.sweeper.purge() == 1


async def test_a_failed_job_is_tried_again_as_a_new_one(world: World) -> None:
    job = await world.created(2, metadata={"order": "17"}, width=512, height=768, seed=7, quality="high")
    answer = await world.call("POST", f"/v1/generations/{job.job_id}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_failed")
    for index in range(2):
        await world.jobs.follow(api.failed(job, index))
    await world.published()

    answers = [
        await world.call("POST", f"/v1/generations/{job.job_id}/retry", headers={"Idempotency-Key": "again"})
        for _ in range(2)
    ]

    again = answers[0].json()
    assert answers[0].status_code == 202, answers[0].text
    assert (again["retry_of"], again["n"], again["metadata"]) == (str(job.job_id), 2, {"order": "17"})
    assert again["params"] == (await world.get(job.job_id))["params"]
    assert again["id"] == answers[1].json()["id"] != str(job.job_id)
    assert answers[1].headers["idempotent-replayed"] == "true"
    (event,) = await world.published()
    assert (event.type, event.params, event.n) == ("job.created", job.params, 2)
    assert (await world.get(job.job_id))["retry_of"] is None
    theirs = await world.call("POST", f"/v1/generations/{job.job_id}/retry", user_id="other")
    assert theirs.status_code == 404


async def test_jobs_are_found_by_what_was_asked_and_what_was_noted(world: World) -> None:
    made = [
        (await world.create(prompt=prompt, metadata=notes)).json()["id"]
        for prompt, notes in (
            ("A Red fox 100%_sure", {"order": "1", "shop": "x"}),
            ("a blue whale", {"order": "2", "shop": "x"}),
            ("nothing", {}),
        )
    ]

    async def found(query: str) -> list[str]:
        answer = await world.call("GET", f"/v1/generations?{query}")
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    assert await found("prompt=red+FOX") == [made[0]]
    assert await found("prompt=100%25_") == [made[0]]
    assert await found("metadata=shop:x") == [made[1], made[0]]
    assert await found("metadata=shop:x&metadata=order:2") == [made[1]]
    assert await found("metadata=shop:y") == []
    answer = await world.call("GET", "/v1/generations?metadata=shop")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "metadata")
