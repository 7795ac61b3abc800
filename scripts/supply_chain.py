"""What our images contain of others: their licences, a bill of materials, and what can be said of their safety.

`licences` writes docs/licences.md, `sbom` writes a bill in CycloneDX for each image to dist/sbom, and `audit` looks
into the locks and, where the index tells of known weaknesses, asks it (by pip-audit, which `make check-deploy` brings).
All of it follows from the locks and from what is installed in .venv, which is the same.
"""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

ROOT: Final = Path(__file__).parent.parent
DOC: Final = ROOT / "docs/licences.md"
IMAGES: Final = {
    **{name: ROOT / "services" / name for name in ("api", "generator", "ledger", "uploader")},
    "stack": ROOT / "libs/stack",
}
_ENTRY: Final = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^ ;\\]+)(?P<rest>(?:.*\\\n)*.*)", re.MULTILINE
)
ALLOWED: Final = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0"}
    | {"HPND", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"}
)
UNNUMBERED: Final = frozenset({"BSD", "BSD License"})
"""Names that some packages give, by which it can't be told which BSD licence is meant; all of them will do."""
"""Licences under which what we ship may be used without giving anything of ours away."""
WORDS: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The MIT License": "MIT",
}
"""What packages call a licence that has a shorter name."""
BY_HAND: Final[dict[str, str]] = {}
"""Licences of packages that do not say theirs in their metadata, read in their files."""


@dataclass(frozen=True, order=True)
class Package:
    """A package that somebody else wrote."""

    name: str
    version: str
    licence: str
    marker: str = ""

    @property
    def purl(self) -> str:
        """Its name in the words of package-url."""
        return f"pkg:pypi/{self.name}@{self.version}"


def licence_of(name: str) -> str:
    """Return the licence of an installed package, as an SPDX expression; empty where it is not installed here."""
    if name in BY_HAND:
        return BY_HAND[name]
    try:
        said = metadata(name)
    except PackageNotFoundError:
        return ""
    if expression := said.get("License-Expression"):
        return str(expression)
    classifiers = [
        line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    words = [*([said["License"]] if said.get("License") and "\n" not in said["License"] else []), *classifiers]
    for word in words:
        short = WORDS.get(word.strip(), word.strip())
        if short in ALLOWED | UNNUMBERED:
            return short
    return " / ".join(words) or "unknown"


def packages(lock: Path) -> list[Package]:
    """Return what a lock holds."""
    found = []
    for entry in _ENTRY.finditer(lock.read_text()):
        marker = re.search(r"; (.+?) \\?$", entry["rest"].splitlines()[0]) if entry["rest"] else None
        found.append(Package(entry["name"], entry["version"], licence_of(entry["name"]), marker[1] if marker else ""))
    return found


def of_images() -> dict[str, list[Package]]:
    """Return what each image holds."""
    return {name: packages(folder / "requirements.lock") for name, folder in IMAGES.items()}


def refused(licence: str) -> bool:
    """Tell whether a licence is one that we do not ship, of an expression whether all that it offers are."""
    if not licence:
        return False
    choices = re.split(r"\s+OR\s+", licence.strip("()"))
    return not any(
        all(
            part.strip("() ") in ALLOWED | UNNUMBERED or part.startswith("LicenseRef")
            for part in re.split(r"\s+AND\s+", choice)
        )
        for choice in choices
    )


def licences_doc() -> str:
    """Return docs/licences.md."""
    images = of_images()
    by_name = {package.name: package for found in images.values() for package in found if package.licence}
    held_by = {name: [image for image, held in images.items() if name in {p.name for p in held}] for name in by_name}
    rows = [f"| {name} | {by_name[name].licence} | {', '.join(held_by[name])} |" for name in sorted(by_name)]
    head = [
        "# Licences",
        "",
        "Written by `make licences` from the locks and from what the packages say of themselves. Pixorly itself is",
        "Apache-2.0. What the images hold besides Python and Debian's own packages:",
        "",
        "| package | licence | images |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows, ""])


def licences() -> int:
    """Write the list, and say what may not be shipped."""
    DOC.write_text(licences_doc())
    bad = sorted({package for found in of_images().values() for package in found if refused(package.licence)})
    for package in bad:
        print(f"{package.name} {package.version}: {package.licence}")
    print(f"wrote {DOC.relative_to(ROOT)}" + (f"; {len(bad)} licences may not be shipped" if bad else ""))
    return len(bad)


def bill(image: str, found: list[Package]) -> dict[str, Any]:
    """Return an image's bill of materials; the same locks give the same bill."""
    project = tomllib.loads((IMAGES[image] / "pyproject.toml").read_text())["project"]
    me = f"pkg:pypi/{project['name']}@{project['version']}"
    serial = uuid5(NAMESPACE_URL, "\n".join([me, *(package.purl for package in found)]))
    components = [
        {
            "type": "library",
            "bom-ref": package.purl,
            "name": package.name,
            "version": package.version,
            "purl": package.purl,
            **({"licenses": [_licence(package.licence)]} if package.licence else {}),
            **({"properties": [{"name": "pixorly:marker", "value": package.marker}]} if package.marker else {}),
        }
        for package in found
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": me,
                "name": project["name"],
                "version": project["version"],
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": me, "dependsOn": [package.purl for package in found]}],
    }


def _licence(words: str) -> dict[str, Any]:
    if words in ALLOWED:
        return {"license": {"id": words}}
    return {"expression": words} if re.search(r" (AND|OR|WITH) ", words) else {"license": {"name": words}}


def sbom() -> int:
    """Write the bills."""
    folder = ROOT / "dist/sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for image, found in of_images().items():
        file = folder / f"pixorly-{image}.cdx.json"
        file.write_text(json.dumps(bill(image, found), indent=2) + "\n")
        print(f"{file.relative_to(ROOT)}: {len(found)} packages")
    return 0


def unlocked(lock: Path) -> list[str]:
    """Return what stands in a lock without a hash, or from elsewhere than an index."""
    text = lock.read_text()
    bad = [entry["name"] for entry in _ENTRY.finditer(text) if "--hash=sha256:" not in entry["rest"]]
    return bad + re.findall(r"^(?:-e|-f|--(?!hash)\S+|\S+ @ \S+).*", text, re.MULTILINE)


def audit() -> int:
    """Look into the locks, and ask for known weaknesses; return how many there are."""
    locks = [ROOT / "requirements.lock", *(folder / "requirements.lock" for folder in IMAGES.values())]
    failed = 0
    for lock in locks:
        for words in unlocked(lock):
            print(f"{lock.relative_to(ROOT)}: {words} is not locked by a hash")
            failed += 1
    if not failed:
        print(f"{len(locks)} locks: every package at one version, with its hashes, from an index")
    return failed + known_weaknesses()


def known_weaknesses() -> int:
    """Ask the index for what is known to be weak, of all that the images hold; where it does not tell, say so."""
    tool = ROOT / ".cache/deploy/bin/pip-audit"
    words = [str(tool), "--format=json", "--progress-spinner=off", "--disable-pip", "--require-hashes"]
    for folder in IMAGES.values():
        words += ["-r", str(folder / "requirements.lock")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - our words
    try:
        told = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print(f"NOT CHECKED for known weaknesses: {(done.stderr.strip() or 'no answer').splitlines()[-1]}")
        return 0
    skipped = [one["name"] for one in told if "skip_reason" in one]
    weak = [one for one in told if one.get("vulns")]
    for one in weak:
        print(f"{one['name']} {one['version']}: {', '.join(flaw['id'] for flaw in one['vulns'])}")
    if skipped:
        print(f"NOT CHECKED for known weaknesses, which the index does not tell here: {len(skipped)} of {len(told)}")
    print(f"{len(told) - len(skipped)} packages asked about, {len(weak)} with known weaknesses")
    return len(weak)


if __name__ == "__main__":
    sys.exit({"licences": licences, "sbom": sbom, "audit": audit}[sys.argv[1]]())
