"""Open a snapshot as a database of its own: for long reads, which then hold up nobody who writes."""

from __future__ import annotations

import inspect
import os
import secrets
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import duckdb

from nvcatalog import kept, parts, snapshot
from nvcatalog._instances import in_memory
from nvcatalog._locks import QUESTION_PATIENCE_S, lock_timeout_s
from nvcatalog._store import Store, empty_catalog
from nvcatalog.errors import CatalogLockedError, CatalogTooNewError, CatalogWarning, SnapshotError, SnapshotWarning
from nvcatalog.migrate import load_migrations
from nvcatalog.queries import quoted

_Reading = Callable[..., AbstractContextManager[duckdb.DuckDBPyConnection]]
# Whose frames lie between the line that a warning is about, and what warns.
_OURS = ("nvcatalog", "contextlib")


def connect(store: Store, name: str | os.PathLike[str] | None = None) -> duckdb.DuckDBPyConnection:
    """Open a snapshot for somebody to keep: the tables and views of the catalog, with what their columns mean.

    Parameters
    ----------
    store : Store
        The catalog.
    name : str, path-like or None
        A snapshot's name, or its folder; None means the newest, after publishing what landed since.

    Returns
    -------
    duckdb.DuckDBPyConnection
        To a database in memory. The snapshot stays on disk until the connection is closed or forgotten; its
        function ``nvcatalog_snapshot()`` tells which one it is.

    Raises
    ------
    InvalidOptionError
        When there is no snapshot of that name.
    SnapshotError
        When there is none at all and none can be published, or it cannot be read.
    CatalogTooNewError
        When a newer version of nvcatalog has written it.

    Warns
    -----
    SnapshotWarning
        When what landed since cannot be published; it says how old the snapshot is.
    CatalogWarning
        When there is no catalog: all tables are empty then.
    """
    place, let_go = _snapshot_to_read(store, name)
    try:
        connection = _open(place, commented=True)
        connection.create_function("nvcatalog_snapshot", _kept_for(place, let_go), [], "VARCHAR")
    except BaseException:
        let_go()
        raise
    return connection


def _kept_for(place: Path | None, let_go: Callable[[], None]) -> Callable[[], str | None]:
    """Return what tells which snapshot a connection reads, and lets go of it when the connection forgets it.

    DuckDB does so when the connection is closed; the connection itself may be there for long after that.
    """

    def folder() -> str | None:
        return None if place is None else str(place)

    weakref.finalize(folder, let_go)
    return folder


@contextmanager
def connected(store: Store, name: str | os.PathLike[str] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a snapshot for a long read of ours: up to date where that is possible, and closed at the end.

    Nothing fences it, since its tables are files: text that a user wrote must not reach it. Parameters, errors and
    warnings are those of :func:`connect`.

    Yields
    ------
    duckdb.DuckDBPyConnection
        To a database in memory.
    """
    with read_at(store, name) as found:
        yield found.connection


class Connected(NamedTuple):
    """A snapshot that is read: where it is, None where there is none, and a connection to it."""

    place: Path | None
    connection: duckdb.DuckDBPyConnection


@contextmanager
def read_at(store: Store, name: str | os.PathLike[str] | None = None) -> Iterator[Connected]:
    """Open a snapshot as :func:`connected` does, and tell where it is."""
    place, let_go = _snapshot_to_read(store, name)
    try:
        with _open(place, commented=False) as connection:
            yield Connected(place, connection)
    finally:
        let_go()


@contextmanager
def held(store: Store, name: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Keep a snapshot for as long as its files are read; names and errors are those of :func:`connect`.

    Yields
    ------
    Path
        Its folder.
    """
    place, let_go = _snapshot_to_read(store, name)
    try:
        if place is None:
            raise SnapshotError(f"{store.folder} has no snapshot yet")
        yield place
    finally:
        let_go()


class AskedStore(Store):
    """A catalog for who only asks: where somebody else keeps it, the newest snapshot answers.

    It is for one call of a user's: what a snapshot has once answered, it answers to the end.

    Parameters
    ----------
    store : Store
        The catalog.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.folder)
        self._why: CatalogLockedError | None = None
        self._place: Path | None = None

    @contextmanager
    def reading(
        self, *, timeout_s: float | None = None, fenced: bool = True, brief: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open what answers: the catalog, or the newest snapshot, always fenced, where that takes long.

        Warns
        -----
        CatalogWarning
            When a snapshot answers: it says why, and how old that is.

        Raises
        ------
        CatalogLockedError
            When there is no snapshot that can be read, and somebody keeps the catalog for ``lock_timeout``.
        """
        patience_s = lock_timeout_s() if timeout_s is None else timeout_s
        with ExitStack() as stack:
            read = partial(super().reading, fenced=fenced, brief=brief)
            yield self._open_either(stack, patience_s, read)

    def _open_either(self, stack: ExitStack, patience_s: float, read: _Reading) -> duckdb.DuckDBPyConnection:
        why, told = self._why, self._why is not None
        if why is None:
            try:
                return stack.enter_context(read(timeout_s=min(QUESTION_PATIENCE_S, patience_s)))
            except CatalogLockedError as error:
                why = error
        place = self._place or kept.newest(self.folder / kept.FOLDER)
        try:
            if place is None:
                raise SnapshotError(f"{self.folder} has no snapshot")
            connection = stack.enter_context(_fenced(place))
        except SnapshotError:
            if told:
                raise
            # Nothing else can answer.
            return stack.enter_context(read(timeout_s=max(0.0, patience_s - QUESTION_PATIENCE_S)))
        if not told:
            warn_user(instead(self, place, why), CatalogWarning)
        self._why, self._place = why, place
        return connection


def fenced(store: Store, name: str | os.PathLike[str]) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    """Open a snapshot for a question of a user's, which reaches its files and nothing else."""
    return _fenced(kept.find(store.folder / kept.FOLDER, name))


@contextmanager
def _fenced(place: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a snapshot for a question of a user's: what they wrote reaches its files and nothing else."""
    place, let_go = kept.hold(place)
    try:
        with _open(place, commented=False, fenced=True) as connection:
            yield connection
    finally:
        let_go()


class OneState(Store):
    """A catalog, or what stands in for it, at one moment: all reads of an answer are of the same state.

    Parameters
    ----------
    store : Store
        Which.
    connection : duckdb.DuckDBPyConnection
        To what is read, open for as long as this is used.
    """

    def __init__(self, store: Store, connection: duckdb.DuckDBPyConnection) -> None:
        super().__init__(store.folder)
        self.base = store.base
        self._there = store.exists
        self._connection = connection
        [(self._database,)] = connection.execute("SELECT current_database()").fetchall()

    @property
    def exists(self) -> bool:
        """Whether there is a catalog."""
        return self._there

    @contextmanager
    def reading(
        self, *, timeout_s: float | None = None, fenced: bool = True, brief: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Return another cursor of what is open."""
        with self._connection.cursor() as cursor:
            yield cursor.execute(f"USE {self._database}")


@contextmanager
def one_state(store: Store) -> Iterator[Store]:
    """Let all reads of an answer be of one state of a catalog, which nobody can write to meanwhile."""
    with store.reading() as connection:
        yield OneState(store, connection)


@contextmanager
def as_in(store: Store, place: Path) -> Iterator[Store]:
    """Let a user's questions be answered by a catalog while it is as a snapshot has it, else by that snapshot."""
    catalog = kept.read_manifest(place).get("catalog")
    with ExitStack() as stack:
        connection: duckdb.DuckDBPyConnection | None = None
        if catalog == store.state:
            with suppress(CatalogLockedError):
                patience_s = min(QUESTION_PATIENCE_S, lock_timeout_s())
                connection = stack.enter_context(store.reading(timeout_s=patience_s))
        if connection is None or catalog != store.state:
            stack.close()
            connection = stack.enter_context(_fenced(place))
        yield OneState(store, connection)


def instead(store: Store, place: Path, why: CatalogLockedError) -> str:
    """Say that a snapshot answers in its catalog's place, and what is not in it."""
    text = f"{why}. The snapshot of {kept.age(place)} ago answers, {place.name}, without what was private then"
    if kept.read_manifest(place).get("catalog") != store.state:
        text += "; what has landed since is not in it, nor what has become private since left out"
    return text


def warn_user(text: str, category: type[Warning]) -> None:
    """Warn at the line that called this package, however deep in it one is."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def files_as_table(files: Iterable[Path]) -> str:
    """Return Parquet files as DuckDB reads them: named one by one, and their folders' names without a meaning."""
    return f"read_parquet([{', '.join(map(quoted, files))}], hive_partitioning = false)"


def _snapshot_to_read(store: Store, name: str | os.PathLike[str] | None) -> tuple[Path | None, Callable[[], None]]:
    """Return a snapshot's folder, None where there is no catalog to have one, and how to let go of it."""
    home = store.folder / kept.FOLDER
    if name is not None:
        place = kept.find(home, name)
        kept.read_manifest(place)  # who asks for this one is told what is wrong with it
        return kept.hold(place)
    trouble = snapshot.catch_up(store) or kept.why_passed_over(home)
    newest = kept.newest(home)
    if newest is None:
        if trouble is not None:
            raise SnapshotError(trouble)
        warn_user(store.absence, CatalogWarning)
        return None, _nothing_to_let_go
    if trouble is not None:
        warn_user(
            f"{trouble}. What is read is the snapshot of {kept.age(newest)} ago, {newest.name}", SnapshotWarning
        )
    return kept.hold(newest)


def _nothing_to_let_go() -> None:
    """Do nothing: no snapshot is read."""


# The database


class Column(NamedTuple):
    """A column of a table or view."""

    name: str
    type: str
    comment: str | None


class Relation(NamedTuple):
    """A table or view of the catalog."""

    name: str
    comment: str | None
    columns: list[Column]
    sql: str | None  # a view's own


def _open(place: Path | None, *, commented: bool, fenced: bool = False) -> duckdb.DuckDBPyConnection:
    """Return a database whose tables are a snapshot's files, below the views of the catalog."""
    files = {} if place is None else files_by_table(place)
    connection = in_memory(for_user=commented)
    try:
        _set_up(connection, files, commented=commented)
        if fenced:
            fence_in(connection, files)
    except duckdb.Error as error:
        connection.close()
        raise SnapshotError(f"{place} cannot be read: {str(error).splitlines()[0]}") from error
    return connection


def files_by_table(place: Path) -> dict[str, list[Path]]:
    """Return the files of a snapshot, and raise as :func:`connect` does where this version cannot read them."""
    _check_schema(place)
    return {table: list(paths) for table, paths in kept.files_of(place).items()}


def fence_in(connection: duckdb.DuckDBPyConnection, files: Mapping[str, list[Path]]) -> None:
    """Leave nothing in a query's reach but these files, to read them: not even a place to spill into."""
    allowed = ", ".join(quoted(path) for paths in files.values() for path in paths)
    connection.execute(f"SET allowed_paths = [{allowed}]")
    connection.execute("SET GLOBAL TimeZone = 'UTC'")  # for every cursor
    connection.execute("SET temp_directory = ''")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _set_up(connection: duckdb.DuckDBPyConnection, files: Mapping[str, list[Path]], *, commented: bool) -> None:
    # What does not fit into memory would be spilled into the folder that the user happens to be in.
    spill = Path(tempfile.gettempdir()) / f"nvcatalog-{os.getpid()}-{secrets.token_hex(4)}"
    connection.execute(f"SET temp_directory = {quoted(spill)}")
    connection.execute("SET TimeZone = 'UTC'")
    relations = [each for each in relations_here() if each.sql is not None or each.name in parts.TABLES]
    statements = [
        each.sql or f'CREATE VIEW "{each.name}" AS {rows_of_files(connection, files.get(each.name, []), each)}'
        for each in relations
    ]
    if commented:
        statements += [comment for each in relations for comment in _comments(each)]
    connection.execute("BEGIN; " + ";\n".join(statement.rstrip("; \n") for statement in statements) + "; COMMIT")


def rows_of_files(connection: duckdb.DuckDBPyConnection, files: list[Path], table: Relation) -> str:
    """Return what selects the rows of a table's files, with the columns that this version expects."""
    source = files_as_table(files)
    given = {name for name, *_ in connection.execute(f"DESCRIBE FROM {source}").fetchall()} if files else set()
    columns = ", ".join(_read_as(column, given) for column in table.columns)
    # An older version may not have known the table yet.
    rows = f"FROM {source}" if files else "WHERE false"
    return f"SELECT {columns} {rows}"


def _read_as(column: Column, given: set[str]) -> str:
    if column.name not in given:
        return f'NULL::{column.type} AS "{column.name}"'
    return f'"{column.name}"::JSON AS "{column.name}"' if column.type == "JSON" else f'"{column.name}"'


def _check_schema(place: Path) -> None:
    ours = load_migrations()[-1].version
    theirs = kept.read_manifest(place).get("schema_version", 0)
    if theirs > ours:
        raise CatalogTooNewError(
            f"{place} has schema {theirs}, this nvcatalog knows {ours}: pip install --upgrade nvcatalog"
        )


def _comments(relation: Relation) -> Iterator[str]:
    if relation.comment:
        yield f'COMMENT ON VIEW "{relation.name}" IS {quoted(relation.comment)}'
    for column in relation.columns:
        if column.comment:
            yield f'COMMENT ON COLUMN "{relation.name}"."{column.name}" IS {quoted(column.comment)}'


@cache  # to migrate an empty catalog takes longer than all the rest
def relations_here() -> list[Relation]:
    """Return the catalog's tables and views as the migrations leave them, those first that others are made of."""
    with empty_catalog() as connection:
        relations = connection.execute("""
            SELECT table_name, comment, NULL AS sql, table_oid AS number FROM duckdb_tables()
            UNION ALL
            SELECT view_name, comment, sql, view_oid FROM duckdb_views() WHERE NOT internal
            ORDER BY sql IS NOT NULL, number
        """).fetchall()
        columns = connection.execute(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal "
            "ORDER BY table_name, column_index"
        ).fetchall()
    return [
        Relation(name, comment, [Column(*rest) for table, *rest in columns if table == name], sql)
        for name, comment, sql, _ in relations
    ]
