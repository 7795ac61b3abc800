"""Where a system's own RabbitMQ keeps its scripts, and how old it is. Standard library only, for the set-up."""

import re
from pathlib import Path

OLDEST = (3, 10)
SYSTEM_FOLDERS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")
"""Not the scripts in /usr/sbin: those change to the system's own account and folders."""


def version_of(scripts: Path) -> tuple[int, ...]:
    """Return the version of the RabbitMQ that these scripts belong to, which its folder's name tells; () for none."""
    server = scripts / "rabbitmq-server"
    if not server.is_file():
        return ()
    number = re.search(r"(\d+)\.(\d+)\.(\d+)", str(server.resolve()))
    return tuple(map(int, number.groups())) if number else ()


def system_scripts() -> Path | None:
    """Return the folder of the system's own RabbitMQ, if it has one that is new enough."""
    return next((folder for folder in map(Path, SYSTEM_FOLDERS) if version_of(folder) >= OLDEST), None)
