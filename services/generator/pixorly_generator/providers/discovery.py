"""What OpenRouter offers, and what our catalogue would be if it followed.

`pixorly models sync` shows the difference before it writes. A model that is gone is retired, not deleted: whoever asks
for it gets a clear answer. Prices in credits of models that we have stay as they are: they are a person's decision.
"""

import asyncio
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

import httpx

from pixorly.catalogue import Model
from pixorly.errors import ProviderUnavailable
from pixorly_generator.providers.answers import mapping, usd
from pixorly_generator.providers.http import usual_authorities

USD_PER_CREDIT: Final = Decimal("0.005")
"""What a credit is worth where a new model's price is proposed."""

_PARAMETERS: Final = ("n", "size", "aspect_ratio", "resolution", "quality", "output_format", "background", "seed")
_RATIOS: Final = {
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
"""The usual pixels of each ratio."""
_AT_ONCE: Final = 8
_MOST_N: Final = 10


@dataclass(frozen=True, slots=True)
class Offer:
    """One image model of OpenRouter's.

    Attributes:
        id: As requests name it.
        name: For people.
        description: For people.
        parameters: What it takes, by field, in OpenRouter's words.
        usd_per_image: What the dearest of its providers asks for an image; None where that is not told by the image.
    """

    id: str
    name: str
    description: str
    parameters: Mapping[str, Any]
    usd_per_image: Decimal | None = None


async def discover(base_url: str, api_key: str | None = None) -> list[Offer]:
    """Return every image model that OpenRouter lists, with its price.

    Raises:
        ProviderUnavailable: OpenRouter can't be reached, or answers with something else.
    """
    root = base_url.rstrip("/").removesuffix("/api/v1") + "/api/v1"
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with httpx.AsyncClient(
            headers=headers, verify=usual_authorities(), trust_env=False, timeout=30
        ) as client:
            listed = await _data(client, f"{root}/images/models")
            turns = asyncio.Semaphore(_AT_ONCE)
            return await asyncio.gather(*(_offer(client, root, mapping(entry), turns) for entry in listed))
    except (httpx.HTTPError, ValueError) as error:
        raise ProviderUnavailable("The list of models could not be read.") from error


async def _data(client: httpx.AsyncClient, url: str) -> list[Any]:
    response = await client.get(url)
    response.raise_for_status()
    data = mapping(json.loads(response.text, parse_float=Decimal)).get("data")
    entries = data if isinstance(data, list) else []
    if not entries or not all(mapping(entry).get("id") for entry in entries):
        raise ValueError(url)  # an empty list is no news either: it would retire every model
    return entries


async def _offer(client: httpx.AsyncClient, root: str, told: Mapping[str, Any], turns: asyncio.Semaphore) -> Offer:
    model_id = str(told["id"])
    async with turns:
        response = await client.get(f"{root}/images/models/{model_id}/endpoints")
    response.raise_for_status()
    endpoints = mapping(json.loads(response.text, parse_float=Decimal)).get("endpoints") or []
    lines = [mapping(line) for endpoint in endpoints for line in mapping(endpoint).get("pricing") or []]
    prices = [
        price
        for line in lines
        if line.get("billable") == "output_image"
        and line.get("unit") == "image"
        and (price := usd(line.get("cost_usd"))) is not None
    ]
    return Offer(
        id=model_id,
        name=str(told.get("name") or model_id),
        description=str(told.get("description") or "").partition("\n")[0][:300],
        parameters=mapping(told.get("supported_parameters")),
        usd_per_image=max(prices, default=None),
    )


def followed(
    models: Iterable[Model], offers: Iterable[Offer], *, usd_per_credit: Decimal = USD_PER_CREDIT
) -> list[Model]:
    """Return the catalogue's models as they would be: ours brought up to date, the new ones after them."""
    offered = {offer.id: offer for offer in offers}
    kept = [
        _updated(model, offered.pop(model.id, None)) if model.provider == "openrouter" else model for model in models
    ]
    for model in kept:
        offered.pop(model.id, None)  # one that another provider of ours makes under this name
    return [*kept, *(_new(offer, usd_per_credit) for offer in offered.values())]


def _updated(model: Model, offer: Offer | None) -> Model:
    if offer is None:
        # On the chat route there may be models that the image route does not list.
        return model if model.route == "chat" or model.retired else _with(model, {"retired": True})
    changes = {**_facts(offer), **({"retired": False} if model.retired else {})}
    if not {"size", "aspect_ratio"} & set(changes["parameters"]):
        changes["aspect_ratios"] = _default_only(model)
    return _with(model, changes)


def _default_only(model: Model) -> dict[str, tuple[int, int]]:
    """Return the one size of a model that can be told none: whatever it makes unasked."""
    default = (model.default_width, model.default_height)
    return {ratio: size for ratio, size in model.aspect_ratios.items() if size == default} or {"1:1": default}


def _new(offer: Offer, usd_per_credit: Decimal) -> Model:
    price = offer.usd_per_image or Decimal(0)
    facts = {
        "id": offer.id,
        "name": offer.name,
        "description": offer.description or f"{offer.name}, by way of OpenRouter.",
        "provider": "openrouter",
        "route": "images",
        "credits": max(1, int((price / usd_per_credit).to_integral_value(ROUND_CEILING))),
        "aspect_ratios": _ratios(offer),
    }
    return Model.model_validate({**facts, **_facts(offer)})


def _facts(offer: Offer) -> dict[str, Any]:
    """Return what the offer decides, and we do not."""
    takes = offer.parameters
    facts: dict[str, Any] = {"parameters": tuple(name for name in _PARAMETERS if name in takes)}
    qualities = mapping(takes.get("quality")).get("values") or []
    if qualities:
        facts["qualities"] = tuple(str(quality) for quality in qualities if quality != "auto")
    most = mapping(takes.get("n")).get("max", 1)
    facts["max_n"] = max(1, min(_MOST_N, int(most))) if "n" in takes else 1
    facts["seed"] = "seed" in takes
    return facts


def _ratios(offer: Offer) -> dict[str, tuple[int, int]]:
    """Return the ratios that can be asked for; a model that takes neither ratio nor size makes squares."""
    told = mapping(offer.parameters.get("aspect_ratio")).get("values")
    if "size" in offer.parameters and not told:
        return dict(_RATIOS)
    return {ratio: size for ratio, size in _RATIOS.items() if ratio in (told or ["1:1"])}


def _with(model: Model, changes: Mapping[str, Any]) -> Model:
    """Return the model with what really changes, so that what was left out stays left out."""
    changed = {name: value for name, value in changes.items() if getattr(model, name) != value}
    return Model.model_validate({**model.model_dump(exclude_unset=True), **changed})


def rewritten(text: str, offers: Iterable[Offer], *, usd_per_credit: Decimal = USD_PER_CREDIT) -> str:
    """Return the text of a catalogue as it would be: its head as it is, then every model.

    Raises:
        pydantic.ValidationError: The text is no catalogue.
        tomllib.TOMLDecodeError: The text is not TOML.
    """
    rows = tomllib.loads(text).get("models", [])
    models = followed([Model.model_validate(row) for row in rows], offers, usd_per_credit=usd_per_credit)
    orders = {row["id"]: tuple(row) for row in rows}
    blocks = (_written(model, orders.get(model.id, ())) for model in models)
    return text.partition("[[models]]")[0] + "\n\n".join(blocks) + "\n"


def _written(model: Model, order: tuple[str, ...]) -> str:
    """Return the model as a block, its fields in the order in which they were."""
    fields = model.model_dump(exclude_unset=True)
    names = [*(name for name in order if name in fields), *(name for name in fields if name not in order)]
    return "\n".join(["[[models]]", *(f"{name} = {_toml(fields[name])}" for name in names)])


def _toml(value: object) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(name)} = {_toml(entry)}" for name, entry in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # A JSON string, number or boolean is TOML's, too.
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)
