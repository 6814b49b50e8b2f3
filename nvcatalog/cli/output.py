"""Write answers to stdout as a table, CSV, JSON or Parquet, and everything else to stderr."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nvcatalog.cli.wording import in_commands
from nvcatalog.errors import NVCatalogWarning

if TYPE_CHECKING:
    import pyarrow as pa


class _Out(Console):
    """A console that leaves it to its caller what a reader means who has left: rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise  # what rich has just caught


err = Console(stderr=True, highlight=False)
out = _Out(highlight=False)

NARROWEST_COLUMN = 8
WIDEST_COLUMN = 60  # where a table may be wider than the terminal
# What uploaders typed may hold what a terminal obeys: it could clear the screen, or hide a line.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Format(StrEnum):
    """How rows are written to stdout."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def outcome_rows(maps: Any) -> pa.Table:
    """Return a row for each outcome of an answer, with the path where there is one."""
    import pyarrow as pa

    paths = {meta["id"]: path for meta, path in zip(maps.images_meta, maps.images, strict=True)}
    rows = [
        outcome._asdict()
        | {"reason": outcome.reason and in_commands(outcome.reason)}
        | {"path": paths.get(outcome.id) if outcome.kind == "image" else None}
        for outcome in maps.report
    ]
    texts = ("kind", "id", "status", "reason", "path")
    return pa.Table.from_pylist(
        rows, schema=pa.schema([(n, pa.int64() if n == "id" else pa.string()) for n in texts])
    )


def show(table: pa.Table, output: Format | None) -> None:
    """Write rows to stdout, as many as its reader wants: ``| head`` is no failure."""
    try:
        _write(table, output)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end


def _write(table: pa.Table, output: Format | None) -> None:
    if output is None and sys.stdout.isatty():
        _show_to_people(table)
    elif output is Format.table:
        _show_as_table(table)
    elif output is Format.parquet:
        from pyarrow import parquet

        parquet.write_table(table, sys.stdout.buffer)
    elif output in (None, Format.csv):
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows([_csv_cell(value) for value in row] for row in _rows(table))
    else:
        out.out(json.dumps(_json_value(table.to_pylist()), indent=2, ensure_ascii=False), highlight=False)


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _csv_cell(value: Any) -> str:
    """Return a value so that nothing of it is lost: dates in ISO, lists and structs as JSON."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(_json_value(value), ensure_ascii=False)
    return str(value if isinstance(value, float) else _json_value(value))


def _json_value(value: Any) -> Any:
    """Return a value as JSON has it: no NaN, and a decimal as text where a float would change it."""
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value).replace(",", "")  # as DuckDB reads it: -1 day 23:00:00
    if isinstance(value, Decimal):
        return float(value) if Decimal(repr(float(value))) == value else format(value, "f")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, int | str) else str(value)


def _show_to_people(table: pa.Table) -> None:
    """Show a table or, where its columns would be too narrow, blocks of ``column: value``."""
    names, rows = _as_texts(table)
    if _width(names, rows, NARROWEST_COLUMN) <= out.width:
        out.print(_rich_table(names, rows))
        return
    if not rows:
        err.print("No rows.")
        return
    room = max(map(len, names)) + 1
    blocks = [
        "\n".join(f"{name + ':':{room}} {cell}" for name, cell in zip(names, row, strict=True)) for row in rows
    ]
    out.print("\n\n".join(blocks), markup=False, soft_wrap=True)


def _harmless(text: str) -> str:
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _show_as_table(table: pa.Table) -> None:
    """Show a table as was asked for, wider than the terminal where it must be."""
    names, rows = _as_texts(table)
    if _width(names, rows, NARROWEST_COLUMN) <= out.width:
        out.print(_rich_table(names, rows))
        return
    wide = _Out(highlight=False, width=_width(names, rows, WIDEST_COLUMN))
    wide.print(_rich_table(names, rows, WIDEST_COLUMN))


def _as_texts(table: pa.Table) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and the rows."""
    rows = [["" if value is None else _harmless(str(value)) for value in row] for row in _rows(table)]
    return [_harmless(name) for name in table.column_names], rows


def _width(names: list[str], rows: list[list[str]], widest: int) -> int:
    """Return how wide a table is whose columns are no wider than that."""
    widths = [max(map(len, cells)) for cells in zip(names, *rows, strict=True)]
    return sum(min(width, widest) + 1 for width in widths)


def _rich_table(names: list[str], rows: list[list[str]], widest: int | None = None) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        shown.add_column(escape(name), overflow="fold", max_width=widest)
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def show_warning(message: Warning | str, category: type[Warning], *_place: object, **_more: object) -> None:
    """Write a warning as one line."""
    name = "Warning" if issubclass(category, NVCatalogWarning) else category.__name__
    err.print(f"[yellow]{name}:[/] {escape(_harmless(in_commands(str(message))))}", soft_wrap=True)
