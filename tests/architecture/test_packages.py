"""Each package can be had alone: it declares what it imports, and imports nobody it should not know."""

import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, Final

import pytest
from sources import ROOT, Source, project, sources

DISTRIBUTIONS: Final = sorted({source.distribution for source in sources()})
COMES_WITH: Final = {
    "aiobotocore": "aioboto3",
    "botocore": "aioboto3",
    "httpcore": "httpx",
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
}
"""Parts of a library that choose no version of their own: the library names the one that it was made for."""
OURS: Final = {source.package for source in sources()}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared(folder: Path) -> set[str]:
    """Return the distributions that a package declares, and those that a library of ours brings with it."""
    named = {
        _normal(re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0]) for text in project(folder)["project"]["dependencies"]
    }
    ours = [other for other in DISTRIBUTIONS if _normal(project(other)["project"]["name"]) in named]
    return named.union(*(_declared(other) for other in ours)) if ours else named


@cache
def _provided() -> dict[str, list[str]]:
    return {module: [_normal(name) for name in names] for module, names in packages_distributions().items()}  # type: ignore[unused-ignore]


def _foreign(source: Source) -> set[str]:
    roots = {name.partition(".")[0] for name in source.imports(for_types=False)}
    return {root for root in roots if root not in sys.stdlib_module_names | OURS}


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_a_package_declares_what_it_imports(folder: Path) -> None:
    declared = _declared(folder)
    imported = set().union(*(_foreign(source) for source in sources() if source.distribution == folder))

    missing = {name for name in imported if not declared & {COMES_WITH.get(name), *_provided().get(name, [name])}}

    assert missing == set()


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_a_package_declares_which_of_ours_it_imports(folder: Path) -> None:
    own = {source.package for source in sources() if source.distribution == folder}
    named = {
        _normal(re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0]) for text in project(folder)["project"]["dependencies"]
    }
    imported = {
        name.partition(".")[0] for source in sources() if source.distribution == folder for name in source.imports()
    }

    assert {_normal(name) for name in (imported & OURS) - own} <= named


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_a_package_says_what_it_is_and_which_pythons_it_runs_on(folder: Path) -> None:
    said: dict[str, Any] = project(folder)["project"]

    assert said["requires-python"] == ">=3.11,<3.14"
    assert said["license"] == "Apache-2.0"
    assert said["description"]


def test_who_may_import_whom_is_kept() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("lock", sorted(ROOT.rglob("requirements.lock")), ids=lambda path: str(path.parent.name))
def test_a_lock_holds_hashes_and_no_addresses(lock: Path) -> None:
    if ".venv" in lock.parts:
        pytest.skip("not ours")
    text = lock.read_text(encoding="utf-8")

    assert "--hash=sha256:" in text
    assert "://" not in text
    assert "--index-url" not in text
