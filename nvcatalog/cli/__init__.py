"""The command line: results on stdout, everything else on stderr. The only module that prints."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nvcatalog import __version__
from nvcatalog.cli import asked, upkeep
from nvcatalog.cli.arguments import (
    ALL_THERE,
    MOST_NAMED,
    SOMETHING_MISSING,
    WRONG_USE,
    Base,
    Collections,
    DataDir,
    Gone,
    Images,
    OutputFormat,
    Params,
    Private,
    Quiet,
    Timeout,
    Where,
    Workers,
    catalog_in,
    chosen_ids,
    leaving_politely,
    named_as_here,
    parse_params,
    split,
    telling,
)
from nvcatalog.cli.asked import asking
from nvcatalog.cli.demonstration import demonstrate, earlier_demo, serve_until_stopped
from nvcatalog.cli.output import Format, err, out, outcome_rows, show, show_warning
from nvcatalog.cli.wording import in_commands
from nvcatalog.errors import DataDirError, NVCatalogError, NVCatalogWarning

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and errors: nothing boxed or cut, and no <bool> behind a flag
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fetch brain maps from NeuroVault, and ask everything that was ever fetched in SQL.",
)


class Mode(StrEnum):
    """When the servers are asked."""

    download_new = "download_new"
    overwrite = "overwrite"
    offline = "offline"


Words = Annotated[bool, typer.Option("--words", help="Also the terms Neurosynth associates with them.")]
When = Annotated[Mode, typer.Option("--mode", help="When the servers are asked.")]
Resample = Annotated[bool, typer.Option("--resample", help="Bring the maps to nilearn's 3 mm grid.")]
Extras = Annotated[bool, typer.Option("--extras", help="Also label files, surfaces and NIDM packs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; fetch no file.")]
MaxAge = Annotated[
    float | None,
    typer.Option("--max-age", metavar="DAYS", help="List again what is known for longer."),
]


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
    base: Base = None,
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
    collection_ids, image_ids = split(collections), split(images)
    if not collection_ids and not image_ids:
        raise typer.BadParameter("give --collections or --images, such as: nvcatalog fetch --collections 555")
    with leaving_politely(quiet=quiet):
        maps = fetch_neurovault_ids(
            collection_ids=collection_ids,
            image_ids=image_ids,
            mode=mode,
            data_dir=data_dir,
            base=base,
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
    base: Base = None,
    timeout: Timeout = 10.0,
    max_workers: Workers = None,
    output: OutputFormat = None,
    quiet: Quiet = False,
) -> None:
    """Fetch the images that a condition in SQL selects; one row an image on stdout.

    Ends with status 1 when anything is missing, and says what.
    """
    from nvcatalog.select import fetch_where

    with leaving_politely(quiet=quiet), named_as_here():
        maps = fetch_where(
            condition,
            parse_params(param),
            query=query,
            order_by=order_by,
            max_images=max_images,
            mode=mode,
            data_dir=data_dir,
            base=base,
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
def adopt(data_dir: DataDir = None, quiet: Quiet = False) -> None:
    """Register what is in the folder already, such as what nilearn downloaded."""
    with telling(quiet=quiet):
        report = catalog_in(data_dir).adopt(verbose=0 if quiet else 2)
    for outcome in report.missing:
        err.print(f"[red]{escape(in_commands(str(outcome.reason)))}[/]", soft_wrap=True)
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

    with leaving_politely(quiet=quiet):
        found = catalog_in(data_dir).sync(
            collection_ids=split(collections) if collections else None,
            exclude_owners=exclude_owner or (),
            seed=seed,
            verbose=0 if quiet else 2,
            timeout=timeout,
        )
    columns = zip(*found.counts, strict=True)
    show(pa.table(dict(zip(("what", "new", "changed", "gone"), columns, strict=True))), output)
    missing = found.report.missing
    for outcome in missing[:MOST_NAMED]:
        err.print(f"[red]{escape(in_commands(str(outcome.reason)))}[/]", soft_wrap=True)
    if len(missing) > MOST_NAMED:
        err.print(f"… and {len(missing) - MOST_NAMED} more: nvcatalog sql 'FROM outcomes'", soft_wrap=True)
    if found.report.missing or not found.complete:
        raise typer.Exit(SOMETHING_MISSING)


@app.command()
def freeze(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where the lock file is to be: maps.lock.json.")],
    where: Where = None,
    images: Images = None,
    collections: Collections = None,
    param: Params = None,
    resample: Annotated[bool, typer.Option("--resample", help="Freeze the maps on the 3 mm grid.")] = False,
    private: Private = False,
    gone: Gone = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier lock file.")] = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Freeze maps that are here, all unless chosen, as a small file that brings back the same bytes elsewhere.

    There, nvcatalog thaw PATH does.
    """
    catalog = catalog_in(data_dir)
    with named_as_here(), telling(quiet=quiet):
        written = catalog.freeze(
            path,
            where=where,
            image_ids=chosen_ids(catalog, images, collections, gone=gone),
            params=parse_params(param),
            resample=resample,
            private=private,
            gone=gone,
            overwrite=overwrite,
            verbose=0 if quiet else 2,
        )
    out.print(str(written), soft_wrap=True, markup=False)


@app.command()
def thaw(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A lock file that freeze wrote.")],
    latest: Annotated[
        bool, typer.Option("--latest", help="Where the frozen bytes cannot be had, take what the server has now.")
    ] = False,
    mode: When = Mode.download_new,
    data_dir: DataDir = None,
    base: Base = None,
    timeout: Timeout = 10.0,
    max_workers: Workers = None,
    output: OutputFormat = None,
    quiet: Quiet = False,
) -> None:
    """Bring back the maps of a lock file, byte for byte; one row an image on stdout.

    Ends with status 1 when anything is missing or differs, and says what.
    """
    from nvcatalog.freeze import fetch_frozen

    with leaving_politely(quiet=quiet):
        maps = fetch_frozen(
            path,
            strict=not latest,
            mode=mode,
            data_dir=data_dir,
            base=base,
            verbose=0 if quiet else 2,
            timeout=timeout,
            max_workers=max_workers,
        )
    _show_fetched(maps, output)


class CitationFormat(StrEnum):
    """How citations are written."""

    bibtex = "bibtex"
    text = "text"


@app.command()
def cite(
    where: Where = None,
    images: Images = None,
    collections: Collections = None,
    param: Params = None,
    private: Private = False,
    gone: Gone = False,
    data_dir: DataDir = None,
    base: Base = None,
    output: Annotated[CitationFormat, typer.Option("--format", "-f", help="How.")] = CitationFormat.bibtex,
) -> None:
    """Cite the collections behind the maps that are here, or behind those chosen.

    Ends with status 1 when there is none.
    """
    catalog = catalog_in(data_dir, base)
    with asking(catalog):
        citations = catalog.cite(
            where=where,
            image_ids=chosen_ids(catalog, images, collections, gone=gone),
            params=parse_params(param),
            private=private,
            gone=gone,
        )
        text = citations.bibtex() if output is CitationFormat.bibtex else citations.text()
        out.out(text, end="", highlight=False)
        if not citations.collections:
            raise typer.Exit(SOMETHING_MISSING)


class ExportFormat(StrEnum):
    """What tables are written as."""

    parquet = "parquet"
    csv = "csv"
    arrow = "arrow"
    ndjson = "ndjson"
    duckdb = "duckdb"


@app.command()
def export(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A folder; a file for one table: images.csv, or maps.duckdb.")
    ],
    what: Annotated[
        list[str] | None,
        typer.Option(
            "--what", "-w", metavar="TABLES", help="Tables and views: images,image_words; metadata if not said."
        ),
    ] = None,
    where: Where = None,
    images: Images = None,
    collections: Collections = None,
    param: Params = None,
    output: Annotated[
        ExportFormat | None, typer.Option("--format", "-f", help="As what; as TARGET ends, or parquet.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    private: Private = False,
    gone: Gone = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Write tables of the catalog as files that other tools read.

    Of the whole catalog, or of what belongs to the images that are chosen.
    """
    catalog = catalog_in(data_dir)
    with named_as_here(), telling(quiet=quiet):
        written = catalog.export(
            target,
            split(what) or None,
            where=where,
            image_ids=chosen_ids(catalog, images, collections, gone=gone),
            params=parse_params(param) or None,
            format=output,
            overwrite=overwrite,
            private=private,
            gone=gone,
            verbose=0 if quiet else 2,
        )
    out.print(str(written), soft_wrap=True, markup=False)


@app.command()
def snapshot(
    name: Annotated[
        str | None,
        typer.Argument(help="Keep it by this name for good, such as paper-v1; else it gives way to later ones."),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Write anew what has not changed, too.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write the catalog as Parquet now, and say where."""
    with telling():
        written = catalog_in(data_dir).snapshot(name, whole=whole)
    out.print(str(written), soft_wrap=True, markup=False)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="The former snapshot's name, or its folder, with a slash in it.")],
    b: Annotated[str | None, typer.Argument(help="The later one's; by default the newest.")] = None,
    data_dir: DataDir = None,
    output: OutputFormat = None,
) -> None:
    """List what came, went and changed from one snapshot to another."""
    former, later = (Path(name) if name and os.sep in name else name for name in (a, b))
    show(catalog_in(data_dir).diff(former or "", later).arrow(), output)


@app.command()
def demo(
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", "-d", metavar="FOLDER", help="A folder of its own by default.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Keep the local server up, and fetch nothing.")] = False,
) -> None:
    """Fetch from a NeuroVault on this machine: the whole way, without the internet."""
    from nvcatalog.demo import DemoServer
    from nvcatalog.storage import SUBFOLDER, make_folder

    place = str(Path(data_dir or tempfile.mkdtemp(prefix="nvcatalog-demo-")).expanduser().absolute())
    for name in ("NVCATALOG_MIRROR_OF", "NVCATALOG_OFFLINE", "NVCATALOG_BASE"):
        os.environ.pop(name, None)
    with DemoServer() as server:
        environment = server.environment | earlier_demo(place)
        if serve:
            # An existing folder elsewhere, such as one of nilearn's, would go before one that is still to be made.
            make_folder(Path(place) / SUBFOLDER)
            serve_until_stopped(environment | {"NILEARN_DATA": place})
            return
        # A proxy, common in institutes, leads to no server on this machine.
        os.environ.update(environment | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
        missing = demonstrate(place)
    if missing:
        raise typer.Exit(SOMETHING_MISSING)


app.add_typer(asked.app)
app.add_typer(upkeep.app)


def main() -> None:
    """Run the command line; every error of nvcatalog's becomes one line and an exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks, as stderr does
    with warnings.catch_warnings():
        warnings.simplefilter("always", NVCatalogWarning)
        warnings.showwarning = show_warning
        try:
            app()
        except (NVCatalogError, OSError) as error:
            err.print(f"[bold red]Error:[/] {escape(in_commands(str(error)))}", soft_wrap=True)
            misused = isinstance(error, ValueError | TypeError | DataDirError)
            raise SystemExit(WRONG_USE if misused else SOMETHING_MISSING) from None


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Say the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit(ALL_THERE)


# Input and output


def _show_fetched(maps: Any, output: Format | None) -> None:
    """Show a plan or an answer, and end with the status that says whether anything is missing."""
    import pyarrow as pa

    from nvcatalog.plan import Plan

    if isinstance(maps, Plan):
        show(pa.Table.from_pandas(maps.df(), preserve_index=False), output)
    else:
        show(outcome_rows(maps), output)
    if maps.report.missing:
        raise typer.Exit(SOMETHING_MISSING)
