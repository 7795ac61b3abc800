"""A private object store that speaks S3: SeaweedFS in one process."""

import asyncio
import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from pixorly_stack.access import S3Access
from pixorly_stack.errors import PartMissingError
from pixorly_stack.ports import LOOPBACK, Ports
from pixorly_stack.processes import IN_THE_BACKGROUND, Command
from pixorly_stack.units import Unit, url_answers

REGION = "us-east-1"
BUCKET = "pixorly-images"
INNER_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
)
GRPC_OFFSET = 10_000
"""Its maintenance worker looks for the admin server's second port this far above the first, whatever it was told."""
ADVICE = (
    "set PIXORLY_S3_ENDPOINT_URL to a server that speaks S3, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "Homebrew: brew install seaweedfs · elsewhere put SeaweedFS's program `weed` on the PATH",
    "the whole system with Docker: sh deploy/secrets.sh && docker compose up",
)
LONGEST_SOCKET_PATH = 90


def find_weed() -> Path:
    """Return SeaweedFS's program: the installed package's, else one on the PATH.

    Raises:
        PartMissingError: There is none.
    """
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        raise PartMissingError("SeaweedFS", "its package is not installed and no `weed` is on the PATH", ADVICE)
    return Path(found)


class ObjectStore:
    """A SeaweedFS of our own, on the loopback address."""

    def __init__(self, folder: Path, ports: Ports, access_key_id: str, secret_access_key: str) -> None:
        self._folder = folder.absolute()
        self._ports = ports
        self._port = ports.port("s3")
        self._access_key_id = access_key_id
        self._secret_access_key = secret_access_key

    @property
    def access(self) -> S3Access:
        """How to reach it."""
        url = f"http://{LOOPBACK}:{self._port}"
        return S3Access(url, REGION, self._access_key_id, self._secret_access_key, BUCKET)

    async def prepare(self) -> Unit:
        """Write its configuration, and return the unit to run.

        Raises:
            PartMissingError: There is no SeaweedFS here.
        """
        return await asyncio.to_thread(self._prepare)

    def _prepare(self) -> Unit:
        weed = find_weed()
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        self._write_keys()
        return Unit("s3", self._port, self._command(weed), self._is_ready, self._tidy, after_stop=self._tidy)

    def _write_keys(self) -> None:
        key = {"accessKey": self._access_key_id, "secretKey": self._secret_access_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        file = self._folder / "keys.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps({"identities": [{"name": "pixorly", "credentials": [key], "actions": actions}]}))

    def _tidy(self) -> None:
        """Remove what a run leaves behind: its options, which would go before the next run's, and its sockets."""
        (self._folder / "data" / "mini.options").unlink(missing_ok=True)
        for option, port in self._inner_ports().items():
            server = option.partition(".")[0]
            with suppress(PermissionError):
                Path(f"/tmp/seaweedfs-{server}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108 - its words

    def _sockets(self) -> Path:
        """Return a folder for its sockets, whose paths may not be long."""
        own = self._folder / "run"
        if len(str(own)) < LONGEST_SOCKET_PATH:
            own.mkdir(exist_ok=True)
            return own
        return Path(tempfile.mkdtemp(prefix="pixorly-s3-"))

    def _command(self, weed: Path) -> Command:
        sockets = self._sockets()
        words = [f"-{name}={port}" for name, port in self._inner_ports().items()]
        words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
        words += [f"-s3.port={self._port}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        words += [f"-s3.config={self._folder / 'keys.json'}", f"-dir={self._folder / 'data'}"]
        words += [f"-filer.localSocket={sockets / 'filer.sock'}", f"-s3.localSocket={sockets / 's3.sock'}"]
        # Without a limit it holds several times the memory, and is no faster. It begins with 230 MB, most of them never
        # touched: a limit below that has it collect without end, which cost a tenth to a third of a core at idle.
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self._folder), "TMPDIR": str(sockets), "GOMEMLIMIT": "400MiB"}
        return Command((str(weed), "-logtostderr=true", "mini", *words), env, self._folder, IN_THE_BACKGROUND)

    def _inner_ports(self) -> dict[str, int]:
        """Return the ports of the servers within it, by option."""
        ports = {name: self._ports.port(f"s3-{name}") for name in INNER_PORTS}
        admin = self._ports.port("s3-admin.port.grpc", twin=-GRPC_OFFSET)
        return {**ports, "admin.port": admin - GRPC_OFFSET, "admin.port.grpc": admin}

    async def _is_ready(self) -> bool:
        return await url_answers(f"http://{LOOPBACK}:{self._port}/healthz")
