"""The models that the emulator serves, and what each lets through."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from pixorly_emulator.errors import Refusal

_CREATED: Final = 1_780_000_000

RATIO_PX: Final = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
TIER_PX: Final = {"512": 512, "0.5K": 512, "768": 768, "1K": 1024, "1.5K": 1536, "2K": 2048, "4K": 4096}
FORMATS: Final = ("png", "jpeg", "webp")

_N: Final = {"type": "range", "min": 1, "max": 10}
_RATIOS: Final = {"type": "enum", "values": list(RATIO_PX)}
_TIERS: Final = {"type": "enum", "values": ["1K", "2K", "4K"]}
_QUALITIES: Final = {"type": "enum", "values": ["auto", "low", "medium", "high"]}
_FORMATS: Final = {"type": "enum", "values": list(FORMATS)}
_BACKGROUNDS: Final = {"type": "enum", "values": ["auto", "transparent", "opaque"]}
_BOOLEAN: Final = {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class EmulatedModel:
    """One model.

    Attributes:
        id: As requests name it.
        name: For people.
        provider: Who is behind it.
        usd: What one image costs.
        parameters: What it lists as supported, by field; anything else is refused.
        outputs: What it gives: `image`, or `image` and `text`.
        chat: Whether the chat route serves it.
        streams: Whether it sends events when asked to.
        max_n: The most images of one call.
        default_format: What comes where nothing is said.
    """

    id: str
    name: str
    provider: str
    usd: Decimal
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("image",)
    chat: bool = False
    streams: bool = False
    max_n: int = 1
    default_format: str = "png"

    def as_listed(self) -> dict[str, Any]:
        """Return the model as `GET /api/v1/images/models` shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "description": f"{self.name}, emulated.",
            "created": _CREATED,
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": list(self.outputs)},
            "supported_parameters": self.parameters,
            "supports_streaming": self.streams,
            "endpoints": f"/api/v1/images/models/{self.id}/endpoints",
        }

    def as_endpoints(self) -> dict[str, Any]:
        """Return the model as `GET /api/v1/images/models/…/endpoints` shows it."""
        endpoint = {
            "provider_name": self.provider.title(),
            "provider_slug": self.provider,
            "provider_tag": self.provider,
            "supported_parameters": self.parameters,
            "allowed_passthrough_parameters": [],
            "supports_streaming": self.streams,
            "pricing": [{"billable": "output_image", "unit": "image", "cost_usd": float(self.usd)}],
        }
        return {"id": self.id, "endpoints": [endpoint]}

    def as_general(self) -> dict[str, Any]:
        """Return the model as `GET /api/v1/models` shows it."""
        return {
            "id": self.id,
            "canonical_slug": self.id,
            "name": self.name,
            "description": f"{self.name}, emulated.",
            "created": _CREATED,
            "context_length": 32768,
            "architecture": {
                "input_modalities": ["text", "image"],
                "output_modalities": list(self.outputs),
                "modality": f"text+image->{'+'.join(self.outputs)}",
                "tokenizer": "Other",
                "instruct_type": None,
            },
            "pricing": {"prompt": "0", "completion": "0", "image_output": str(self.usd)},
            "top_provider": {"is_moderated": False, "context_length": 32768, "max_completion_tokens": None},
            "per_request_limits": None,
            "supported_parameters": ["seed"] if "seed" in self.parameters else [],
            "default_parameters": None,
            "supported_voices": None,
            "links": {"details": f"/api/v1/models/{self.id}/endpoints"},
        }


_ALL: Final = {
    "n": _N,
    "size": {"type": "enum", "values": ["auto"]},
    "resolution": {"type": "enum", "values": list(TIER_PX)},
    "aspect_ratio": _RATIOS,
    "quality": _QUALITIES,
    "output_format": _FORMATS,
    "output_compression": {"type": "range", "min": 0, "max": 100},
    "background": _BACKGROUNDS,
    "seed": _BOOLEAN,
}

_SHIPPED: Final = (
    EmulatedModel(
        id="google/gemini-3.1-flash-image",
        name="Gemini 3.1 Flash Image",
        provider="google",
        usd=Decimal("0.039"),
        parameters={"aspect_ratio": _RATIOS, "resolution": _TIERS},
        outputs=("image", "text"),
        chat=True,
    ),
    EmulatedModel(
        id="openai/gpt-image-2",
        name="GPT Image 2",
        provider="openai",
        usd=Decimal("0.042"),
        parameters={"n": _N, "quality": _QUALITIES, "background": _BACKGROUNDS},
        streams=True,
        max_n=10,
    ),
    EmulatedModel(
        id="black-forest-labs/flux.2-pro",
        name="FLUX.2 Pro",
        provider="black-forest-labs",
        usd=Decimal("0.03"),
        parameters={name: _ALL[name] for name in ("size", "aspect_ratio", "seed", "output_format")},
    ),
    EmulatedModel(
        id="emulator/any",
        name="Takes everything",
        provider="emulator",
        usd=Decimal("0.001"),
        parameters=_ALL,
        outputs=("image", "text"),
        chat=True,
        streams=True,
        max_n=10,
    ),
)

OPENAI_MODELS: Final = ("gpt-image-2", "gpt-image-1.5", "gpt-image-1-mini", "chatgpt-image-latest")
"""What OpenAI's own route serves."""


class Models:
    """The models on offer.

    Args:
        serve_any: Whether a model that nobody knows is served too, as one that takes everything.
    """

    def __init__(self, *, serve_any: bool = False) -> None:
        self._by_id = {model.id: model for model in _SHIPPED}
        self._serve_any = serve_any

    def all(self) -> list[EmulatedModel]:
        """Return every model that is listed."""
        return list(self._by_id.values())

    def find(self, model_id: object) -> EmulatedModel:
        """Return the model.

        Raises:
            Refusal: There is none.
        """
        if isinstance(model_id, str) and model_id in self._by_id:
            return self._by_id[model_id]
        if isinstance(model_id, str) and "/" in model_id and self._serve_any:
            return EmulatedModel(
                id=model_id,
                name=model_id,
                provider=model_id.partition("/")[0],
                usd=Decimal("0.001"),
                parameters=_ALL,
                outputs=("image", "text"),
                chat=True,
                max_n=10,
            )
        raise Refusal("404model")
