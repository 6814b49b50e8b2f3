"""What commands have in common: options, exit statuses, and how ids and parameters are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nvcatalog._progress import BARS, telling_of_waits
from nvcatalog.cli.output import Format, err
from nvcatalog.errors import InvalidOptionError, QueryError, listed

if TYPE_CHECKING:
    from nvcatalog.catalog import Catalog

ALL_THERE, SOMETHING_MISSING, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
MOST_NAMED = 20

DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", "-d", metavar="FOLDER", help="Where neurovault/ is; nilearn's folder by default."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="FOLDER", help="A shared folder to use first; never written to."),
]
OutputFormat = Annotated[
    Format | None, typer.Option("--format", "-f", help="A table on a terminal, csv in a pipe, unless said here.")
]
Params = Annotated[
    list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter's value; repeatable.")
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to connect, and to the next byte.")]
Workers = Annotated[int | None, typer.Option("--max-workers", help="Parallel downloads; 6 by default.")]
Where = Annotated[str | None, typer.Option("--where", help="Those that a condition over stat_maps is true for.")]
Images = Annotated[list[str] | None, typer.Option("--images", "-i", metavar="IDS", help="Those: 10426,32980.")]
Collections = Annotated[
    list[str] | None,
    typer.Option("--collections", "-c", metavar="IDS", help="All known images of collections: 555,658."),
]
Private = Annotated[bool, typer.Option("--private", help="Those of private collections too.")]
Gone = Annotated[bool, typer.Option("--gone", help="What the server no longer has, too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no summary.")]


def catalog_in(data_dir: str | None, base: str | None = None) -> Catalog:
    """Return the catalog of a data folder, nilearn's by default, with a shared folder's behind it."""
    from nvcatalog.catalog import Catalog

    return Catalog(data_dir, base=base)


def split(values: list[str] | None) -> list[str]:
    """Read ids given as ``-c 555,658`` and as ``-c 555 -c 658``."""
    return [part for value in values or [] for part in value.replace(",", " ").split()]


def chosen_ids(
    catalog: Catalog, images: list[str] | None, collections: list[str] | None, *, gone: bool
) -> list[int | str] | None:
    """Read which images are named, by themselves or by their collections; None where none are."""
    from nvcatalog.ids import parse_ids

    named: list[int | str] = [*split(images)]
    if collections:
        ids = parse_ids(split(collections), kind="collection")
        query = (
            "SELECT collection_id, image_id FROM images WHERE collection_id IN $ids AND ($gone OR gone_at IS NULL)"
        )
        rows = catalog.sql(f"{query} ORDER BY ALL", ids=ids, gone=gone).fetchall()
        if unknown := {*ids}.difference(id_ for id_, _ in rows):
            raise InvalidOptionError(
                f"no image of these collections is known: {listed(sorted(unknown))}; fetch them"
            )
        named += [image_id for _, image_id in rows]
    return named or None


def parse_params(pairs: list[str] | None) -> dict[str, str | float]:
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


def telling(*, quiet: bool = False) -> AbstractContextManager[None]:
    """Say what is waited for long."""
    return telling_of_waits(0 if quiet else BARS)


@contextmanager
def leaving_politely(*, quiet: bool) -> Iterator[None]:
    """Say what is waited for long and what Ctrl-C leaves behind, and end with the status that shells expect."""
    try:
        with telling(quiet=quiet):
            yield
    except KeyboardInterrupt:
        err.print("Interrupted. What arrived is kept; run the same again for the rest.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def named_as_here() -> Iterator[None]:
    """Name parameters without a value as they are given on a command line."""
    try:
        yield
    except QueryError as error:
        found = re.search(
            r"Values were not provided[^:]*: (.*)|no value for (.*?); give|^(\$\w+) is a parameter of the",
            str(error),
        )
        if found is None:
            raise
        asked = (found[1] or found[2] or found[3]).replace("$", "").split(", ")
        options = " ".join(f"--param {name}=…" for name in asked)
        raise QueryError(f"the query has parameters without a value: give {options}") from error
