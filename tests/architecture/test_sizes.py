"""An upper fence for sizes: past it, look again. The habit is a function of 10 lines and a file of 200."""

from typing import Final

from sources import sources

FUNCTION_LINES: Final = 60
FILE_LINES: Final = 400

LONGER_FILES: Final = {
    "pixorly/delivery.py": (550, "the one place that decides what becomes of a message"),
    "pixorly_ledger/credits.py": (420, "every way in which credits move"),
    "pixorly_ledger/store.py": (900, "all of the ledger's SQL, one function per statement"),
}
LONGER_FUNCTIONS: Final[dict[str, tuple[int, str]]] = {
    "pixorly_ledger/store.py:post_charges": (
        75,
        "one statement: no lock is held over a way to the server",
    )
}


def test_a_file_can_be_read_in_one_sitting() -> None:
    lines = {source.name: len(source.text.splitlines()) for source in sources()}

    assert {name: count for name, count in lines.items() if count > LONGER_FILES.get(name, (FILE_LINES, ""))[0]} == {}


def test_a_function_fits_on_a_screen() -> None:
    lines = {
        f"{source.name}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for source in sources()
        for node in source.functions()
    }

    longer = {name: count for name, count in lines.items() if count > FUNCTION_LINES}
    assert {name: count for name, count in longer.items() if count > LONGER_FUNCTIONS.get(name, (0, ""))[0]} == {}


def test_every_exception_is_still_needed() -> None:
    lines = {source.name: len(source.text.splitlines()) for source in sources()}
    functions = {f"{source.name}:{node.name}" for source in sources() for node in source.functions()}

    assert [name for name in LONGER_FILES if lines.get(name, 0) <= FILE_LINES] == []
    assert set(LONGER_FUNCTIONS) <= functions
