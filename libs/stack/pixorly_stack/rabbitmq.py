"""A private RabbitMQ node: where its programs are, how it is configured and run."""

import asyncio
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pixorly_stack.aliases import Alias
from pixorly_stack.errors import PartMissingError
from pixorly_stack.ports import LOOPBACK, Ports
from pixorly_stack.processes import Command
from pixorly_stack.rabbitmq_packages import FetchError, fetch, fetched, package_folder, supported
from pixorly_stack.rabbitmq_scripts import OLDEST, system_scripts, version_of
from pixorly_stack.units import Unit, name_server_answers, url_answers

ADMIN = "pixorly-admin"
VHOST = "pixorly"
NODE = "pixorly@localhost"
ERLANG_FOLDERS = ("/opt/homebrew/opt/erlang/bin", "/usr/local/opt/erlang/bin")
SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
ADVICE = (
    "set PIXORLY_AMQP_URL to a RabbitMQ 3.10 or newer (its management plugin on)",
    "Debian, Ubuntu: apt-get install rabbitmq-server",
    "Fedora: dnf install rabbitmq-server",
    "Homebrew: brew install rabbitmq",
    "the whole system with Docker: sh deploy/secrets.sh && docker compose up",
)
CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {metrics}
default_user = {user}
default_pass = {password}
default_vhost = {vhost}
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 64MB
log.console = true
log.console.level = warning
log.file = false
"""
CLUSTERED = """\
cluster_partition_handling = pause_minority
cluster_formation.peer_discovery_backend = classic_config
"""
# Without this, a dead letter that met a restart is tried again only after 180 s.
ADVANCED = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n"
VM_WORDS = (
    "-noinput -kernel inet_dist_use_interface {127,0,0,1} -kernel shutdown_timeout 1000",
    "+sbwt none +sbwtdcpu none +sbwtdio none",
)
"""The node listens on loopback only, ends in 2 s rather than 7, and does not spin while it waits for work."""
QUICK_TO_NOTICE = "-kernel net_ticktime 10"
"""A node of a cluster that says nothing is given up after this many seconds rather than 60."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A RabbitMQ that can be run: its scripts, the folders to look for Erlang in, and under what name it is found."""

    scripts: Path
    path: tuple[str, ...]
    alias: Alias | None = None

    @property
    def search_path(self) -> str:
        """The PATH to run it with."""
        return ":".join((*self.path, *SYSTEM_PATH))

    @property
    def environment(self) -> dict[str, str]:
        """What keeps the scripts from finding out where they really are, where they must not."""
        return {"RABBITMQ_SCRIPTS_DIR": str(self.scripts)} if self.alias else {}

    def program(self, name: str) -> str:
        """Return the path of one of Erlang's programs.

        Raises:
            PartMissingError: It is not there.
        """
        found = shutil.which(name, path=self.search_path)
        if found is None:
            raise missing(f"it is in {self.scripts}, but Erlang's `{name}` was not found")
        return found


def missing(reason: str) -> PartMissingError:
    """Return the error that says what to do where RabbitMQ cannot be had."""
    return PartMissingError("RabbitMQ", reason, ADVICE)


def find_installation(cache: Path, chosen: Path | None = None) -> Installation:
    """Return the RabbitMQ to run: the chosen one, the system's own, or its packages, fetched into the cache folder.

    Raises:
        PartMissingError: There is none, and none could be fetched.
    """
    if installed := find_installed(chosen):
        return installed
    if not supported():
        raise missing("none is installed, and this system has no apt-get to fetch it with")
    try:
        fetch(cache)
    except (FetchError, OSError) as error:
        raise missing(f"none is installed and none could be fetched: {error}") from error
    packages = Alias(package_folder(cache))
    packages.make()
    return _unpacked(packages)


def must_be_fetched(cache: Path, chosen: Path | None = None) -> bool:
    """Tell whether it will take a moment to get hold of RabbitMQ."""
    return not chosen and not system_scripts() and not fetched(cache) and supported()


def find_installed(chosen: Path | None = None) -> Installation | None:
    """Return the chosen RabbitMQ, or the system's own, if it has one that is new enough.

    Raises:
        PartMissingError: The chosen one is not there, or not new enough.
    """
    if chosen and version_of(chosen) < OLDEST:
        raise missing(f"{chosen} has no rabbitmq-server 3.10 or newer")
    scripts = chosen or system_scripts()
    return Installation(scripts, ERLANG_FOLDERS) if scripts else None


def _unpacked(packages: Alias) -> Installation:
    folder = packages.path
    erlang = sorted((folder / "root/usr/lib/erlang").glob("erts-*/bin"))
    [scripts] = (folder / "root/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin")
    return Installation(scripts, (str(folder / "shim"), *map(str, erlang)), packages)


class RabbitMQ:
    """A RabbitMQ node of our own, with its own name server (epmd), both on the loopback address.

    Args:
        folder: Where its configuration and data are.
        ports: Its ports.
        password: Of the user that may do everything.
        cache: Where the packages of RabbitMQ are, or will be.
        chosen: The scripts of another RabbitMQ.
        node: Its name in Erlang.
        cluster: The names of all nodes of its cluster, which it joins at its first start.
    """

    def __init__(
        self,
        folder: Path,
        ports: Ports,
        password: str,
        cache: Path,
        chosen: Path | None = None,
        *,
        node: str = NODE,
        cluster: Sequence[str] = (),
    ) -> None:
        self._folder = folder.absolute()
        self._alias = Alias(self._folder)
        self._ports = ports
        self._password = password
        self._cache = cache
        self._chosen = chosen
        self._node_name = node
        self._cluster = cluster
        self._port = ports.port("rabbitmq")

    @property
    def url(self) -> str:
        """The node's URL, with the user that may do everything."""
        return f"amqp://{ADMIN}:{self._password}@{LOOPBACK}:{self._port}/{VHOST}"

    @property
    def management_url(self) -> str:
        """The node's management API, with the user that may do everything."""
        return f"http://{ADMIN}:{self._password}@{LOOPBACK}:{self._ports.port('rabbitmq-management')}"

    async def prepare(self) -> tuple[Unit, Unit]:
        """Write the configuration, and return the units to run: the name server, and then the node.

        Raises:
            PartMissingError: There is no RabbitMQ here, and none could be fetched.
        """
        return await asyncio.to_thread(self._prepare)

    def _prepare(self) -> tuple[Unit, Unit]:
        installation = find_installation(self._cache, self._chosen)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write("rabbitmq.conf", self._configuration())
        self._write("advanced.config", ADVANCED)
        self._write("enabled_plugins", "[rabbitmq_management,rabbitmq_prometheus].\n")
        self._write_cookie()
        return self._name_server(installation), self._node(installation)

    def _configuration(self) -> str:
        members = "".join(f"cluster_formation.classic_config.nodes.{n} = {m}\n" for n, m in enumerate(self._cluster, 1))
        return (CLUSTERED + members if members else "") + CONFIGURATION.format(
            amqp=self._port,
            management=self._ports.port("rabbitmq-management"),
            metrics=self._ports.port("rabbitmq-metrics"),
            user=ADMIN,
            password=self._password,
            vhost=VHOST,
        )

    def _write(self, name: str, text: str) -> None:
        file = self._folder / name
        file.touch(mode=0o600)
        file.write_text(text)

    def _write_cookie(self) -> None:
        """Write the secret by which Erlang's programs know each other; they insist that nobody else can read it."""
        cookie = self._folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)

    def _name_server(self, installation: Installation) -> Unit:
        port = self._ports.port("epmd")
        command = (installation.program("epmd"), "-port", str(port), "-address", LOOPBACK)
        # In the foreground, for otherwise Erlang leaves a daemon of its own behind.
        env = {"PATH": installation.search_path}
        return Unit("epmd", port, Command(command, env, self._folder), lambda: name_server_answers(port), shown=False)

    def _node(self, installation: Installation) -> Unit:
        installation.program("erl")
        command = Command(
            (str(installation.scripts / "rabbitmq-server"),), self._environment(installation), self._folder
        )
        return Unit(
            "rabbitmq",
            self._port,
            command,
            self._is_ready,
            before_start=self._alias.make,
            after_stop=self._alias.remove,
        )

    def _environment(self, installation: Installation) -> dict[str, str]:
        folder = str(self._alias.path)
        return {
            "PATH": installation.search_path,
            "HOME": folder,
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._ports.port("epmd")),
            **installation.environment,
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",  # not the system's settings
            "RABBITMQ_NODENAME": self._node_name,
            "RABBITMQ_DIST_PORT": str(self._ports.port("rabbitmq-distribution")),
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            # With this and -noinput the script becomes the node, so that the process we hold is the node itself.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(
                (*VM_WORDS, *((QUICK_TO_NOTICE,) if self._cluster else ()))
            ),
        }

    async def _is_ready(self) -> bool:
        """Tell whether the node takes AMQP connections and its management API answers."""
        port = self._ports.port("rabbitmq-management")
        check = f"http://{LOOPBACK}:{port}/api/health/checks/port-listener/{self._port}"
        return await url_answers(check, auth=(ADMIN, self._password))
