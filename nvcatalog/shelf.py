"""Find queries by name, those that ship and one's own, and check what is given for their parameters."""

from __future__ import annotations

import ast
import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvcatalog import _kinds
from nvcatalog._resources import sql_folder
from nvcatalog.errors import InvalidOptionError, QueryError, shown

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import pyarrow as pa


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
# Comments and texts, those between $$ or $tag$ included, in which a $name is none; and names.
_NAMES = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$"
    r"|\$(?P<name>[A-Za-z_]\w*)",
    re.DOTALL,
)
_WORDS = {"NULL": None, "TRUE": True, "FALSE": False}


def _read_own(name: str, path: Path) -> NamedQuery:
    try:
        return _read(name, path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{path} cannot be read as a query ({error})") from error


def _read(name: str, text: str, file: Path | None) -> NamedQuery:
    used = [found["name"].lower() for found in _NAMES.finditer(text) if found["name"]]
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
        raise QueryError(
            f"{parameter.name} of {query.name} is {reprlib.repr(value)}; give {_kinds.describe(parameter.kind)}"
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
