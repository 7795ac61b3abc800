"""Every example in docs/api.md, run as it stands there: those of one language make one program."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from stack import Stack

pytestmark = pytest.mark.timeout(300)
_DOC: Final = Path(__file__).parents[2] / "docs/api.md"
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRAMS: Final[dict[str, Sequence[str]]] = {
    "sh": ("sh", "-eu"),
    "python": (sys.executable,),
    "js": ("node", "--input-type=module"),
}


def examples(language: str) -> str:
    """Return all examples in a language, as one program."""
    return "\n".join(text for name, text in _BLOCK.findall(_DOC.read_text(encoding="utf-8")) if name == language)


def test_there_are_examples_in_each_language_and_in_no_other() -> None:
    assert {name for name, _ in _BLOCK.findall(_DOC.read_text(encoding="utf-8"))} == set(_PROGRAMS)


@pytest.mark.parametrize("language", _PROGRAMS)
async def test_the_examples_do_what_they_say(stack: Stack, language: str, tmp_path: Path) -> None:
    program = _PROGRAMS[language]
    needs = (program[0], "curl") if language == "sh" else (program[0],)
    if missing := [name for name in needs if shutil.which(name) is None]:
        pytest.skip(f"{' and '.join(missing)} is not installed")
    _, key = await stack.user(amount_credits=200)
    environment = {**os.environ, "PIXORLY_URL": stack.dev["api_url"], "PIXORLY_KEY": key}

    done = await asyncio.to_thread(
        subprocess.run,
        program,
        input=examples(language),
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
        env=environment,
        cwd=tmp_path,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
