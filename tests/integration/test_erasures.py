"""A user who is erased, and prompts that grow old, on a real database."""

from collections.abc import AsyncIterator

import api_world as api
import pytest
from api_world import ADMIN_KEY, World, open_world

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
PATH = "/admin/v1/users/demo/erasure"
ACCOUNT = {"user_id": "demo", "plan": "pro", "status": "active"}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with open_world(database_url, prompt_retention_days=30) as opened:
        opened.ledger.answers["/internal/accounts/demo"] = [ACCOUNT] * 20
        yield opened


async def words(world: World) -> int:
    """Return in how many places something of a user's is said."""
    async with world.database.connection() as connection:
        count: int = await connection.fetchval(
            """select (select count(*) from jobs where prompt <> '' or metadata <> '{}' or body_hash <> '')
                      + (select count(*) from slots where generated ? 'prompt_revised' or message is not null)
                      + (select count(*) from attempts where message is not null)
                      + (select count(*) from images where deleted_at is null)
                      + (select count(*) from api_keys where revoked_at is null)
                      + (select count(*) from idempotency_keys)"""
        )
    return count


async def erase(world: World) -> None:
    await world.app.state.parts.erasures.erase()


async def test_nothing_of_an_erased_user_is_left_but_numbers(world: World) -> None:
    job = await world.created(2, metadata={"who": "ada"})
    await world.jobs.follow(api.generated(job, 0))
    await world.jobs.follow(api.uploaded(job, 0))
    await world.jobs.follow(api.failed(job, 1))
    await world.published()

    asked = await world.http.post(PATH, headers=ADMIN)

    assert asked.status_code == 202, asked.text
    assert asked.json()["finished_at"] is None
    assert await words(world) > 0
    await erase(world)
    assert [event.type for event in await world.published()] == ["image.deleted"]
    assert await words(world) == 0
    told = (await world.http.get(PATH, headers=ADMIN)).json()
    assert (told["images"], told["jobs"], told["finished_at"] is None) == (1, 1, False)


async def test_a_job_under_way_is_ended_first(world: World) -> None:
    await world.created(1)
    await world.published()
    await world.http.post(PATH, headers=ADMIN)

    await erase(world)
    assert (await world.http.get(PATH, headers=ADMIN)).json()["finished_at"] is None
    assert await world.sweeper.expire() == 1
    await erase(world)

    assert await words(world) == 0
    assert (await world.http.get(PATH, headers=ADMIN)).json()["finished_at"]


async def test_others_keep_what_is_theirs(world: World) -> None:
    job = await world.created(1, user_id="eve")
    await world.jobs.follow(api.uploaded(job))
    await world.http.post(PATH, headers=ADMIN)

    await erase(world)

    assert (await world.call("GET", f"/v1/generations/{job.job_id}", user_id="eve")).json()["prompt"]
    assert len((await world.call("GET", "/v1/images", user_id="eve")).json()["data"]) == 1


async def test_who_is_not_erased_is_not_found(world: World) -> None:
    assert (await world.http.get(PATH, headers=ADMIN)).status_code == 404


async def test_prompts_go_a_while_after_their_job_was_settled(world: World) -> None:
    old, late, open_, young = [await world.created(1) for _ in range(4)]
    for job in (old, late, young):
        await world.jobs.follow(api.uploaded(job))
    for created, settled, job in ((40, 40, old), (35, 29, late), (33, 0, open_)):
        # As if it had been made then: the id carries the time.
        await world.sql(
            """update jobs set settled_at = settled_at - make_interval(days => $3), job_id =
                  (left(id_floor(now() - make_interval(days => $2))::text, 14) || right(job_id::text, 22))::uuid
               where job_id = $1""",
            job.job_id,
            created,
            settled,
        )
    forget = world.app.state.parts.erasures.forget_prompts

    assert await forget() == 1
    assert await forget() == 0
    await world.sql("update jobs set settled_at = settled_at - interval '2 days'")
    assert await forget() == 1
    assert await forget() == 0

    async with world.database.connection() as connection:
        assert await connection.fetchval("select count(*) from jobs where prompt <> ''") == 2


async def test_prompts_are_kept_where_nothing_is_said(database_url: str) -> None:
    async with open_world(database_url) as world:
        await world.created(1)
        assert await world.app.state.parts.erasures.forget_prompts() == 0


async def test_a_failed_job_whose_prompt_is_gone_is_not_tried_again(world: World) -> None:
    job = await world.created(1)
    await world.jobs.follow(api.failed(job, 0))
    await world.sql("update jobs set prompt = ''")

    refused = await world.call("POST", f"/v1/generations/{job.job_id}/retry")

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
