"""`pixorly emulator` and `pixorly models sync` as a user calls them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pixorly_stack.cli import app


def test_the_emulator_reads_its_own_options_and_lists_its_faults() -> None:
    shown = CliRunner().invoke(app, ["emulator", "--help"])

    assert shown.exit_code == 0
    assert "usage: pixorly emulator" in shown.output
    assert "--any-model" in shown.output
    assert "404model" in shown.output


def test_the_emulator_refuses_an_option_that_it_does_not_know() -> None:
    assert CliRunner().invoke(app, ["emulator", "--no-such"]).exit_code == 2


def test_a_catalogue_is_left_as_it_is_where_openrouter_can_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_BASE_URL", "http://127.0.0.1:9")
    file = tmp_path / "models.toml"
    file.write_text("models = []\n")

    assert CliRunner().invoke(app, ["models", "sync", "--file", str(file), "--write"]).exit_code == 1
    assert file.read_text() == "models = []\n"
