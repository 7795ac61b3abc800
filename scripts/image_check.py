"""Build the images of deploy/Dockerfile and run the services from them, on a machine that has no container engine.

`make image-check` calls it. It needs Linux, root, and two of Debian's packages: buildah, which builds without a daemon,
and debootstrap, which makes a base image where none can be pulled. Each service then runs as it would in a container:
as process number 1 of a process space of its own, as the image's user, without rights, on a read-only file system with
an empty /tmp. The servers are those of the local stack, made ready by the `pixorly prepare` of the image `stack`. One
job must come out well, and every process must exit 0 on SIGTERM.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from pixorly_client import Pixorly
from pixorly_stack.accounts import demo_key
from pixorly_stack.files import Secrets
from pixorly_stack.servers import Servers
from pixorly_stack.services import SERVICES, Need, Service
from pixorly_stack.settings import StackSettings

ROOT: Final = Path(__file__).parent.parent
BASE: Final = "localhost/pixorly-base:latest"
"""Debian 12 with its Python 3.11, in place of the official image of Python, which has the same folders."""
SUITE: Final = "bookworm"
PARTS: Final = {
    "stack": "libs/stack",
    **{name: f"services/{name}" for name in ("api", "generator", "uploader", "ledger")},
}
READY_WITHIN_S: Final = 60
STOPPED_WITHIN_S: Final = 75
# What a container has of the machine: nothing but its own files, which it cannot change, a /tmp and a few devices.
ENTER: Final = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mkdir -p "$1/proc" "$1/dev" "$1/tmp" "$1/run/secrets"
mount -t proc proc "$1/proc"
mount --bind -o ro "$2" "$1/run/secrets"
mount --rbind /dev "$1/dev"
# Not with cp, which fails where another process of the same image does it at the same moment.
cat /etc/hosts >"$1/etc/hosts"
cat /etc/resolv.conf >"$1/etc/resolv.conf"
mount -o remount,bind,ro "$1"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$1/tmp"
root=$1 user=$3 group=$4
shift 4
exec chroot "$root" setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs \\
    --bounding-set=-all --inh-caps=-all "$@"
"""


def say(words: str) -> None:
    """Tell the person who waits."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {words}", flush=True)


BEGAN: Final = time.monotonic()


def run(*words: str, **more: Any) -> str:
    """Run a program that has to succeed, and return what it printed."""
    done = subprocess.run(words, text=True, capture_output=True, check=False, **more)  # noqa: S603 - our words
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\nended with {done.returncode}:\n{(done.stderr or done.stdout)[-4000:]}")
    return done.stdout


def insist(holds: object, words: str) -> None:
    """End here unless something holds."""
    if not holds:
        raise SystemExit(words)


@dataclass(frozen=True)
class Image:
    """A built image, and what it says about how it is to be run."""

    name: str
    mount: Path
    size_mb: float
    environment: dict[str, str]
    command: list[str]
    user: str
    labels: dict[str, str]


class Workshop:
    """buildah with a store of its own, which goes when the work is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store = ("--root", f"{folder}/images", "--runroot", f"{folder}/run", "--storage-driver", "vfs")
        self._buildah = ("buildah", *store)

    def buildah(self, *words: str) -> str:
        """Run one of its commands."""
        return run(*self._buildah, *words, cwd=ROOT).strip()

    def make_base(self) -> None:
        """Make the base image from Debian's packages."""
        rootfs = self.folder / "base"
        include = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", include, SUITE, str(rootfs))
        local = rootfs / "usr/local/bin"
        for name in ("python", "python3"):
            (local / name).symlink_to("/usr/bin/python3")
        # What this machine trusts: the way to the package index may lead through a proxy with a certificate of its own.
        for name in ("ssl/certs/ca-certificates.crt", "pip.conf"):
            if (there := Path("/etc") / name).exists():
                shutil.copyfile(there, rootfs / "etc" / name)
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(rootfs), "/")
        self.buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
        self.buildah("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(rootfs)

    def build(self, service: str, part: str) -> Image:
        """Build the image of one part, and return it."""
        name = f"localhost/pixorly-{service}:check"
        arguments = [f"--build-arg={word}" for word in (f"SERVICE={service}", f"PART={part}", f"BASE={BASE}")]
        arguments += [f"--build-arg={word}" for word in ("VERSION=0.0.0", "REVISION=check")]
        # Docker takes the ignore file of the context by itself; buildah wants to be told.
        words = ("--pull-never", "--isolation=chroot", "--format=docker", "--ignorefile=.dockerignore", *arguments)
        self.buildah("bud", *words, "-f", "deploy/Dockerfile", "-t", name, ".")
        said = json.loads(self.buildah("inspect", "--type", "image", name))["Docker"]["config"]
        mount = Path(self.buildah("mount", self.buildah("from", "--pull-never", name)))
        size = int(run("du", "-sm", str(mount / "app")).split()[0])
        environment = dict(word.partition("=")[::2] for word in said["Env"])
        return Image(service, mount, size, environment, said["Cmd"], said["User"], said["Labels"])


@contextmanager
def contained(image: Image, told: Mapping[str, str], files: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process of an image, as the first and only one of its container."""
    user, _, group = image.user.partition(":")
    space = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    variables = [f"{name}={value}" for name, value in {**image.environment, **told}.items()]
    inside = ("env", "-i", *variables, *(words or image.command))
    command = [*space, "sh", "-c", ENTER, "enter", str(image.mount), str(files), user, group, *inside]
    log = (files.parent / f"{files.name}.log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)  # noqa: S603 - our words
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def first_process(outside: subprocess.Popen[str]) -> int:
    """Return the number of the process that is number 1 inside."""
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    return int(children.read_text().split()[0])


def told_by(service: Service, port: int, url: Mapping[str, str], s3: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a process that are no secrets."""
    told = {"PIXORLY_HTTP_PORT": str(port), "PIXORLY_SECRETS_DIR": "/run/secrets", "PIXORLY_HTTP_HOST": "127.0.0.1"}
    if Need.STORAGE in service.needs:
        told |= s3
    if Need.LEDGER in service.needs:
        told["PIXORLY_LEDGER_URL"] = url["ledger"]
    if Need.GENERATOR in service.needs:
        told["PIXORLY_GENERATOR_URL"] = url["generator"]
    return told


def as_files(env: Path, folder: Path) -> Path:
    """Write an env file as a folder of secrets, a file for each, and return the folder."""
    folder.mkdir(parents=True)
    for line in env.read_text().splitlines():
        name, _, value = line.partition("=")
        (folder / name.lower()).write_text(value)
    return folder


def wait_until_ready(name: str, url: str, process: subprocess.Popen[str], log: Path) -> None:
    """Return when a process says that it is ready."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{name} did not become ready:\n{log.read_text()[-4000:]}")


def prepare(image: Image, servers: Servers, folder: Path) -> Path:
    """Run `pixorly prepare` from its image, and return the folder with what each service is told."""
    access = servers.access
    told = {
        "PIXORLY_DATABASE_URL": access.database_url,
        "PIXORLY_AMQP_URL": access.amqp_url,
        "PIXORLY_RABBITMQ_MANAGEMENT_URL": access.management_url,
        **access.s3.environment(),
    }
    # The passwords are made by hand, as for docker compose, so that the container needs to write nothing that lasts.
    secrets = folder / "prepare"
    secrets.mkdir()
    Secrets(secrets / "secrets.json")
    (secrets / "secrets.json").chmod(0o444)
    script = (
        "set -e; pixorly prepare --own-server --secrets /run/secrets/secrets.json --env-dir /tmp/env;"
        ' cd /tmp/env; for file in *; do echo "== $file"; cat "$file"; done'
    )
    with contained(image, told, secrets, "sh", "-c", script) as process:
        code = process.wait(120)
    said = (folder / "prepare.log").read_text()
    if code:
        raise SystemExit(f"pixorly prepare ended with {code}:\n{said}")
    env = folder / "env"
    env.mkdir()
    for part in said.partition("== ")[2].split("== "):
        name, _, lines = part.partition("\n")
        (env / name).write_text(lines)
    return env


def try_services(images: Mapping[str, Image], servers: Servers, folder: Path) -> None:
    """Run all services from their images, have a job done, and stop them."""
    env, admin_key = prepare(images["stack"], servers, folder), Secrets(folder / "prepare/secrets.json")["admin-key"]
    say("`pixorly prepare` made databases, users, queues and the bucket")
    services = [service for service in SERVICES if not service.optional]
    ports = {service.name: servers.ports.port(service.name) for service in services}
    url = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    with ExitStack() as stack:
        processes = {}
        for service in services:
            files = as_files(env / f"{service.owner}.env", folder / service.name)
            told = told_by(service, ports[service.name], url, servers.access.s3.environment())
            words = () if service.name == service.owner else (f"pixorly-{service.name}",)
            processes[service.name] = stack.enter_context(contained(images[service.owner], told, files, *words))
        for name, process in processes.items():
            wait_until_ready(name, url[name], process, folder / f"{name}.log")
            uid = Path(f"/proc/{first_process(process)}/status").read_text().partition("Uid:")[2].split()[0]
            insist(uid == images[name.partition("-")[0]].user.partition(":")[0], f"{name} runs as {uid}")
        say("all services are ready, as number 1 of their own, without rights, on read-only files")
        key = asyncio.run(demo_key(url["api"], admin_key, None))
        with Pixorly(key, url["api"]) as client:
            job = client.generate("a lighthouse at dusk", model="sandbox/aurora", n=2)
            pictures = [client.images.download(image) for image in job.images]
        say(f"job {job.id} {job.status}: {', '.join(f'{len(picture):,} bytes' for picture in pictures)}")
        for name, process in processes.items():
            os.kill(first_process(process), signal.SIGTERM)
            began, code = time.monotonic(), process.wait(STOPPED_WITHIN_S)
            say(f"{name} ended {time.monotonic() - began:.1f} s after SIGTERM with {code}")
            insist(code == 0, (folder / f"{name}.log").read_text()[-4000:])


async def run_check(folder: Path) -> None:
    """Build everything and try it."""
    workshop = Workshop(folder)
    say(f"making a base image from Debian's packages, in {folder}")
    workshop.make_base()
    images = {}
    for service, part in PARTS.items():
        images[service] = image = workshop.build(service, part)
        say(f"built {image.labels['org.opencontainers.image.title']}: {image.size_mb} MB besides its base")
    say("starting PostgreSQL, RabbitMQ and S3")
    async with Servers(folder / "stack", StackSettings.from_environment(), durable=False) as servers:
        await asyncio.to_thread(try_services, images, servers, folder)
    say(f"disk used: {run('du', '-sm', str(folder)).split()[0]} MB")


def main() -> None:
    """Say what is missing, or do it all, and leave nothing behind."""
    missing = [tool for tool in ("buildah", "debootstrap", "unshare", "setpriv") if not shutil.which(tool)]
    if os.geteuid() != 0 or missing:
        lacking = [*(["root"] if os.geteuid() != 0 else []), *missing]
        raise SystemExit(
            f"This needs Linux, root, buildah and debootstrap; missing: {', '.join(lacking)}.\n"
            "  Debian, Ubuntu: apt-get install --no-install-recommends buildah debootstrap\n"
            "It takes about five minutes and 4 GB in the temporary folder, which it gives back. With a Docker engine,\n"
            "`docker compose build` does more, and this is not needed."
        )
    folder = Path(tempfile.mkdtemp(prefix="pixorly-images-"))
    folder.chmod(0o755)
    try:
        asyncio.run(run_check(folder))
    finally:
        subprocess.run(["umount", "-R", str(folder / "base/proc")], check=False, capture_output=True)  # noqa: S603, S607 - ours
        shutil.rmtree(folder, ignore_errors=True)
    say("the images are good")


if __name__ == "__main__":
    sys.exit(main())
