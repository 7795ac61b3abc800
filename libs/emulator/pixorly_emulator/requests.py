"""What a request asks for, and the gates that it must pass before anything is made."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from pixorly_emulator.drawing import Wanted
from pixorly_emulator.errors import Refusal
from pixorly_emulator.models import FORMATS, OPENAI_MODELS, RATIO_PX, TIER_PX, EmulatedModel, Models

_ALWAYS: Final = {"model", "prompt", "stream", "input_references", "user", "session_id", "trace", "provider"}
_PIXELS: Final = re.compile(r"(\d{1,5})x(\d{1,5})")
_MAX_PX: Final = 8192
_MAX_N: Final = 10
_MAX_SESSION: Final = 256
_OPENAI_STEP_PX: Final = 16
_OPENAI_MAX_PX: Final = 3840
_QUALITY_FACTOR: Final = {"low": Decimal("0.25"), "high": Decimal(4)}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, understood.

    Attributes:
        route: `images`, `chat` or `openai`.
        model_id: As the request names it.
        wanted: What to draw.
        n: How many; 0 where only text is wanted.
        usd: What one image costs.
        stream: Whether events are wanted and the model sends them.
        provider: Who is behind the model.
    """

    route: str
    model_id: str
    wanted: Wanted
    n: int
    usd: Decimal
    stream: bool = False
    provider: str = "emulator"


def understand(route: str, body: Mapping[str, Any], models: Models) -> Asked:
    """Return what the request asks for.

    Raises:
        Refusal: It does not pass a gate.
    """
    if route == "chat":
        return _chat(body, models)
    return _openai(body) if route == "openai" else _images(body, models)


def prompt_of(route: str, body: Mapping[str, Any]) -> str:
    """Return the words of the request, empty where there are none."""
    if route != "chat":
        prompt = body.get("prompt")
        return prompt if isinstance(prompt, str) else ""
    words = []
    for message in body.get("messages") or []:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        words += [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(words)


def _invalid(message: str) -> Refusal:
    return Refusal("400", message)


def _images(body: Mapping[str, Any], models: Models) -> Asked:
    model = models.find(body.get("model"))
    prompt = prompt_of("images", body)
    if not prompt:
        raise _invalid("prompt: must be a string of at least 1 character")
    session_id = body.get("session_id")
    if session_id is not None and (not isinstance(session_id, str) or len(session_id) > _MAX_SESSION):
        raise _invalid("session_id: must be a string of at most 256 characters")
    _only_supported(body, model)
    image_format, transparent = _format(body, model.default_format)
    width, height = _size(body)
    wanted = Wanted(model.id, prompt, _seed(body), width, height, image_format, transparent)
    return Asked(
        route="images",
        model_id=model.id,
        wanted=wanted,
        n=_number(body, model),
        usd=model.usd * _QUALITY_FACTOR.get(str(body.get("quality")), 1),
        stream=body.get("stream") is True and model.streams,
        provider=model.provider,
    )


def _only_supported(body: Mapping[str, Any], model: EmulatedModel) -> None:
    for name, value in body.items():
        if name in _ALWAYS or (name == "n" and value == 1):
            continue
        capability = model.parameters.get(name)
        if capability is None:
            raise _invalid(f"{name}: is not supported by {model.id}")
        if capability["type"] == "enum" and name not in {"size", "aspect_ratio"} and value not in capability["values"]:
            raise _invalid(f"{name}: must be one of {', '.join(capability['values'])}")


def _number(body: Mapping[str, Any], model: EmulatedModel) -> int:
    n = body.get("n", 1)
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= _MAX_N:
        raise _invalid("n: must be a whole number from 1 to 10")
    if n > model.max_n:
        raise _invalid(f"n: {model.id} makes at most {model.max_n} image(s) in a request")
    return n


def _seed(body: Mapping[str, Any]) -> int | None:
    seed = body.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise _invalid("seed: must be a whole number")
    return seed


def _format(body: Mapping[str, Any], default: str) -> tuple[str, bool]:
    image_format = body.get("output_format") or default
    if image_format not in FORMATS:
        raise _invalid(f"output_format: must be one of {', '.join(FORMATS)}")
    transparent = body.get("background") == "transparent"
    if transparent and image_format == "jpeg":
        raise _invalid("background: transparent needs output_format png or webp")
    return image_format, transparent


def _size(body: Mapping[str, Any]) -> tuple[int, int]:
    size, ratio = body.get("size"), body.get("aspect_ratio")
    pixels = _PIXELS.fullmatch(size) if isinstance(size, str) else None
    if pixels:
        if body.get("resolution") or (ratio and ratio != "auto"):
            raise _invalid("size: explicit pixels conflict with resolution and aspect_ratio")
        return _checked(int(pixels[1]), int(pixels[2]))
    tier = body.get("resolution") or (size if size != "auto" else None) or "1K"
    if tier not in TIER_PX:
        raise _invalid("size: must be a tier like 2K, or WIDTHxHEIGHT")
    width, height = _ratio_px(ratio or "1:1")
    scale = TIER_PX[tier] / 1024
    return _checked(round(width * scale), round(height * scale))


def _ratio_px(ratio: object) -> tuple[int, int]:
    if ratio == "auto":
        return RATIO_PX["1:1"]
    if not isinstance(ratio, str):
        raise _invalid("aspect_ratio: must be a string such as 16:9")
    if ratio in RATIO_PX:
        return RATIO_PX[ratio]
    try:
        across, down = (float(part) for part in ratio.split(":"))
        factor = (across / down) ** 0.5
    except (ValueError, ZeroDivisionError, TypeError):
        raise _invalid("aspect_ratio: must be a string such as 16:9") from None
    return round(1024 * factor / 16) * 16, round(1024 / factor / 16) * 16


def _checked(width: int, height: int) -> tuple[int, int]:
    if not (1 <= width <= _MAX_PX and 1 <= height <= _MAX_PX):
        raise _invalid(f"size: must be from 1 to {_MAX_PX} pixels a side")
    return width, height


def _chat(body: Mapping[str, Any], models: Models) -> Asked:
    model = models.find(body.get("model"))
    prompt = prompt_of("chat", body)
    if not prompt:
        raise _invalid("messages: must hold some text")
    modalities = body.get("modalities", ["text"])
    if not isinstance(modalities, list):
        raise _invalid("modalities: must be a list")
    if not model.chat or not set(modalities) <= set(model.outputs):
        wanted = ", ".join(str(modality) for modality in modalities)
        raise Refusal("404modality", f"No endpoints found that support the requested output modalities: {wanted}")
    config = body.get("image_config") or {}
    if not isinstance(config, dict):
        raise _invalid("image_config: must be an object")
    image_format, transparent = _format(config, model.default_format)
    width, height = _size({"aspect_ratio": config.get("aspect_ratio"), "resolution": config.get("image_size")})
    return Asked(
        route="chat",
        model_id=model.id,
        wanted=Wanted(model.id, prompt, _seed(body), width, height, image_format, transparent),
        n=1 if "image" in modalities else 0,
        usd=model.usd,
        provider=model.provider,
    )


def _openai(body: Mapping[str, Any]) -> Asked:
    model_id, prompt = body.get("model", OPENAI_MODELS[0]), prompt_of("openai", body)
    if model_id not in OPENAI_MODELS:
        raise Refusal("404model", f"The model '{model_id}' does not exist")
    if not prompt:
        raise _invalid("Missing required parameter: 'prompt'.")
    for legacy in ("response_format", "style"):
        if legacy in body:
            raise _invalid(f"Unknown parameter: '{legacy}'.")
    n = body.get("n", 1)
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= _MAX_N:
        raise _invalid("Invalid 'n': must be from 1 to 10.")
    image_format, transparent = _format(body, "png")
    width, height = _openai_size(body.get("size", "auto"))
    quality = str(body.get("quality", "auto"))
    return Asked(
        route="openai",
        model_id=str(model_id),
        wanted=Wanted(str(model_id), prompt, None, width, height, image_format, transparent),
        n=n,
        usd=Decimal("0.042") * _QUALITY_FACTOR.get(quality, 1),
        provider="openai",
    )


def _openai_size(size: object) -> tuple[int, int]:
    if size == "auto":
        return 1024, 1024
    pixels = _PIXELS.fullmatch(size) if isinstance(size, str) else None
    if pixels is None:
        raise _invalid("Invalid 'size'.")
    width, height = int(pixels[1]), int(pixels[2])
    even = width % _OPENAI_STEP_PX == 0 == height % _OPENAI_STEP_PX
    if not even or min(width, height) == 0 or max(width, height) > _OPENAI_MAX_PX:
        raise _invalid("Invalid 'size': both sides must be multiples of 16, at most 3840.")
    if max(width, height) > 3 * min(width, height):
        raise _invalid("Invalid 'size': the ratio must lie between 1:3 and 3:1.")
    return width, height
