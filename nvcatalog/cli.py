"""The command line: results on stdout, everything else on stderr. The only module that prints."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import os
import shlex
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nvcatalog import __version__
from nvcatalog.errors import DataDirError, NVCatalogError, NVCatalogWarning, QueryError

if TYPE_CHECKING:
    import pyarrow as pa

    from nvcatalog.catalog import Catalog

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and errors: nothing boxed or cut, and no <bool> behind a flag
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fetch brain maps from NeuroVault, and ask everything that was ever fetched in SQL.",
)
_err = Console(stderr=True, highlight=False)
_out = Console(highlight=False)

ALL_THERE, SOMETHING_MISSING, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
NARROWEST_COLUMN = 8
MOST_NAMED = 20


class Mode(StrEnum):
    """When the servers are asked."""

    download_new = "download_new"
    overwrite = "overwrite"
    offline = "offline"


class Format(StrEnum):
    """How rows are written to stdout."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", "-d", metavar="FOLDER", help="Where neurovault/ is; nilearn's folder by default."),
]
OutputFormat = Annotated[
    Format | None, typer.Option("--format", "-f", help="A table on a terminal, csv in a pipe, unless said here.")
]
Params = Annotated[
    list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter's value; repeatable.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no summary.")]


@app.command(context_settings={"allow_extra_args": True})
def fetch(
    context: typer.Context,
    collections: Annotated[
        list[str] | None, typer.Option("--collections", "-c", metavar="IDS", help="Whole collections: 555,658.")
    ] = None,
    images: Annotated[
        list[str] | None, typer.Option("--images", "-i", metavar="IDS", help="Single images: 10426,32980.")
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Also the terms Neurosynth associates with them.")
    ] = False,
    mode: Annotated[Mode, typer.Option(help="When the servers are asked.")] = Mode.download_new,
    data_dir: DataDir = None,
    timeout: Annotated[float, typer.Option(help="Seconds to connect, and to the next byte.")] = 10.0,
    max_workers: Annotated[int | None, typer.Option(help="Parallel downloads; 6 by default.")] = None,
    output: OutputFormat = None,
    quiet: Quiet = False,
) -> None:
    """Fetch collections and images; one row an image on stdout.

    Ends with status 1 when anything is missing, and says what.
    """
    from nvcatalog.fetch import fetch_neurovault_ids

    if context.args:
        ids = ",".join(context.args)
        raise typer.BadParameter(f"ids of what? say --collections {ids} or --images {ids}")
    if not collections and not images:
        raise typer.BadParameter("give --collections or --images, such as: nvcatalog fetch --collections 555")
    with _leaving_politely():
        maps = fetch_neurovault_ids(
            collection_ids=_split(collections),
            image_ids=_split(images),
            mode=mode,
            data_dir=data_dir,
            fetch_neurosynth_words=words,
            vectorize_words=False,
            verbose=0 if quiet else 2,
            timeout=timeout,
            max_workers=max_workers,
        )
    _show(_outcome_rows(maps), output)
    if maps.report.missing:
        raise typer.Exit(SOMETHING_MISSING)


@app.command()
def sql(
    query: Annotated[
        str, typer.Argument(help="A SELECT in DuckDB's SQL; $name stands for a parameter. - reads it from stdin.")
    ],
    param: Params = None,
    data_dir: DataDir = None,
    output: OutputFormat = None,
) -> None:
    """Ask the catalog in SQL."""
    catalog, params = _catalog(data_dir), _parse_params(param)
    text = sys.stdin.read() if query == "-" else query
    with _asking(catalog):
        _show(catalog.sql(text, params or None).arrow(), output)


@app.command()
def query(
    name: Annotated[str | None, typer.Argument(help="Which; without it, they are listed.")] = None,
    param: Params = None,
    data_dir: DataDir = None,
    output: OutputFormat = None,
) -> None:
    """Run a query that ships with the package, or list them."""
    if name is None:
        _show(_shipped_queries(), output)
        return
    catalog, params = _catalog(data_dir), _parse_params(param)
    with _asking(catalog):
        _show(catalog.query(name, params).arrow(), output)


@app.command()
def adopt(data_dir: DataDir = None, quiet: Quiet = False) -> None:
    """Register what is in the folder already, such as what nilearn downloaded."""
    report = _catalog(data_dir).adopt(verbose=0 if quiet else 2)
    for outcome in report.missing:
        _err.print(f"[red]{escape(str(outcome.reason))}[/]", soft_wrap=True)
    if report.missing:
        raise typer.Exit(SOMETHING_MISSING)


@app.command()
def sync(
    collections: Annotated[
        list[str] | None,
        typer.Option("--collections", "-c", metavar="IDS", help="Just these, read anew: 555,658."),
    ] = None,
    exclude_owner: Annotated[
        list[int] | None,
        typer.Option("--exclude-owner", metavar="N", help="Leave out a user's images, such as 5761; repeatable."),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", metavar="PATH", help="Start from a snapshot of another catalog.")
    ] = None,
    data_dir: DataDir = None,
    timeout: Annotated[float, typer.Option(help="Seconds to connect, and to the next byte.")] = 10.0,
    quiet: Quiet = False,
) -> None:
    """Bring in the metadata of all public collections and images; no files.

    Ends with status 1 when anything could not be had, and says what.
    """
    with _leaving_politely():
        found = _catalog(data_dir).sync(
            collection_ids=_split(collections) if collections else None,
            exclude_owners=exclude_owner or (),
            seed=seed,
            verbose=0 if quiet else 2,
            timeout=timeout,
        )
    missing = found.report.missing
    for outcome in missing[:MOST_NAMED]:
        _err.print(f"[red]{escape(str(outcome.reason))}[/]", soft_wrap=True)
    if len(missing) > MOST_NAMED:
        _err.print(f"… and {len(missing) - MOST_NAMED} more: nvcatalog sql 'FROM outcomes'", soft_wrap=True)
    if found.report.missing or not found.complete:
        raise typer.Exit(SOMETHING_MISSING)


@app.command()
def snapshot(data_dir: DataDir = None) -> None:
    """Write the catalog as Parquet now, and say where."""
    _out.print(str(_catalog(data_dir).snapshot()), soft_wrap=True, markup=False)


@app.command()
def demo(
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", "-d", metavar="FOLDER", help="A folder of its own by default.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Keep the local server up, and fetch nothing.")] = False,
) -> None:
    """Fetch from a NeuroVault on this machine: the whole way, without the internet."""
    from nvcatalog.demo import DemoServer

    place = str(Path(data_dir or tempfile.mkdtemp(prefix="nvcatalog-demo-")).expanduser().absolute())
    for name in ("NVCATALOG_MIRROR_OF", "NVCATALOG_OFFLINE"):
        os.environ.pop(name, None)
    with DemoServer() as server:
        environment = server.environment | _earlier_demo(place)
        if serve:
            _serve(environment | {"NILEARN_DATA": place})
            return
        # A proxy, common in institutes, leads to no server on this machine.
        os.environ.update(environment | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
        missing = _demonstrate(place)
    if missing:
        raise typer.Exit(SOMETHING_MISSING)


def main() -> None:
    """Run the command line; every error of nvcatalog's becomes one line and an exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", NVCatalogWarning)
        warnings.showwarning = _show_warning
        try:
            app()
        except (NVCatalogError, OSError) as error:
            _err.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
            misused = isinstance(error, ValueError | TypeError | DataDirError)
            raise SystemExit(WRONG_USE if misused else SOMETHING_MISSING) from None


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Say the version.")] = False) -> None:
    if version:
        _out.print(__version__)
        raise typer.Exit(ALL_THERE)


# The demonstration


def _earlier_demo(place: str) -> dict[str, str]:
    """Let a folder that an earlier demo filled be filled further: its server had another port."""
    catalog = _catalog(place)
    if not _exists(catalog):
        return {}
    roots = catalog.sql("SELECT value FROM catalog_info WHERE key = 'server_root'").fetchall()
    local = [root for (root,) in roots if urlsplit(root).hostname in ("127.0.0.1", "localhost", "::1")]
    return {"NVCATALOG_MIRROR_OF": local[0]} if local else {}


def _serve(environment: dict[str, str]) -> None:
    """Keep the server up until Ctrl-C; what it says can be pasted into a shell as it is."""
    lines = (
        "# A local NeuroVault and Neurosynth are up until Ctrl-C. In another shell:",
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        "# and then, say: nvcatalog fetch --collections 555 --images 10426 --words",
    )
    try:
        _out.print("\n".join(lines), markup=False, soft_wrap=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        _err.print("Stopped.")


def _demonstrate(place: str) -> bool:
    """Fetch with terms from the local server, ask it two things; return whether anything is missing."""
    from nvcatalog.fetch import fetch_neurovault_ids

    _say("A NeuroVault on this machine (real records, small maps). Fetching as from neurovault.org:")
    _code("maps = fetch_neurovault_ids(collection_ids=[555], image_ids=[10426], fetch_neurosynth_words=True)")
    maps = fetch_neurovault_ids(
        collection_ids=[555], image_ids=[10426], fetch_neurosynth_words=True, data_dir=place, verbose=1
    )
    rows, columns = maps.word_frequencies.shape
    _say(f"{len(maps.images)} maps, {rows} x {columns} weights of terms. Again, without a request:")
    again = fetch_neurovault_ids(collection_ids=[555], image_ids=[10426], data_dir=place, verbose=1)
    catalog = _catalog(place)
    _ask(catalog, "SELECT modality, map_type, count(*) AS n FROM images GROUP BY ALL ORDER BY n DESC")
    _ask(
        catalog,
        "SELECT image_id, name, round(weight, 2) AS r FROM image_words JOIN images USING (image_id)\n"
        "WHERE term = 'motor' ORDER BY weight DESC LIMIT 5",
    )
    _say("The terms most similar to image 10426 (r: correlation with the term's map):")
    _show(catalog.query("top_terms", image_id=10426, limit=5).arrow(), Format.table)
    _say_what_is_real(place)
    return bool(maps.report.missing or again.report.missing)


def _say_what_is_real(place: str) -> None:
    _say(
        "Real: the records of collection 555, and the names of the terms. Made up for the demo: the voxels of\n"
        "these small maps, the record of image 10426 (in the shape of a real one), and the correlations."
    )
    _say(
        f"All of it is in {place}: maps, catalog.duckdb, and snapshots/ as Parquet. The same with neurovault.org:"
    )
    _code("nvcatalog fetch --collections 555 --images 10426 --words")


def _ask(catalog: Catalog, query: str) -> None:
    _code(query)
    _show(catalog.sql(query).arrow(), Format.table)


def _say(text: str) -> None:
    _out.print(f"\n{text}", markup=False, soft_wrap=True)


def _code(text: str) -> None:
    _out.print(f"[cyan]{escape(text)}[/]", soft_wrap=True)


# Input and output


def _catalog(data_dir: str | None) -> Catalog:
    from nvcatalog.catalog import Catalog

    return Catalog(data_dir)


def _split(values: list[str] | None) -> list[str]:
    """Read ids given as ``-c 555,658`` and as ``-c 555 -c 658``."""
    return [part for value in values or [] for part in value.replace(",", " ").split()]


def _parse_params(pairs: list[str] | None) -> dict[str, str]:
    """Read ``NAME=VALUE``; values stay text, which DuckDB reads as a number where it is compared with one."""
    params: dict[str, str] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is no parameter; write --param NAME=VALUE")
        params[name] = value
    return params


@contextmanager
def _leaving_politely() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _err.print("Interrupted. What arrived is kept; run the same again for the rest.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _asking(catalog: Catalog) -> Iterator[None]:
    """Name missing parameters as they are given here, and tell an answer from no catalog by the status."""
    there = _exists(catalog)
    try:
        yield
    except QueryError as error:
        _, missing, names = str(error).partition("Values were not provided")
        if not missing:
            raise
        asked = names.splitlines()[0].rpartition(": ")[2].split(", ")
        options = " ".join(f"--param {name}=…" for name in asked)
        raise QueryError(f"the query has parameters without a value: give {options}") from error
    if not there:
        raise typer.Exit(SOMETHING_MISSING)


def _exists(catalog: Catalog) -> bool:
    from nvcatalog._store import FILE_NAME

    return (catalog.folder / FILE_NAME).is_file()


def _shipped_queries() -> pa.Table:
    """Return a row for each query that ships: its name, and what its first comment says."""
    import pyarrow as pa

    from nvcatalog._resources import sql_folder

    rows = []
    for file in sorted(sql_folder("queries").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            lines = file.read_text(encoding="utf-8").splitlines()
            about, *more = (line[2:].strip() for line in takewhile(lambda line: line.startswith("--"), lines))
            parameters = "; ".join(line[1:] for line in more if line.startswith("$"))
            rows.append({"query": file.name.removesuffix(".sql"), "about": about, "parameters": parameters})
    return pa.Table.from_pylist(rows)


def _outcome_rows(maps: Any) -> pa.Table:
    """Return a row for each outcome, with the path where there is one."""
    import pyarrow as pa

    paths = {meta["id"]: path for meta, path in zip(maps.images_meta, maps.images, strict=True)}
    rows = [
        {**outcome._asdict(), "path": paths.get(outcome.id) if outcome.kind == "image" else None}
        for outcome in maps.report
    ]
    texts = ("kind", "id", "status", "reason", "path")
    return pa.Table.from_pylist(
        rows, schema=pa.schema([(n, pa.int64() if n == "id" else pa.string()) for n in texts])
    )


def _show(table: pa.Table, output: Format | None) -> None:
    """Write rows to stdout."""
    output = output or (Format.table if sys.stdout.isatty() else Format.csv)
    if output is Format.table:
        _show_table(table)
    elif output is Format.parquet:
        from pyarrow import parquet

        parquet.write_table(table, sys.stdout.buffer)
    elif output is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows([_csv_cell(value) for value in row] for row in _rows(table))
    else:
        _out.out(json.dumps(_json_value(table.to_pylist()), indent=2, ensure_ascii=False), highlight=False)


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
    if isinstance(value, Decimal):
        return float(value) if Decimal(repr(float(value))) == value else format(value, "f")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, int | str) else str(value)


def _show_table(table: pa.Table) -> None:
    """Show rows side by side, or as blocks of ``column: value`` where the columns would be too narrow."""
    names = table.column_names
    rows = [["" if value is None else str(value) for value in row] for row in _rows(table)]
    widest = [max(map(len, cells)) for cells in zip(names, *rows, strict=True)]
    if sum(min(width, NARROWEST_COLUMN) + 1 for width in widest) <= _out.width:
        _out.print(_rich_table(names, rows))
        return
    if not rows:
        _err.print("No rows.")
        return
    room = max(map(len, names)) + 1
    blocks = [
        "\n".join(f"{name + ':':{room}} {cell}" for name, cell in zip(names, row, strict=True)) for row in rows
    ]
    _out.print("\n\n".join(blocks), markup=False, soft_wrap=True)


def _rich_table(names: list[str], rows: list[list[str]]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        shown.add_column(escape(name), overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def _show_warning(message: Warning | str, category: type[Warning], *_place: object, **_more: object) -> None:
    name = "Warning" if issubclass(category, NVCatalogWarning) else category.__name__
    _err.print(f"[yellow]{name}:[/] {escape(str(message))}", soft_wrap=True)


if __name__ == "__main__":
    main()
