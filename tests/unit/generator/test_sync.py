"""The catalogue brought up to date: shown first, written only when told to."""

from pathlib import Path
from typing import Any

import pytest

from pixorly import catalogue
from pixorly_generator.providers.discovery import Offer
from pixorly_generator.sync import synced

OFFERS = [Offer("new/model", "New", "It is new.", {"aspect_ratio": {"values": ["1:1", "16:9"]}})]
EMPTY = """# Ours.

[[models]]
id = "sandbox/mosaic"
name = "Mosaic"
description = "Tiles."
provider = "sandbox"
credits = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "models.toml"
    made.write_text(EMPTY)
    return made


def test_the_difference_is_shown_and_nothing_is_written_without_a_yes(file: Path) -> None:
    said: list[Any] = []

    assert not synced(file, OFFERS, lambda: False, said.append)

    assert file.read_text() == EMPTY
    assert '+id = "new/model"' in said[0]
    assert "left as it is" in said[1]


def test_a_yes_writes_what_was_shown(file: Path) -> None:
    said: list[Any] = []

    assert synced(file, OFFERS, lambda: True, said.append)

    assert [model.id for model in catalogue.read(file.read_text()).all()] == ["sandbox/mosaic", "new/model"]
    assert [path.name for path in file.parent.iterdir()] == ["models.toml"]


def test_what_is_up_to_date_is_not_asked_about(file: Path) -> None:
    synced(file, OFFERS, lambda: True, lambda _: None)
    said: list[Any] = []

    assert not synced(file, OFFERS, lambda: pytest.fail("asked"), said.append)
    assert "up to date" in said[0]
