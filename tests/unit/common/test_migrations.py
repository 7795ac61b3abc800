"""Migrations bear the previous version running beside them: what locks for long, or pulls the rug, is found here."""

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from typing import Final

import pytest

from pixorly.migrate import PACKAGES

_WORDS: Final = re.compile(r"--[^\n]*|\$\$.*?\$\$", re.DOTALL)
_RISKS: Final = {
    "an index of a table that is in use is made concurrently, in a file that begins with -- no-transaction": (
        r"create (unique )?index (?!concurrently)(if not exists )?\w+ on (only )?(?P<table>\w+)"
    ),
    "a constraint of a table that is in use is added as not valid, and validated by the next file": (
        r"alter table (only )?(?P<table>\w+) add constraint (?!.* not valid)"
    ),
    "a column that the previous version does not write has a default, or may be null": (
        r"alter table (only )?(?P<table>\w+) add (column )?(?!constraint)\w+ (?!.* default )[^;]*not null"
    ),
    "what the previous version reads stays until a later version": (
        r"drop column|drop table|rename (column|to)|\btype\b"
    ),
}


def risks(sql: str) -> list[str]:
    """Return what of a migration is not safe beside the previous version; a table of its own file is nobody's yet."""
    found = []
    said = _WORDS.sub(" ", sql.lower())
    mine = set(re.findall(r"create (?:unlogged )?table (?:if not exists )?(\w+)", said))
    for statement in said.split(";"):
        words = " ".join(statement.split())
        if words.startswith(("create type", "create table")):
            continue
        for risk, pattern in _RISKS.items():
            match = re.search(pattern, words)
            if match and match.groupdict().get("table") not in mine:
                found.append(f"{risk}: {words[:80]}")
    if "concurrently" in said and not sql.startswith("-- no-transaction"):
        found.append("concurrently is refused in a transaction")
    return found


def migrations() -> Iterator[tuple[str, str]]:
    for package in sorted({package for packages in PACKAGES.values() for package in packages}):
        for file in (files(import_module(package)) / "migrations").iterdir():
            if file.name.endswith(".sql"):
                yield f"{package}/{file.name}", file.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "sql"), list(migrations()), ids=lambda given: given if given.endswith(".sql") else "")
def test_a_migration_bears_the_previous_version_beside_it(name: str, sql: str) -> None:
    assert risks(sql) == [], name


@pytest.mark.parametrize(
    "sql",
    [
        "create index jobs_by_model on jobs (model);",
        "-- words\ncreate unique index i on jobs (model);",
        "create index concurrently i on jobs (model);",
        "alter table jobs add constraint c check (n > 0);",
        "alter table jobs add column seed bigint not null;",
        "alter table jobs drop column seed;",
        "alter table jobs rename column a to b;",
        "alter table jobs alter column n type bigint;",
        "drop table jobs;",
    ],
)
def test_what_is_not_safe_is_found(sql: str) -> None:
    assert len(risks(sql)) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "create table new (id int); create index i on new (id); alter table new add constraint c check (id > 0);",
        "-- no-transaction\ncreate index concurrently if not exists i on jobs (model);",
        "alter table jobs add constraint c check (n > 0) not valid;",
        "alter table jobs add column seed bigint; alter table jobs add column a int not null default 0;",
        "alter table jobs validate constraint c;",
    ],
)
def test_what_is_safe_passes(sql: str) -> None:
    assert risks(sql) == []
