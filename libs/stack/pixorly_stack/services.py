"""The services of the stack: the table of processes, and what each is told."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path

from pixorly_stack.files import Secrets
from pixorly_stack.ports import LOOPBACK, Ports
from pixorly_stack.prepare import Prepared
from pixorly_stack.processes import IN_THE_BACKGROUND, Command
from pixorly_stack.units import Unit, url_answers

API_PORT = 8080
BEHIND_THE_API = 5
"""How nice those parts are that come after requests, and before the work on pictures."""
STOP_WITHIN_S = 75.0
"""Longer than the generator may take to finish calls that are paid for, and then to give up on what does not end."""
READY_PROBE_S = 4.0

PASSED_ON = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *(
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ),
)
"""What a process needs of the environment to run at all."""
PASSED_ON_PREFIXES = ("PIXORLY_", "OTEL_")
PROVIDERS = ("OPENROUTER_", "OPENAI_")
CDN = ("AWS_CLOUDFRONT_",)
KEPT_BACK = frozenset(
    f"PIXORLY_{name}"
    for name in (
        *("DIR", "CACHE_DIR", "POSTGRES_BIN", "RABBITMQ_BIN", "API_URL", "API_KEY", "HTTP_HOST", "HTTP_PORT"),
        *("AMQP_URL", "RABBITMQ_MANAGEMENT_URL", "DATABASE_URL", "S3_ENDPOINT_URL"),
        *("API_DATABASE_URL", "GENERATOR_DATABASE_URL", "LEDGER_DATABASE_URL"),
        *("LEDGER_URL", "GENERATOR_URL", "SERVICE_TOKEN", "ADMIN_KEY"),
    )
)
"""Settings that are the stack's own, or that it gives to those only that need them."""


class Need(Flag):
    """What a service must know to do its work."""

    DATABASE = auto()
    """Its own database."""
    BROKER = auto()
    """RabbitMQ, as its own user."""
    STORAGE = auto()
    """The object store's keys."""
    LEDGER = auto()
    """Where the ledger is."""
    TOKEN = auto()
    """The token of calls to the ledger, and of the api's to the generator."""
    GENERATOR = auto()
    """Where the generator is."""
    ADMIN_KEY = auto()
    """The key of admin calls."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the system.

    Attributes:
        name: Its name in `pixorly ps`.
        module: What `python -m` runs.
        owner: The service whose database and RabbitMQ user it has.
        needs: What it is told by the stack.
        own_settings: The beginnings of settings of the environment that only this service is told.
        arguments: Words of its command line, in which `{port}` stands for its port, `{file}` for the observer's file
            and `{rabbitmq}` for the port of RabbitMQ's own metrics.
        optional: Whether it runs only where it is asked for.
        niceness: How far it gives way to the others.
    """

    name: str
    module: str
    owner: str
    needs: Need
    own_settings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    optional: bool = False
    niceness: int = 0


OBSERVER = "observer"
QUEUES = "/metrics/detailed?family=queue_coarse_metrics"
"""RabbitMQ's own metrics of each queue."""
METRICS_EVERY_S = 2

_WORKER = Need.DATABASE | Need.BROKER | Need.LEDGER | Need.TOKEN
_API = _WORKER | Need.STORAGE | Need.GENERATOR | Need.ADMIN_KEY
SERVICES = (
    Service("ledger", "pixorly_ledger.app", "ledger", Need.DATABASE | Need.BROKER | Need.TOKEN),
    Service(
        "generator",
        "pixorly_generator.worker",
        "generator",
        Need.DATABASE | Need.BROKER | Need.STORAGE | Need.TOKEN,
        PROVIDERS,
        niceness=BEHIND_THE_API,
    ),
    Service(
        "uploader",
        "pixorly_uploader.worker",
        "uploader",
        Need.BROKER | Need.STORAGE | Need.LEDGER | Need.TOKEN,
        niceness=IN_THE_BACKGROUND,
    ),
    Service("api", "pixorly_api.app", "api", _API, CDN),
    Service("api-worker", "pixorly_api.worker", "api", _WORKER, niceness=BEHIND_THE_API),
    Service(
        OBSERVER,
        "pixorly_stack.observer",
        OBSERVER,
        Need(0),
        arguments=(
            "--port",
            "{port}",
            "--file",
            "{file}",
            "--scrape",
            f"rabbitmq=http://{LOOPBACK}:{{rabbitmq}}{QUEUES}",
        ),
        optional=True,
    ),
    Service("emulator", "pixorly_emulator", "emulator", Need(0), arguments=("--port", "{port}"), optional=True),
)


class Tellings:
    """What each service is told by its environment, and nothing that it need not know.

    Args:
        environment: The stack's own.
        prepared: The databases, users and bucket.
        secrets: The secrets.
        ports: The ports.
        observed: The file of the observer, which all send traces and metrics to; None where there is none.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        prepared: Prepared,
        secrets: Secrets,
        ports: Ports,
        observed: Path | None = None,
    ) -> None:
        self._observed = observed
        self._environment = environment
        self._prepared = prepared
        self._secrets = secrets
        self._ports = ports

    def url(self, name: str) -> str:
        """Return where a service answers HTTP."""
        return f"http://{LOOPBACK}:{self.port(name)}"

    def port(self, name: str) -> int:
        """Return the port on which a service answers HTTP."""
        return self._ports.port(name, prefer=API_PORT if name == "api" else None)

    def unit(self, service: Service, folder: Path, *, emulator: bool) -> Unit:
        """Return the unit that runs a service."""
        known = {
            "port": self.port(service.name),
            "file": self._observed,
            "rabbitmq": self._ports.port("rabbitmq-metrics") if service.name == OBSERVER else None,
        }
        arguments = (word.format(**known) for word in service.arguments)
        words = (sys.executable, "-P", "-m", service.module, *arguments)
        command = Command(words, self.environment(service, emulator=emulator), folder)
        ready = f"{self.url(service.name)}/readyz"
        return Unit(
            service.name,
            self.port(service.name),
            command,
            lambda: url_answers(ready, within_s=READY_PROBE_S),
            stop_within_s=STOP_WITHIN_S,
        )

    def _providers(self, *, emulator: bool) -> list[str]:
        """Return the providers that the generator can ask: those that it is given a key for."""
        keys = {"openrouter": "OPENROUTER_API_KEY", "openai": "OPENAI_API_KEY"}
        return ["sandbox", *(name for name, key in keys.items() if emulator or self._environment.get(key))]

    def environment(self, service: Service, *, emulator: bool) -> dict[str, str]:
        """Return the whole environment of a service."""
        told = {name: value for name, value in self._environment.items() if _passed_on(name)}
        told |= {
            "PYTHONUNBUFFERED": "1",
            "PIXORLY_HTTP_HOST": LOOPBACK,
            "PIXORLY_HTTP_PORT": str(self.port(service.name)),
        }
        if self._observed and not service.optional:
            told["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.url(OBSERVER)
            told["PIXORLY_OTLP_METRICS_EVERY_S"] = str(METRICS_EVERY_S)
        told.setdefault("PIXORLY_NICENESS", str(service.niceness))
        if Need.DATABASE in service.needs:
            told[f"PIXORLY_{service.owner.upper()}_DATABASE_URL"] = self._prepared.database_urls[service.owner]
        if Need.BROKER in service.needs:
            told["PIXORLY_AMQP_URL"] = self._prepared.amqp_urls[service.owner]
        if Need.STORAGE in service.needs:
            told |= self._prepared.s3.environment()
        if Need.LEDGER in service.needs:
            told["PIXORLY_LEDGER_URL"] = self.url("ledger")
        if Need.GENERATOR in service.needs:
            told["PIXORLY_GENERATOR_URL"] = self.url("generator")
        if Need.TOKEN in service.needs:
            told["PIXORLY_SERVICE_TOKEN"] = self._secrets["service-token"]
        if Need.ADMIN_KEY in service.needs:
            told["PIXORLY_ADMIN_KEY"] = self._secrets["admin-key"]
            told.setdefault("PIXORLY_PROVIDERS", ",".join(self._providers(emulator=emulator)))
            # Who tries things on one machine is not held back.
            told.setdefault("PIXORLY_JOBS_AT_ONCE", "{}")
        told |= {name: value for name, value in self._environment.items() if name.startswith(service.own_settings)}
        if emulator and service.own_settings == PROVIDERS:
            told |= {"OPENROUTER_API_KEY": "emulator", "OPENROUTER_BASE_URL": self.url("emulator")}
            told |= {"OPENAI_API_KEY": "emulator", "OPENAI_BASE_URL": f"{self.url('emulator')}/v1"}
        return told


def _passed_on(name: str) -> bool:
    return name in PASSED_ON or (name.startswith(PASSED_ON_PREFIXES) and name not in KEPT_BACK)
