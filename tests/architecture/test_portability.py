"""Nothing in the project belongs to the machine it was written on."""

import re
import socket
import subprocess
from pathlib import Path
from typing import Final

import pytest
from sources import ROOT

HOMES: Final = re.compile(r"(?<![\w./~}>-])/(?:work|root|home(?!/ada\b)|Users|Volumes)/[\w.-]")
"""A path in somebody's home or workplace, as the start of a path; Ada lives in our tests only."""
VARIABLE: Final = re.compile(r'"?\$\{?\w+\}?"?')
BINARY: Final = {".png", ".webp", ".jpg", ".jpeg", ".avif", ".gif", ".ico", ".woff2"}


def _files() -> list[Path]:
    """Every file that is or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607 - git is what there is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8", errors="replace")
    for path in _files()
    if path.suffix not in BINARY
}


def _homes(text: str) -> list[str]:
    return HOMES.findall(VARIABLE.sub("somewhere", text))


def test_the_project_is_seen() -> None:
    assert "libs/common/pixorly/events.py" in TEXTS
    assert len(TEXTS) > 100


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    assert {name: found for name, text in TEXTS.items() if (found := _homes(text))} == {}


def test_no_file_names_this_very_folder_home_or_host() -> None:
    here = [text for text in (str(ROOT), str(Path.home()), socket.gethostname()) if len(text.strip("/")) > len("root")]

    assert [(name, text) for name, content in TEXTS.items() for text in here if text in content] == []


@pytest.mark.parametrize(
    ("text", "is_home"),
    [
        ("cd |home|eve|pixorly", True),
        ("'|root|.cache'", True),
        ("https://example.com/home/page", False),
        ("root/usr/lib", False),
        ("$HOME/work/x", False),
        ('"$HERE"/root/usr/lib', False),
        ("GET /v1/images", False),
    ],
)
def test_such_a_path_is_known_when_it_is_seen(text: str, is_home: bool) -> None:  # noqa: FBT001 - a row of the table
    assert bool(_homes(text.replace("|", "/"))) == is_home
