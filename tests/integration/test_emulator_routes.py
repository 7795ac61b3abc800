"""The emulator's routes: gates, images, the bill, and faults on the wire."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from pixorly_emulator import Options, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"authorization": "Bearer sk-or-v1-test"}
ANY = "emulator/any"


class Client:
    """Calls one emulator."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def images(self, prompt: str = "a fox", **body: Any) -> httpx.Response:
        asked = {"model": ANY, "prompt": prompt, "size": "64x64", **body}
        return await self.http.post("/api/v1/images", json={k: v for k, v in asked.items() if v is not None})

    async def bill(self, session_id: str | None = None) -> Any:
        params = {"session_id": session_id} if session_id else {}
        return (await self.http.get("/_emulator/bill", params=params)).json()

    async def calls(self) -> list[Any]:
        data: list[Any] = (await self.http.get("/_emulator/calls")).json()["data"]
        return data


async def client_of(options: Options) -> AsyncIterator[Client]:
    async with (
        serving(options) as running,
        httpx.AsyncClient(base_url=running.url, headers=KEY, trust_env=False, verify=False, timeout=5) as http,  # noqa: S501 - no TLS at all here
    ):
        yield Client(http)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Client]:
    async for client in client_of(Options()):
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def client(shared: Client) -> Client:
    await shared.http.post("/_emulator/reset")
    return shared


def image_of(datum: dict[str, str]) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(datum["b64_json"])))
    image.load()
    return image


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
async def test_images_are_real(client: Client, image_format: str) -> None:
    answer = (await client.images(n=2, size="96x64", output_format=image_format)).json()

    for datum in answer["data"]:
        image = image_of(datum)
        assert (image.size, image.format) == ((96, 64), image_format.upper())
        assert datum["media_type"] == f"image/{image_format}"


async def test_the_same_request_gives_the_same_images_and_another_seed_gives_others(client: Client) -> None:
    one, same, other = [(await client.images(n=2, seed=seed)).json()["data"] for seed in (1, 1, 2)]

    assert one == same
    assert len({datum["b64_json"] for datum in [*one, *other]}) == 4


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"size": None}, (1024, 1024)),
        ({"size": None, "aspect_ratio": "16:9"}, (1344, 768)),
        ({"size": "2K"}, (2048, 2048)),
        ({"size": None, "resolution": "512", "aspect_ratio": "1:1"}, (512, 512)),
        ({"size": "4096x64"}, (4096, 64)),
    ],
)
async def test_every_way_to_ask_for_a_size_works(client: Client, body: dict[str, Any], size: tuple[int, int]) -> None:
    answer = (await client.images(output_format="jpeg", **body)).json()

    assert image_of(answer["data"][0]).size == size


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": ""}, 400),
        ({"n": 0}, 400),
        ({"n": 11}, 400),
        ({"n": 2.5}, 400),
        ({"size": "64x64", "aspect_ratio": "1:1"}, 400),
        ({"size": "64x64", "resolution": "1K"}, 400),
        ({"size": "big"}, 400),
        ({"background": "transparent", "output_format": "jpeg"}, 400),
        ({"quality": "lovely"}, 400),
        ({"colour": "red"}, 400),
        ({"prompt": "[[fault:nonsense]]"}, 400),
        ({"session_id": "x" * 257}, 400),
        ({"model": "nobody/nothing"}, 404),
        ({"model": "google/gemini-3.1-flash-image", "size": None, "n": 2}, 400),
        ({"model": "google/gemini-3.1-flash-image", "size": "64x64"}, 400),
    ],
)
async def test_what_a_gate_refuses_is_not_billed(client: Client, body: dict[str, Any], status: int) -> None:
    response = await client.images(**body)

    assert response.status_code == status
    assert response.json()["error"]["code"] == status
    assert (await client.bill())["total"]["billed_calls"] == 0


async def test_an_image_only_model_is_refused_on_the_chat_route(client: Client) -> None:
    body = {
        "model": "openai/gpt-image-2",
        "messages": [{"role": "user", "content": "a fox"}],
        "modalities": ["image", "text"],
    }

    response = await client.http.post("/api/v1/chat/completions", json=body)

    assert response.status_code == 404
    assert response.json()["error"]["metadata"]["failed_routing_step"] == "output_modalities"


async def test_the_route_that_many_believe_in_is_not_there(client: Client) -> None:
    assert (await client.http.post("/api/v1/images/generations", json={})).status_code == 404


@pytest.mark.parametrize("path", ["/api/v1/images", "/api/v1/chat/completions", "/v1/images/generations"])
async def test_a_call_needs_a_key(client: Client, path: str) -> None:
    response = await client.http.post(path, json={}, headers={"authorization": ""})

    assert response.status_code == 401


async def test_only_the_keys_that_are_named_are_taken() -> None:
    async for client in client_of(Options(keys=("good",))):
        good = await client.http.post(
            "/api/v1/images",
            json={"model": ANY, "prompt": "x", "size": "64x64"},
            headers={"authorization": "Bearer good"},
        )
        assert (good.status_code, (await client.images()).status_code) == (200, 401)


async def test_the_bill_counts_by_session(client: Client) -> None:
    await client.images(session_id="job-1", n=3)
    await client.images(session_id="job-1", prompt="[[fault:503]]")
    await client.images(session_id="job-2", prompt="[[fault:missing:1]]", n=2)

    bill = await client.bill()

    assert bill["sessions"] == {
        "job-1": {"calls": 2, "billed_calls": 1, "images": 3, "usd": "0.003"},
        "job-2": {"calls": 1, "billed_calls": 1, "images": 1, "usd": "0.001"},
    }
    assert bill["total"]["usd"] == "0.004"
    assert (await client.bill("job-1"))["billed_calls"] == 1


@pytest.mark.parametrize("name", ["empty", "text", "200error", "html", "429", "notjson", "nothing", "deep"])
async def test_an_answer_without_images_is_not_billed(client: Client, name: str) -> None:
    await client.images(f"[[fault:{name}]]")

    assert (await client.bill())["total"]["billed_calls"] == 0


@pytest.mark.parametrize(("how", "billed"), [("cut", 0), ("cut:before", 0), ("cut:after", 1), ("cut:body", 1)])
async def test_a_cut_connection_is_billed_or_not(client: Client, how: str, billed: int) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.images(f"[[fault:{how}]]")

    assert (await client.bill())["total"]["billed_calls"] == billed


@pytest.mark.parametrize(("bill_disconnected", "billed"), [(False, 0), (True, 1)])
async def test_a_client_that_leaves_is_billed_or_not(bill_disconnected: bool, billed: int) -> None:  # noqa: FBT001
    async for client in client_of(Options(bill_disconnected=bill_disconnected)):
        with pytest.raises(httpx.ReadTimeout):
            await client.http.post(
                "/api/v1/images", json={"model": ANY, "prompt": "[[latency:30]]", "size": "64x64"}, timeout=0.2
            )
        await settled(client)
        assert (await client.bill())["total"]["billed_calls"] == billed
        assert (await client.calls())[0]["left"] is True


async def settled(client: Client) -> None:
    for _ in range(100):
        if (await client.bill())["total"]["in_flight"] == 0:
            return
        await asyncio.sleep(0.02)


async def test_a_chat_client_that_leaves_is_billed(client: Client) -> None:
    body = {
        "model": ANY,
        "messages": [{"role": "user", "content": "a fox [[latency:30]]"}],
        "modalities": ["image", "text"],
    }
    with pytest.raises(httpx.ReadTimeout):
        await client.http.post("/api/v1/chat/completions", json=body, timeout=0.2)
    await settled(client)

    assert (await client.bill())["total"]["billed_calls"] == 1


@pytest.mark.parametrize(
    ("told", "header"), [("5", "5"), ("0", "0"), ("none", None), ("junk", "junk"), ("3600", "3600")]
)
async def test_retry_after_comes_as_asked(client: Client, told: str, header: str | None) -> None:
    response = await client.images(f"[[fault:429,retry-after={told}]]")

    assert response.headers.get("retry-after") == header


async def test_retry_after_comes_as_a_date(client: Client) -> None:
    response = await client.images("[[fault:503,retry-after=date+30]]")

    assert response.headers["retry-after"].endswith("GMT")


async def test_the_script_is_set_shown_and_forgotten_at_run_time(client: Client) -> None:
    rules = {"rules": [{"fault": "503", "model": ANY, "times": 1}]}
    assert (await client.http.post("/_emulator/script", json=rules)).status_code == 200

    statuses = [(await client.images()).status_code for _ in range(2)]

    assert statuses == [503, 200]
    assert (await client.http.get("/_emulator/script")).json()["rules"][0]["used"] == 1
    assert (await client.http.delete("/_emulator/script")).json()["rules"] == []
    assert (await client.http.post("/_emulator/script", json={"rules": [{"fault": "no"}]})).status_code == 400


async def test_a_reset_forgets_the_bill(client: Client) -> None:
    await client.images(session_id="job-1")
    await client.http.post("/_emulator/reset")

    assert (await client.bill())["sessions"] == {}
    assert await client.calls() == []


async def test_calls_are_shown_without_their_words(client: Client) -> None:
    await client.images("a secret fox", session_id="job-1", user="u", n=2)

    [call] = await client.calls()

    assert call["parameters"] == {"model": ANY, "size": "64x64", "session_id": "job-1", "user": "u", "n": 2}
    assert (call["images"], call["status"], call["billed"], call["user"]) == (2, 200, True, "u")
    assert "secret" not in str(call)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("heavy:1", lambda data: len(base64.b64decode(data[0]["b64_json"])) == 1_000_000 and image_of(data[0])),
        ("jpeg", lambda data: image_of(data[0]).format == "JPEG"),
        ("wrongsize", lambda data: image_of(data[0]).size == (66, 64)),
        ("more:2", lambda data: len(data) == 3),
        ("nomediatype", lambda data: "media_type" not in data[0]),
        ("mediatype", lambda data: data[0]["media_type"] == "image/webp"),
        ("dataurl", lambda data: data[0]["b64_json"].startswith("data:image/png;base64,")),
        ("url:https://x/y.png", lambda data: data[0] == {"url": "https://x/y.png"}),
    ],
)
async def test_an_answer_is_spoiled_as_asked(client: Client, fault: str, check: Any) -> None:
    assert check((await client.images(f"[[fault:{fault}]]")).json()["data"])


async def test_a_body_comes_packed_dripping_or_huge(client: Client) -> None:
    gzip = await client.images("[[fault:gzip:1]]")
    drip = await client.images("[[fault:drip:1000000]]")
    huge = await client.images("[[fault:huge:2]]")

    assert (gzip.headers["content-encoding"], len(gzip.content)) == ("gzip", 1_000_000)
    assert drip.json()["data"]
    assert len(huge.content) > 2_000_000
    assert huge.json()["data"]


async def test_openai_s_own_route_answers_in_openai_s_words(client: Client) -> None:
    async def call(prompt: str, **body: Any) -> httpx.Response:
        headers = {"x-client-request-id": "job-1/0/1"}
        asked = {"model": "gpt-image-2", "prompt": prompt, "size": "64x64", **body}
        return await client.http.post("/v1/images/generations", json=asked, headers=headers)

    good, bad, legacy = await call("a fox"), await call("[[fault:403moderation]]"), await call("x", style="vivid")

    assert image_of(good.json()["data"][0]).size == (64, 64)
    assert "input_tokens" in good.json()["usage"]
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "moderation_blocked")
    assert legacy.status_code == 400
    assert (await client.bill("job-1"))["billed_calls"] == 1


async def test_it_is_alive_and_ready(client: Client) -> None:
    assert [(await client.http.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 200]


async def test_the_models_that_give_images_only_are_missing_from_the_usual_list(client: Client) -> None:
    usual = (await client.http.get("/api/v1/models")).json()["data"]
    images = (await client.http.get("/api/v1/models", params={"output_modalities": "image"})).json()["data"]

    assert {model["id"] for model in images} - {model["id"] for model in usual} == {
        "openai/gpt-image-2",
        "black-forest-labs/flux.2-pro",
    }


async def test_any_model_is_served_where_that_is_asked() -> None:
    async for client in client_of(Options(serve_any=True)):
        assert (await client.images(model="nobody/nothing")).status_code == 200


async def test_many_calls_are_in_flight_together() -> None:
    async for client in client_of(Options(latency="0.5")):
        async with asyncio.timeout(10):
            await asyncio.gather(*(client.images() for _ in range(50)))
        assert (await client.bill())["total"]["most_in_flight"] == 50
