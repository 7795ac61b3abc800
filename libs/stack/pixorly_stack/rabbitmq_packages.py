"""Fetch the distribution's own RabbitMQ and Erlang and unpack them in a cache folder: no root, nothing installed.

Standard library only: the set-up runs `python3 -m pixorly_stack.rabbitmq_packages` before anything is installed.
"""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixorly_stack.cache import cache_folder
from pixorly_stack.rabbitmq_scripts import system_scripts

WORK = "unpacking-rabbitmq-"
TOOLS = ("apt-get", "dpkg-deb")
WANTED = re.compile(r"^(rabbitmq-server|erlang-.*|libtinfo6|libncurses6|libssl3(t64)?|libstdc\+\+6|zlib1g)$")
"""Of all that RabbitMQ's package asks for: itself, Erlang, and the libraries that a small system may lack."""

ERL = """\
#!/bin/sh
# The packaged `erl` has its root folder written into it; this one finds it beside itself.
HERE=$(cd "$(dirname "$0")/.." && pwd)
ROOTDIR=$HERE/root/usr/lib/erlang
for folder in "$ROOTDIR"/erts-*; do BINDIR=$folder/bin; done
for folder in "$HERE"/root/usr/lib/*-linux-gnu* "$HERE"/root/lib/*-linux-gnu*; do
    [ -d "$folder" ] && LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
export ROOTDIR BINDIR LD_LIBRARY_PATH EMU=beam PROGNAME=erl
exec "$BINDIR/erlexec" "$@"
"""


class FetchError(Exception):
    """The packages could not be fetched."""


def supported() -> bool:
    """Tell whether this system has Debian's package tools."""
    return all(shutil.which(tool) for tool in TOOLS)


def package_folder(cache: Path) -> Path:
    """Return where the unpacked packages of this system belong; a cache folder may be shared by several systems."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    system = f"{release.get('ID', 'linux')}-{release.get('VERSION_ID', 'any')}-{platform.machine()}"
    return cache / f"rabbitmq-{system}"


def fetched(cache: Path) -> Path | None:
    """Return the unpacked packages, or None where they are not (whole) there."""
    folder = package_folder(cache)
    return folder if (folder / "complete").is_file() else None


def fetch(cache: Path) -> Path:
    """Download and unpack the packages unless they are there, and return their folder.

    The folder appears at once and whole: work is done beside it and renamed. Two at a time wait for each other.

    Raises:
        FetchError: The package tools are missing, or they failed; the message has their last words.
    """
    if there := fetched(cache):
        return there
    if not supported():
        raise FetchError("this system has no apt-get and dpkg-deb")
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / "rabbitmq.lock"):
        return fetched(cache) or _fetch_anew(cache)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_anew(cache: Path) -> Path:
    target = package_folder(cache)
    for left in (target, *cache.glob(f"{WORK}*")):  # of a try that was cut short
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=WORK, dir=cache) as work:
        unpacked = Path(work) / "unpacked"
        _download(Path(work))
        for package in sorted((Path(work) / "debs").glob("*.deb")):
            _run("dpkg-deb", "-x", str(package), str(unpacked / "root"))
        shim = unpacked / "shim" / "erl"
        shim.parent.mkdir()
        shim.write_text(ERL)
        shim.chmod(0o755)
        unpacked.chmod(0o755)
        (unpacked / "complete").touch()
        unpacked.rename(target)
    return target


def _download(work: Path) -> None:
    for folder in ("lists/partial", "archives/partial", "debs", "unpacked"):
        (work / folder).mkdir(parents=True)
    # Lists and archives of its own: the system's may be old, missing or closed to this user.
    folders = (f"-oDir::State::Lists={work}/lists", f"-oDir::Cache={work}")
    apt = ("apt-get", *folders, "-oDebug::NoLocking=1", "-oAPT::Sandbox::User=", "-q")
    # A third party's list that cannot be read is no reason to stop: what counts is whether the packages are found.
    _run(*apt, "update", check=False)
    bare = "-oDir::State::status=/dev/null"  # as if nothing were installed, so that the plan is whole
    plan = _run(*apt, bare, "-s", "--no-install-recommends", "install", "rabbitmq-server")
    names = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
    _run(*apt, "download", *filter(WANTED.match, names), cwd=work / "debs")


def _run(*command: str, cwd: Path | None = None, check: bool = True) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if check and done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise FetchError(f"{command[0]} failed: " + " / ".join(words))
    return done.stdout


def main() -> int:
    """Fetch the packages into the user's cache folder unless they are there or not needed, and say so in a line."""
    environment = os.environ  # noqa: TID251 - it runs alone, before the settings can be imported
    cache = cache_folder(environment)
    if environment.get("PIXORLY_AMQP_URL"):
        return _said("rabbitmq   the one of PIXORLY_AMQP_URL")
    if scripts := system_scripts():
        return _said(f"rabbitmq   the system's own, in {scripts}")
    if there := fetched(cache):
        return _said(f"rabbitmq   in {there}")
    if not supported():
        return _said(
            "rabbitmq   none here, and no apt-get to fetch it with: `.venv/bin/pixorly doctor` says what to do"
        )
    try:
        return _said(f"rabbitmq   the system's packages, unpacked in {fetch(cache)}")
    except (FetchError, OSError) as error:
        _said(f"rabbitmq   could not be fetched: {error}")
        return 1


def _said(line: str) -> int:
    print(f"  {line}")  # noqa: T201 - this is a script's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
