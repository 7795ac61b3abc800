"""What the answers of all providers have in common: images in text, prices, and counts."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from pixorly.errors import InvalidImage, NoImage, PixorlyError
from pixorly_generator.providers import GeneratedImage
from pixorly_generator.providers.decoding import Parsed
from pixorly_generator.providers.fetch import Fetcher

_INLINE_CHARS: Final = 4096
_SCHEME_CHARS: Final = 20
_MOST_USD: Final = 10_000
_MOST: Final = 1 << 53


def usd(value: object) -> Decimal | None:
    """Return an amount of money; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    amount = Decimal(value)
    return amount if amount.is_finite() and 0 <= amount <= _MOST_USD else None


def counts(told: Mapping[str, Any]) -> dict[str, int | float | str | bool]:
    """Return the whole numbers among what was told: tokens, mostly."""
    return {name: value for name, value in told.items() if type(value) is int and 0 <= value < _MOST}


def number(value: object) -> float | None:
    """Return a number that is not below zero, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    return float(min(value, _MOST)) if value >= 0 else None


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def user_tag(user_id: str) -> str:
    """Return what a provider is told of a user: always the same, and no way back to who it is."""
    return sha256(f"pixorly/{user_id}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Bill:
    """What an answer says that it cost."""

    cost_usd: Decimal | None = None
    generation_id: str | None = None
    usage: Mapping[str, int | float | str | bool] = field(default_factory=dict)

    @contextmanager
    def on_errors(self) -> Iterator[None]:
        """Put the bill into the facts of an error that is raised inside: money may have been spent."""
        try:
            yield
        except PixorlyError as error:
            told = {"cost_usd": self.cost_usd, "generation_id": self.generation_id}
            error.facts.update({name: value for name, value in told.items() if value is not None})
            raise


@dataclass(frozen=True, slots=True)
class Item:
    """One image of an answer: base64 (or a marker of it), a data URL or an address."""

    text: str
    content_type: str | None = None
    revised_prompt: str | None = None


def items_of(data: object) -> list[Item]:
    """Return the images of a list of `{b64_json or url, media_type?, revised_prompt?}`; anything odd is left out."""
    found = []
    for entry in data if isinstance(data, list) else []:
        told = mapping(entry)
        text = told.get("b64_json") or told.get("url")
        media_type, revised = told.get("media_type"), told.get("revised_prompt")
        if isinstance(text, str) and text:
            found.append(
                Item(
                    text=text,
                    content_type=media_type if isinstance(media_type, str) else None,
                    revised_prompt=revised if isinstance(revised, str) else None,
                )
            )
    return found


async def read_images(parsed: Parsed | None, items: Sequence[Item], fetcher: Fetcher) -> list[GeneratedImage]:
    """Return the images that can be read, off the event loop; one that can't is left out.

    Raises:
        NoImage: There is none.
        InvalidImage: None can be read, or one came as an address that we do not fetch from.
        TransientError: An image that came as an address could not be fetched.
    """
    if parsed is None or not items:
        raise NoImage
    images = [image for item in items if (image := await _read_image(parsed, item, fetcher))]
    if not images:
        raise InvalidImage
    return images


async def _read_image(parsed: Parsed, item: Item, fetcher: Fetcher) -> GeneratedImage | None:
    if "://" in item.text[:_SCHEME_CHARS]:
        fetched = await fetcher.fetch(item.text)
        return GeneratedImage(fetched.data, fetched.content_type, item.revised_prompt)
    try:
        small = len(item.text) < _INLINE_CHARS and not parsed.cut
        data = parsed.base64(item.text) if small else await asyncio.to_thread(parsed.base64, item.text)
    except ValueError:
        return None
    return GeneratedImage(data, item.content_type, item.revised_prompt) if data else None
