"""What the environment says to the local stack: the one file of it that reads the environment."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from pixorly.settings import StorageSettings
from pixorly_stack.cache import cache_folder


class StackSettings(StorageSettings):
    """Where the stack lives, which parts are somebody else's, and where to look for the rest.

    With an `s3_endpoint_url`, the object store is somebody else's, and its keys are those of the services' settings.

    Attributes:
        dir: The stack's folder: data, logs, secrets and what runs.
        amqp_url: A RabbitMQ to use in place of an own one.
        rabbitmq_management_url: Its management API, where that is not port 15672 of the same host.
        database_url: A PostgreSQL to use in place of an own one: a role there that may make roles and databases.
        postgres_bin: The folder of PostgreSQL's programs to start.
        rabbitmq_bin: The folder of RabbitMQ's scripts to start.
        cache_dir: Where downloads are kept.
    """

    model_config = SettingsConfigDict(
        env_prefix="PIXORLY_", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    dir: Path = Path(".pixorly")
    amqp_url: SecretStr | None = None
    rabbitmq_management_url: SecretStr | None = None
    database_url: SecretStr | None = None
    postgres_bin: Path | None = None
    rabbitmq_bin: Path | None = None
    cache_dir: Path = Path()

    @classmethod
    def from_environment(cls, **given: object) -> "StackSettings":
        """Read the environment, and the files in `PIXORLY_SECRETS_DIR`; what is given here goes before both."""
        folder = environment().get("PIXORLY_SECRETS_DIR") or None
        return cls(**{"cache_dir": cache_folder(environment()), "_secrets_dir": folder, **given})  # type: ignore[arg-type]


def environment() -> Mapping[str, str]:
    """Return this process's environment, and what the files in `PIXORLY_SECRETS_DIR` add to it."""
    told = dict(os.environ)  # noqa: TID251 - this is the one place
    folder = told.get("PIXORLY_SECRETS_DIR")
    files = [file for file in Path(folder).iterdir() if file.is_file()] if folder else []
    return {**{file.name.upper(): file.read_text().strip() for file in files}, **told}
