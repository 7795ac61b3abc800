"""The catalogue: what a model makes, what it costs, and what it refuses before any credits are taken."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pixorly.catalogue import FORMATS, Catalogue, Model, UnknownModel, check_fallbacks, load, read
from pixorly.errors import InvalidRequest

FREE = Model(
    id="test/free",
    name="Free",
    description="Any size.",
    provider="sandbox",
    credits=5,
    quality_credits={"low": 3, "high": 8},
    qualities=("low", "medium", "high"),
    formats=("png", "jpeg"),
    max_n=4,
    seed=True,
)
FIXED = Model(
    id="test/fixed",
    name="Fixed",
    description="Three sizes.",
    provider="openrouter",
    credits=8,
    aspect_ratios={"1:1": (1024, 1024), "2:3": (832, 1248), "3:2": (1248, 832)},
)
SHIPPED = load()


def refusal(model: Model, **asked: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        model.params(**asked)
    return refused.value


def test_asked_for_nothing_a_model_makes_its_default() -> None:
    params = FREE.params()

    assert (params.width, params.height, params.aspect_ratio) == (1024, 1024, None)
    assert (params.quality, params.output_format, params.background, params.seed) == (None, None, None, None)
    assert FIXED.params().aspect_ratio == "1:1"


def test_what_is_asked_for_is_what_is_made() -> None:
    params = FREE.params(width=64, height=4096, quality="high", output_format="jpeg", background="opaque", seed=0)

    assert params.model_dump() == {
        "width": 64,
        "height": 4096,
        "aspect_ratio": None,
        "quality": "high",
        "output_format": "jpeg",
        "background": "opaque",
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        ("1:1", (1024, 1024)),
        ("16:9", (1360, 768)),
        ("9:16", (768, 1360)),
        ("2.39:1", (1584, 656)),
        ("16:1", (4096, 256)),
        ("1:16", (256, 4096)),
    ],
)
def test_a_ratio_becomes_a_size_of_about_the_default_area(ratio: str, size: tuple[int, int]) -> None:
    params = FREE.params(aspect_ratio=ratio)

    assert (params.width, params.height) == size
    assert params.aspect_ratio == ratio


@given(left=st.integers(1, 100), right=st.integers(1, 100))
def test_every_ratio_that_is_taken_gives_a_size_that_can_be_made(left: int, right: int) -> None:
    try:
        params = FREE.params(aspect_ratio=f"{left}:{right}")
    except InvalidRequest:
        assert not 1 / 16 <= left / right <= 16
        return

    assert FREE.min_px <= min(params.width, params.height)
    assert max(params.width, params.height) <= FREE.max_px
    assert params.width % 16 == params.height % 16 == 0
    assert (params.width - params.height) * (left - right) >= 0


@pytest.mark.parametrize("ratio", ["", ":", "16", "16:", ":9", "a:b", "16:0", "nan:1", "inf:1", "17:1", "1:17", "-1:1"])
def test_what_is_no_ratio_is_refused(ratio: str) -> None:
    assert refusal(FREE, aspect_ratio=ratio).facts["param"] == "aspect_ratio"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"width": 63, "height": 64}, "width"),
        ({"width": 4097, "height": 64}, "width"),
        ({"width": 64, "height": 63}, "height"),
        ({"width": 64, "height": 4097}, "height"),
        ({"width": 64}, "height"),
        ({"height": 64}, "width"),
        ({"width": 64, "height": 64, "aspect_ratio": "1:1"}, "aspect_ratio"),
        ({"quality": "best"}, "quality"),
        ({"quality": ""}, "quality"),
        ({"output_format": "webp"}, "output_format"),
        ({"output_format": "jpeg", "background": "transparent"}, "background"),
    ],
)
def test_what_a_model_does_not_make_is_refused_by_the_fields_name(asked: dict[str, Any], param: str) -> None:
    assert refusal(FREE, **asked).facts == {"param": param}


@pytest.mark.parametrize(
    ("asked", "param", "offers"),
    [
        ({"width": 1024, "height": 1023}, "width", "1024x1024, 832x1248, 1248x832"),
        ({"aspect_ratio": "16:9"}, "aspect_ratio", "1:1, 2:3, 3:2"),
        ({"quality": "high"}, "quality", ""),
        ({"seed": 1}, "seed", ""),
    ],
)
def test_a_model_with_fixed_sizes_makes_no_others_and_says_which_it_has(
    asked: dict[str, Any], param: str, offers: str
) -> None:
    error = refusal(FIXED, **asked)

    assert error.facts["param"] == param
    assert offers in error.message


def test_a_fixed_size_has_its_ratio_whichever_way_it_is_asked_for() -> None:
    assert FIXED.params(width=832, height=1248) == FIXED.params(aspect_ratio="2:3")
    assert FIXED.params(aspect_ratio="2:3").width == 832


def test_a_price_is_that_of_the_quality() -> None:
    assert [FREE.credits_per_image(quality) for quality in (None, "low", "medium", "high")] == [5, 3, 5, 8]
    assert FIXED.credits_per_image(None) == 8


@pytest.mark.parametrize(
    ("n", "calls"),
    [
        (1, [(0,)]),
        (4, [(0, 1, 2, 3)]),
        (5, [(0, 1, 2, 3), (4,)]),
        (10, [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]),
    ],
)
def test_calls_share_the_slots_out(n: int, calls: list[tuple[int, ...]]) -> None:
    planned = FREE.calls(n)

    assert [call.indexes for call in planned] == calls
    assert [call.call_no for call in planned] == list(range(len(calls)))


def test_a_model_that_makes_one_at_a_time_is_called_for_each() -> None:
    assert [call.indexes for call in FIXED.calls(3)] == [(0,), (1,), (2,)]


@given(n=st.integers(1, 10), max_n=st.integers(1, 10))
def test_every_slot_is_served_by_one_call(n: int, max_n: int) -> None:
    calls = FREE.model_copy(update={"max_n": max_n}).calls(n)

    assert [index for call in calls for index in call.indexes] == list(range(n))
    assert all(len(call.indexes) <= max_n for call in calls)


def test_a_model_that_is_there_is_found() -> None:
    assert Catalogue((FREE, FIXED)).find("test/fixed") is FIXED


@pytest.mark.parametrize(
    ("asked", "near"), [("test/fre", ["test/free"]), ("TEST/FIXED", []), ("nothing like it at all", [])]
)
def test_an_unknown_model_is_refused_with_the_near_ones(asked: str, near: list[str]) -> None:
    with pytest.raises(UnknownModel) as refused:
        Catalogue((FREE, FIXED)).find(asked)

    found = refused.value
    assert found.code == "unknown_model"
    assert found.facts["param"] == "model"
    assert found.facts["near"][: len(near)] == near
    assert ("Did you mean" in found.message) == bool(found.facts["near"])


def test_a_retired_model_is_refused_not_listed_and_not_offered_instead() -> None:
    old = FREE.model_copy(update={"id": "test/free-1", "retired": True})
    catalogue = Catalogue((old, FREE))

    with pytest.raises(UnknownModel, match="retired") as refused:
        catalogue.find("test/free-1")

    assert refused.value.facts["near"] == ["test/free"]
    assert catalogue.all() == [FREE]


def test_a_model_that_nobody_here_can_make_is_refused_not_listed_and_not_offered_instead() -> None:
    away = FREE.model_copy(update={"id": "test/free-1", "provider": "openai"})
    catalogue = Catalogue((away, FREE)).of(["sandbox"])

    with pytest.raises(UnknownModel, match="not offered here") as refused:
        catalogue.find("test/free-1")

    assert refused.value.facts["near"] == ["test/free"]
    assert catalogue.all() == [FREE]
    assert catalogue.of(None).all() == [away, FREE]


def test_a_long_unknown_name_is_not_repeated_at_length() -> None:
    with pytest.raises(UnknownModel) as refused:
        Catalogue((FREE,)).find("x" * 100_000)

    assert len(refused.value.message) < 300


def test_the_catalogue_that_ships_has_models_that_can_make_their_defaults() -> None:
    for model in SHIPPED.all():
        params = model.params()
        assert (params.width, params.height) == (model.default_width, model.default_height)
        for ratio, size in model.aspect_ratios.items():
            assert (model.params(aspect_ratio=ratio).width, model.params(aspect_ratio=ratio).height) == size


def test_what_the_catalogue_that_ships_offers_can_be_said_to_the_provider() -> None:
    for model in SHIPPED.all():
        if model.provider == "sandbox":
            continue
        takes = set(model.parameters)
        assert "size" in takes or model.aspect_ratios, model.id
        assert {"size", "aspect_ratio"} & takes or len(model.aspect_ratios) == 1, model.id
        assert "quality" in takes or not model.qualities, model.id
        assert "seed" in takes or not model.seed, model.id
        assert "n" in takes or model.max_n == 1, model.id


def test_every_provider_has_a_model_that_ships() -> None:
    assert {model.provider for model in SHIPPED.all()} == {"sandbox", "openrouter", "openai"}


def test_a_background_that_can_not_be_said_is_refused() -> None:
    assert refusal(FIXED, background="transparent").facts["param"] == "background"
    assert FIXED.params(background="opaque").background == "opaque"
    told = FIXED.model_copy(update={"parameters": ("background",)})
    assert told.params(background="transparent").background == "transparent"


CHEAP = FREE.model_copy(update={"id": "test/cheap", "credits": 2, "quality_credits": {"low": 4}, "max_n": 1})


def test_a_fallback_makes_the_very_same_for_no_more() -> None:
    params = FREE.params(width=512, height=256, quality="high", seed=3)

    check_fallbacks(FREE, [], params)
    check_fallbacks(FREE, [CHEAP], params)
    assert CHEAP.same(params) == params


@pytest.mark.parametrize(
    ("model", "fallbacks", "asked", "says"),
    [
        (FREE, [FREE], {}, "another model"),
        (FREE, [CHEAP, CHEAP], {}, "another model"),
        (FREE, [CHEAP], {"quality": "low"}, "costs 4 credits an image, test/free only 3"),
        (FREE, [FIXED], {"width": 64, "height": 64}, "test/fixed makes no 64x64"),
        (FREE, [CHEAP.model_copy(update={"seed": False})], {"seed": 1}, "takes no seed"),
        (FREE, [CHEAP.model_copy(update={"formats": ("png",)})], {"output_format": "jpeg"}, "makes no 'jpeg'"),
        (FREE, [CHEAP.model_copy(update={"qualities": ()})], {"quality": "high"}, "has no quality 'high'"),
    ],
)
def test_a_fallback_that_can_not_stand_in_is_refused(
    model: Model, fallbacks: list[Model], asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        check_fallbacks(model, fallbacks, model.params(**asked))

    assert refused.value.facts["param"] == "fallback_models"


def test_a_fallback_is_asked_in_its_own_terms() -> None:
    assert FIXED.same(FREE.params(width=832, height=1248)).aspect_ratio == "2:3"
    assert FREE.same(FIXED.params(aspect_ratio="2:3")).aspect_ratio == "2:3"


def test_calls_are_planned_so_that_every_fallback_can_make_them() -> None:
    assert [call.indexes for call in FREE.calls(5)] == [(0, 1, 2, 3), (4,)]
    assert [call.indexes for call in FREE.calls(3, [CHEAP])] == [(0,), (1,), (2,)]


def test_the_catalogue_that_ships_prices_every_quality_in_whole_credits() -> None:
    for model in SHIPPED.all():
        assert model.credits > 0
        assert set(model.quality_credits) <= set(model.qualities)
        assert len(set(model.quality_credits.values())) == len(model.quality_credits)


def test_the_models_that_demos_and_loads_count_on_ship() -> None:
    aurora, mosaic = SHIPPED.find("sandbox/aurora"), SHIPPED.find("sandbox/mosaic")

    assert (aurora.credits, aurora.provider, aurora.formats) == (5, "sandbox", FORMATS)
    assert (aurora.min_px, aurora.max_px) == (64, 4096)
    assert (mosaic.credits, mosaic.provider) == (1, "sandbox")


def test_a_catalogue_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[[models]]\nid = "a/b"\nname = "B"\ndescription = "."\nprovider = "sandbox"\ncredits = 2\n')

    assert [model.id for model in load(file).all()] == ["a/b"]


@pytest.mark.parametrize(
    "line", ["credits = 2.5", "credits = -1", 'provider = "elsewhere"', "max_n = 11", "max_n = 0", "unknown = 1"]
)
def test_a_model_that_is_described_wrongly_is_refused(line: str) -> None:
    lines = {"credits": "credits = 2", "provider": 'provider = "sandbox"', line.partition(" ")[0]: line}

    with pytest.raises(ValidationError):
        read('[[models]]\nid = "a/b"\nname = "B"\ndescription = "."\n' + "\n".join(lines.values()))


def test_what_is_no_toml_is_refused() -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        read("[[models")
