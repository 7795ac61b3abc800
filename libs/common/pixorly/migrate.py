"""`pixorly-migrate SERVICE`: bring a service's database up to date before the service starts, as a job of its own.

A service does the same when it starts, so that nothing depends on this. It is for those who want to see a migration end
before they replace the first process.
"""

import asyncio
import sys
from typing import Final

from pydantic import SecretStr

from pixorly.db import migrate
from pixorly.errors import OutageError
from pixorly.settings import Settings

PACKAGES: Final = {
    "api": ("pixorly", "pixorly.partitions", "pixorly_api"),
    "generator": ("pixorly", "pixorly_generator"),
    "ledger": ("pixorly.partitions", "pixorly_ledger"),
}
"""Whose migrations make up a service's database; with the outbox and the months, for those that have them."""


class MigrationSettings(Settings):
    """Where the databases are; only that of the service that is named needs to be told."""

    api_database_url: SecretStr | None = None
    generator_database_url: SecretStr | None = None
    ledger_database_url: SecretStr | None = None

    def url(self, service: str) -> str | None:
        """Return the URL of a service's database."""
        secret: SecretStr | None = getattr(self, f"{service}_database_url")
        return secret.get_secret_value() if secret else None


def main(arguments: list[str] | None = None) -> None:
    """Migrate, and print what was applied."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 1 or words[0] not in PACKAGES:
        raise SystemExit(f"usage: pixorly-migrate {'|'.join(PACKAGES)}")
    service = words[0]
    url = MigrationSettings.load().url(service)
    if url is None:
        raise SystemExit(f"PIXORLY_{service.upper()}_DATABASE_URL must be set")
    try:
        applied = asyncio.run(migrate(url, *PACKAGES[service]))
    except OutageError as error:
        raise SystemExit(f"the database of {service} could not be reached: {error}") from error
    for name in applied or ["nothing to do"]:
        print(name)  # noqa: T201 - this is a script's output


if __name__ == "__main__":
    main()
