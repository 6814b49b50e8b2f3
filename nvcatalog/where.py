"""Find the images that a condition in SQL is true for, and say why where there are none."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple, NoReturn, cast

import duckdb

from nvcatalog import _expressions, queries
from nvcatalog._expressions import Expressions
from nvcatalog._store import Store
from nvcatalog.errors import InvalidIdError, InvalidIdTypeError, InvalidOptionError, QueryError, shown, storable
from nvcatalog.ids import LARGEST, parse_ids
from nvcatalog.records import LARGEST_FILE


@dataclass(frozen=True)
class Condition:
    """Which images are wanted: either of `where` and `query` says it.

    Attributes
    ----------
    where : str or None
        One expression over the columns of ``stat_maps``, true for the images wanted. ``collections.name`` and
        the like reach the collection; a name that both have is the image's.
    query : str or None
        A SELECT that gives a column ``image_id``, in the order wanted.
    params : mapping of str to value
        Values for each ``$name`` in `where`, `order_by` and `query`.
    tables : mapping of str to dataframe, or None
        Tables of the caller's own, to be asked beside the catalog's.
    order_by : str or None
        What the images of `where` are ordered by, as in ``ORDER BY``; ties by collection and image, which is
        the order without it too.
    max_images : int or None
        How many of them are wanted; None, a negative number and infinity mean all.
    """

    where: str | None = None
    query: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] | None = None
    order_by: str | None = None
    max_images: float | None = None


class Part(NamedTuple):
    """One of the AND-ed parts of a condition, asked alone.

    Attributes
    ----------
    text : str
        The part; beyond the first hundred, the last stands for all others together.
    keeps, nulls : int or None
        How many rows of ``stat_maps`` it is true for, and how many it can say nothing about because a value is
        NULL; None where it cannot be asked alone, or has not been.
    """

    text: str
    keeps: int | None
    nulls: int | None


@dataclass(frozen=True)
class Selection:
    """The images that a condition selects.

    An image that the server no longer has is left out, unless its file is here.

    Attributes
    ----------
    image_ids : tuple of int
        Those wanted, in order; at most as many as asked for.
    total : int
        How many match in all.
    bytes : int
        Size of the files of all that match, as far as it is known.
    unknown_sizes : int
        How many of all that match have a file of unknown size.
    rows : int
        How many rows of ``stat_maps``, or of the query, were looked at.
    parts : tuple of Part
        What each part of the condition keeps alone; none for a query.
    synced_at : str or None
        When all of NeuroVault's metadata was last read, in ISO format; None when it never was.
    unknown_ids, gone_ids : tuple of int
        What a query gives that is in no record of the catalog, and what the server no longer has.
    nulls : int
        In how many rows of a query ``image_id`` is NULL; they are left out.
    """

    image_ids: tuple[int, ...]
    total: int
    bytes: int
    unknown_sizes: int
    rows: int
    parts: tuple[Part, ...] = ()
    synced_at: str | None = None
    unknown_ids: tuple[int, ...] = ()
    gone_ids: tuple[int, ...] = ()
    nulls: int = 0


def select(store: Store, condition: Condition) -> Selection:
    """Ask a catalog which images a condition selects, in one short read.

    Raises
    ------
    QueryError
        When the condition cannot be asked: bad SQL, an unknown column, a parameter missing or unused.
    InvalidOptionError
        When `max_images` is no number.
    """
    limit = parse_max_images(condition.max_images)
    with store.reading() as connection:
        queries.register(connection, condition.tables)
        with _hints(condition):
            asked = _read(connection, condition)
        _check_params(asked.parameters, condition.params)
        if asked.where is not None:
            with _hints(condition):
                return _by_where(connection, asked.where, asked.order, condition.params, limit)
        found = _by_query(connection, condition.query or "", condition.params)
    if limit is None or len(found.image_ids) <= limit:
        return found
    return replace(found, image_ids=found.image_ids[:limit])


def count_gone(store: Store, condition: Condition) -> int:
    """Return for how many images a condition is true that it does not select: gone, and without a file here."""
    with store.reading() as connection:
        asked = _read(connection, condition)
        if asked.where is None:
            return 0
        source = _source(connection, asked.where, None, rows=f"NOT {_can_be_had('s')}")
        query = f"SELECT count(*) FROM {source} WHERE (\n{asked.where.text}\n)"  # noqa: S608 - read before
        [(count,)] = _ask(connection, query, _of(asked.where, condition.params))
        return int(count)


def parameter_names(store: Store, condition: Condition) -> frozenset[str]:
    """Return the names of all ``$name`` in a condition, in lower case: SQL does not tell case apart.

    Raises
    ------
    QueryError
        When the condition is no SQL.
    """
    with store.reading() as connection, _hints(condition):
        return _read(connection, condition).parameters


def parse_max_images(value: object) -> int | None:
    """Return how many images are wanted at most; None for all.

    Raises
    ------
    InvalidOptionError
        When it is no number, or a fraction.

    Examples
    --------
    >>> parse_max_images(100), parse_max_images(-1), parse_max_images(float("inf"))
    (100, None, None)
    """
    if value is None or (isinstance(value, int) and not 0 <= value <= LARGEST):  # more than there can be
        return None
    number = real_number(value)
    if number < 0 or number == math.inf:
        return None
    if not number.is_integer():
        raise InvalidOptionError(f"max_images is {shown(value)}; give a whole number, or None for all")
    return int(number)


def real_number(value: object) -> float:
    """Return a number of whatever type as a float, not-a-number for what is none.

    Examples
    --------
    >>> real_number(3), real_number(10**400), real_number("3")
    (3.0, inf, nan)
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if cast("int", value) > 0 else -math.inf


def explain(selection: Selection) -> list[str]:
    r"""Say in lines what each part of a condition keeps alone, where nothing matches or values were NULL.

    Examples
    --------
    >>> parts = (Part("stat = 't'", 20, 0), Part("n_subjects > 500", 0, 31))
    >>> print(*explain(Selection((), 0, 0, 0, rows=80, parts=parts)), sep="\n")
    Of 80 maps, each part of the condition alone keeps:
      20  stat = 't'
       0  n_subjects > 500 (31 left out because a value is NULL)
    """
    nulls = any(part.nulls for part in selection.parts)
    if not selection.parts or (selection.total and not nulls):
        return []
    figures = ["?" if part.keeps is None else f"{part.keeps:,}" for part in selection.parts]
    width = max(map(len, figures))
    lines = [f"Of {selection.rows:,} maps, each part of the condition alone keeps:"]
    for figure, part in zip(figures, selection.parts, strict=True):
        why = f" ({part.nulls:,} left out because a value is NULL)" if part.nulls else ""
        lines.append(f"  {figure:>{width}}  {' '.join(part.text.split())}{why}")
    return lines


# Reading the condition


class _Asked(NamedTuple):
    where: Expressions | None
    order: Expressions | None
    parameters: frozenset[str]


def _read(connection: duckdb.DuckDBPyConnection, condition: Condition) -> _Asked:
    order = None
    if condition.where is not None and condition.query is None:
        where = _expressions.read(connection, "where", condition.where)
        if condition.order_by is not None:
            order = _expressions.read(connection, "order_by", condition.order_by)
        return _Asked(where, order, where.parameters | (order.parameters if order else frozenset()))
    if condition.query is None or condition.where is not None:
        given = "neither" if condition.query is None else "both"
        raise QueryError(f"give either a condition (where) or a query; got {given}")
    if condition.order_by is not None:
        raise QueryError("order_by goes with a condition; a query has an ORDER BY of its own")
    return _Asked(None, None, _parameters_of_query(connection, condition.query))


def _parameters_of_query(connection: duckdb.DuckDBPyConnection, query: str) -> frozenset[str]:
    if not isinstance(query, str):
        raise QueryError(f"query is {query!r}; give a SELECT as text")
    try:
        query.encode()  # DuckDB calls half a character an argument of a wrong type
        statements = connection.extract_statements(query)
    except (duckdb.Error, UnicodeError) as error:
        raise QueryError(f"query: {_without_line_number(str(error))}") from error
    return frozenset(name.lower() for statement in statements for name in statement.named_parameters)


def _check_params(used: frozenset[str], params: Mapping[str, Any]) -> None:
    if not isinstance(params, Mapping):
        raise QueryError(f"params is {params!r}; give a mapping of names to values, each used as $name")
    given = {str(name).lower(): str(name) for name in params}
    if missing := sorted(used - given.keys()):
        values = ", ".join(f"{name}=…" for name in missing)
        raise QueryError(f"no value for {_dollars(missing)}; give {values}{_near(missing[0], list(given))}")
    if unused := sorted(given[name] for name in given.keys() - used):
        known = f"it has {_dollars(sorted(used))}" if used else "it has none"
        raise QueryError(f"the condition has no parameter {_dollars(unused)}; {known}")


def _dollars(names: list[str]) -> str:
    return ", ".join(f"${name}" for name in names)


# By a condition


def _can_be_had(image: str) -> str:
    """Say in SQL that the server still has an image, or that its file is here, if by its size alone."""
    here = "SELECT image_id FROM files WHERE kind = 'original' AND state IN ('present', 'unverified')"
    return f"({image}.gone_at IS NULL OR {image}.image_id IN ({here}))"


def _by_where(
    connection: duckdb.DuckDBPyConnection,
    where: Expressions,
    order: Expressions | None,
    params: Mapping[str, Any],
    limit: int | None,
) -> Selection:
    own_params = _of(where, params)
    source, condition = _source(connection, where, order), f"WHERE (\n{where.text}\n)"
    keys = f"{order.text}\n, " if order else ""
    # The text of a condition is no value, but all that it may be: it was read, and the connection is fenced.
    ids = f"SELECT image_id FROM {source}\n{condition}\nORDER BY\n{keys}collection_id, image_id"  # noqa: S608
    texts = _expressions.split(connection, where)
    _bind(connection, f"{ids} LIMIT 0", params)
    _check_types(connection, source, texts, own_params)
    image_ids = _ask(connection, ids if limit is None else f"{ids} LIMIT {limit}", params)
    counted, others = texts[:_MOST_COUNTED], texts[_MOST_COUNTED:]
    counts = None if others else _count(connection, source, counted, own_params)
    if counts is None:
        counts = _count_apart(connection, source, condition, counted, own_params)
    parts = [Part(text, *count) for text, count in zip(counted, counts.parts, strict=True)]
    parts += [Part(f"the other {len(others):,} parts", None, None)] if others else []
    return Selection(
        tuple(id_ for (id_,) in image_ids),
        *counts.figures,
        rows=counts.rows,
        parts=tuple(parts),
        synced_at=_synced_at(connection),
    )


def _ask(connection: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    try:
        return queries.run(connection, query, params, None).fetchall()
    except QueryError as error:
        if isinstance(error.__cause__, duckdb.Error):
            _raise(connection, error.__cause__)
        raise


def _of(expressions: Expressions, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of these expressions alone: DuckDB takes none that it has no use for."""
    return {name: value for name, value in params.items() if name.lower() in expressions.parameters}


# What the view makes of a record, DuckDB makes anew for each part that asks for it: of many parts, once for all,
# which takes memory for the columns that they name.
_FEW_PARTS = 8


def _source(
    connection: duckdb.DuckDBPyConnection, where: Expressions, order: Expressions | None, rows: str | None = None
) -> str:
    """Return the view to ask, where names are the image's first and ``collections.`` reaches its collection.

    The collection is a value with fields beside the image's columns, so no name of it is ever in the way. Only
    fields that are asked for are put into it: all of them, for each of 600,000 images, would take a second.
    """
    mine, theirs = _columns(connection, "stat_maps"), _columns(connection, "collections")
    used = set().union(*(each.fields_of("collections") for each in (where, order) if each))
    fields = [name for name in theirs if name == "collection_id" or used & {name.lower(), "*"}]
    struct = ", ".join(f'"{name}": c."{name}"' for name in fields)
    both = ", ".join(f'"{name}"' for name in theirs if name.lower() in {each.lower() for each in mine})
    columns = f"s.*, {{{struct}}} AS collections, c.* EXCLUDE ({both})"
    joined = "stat_maps AS s LEFT JOIN collections AS c ON c.collection_id = s.collection_id"
    rows = f"SELECT {columns} FROM {joined} WHERE {rows or _can_be_had('s')}"  # noqa: S608 - names of columns
    if len(where.trees) > _FEW_PARTS:
        rows = f"WITH made AS MATERIALIZED ({rows}) FROM made"
    return f"({rows}) AS stat_maps"


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    connection.execute(f'SELECT * FROM "{table}" LIMIT 0').fetchall()  # noqa: S608 - information_schema takes 10 ms
    return [column[0] for column in connection.description or ()]


def _bind(connection: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, Any]) -> list[str]:
    """Let DuckDB look up every name of a query that gives no rows, and return the types of its columns."""
    try:
        connection.execute(query, dict(params)).fetchall()
    except duckdb.Error as error:
        _raise(connection, error)
    return [str(column[1]) for column in connection.description or ()]


def _check_types(
    connection: duckdb.DuckDBPyConnection, source: str, texts: list[str], params: Mapping[str, Any]
) -> None:
    columns = ", ".join(f"(\n{text}\n)" for text in texts)
    kinds = _bind(connection, f"SELECT {columns} FROM {source} LIMIT 0", params)  # noqa: S608 - read before
    for text, kind in zip(texts, kinds, strict=True):
        if kind not in ("BOOLEAN", '"NULL"'):
            raise QueryError(
                f"where: {' '.join(text.split())} is {kind}, neither true nor false; compare it with something"
            )


# A hundred take half a second over 600,000 rows.
_MOST_COUNTED = 100


class _Counts(NamedTuple):
    rows: int
    figures: tuple[int, int, int]  # images that match, their bytes, and how many of unknown size
    parts: list[tuple[int | None, int | None]]


def _count(
    connection: duckdb.DuckDBPyConnection, source: str, texts: list[str], params: Mapping[str, Any]
) -> _Counts | None:
    """Count all that there is to count in one pass over all rows, None where a part cannot be asked of all rows.

    Not as windows beside the ids: those took DuckDB more than a minute over 600,000 rows.
    """
    parts = "".join(f", (\n{text}\n)::BOOLEAN AS p{number}" for number, text in enumerate(texts))
    # With a FILTER each, DuckDB would copy every column for every part.
    each = "".join(f", coalesce(count_if(p{n}), 0), count(*) - count(p{n})" for n in range(len(texts)))
    match = " AND ".join(f"p{n}" for n in range(len(texts)))
    rows_with_parts = f"(SELECT file_size{parts} FROM {source})"  # noqa: S608 - read before
    query = f"SELECT count(*), {_figures('match')}{each} FROM (SELECT *, {match} AS match FROM {rows_with_parts})"  # noqa: S608
    try:
        [(rows, total, size, unknown, *counts)] = _ask(connection, query, params)
    except QueryError:
        return None
    return _Counts(rows, (total, size or 0, unknown), list(zip(counts[::2], counts[1::2], strict=True)))


def _count_apart(
    connection: duckdb.DuckDBPyConnection, source: str, condition: str, texts: list[str], params: Mapping[str, Any]
) -> _Counts:
    """Count where not all parts can be asked of all rows: what matches, and what these parts can tell alone.

    There are too many of them, or one fails on rows that another keeps from it.
    """
    [(rows,)] = _ask(connection, f"SELECT count(*) FROM {source}", {})  # noqa: S608
    query = f"SELECT {_figures('true')} FROM {source}\n{condition}"  # noqa: S608
    [(total, size, unknown)] = _ask(connection, query, params)
    return _Counts(rows, (total, size or 0, unknown), _count_each(connection, source, texts, params))


def _count_each(
    connection: duckdb.DuckDBPyConnection, source: str, texts: list[str], params: Mapping[str, Any]
) -> list[tuple[int | None, int | None]]:
    """Count parts together, halved again and again until those that fail stand alone."""
    own_params = _of(_expressions.read(connection, "where", _expressions.all_of(texts)), params)
    if counts := _count(connection, source, texts, own_params):
        return counts.parts
    if len(texts) == 1:
        return [(None, None)]
    half = len(texts) // 2
    halves = (texts[:half], texts[half:])
    return [each for some in halves for each in _count_each(connection, source, some, params)]


# That a record tells the size of its file, and one to be believed.
_TOLD = f"coalesce(file_size BETWEEN 1 AND {LARGEST_FILE}, false)"


def _figures(match: str) -> str:
    # A sum has 128 bits, and what makes a plain number of those takes 80 ms to import.
    return (
        f"count(*) FILTER (WHERE {match}), (sum(file_size) FILTER (WHERE {_TOLD} AND {match}))::BIGINT, "
        f"count(*) FILTER (WHERE NOT {_TOLD} AND {match})"
    )


def _synced_at(connection: duckdb.DuckDBPyConnection) -> str | None:
    rows = connection.execute("SELECT value FROM catalog_info WHERE key = 'synced_at'").fetchall()
    return rows[0][0] if rows else None


# By a query


def _by_query(connection: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, Any]) -> Selection:
    import pyarrow as pa

    rows = queries.run(connection, query, params or None, None).arrow()
    column = next((name for name in rows.column_names if name.lower() == "image_id"), None)
    if column is None:
        raise QueryError(f"query: it gives no column image_id; it gives {', '.join(rows.column_names)}")
    values = [value for value in rows.column(column).to_pylist() if value is not None]
    try:
        ids = parse_ids(map(_whole, values), kind="image")
    except (InvalidIdError, InvalidIdTypeError) as error:
        raise QueryError(f"query: what it gives as image_id is none: {error}") from error
    asked = pa.table({"place": pa.array(range(len(ids)), pa.int32()), "image_id": pa.array(ids, pa.int32())})
    connection.register(_ASKED, asked)
    [figures] = connection.execute(_JUDGED).fetchall()
    here, total, size, unknown_sizes, unknown, gone = figures
    return Selection(
        tuple(here or ()),
        total,
        int(size or 0),
        unknown_sizes,
        rows.num_rows,
        synced_at=_synced_at(connection),
        unknown_ids=tuple(unknown or ()),
        gone_ids=tuple(gone or ()),
        nulls=rows.num_rows - len(values),
    )


def _whole(value: Any) -> Any:
    """Return a whole number as an integer: pandas makes floats of ids where one is missing, DuckDB decimals."""
    return int(value) if isinstance(value, float | Decimal) and value == value // 1 else value


_ASKED = "nvcatalog asked for"
_JUDGED = f"""
    WITH judged AS (
        SELECT a.place, a.image_id, i.image_id IS NULL AS unknown, i.file_size, {_can_be_had("i")} AS selectable
        FROM "{_ASKED}" AS a
        LEFT JOIN images AS i ON i.image_id = a.image_id
    ),
    found AS (SELECT *, NOT unknown AND selectable AS here, NOT unknown AND NOT selectable AS gone FROM judged)
    SELECT
        list(image_id ORDER BY place) FILTER (WHERE here),
        count(*) FILTER (WHERE here),
        sum(file_size) FILTER (WHERE here AND {_TOLD}),
        count(*) FILTER (WHERE here AND NOT {_TOLD}),
        list(image_id ORDER BY place) FILTER (WHERE unknown),
        list(image_id ORDER BY place) FILTER (WHERE gone)
    FROM found
"""  # noqa: S608 - constants


# Telling what is wrong

_NO_COLUMN = re.compile(r'Referenced column "(.+?)" not found|does not have a column named "(.+?)"')
_NO_FIELD = re.compile(r'Could not find key "(.+?)" in struct')
_PLACE = re.compile(r"\n+LINE (\d+): (.*)\n( *)\^+\s*$")


def _raise(connection: duckdb.DuckDBPyConnection, error: duckdb.Error) -> NoReturn:
    """Say what DuckDB refuses in a condition in the terms of who wrote it."""
    text = str(error)
    place = _PLACE.search(text)
    # The first line is of our making, whatever it says is not the user's to read.
    where = "\n" + _without_line_number(place[0].strip("\n")) if place and place[1] != "1" else ""
    said = text[: place.start()] if place else text
    if found := _NO_COLUMN.search(said):
        name = found[1] or found[2]
        said = f"there is no column {name} in stat_maps{_near(name, _columns(connection, 'stat_maps'))}"
    elif found := _NO_FIELD.search(said):
        said = f"collections has no column {found[1]}{_near(found[1], _columns(connection, 'collections'))}"
    elif "cannot contain" in said or "must appear in the GROUP BY" in said:
        said = (
            "a condition is asked of one map at a time; for a figure over many write a subquery, such as "
            "n_subjects = (SELECT max(n_subjects) FROM stat_maps)"
        )
    elif 'Referenced table "images"' in said:
        said = "the columns of images are those of stat_maps here: write name instead of images.name"
    else:
        said = "\n".join(queries.why_refused(error).replace(place[0] if place else "", "").splitlines()[:_LINES])
    raise QueryError(f"{said}{where}") from error


@contextmanager
def _hints(condition: Condition) -> Iterator[None]:
    """Add to what is wrong with a condition what people mean who write it so."""
    try:
        yield
    except QueryError as error:
        if hints := _hints_about(str(error), condition):
            raise QueryError("\n".join([str(error), *hints])) from error
        raise


def _hints_about(said: str, condition: Condition) -> list[str]:
    texts = [text for text in (condition.where, condition.order_by) if isinstance(text, str)]
    hints = []
    if isinstance(condition.where, str) and "syntax error" in said:
        if condition.where.strip().lower().startswith("select"):
            hints.append("This is a query: give it as query=… (--query), or what follows its WHERE alone")
        elif condition.where.rstrip().endswith(";"):
            hints.append("A condition ends without a semicolon")
    for text in texts if all(text == storable(text) for text in texts) else ():
        quoted = _expressions.quoted_names(text).items()
        hints += [f"Text takes single quotes: '{meant}'" for name, meant in quoted if f" column {name} in" in said]
        hints += [f"Write {meant} instead of {sign}" for sign, meant in _expressions.slips(text).items()]
    if "[]" in said and isinstance(condition.params, Mapping):
        lists = [name for name, value in condition.params.items() if isinstance(value, list | tuple)]
        hints += [f"${name} is a list: write IN ${name}, without parentheses" for name in lists]
    return list(dict.fromkeys(hints))


# Of the functions that fit almost, DuckDB lists dozens.
_LINES = 8


def _without_line_number(text: str) -> str:
    """Return DuckDB's excerpt of a text without the number of its line, the caret still under its place."""
    return re.sub(r"(?m)^(LINE \d+: )(.*)\n( *)(\^+)", _moved_caret, text)


def _moved_caret(found: re.Match[str]) -> str:
    return f"  {found[2]}\n  {found[3][len(found[1]) :]}{found[4]}"


def _near(name: str, names: list[str]) -> str:
    lower = [each.lower() for each in names]
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    close = close or [each for each in lower if each.endswith(f"_{name.lower()}")][:2]  # id: image_id
    return f"; did you mean {' or '.join(close)}?" if close else ""
