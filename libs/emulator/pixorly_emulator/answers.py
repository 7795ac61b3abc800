"""What a good answer looks like on each route, and what a fault makes of it."""

import base64
import io
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from PIL import Image

from pixorly_emulator.bill import Call
from pixorly_emulator.drawing import Drawn, draw, encoded, padded
from pixorly_emulator.faults import Fault
from pixorly_emulator.requests import Asked

_SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><circle cx="4" cy="4" r="4"/></svg>'
_IMAGE_TOKENS: Final = 1290
_WIDER: Final = 1.03


@dataclass(slots=True)
class Item:
    """One image on its way into the answer."""

    text: str
    media_type: str | None
    is_url: bool = False


@dataclass(slots=True)
class Answer:
    """A good answer, before it is written down.

    Attributes:
        asked: The request.
        items: The images.
        text: Words instead of images, or beside them.
        usage: The counts; None leaves them out.
        headers: Besides the usual.
    """

    asked: Asked
    items: list[Item]
    text: str | None = None
    usage: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)


def make_images(asked: Asked, fault: Fault | None) -> list[Item]:
    """Draw what was asked, as far as the fault lets it. Takes processor time: not for the event loop."""
    name = fault.name if fault else ""
    n = _count(asked.n, fault)
    if name == "url" and fault:
        return [Item(fault.argument or "http://127.0.0.1/image.png", None, is_url=True) for _ in range(n)]
    wanted = asked.wanted
    if name == "jpeg":
        wanted = replace(wanted, image_format="jpeg")
    if name == "wrongsize":
        wanted = replace(wanted, width=round(wanted.width * _WIDER))
    return [_item(_spoiled(draw(wanted, index), fault), fault) for index in range(n)]


def _count(n: int, fault: Fault | None) -> int:
    name = fault.name if fault else ""
    if name in {"empty", "text"}:
        return 0
    if fault and name == "missing":
        return max(0, n - fault.number(1))
    return n + fault.number(1) if fault and name == "more" else n


def _spoiled(drawn: Drawn, fault: Fault | None) -> Drawn:
    name = fault.name if fault else ""
    if name == "garbage":
        return Drawn(bytes(range(256)) * 16, drawn.media_type)
    if name == "truncated":
        return Drawn(drawn.data[: len(drawn.data) // 2], drawn.media_type)
    if name == "svg":
        return Drawn(_SVG, "image/svg+xml")
    if name == "heavy" and fault:
        with Image.open(io.BytesIO(drawn.data)) as image:
            return Drawn(padded(encoded(image, "png"), fault.number(20) * 1_000_000), "image/png")
    return drawn


def _item(drawn: Drawn, fault: Fault | None) -> Item:
    name = fault.name if fault else ""
    text = base64.b64encode(drawn.data).decode()
    if name == "badbase64":
        text = "*" + text[:-1] + "é"
    if name == "dataurl":
        text = f"data:{drawn.media_type};base64,{text}"
    if name == "mediatype":
        return Item(text, "image/webp" if drawn.media_type != "image/webp" else "image/png")
    return Item(text, None if name == "nomediatype" else drawn.media_type)


def make_answer(asked: Asked, items: list[Item], call: Call, fault: Fault | None) -> Answer:
    """Put the answer together."""
    name = fault.name if fault else ""
    answer = Answer(asked, items, usage=_usage(asked, call))
    if name == "text" or (asked.route == "chat" and asked.n == 0):
        answer.text = "I would rather describe it: a quiet scene."
    if name == "nousage":
        answer.usage = None
    if name == "badusage":
        answer.usage = {"prompt_tokens": "many", "completion_tokens": None, "total_tokens": [], "cost": "free"}
    if name != "noid":
        answer.headers["x-request-id" if asked.route == "openai" else "x-generation-id"] = call.id
    return answer


def _usage(asked: Asked, call: Call) -> dict[str, Any]:
    prompt, image = max(1, len(asked.wanted.prompt) // 4), _IMAGE_TOKENS * call.images
    if asked.route == "openai":
        details = {"image_tokens": 0, "text_tokens": prompt}
        return {
            "input_tokens": prompt,
            "input_tokens_details": details,
            "output_tokens": image,
            "total_tokens": prompt + image,
        }
    return {
        "prompt_tokens": prompt,
        "completion_tokens": image,
        "total_tokens": prompt + image,
        "cost": float(call.usd),
        "cost_details": {
            "upstream_inference_cost": None,
            "upstream_inference_prompt_cost": 0,
            "upstream_inference_completions_cost": float(call.usd),
        },
        "completion_tokens_details": {"image_tokens": image, "reasoning_tokens": 0},
        "is_byok": False,
    }


def written(answer: Answer, call: Call) -> dict[str, Any]:
    """Return the answer's body."""
    if answer.asked.route == "chat":
        return chat_body(answer, call)
    body: dict[str, Any] = {"created": int(time.time()), "data": [_datum(item) for item in answer.items]}
    if answer.text is not None:
        body["text"] = answer.text
    if answer.asked.route == "openai":
        wanted = answer.asked.wanted
        body |= {"output_format": wanted.image_format, "size": f"{wanted.width}x{wanted.height}", "quality": "medium"}
        body["background"] = "transparent" if wanted.transparent else "opaque"
    if answer.usage is not None:
        body["usage"] = answer.usage
    return body


def _datum(item: Item) -> dict[str, str]:
    datum = {"url" if item.is_url else "b64_json": item.text}
    return datum if item.media_type is None else {**datum, "media_type": item.media_type}


def chat_body(answer: Answer, call: Call, *, finish_reason: str = "stop") -> dict[str, Any]:
    """Return a chat answer."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.items:
        message["images"] = [
            {"type": "image_url", "index": index, "image_url": {"url": _data_url(item)}}
            for index, item in enumerate(answer.items)
        ]
    choice = {"index": 0, "finish_reason": finish_reason, "native_finish_reason": finish_reason, "message": message}
    body = {
        "id": call.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "provider": answer.asked.provider.title(),
        "model": answer.asked.model_id,
        "system_fingerprint": None,
        "choices": [choice],
    }
    return body if answer.usage is None else {**body, "usage": answer.usage}


def _data_url(item: Item) -> str:
    if item.is_url or item.text.startswith("data:"):
        return item.text
    return f"data:{item.media_type or ''};base64,{item.text}"


async def events(answer: Answer) -> AsyncIterator[bytes]:
    """Write the answer as events: one preview of each image, then each in full."""
    yield b": OPENROUTER PROCESSING\n\n"
    for item in answer.items:
        yield _event({"type": "image_generation.partial_image", "partial_image_index": 0, "b64_json": item.text})
    for item in answer.items:
        done = {"type": "image_generation.completed", "created": int(time.time()), **_datum(item)}
        yield _event({**done, "usage": answer.usage} if answer.usage else done)
    yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
