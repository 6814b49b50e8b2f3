"""The command line: results on stdout, everything else on stderr. The only module that prints."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from nvcatalog import __version__
from nvcatalog.cli.demonstration import demonstrate, earlier_demo, serve_until_stopped
from nvcatalog.cli.output import Format, err, out, show, show_warning
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
ALL_THERE, SOMETHING_MISSING, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
MOST_NAMED = 20


class Mode(StrEnum):
    """When the servers are asked."""

    download_new = "download_new"
    overwrite = "overwrite"
    offline = "offline"


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
Words = Annotated[bool, typer.Option("--words", help="Also the terms Neurosynth associates with them.")]
When = Annotated[Mode, typer.Option("--mode", help="When the servers are asked.")]
Resample = Annotated[bool, typer.Option("--resample", help="Bring the maps to nilearn's 3 mm grid.")]
Extras = Annotated[bool, typer.Option("--extras", help="Also label files, surfaces and NIDM packs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; fetch no file.")]
MaxAge = Annotated[
    float | None,
    typer.Option("--max-age", metavar="DAYS", help="List again what is known for longer."),
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to connect, and to the next byte.")]
Workers = Annotated[int | None, typer.Option("--max-workers", help="Parallel downloads; 6 by default.")]
Where = Annotated[str | None, typer.Option("--where", help="Those that a condition over stat_maps is true for.")]
Images = Annotated[list[str] | None, typer.Option("--images", "-i", metavar="IDS", help="Those: 10426,32980.")]
Private = Annotated[bool, typer.Option("--private", help="Those of private collections too.")]
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
    words: Words = False,
    mode: When = Mode.download_new,
    resample: Resample = False,
    extras: Extras = False,
    dry_run: DryRun = False,
    max_age: MaxAge = None,
    data_dir: DataDir = None,
    timeout: Timeout = 10.0,
    max_workers: Workers = None,
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
    collection_ids, image_ids = _split(collections), _split(images)
    if not collection_ids and not image_ids:
        raise typer.BadParameter("give --collections or --images, such as: nvcatalog fetch --collections 555")
    with _leaving_politely():
        maps = fetch_neurovault_ids(
            collection_ids=collection_ids,
            image_ids=image_ids,
            mode=mode,
            data_dir=data_dir,
            fetch_neurosynth_words=words,
            vectorize_words=False,
            verbose=0 if quiet else 2,
            timeout=timeout,
            max_workers=max_workers,
            resample=resample,
            extras=extras,
            dry_run=dry_run,
            max_age=max_age,
        )
    _show_fetched(maps, output)


@app.command()
def where(
    condition: Annotated[
        str | None, typer.Argument(help="An expression over stat_maps: \"stat = 't' AND n_subjects >= $n\".")
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", help="In its place: a SELECT that gives image_id.")
    ] = None,
    param: Params = None,
    order_by: Annotated[str | None, typer.Option("--order-by", help='As in ORDER BY: "n_subjects DESC".')] = None,
    max_images: Annotated[int, typer.Option("--max-images", "-n", help="At most; -1 for all.")] = 100,
    words: Words = False,
    mode: When = Mode.download_new,
    resample: Resample = False,
    extras: Extras = False,
    dry_run: DryRun = False,
    max_age: MaxAge = None,
    data_dir: DataDir = None,
    timeout: Timeout = 10.0,
    max_workers: Workers = None,
    output: OutputFormat = None,
    quiet: Quiet = False,
) -> None:
    """Fetch the images that a condition in SQL selects; one row an image on stdout.

    Ends with status 1 when anything is missing, and says what.
    """
    from nvcatalog.select import fetch_where

    with _leaving_politely(), _named_as_here():
        maps = fetch_where(
            condition,
            _parse_params(param),
            query=query,
            order_by=order_by,
            max_images=max_images,
            mode=mode,
            data_dir=data_dir,
            fetch_neurosynth_words=words,
            vectorize_words=False,
            verbose=0 if quiet else 2,
            timeout=timeout,
            max_workers=max_workers,
            resample=resample,
            extras=extras,
            dry_run=dry_run,
            max_age=max_age,
        )
    _show_fetched(maps, output)


@app.command()
def outdated(data_dir: DataDir = None, output: OutputFormat = None) -> None:
    """List the local files whose record changed on the server since they came.

    The catalog is compared with itself: sync first to hear what is new.
    """
    catalog = _catalog(data_dir)
    with _asking(catalog):
        show(catalog.outdated().arrow(), output)


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
        show(catalog.sql(text, params or None).arrow(), output)


@app.command()
def query(
    name: Annotated[str | None, typer.Argument(help="Which; without it, they are listed.")] = None,
    param: Params = None,
    data_dir: DataDir = None,
    output: OutputFormat = None,
) -> None:
    """Run a query that ships with the package, or list them."""
    if name is None:
        show(_shipped_queries(), output)
        return
    catalog, params = _catalog(data_dir), _parse_params(param)
    with _asking(catalog):
        show(catalog.query(name, params).arrow(), output)


@app.command()
def adopt(data_dir: DataDir = None, quiet: Quiet = False) -> None:
    """Register what is in the folder already, such as what nilearn downloaded."""
    report = _catalog(data_dir).adopt(verbose=0 if quiet else 2)
    for outcome in report.missing:
        err.print(f"[red]{escape(str(outcome.reason))}[/]", soft_wrap=True)
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
    timeout: Timeout = 10.0,
    output: OutputFormat = None,
    quiet: Quiet = False,
) -> None:
    """Bring in the metadata of all public collections and images; no files.

    Ends with status 1 when anything could not be had, and says what.
    """
    import pyarrow as pa

    with _leaving_politely():
        found = _catalog(data_dir).sync(
            collection_ids=_split(collections) if collections else None,
            exclude_owners=exclude_owner or (),
            seed=seed,
            verbose=0 if quiet else 2,
            timeout=timeout,
        )
    columns = zip(*found.counts, strict=True)
    show(pa.table(dict(zip(("what", "new", "changed", "gone"), columns, strict=True))), output)
    missing = found.report.missing
    for outcome in missing[:MOST_NAMED]:
        err.print(f"[red]{escape(str(outcome.reason))}[/]", soft_wrap=True)
    if len(missing) > MOST_NAMED:
        err.print(f"… and {len(missing) - MOST_NAMED} more: nvcatalog sql 'FROM outcomes'", soft_wrap=True)
    if found.report.missing or not found.complete:
        raise typer.Exit(SOMETHING_MISSING)


@app.command()
def freeze(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where the lock file is to be: maps.lock.json.")],
    where: Where = None,
    images: Images = None,
    param: Params = None,
    resample: Annotated[bool, typer.Option("--resample", help="Freeze the maps on the 3 mm grid.")] = False,
    private: Private = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Freeze maps that are here, all unless chosen, as a small file that brings back the same bytes elsewhere.

    In Python, nvcatalog.fetch_frozen(PATH) does.
    """
    catalog = _catalog(data_dir)
    with _named_as_here():
        written = catalog.freeze(
            path,
            where=where,
            image_ids=_split(images) or None,
            params=_parse_params(param),
            resample=resample,
            private=private,
            verbose=0 if quiet else 2,
        )
    out.print(str(written), soft_wrap=True, markup=False)


class CitationFormat(StrEnum):
    """How citations are written."""

    bibtex = "bibtex"
    text = "text"


@app.command()
def cite(
    where: Where = None,
    images: Images = None,
    param: Params = None,
    private: Private = False,
    data_dir: DataDir = None,
    output: Annotated[CitationFormat, typer.Option("--format", "-f", help="How.")] = CitationFormat.bibtex,
) -> None:
    """Cite the collections behind the maps that are here, or behind those chosen."""
    catalog = _catalog(data_dir)
    with _asking(catalog):
        citations = catalog.cite(
            where=where, image_ids=_split(images) or None, params=_parse_params(param), private=private
        )
        text = citations.bibtex() if output is CitationFormat.bibtex else citations.text()
        out.out(text, end="", highlight=False)


@app.command()
def snapshot(
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Keep it by this name for good, such as paper-v1.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Write anew what has not changed, too.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write the catalog as Parquet now, and say where."""
    out.print(str(_catalog(data_dir).snapshot(name, whole=whole)), soft_wrap=True, markup=False)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="The former snapshot's name, or its folder, with a slash in it.")],
    b: Annotated[str | None, typer.Argument(help="The later one's; by default the newest.")] = None,
    data_dir: DataDir = None,
    output: OutputFormat = None,
) -> None:
    """List what came, went and changed from one snapshot to another."""
    former, later = (Path(name) if name and os.sep in name else name for name in (a, b))
    show(_catalog(data_dir).diff(former or "", later).arrow(), output)


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
        environment = server.environment | earlier_demo(place)
        if serve:
            serve_until_stopped(environment | {"NILEARN_DATA": place})
            return
        # A proxy, common in institutes, leads to no server on this machine.
        os.environ.update(environment | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
        missing = demonstrate(place)
    if missing:
        raise typer.Exit(SOMETHING_MISSING)


def main() -> None:
    """Run the command line; every error of nvcatalog's becomes one line and an exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", NVCatalogWarning)
        warnings.showwarning = show_warning
        try:
            app()
        except (NVCatalogError, OSError) as error:
            err.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
            misused = isinstance(error, ValueError | TypeError | DataDirError)
            raise SystemExit(WRONG_USE if misused else SOMETHING_MISSING) from None


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Say the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit(ALL_THERE)


# Input and output


def _catalog(data_dir: str | None) -> Catalog:
    from nvcatalog.catalog import Catalog

    return Catalog(data_dir)


def _split(values: list[str] | None) -> list[str]:
    """Read ids given as ``-c 555,658`` and as ``-c 555 -c 658``."""
    return [part for value in values or [] for part in value.replace(",", " ").split()]


def _parse_params(pairs: list[str] | None) -> dict[str, str | float]:
    """Read ``NAME=VALUE``; values stay text, which DuckDB reads as a number where it is compared with one.

    But for fractions: compared with a column of whole numbers, DuckDB would round their text.
    """
    params: dict[str, str | float] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is no parameter; write --param NAME=VALUE")
        params[name] = float(value) if re.fullmatch(r"[+-]?[0-9]+\.[0-9]+", value) else value
    return params


@contextmanager
def _leaving_politely() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        err.print("Interrupted. What arrived is kept; run the same again for the rest.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _asking(catalog: Catalog) -> Iterator[None]:
    """Name missing parameters as they are given here, and tell an answer from no catalog by the status."""
    there = _exists(catalog)
    with _named_as_here():
        yield
    if not there:
        raise typer.Exit(SOMETHING_MISSING)


@contextmanager
def _named_as_here() -> Iterator[None]:
    """Name parameters without a value as they are given on a command line."""
    try:
        yield
    except QueryError as error:
        found = re.search(r"Values were not provided[^:]*: (.*)|no value for (.*?); give", str(error))
        if found is None:
            raise
        asked = (found[1] or found[2]).replace("$", "").split(", ")
        options = " ".join(f"--param {name}=…" for name in asked)
        raise QueryError(f"the query has parameters without a value: give {options}") from error


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


def _show_fetched(maps: Any, output: Format | None) -> None:
    """Show a plan or an answer, and end with the status that says whether anything is missing."""
    import pyarrow as pa

    from nvcatalog.plan import Plan

    if isinstance(maps, Plan):
        show(pa.Table.from_pandas(maps.df(), preserve_index=False), output)
    else:
        show(_outcome_rows(maps), output)
    if maps.report.missing:
        raise typer.Exit(SOMETHING_MISSING)


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
