"""Statements and reports as CSV (RFC 4180), for a spreadsheet or another program."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

MEDIA_TYPE: Final = "text/csv; charset=utf-8"
_STARTS_A_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


async def _as_csv(
    request: Request,
    wanted: Annotated[
        Literal["json", "csv"] | None, Query(alias="format", description="`csv`, or `Accept: text/csv`.")
    ] = None,
) -> bool:
    return wanted == "csv" or (wanted is None and "text/csv" in request.headers.get("accept", ""))


AsCsv = Annotated[bool, Depends(_as_csv)]
"""Whether an answer is wanted as CSV: `?format=csv`, or `Accept: text/csv`."""

CSV: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
"""What OpenAPI says of a route that can answer so."""


def sheet(rows: Iterable[Mapping[str, Any]], name: str) -> Response:
    """Return rows as CSV: what is nested becomes columns with dots in their names."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    return Response(_lines([columns, *_cells(flat, columns)]), headers=_headers(name), media_type=MEDIA_TYPE)


def long_sheet(pages: AsyncIterator[Sequence[Mapping[str, Any]]], columns: Sequence[str], name: str) -> Response:
    """Return pages of rows as CSV with these columns, each page as soon as it is there."""

    async def parts() -> AsyncIterator[str]:
        yield _lines([columns])
        async for page in pages:
            yield _lines(_cells(page, columns))

    return StreamingResponse(parts(), headers=_headers(name), media_type=MEDIA_TYPE)


def _headers(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}.csv"'}


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _cells(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> list[list[Any]]:
    return [[_cell(row.get(column)) for column in columns] for row in rows]


def _cell(value: Any) -> Any:
    # A spreadsheet would take a user's words for a formula and run it.
    if isinstance(value, str) and value.startswith(_STARTS_A_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(rows: Iterable[Sequence[Any]]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written).writerows(rows)
    return written.getvalue()
