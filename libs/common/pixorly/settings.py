"""Settings that more than one service takes; each service combines them in its own frozen class, built once.

Every setting comes from the environment: `PIXORLY_` and the field's name in capitals, but for the names that AWS's and
OpenRouter's own tools use too. `.env.example` lists them all.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pixorly.topology import LADDER_S


def _split(value: object) -> object:
    return [part for part in value.replace(" ", "").split(",") if part] if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Delays = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Written with commas between them."""


class Settings(BaseSettings):
    """What all settings have in common."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="PIXORLY_",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def load(cls) -> Self:
        """Return the settings that the environment gives, and the files in the folder `PIXORLY_SECRETS_DIR`.

        A file has a variable's name in small letters, `pixorly_amqp_url`; the environment goes before it.

        Raises:
            pydantic.ValidationError: One is missing or not valid; it names them all.
        """
        return cls(_secrets_dir=os.environ.get("PIXORLY_SECRETS_DIR") or None)  # noqa: TID251 - it says where settings are


class ProcessSettings(Settings):
    """What every process takes."""

    secrets_dir: Path | None = None
    """A folder whose files are read as settings, for those who keep secrets out of the environment: a file has a
    variable's name in small letters, such as `pixorly_amqp_url`."""
    environment: str = "local"
    log_level: str = "INFO"
    http_host: str = "127.0.0.1"
    http_port: int = 8080
    trusted_proxies: Names = ("127.0.0.1",)
    """Whose `X-Forwarded-For` says where a request comes from: addresses or networks; `*` is anybody's."""
    shutdown_grace_s: float = Field(default=25, ge=0)
    """How long a process that is told to stop may finish what it has."""
    niceness: int = Field(default=0, ge=0, le=19)
    """How far a process that shares a machine gives way to others once it has started; POSIX only."""
    failpoints: str = ""
    """For tests only: where to die, as `name=file`; see `pixorly.failpoints`."""
    otlp_endpoint_url: str | None = Field(
        default=None, validation_alias=AliasChoices("otlp_endpoint_url", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    """Where spans go, as OTLP over HTTP; none are made where this is not set."""
    otlp_metrics_every_s: float = Field(default=0, ge=0)
    """How often metrics go to the same place; 0: they are served at `/metrics` only."""
    trace_sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """The share of traces that is sent; those in which something fails are always sent."""


class AmqpSettings(Settings):
    """What a process that talks to RabbitMQ takes."""

    amqp_url: SecretStr = SecretStr("amqp://guest:guest@127.0.0.1:5672/")
    amqp_heartbeat_s: int = Field(default=10, ge=1)
    """A link that is cut without a word is noticed after about three times this."""
    publish_timeout_s: float = Field(default=5, gt=0)
    prefetch: int = Field(default=32, ge=1)
    """How many messages of one queue a process works on at once."""
    retry_delays_s: Delays = LADDER_S
    """The ladder. A change makes new queues; the old ones drain by themselves and can then be deleted."""


class StorageSettings(Settings):
    """What a process that talks to the object store takes."""

    aws_region: str = Field(default="us-east-1", validation_alias=AliasChoices("aws_region", "AWS_REGION"))
    aws_access_key_id: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("aws_access_key_id", "AWS_ACCESS_KEY_ID")
    )
    aws_secret_access_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY")
    )
    aws_s3_bucket: str = Field(
        default="pixorly-images", validation_alias=AliasChoices("aws_s3_bucket", "AWS_S3_BUCKET")
    )
    s3_endpoint_url: str | None = None
    """Another S3 server than AWS; addressed by path."""
    s3_timeout_s: float = Field(default=20, gt=0)
    """The longest that one call to the object store may take."""
    s3_sse: Literal["AES256", "aws:kms", "none"] = "AES256"
    """Server-side encryption; `none` for a server that knows none, such as a MinIO without a key."""
    s3_kms_key_id: str | None = None
    s3_cors_origins: Words = ("*",)
    """Whose pages may read with scripts what a link leads to, with commas between them."""
    staging_days: int = Field(default=2, ge=1)
    """How long a lifecycle rule keeps staged bytes; at least a day longer than the longest deadline."""


class LedgerClientSettings(Settings):
    """What a process that calls the ledger takes."""

    ledger_url: str = "http://127.0.0.1:8083"
    service_token: SecretStr = SecretStr("")
    ledger_timeout_s: float = Field(default=5, gt=0)


class OfferSettings(Settings):
    """What it takes to see what OpenRouter offers."""

    models_file: Path | None = None
    """Another model catalogue than the one that ships."""

    openrouter_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("openrouter_api_key", "OPENROUTER_API_KEY")
    )
    openrouter_base_url: str = Field(
        default="https://openrouter.ai", validation_alias=AliasChoices("openrouter_base_url", "OPENROUTER_BASE_URL")
    )
