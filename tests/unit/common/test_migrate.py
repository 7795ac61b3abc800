"""`pixorly-migrate`: which migrations make up a service's database, and where it is."""

from importlib import import_module
from importlib.resources import files

import pytest
from sources import by_name, of_service

from pixorly.migrate import PACKAGES, MigrationSettings, main


@pytest.mark.parametrize("service", PACKAGES)
def test_a_service_migrates_the_same_when_it_starts(service: str) -> None:
    names = ", ".join(f'"{package}"' for package in PACKAGES[service])

    assert any(f"{names})" in source.text and "migrate(" in source.text for source in of_service(service)), by_name
    assert all((files(import_module(package)) / "migrations").is_dir() for package in PACKAGES[service])


@pytest.mark.parametrize("arguments", [[], ["uploader"], ["api", "ledger"]])
def test_only_what_has_a_database_can_be_migrated(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="usage: pixorly-migrate api"):
        main(arguments)


def test_where_the_database_is_must_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIXORLY_LEDGER_DATABASE_URL", raising=False)

    with pytest.raises(SystemExit, match="PIXORLY_LEDGER_DATABASE_URL must be set"):
        main(["ledger"])


def test_a_database_that_is_away_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXORLY_LEDGER_DATABASE_URL", "postgresql://ada:secret@127.0.0.1:1/x")

    with pytest.raises(SystemExit, match="could not be reached") as ended:
        main(["ledger"])
    assert "secret" not in str(ended.value)


def test_each_database_has_a_url_of_its_own() -> None:
    settings = MigrationSettings.model_validate(
        {"api_database_url": "postgresql://a", "ledger_database_url": "postgresql://l"}
    )

    assert [settings.url(service) for service in PACKAGES] == ["postgresql://a", None, "postgresql://l"]
