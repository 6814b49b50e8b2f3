"""The queries with names: which there are, what each takes, and how that is given here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from nvcatalog.cli.output import Format, err, out, show

if TYPE_CHECKING:
    from nvcatalog.catalog import Catalog
    from nvcatalog.shelf import NamedQuery


def list_queries(catalog: Catalog, output: Format | None) -> None:
    """Show what one looks for first: all that there is to say would fill many screens."""
    listed = catalog.queries().arrow()
    if output is None and sys.stdout.isatty():
        listed = listed.select(["name", "summary"])
        err.print("nvcatalog query NAME --help shows what one takes; --format csv lists it for all.")
    show(listed, output)


def show_help(query: NamedQuery) -> None:
    """Show what a row of a query is, and what its parameters mean."""
    width = max((len(each.name) for each in query.parameters), default=0)
    lines = [f"Usage: nvcatalog query {query.name} [OPTIONS]" + " [--PARAMETER VALUE]..." * bool(query.parameters)]
    lines += ["", f"  {query.summary}", "", "Parameters:" if query.parameters else "It has no parameters."]
    lines += [f"  --{each.name.replace('_', '-'):{width}}  {each.comment}" for each in query.parameters]
    lines += ["", "nvcatalog query --help shows the options that all queries have."]
    out.print("\n".join(lines), markup=False, soft_wrap=True)


def as_pairs(words: list[str], kinds: dict[str, str]) -> Iterator[str]:
    """Read ``--min-weight 0.5 --gone`` as ``min_weight=0.5`` and ``gone=true``."""
    rest = list(words)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise typer.BadParameter(f"{option!r} belongs to no parameter; write --name VALUE")
        name, equals, value = option[2:].partition("=")
        name = name.replace("-", "_")
        if not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        elif not equals and kinds.get(name) == "boolean":
            value = "true"
        elif not equals:
            raise typer.BadParameter(f"--{name} has no value; write --{name} VALUE")
        yield f"{name}={value}"
