"""The commands that keep a data folder in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from nvcatalog.cli.arguments import (
    SOMETHING_MISSING,
    DataDir,
    Images,
    OutputFormat,
    Params,
    Quiet,
    Timeout,
    Workers,
    catalog_in,
    leaving_politely,
    named_as_here,
    parse_params,
    split,
)
from nvcatalog.cli.output import Format, err, out, show
from nvcatalog.cli.wording import in_commands
from nvcatalog.errors import DataDirError

if TYPE_CHECKING:
    import pandas as pd

    from nvcatalog.catalog import Catalog

app = typer.Typer(rich_markup_mode=None)


@app.command()
def verify(
    deep: Annotated[bool, typer.Option("--deep", help="Read every file to its last byte.")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="Also what is no problem, such as duplicates.")] = False,
    data_dir: DataDir = None,
    output: OutputFormat = None,
    quiet: Quiet = False,
) -> None:
    """Compare each file with what the catalog says of it; one row a problem on stdout.

    Ends with status 1 when there is any. Only reads.
    """
    catalog = _catalog_that_is_there(data_dir)
    with leaving_politely(quiet=quiet):
        found = catalog.verify(deep=deep, verbose=_verbosity(quiet=quiet))
    frame = found.df()
    _show_frame(frame if notes else frame[frame["problem"]].drop(columns="problem"), output)
    if not notes and found.duplicates and not quiet:
        err.print(f"{len(found.duplicates):,} files have the bytes of another image's: --notes names them.")
    if not found.ok:
        raise typer.Exit(SOMETHING_MISSING)


@app.command()
def repair(
    offline: Annotated[
        bool, typer.Option("--offline", help="Forget corrupt and missing files; do not fetch them again.")
    ] = False,
    shallow: Annotated[bool, typer.Option("--shallow", help="Look at sizes only; read no file.")] = False,
    data_dir: DataDir = None,
    timeout: Timeout = 10.0,
    max_workers: Workers = None,
    output: OutputFormat = None,
    quiet: Quiet = False,
) -> None:
    """Put right what verify finds; one row a file on stdout. Nothing is deleted: see neurovault/quarantine.

    Ends with status 1 when anything could not be put right.
    """
    catalog = _catalog_that_is_there(data_dir)
    with leaving_politely(quiet=quiet):
        done = catalog.repair(
            offline=offline,
            deep=not shallow,
            verbose=_verbosity(quiet=quiet),
            timeout=timeout,
            max_workers=max_workers,
        )
    _show_frame(done.df(), output)
    if not done.ok:
        raise typer.Exit(SOMETHING_MISSING)


@app.command()
def rebuild(
    force: Annotated[bool, typer.Option("--force", help="Even a catalog that can be read.")] = False,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Make a lost or damaged catalog again, from the newest snapshot and the folder; says what is lost."""
    with leaving_politely(quiet=quiet):
        done = catalog_in(data_dir).rebuild(force=force, verbose=_verbosity(quiet=quiet))
    if done.set_aside is not None:
        out.print(str(done.set_aside), soft_wrap=True, markup=False)


@app.command()
def prune(
    condition: Annotated[
        str | None, typer.Argument(help="Which images: an expression over stat_maps, as for where.")
    ] = None,
    images: Images = None,
    collections: Annotated[
        list[str] | None, typer.Option("--collections", "-c", metavar="IDS", help="Those of these: 555,658.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", help="Those that came longer ago.")
    ] = None,
    param: Params = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    output: OutputFormat = None,
    quiet: Quiet = False,
) -> None:
    """Remove the files of the images that all conditions select; what is known of them stays.

    One row a file on stdout. Ends with status 1 when any could not be removed.
    """
    catalog = catalog_in(data_dir)
    chosen: dict[str, Any] = {
        "where": condition,
        "image_ids": split(images) if images else None,
        "collection_ids": split(collections) if collections else None,
        "older_than": older_than,
        "params": parse_params(param),
    }
    with named_as_here():
        done = catalog.prune(**chosen, dry_run=True, verbose=int(dry_run and not quiet))
    if not dry_run:
        if done.removed and not yes:
            typer.confirm(f"{catalog.folder}: {done.summary}. Remove them?", abort=True, err=True)
        with leaving_politely(quiet=quiet):
            done = catalog.prune(**chosen, verbose=_verbosity(quiet=quiet))
    _show_frame(done.df(), output)
    if done.kept:
        raise typer.Exit(SOMETHING_MISSING)


@app.command()
def usage(
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="COLUMN", help="collection_id, kind or age; repeatable.")
    ] = None,
    data_dir: DataDir = None,
    output: OutputFormat = None,
) -> None:
    """Say what takes the room: files and bytes by kind and age, unless said otherwise."""
    catalog = _catalog_that_is_there(data_dir)
    table = catalog.usage(by or ["kind", "age"]).arrow()
    show(table, output)
    files, size = (sum(table.column(name).to_pylist()) for name in ("files", "bytes"))
    err.print(f"{size / 1e6:,.1f} MB in {files:,} files in {escape(str(catalog.folder))}", soft_wrap=True)


@app.command()
def doctor(
    data_dir: DataDir = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for each server.")] = 5.0,
) -> None:
    """Write a page about this installation and its folder, to paste into a bug report.

    Ends with status 1 when anything is wrong.
    """
    found = catalog_in(data_dir).doctor(timeout=timeout)
    out.out(in_commands(str(found)), highlight=False)
    if not found.ok:
        raise typer.Exit(SOMETHING_MISSING)


def _catalog_that_is_there(data_dir: str | None) -> Catalog:
    """Return the catalog of a folder that exists: of a mistyped one nothing is well."""
    catalog = catalog_in(data_dir)
    if not catalog.folder.is_dir():
        raise DataDirError(f"{catalog.folder} does not exist; name the folder that has neurovault/ in it")
    return catalog


def _verbosity(*, quiet: bool) -> int:
    return 0 if quiet else 2


def _show_frame(frame: pd.DataFrame, output: Format | None) -> None:
    import pyarrow as pa

    show(pa.Table.from_pandas(frame, preserve_index=False), output)
