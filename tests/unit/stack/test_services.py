"""Each service is told what it needs to know, and nothing else."""

from pathlib import Path

import pytest

from pixorly_stack.access import S3Access
from pixorly_stack.files import Secrets
from pixorly_stack.ports import Ports
from pixorly_stack.prepare import Prepared
from pixorly_stack.services import SERVICES, Service, Tellings

OUTSIDE = {
    "PATH": "/usr/bin",
    "HOME": "/home/ada",
    "SECRET_OF_SOMEBODY": "x",
    "OPENROUTER_API_KEY": "sk-or-x",
    "OPENAI_API_KEY": "sk-x",
    "AWS_CLOUDFRONT_PRIVATE_KEY": "pem",
    "AWS_SECRET_ACCESS_KEY": "the user's own",
    "PIXORLY_DATABASE_URL": "postgresql://admin",
    "PIXORLY_AMQP_URL": "amqp://admin",
    "PIXORLY_API_KEY": "px_live_x",
    "PIXORLY_JOB_DEADLINE_S": "60",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
}
COMMON = {
    "PATH",
    "HOME",
    "PYTHONUNBUFFERED",
    "PIXORLY_HTTP_HOST",
    "PIXORLY_HTTP_PORT",
    "PIXORLY_NICENESS",
    "PIXORLY_JOB_DEADLINE_S",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
}
STORE = {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_S3_BUCKET", "PIXORLY_S3_ENDPOINT_URL"}
CALLS_LEDGER = {"PIXORLY_LEDGER_URL", "PIXORLY_SERVICE_TOKEN"}
API = {
    "PIXORLY_API_DATABASE_URL",
    "PIXORLY_AMQP_URL",
    "PIXORLY_ADMIN_KEY",
    "PIXORLY_GENERATOR_URL",
    "PIXORLY_JOBS_AT_ONCE",
    "PIXORLY_PROVIDERS",
    "AWS_CLOUDFRONT_PRIVATE_KEY",
    *STORE,
    *CALLS_LEDGER,
}
TOLD = {
    "api": API,
    "api-worker": {"PIXORLY_API_DATABASE_URL", "PIXORLY_AMQP_URL", *CALLS_LEDGER},
    "generator": {
        "PIXORLY_GENERATOR_DATABASE_URL",
        "PIXORLY_AMQP_URL",
        "PIXORLY_SERVICE_TOKEN",
        "OPENROUTER_API_KEY",
        "OPENAI_API_KEY",
        *STORE,
    },
    "uploader": {"PIXORLY_AMQP_URL", *STORE, *CALLS_LEDGER},
    "ledger": {"PIXORLY_LEDGER_DATABASE_URL", "PIXORLY_AMQP_URL", "PIXORLY_SERVICE_TOKEN"},
    "observer": set(),
    "emulator": set(),
}


@pytest.fixture
def tellings(tmp_path: Path) -> Tellings:
    return make_tellings(tmp_path, OUTSIDE)


def make_tellings(tmp_path: Path, outside: dict[str, str]) -> Tellings:
    owners = ("api", "generator", "ledger", "uploader")
    prepared = Prepared(
        database_urls={owner: f"postgresql://{owner}" for owner in owners[:3]},
        amqp_urls={owner: f"amqp://{owner}" for owner in owners},
        amqp_admin_url="amqp://admin",
        own_users=True,
        s3=S3Access("http://127.0.0.1:1", "us-east-1", "pixorly", "secret", "pixorly-images"),
    )
    return Tellings(outside, prepared, Secrets(tmp_path / "secrets.json"), Ports(tmp_path / "ports.json"))


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_is_told_what_it_needs_and_nothing_else(tellings: Tellings, service: Service) -> None:
    told = tellings.environment(service, emulator=False)

    assert set(told) == COMMON | TOLD[service.name]


def test_what_a_request_or_a_call_waits_for_goes_first(tellings: Tellings) -> None:
    nice = {
        service.name: int(tellings.environment(service, emulator=False)["PIXORLY_NICENESS"]) for service in SERVICES
    }

    assert nice["api"] == nice["ledger"] == 0 < nice["api-worker"] == nice["generator"] < nice["uploader"]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_has_its_own_database_and_its_own_user(tellings: Tellings, service: Service) -> None:
    told = tellings.environment(service, emulator=False)

    for name in (name for name in told if name.endswith("_DATABASE_URL")):
        assert told[name] == f"postgresql://{service.owner}"
    assert told.get("PIXORLY_AMQP_URL", f"amqp://{service.owner}") == f"amqp://{service.owner}"
    assert told.get("AWS_SECRET_ACCESS_KEY", "secret") == "secret"


def test_with_the_emulator_the_generator_calls_it_and_not_the_provider(tellings: Tellings) -> None:
    generator = next(service for service in SERVICES if service.name == "generator")

    told = tellings.environment(generator, emulator=True)

    assert told["OPENROUTER_BASE_URL"] == tellings.url("emulator")
    assert told["OPENROUTER_API_KEY"] == "emulator"


@pytest.mark.parametrize(
    ("outside", "emulator", "offered"),
    [
        ({}, False, ["sandbox"]),
        ({"OPENAI_API_KEY": ""}, False, ["sandbox"]),
        ({"OPENROUTER_API_KEY": "sk"}, False, ["sandbox", "openrouter"]),
        ({"OPENAI_API_KEY": "sk"}, False, ["sandbox", "openai"]),
        ({}, True, ["sandbox", "openrouter", "openai"]),
        ({"PIXORLY_PROVIDERS": "openai"}, True, ["openai"]),
    ],
)
def test_the_api_offers_the_models_that_the_generator_has_keys_for(
    tmp_path: Path, outside: dict[str, str], offered: list[str], *, emulator: bool
) -> None:
    api = next(service for service in SERVICES if service.name == "api")

    told = make_tellings(tmp_path, outside).environment(api, emulator=emulator)

    assert told["PIXORLY_PROVIDERS"].split(",") == offered


def test_every_process_has_a_port_of_its_own(tellings: Tellings) -> None:
    ports = {tellings.port(service.name) for service in SERVICES}

    assert len(ports) == len(SERVICES)


def test_where_there_is_an_observer_all_services_send_to_it(tellings: Tellings, tmp_path: Path) -> None:
    tellings._observed = tmp_path / "observed.sqlite"

    told = {service.name: tellings.environment(service, emulator=False) for service in SERVICES}

    sends = {
        name for name, given in told.items() if given.get("OTEL_EXPORTER_OTLP_ENDPOINT") == tellings.url("observer")
    }
    assert sends == {service.name for service in SERVICES if not service.optional}
