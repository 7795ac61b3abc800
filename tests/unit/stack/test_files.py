"""Small files: whole or not at all, secrets for one pair of eyes."""

import stat
from pathlib import Path

from pixorly_stack.files import PASSWORDS, Secrets, read_json, write_json


def test_what_is_written_is_read_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    write_json(tmp_path / "dev.json", {"key": "value"})

    assert read_json(tmp_path / "dev.json") == {"key": "value"}
    assert stat.S_IMODE((tmp_path / "dev.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["dev.json"]


def test_a_missing_or_damaged_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "damaged.json").write_text('{"key": ')

    assert read_json(tmp_path / "damaged.json") is None
    assert read_json(tmp_path / "missing.json") is None


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    first, second = Secrets(tmp_path / "secrets.json"), Secrets(tmp_path / "secrets.json")

    assert [first[name] for name in PASSWORDS] == [second[name] for name in PASSWORDS]
    assert len({first[name] for name in PASSWORDS}) == len(PASSWORDS)
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


def test_a_secret_that_a_newer_version_needs_is_added_to_the_old_ones(tmp_path: Path) -> None:
    write_json(tmp_path / "secrets.json", {"postgres": "old"})

    secrets = Secrets(tmp_path / "secrets.json")

    assert secrets["postgres"] == "old"
    assert len(secrets["rabbitmq"]) >= 32
