"""Every row of OpenRouter's errors, and every odd answer, against the emulator over real HTTP."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from PIL import Image
from provider_calls import JOB, a_model, a_request

from pixorly import catalogue
from pixorly.errors import (
    ContentRejected,
    InvalidImage,
    ModelUnavailable,
    NoImage,
    OutageError,
    PixorlyError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from pixorly.outcomes import outcome_of
from pixorly_emulator import Running, serving
from pixorly_emulator.errors import ERRORS
from pixorly_generator.providers import ProviderAnswer, ProviderRequest
from pixorly_generator.providers.breaker import AccountAway
from pixorly_generator.providers.http import HttpOptions
from pixorly_generator.providers.openrouter import OpenRouter

pytestmark = pytest.mark.asyncio(loop_scope="module")

Make = Callable[..., Awaitable[ProviderAnswer]]

ROWS: dict[str, tuple[type[PixorlyError], float | None]] = {
    "400": (ProviderRefused, None),
    "400policy": (ContentRejected, None),
    "400refusal": (ContentRejected, None),
    "400prompt": (ContentRejected, None),
    "401": (AccountAway, None),
    "402": (AccountAway, None),
    "402key": (AccountAway, None),
    "402inflight": (ProviderRateLimited, 1),
    "403moderation": (ContentRejected, None),
    "403guardrail": (ProviderRefused, None),
    "403budget": (AccountAway, 60),
    "403workspace": (AccountAway, 60),
    "403key": (AccountAway, 60),
    "404": (ModelUnavailable, None),
    "404model": (ModelUnavailable, None),
    "404modality": (ModelUnavailable, None),
    "404busy": (ProviderUnavailable, 1),
    "408": (ProviderTimeout, None),
    "413": (ProviderRefused, None),
    "422": (ProviderRefused, None),
    "429": (ProviderRateLimited, 1),
    "500": (ProviderUnavailable, None),
    "502": (ProviderUnavailable, None),
    "503": (ProviderUnavailable, None),
    "503capacity": (ProviderUnavailable, 2),
    "503region": (ModelUnavailable, None),
    "504": (ProviderTimeout, None),
    "524": (ProviderTimeout, None),
    "529": (ProviderUnavailable, None),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def emulator() -> AsyncIterator[Running]:
    async with serving() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def make(emulator: Running) -> AsyncIterator[Make]:
    """Make one call with an adapter of its own: no breaker remembers another test."""
    made: list[OpenRouter] = []

    async def one(request: ProviderRequest, **options: Any) -> ProviderAnswer:
        adapter = OpenRouter("sk-or-v1-test", base_url=emulator.url, http=HttpOptions(http2=False, **options))
        made.append(adapter)
        return await adapter.generate(request)

    yield one
    for adapter in made:
        await adapter.close()


async def seen(emulator: Running, job_id: object) -> list[Any]:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{emulator.url}/_emulator/calls", params={"session_id": str(job_id)})
    calls: list[Any] = answer.json()["data"]
    return calls


def a_prompt(fault: str) -> str:
    return f"a fox [[fault:{fault}]]"


async def test_every_error_of_the_emulator_has_its_row() -> None:
    assert set(ROWS) == set(ERRORS)


@pytest.mark.parametrize(("name", "expected"), ROWS.items(), ids=list(ROWS))
@pytest.mark.parametrize("route", ["images", "chat"])
async def test_an_error_becomes_what_its_row_says(
    make: Make, name: str, expected: tuple[type[PixorlyError], float | None], route: str
) -> None:
    kind, retry_after_s = expected
    with pytest.raises(PixorlyError) as caught:
        await make(a_request(a_prompt(name), model=a_model(route=route)))

    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after_s", None) == (
        None if retry_after_s is None else pytest.approx(retry_after_s, abs=2)
    )


@pytest.mark.parametrize("name", ["401", "402", "402key", "403budget", "403key", "403workspace"])
async def test_trouble_with_our_account_is_waited_for_and_no_job_s_fault(make: Make, name: str) -> None:
    with pytest.raises(OutageError) as caught:
        await make(a_request(a_prompt(name)))

    assert caught.value.part == "provider:openrouter"
    assert outcome_of(caught.value.code).waits


@pytest.mark.parametrize("name", [name for name, (kind, _) in ROWS.items() if kind is not AccountAway])
async def test_an_error_in_a_200_means_the_same(make: Make, name: str) -> None:
    kind, _ = ROWS[name]
    with pytest.raises(kind):
        await make(a_request(a_prompt(f"200error:{name}")))


@pytest.mark.parametrize("name", ["429", "502", "503", "404model"])
async def test_a_code_that_is_a_string_does_no_harm(make: Make, name: str) -> None:
    kind, _ = ROWS[name]
    with pytest.raises(kind):
        await make(a_request(a_prompt(f"codestring:{name}")))


@pytest.mark.parametrize(
    ("told", "expected"),
    [("5", 5), ("0", 0), ("none", None), ("junk", None), ("3600", 3600), ("-5", None), ("date+30", 30)],
)
async def test_retry_after_is_read_in_all_its_forms(make: Make, told: str, expected: float | None) -> None:
    with pytest.raises(ProviderRateLimited) as caught:
        await make(a_request(a_prompt(f"429,retry-after={told}")))

    assert caught.value.retry_after_s == (None if expected is None else pytest.approx(expected, abs=2))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("text", NoImage),
        ("empty", NoImage),
        ("badbase64", InvalidImage),
        ("gzip:20", InvalidImage),
        ("huge:5", InvalidImage),
        ("endless", InvalidImage),
        ("notjson", NoImage),
        ("deep", NoImage),
        ("nothing:200", NoImage),
        ("nothing", ProviderUnavailable),
        ("html", ProviderUnavailable),
        ("html:200", NoImage),
        ("html:403", ProviderRefused),
        ("redirect", ProviderUnavailable),
        ("cut", ProviderUnavailable),
        ("cut:after", ProviderUnavailable),
        ("cut:body", ProviderUnavailable),
        ("headers:2", ProviderUnavailable),
        ("url:https://127.0.0.1/image.png", InvalidImage),
        ("url:http://169.254.169.254/latest/meta-data", InvalidImage),
        ("url:file:///etc/passwd", InvalidImage),
        ("200choice", ProviderUnavailable),
        ("200finish", ProviderUnavailable),
        ("filtered", ContentRejected),
    ],
)
async def test_an_answer_that_is_none_becomes_an_error(make: Make, fault: str, expected: type[PixorlyError]) -> None:
    with pytest.raises(expected):
        await make(a_request(a_prompt(fault)), max_body_bytes=4_000_000)


@pytest.mark.parametrize("fault", ["timeout", "drip"])
async def test_an_answer_that_does_not_end_in_time_is_a_timeout(make: Make, fault: str) -> None:
    with pytest.raises(ProviderTimeout):
        await make(a_request(a_prompt(fault), timeout_s=0.4))


@pytest.mark.parametrize("fault", ["200choice", "200finish", "filtered", "text"])
async def test_a_chat_answer_that_failed_becomes_an_error(make: Make, fault: str) -> None:
    expected = {"filtered": ContentRejected, "text": NoImage}.get(fault, ProviderUnavailable)
    with pytest.raises(expected):
        await make(a_request(a_prompt(fault), model=a_model(route="chat")))


@pytest.mark.parametrize("route", ["images", "chat"])
async def test_images_come_back_with_their_bill(make: Make, route: str) -> None:
    answer = await make(a_request(n=1, model=a_model(route=route), aspect_ratio="1:1"))

    assert answer.cost_usd == Decimal("0.001")
    assert answer.generation_id is not None
    assert answer.generation_id.startswith("gen-")
    assert answer.usage["image_tokens"] == 1290
    assert (answer.provider, answer.model) == ("openrouter", "emulator/any")
    with Image.open(io.BytesIO(answer.images[0].data)) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(("fault", "count"), [("missing:2", 2), ("missing:3", 1), ("more:3", 4)])
async def test_fewer_images_are_given_on_as_they_are_and_more_are_not(make: Make, fault: str, count: int) -> None:
    answer = await make(a_request(a_prompt(fault), n=4))

    assert len(answer.images) == count


@pytest.mark.parametrize(
    ("fault", "content_type"),
    [("jpeg", "image/jpeg"), ("nomediatype", None), ("mediatype", "image/webp"), ("dataurl", "image/png")],
)
async def test_what_the_provider_calls_an_image_is_given_on(make: Make, fault: str, content_type: str | None) -> None:
    answer = await make(a_request(a_prompt(fault), output_format="png"))

    assert answer.images[0].content_type == content_type
    Image.open(io.BytesIO(answer.images[0].data)).load()


@pytest.mark.parametrize("fault", ["nousage", "badusage"])
async def test_an_answer_without_a_price_is_an_answer(make: Make, fault: str) -> None:
    answer = await make(a_request(a_prompt(fault)))

    assert answer.cost_usd is None
    assert answer.images


async def test_an_answer_without_an_id_is_an_answer(make: Make) -> None:
    answer = await make(a_request(a_prompt("noid")))

    assert answer.generation_id is None
    assert answer.images


async def test_an_error_that_came_after_money_was_spent_says_how_much(make: Make) -> None:
    with pytest.raises(InvalidImage) as caught:
        await make(a_request(a_prompt("badbase64")))

    assert caught.value.facts["cost_usd"] == Decimal("0.001")
    assert caught.value.facts["generation_id"].startswith("gen-")


async def test_the_reasons_of_a_moderation_are_told_and_the_prompt_is_not(make: Make) -> None:
    with pytest.raises(ContentRejected) as caught:
        await make(a_request(a_prompt("403moderation")))

    assert caught.value.message == "The prompt was refused by the provider's content rules: violence."


async def test_the_job_goes_along_as_session_and_the_user_as_a_hash(emulator: Running, make: Make) -> None:
    job = uuid4()
    await make(a_request(job_id=job))

    [call] = await seen(emulator, job)

    assert call["session_id"] == str(job)
    assert len(call["user"]) == 32
    assert "demo" not in call["user"]


@pytest.mark.parametrize(
    ("model", "params", "sent"),
    [
        (a_model(parameters=()), {"seed": 1, "quality": "high", "output_format": "png"}, {}),
        (a_model(parameters=("n",)), {}, {}),
        (a_model(parameters=("n",)), {"n": 3}, {"n": 3}),
        (a_model(parameters=("size",)), {}, {"size": "64x64"}),
        (a_model(parameters=("size", "aspect_ratio")), {"aspect_ratio": "1:1"}, {"size": "64x64"}),
        (a_model(parameters=("aspect_ratio",)), {"aspect_ratio": "16:9"}, {"aspect_ratio": "16:9"}),
        (
            a_model(parameters=("aspect_ratio", "resolution")),
            {"aspect_ratio": "1:1", "width": 2048, "height": 2048},
            {"aspect_ratio": "1:1", "resolution": "2K"},
        ),
        (
            a_model(parameters=("seed", "background", "output_format", "quality")),
            {"seed": 7, "background": "transparent", "output_format": "webp", "quality": "low"},
            {"seed": 7, "background": "transparent", "output_format": "webp", "quality": "low"},
        ),
    ],
)
async def test_only_what_the_model_lists_is_sent(
    emulator: Running, make: Make, model: catalogue.Model, params: dict[str, Any], sent: dict[str, Any]
) -> None:
    job = uuid4()
    await make(a_request(model=model, job_id=job, **params))

    [call] = await seen(emulator, job)

    always = {"model", "session_id", "user"}
    assert {name: value for name, value in call["parameters"].items() if name not in always} == sent


@pytest.mark.parametrize(
    "model", [model for model in catalogue.load().all() if model.provider == "openrouter"], ids=lambda model: model.id
)
async def test_every_model_of_the_catalogue_gets_past_the_emulator_s_gates(make: Make, model: catalogue.Model) -> None:
    asked = model.params(quality=model.qualities[0] if model.qualities else None)

    answer = await make(a_request(model=model, n=model.max_n, **asked.model_dump()))

    assert len(answer.images) == model.max_n


@pytest.mark.parametrize("ending", ["", "/", "/api/v1", "/api/v1/"])
async def test_the_base_url_may_name_the_api_or_not(emulator: Running, ending: str) -> None:
    adapter = OpenRouter("k", base_url=emulator.url + ending, http=HttpOptions(http2=False))
    try:
        assert (await adapter.generate(a_request())).images
    finally:
        await adapter.close()


async def test_no_call_is_made_while_the_account_is_away(emulator: Running) -> None:
    adapter, job = OpenRouter("k", base_url=emulator.url, http=HttpOptions(http2=False)), uuid4()
    try:
        for prompt in (a_prompt("402"), "a fox", "a fox"):
            with pytest.raises(OutageError):
                await adapter.generate(a_request(prompt, job_id=job))
    finally:
        await adapter.close()

    assert len(await seen(emulator, job)) == 1


async def test_two_calls_of_a_job_with_a_seed_have_different_ones(emulator: Running, make: Make) -> None:
    job = uuid4()
    for index in (0, 1):
        request = a_request(job_id=job, seed=5)
        await make(ProviderRequest(**{**fields(request), "indexes": (index,), "call_no": index}))

    assert [call["parameters"]["seed"] for call in await seen(emulator, job)] == [5, 6]


def fields(request: ProviderRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in ProviderRequest.__slots__}


async def test_text_that_can_t_be_sent_is_refused(make: Make) -> None:
    with pytest.raises(ProviderRefused):
        await make(a_request("a lone \ud800 surrogate"))


async def test_nobody_listening_is_the_provider_s_absence() -> None:
    adapter = OpenRouter("k", base_url="http://127.0.0.1:9", http=HttpOptions(http2=False))
    try:
        with pytest.raises(ProviderUnavailable):
            await adapter.generate(a_request(job_id=JOB))
    finally:
        await adapter.close()


async def test_it_says_what_is_left_of_our_limit(emulator: Running) -> None:
    provider = OpenRouter("any", base_url=emulator.url)
    try:
        left_usd = await provider.left_usd()
    finally:
        await provider.close()

    assert left_usd is not None
    assert left_usd > 0
