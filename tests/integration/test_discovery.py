"""What OpenRouter offers becomes a catalogue, without a person's decisions being overruled."""

import difflib
import tomllib
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
from provider_calls import a_model
from raw_server import http, raw_server

from pixorly import catalogue
from pixorly.errors import ProviderUnavailable
from pixorly_emulator import serving
from pixorly_generator.providers.discovery import Offer, discover, followed, rewritten

SHIPPED = (files("pixorly") / "models.toml").read_text(encoding="utf-8")
SMALL = """\
# Ours.

[[models]]
id = "sandbox/mosaic"
name = "Mosaic"
description = "Tiles."
provider = "sandbox"
credits = 1
typical_s = 0.2

[[models]]
id = "a/b"
name = "B"
description = "Says \\"b\\"."
provider = "openrouter"
credits = 8
aspect_ratios = { "1:1" = [1024, 1024], "2:3" = [832, 1248] }
qualities = ["low", "high"]
quality_credits = { low = 3 }
parameters = ["n", "aspect_ratio", "quality"]
max_n = 4
typical_s = 8
"""


def an_offer(model_id: str = "emulator/any", usd: str | None = "0.04", **parameters: Any) -> Offer:
    return Offer(model_id, "Any", "Takes everything.", parameters, None if usd is None else Decimal(usd))


async def test_the_emulator_s_models_are_discovered_with_their_prices() -> None:
    async with serving() as emulator:
        offers = {offer.id: offer for offer in await discover(f"{emulator.url}/api/v1", "k")}

    assert offers["google/gemini-3.1-flash-image"].usd_per_image == Decimal("0.039")
    assert "aspect_ratio" in offers["google/gemini-3.1-flash-image"].parameters


@pytest.mark.parametrize("body", [b"<html>", b'{"data": 5}', b'{"data": [7]}', b"{}"])
async def test_a_list_that_is_none_is_the_provider_s_absence(body: bytes) -> None:
    async with raw_server(http(body)) as server:
        with pytest.raises(ProviderUnavailable):
            await discover(server.url)


def test_a_new_model_is_proposed_with_a_price_that_covers_its_cost() -> None:
    offer = an_offer(n={"type": "range", "max": 4}, quality={"values": ["auto", "low", "high"]}, seed={})

    [model] = followed([], [offer])

    assert (model.id, model.provider, model.route) == ("emulator/any", "openrouter", "images")
    assert model.credits == 8
    assert (model.max_n, model.qualities, model.seed) == (4, ("low", "high"), True)
    assert model.parameters == ("n", "quality", "seed")
    assert model.aspect_ratios == {"1:1": (1024, 1024)}


@pytest.mark.parametrize(("usd", "credits"), [("0.0001", 1), ("0.005", 1), ("0.0051", 2), (None, 1)])
def test_a_price_is_rounded_up(usd: str | None, credits: int) -> None:  # noqa: A002 - the catalogue's word
    [model] = followed([], [an_offer(usd=usd)])

    assert model.credits == credits


def test_a_model_that_we_have_keeps_its_price_and_takes_over_what_it_takes() -> None:
    ours = a_model(credits=99, parameters=("size",), max_n=1)

    [model] = followed([ours], [an_offer(n={"type": "range", "max": 20}, aspect_ratio={"values": ["1:1"]})])

    assert model.credits == 99
    assert (model.parameters, model.max_n) == (("n", "aspect_ratio"), 10)


def test_a_model_that_can_be_told_no_size_is_offered_in_its_default_only() -> None:
    ours = a_model(aspect_ratios={"1:1": (1024, 1024), "2:3": (832, 1248)}, parameters=("aspect_ratio",))

    [told] = followed([ours], [an_offer(aspect_ratio={"values": ["1:1"]})])
    [untold] = followed([ours], [an_offer(n={"max": 4})])

    assert set(told.aspect_ratios) == {"1:1", "2:3"}
    assert untold.aspect_ratios == {"1:1": (1024, 1024)}


def test_a_model_of_another_provider_is_not_offered_twice() -> None:
    ours = a_model(provider="openai")

    assert followed([ours], [an_offer(ours.id)]) == [ours]


def test_a_model_that_is_gone_is_retired_and_one_that_is_back_is_not() -> None:
    [gone] = followed([a_model()], [])
    [back] = followed([gone], [an_offer()])

    assert gone.retired
    assert not back.retired


def test_models_of_others_and_of_the_chat_route_are_left_alone() -> None:
    models = [a_model(provider="sandbox"), a_model(provider="openai"), a_model(route="chat")]

    assert followed(models, []) == models


def test_a_catalogue_that_is_up_to_date_is_written_as_it_was() -> None:
    offer = an_offer("a/b", n={"max": 4}, aspect_ratio={"values": ["1:1"]}, quality={"values": ["low", "high"]})

    assert rewritten(SMALL, [offer]) == SMALL


def test_a_difference_shows_only_what_changes() -> None:
    changed = rewritten(SMALL, [an_offer("new/model")])

    added = [line for line in difflib.ndiff(SMALL.splitlines(), changed.splitlines()) if line[:2] in {"+ ", "- "}]
    assert added[0] == "+ retired = true"
    assert '+ id = "new/model"' in added
    assert not any(line.startswith("- ") for line in added)


def test_what_is_written_can_be_read_again() -> None:
    text = rewritten(SHIPPED, [an_offer('quotes"/and\\more', n={"max": 3}), an_offer("plain/one")])

    models = catalogue.read(text)
    assert models.find('quotes"/and\\more').max_n == 3
    assert len(tomllib.loads(text)["models"]) == len(tomllib.loads(SHIPPED)["models"]) + 2
