"""What `pixorly backup` saves, and how it comes back.

RabbitMQ holds nothing that PostgreSQL does not, so it is left out, and emptied by a restore. The databases are read as
they are at almost the same moment, and the bucket after them, while everything runs; what came in between, the
reconciler brings together after the restore.
"""

import asyncio
import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from pixorly.blobs import S3Blobs
from pixorly.errors import PixorlyError
from pixorly.settings import StorageSettings
from pixorly_stack import store
from pixorly_stack.errors import StackError
from pixorly_stack.files import Secrets, write_json
from pixorly_stack.folder import Folder
from pixorly_stack.management import Management
from pixorly_stack.postgres import ENVIRONMENT, find_binaries
from pixorly_stack.prepare import VHOST, prepare
from pixorly_stack.servers import Servers
from pixorly_stack.settings import StackSettings

DATABASES: Final = ("api", "generator", "ledger")
"""In this order: a charge without a job is voided by itself, a job without a charge is not."""
PREFIXES: Final = ("users/", "public/", "staging/")
_AT_ONCE: Final = 16


async def save(target: Path, dev: dict[str, Any], settings: StackSettings) -> int:
    """Write the databases and the bucket of the stack that `dev` tells of to a folder; return how many objects."""
    url = dev["database_url"]
    storage = {name.lower().removeprefix("pixorly_"): value for name, value in dev["s3"].items()}
    databases = {name: _database(url, f"pixorly_{name}") for name in DATABASES}
    async with store.moments(databases) as moments:
        dumps = (
            _run(settings, "pg_dump", url, f"pixorly_{name}", "--format=custom", f"--snapshot={moment}",
                 f"--file={target / name}.dump")
            for name, moment in moments.items()
        )  # fmt: skip
        await asyncio.gather(*dumps)
    return await _save_bucket(S3Blobs(StorageSettings.model_validate(storage)), target / "bucket")


def _database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def _run(settings: StackSettings, program: str, url: str, database: str, *words: str) -> None:
    """Run one of PostgreSQL's programs on a database; the password is in no command line.

    Raises:
        StackError: It failed; with what it said.
    """
    made_by = Folder(settings.dir).root / "postgres" / "data" / "PG_VERSION"
    own = settings.database_url is None and made_by.exists()
    binaries = find_binaries(settings.postgres_bin, int(made_by.read_text()) if own else None)
    parts = urlsplit(_database(url, database))
    open_url = urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.netloc.rpartition('@')[2]}"))
    process = await asyncio.create_subprocess_exec(
        binaries.program(program),
        f"--dbname={open_url}",
        *words,
        env={**ENVIRONMENT, "PGPASSWORD": parts.password or ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise StackError(f"{program} failed: {said.decode(errors='replace').strip()}")


async def _save_bucket(blobs: S3Blobs, folder: Path) -> int:
    """Copy every object to a file of its name, and what is said of each to a list beside them."""
    told: dict[str, dict[str, str]] = {}
    places = asyncio.Semaphore(_AT_ONCE)

    async def save_one(key: str) -> None:
        async with places:
            data, told[key] = await blobs.get_with_attributes(key)
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    for prefix in PREFIXES:
        keys = [blob.key async for blob in blobs.list(prefix)]
        # One that is deleted meanwhile is not missed: its row said so before, or will say so again.
        for error in await asyncio.gather(*map(save_one, keys), return_exceptions=True):
            if isinstance(error, BaseException) and not isinstance(error, PixorlyError):
                raise error
    write_json(folder.with_suffix(".json"), told)
    return len(told)


async def load(source: Path, folder: Folder, settings: StackSettings) -> int:
    """Put back what was saved to a folder, in place of what the stack of another has; return how many objects."""
    async with Servers(folder.root, settings) as servers:
        access, secrets = servers.access, Secrets(folder.root / "secrets.json")
        async with Management(access.management_url) as management:
            # What waits there is of another time; all that matters of it is said again from PostgreSQL.
            await management.make_vhost(VHOST)
            await management.delete_vhost(VHOST)
        await store.drop_databases(access.database_url, [f"pixorly_{name}" for name in DATABASES])
        prepared = await prepare(access, secrets, own_server=settings.database_url is None)
        words = ("--no-owner", "--exit-on-error", "--single-transaction")
        await asyncio.gather(
            *(
                _run(settings, "pg_restore", prepared.database_urls[name], f"pixorly_{name}", *words,
                     str(source / f"{name}.dump"))
                for name in DATABASES
            )
        )  # fmt: skip
        return await _load_bucket(S3Blobs(access.s3.settings()), source / "bucket")


async def _load_bucket(blobs: S3Blobs, folder: Path) -> int:
    """Make the bucket hold what was saved, and nothing else."""
    for prefix in PREFIXES:
        await blobs.delete([blob.key async for blob in blobs.list(prefix)])
    told: dict[str, dict[str, Any]] = json.loads(folder.with_suffix(".json").read_text())
    places = asyncio.Semaphore(_AT_ONCE)

    async def load_one(key: str, attributes: dict[str, str]) -> None:
        content_type, cache_control = attributes.pop("Content-Type"), attributes.pop("Cache-Control", None)
        async with places:
            data = (folder / key).read_bytes()
            await blobs.put(key, data, content_type=content_type, cache_control=cache_control, metadata=attributes)

    await asyncio.gather(*(load_one(key, attributes) for key, attributes in told.items()))
    return len(told)
