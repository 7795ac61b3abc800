"""`pixorly models sync` as a user calls it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pixorly_stack.cli import app


def test_a_catalogue_is_left_as_it_is_where_openrouter_can_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_BASE_URL", "http://127.0.0.1:9")
    file = tmp_path / "models.toml"
    file.write_text("models = []\n")

    assert CliRunner().invoke(app, ["models", "sync", "--file", str(file), "--write"]).exit_code == 1
    assert file.read_text() == "models = []\n"
