"""What is missing or wrong on this machine, and what to do."""

import asyncio
import dataclasses
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import aio_pika
import asyncpg

from pixorly_stack.errors import PartMissingError, StackError
from pixorly_stack.folder import EXTERNAL, Folder
from pixorly_stack.keeper import State
from pixorly_stack.management import Management, ManagementError
from pixorly_stack.ports import LOOPBACK, is_free
from pixorly_stack.postgres import choose_guise, find_binaries
from pixorly_stack.rabbitmq import find_installed, missing
from pixorly_stack.rabbitmq_packages import fetched, supported
from pixorly_stack.rabbitmq_scripts import version_of
from pixorly_stack.s3 import find_weed
from pixorly_stack.servers import usual_management_url
from pixorly_stack.services import API_PORT
from pixorly_stack.settings import StackSettings
from pixorly_stack.units import anything_answers

PYTHONS = ((3, 11), (3, 14))
SPACE_BYTES = 2_000_000_000
HERE = ("Linux", "Darwin")
NO_MANAGEMENT = "its management API does not (PIXORLY_RABBITMQ_MANAGEMENT_URL), so all services share one user"
WELL = {State.READY, EXTERNAL}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing.

    Attributes:
        good: Whether it is as it must be.
        said: What is the case.
        advice: What to do where it is not good.
    """

    name: str
    good: bool
    said: str
    advice: tuple[str, ...] = ()


def examine(settings: StackSettings) -> Iterator[Finding]:
    """Look at everything that the stack needs."""
    folder = Folder(settings.dir)
    yield _python()
    yield _platform()
    yield _localhost()
    yield _space(folder.root, settings.cache_dir)
    yield _asked("postgres", lambda: _postgres(settings, folder))
    yield _asked("rabbitmq", lambda: _rabbitmq(settings))
    yield _asked("s3", lambda: _s3(settings))
    yield from _running(folder)


def _asked(name: str, question: Callable[[], str]) -> Finding:
    """Return what a question found, or what it raised."""
    try:
        return Finding(name, good=True, said=question())
    except PartMissingError as error:
        return Finding(name, good=False, said=error.reason, advice=error.advice)
    except StackError as error:
        return Finding(name, good=False, said=str(error))


def _python() -> Finding:
    oldest, newest = PYTHONS
    good = oldest <= sys.version_info[:2] < newest
    advice = () if good else (f"use Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1] - 1}",)
    return Finding("python", good, platform.python_version(), advice)


def _platform() -> Finding:
    good = platform.system() in HERE
    said = f"{platform.system()} on {platform.machine()}, {'root' if os.geteuid() == 0 else 'an ordinary user'}"
    return Finding("platform", good, said, () if good else ("use Linux, macOS, or the Linux subsystem of Windows",))


def _localhost() -> Finding:
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo("localhost", None)}
    except OSError:
        addresses = set()
    good = LOOPBACK in addresses
    said = f"localhost is {', '.join(sorted(addresses)) or 'unknown'}"
    return Finding("hosts", good, said, () if good else ("put the line `127.0.0.1 localhost` into /etc/hosts",))


def _space(*folders: Path) -> Finding:
    free = {folder: shutil.disk_usage(_existing(folder)).free for folder in folders}
    least = min(free, key=lambda folder: free[folder])
    good = free[least] >= SPACE_BYTES
    said = f"{free[least] / 1e9:.1f} GB free for {least}"
    return Finding("disk", good, said, () if good else (f"make room: about {SPACE_BYTES / 1e9:g} GB are needed",))


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _postgres(settings: StackSettings, folder: Folder) -> str:
    if settings.database_url:
        return asyncio.run(_ask_postgres(settings.database_url.get_secret_value()))
    made_by = folder.root / "postgres" / "data" / "PG_VERSION"
    binaries = find_binaries(settings.postgres_bin, int(made_by.read_text()) if made_by.exists() else None)
    guise = choose_guise()
    how = f", run through {guise.prefix[0]}" if guise.prefix else ""
    return f"version {binaries.major} in {binaries.folder}{how}"


async def _ask_postgres(url: str) -> str:
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError) as error:
        raise StackError(f"PIXORLY_DATABASE_URL does not answer: {error or type(error).__name__}") from error
    version = connection.get_server_version()
    await connection.close()
    return f"version {version.major} at PIXORLY_DATABASE_URL"


def _rabbitmq(settings: StackSettings) -> str:
    if settings.amqp_url:
        return asyncio.run(_ask_rabbitmq(settings))
    if installed := find_installed(settings.rabbitmq_bin):
        installed.program("erl")
        return f"version {'.'.join(map(str, version_of(installed.scripts)))} in {installed.scripts}"
    if there := fetched(settings.cache_dir):
        return f"the system's packages, unpacked in {there}"
    if supported():
        return "not here yet; the system's packages are fetched at the first start"
    raise missing("none is installed, and this system has no apt-get to fetch it with")


def _s3(settings: StackSettings) -> str:
    if settings.s3_endpoint_url is None:
        return f"SeaweedFS in {find_weed()}"
    if not asyncio.run(anything_answers(settings.s3_endpoint_url)):
        raise StackError(f"PIXORLY_S3_ENDPOINT_URL does not answer: {settings.s3_endpoint_url}")
    if not settings.aws_access_key_id or not settings.aws_secret_access_key:
        raise StackError("PIXORLY_S3_ENDPOINT_URL is set, and AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not")
    return f"answers at {settings.s3_endpoint_url}"


async def _ask_rabbitmq(settings: StackSettings) -> str:
    url = settings.amqp_url.get_secret_value() if settings.amqp_url else ""
    try:
        async with await aio_pika.connect(url, timeout=5):
            pass
    except (aio_pika.exceptions.AMQPError, OSError, TimeoutError, ValueError) as error:
        raise StackError(f"PIXORLY_AMQP_URL does not answer: {error or type(error).__name__}") from error
    given = settings.rabbitmq_management_url
    async with Management(given.get_secret_value() if given else usual_management_url(url), timeout_s=5) as management:
        try:
            version = (await management.overview()).get("rabbitmq_version")
        except ManagementError:
            return f"answers at PIXORLY_AMQP_URL; {NO_MANAGEMENT}"
    return f"version {version} at PIXORLY_AMQP_URL"


def _running(folder: Folder) -> Iterator[Finding]:
    if not folder.runs():
        taken = "" if is_free(API_PORT) else f"; port {API_PORT} is taken, so the API will have another"
        yield Finding("stack", good=True, said=f"nothing runs in {folder.root}{taken}")
        return
    rows = folder.rows()
    ill = [row for row in rows if row.state not in WELL]
    said = ", ".join(f"{row.name} is {row.state}" for row in ill) or f"{len(rows)} parts run in {folder.root}"
    yield Finding("stack", not ill, said, tuple(f"pixorly logs {row.name}" for row in ill))
