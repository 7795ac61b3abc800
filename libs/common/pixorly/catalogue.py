"""The model catalogue: prices, sizes, formats and limits of every model.

The api refuses and prices with it before credits are taken; the generator plans and makes its calls with it.
"""

import difflib
import tomllib
from collections.abc import Collection, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from pixorly.errors import InvalidRequest
from pixorly.events import ImageParams, PlannedCall

Format = Literal["png", "jpeg", "webp"]
_FALLBACKS: Final = "fallback_models"
FORMATS: tuple[Format, ...] = ("png", "jpeg", "webp")


class UnknownModel(InvalidRequest):
    """There is no such model."""

    code = "unknown_model"


class Model(BaseModel):
    """One model on offer.

    Sizes come in two kinds: a model with `aspect_ratios` makes those sizes only, any other makes every size from
    `min_px` to `max_px` on each side. `parameters` names what the provider takes besides model and prompt; we make
    `formats` it does not know by encoding again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    description: str
    provider: Literal["sandbox", "openrouter", "openai"]
    route: Literal["images", "chat"] = "images"
    credits: int = Field(ge=0)
    """For one image of the default quality."""
    quality_credits: dict[str, int] = Field(default_factory=dict)
    """For one image of another quality."""
    min_px: int = Field(default=64, ge=1)
    max_px: int = Field(default=4096, ge=1)
    default_width: int = 1024
    default_height: int = 1024
    aspect_ratios: dict[str, tuple[int, int]] = Field(default_factory=dict)
    formats: tuple[Format, ...] = FORMATS
    qualities: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    max_n: int = Field(default=1, ge=1, le=10)
    """The most images that one call makes; more are made by several calls."""
    seed: bool = False
    typical_s: float = 10
    retired: bool = False

    @property
    def transparent(self) -> bool:
        """Whether it can leave the background out."""
        return self.provider == "sandbox" or "background" in self.parameters

    def credits_per_image(self, quality: str | None) -> int:
        """Return what one image costs, in credits."""
        return self.quality_credits.get(quality or "", self.credits)

    def params(
        self,
        *,
        width: int | None = None,
        height: int | None = None,
        aspect_ratio: str | None = None,
        quality: str | None = None,
        output_format: Format | None = None,
        background: Literal["auto", "transparent", "opaque"] | None = None,
        seed: int | None = None,
    ) -> ImageParams:
        """Return what to ask of the model, in full.

        Raises:
            InvalidRequest: The model does not make such images; `param` names the field.
        """
        if quality is not None and quality not in self.qualities:
            raise _refusal("quality", f"{self.id} has no quality {quality!r}.", self.qualities)
        if output_format is not None and output_format not in self.formats:
            raise _refusal("output_format", f"{self.id} makes no {output_format!r}.", self.formats)
        if seed is not None and not self.seed:
            raise _refusal("seed", f"{self.id} takes no seed.", ())
        if background == "transparent" and not self.transparent:
            raise _refusal("background", f"{self.id} makes no transparent backgrounds.", ())
        if background == "transparent" and output_format == "jpeg":
            raise _refusal("background", "JPEG knows no transparency.", ())
        width, height, aspect_ratio = self._size(width, height, aspect_ratio)
        return ImageParams(
            width=width,
            height=height,
            aspect_ratio=aspect_ratio,
            quality=quality,
            output_format=output_format,
            background=background,
            seed=seed,
        )

    def same(self, params: ImageParams) -> ImageParams:
        """Return what to ask of this model so that it makes what another was asked for.

        Raises:
            InvalidRequest: It does not make such images; `param` names the field.
        """
        asked = params.model_dump(exclude={"aspect_ratio"})
        same = self.params(**asked)
        # One of any size needs no ratio, but may be told.
        return same if same.aspect_ratio else same.model_copy(update={"aspect_ratio": params.aspect_ratio})

    def _size(self, width: int | None, height: int | None, ratio: str | None) -> tuple[int, int, str | None]:
        if (width is None) != (height is None):
            raise _refusal("width" if width is None else "height", "Give width and height together.", ())
        if width is not None and height is not None:
            if ratio is not None:
                raise _refusal("aspect_ratio", "Give either width and height or an aspect ratio.", ())
            return self._pixels(width, height)
        if ratio is None:
            return self.default_width, self.default_height, self._ratio_of(self.default_width, self.default_height)
        if self.aspect_ratios:
            if ratio not in self.aspect_ratios:
                raise _refusal("aspect_ratio", f"{self.id} makes no {ratio}.", tuple(self.aspect_ratios))
            return *self.aspect_ratios[ratio], ratio
        return *self._fitted(ratio), ratio

    def _pixels(self, width: int, height: int) -> tuple[int, int, str | None]:
        if self.aspect_ratios:
            ratio = self._ratio_of(width, height)
            if ratio is None:
                sizes = tuple(f"{w}x{h}" for w, h in self.aspect_ratios.values())
                raise _refusal("width", f"{self.id} makes no {width}x{height}.", sizes)
            return width, height, ratio
        for name, value in (("width", width), ("height", height)):
            if not self.min_px <= value <= self.max_px:
                raise _refusal(name, f"{self.id} makes {self.min_px} to {self.max_px} pixels a side.", ())
        return width, height, None

    def _ratio_of(self, width: int, height: int) -> str | None:
        return next((ratio for ratio, size in self.aspect_ratios.items() if size == (width, height)), None)

    def _fitted(self, ratio: str) -> tuple[int, int]:
        """Return the size of this ratio with about the default's area, each side a multiple of 16."""
        left, _, right = ratio.partition(":")
        try:
            factor = float(left) / float(right)
        except (ValueError, ZeroDivisionError):
            raise _refusal("aspect_ratio", "An aspect ratio looks like 16:9.", ()) from None
        if not 1 / 16 <= factor <= 16:  # noqa: PLR2004 - beyond this an image is a line
            raise _refusal("aspect_ratio", "An aspect ratio lies between 1:16 and 16:1.", ())
        area = self.default_width * self.default_height
        sides = (area * factor) ** 0.5, (area / factor) ** 0.5
        width, height = (min(self.max_px, max(self.min_px, round(side / 16) * 16)) for side in sides)
        return width, height

    def calls(self, n: int, fallbacks: Sequence["Model"] = ()) -> tuple[PlannedCall, ...]:
        """Return the calls that make `n` images, and the slots that each serves; each fallback can make every call."""
        at_once = min(model.max_n for model in (self, *fallbacks))
        starts = range(0, n, at_once)
        return tuple(
            PlannedCall(call_no=call_no, indexes=tuple(range(start, min(n, start + at_once))))
            for call_no, start in enumerate(starts)
        )


def _refusal(param: str, message: str, allowed: tuple[str, ...]) -> InvalidRequest:
    more = f" It has: {', '.join(allowed)}." if allowed else ""
    return InvalidRequest(message + more, param=param)


def check_fallbacks(model: Model, fallbacks: Sequence[Model], params: ImageParams) -> None:
    """Check that each of `fallbacks` may stand in for `model`: another one, that makes the very same for no more.

    Raises:
        InvalidRequest: One may not; `param` is `fallback_models`.
    """
    named = [model.id, *(fallback.id for fallback in fallbacks)]
    if len(set(named)) < len(named):
        raise _refusal(_FALLBACKS, "Each fallback is another model than the first and than each other.", ())
    most = model.credits_per_image(params.quality)
    for fallback in fallbacks:
        try:
            fallback.same(params)
        except InvalidRequest as error:
            raise _refusal(_FALLBACKS, f"{fallback.id} can't stand in: {error.message}", ()) from error
        price = fallback.credits_per_image(params.quality)
        if price > most:
            raise _refusal(_FALLBACKS, f"{fallback.id} costs {price} credits an image, {model.id} only {most}.", ())


class Catalogue:
    """The models, by id.

    Args:
        models: All of them, those that are retired too.
        providers: Whose models are on offer; everybody's if None.
    """

    def __init__(self, models: Sequence[Model], providers: Collection[str] | None = None) -> None:
        self._models = {model.id: model for model in models}
        self._providers = providers

    def of(self, providers: Collection[str] | None) -> "Catalogue":
        """Return the catalogue with the models of these providers on offer; of all if None."""
        return Catalogue(list(self._models.values()), providers)

    def all(self) -> list[Model]:
        """Return the models that can be asked for."""
        return [model for model in self._models.values() if self._state(model) == "offered"]

    def _state(self, model: Model | None) -> str:
        if model is None:
            return "unknown"
        if model.retired:
            return "retired"
        return "offered" if self._providers is None or model.provider in self._providers else "not offered here"

    def find(self, model_id: str, *, param: str = "model") -> Model:
        """Return the model that the field `param` asks for.

        Raises:
            UnknownModel: There is none, it is retired, or nobody here can make it; the message names near ones.
        """
        model = self._models.get(model_id)
        state = self._state(model)
        if model is None or state != "offered":
            near = difflib.get_close_matches(model_id, [model.id for model in self.all()], n=3, cutoff=0.4)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise UnknownModel(f"The model {model_id[:100]!r} is {state}.{hint}", param=param, near=near)
        return model


def read(text: str) -> Catalogue:
    """Return the catalogue that a TOML text describes.

    Raises:
        pydantic.ValidationError: A model is described wrongly.
        tomllib.TOMLDecodeError: The text is not TOML.
    """
    return Catalogue(tuple(Model.model_validate(row) for row in tomllib.loads(text)["models"]))


@cache
def load(path: Path | None = None) -> Catalogue:
    """Return the catalogue in `path`, else the one that ships."""
    source = path or files("pixorly") / "models.toml"
    return read(source.read_text(encoding="utf-8"))
