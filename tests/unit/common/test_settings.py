"""Settings: their names in the environment, their bounds, and that secrets stay secret."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from pixorly.settings import AmqpSettings, LedgerClientSettings, ProcessSettings, Settings, StorageSettings
from pixorly_generator.settings import GeneratorSettings

Environment = Callable[..., None]


class Everything(ProcessSettings, AmqpSettings, StorageSettings, LedgerClientSettings):
    """A process that takes all there is."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Start from an environment without a setting of ours; call it to set some."""
    names = {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_S3_BUCKET", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    names |= {"OPENROUTER_API_KEY", "OPENROUTER_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"}
    names |= {f"PIXORLY_{field.upper()}" for kind in (Everything, GeneratorSettings) for field in kind.model_fields}
    for name in names:
        monkeypatch.delenv(name, raising=False)

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def test_without_an_environment_a_process_has_what_a_developer_needs(environment: Environment) -> None:
    settings = Everything.load()

    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 8080)
    assert settings.retry_delays_s == (2, 4, 8)
    assert settings.aws_s3_bucket == "pixorly-images"
    assert settings.s3_sse == "AES256"
    assert settings.aws_access_key_id is None
    assert settings.otlp_endpoint_url is None
    assert settings.s3_endpoint_url is None


@pytest.mark.parametrize(
    ("name", "field", "text", "value"),
    [
        ("PIXORLY_HTTP_PORT", "http_port", "9000", 9000),
        ("PIXORLY_LOG_LEVEL", "log_level", "debug", "debug"),
        ("PIXORLY_SHUTDOWN_GRACE_S", "shutdown_grace_s", "1.5", 1.5),
        ("PIXORLY_AMQP_URL", "amqp_url", "amqp://a:b@c/d", SecretStr("amqp://a:b@c/d")),
        ("PIXORLY_RETRY_DELAYS_S", "retry_delays_s", "1, 2,3", (1, 2, 3)),
        ("PIXORLY_S3_ENDPOINT_URL", "s3_endpoint_url", "http://s3", "http://s3"),
        ("PIXORLY_LEDGER_URL", "ledger_url", "http://ledger", "http://ledger"),
        ("PIXORLY_SERVICE_TOKEN", "service_token", "t", SecretStr("t")),
        ("AWS_REGION", "aws_region", "eu-north-1", "eu-north-1"),
        ("AWS_ACCESS_KEY_ID", "aws_access_key_id", "id", SecretStr("id")),
        ("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key", "key", SecretStr("key")),
        ("AWS_S3_BUCKET", "aws_s3_bucket", "mine", "mine"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint_url", "http://otel:4318", "http://otel:4318"),
    ],
)
def test_a_setting_comes_from_its_name_in_the_environment(
    environment: Environment, name: str, field: str, text: str, value: object
) -> None:
    environment(**{name: text})

    assert getattr(Everything.load(), field) == value


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("OPENROUTER_API_KEY", "openrouter_api_key"),
        ("OPENROUTER_BASE_URL", "openrouter_base_url"),
        ("OPENAI_API_KEY", "openai_api_key"),
        ("OPENAI_BASE_URL", "openai_base_url"),
    ],
)
def test_the_providers_own_names_are_kept(environment: Environment, name: str, field: str) -> None:
    environment(**{name: "http://given", "PIXORLY_GENERATOR_DATABASE_URL": "postgresql://x"})

    found = getattr(GeneratorSettings.load(), field)
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == "http://given"


@pytest.mark.parametrize("field", sorted(Everything.model_fields))
def test_an_empty_text_is_a_setting_left_out(environment: Environment, field: str) -> None:
    """Compose files and CI pass on variables that nobody set."""
    defaults = Everything.load()
    alias = Everything.model_fields[field].validation_alias
    environment(**{f"PIXORLY_{field.upper()}": "", **({field.upper(): ""} if alias else {})})

    assert getattr(Everything.load(), field) == getattr(defaults, field)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "AWS_ACCESS_KEY_ID"])
def test_an_empty_name_of_somebody_elses_is_left_out_too(environment: Environment, name: str) -> None:
    environment(**{name: ""})

    settings = Everything.load()
    assert settings.otlp_endpoint_url is None
    assert settings.aws_access_key_id is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PIXORLY_HTTP_PORT", "eighty"),
        ("PIXORLY_SHUTDOWN_GRACE_S", "-1"),
        ("PIXORLY_AMQP_HEARTBEAT_S", "0"),
        ("PIXORLY_PUBLISH_TIMEOUT_S", "0"),
        ("PIXORLY_PREFETCH", "0"),
        ("PIXORLY_RETRY_DELAYS_S", "soon"),
        ("PIXORLY_S3_TIMEOUT_S", "0"),
        ("PIXORLY_STAGING_DAYS", "0"),
        ("PIXORLY_LEDGER_TIMEOUT_S", "0"),
        ("PIXORLY_TRACE_SAMPLE_RATIO", "1.1"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_the_start_by_its_name(
    environment: Environment, name: str, text: str
) -> None:
    environment(**{name: text})

    with pytest.raises(ValidationError, match=name.removeprefix("PIXORLY_").lower()):
        Everything.load()


def test_all_that_is_missing_is_named_at_once(environment: Environment) -> None:
    class Needy(Settings):
        first: str
        second: int

    with pytest.raises(ValidationError) as refused:
        Needy.load()

    assert [error["loc"] for error in refused.value.errors()] == [("first",), ("second",)]


def test_secrets_are_not_shown(environment: Environment) -> None:
    environment(
        PIXORLY_AMQP_URL="amqp://user:hush@host/",
        PIXORLY_SERVICE_TOKEN="hush",
        PIXORLY_GENERATOR_DATABASE_URL="postgresql://user:hush@host/",
        AWS_ACCESS_KEY_ID="hush",
        AWS_SECRET_ACCESS_KEY="hush",
        OPENROUTER_API_KEY="hush",
        OPENAI_API_KEY="hush",
    )

    for settings in (Everything.load(), GeneratorSettings.load()):
        assert "hush" not in repr(settings)
        assert "hush" not in str(settings)
        assert "hush" not in settings.model_dump_json()


def test_a_refusal_does_not_show_a_secret(environment: Environment) -> None:
    environment(PIXORLY_AMQP_URL="amqp://user:hush@host/", PIXORLY_RETRY_DELAYS_S="hush")

    with pytest.raises(ValidationError) as refused:
        Everything.load()

    assert "hush" not in str(refused.value)


def test_settings_never_change() -> None:
    settings = ProcessSettings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.http_port = 1  # type: ignore[misc]


def test_secrets_may_be_files_and_the_environment_goes_before_them(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "pixorly_amqp_url").write_text("amqp://of-the-file")
    (tmp_path / "aws_secret_access_key").write_text("of the file")
    (tmp_path / "pixorly_service_token").write_text("of the file")
    environment(PIXORLY_SECRETS_DIR=str(tmp_path), PIXORLY_SERVICE_TOKEN="of the environment")

    settings = Everything.load()

    assert settings.amqp_url.get_secret_value() == "amqp://of-the-file"
    assert settings.aws_secret_access_key == SecretStr("of the file")
    assert settings.service_token == SecretStr("of the environment")
