"""Ask the catalog in SQL: read-only, fenced, with values as parameters, and the answer in memory."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, KeysView, Mapping, Sequence, ValuesView
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import duckdb

from nvcatalog.errors import MissingExtraError, QueryError, shown

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

Params = Mapping[str, Any] | Sequence[Any] | None


class Answer:
    """The rows of a query, already in memory: no catalog is open any more.

    What not every tool has a value for comes as one that all have. A column of INTERVALs is one of durations, and
    text as DuckDB prints it where one has months or years, which are of no fixed length. Text are also UNIONs,
    intervals in lists or structs, and columns with a date or time beyond Python's: infinity, or outside the years
    1 to 9999.

    Examples
    --------
    >>> from nvcatalog import Catalog
    >>> answer = Catalog().sql("SELECT 1 AS one")
    >>> answer.fetchall()
    [(1,)]
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __repr__(self) -> str:
        """Show the rows as a dataframe would."""
        return repr(self.df())

    def _repr_html_(self) -> str | None:
        """Show the rows in a notebook as a dataframe would."""
        text: str | None = self.df()._repr_html_()  # type: ignore[operator]  # as notebooks call it
        return text

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Go through the rows, as tuples of Python values."""
        return iter(self.fetchall())

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._table.num_rows)

    def arrow(self) -> pa.Table:
        """Return the rows as a ``pyarrow.Table``."""
        return self._table

    def df(self) -> pd.DataFrame:
        """Return the rows as a ``pandas.DataFrame``; integer columns with gaps become float, as pandas does."""
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    def pl(self) -> pl.DataFrame:
        """Return the rows as a ``polars.DataFrame``.

        Raises
        ------
        MissingExtraError
            When polars is not installed.
        """
        try:
            import polars as pl
        except ImportError as error:
            raise MissingExtraError("polars is not installed; pip install 'nvcatalog[polars]'") from error
        return pl.DataFrame(self._table)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows as tuples of Python values."""
        columns = [column.to_pylist() for column in self._table.columns]
        return list(zip(*columns, strict=True))


def run(
    connection: duckdb.DuckDBPyConnection, query: str, params: Params, tables: Mapping[str, Any] | None
) -> Answer:
    """Run a query on a connection of this query alone, fenced unless the query is ours, and return its rows.

    Raises
    ------
    QueryError
        When DuckDB refuses it, or when it is not one statement that asks for rows.
    """
    if not isinstance(query, str):
        raise QueryError(f"query is {shown(query)}, a {type(query).__name__}; give a SELECT as text")
    try:
        _check_is_question(connection, query)
        register(connection, tables)
        relation = connection.sql(query, params=params) if params else connection.sql(query)
        table = _plain_integers(_all_rows(connection, relation), relation.types)
        return Answer(_distinct_names(_plain_times(connection, table, relation.types)))
    except duckdb.Error as error:
        raise QueryError(why_refused(error)) from error


def register(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Any] | None) -> None:
    """Lay tables of the caller's own beside the catalog's, for as long as the connection lives.

    Raises
    ------
    QueryError
        When the catalog uses a name itself, or something is no table.
    """
    if not isinstance(tables, Mapping | None):
        raise QueryError(f'tables is a {type(tables).__name__}; give each a name: tables={{"name": df}}')
    if unnamed := [name for name in tables or () if not isinstance(name, str)]:
        raise QueryError(f'{unnamed[0]!r} is no name for a table; give text: tables={{"name": df}}')
    try:
        for name, table in (tables or {}).items():
            _check_is_free(connection, name)
            connection.register(name, table)
    except duckdb.Error as error:
        raise QueryError(why_refused(error)) from error


def all_params(params: Params, named: Mapping[str, Any]) -> Params:
    """Merge parameters given as one object and as keywords; those of other libraries become Python's.

    Raises
    ------
    QueryError
        When positional parameters meet keywords, a name is given twice, or ``params`` is neither kind.
    """
    if params is not None and (isinstance(params, str | bytes) or not isinstance(params, Mapping | Sequence)):
        raise QueryError(f"params is {params!r}; give a mapping for $name, or a list for ?")
    if not isinstance(params, Mapping | None) and named:
        raise QueryError("positional parameters (?) and keywords cannot be mixed; name them all ($name)")
    if not isinstance(params, Mapping | None):
        return [_plain_value(value) for value in params]
    by_name = params or {}
    if twice := by_name.keys() & named.keys():
        raise QueryError(f"given both in params and as a keyword: {', '.join(sorted(twice))}")
    return {name: _plain_value(value) for name, value in {**by_name, **named}.items()}


# Comments and texts, those between $$ or $tag$ included, in which a $name is none; and names.
_NAMES = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$"
    r"|\$(?P<name>[A-Za-z_]\w*)",
    re.DOTALL,
)


def parameter_names(text: str) -> list[str]:
    """Return each ``$name`` of SQL as it comes, in lower case, without asking DuckDB.

    Examples
    --------
    >>> parameter_names("stat = $Stat AND name LIKE '$name' -- $note")
    ['stat']
    """
    return [found["name"].lower() for found in _NAMES.finditer(text) if found["name"]]


def quoted(value: object) -> str:
    """Return a text or a path as SQL has it, for the few statements that take no parameters.

    Examples
    --------
    >>> quoted("Broca's area")
    "'Broca''s area'"
    """
    text = str(value).replace("'", "''")
    return f"'{text}'"


def why_refused(error: duckdb.Error) -> str:
    """Return what DuckDB says, and what to do where it does not say so itself."""
    text = str(error)
    if isinstance(error, duckdb.OutOfMemoryException):
        return f"{text.splitlines()[0]}\nAsk for less at once, or ask a snapshot with a DuckDB of your own"
    if "disabled by configuration" in text or "configuration has been locked" in text:
        return f"{text}\nQueries read the catalog and nothing else: no files, no network, no settings"
    if "read-only" in text:
        return f"{text}\nQueries read the catalog; they do not change it"
    if "Unable to transform python value" in text:
        return f"{text}\nGive numbers, text, dates and times, bytes, or lists or mappings of them"
    if "excess parameters" in text or "Expected 0, got" in text:
        return f"{text}\nMore parameters were given than the query has; each stands in it as $name or ?"
    if "Values were not provided" in text:
        return f"{text}\nGive every parameter a value: sql(query, name=value), or a list for ?"
    return text


def _plain_value(value: Any) -> Any:
    """Return a value as the Python one that it stands for, a container as a list: DuckDB takes few others."""
    import numpy as np

    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, set | frozenset):
        return sorted(map(_plain_value, value), key=lambda item: (type(item).__name__, item))
    if isinstance(value, list | tuple | range | KeysView | ValuesView):
        return [_plain_value(item) for item in value]
    if type(value).__name__ == "NAType":  # pandas' for a value that is missing
        return None
    to_list = getattr(value, "to_list", None) or getattr(value, "to_pylist", None)  # a column: pandas', pyarrow's
    return _plain_value(to_list()) if callable(to_list) else value


# The fence keeps everything else from doing harm; this says so before it is tried. A PIVOT is several.
_QUESTIONS = ("SELECT", "EXPLAIN", "MULTI")


def _check_is_question(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    kinds = [_kind(statement) for statement in connection.extract_statements(query)]
    if len(kinds) != 1 or kinds[0] not in _QUESTIONS:
        found = ", ".join(kinds) or "nothing"
        raise QueryError(f"ask with one SELECT, the catalog is read and not changed here; got {found}")


def _kind(statement: duckdb.Statement) -> str:
    try:
        return str(statement.type.name)
    except ValueError:  # DuckDB parses more kinds than it has names for
        return "an unknown statement"


def _check_is_free(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Refuse a table that would silently stand in for one of the catalog's."""
    taken = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE lower(table_name) = lower($name)", {"name": name}
    ).fetchall()
    if taken:
        raise QueryError(f"the catalog has a table {taken[0][0]} itself; name yours otherwise")


def _distinct_names(table: pa.Table) -> pa.Table:
    """Tell columns of one name apart as name, name_1, ...: a join gives them, and not every tool takes them."""
    names: list[str] = []
    for name in table.column_names:
        numbered = (f"{name}_{number}" for number in range(1, len(names) + 1))
        names.append(next(new for new in (name, *numbered) if new not in names))
    return table.rename_columns(names)


def _all_rows(connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation) -> pa.Table:
    """Read everything, in a thread beside this one: DuckDB itself hears of Ctrl-C only now and then."""
    rows: Future[pa.Table] = Future()
    try:
        # No pool's: one that is interrupted while it starts a thread knows nothing of it.
        threading.Thread(target=_read, args=(relation, rows), name="nvcatalog-query", daemon=True).start()
        return rows.result()
    except KeyboardInterrupt:
        while not (rows.cancel() or rows.done()):
            connection.interrupt()  # which does nothing before DuckDB has begun
            time.sleep(0.01)
        raise


def _read(relation: duckdb.DuckDBPyRelation, rows: Future[pa.Table]) -> None:
    if not rows.set_running_or_notify_cancel():
        return
    try:
        rows.set_result(relation.to_arrow_table())
    except BaseException as error:  # noqa: BLE001 - raised by who waits for the rows
        rows.set_exception(error)


def _plain_integers(table: pa.Table, types: Sequence[Any]) -> pa.Table:
    """Turn DuckDB's 128-bit sums into integers that dataframe tools know, or floats where they do not fit."""
    import pyarrow as pa

    for place, kind in enumerate(types):
        if str(kind) not in ("HUGEINT", "UHUGEINT"):
            continue
        column = table.column(place)
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:
            column = column.cast(pa.float64())
        table = table.set_column(place, table.column_names[place], column)
    return table


_NESTED = ("list", "array", "struct", "map", "union")
_DAY_S = 24 * 3600
# The first second of the year 1 and the last one of 9999, since 1970.
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799
_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _plain_times(connection: duckdb.DuckDBPyConnection, table: pa.Table, types: Sequence[Any]) -> pa.Table:
    """Turn intervals into durations; and those of no fixed length, like all that Python has not, into text."""
    for place, kind in enumerate(types):
        column = table.column(place)
        if str(kind) == "INTERVAL":
            lengths = _durations(column)
            plain = _as_text(connection, column) if lengths is None else lengths
        elif not _is_plain(column, kind):
            plain = _as_text(connection, column)
        else:
            continue
        table = table.set_column(place, table.column_names[place], plain)
    return table


def _durations(intervals: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return intervals as durations; None where one is of no fixed length, or too long for one."""
    import pyarrow as pa

    values = intervals.to_pylist()
    if any(value is not None and value.months for value in values):
        return None
    lengths = [None if v is None else v.days * _DAY_S * 10**6 + v.nanoseconds // 1000 for v in values]
    try:
        return pa.chunked_array([pa.array(lengths, pa.duration("us"))])
    except OverflowError:
        return None


def _as_text(connection: duckdb.DuckDBPyConnection, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as DuckDB prints them."""
    import pyarrow as pa

    return connection.from_arrow(pa.table({"value": column})).project("value::VARCHAR").to_arrow_table().column(0)


def _is_plain(column: pa.ChunkedArray, kind: Any) -> bool:
    """Whether Python has a value for each of a column's."""
    kinds = _kinds_in(kind)
    if kinds & {"interval", "union"}:
        return False
    if (limits := _limits(column.type)) is not None:
        return _is_within(column, *limits)
    if kind.id in _NESTED and any(name.startswith(("date", "time")) for name in kinds):
        try:
            column.to_pylist()
        except (OverflowError, ValueError):
            return False
    return True


def _kinds_in(kind: Any) -> set[str]:
    """Return the name of a type and of all those inside it."""
    children = kind.children if kind.id in _NESTED else []
    return {kind.id}.union(*(_kinds_in(child) for _, child in children if not isinstance(child, int)))


def _limits(kind: pa.DataType) -> tuple[int, int] | None:
    """Return between which numbers a date or time has a value in Python."""
    import pyarrow as pa

    if pa.types.is_date32(kind):
        return _FIRST_S // _DAY_S, _LAST_S // _DAY_S
    if pa.types.is_time64(kind):
        return 0, _DAY_S * _PER_S[kind.unit] - 1
    if pa.types.is_timestamp(kind):
        infinity = 2**63 - 1
        per_s = _PER_S[kind.unit]
        return max(_FIRST_S * per_s, 1 - infinity), min((_LAST_S + 1) * per_s, infinity) - 1
    return None


def _is_within(column: pa.ChunkedArray, least: int, most: int) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = column.cast(pa.int32()) if pa.types.is_date32(column.type) else column.cast(pa.int64())
    found = pc.min_max(numbers)
    return found["min"].as_py() is None or (least <= found["min"].as_py() and found["max"].as_py() <= most)
