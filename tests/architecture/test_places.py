"""Each thing has its place: SQL, the environment, foreign libraries, and what catches everything."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from typing import Any, Final

import pytest
from sources import SERVICES, Source, by_name, of_service, sources

SQL: Final = re.compile(
    r"""\b(
        select\s+(.+\s+from\s+\w|\d|true\b|now\(|pg_|set_config|exists\b)
      | insert\s+into\s | update\s+\w+\s+(as\s+\w+\s+)?set\s | delete\s+from\s | truncate\s+(table\s+)?\w+
      | (create|alter|drop)\s+(or\s+replace\s+|unique\s+|temp\s+)?
        (table|index|database|role|schema|function|view|user)\b
      | (grant|revoke)\s+\w+(\s*,\s*\w+)*\s+on\s | with\s+\w+\s+as\s*(materialized\s*)?\( | lock\s+table\s
      | (listen|notify)\s+\w+\s*$ | begin\s*;|commit\s*; | set\s+(local|session)\s
    )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
HOLDS_SQL: Final = ("*/store.py", "*/store/*.py", "pixorly/outbox.py", "pixorly/db.py")
STATEMENTS: Final = {"execute", "executemany", "fetchrow", "fetchval", "copy_records_to_table"}
"""What only asyncpg's connections have among the things that we use."""

READS_THE_ENVIRONMENT: Final = (
    "*/settings.py",
    # These two run alone, while the set-up has no packages yet to read settings with.
    "pixorly_stack/cache.py",
    "pixorly_stack/rabbitmq_packages.py",
)

BORDERS: Final = {
    "asyncpg": (
        "pixorly/db.py",
        "*/store.py",
        "*/store/*.py",
        "pixorly_stack/postgres.py",
        "pixorly_stack/prepare.py",
    ),
    "aio_pika": (
        "pixorly/broker.py",
        "pixorly/delivery.py",
        "pixorly/topology.py",
        "pixorly_stack/prepare.py",
        "pixorly_api/graveyard.py",
    ),
    "aiormq": (),
    "faststream": ("pixorly/broker.py", "pixorly/delivery.py", "pixorly_api/hints.py"),
    "httpcore": ("pixorly_generator/providers/fetch.py", "pixorly_generator/providers/http.py"),
    "httpx": (
        "pixorly/http.py",
        "*/ledger.py",
        "pixorly_api/oidc.py",
        "pixorly_api/provider_calls.py",
        "pixorly_generator/providers/*.py",
        "pixorly_client/*",
        "pixorly_stack/*",
    ),
    "obstore": ("pixorly/blobs.py",),
    "aioboto3": ("pixorly/blobs.py", "pixorly_uploader/cdn.py"),
    "aiobotocore": ("pixorly/blobs.py", "pixorly_uploader/cdn.py"),
    "botocore": ("pixorly/bucket.py", "pixorly_api/links.py", "pixorly_uploader/cdn.py"),
    "PIL": (
        "pixorly_generator/staging.py",
        "pixorly_generator/providers/drawing.py",
        "pixorly_uploader/images.py",
        "pixorly_uploader/pixels.py",
        "pixorly_emulator/*",
        "pixorly_stack/demonstration.py",
    ),
    "jwt": ("pixorly_api/oidc.py",),
    "redis": (),
    "requests": (),
    "urllib.request": (),
}
"""Which files may know which foreign library; they turn its errors into ours."""
OF_THE_STACK: Final = {
    "asyncpg": ("pixorly_stack/doctor.py",),
    "aio_pika": ("pixorly_stack/doctor.py", "pixorly_stack/observing.py", "pixorly_stack/demonstration.py"),
}
"""The stack looks at the servers themselves, beside the services: to see whether they answer, and what passes by."""

STARS: Final = re.compile(
    r"\bselect\s+\*(?!\s+from\s+(unnest|jsonb_to_recordset|promised)\b)|\breturning\s+\*", re.IGNORECASE
)
"""All columns of a table, whichever it has; a list that the statement makes by itself names its own."""

CATCHES_ALL: Final = {
    "pixorly/delivery.py": (2, "the one place where every error of a handler ends; and a start that failed is undone"),
    "pixorly/grouping.py": (2, "an error is handed to whoever waits for the group"),
    "pixorly/service.py": (1, "a loop that died, whatever of, ends the process"),
    "pixorly_generator/providers/breaker.py": (1, "a call that was admitted is counted out again, and goes on up"),
}
"""Where everything may be caught: how often, and why."""


def _may(source: Source, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(source.name, pattern) for pattern in patterns)


def test_sql_is_in_the_store() -> None:
    elsewhere = [source for source in sources() if not _may(source, HOLDS_SQL)]

    assert _found(elsewhere, lambda source: [text for text in source.texts() if SQL.search(text)]) == {}
    assert _found(elsewhere, lambda source: sorted(STATEMENTS & _methods_called(source))) == {}


def _found(among: Iterable[Source], rule: Callable[[Source], list[Any]]) -> dict[str, list[Any]]:
    """Return by file what breaks a rule."""
    return {source.name: found for source in among if (found := rule(source))}


def _methods_called(source: Source) -> set[str]:
    return {
        node.func.attr
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


@pytest.mark.parametrize(
    ("text", "is_sql"),
    [
        ("select id from jobs where id = $1", True),
        ("select 1", True),
        ("\n  INSERT INTO jobs (id) values ($1)", True),
        ("update jobs set state = $1", True),
        ("delete from jobs", True),
        ("with due as (select 1) delete from x", True),
        ('CREATE DATABASE "x"', True),
        ("alter role api with password 'x'", True),
        ("Pick a model from the list.", False),
        ("The update of the set came late.", False),
        ("Created from the prompt.", False),
        ("PostgreSQL is away.", False),
    ],
)
def test_sql_is_known_when_it_is_seen(text: str, is_sql: bool) -> None:  # noqa: FBT001 - a row of the table
    assert bool(SQL.search(text)) == is_sql


STORES: Final = [
    source
    for source in sources()
    if source.package != "pixorly_stack"
    and (fnmatch(source.name, "*/store.py") or fnmatch(source.name, "*/store/[!_]*.py"))
]


@pytest.mark.parametrize("source", STORES, ids=by_name)
def test_a_store_takes_a_connection_and_opens_no_transaction(source: Source) -> None:
    opened = [
        node.lineno for node in ast.walk(source.tree) if isinstance(node, ast.Attribute) and node.attr == "transaction"
    ]
    public = [node for node in source.tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name[0] != "_"]

    assert opened == []
    assert public
    assert [node.name for node in public if not node.args.args or node.args.args[0].arg != "connection"] == []


@pytest.mark.parametrize("source", STORES, ids=by_name)
def test_a_store_names_its_columns_and_passes_its_values(source: Source) -> None:
    statements = [text for text in source.texts() if SQL.search(text)]

    assert statements
    assert [text for text in statements if STARS.search(text)] == []


def test_the_environment_is_read_in_the_settings() -> None:
    assert _found([source for source in sources() if not _may(source, READS_THE_ENVIRONMENT)], _environment) == {}


def _environment(source: Source) -> list[str]:
    names = {"environ", "environb", "getenv", "putenv"}
    used = {node.attr for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)}
    return sorted(names & (used | source.names_from("os")))


def test_foreign_libraries_stop_at_the_border() -> None:
    assert _found(sources(), _over_the_border) == {}


def _over_the_border(source: Source) -> list[str]:
    return [
        name
        for name in source.imports()
        for library, files in BORDERS.items()
        if (name == library or name.startswith(f"{library}."))
        and not _may(source, (*files, *OF_THE_STACK.get(library, ())))
    ]


def _catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}) for kind in kinds
    )


def test_nothing_catches_everything_but_for_a_reason() -> None:
    found = Counter(
        source.name
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler) and _catches_all(node)
    )

    assert dict(found) == {name: times for name, (times, _) in CATCHES_ALL.items()}


def test_nothing_is_suppressed_wholesale() -> None:
    assert _found(sources(), _suppressed_wholesale) == {}


def _suppressed_wholesale(source: Source) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "suppress"
        for kind in node.args
        if isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}
    ]


def test_annotations_are_read_as_they_are_written() -> None:
    """FastStream, FastAPI and pydantic read them at run time."""
    assert [source.name for source in sources() if "annotations" in source.names_from("__future__")] == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_few_files(service: str) -> None:
    names = {source.name.partition("/")[2] for source in of_service(service)}

    assert {"__init__.py", "settings.py", "handlers.py"} <= names
    assert {"app.py", "worker.py"} & names
    assert bool({"store.py", "store/__init__.py"} & names) == (service != "uploader")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_its_settings_in_one_class(service: str) -> None:
    (settings,) = [source for source in of_service(service) if source.name.endswith("/settings.py")]
    classes = [
        node.name for node in settings.tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Settings")
    ]

    assert classes == [f"{service.capitalize()}Settings"]


@pytest.mark.parametrize("service", SERVICES)
def test_rules_know_no_edge_and_the_store_no_rules_that_know_the_store(service: str) -> None:
    """Edge to rules to store, never back; pure facts, which know no store, may lie beneath it."""
    known = {source.module: _own_imports(source) for source in of_service(service)}
    edge = {name for name in known if name.split(".")[1:2] in (["routes"], ["handlers"], ["app"], ["worker"])}

    for name, imported in known.items():
        if name not in edge:
            assert imported & edge == set(), name
    store = f"pixorly_{service}.store"
    assert store not in _reachable(known, store)


def _own_imports(source: Source) -> set[str]:
    found = {name for name in source.imports() if name.startswith(f"{source.package}.")}
    return found | {f"{source.package}.{name}" for name in source.names_from(source.package)}


def _reachable(known: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    ahead = list(known.get(start, ()))
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += known.get(name, ())
    return seen
