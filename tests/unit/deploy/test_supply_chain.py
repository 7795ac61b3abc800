"""What the images hold of others: all of it under a licence that we may ship, listed, and locked."""

import importlib.util
import re
from pathlib import Path

import pytest
from sources import ROOT

SPEC = importlib.util.spec_from_file_location("supply_chain", ROOT / "scripts/supply_chain.py")
assert SPEC
assert SPEC.loader
chain = importlib.util.module_from_spec(SPEC)
__import__("sys").modules["supply_chain"] = chain
SPEC.loader.exec_module(chain)

IMAGES = chain.of_images()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_nothing_that_may_not_be_shipped(image: str) -> None:
    assert [package for package in IMAGES[image] if chain.refused(package.licence)] == []


def test_the_list_of_licences_is_what_the_images_hold() -> None:
    listed = set(re.findall(r"^\| ([a-z0-9.-]+) \|", (ROOT / "docs/licences.md").read_text(), re.MULTILINE)) - {
        "package"
    }
    here = {package.name for found in IMAGES.values() for package in found if package.licence}
    locked = {package.name for found in IMAGES.values() for package in found}

    assert here <= listed <= locked, "run `make licences`"


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("MIT", False),
        ("Apache-2.0 OR GPL-3.0-only", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", False),
        ("GPL-3.0-only", True),
        ("MIT AND AGPL-3.0-only", True),
        ("unknown", True),
    ],
)
def test_a_licence_is_judged_by_what_it_lets_us_choose(licence: str, refused: bool) -> None:  # noqa: FBT001 - a row
    assert chain.refused(licence) == refused


@pytest.mark.parametrize("image", IMAGES)
def test_a_bill_names_everything_in_the_lock_and_is_the_same_each_time(image: str) -> None:
    bill = chain.bill(image, IMAGES[image])
    lock = (chain.IMAGES[image] / "requirements.lock").read_text()

    assert len(bill["components"]) == len(re.findall(r"^[a-z0-9][^ ]*==", lock, re.MULTILINE))
    assert bill == chain.bill(image, chain.packages(chain.IMAGES[image] / "requirements.lock"))


def test_what_no_hash_locks_is_found(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("a==1.0 \\\n    --hash=sha256:00\nb==2.0\n-e ./c\nd @ https://example.com/d.whl\n")

    assert chain.unlocked(lock) == ["b", "-e ./c", "d @ https://example.com/d.whl"]
