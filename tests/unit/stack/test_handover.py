"""`pixorly prepare`: what each service is told, and nothing of the others'."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from pixorly_stack.access import S3Access
from pixorly_stack.errors import StackError
from pixorly_stack.files import Secrets
from pixorly_stack.handover import access_of, told_to, write_env
from pixorly_stack.prepare import DATABASES, USERS, Prepared
from pixorly_stack.settings import StackSettings, environment

PREPARED = Prepared(
    {name: f"postgresql://{name}" for name in DATABASES},
    {name: f"amqp://{name}" for name in USERS},
    "amqp://admin",
    own_users=True,
    s3=S3Access(None, "eu-north-1", "", "", "images"),
)


def settings(**given: object) -> StackSettings:
    return StackSettings(database_url=None, amqp_url=None).model_copy(update=given)


def test_each_service_is_told_its_own(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "secrets.json")

    told = told_to(PREPARED, secrets)

    assert set(told) == set(USERS)
    for name, values in told.items():
        assert values.pop("PIXORLY_AMQP_URL") == f"amqp://{name}"
        assert values.pop("PIXORLY_SERVICE_TOKEN") == secrets["service-token"]
        assert values.pop(f"PIXORLY_{name.upper()}_DATABASE_URL", None) == PREPARED.database_urls.get(name)
    assert told.pop("api") == {"PIXORLY_ADMIN_KEY": secrets["admin-key"]}
    assert all(rest == {} for rest in told.values())


def test_an_env_file_is_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "env" / "api.env"

    write_env(file, {"A": "1", "B": "2"})

    assert file.read_text() == "A=1\nB=2\n"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "named", [{}, {"database_url": SecretStr("postgresql://x")}, {"amqp_url": SecretStr("amqp://x")}]
)
def test_both_servers_must_be_named(named: dict[str, SecretStr]) -> None:
    with pytest.raises(StackError, match="PIXORLY_DATABASE_URL and PIXORLY_AMQP_URL must name"):
        access_of(settings(**named))


def test_the_management_api_is_looked_for_where_it_usually_is() -> None:
    access = access_of(settings(database_url=SecretStr("postgresql://x"), amqp_url=SecretStr("amqps://ada:x@mq/")))

    assert access.management_url == "https://ada:x@mq:15671"


def test_a_store_without_keys_is_reached_by_the_machines_own_identity() -> None:
    assert S3Access(None, "eu-north-1", "", "", "images").settings().aws_access_key_id is None


def test_secrets_may_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pixorly_admin_key").write_text("of the file\n")
    (tmp_path / "pixorly_api_url").write_text("of the file\n")
    monkeypatch.delenv("PIXORLY_ADMIN_KEY", raising=False)
    monkeypatch.setenv("PIXORLY_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("PIXORLY_API_URL", "of the environment")

    assert environment()["PIXORLY_ADMIN_KEY"] == "of the file"
    assert environment()["PIXORLY_API_URL"] == "of the environment"
