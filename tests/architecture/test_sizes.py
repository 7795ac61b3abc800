"""An upper fence for sizes: past it, look again. The habit is a function of 10 lines and a file of 200."""

from typing import Final

import pytest
from sources import Source, by_name, sources

FUNCTION_LINES: Final = 60
FILE_LINES: Final = 400

LONGER_FILES: Final = {
    "pixorly/delivery.py": (500, "the one place that decides what becomes of a message"),
    "pixorly_api/store.py": (900, "all of the api's SQL, one function per statement"),
    "pixorly_ledger/store.py": (900, "all of the ledger's SQL, one function per statement"),
}
LONGER_FUNCTIONS: Final[dict[str, tuple[int, str]]] = {}


@pytest.mark.parametrize("source", sources(), ids=by_name)
def test_a_file_can_be_read_in_one_sitting(source: Source) -> None:
    limit, _ = LONGER_FILES.get(source.name, (FILE_LINES, ""))

    assert len(source.text.splitlines()) <= limit


@pytest.mark.parametrize("source", sources(), ids=by_name)
def test_a_function_fits_on_a_screen(source: Source) -> None:
    found = {
        node.name: (node.end_lineno or node.lineno) - node.lineno + 1
        for node in source.functions()
        if (node.end_lineno or node.lineno) - node.lineno + 1
        > LONGER_FUNCTIONS.get(f"{source.name}:{node.name}", (FUNCTION_LINES, ""))[0]
    }

    assert found == {}


def test_every_exception_is_still_needed() -> None:
    lines = {source.name: len(source.text.splitlines()) for source in sources()}
    functions = {f"{source.name}:{node.name}" for source in sources() for node in source.functions()}

    assert [name for name in LONGER_FILES if lines.get(name, 0) <= FILE_LINES] == []
    assert set(LONGER_FUNCTIONS) <= functions
