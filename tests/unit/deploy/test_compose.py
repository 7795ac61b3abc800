"""docker-compose.yml, as far as it can be judged without an engine: what runs, as whom, after what, with which keys."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sources import ROOT

from pixorly.migrate import PACKAGES
from pixorly_stack.files import PASSWORDS
from pixorly_stack.prepare import DATABASES, USERS

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("api", "api-worker", "generator", "uploader", "ledger")
WITHOUT_A_SHELL = {"otel-collector", "jaeger"}
"""Images in which no program could ask the server how it is."""


def is_once(service: dict[str, Any]) -> bool:
    return service.get("restart") == "no"


def secret_of(grant: str | dict[str, str]) -> tuple[str, str]:
    """Return a secret's name, and the name of the file by which a container sees it."""
    return (grant, grant) if isinstance(grant, str) else (grant["source"], grant["target"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_little_besides_its_work(name: str) -> None:
    service = SERVICES[name]
    user = str(service["user"]).partition(":")[0]
    limits = service["deploy"]["resources"]["limits"]

    assert user.isdigit()
    assert int(user) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(limits) == {"cpus", "memory", "pids"}


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if not is_once(service)])
def test_a_server_is_asked_how_it_is_and_starts_again(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert ("healthcheck" in SERVICES[name]) == (name not in WITHOUT_A_SHELL)


def test_the_four_services_run_in_their_five_processes() -> None:
    assert set(OURS) <= set(SERVICES)
    assert {SERVICES[name]["build"]["args"]["SERVICE"] for name in OURS} == {"api", "generator", "uploader", "ledger"}
    assert SERVICES["api-worker"]["command"] == ["pixorly-api-worker"]


@pytest.mark.parametrize(
    ("later", "earlier", "condition"),
    [
        ("prepare", "postgres", "service_healthy"),
        ("prepare", "rabbitmq", "service_healthy"),
        ("prepare", "s3", "service_healthy"),
        *((f"migrate-{name}", "prepare", "service_completed_successfully") for name in PACKAGES),
        *((name, f"migrate-{name}", "service_completed_successfully") for name in PACKAGES),
        ("api-worker", "migrate-api", "service_completed_successfully"),
        ("uploader", "prepare", "service_completed_successfully"),
        ("api", "ledger", "service_healthy"),
        ("uploader", "ledger", "service_healthy"),
    ],
)
def test_what_is_needed_first_starts_first(later: str, earlier: str, condition: str) -> None:
    assert SERVICES[later]["depends_on"][earlier]["condition"] == condition


def test_a_service_has_its_own_secrets_and_no_others() -> None:
    told = {name: {target: source for source, target in map(secret_of, SERVICES[name]["secrets"])} for name in OURS}

    for name in OURS:
        owner = "api" if name == "api-worker" else name
        assert told[name].pop("pixorly_amqp_url") == f"{owner}_amqp_url"
        assert told[name].pop("pixorly_service_token") == "service_token"
        if owner in DATABASES:
            assert told[name].pop(f"pixorly_{owner}_database_url") == f"{owner}_database_url"
        if name not in {"ledger", "api-worker"}:
            assert told[name].pop("aws_secret_access_key") == f"{owner}_s3_secret"
    assert told["api"] == {"pixorly_admin_key": "admin_key"}
    assert set(told["generator"]) == {"openrouter_api_key", "openai_api_key"}
    assert told["api-worker"] == told["uploader"] == told["ledger"] == {}


def test_only_the_generator_reaches_the_internet_by_itself_and_only_what_people_open_is_published() -> None:
    published = {name for name, service in SERVICES.items() if service.get("ports")}
    outside = {name for name, service in SERVICES.items() if "front" in service.get("networks", ["default"])}

    assert COMPOSE["networks"]["back"]["internal"] is True
    assert published == {"api", "s3", "grafana", "prometheus", "jaeger"}
    assert outside == published | {"generator"}
    assert all(str(port).startswith("127.0.0.1:") for name in published for port in SERVICES[name]["ports"])


def test_data_lies_in_volumes_that_have_names() -> None:
    used = {str(volume).partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}

    assert set(COMPOSE["volumes"]) == {volume for volume in used if not volume.startswith(".")}
    assert {"postgres", "rabbitmq", "s3"} <= set(COMPOSE["volumes"])


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/secrets.sh"])
def test_files_that_are_mounted_are_there(file: str) -> None:
    assert (ROOT / file).is_file()
    mounted = [str(volume).split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]

    assert [path for path in mounted if path.startswith(".") and not (ROOT / path).exists()] == []


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder that deploy/secrets.sh makes, elsewhere."""
    script = tmp_path / "secrets.sh"
    script.write_text((ROOT / "deploy/secrets.sh").read_text())
    subprocess.run(["sh", script], check=True, capture_output=True, env={"PATH": os.environ["PATH"]})  # noqa: S607
    return tmp_path / "secrets"


def test_every_secret_that_is_mounted_is_made(secrets: Path) -> None:
    files = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    granted = {secret_of(grant)[0] for service in SERVICES.values() for grant in service.get("secrets", [])}

    assert files <= {file.name for file in secrets.iterdir()}
    assert granted == set(COMPOSE["secrets"])
    assert all(str(secret["file"]).startswith("deploy/secrets/") for secret in COMPOSE["secrets"].values())


def test_secrets_are_made_once_for_nobody_elses_eyes(secrets: Path) -> None:
    made = {file.name: file.read_text() for file in secrets.iterdir()}
    again = subprocess.run(["sh", secrets.parent / "secrets.sh"], check=True, capture_output=True, text=True)  # noqa: S607

    assert "already" in again.stdout
    assert {file.name: file.read_text() for file in secrets.iterdir()} == made
    assert secrets.stat().st_mode & 0o777 == 0o700


def test_the_passwords_of_the_urls_are_those_that_are_set_on_the_servers(secrets: Path) -> None:
    passwords: dict[str, str] = json.loads((secrets / "secrets.json").read_text())
    random = [value for name, value in passwords.items() if name != "s3"]

    assert set(passwords) == set(PASSWORDS)
    assert len(set(random)) == len(random)
    for name in DATABASES:
        url = f"postgresql://pixorly_{name}:{passwords[f'database-{name}']}@postgres:5432/pixorly_{name}"
        assert (secrets / f"{name}_database_url").read_text() == url
    for name in USERS:
        url = f"amqp://pixorly-{name}:{passwords[f'broker-{name}']}@rabbitmq:5672/pixorly"
        assert (secrets / f"{name}_amqp_url").read_text() == url
    for name, file in {
        "postgres": "postgres_password",
        "service-token": "service_token",
        "admin-key": "admin_key",
    }.items():
        assert (secrets / file).read_text() == passwords[name]
    assert passwords["rabbitmq"] in (secrets / "rabbitmq_admin.conf").read_text()


def test_the_object_store_knows_the_keys_that_the_services_show(secrets: Path) -> None:
    identities = json.loads((secrets / "s3.json").read_text())["identities"]
    keys = {key["accessKey"]: key["secretKey"] for identity in identities for key in identity["credentials"]}

    for name in ("api", "generator", "uploader", "prepare"):
        (file,) = [source for source, target in map(secret_of, SERVICES[name]["secrets"]) if target.startswith("aws_")]
        assert keys[SERVICES[name]["environment"]["AWS_ACCESS_KEY_ID"]] == (secrets / file).read_text()


def test_git_and_the_images_leave_the_secrets_alone() -> None:
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
