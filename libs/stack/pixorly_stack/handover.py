"""`pixorly prepare`: make servers that are somebody else's ready, and write down what each service is told."""

import asyncio
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pixorly_stack.access import Access, S3Access
from pixorly_stack.console import out
from pixorly_stack.errors import StackError
from pixorly_stack.files import Secrets
from pixorly_stack.prepare import DATABASES, USERS, Prepared
from pixorly_stack.prepare import prepare as prepare_servers
from pixorly_stack.servers import revealed, usual_management_url
from pixorly_stack.settings import StackSettings

OWNER_ONLY = 0o600


def prepare(
    secrets_file: Annotated[
        Path, typer.Option("--secrets", help="The passwords and keys as JSON; made where it is missing.")
    ] = Path("secrets.json"),
    *,
    env_dir: Annotated[
        Path | None, typer.Option("--env-dir", help="Where to write what each service is to be told, as NAME.env.")
    ] = None,
    own_server: Annotated[
        bool, typer.Option("--own-server", help="Nothing but Pixorly uses PostgreSQL: close its other databases, too.")
    ] = False,
    bucket: Annotated[bool, typer.Option(help="Make the bucket and set its rules.")] = True,
    turn: Annotated[
        str,
        typer.Option(help="Rotate passwords: make other roles and users beside the first, with this in their names."),
    ] = "",
) -> None:
    """Make databases, roles, RabbitMQ users and queues, and the bucket, on servers that run elsewhere.

    PIXORLY_DATABASE_URL, PIXORLY_AMQP_URL and PIXORLY_RABBITMQ_MANAGEMENT_URL name them, each with a user that may do
    so. The services are told of other users, one each, that may do only their work. A repeat changes nothing.
    """
    if not re.fullmatch("[a-z0-9]{0,20}", turn):
        raise StackError("a turn is named by up to 20 small letters and digits")
    settings = StackSettings.from_environment()
    access, secrets = access_of(settings), Secrets(secrets_file, turn)
    storage = settings if bucket else None
    prepared = asyncio.run(prepare_servers(access, secrets, own_server=own_server, storage=storage, bucket=bucket))
    if not prepared.own_users:
        raise StackError(
            "RabbitMQ's management API does not answer, so that no service could be given a user of its own"
        )
    out.print(f"Databases: {', '.join(f'pixorly_{name}' for name in DATABASES)}")
    out.print(f"RabbitMQ users: {', '.join(secrets.in_turn(f'pixorly-{name}') for name in USERS)}, and all queues")
    if bucket:
        out.print(f"Bucket: {escape(settings.aws_s3_bucket)}")
    if env_dir:
        for name, told in told_to(prepared, secrets).items():
            write_env(env_dir / f"{name}.env", told)
        out.print(f"What each service is to be told: {escape(str(env_dir))}")


def access_of(settings: StackSettings) -> Access:
    """Return how to reach the servers that the environment names.

    Raises:
        StackError: It does not name them all.
    """
    database_url, amqp_url = revealed(settings.database_url), revealed(settings.amqp_url)
    if not database_url or not amqp_url:
        raise StackError(
            "PIXORLY_DATABASE_URL and PIXORLY_AMQP_URL must name the servers, with a user that may make others"
        )
    management_url = revealed(settings.rabbitmq_management_url) or usual_management_url(amqp_url)
    return Access(database_url, amqp_url, management_url, S3Access.of(settings))


def told_to(prepared: Prepared, secrets: Secrets) -> dict[str, dict[str, str]]:
    """Return, by service, the settings that are secret and its own."""
    told = {name: {"PIXORLY_AMQP_URL": prepared.amqp_urls[name]} for name in USERS}
    for name, url in prepared.database_urls.items():
        told[name][f"PIXORLY_{name.upper()}_DATABASE_URL"] = url
    for settings in told.values():
        settings["PIXORLY_SERVICE_TOKEN"] = secrets["service-token"]
    told["api"]["PIXORLY_ADMIN_KEY"] = secrets["admin-key"]
    return told


def write_env(path: Path, told: dict[str, str]) -> None:
    """Write settings in the form of an env file, for the owner's eyes only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=OWNER_ONLY)
    path.write_text("".join(f"{name}={value}\n" for name, value in told.items()))
