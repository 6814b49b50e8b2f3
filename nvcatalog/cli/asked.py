"""The commands that ask the catalog, or a snapshot of it, and change nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nvcatalog.cli.arguments import (
    SOMETHING_MISSING,
    Base,
    Collections,
    DataDir,
    Gone,
    Images,
    OutputFormat,
    Params,
    Private,
    Where,
    catalog_in,
    chosen_ids,
    named_as_here,
    parse_params,
    telling,
)
from nvcatalog.cli.named import as_pairs, list_queries, show_help
from nvcatalog.cli.output import err, out, show, show_warning
from nvcatalog.errors import NVCatalogWarning, SelectionWarning

if TYPE_CHECKING:
    import pyarrow as pa

    from nvcatalog.catalog import Catalog

app = typer.Typer(rich_markup_mode=None)


@app.command()
def outdated(data_dir: DataDir = None, output: OutputFormat = None) -> None:
    """List the local files whose record changed on the server since they came.

    The catalog is compared with itself: sync first to hear what is new.
    """
    catalog = catalog_in(data_dir)
    with asking(catalog):
        show(catalog.outdated().arrow(), output)


@app.command()
def sql(
    query: Annotated[
        str, typer.Argument(help="A SELECT in DuckDB's SQL; $name stands for a parameter. - reads it from stdin.")
    ],
    param: Params = None,
    snapshot: Annotated[
        str | None,
        typer.Option("--snapshot", metavar="NAME", help="Ask that one, by its name, or its folder, with a slash."),
    ] = None,
    data_dir: DataDir = None,
    base: Base = None,
    output: OutputFormat = None,
) -> None:
    """Ask the catalog, or one of its snapshots, in SQL."""
    if snapshot is not None and base is not None:
        raise typer.BadParameter("a snapshot is of one folder: give either --snapshot or --base")
    catalog, params = catalog_in(data_dir, base), parse_params(param) or None
    text = sys.stdin.read() if query == "-" else query
    if snapshot is not None:
        with named_as_here():
            show(_ask_snapshot(catalog, snapshot, text, params), output)
        return
    with asking(catalog):
        show(catalog.sql(text, params).arrow(), output)


def _ask_snapshot(catalog: Catalog, name: str, query: str, params: dict[str, str | float] | None) -> pa.Table:
    """Ask a snapshot as the catalog is asked: fenced, for what is typed here may be anybody's."""
    from nvcatalog import connecting, queries
    from nvcatalog._store import Store

    with connecting.fenced(Store(catalog.folder), name) as connection:
        return queries.run(connection, query, params, None).arrow()


@app.command()
def words(
    where: Where = None,
    images: Images = None,
    collections: Collections = None,
    param: Params = None,
    terms: Annotated[
        list[str] | None,
        typer.Option("--terms", "-t", metavar="TERMS", help='Only these: "pain,working memory"; repeatable.'),
    ] = None,
    min_abs_weight: Annotated[
        float | None, typer.Option("--min-abs-weight", metavar="WEIGHT", help="None nearer to zero than this.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="NAME", help="Which set of terms, where there are several."),
    ] = None,
    private: Private = False,
    gone: Gone = False,
    data_dir: DataDir = None,
    base: Base = None,
    output: OutputFormat = None,
) -> None:
    """Give the terms of images that are here, of all or of those chosen: a row an image and term.

    For a file: nvcatalog words --format parquet > words.parquet.
    """
    catalog = catalog_in(data_dir, base)
    chosen = [term for text in terms or [] for each in text.split(",") if (term := each.strip())]
    with asking(catalog):
        found = catalog.words(
            chosen_ids(catalog, images, collections, gone=gone),
            where=where,
            params=parse_params(param) or None,
            terms=chosen or None,
            min_abs_weight=min_abs_weight,
            reference=reference,
            private=private,
            gone=gone,
        )
        show(found.arrow(), output)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="[OPTIONS] [--PARAMETER VALUE]...",
    add_help_option=False,  # with a name, that query's help is wanted
)
def query(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Which; without it, they are listed.")] = None,
    param: Params = None,
    data_dir: DataDir = None,
    base: Base = None,
    output: OutputFormat = None,
    helped: Annotated[
        bool, typer.Option("--help", "-h", help="Show this message or, after a query's name, what it takes.")
    ] = False,
) -> None:
    """Run a query that ships with the package or one of your own, or list them with their parameters.

    Your own are in the folder NVCATALOG_QUERIES, or in neurovault/queries below the data folder.
    """
    from nvcatalog import shelf

    if helped and name is None:
        out.print(context.get_help(), markup=False, soft_wrap=True)
        return
    catalog = catalog_in(data_dir, base)
    if name is None:
        list_queries(catalog, output)
        return
    if name.startswith("-"):
        raise typer.BadParameter(f"{name} stands before the query's name; write nvcatalog query NAME {name} VALUE")
    found = shelf.find(name, shelf.own_folder(catalog.folder))
    if helped:
        show_help(found)
        return
    kinds = {each.name: each.kind for each in found.parameters}
    pairs = [*(param or []), *as_pairs(context.args, kinds)]
    # A parameter of a declared kind is read as such: its text must not become a number on the way.
    texts = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    params = {key: texts[key] if kinds.get(key.lower()) else value for key, value in parse_params(pairs).items()}
    with asking(catalog):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", NVCatalogWarning)
            rows = catalog.query(name, params).arrow()
        show(rows, output)
        for each in told:
            show_warning(each.message, each.category)
        is_explained = any(issubclass(each.category, SelectionWarning) for each in told)
        if not rows.num_rows and not is_explained and _exists(catalog):
            err.print(escape(shelf.found_nothing(found, shelf.arguments(found, params))), soft_wrap=True)


@contextmanager
def asking(catalog: Catalog) -> Iterator[None]:
    """Name missing parameters as they are given here, and tell an answer from no catalog by the status."""
    there = _exists(catalog)
    with named_as_here(), telling():
        yield
    if not there:
        raise typer.Exit(SOMETHING_MISSING)


def _exists(catalog: Catalog) -> bool:
    from nvcatalog._store import FILE_NAME

    return catalog.base is not None or (catalog.folder / FILE_NAME).is_file()
