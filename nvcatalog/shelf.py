"""Find queries by name, check what is given for their parameters, and say why one may have found nothing."""

from __future__ import annotations

import ast
import difflib
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvcatalog import _kinds
from nvcatalog._resources import sql_folder
from nvcatalog.errors import InvalidOptionError, QueryError, listed, shown
from nvcatalog.queries import parameter_names

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import pyarrow as pa

    Ask = Callable[[str, Mapping[str, Any]], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Parameter:
    """One ``$name`` of a query, as the comment in its file declares it.

    Attributes
    ----------
    name : str
        In lower case: SQL does not tell case apart.
    comment : str
        What it means, with unit, kind and default, as people read it in the file.
    kind : str
        What can be given, such as ``count`` or ``image ids``; empty where the file does not say.
    required : bool
        Whether there is no default.
    default : object
        What it is when it is not given; None, written NULL, restricts nothing.
    source : str
        The column that its values are looked for in, as ``stat_maps.task``; empty where the file does not say.
    """

    name: str
    comment: str = ""
    kind: str = ""
    required: bool = True
    default: Any = None
    source: str = ""


@dataclass(frozen=True)
class NamedQuery:
    """A query in a file: its first comment, its parameters, its SQL.

    Attributes
    ----------
    name : str
        That of the file, without ``.sql``.
    text : str
        The whole file.
    summary : str
        What a row is.
    parameters : tuple of Parameter
        Those of the SQL, in the order of the comments.
    aliases : mapping of str to str
        Other names of parameters.
    file : Path or None
        Where it is; None for one that ships.
    """

    name: str
    text: str
    summary: str
    parameters: tuple[Parameter, ...]
    aliases: Mapping[str, str]
    file: Path | None = None


def own_folder(data_folder: Path) -> Path:
    """Return where a user's own queries are: ``NVCATALOG_QUERIES``, else ``queries`` in the data folder.

    Raises
    ------
    InvalidOptionError
        When ``NVCATALOG_QUERIES`` names no folder.
    """
    text = os.environ.get("NVCATALOG_QUERIES", "").strip()
    if not text:
        return data_folder / "queries"
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise InvalidOptionError(
            f"NVCATALOG_QUERIES is {text!r}, which is no folder; make it, or unset the variable"
        )
    return folder


def find(name: str, own: Path | None = None) -> NamedQuery:
    """Return the query of a name.

    Parameters
    ----------
    name : str
        The file's, without ``.sql``.
    own : Path, optional
        A folder of the user's own queries; it need not exist.

    Raises
    ------
    QueryError
        When there is none of that name, or two; or when one's own cannot be read.

    Examples
    --------
    >>> [parameter.name for parameter in find("top_terms").parameters]
    ['image_id', 'limit']
    """
    if not isinstance(name, str):
        raise QueryError(f"{shown(name)} is no name of a query; give a text, such as 'images_by_term'")
    shipped, mine = _shipped(), _own(own)
    if name in shipped and name in mine:
        raise QueryError(f"there are two queries {name}, one that ships and {mine[name]}; rename yours")
    if name in shipped:
        return _read(name, shipped[name].read_text(encoding="utf-8"), None)
    if name in mine:
        return _read_own(name, mine[name])
    names = sorted(shipped.keys() | mine.keys())
    raise QueryError(f"there is no query {shown(name)}; {_near(name, names) or 'there are ' + ', '.join(names)}")


def arguments(query: NamedQuery, given: object) -> dict[str, Any]:
    """Return a value for each parameter of a query, as DuckDB takes it: what was given, else the default.

    Parameters
    ----------
    query : NamedQuery
        The query.
    given : mapping of str to value
        Text stands for what it says, as on a command line: ``"20"``, ``"true"``, ``"555,658"``, ``"NULL"``.

    Raises
    ------
    QueryError
        For a parameter that the query has not, that has no value, or one of a wrong type.

    Examples
    --------
    >>> arguments(find("top_terms"), {"image_id": "10426", "n": 5})
    {'image_id': 10426, 'limit': 5}
    """
    values = _by_name(query, given)
    wanting = [each for each in query.parameters if each.required and each.name not in values]
    if wanting:
        named = "; ".join(f"{each.name}: {each.comment}" if each.comment else each.name for each in wanting)
        raise QueryError(f"{query.name} needs a value for {named}")
    return {
        each.name: _checked(query, each, values[each.name]) if each.name in values else each.default
        for each in query.parameters
    }


def found_nothing(query: NamedQuery, values: Mapping[str, Any]) -> str:
    """Return what was asked in vain, given a value for each parameter."""
    asked = ", ".join(f"{each.name}={shown(values[each.name])}" for each in _given(query, values))
    return f"{query.name} found nothing" + (f" for {asked}" if asked else "")


def why_nothing(query: NamedQuery, values: Mapping[str, Any], ask: Ask) -> list[str]:
    """Return what is known of why a query found nothing, and what there is that is like what was asked for.

    Parameters
    ----------
    query : NamedQuery
        The query.
    values : mapping of str to value
        A value for each of its parameters, as :func:`arguments` returns it.
    ask : callable
        Asks the catalog: takes SQL and its parameters, and returns rows.
    """
    if values.get("limit") == 0:
        return []
    told = [text for each in _given(query, values) for text in _not_there(each, values[each.name], ask)]
    if query.name in _OF_TWO and query.file is None:
        told += _OF_TWO[query.name](values, ask)
    return told


def listing(own: Path | None = None) -> pa.Table:
    """Return a row for each query: its name, what it gives, a line for each parameter, and the file of one's own.

    One of the user's own that cannot be read is listed with what is wrong with it.
    """
    import pyarrow as pa

    rows = [
        {
            "name": query.name,
            "summary": query.summary,
            "parameters": "\n".join(f"{each.name}: {each.comment}" for each in query.parameters),
            "file": str(query.file) if query.file else None,
        }
        for query in _all(own)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in rows[0]]))


# Finding files


def _shipped() -> dict[str, Traversable]:
    files = (file for file in sql_folder("queries").iterdir() if file.name.endswith(".sql"))
    return {file.name.removesuffix(".sql"): file for file in files}


def _own(folder: Path | None) -> dict[str, Path]:
    if folder is None or not folder.is_dir():
        return {}
    try:
        files = [file for file in folder.iterdir() if file.suffix == ".sql" and not file.name.startswith(".")]
    except OSError as error:
        raise QueryError(f"{folder}: your own queries cannot be read ({error.strerror})") from error
    return {file.stem: file for file in files}


def _all(own: Path | None) -> Iterator[NamedQuery]:
    for name, file in sorted(_shipped().items()):
        yield _read(name, file.read_text(encoding="utf-8"), None)
    for name, path in sorted(_own(own).items()):
        try:
            yield _read_own(name, path)
        except QueryError as error:
            yield NamedQuery(name, "", str(error), (), {}, path)


# Reading files

# What a parameter's comment ends with: "(count, default 100)", "(text from terms.term, required)". A text that is
# a default may have parentheses in it.
_DECLARED = re.compile(
    r"(?P<about>.*?)\s*\((?:(?P<kind>[^()]*), )?"
    r"(?:required|default (?P<default>(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^()'\"])*))\)",
    re.DOTALL,
)
_MEANT_AS_DECLARED = re.compile(r"\((?:[^()]*, )?default .*\)$", re.DOTALL)
_PARAMETER = re.compile(r"\$(?P<name>\w+): (?P<about>.*)", re.DOTALL)
_ALIAS = re.compile(r"the same as \$(\w+)")
_WORDS = {"NULL": None, "TRUE": True, "FALSE": False}


def _read_own(name: str, path: Path) -> NamedQuery:
    try:
        return _read(name, path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{path} cannot be read as a query ({error})") from error


def _read(name: str, text: str, file: Path | None) -> NamedQuery:
    used = parameter_names(text)
    declared: dict[str, Parameter] = {}
    aliases: dict[str, str] = {}
    summary, comments = _comments(text)
    for comment in comments:
        found = _PARAMETER.fullmatch(comment)
        if found is None:
            continue
        parameter = found["name"].lower()
        if alias := _ALIAS.fullmatch(found["about"]):
            aliases[parameter] = alias[1].lower()
        elif parameter in used:
            declared[parameter] = _parameter(parameter, found["about"], file or Path(f"{name}.sql"))
    undeclared = {each: Parameter(each) for each in used if each not in declared}
    return NamedQuery(name, text, summary, tuple((declared | undeclared).values()), aliases, file)


def _comments(text: str) -> tuple[str, list[str]]:
    """Return what a file says first, to the first empty comment, and what it says of each parameter."""
    lines = takewhile(lambda line: line.startswith("--"), text.splitlines())
    paragraphs = [[""]]
    for line in (line[2:].strip() for line in lines):
        if line.startswith("$") or not line:
            paragraphs.append([])
        paragraphs[-1].append(line)
    summary, *rest = (" ".join(lines).strip() for lines in paragraphs)
    return summary, rest


def _parameter(name: str, comment: str, file: Path) -> Parameter:
    found = _DECLARED.fullmatch(comment)
    if found is None and (meant := _MEANT_AS_DECLARED.search(comment)):
        raise QueryError(
            f"{file}: ${name} has {meant[0]}, of which the default cannot be read; put text in quotes"
        )
    if found is None:
        return Parameter(name, comment)
    kind, has_source, source = (found["kind"] or "").partition(" from ")
    if not _kinds.is_known(kind):
        raise QueryError(f"{file}: ${name} is of kind {kind!r}; write {_kinds.ALL}")
    if has_source and not re.fullmatch(r"\w+\.\w+", source):
        raise QueryError(
            f"{file}: ${name} is from {source!r}; write a table and a column, as in text from terms.term"
        )
    if found["default"] is None:
        return Parameter(name, comment, kind, source=source)
    default = _default(name, kind, found["default"], file)
    return Parameter(name, comment, kind, required=False, default=default, source=source)


def _default(name: str, kind: str, text: str, file: Path) -> Any:
    try:
        value = _WORDS[text.upper()] if text.upper() in _WORDS else ast.literal_eval(text)
        return None if value is None else _kinds.read(kind, value)
    except (ValueError, SyntaxError, TypeError) as error:
        raise QueryError(
            f"{file}: the default of ${name} is {text}; write NULL, true, false, a number, 'text' or a list, "
            f"which must be {_kinds.describe(kind)}"
        ) from error


# Checking what is given


def _by_name(query: NamedQuery, given: object) -> dict[str, Any]:
    """Return what was given by the parameters' own names."""
    if not isinstance(given, Mapping | None):
        raise QueryError(f"the parameters of {query.name} have names; give name=value, or a mapping")
    names = [each.name for each in query.parameters]
    values: dict[str, Any] = {}
    for typed, value in (given or {}).items():
        lower = str(typed).lower()
        name = query.aliases.get(lower, lower)
        if name not in names:
            advice = _near(lower, names) or (f"it has {', '.join(names)}" if names else "it has none")
            raise QueryError(f"{query.name} has no parameter {typed}; {advice}")
        if name in values:
            raise QueryError(f"{query.name}: {name} is given twice")
        values[name] = value
    return values


def _checked(query: NamedQuery, parameter: Parameter, value: Any) -> Any:
    try:
        if not _kinds.says_null(parameter.kind, value):
            return _kinds.read(parameter.kind, value)
    except (ValueError, TypeError, OverflowError) as error:
        wrong = _kinds.first_wrong(parameter.kind, value)
        found = "is" if wrong is value else "has"
        raise QueryError(
            f"{parameter.name} of {query.name} {found} {reprlib.repr(wrong)}; "
            f"give {_kinds.describe(parameter.kind)}"
        ) from error
    if _needs_one(parameter):
        raise QueryError(f"{parameter.name} of {query.name} is NULL; give {_kinds.describe(parameter.kind)}")
    return None


def _needs_one(parameter: Parameter) -> bool:
    """Whether NULL is no value for it, because there is no such thing as not restricting it."""
    is_choice = parameter.kind == "boolean" or parameter.kind.startswith("one of ")
    return bool(parameter.kind) and (parameter.required or (is_choice and parameter.default is not None))


def _near(name: object, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name).lower(), list(names), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""


# Why there is nothing

_NAMED = 5
_SOURCES = {"image id": "images.image_id", "collection id": "collections.collection_id"}


def _given(query: NamedQuery, values: Mapping[str, Any]) -> list[Parameter]:
    return [each for each in query.parameters if each.required or values[each.name] != each.default]


def _not_there(parameter: Parameter, value: Any, ask: Ask) -> Iterator[str]:
    """Say which of what was given is not among the values of the column that it is looked for in."""
    source = parameter.source or _SOURCES.get(parameter.kind.removesuffix("s"))
    wanted = [str(each) for each in (value if isinstance(value, list) else [value]) if each is not None]
    if source is None or not wanted:
        return
    table, column = source.split(".")
    query = f'SELECT DISTINCT "{column}"::VARCHAR FROM "{table}" WHERE "{column}" IS NOT NULL ORDER BY ALL'  # noqa: S608
    values = [each for (each,) in ask(query, {})]
    if not values:
        yield f"{source} has no values yet"
    elif missing := _without(wanted, values):
        near = values_like(missing[0], values) if parameter.kind == "text" else []
        named = f": {listed(missing)}" if isinstance(value, list) else ""
        yield f"{source} has no such {parameter.name}{named}" + (
            f", but {', '.join(map(repr, near))}" if near else ""
        )


def _without(wanted: Iterable[str], values: Iterable[str]) -> list[str]:
    there = set(values)
    return [each for each in wanted if each not in there]


def values_like(wanted: str, values: list[str]) -> list[str]:
    """Return the values that hold a text, in any case, else those most like it; all where there are few."""
    if len(values) <= _NAMED:
        return values
    lower = {each.lower(): each for each in values}
    holding = sorted((each for each in lower if wanted.lower() in each), key=len)
    close = holding or difflib.get_close_matches(wanted.lower(), lower, n=_NAMED)
    return [lower[each] for each in close[:_NAMED]]


def _one_statistic(values: Mapping[str, Any], _ask: Ask) -> list[str]:
    if values["stat_a"] != values["stat_b"]:
        return []
    return [f"stat_a and stat_b are both {values['stat_a']!r}; give two statistics"]


def _other_sets(values: Mapping[str, Any], ask: Ask) -> list[str]:
    """Say which reference sets the terms of both are of, where none of those asked for is in both."""
    query = """
        SELECT DISTINCT coalesce(reference, '')
        FROM words_status
        WHERE status = 'present' AND image_id IN (SELECT unnest($ids::INTEGER[]))
    """
    a, b = ({name for (name,) in ask(query, {"ids": values[side]})} for side in ("a", "b"))
    asked_for = a & b if values["reference"] is None else a & b & {values["reference"]}
    if asked_for or not a or not b:
        return []
    named = [", ".join(repr(name) if name else "one without a name" for name in sorted(each)) for each in (a, b)]
    return [f"the terms of a are of another reference set ({named[0]}) than those of b ({named[1]})"]


_OF_TWO = {"paired_maps": _one_statistic, "terms_between": _other_sets}
