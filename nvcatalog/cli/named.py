"""The queries with names: which there are, what each takes, and why one may have found nothing."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from nvcatalog.cli.output import Format, err, out, show
from nvcatalog.errors import shown

if TYPE_CHECKING:
    from nvcatalog.catalog import Catalog
    from nvcatalog.shelf import NamedQuery, Parameter

_NAMED = 5


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


def why_nothing(catalog: Catalog, query: NamedQuery, values: Mapping[str, Any]) -> str:
    """Return what was asked in vain, and what there is that is like it."""
    given = [each for each in query.parameters if each.required or values[each.name] != each.default]
    asked = ", ".join(f"{each.name}={shown(values[each.name])}" for each in given)
    found = f"{query.name} found nothing" + (f" for {asked}" if asked else "")
    return ". ".join([found, *(told for each in given for told in _not_there(catalog, each, values[each.name]))])


def _not_there(catalog: Catalog, parameter: Parameter, value: Any) -> Iterator[str]:
    """Say whether none of what was given is among the values of the column that it is looked for in."""
    if not parameter.source:
        return
    table, column = parameter.source.split(".")
    query = f'SELECT DISTINCT "{column}"::VARCHAR FROM "{table}" WHERE "{column}" IS NOT NULL ORDER BY ALL'  # noqa: S608
    values = [each for (each,) in catalog.sql(query).fetchall()]
    wanted = [str(each) for each in (value if isinstance(value, list) else [value])]
    if not values:
        yield f"{parameter.source} has no values yet"
    elif not set(wanted).intersection(values):
        near = _near(wanted, values) if parameter.kind == "text" else []
        yield f"{parameter.source} has no such {parameter.name}" + (
            f", but {', '.join(map(repr, near))}" if near else ""
        )


def _near(wanted: list[str], values: list[str]) -> list[str]:
    """Return the values that hold a text, in any case, else those most like it; all where there are few."""
    if len(values) <= _NAMED:
        return values
    lower = {each.lower(): each for each in values}
    holding = sorted((each for each in lower if wanted[0].lower() in each), key=len)
    close = holding or difflib.get_close_matches(wanted[0].lower(), lower, n=_NAMED)
    return [lower[each] for each in close[:_NAMED]]
