"""Read a shared folder below one's own: what it has is used, and nothing is ever written to it."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import duckdb

from nvcatalog import kept, lookup, storage
from nvcatalog._batch import Batch
from nvcatalog._gate import ForkedOpenError, Gate, gate_of
from nvcatalog._instances import fence, in_memory
from nvcatalog._layers import layered
from nvcatalog._locks import QUESTION_PATIENCE_S, lock_timeout_s
from nvcatalog._store import FILE_NAME, AbsentStore, Store
from nvcatalog._troubles import NO_LOCKS
from nvcatalog.adopt import adopt_folder, collection_folders
from nvcatalog.connecting import (
    Column,
    Relation,
    fence_in,
    files_by_table,
    instead,
    relations_here,
    rows_of_files,
    warn_user,
)
from nvcatalog.errors import (
    CatalogCorruptError,
    CatalogLockedError,
    CatalogTooNewError,
    CatalogWarning,
    DataDirError,
    InvalidOptionError,
    InvalidOptionTypeError,
    NoSpaceError,
    SnapshotError,
    WrongServerError,
    shown,
)
from nvcatalog.known import Known
from nvcatalog.migrate import load_migrations
from nvcatalog.servers import check_server

#: The variable that names a base folder where no argument does.
VARIABLE = "NVCATALOG_BASE"

# What a damaged file makes of a statement of ours; a user's would be a QueryError.
_DAMAGES = (duckdb.CatalogException, duckdb.IOException, duckdb.SerializationException)
# Catalogs of an earlier state of a base are kept this long: another process may be about to open one.
_FORMER_KEPT_S = 24 * 3600.0
_SHORT_PATIENCE_S = 2.0


def store_of(folder: Path, base: str | os.PathLike[str] | None = None) -> Store:
    """Return what a data folder's catalog knows, and behind it what a base folder's does.

    Parameters
    ----------
    folder : Path
        The data folder, to which everything new goes.
    base : path-like or None
        Where a shared ``neurovault/`` is; None means ``NVCATALOG_BASE``, and where that is not set, that there is
        none.

    Returns
    -------
    Store
        A :class:`LayeredStore` where there is a base.

    Raises
    ------
    DataDirError
        When the base is not there, is a file, or holds no ``neurovault/`` (an OSError).
    InvalidOptionError
        When it is the data folder itself, or no path (a ValueError).
    """
    given = (os.environ.get(VARIABLE) or None) if base is None else base
    if given is None:
        return Store(folder)
    named = f" ({VARIABLE})" if base is None else ""
    below = base_folder(given, named=named)
    if below == folder.resolve():
        raise InvalidOptionError(
            f"{below} is base folder{named} and data folder: a base is never written to. Give another data_dir"
        )
    return LayeredStore(folder, below)


def base_folder(base: str | os.PathLike[str], *, named: str = "") -> Path:
    """Return the ``neurovault`` folder of a base, by its real path; ``named`` says where it was named.

    Raises
    ------
    DataDirError
        When there is none that this user can read.
    InvalidOptionTypeError
        When what was given is no path.
    """
    if not isinstance(base, str | os.PathLike):
        raise InvalidOptionTypeError(f"base is {shown(base)}, a {type(base).__name__}; give a path")
    try:
        place = Path(os.fspath(base)).expanduser()
        folder = (place / storage.SUBFOLDER).resolve()
        storage.check_opens(folder)
        found = "is a file" if place.is_file() else None if place.is_dir() else "does not exist"
        if found is None and not folder.is_dir():
            found = f"has no folder {storage.SUBFOLDER}, where maps are"
        if found is None and not os.access(folder, os.R_OK | os.X_OK):
            found = "may not be read by this user"
    except (RuntimeError, ValueError, OSError) as error:  # "~nobody", a zero byte, a folder closed to this user
        found = f"cannot be read ({error})"
    if found is not None:
        without = f"unset {VARIABLE}" if named else "no base"
        raise DataDirError(
            f"The base folder {shown(base)}{named} {found}. Give the data_dir that was shared, or {without}"
        )
    return folder


class LayeredStore(Store):
    """A folder's catalog, with a base's behind it: read as one, where the folder's rows go before the base's.

    Nothing is written through it: rows land in the folder's own catalog, by a :class:`~nvcatalog._store.Store`.

    Parameters
    ----------
    folder : Path
        The data folder.
    base : Path
        The base's ``neurovault`` folder.
    asks : bool
        Whether it is only asked something: then a snapshot may answer in the place of either catalog, with a
        warning at once, and nothing is answered without the base.
    whole : bool
        Whether what is private is asked for too, which no snapshot has: then either catalog is waited for.

    Attributes
    ----------
    notes : list of str
        What is to be known of the base, for the caller to warn of.
    """

    base: Path

    def __init__(self, folder: Path, base: Path, *, asks: bool = False, whole: bool = False) -> None:
        super().__init__(folder)
        self.base = base
        self.notes: list[str] = []
        self._asks = asks
        self._whole = whole
        self._kept: set[str] = set()  # sides that somebody kept: they are not waited for again
        self._front = Store(folder)
        self._found: Store | None = None
        self._base_root: str | None = None

    # No cached_property, which holds a lock in Python 3.11: a process forked meanwhile would wait for it for ever.
    @property
    def _below(self) -> Store:
        """The base's catalog, or the one that is kept of it, which may have to be made."""
        if self._found is None:
            its_own = Store(self.base)
            self._found = its_own if its_own.exists else _catalog_apart(self.base)
        return self._found

    @property
    def _both(self) -> Gate[Any]:
        """The gate of the two together: whoever reads them in this process shares what is open."""
        return gate_of(self.path.with_name(f"{self.path.name} over {_short(str(self._below.path))}"))

    @property
    def exists(self) -> bool:
        """Whether either has a catalog."""
        return self._front.exists or self._below.exists

    def what_cannot_be_written(self) -> Path | None:
        """Return what of the data folder this user may not write."""
        return self._front.what_cannot_be_written()

    def writing(
        self, *, timeout_s: float | None = None, one_of_many: bool = False, marked: bool = False
    ) -> NoReturn:
        """Refuse: what is read is two catalogs."""
        raise DataDirError(f"{self.base} is a base folder, to which nothing is written")

    @contextmanager
    def reading(
        self, *, timeout_s: float | None = None, fenced: bool = True, brief: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open both catalogs fenced and read-only, as one.

        Raises
        ------
        WrongServerError
            When the two were filled from different servers.
        """
        patience_s = lock_timeout_s() if timeout_s is None else timeout_s
        with ExitStack() as stack:
            try:
                shared = stack.enter_context(self._both.reading(self._open, timeout_s=patience_s))
            except (TimeoutError, ForkedOpenError) as error:
                raise CatalogLockedError(f"{self.path}: {error}") from error
            opened = cast("_Opened", shared)
            # A thread that asks for less has opened it.
            for side in ("front", "base"):
                if side in opened.kept and not self._is_replaceable(side):
                    raise opened.kept[side]
            self._tell(opened.notes)
            self._base_root = opened.base_root
            cursor = opened.connection.cursor()
            stack.callback(cursor.close)
            try:
                yield cursor
            except _DAMAGES as error:
                raise self._damaged(error) from error

    def do_without_front(self, error: CatalogLockedError) -> None:
        """Read the base alone from now on, while somebody keeps the folder's own catalog."""
        self._front = AbsentStore(self.folder, error)

    def check_server(self, root: str) -> None:
        """Raise when the base, as it was last read, was filled from another server than the one to be asked."""
        check_server(root, self._base_root, self.base)

    def only_in_base(self, known: Known, image_ids: Iterable[int]) -> Batch:
        """Return the records of images and their collections that the data folder's own catalog does not have.

        Whoever puts files or terms of them into the folder lands these too, so that it can stand alone.
        """
        batch = Batch()
        images = {id_: known.images[id_] for id_ in image_ids}
        for id_ in images.keys() - lookup.recorded(self._front, "image", images):
            if images[id_].fresh:
                continue  # the server's, which lands anyway
            batch.add_record("image", images[id_].record, source="sidecar", came_at=images[id_].fetched_at)
        collections = {image.collection_id for image in images.values()} & known.collections.keys()
        for id_ in collections - lookup.recorded(self._front, "collection", collections):
            if (record := known.collections[id_].record) and not known.collections[id_].fresh:
                batch.add_record("collection", record, source="sidecar")
        return batch

    def keep_proofs(self, batch: Batch) -> None:
        """Land what was proven of the base's files where its catalog is ours to write; else it is proven again."""
        if self._below.folder == self.base or not batch:
            return
        start = f"{self.base}{os.sep}"
        for row in batch.tables.get("files", []):
            row["path"] = str(row["path"]).removeprefix(start)
        # Where it cannot be written now, the files are proven all the same, and another call lands that.
        with suppress(CatalogLockedError, DataDirError, NoSpaceError):
            self._below.land(batch, timeout_s=_SHORT_PATIENCE_S)

    def _tell(self, notes: Iterable[str]) -> None:
        new = [note for note in notes if note not in self.notes]
        self.notes += new
        for note in new if self._asks else ():
            warn_user(note, CatalogWarning)

    def _open(self, timeout_s: float) -> _Opened:
        deadline = time.monotonic() + timeout_s
        opened = _Opened()
        try:
            opened.connection.execute("SET temp_directory = ''")
            for side, store in (("front", self._front), ("base", self._below)):
                if store.exists:
                    self._reach(opened, side, store, deadline)
            self._lay(opened)
            opened.fence()
        except BaseException:
            opened.close()
            raise
        return opened

    def _reach(self, opened: _Opened, side: str, store: Store, deadline: float) -> None:
        """Attach a catalog; where somebody keeps it, take its newest snapshot, or do without the base."""
        replaceable = self._is_replaceable(side)
        patience_s = 0.0 if side in self._kept else QUESTION_PATIENCE_S
        try:
            opened.attach(side, store, min(deadline, time.monotonic() + patience_s) if replaceable else deadline)
        except CatalogLockedError as error:
            if not replaceable:
                raise
            if not opened.take_snapshot(side, store, error):
                self._wait(opened, side, store, 0.0 if side in self._kept else deadline)
            self._kept.add(side)

    def _is_replaceable(self, side: str) -> bool:
        """Whether a snapshot may answer in the place of a catalog that somebody keeps."""
        return not self._whole and (self._asks or side == "base")

    def _wait(self, opened: _Opened, side: str, store: Store, deadline: float) -> None:
        try:
            opened.attach(side, store, deadline)
        except CatalogLockedError as error:
            if self._asks:
                raise
            opened.notes.append(f"{error}. Until then the base is taken for empty: what it has is fetched")

    def _lay(self, opened: _Opened) -> None:
        """Lay one over the other, and note the base's server."""
        try:
            _lay(opened, self.base)
            ours, theirs = (opened.root(side) for side in ("front", "base"))
        except duckdb.Error as error:
            raise self._damaged(error) from error
        if ours is not None and theirs is not None:
            _check_same_server(self.folder, ours, self.base, theirs)
        opened.base_root = theirs

    def _damaged(self, error: duckdb.Error) -> CatalogCorruptError:
        text = str(error).splitlines()[0]
        return CatalogCorruptError(
            f"{self.path}, or that of its base {self.base}, cannot be read as a catalog ({text}). To find out "
            "which, call without a base"
        )


class _Opened:
    """Both catalogs, or what stands in for one, as they are read together; closed together."""

    def __init__(self) -> None:
        self.connection = in_memory()
        self.stores: dict[str, Store] = {}
        self.files: dict[str, dict[str, list[Path]]] = {}  # of a snapshot in the place of a side's catalog
        self.notes: list[str] = []
        self.kept: dict[str, CatalogLockedError] = {}  # why it does
        self.base_root: str | None = None
        self._after = ExitStack()

    def attach(self, side: str, store: Store, deadline: float) -> None:
        """Attach a side's catalog, and keep the rest of this process from it until all is closed."""
        with ExitStack() as stack:
            stack.enter_context(store.alone(timeout_s=max(0.0, deadline - time.monotonic())))
            _attach(self.connection, side, store, deadline)
            self._after.enter_context(stack.pop_all())
        self.stores[side] = store

    def take_snapshot(self, side: str, store: Store, why: CatalogLockedError) -> bool:
        """Let a side's newest snapshot stand in, where there is one that can be read."""
        place = kept.newest(store.folder / kept.FOLDER)
        try:
            if place is None:
                return False
            if side == "front":  # to mark it as read is to write, which nobody does in a base
                place, let_go = kept.hold(place)
                self._after.callback(let_go)
            self.files[side] = files_by_table(place)
            self.kept[side] = why
        except SnapshotError:
            return False
        self.notes.append(instead(store, place, why))
        return True

    def root(self, side: str) -> str | None:
        """Return the server that a side was filled from."""
        if side not in self.stores and side not in self.files:
            return None
        table = f"{side}.catalog_info" if side in self.stores else f"{side}_catalog_info"
        query = f"SELECT value FROM {table} WHERE key = 'server_root'"  # noqa: S608 - one of four
        rows = self.connection.execute(query).fetchall()
        return rows[0][0] if rows else None

    def fence(self) -> None:
        """Leave a query nothing but what is read here."""
        if self.files:
            named = {
                f"{side}_{table}": paths for side, all_ in self.files.items() for table, paths in all_.items()
            }
            fence_in(self.connection, named)
        else:
            fence(self.connection)

    def close(self) -> None:
        """Close the catalogs, then let the rest of this process at them."""
        try:
            self.connection.close()
        finally:
            self._after.close()


def _attach(connection: duckdb.DuckDBPyConnection, name: str, store: Store, deadline: float) -> None:
    """Attach a catalog; where its file system has no locks, a copy of a moment: there nobody can be waited for."""
    try:
        store.attach(connection, name, timeout_s=0)
    except CatalogLockedError as error:
        if NO_LOCKS not in str(error):
            store.attach(connection, name, timeout_s=max(0.0, deadline - time.monotonic()))
            return
        with tempfile.TemporaryDirectory(prefix="nvcatalog-") as private:  # an open file outlives its folder
            for path in store.folder.glob(f"{FILE_NAME}*"):
                shutil.copyfile(path, Path(private) / path.name)
            Store(Path(private)).attach(connection, name, timeout_s=0)


def _check_same_server(folder: Path, ours: str, base: Path, theirs: str) -> None:
    try:
        check_server(theirs, ours, folder)
    except WrongServerError as error:
        raise WrongServerError(
            f"{folder} was filled from {ours}, and the base folder {base} from {theirs}, where the same ids may "
            "be other images. Give another base, or another data_dir"
        ) from error


# Both as one


def _lay(opened: _Opened, base: Path) -> None:
    """Make the catalog's tables as views of both, below the catalog's own views."""
    places, statements, connection = {}, [], opened.connection
    tables = [relation for relation in relations_here() if relation.sql is None]
    for side in ("front", "base"):
        if side in opened.stores and _is_as_here(connection, side, opened.stores[side]):
            places[f"{side}_"] = f"{side}.main."  # to describe all columns would take longer than all the rest
            continue
        files = opened.files.get(side)
        columns = {} if files else _columns(connection, side)
        for table in tables:
            rows = (
                rows_of_files(connection, files.get(table.name, []), table)
                if files
                else _side(side, table, columns.get(table.name, []))
            )
            statements.append(f"CREATE VIEW {side}_{table.name} AS {rows}")
    for relation in relations_here():
        sql = relation.sql or f"CREATE VIEW {relation.name} AS {layered(relation.name, places, base)}"
        statements.append(sql)
    connection.execute(";\n".join(statement.rstrip("; \n") for statement in statements))


def _is_as_here(connection: duckdb.DuckDBPyConnection, side: str, store: Store) -> bool:
    """Whether a catalog has the tables of this version; an older one is read with what it has."""
    newest = connection.execute(f"SELECT max(version) FROM {side}.schema_migrations").fetchall()[0][0]  # noqa: S608
    ours = load_migrations()[-1].version
    if newest > ours:
        raise CatalogTooNewError(
            f"{store.path} has schema {newest}, this nvcatalog knows {ours}: pip install --upgrade nvcatalog"
        )
    return bool(newest == ours)


def _columns(connection: duckdb.DuckDBPyConnection, side: str) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    query = "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = $side"
    for table, column in connection.execute(query, {"side": side}).fetchall():
        columns.setdefault(table, []).append(column)
    return columns


def _side(side: str, relation: Relation, given: list[str]) -> str:
    """Return a table of one catalog with the columns that this version expects, whichever version made it."""

    def read(column: Column) -> str:
        return f'"{column.name}"' if column.name in given else f'NULL::{column.type} AS "{column.name}"'

    source = f"FROM {side}.{relation.name}" if given else "WHERE false"
    return f"SELECT {', '.join(map(read, relation.columns))} {source}"


# A base without a catalog


def _catalog_apart(base: Path) -> Store:
    """Return the catalog of a base that has none, such as nilearn's, in the user's cache folder.

    It is made anew when folders or files have come or gone. A map that was replaced in its place is noticed by its
    size when it is part of an answer.
    """
    home = _cache_folder() / "bases" / _short(str(base))
    place = home / _state_of(base)
    store = Store(place)
    if store.exists:
        return store
    made = home / f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        made.mkdir(parents=True)
        (made / "of.txt").write_text(f"{base}\n", encoding="utf-8")
        with Store(made).writing():
            pass
        adopt_folder(Store(made), folder=base, verbose=0)
        try:
            made.rename(place)
        except OSError:
            if not store.exists:
                raise  # else another process was faster, and its catalog is as good
        _sweep(home, place)
    except OSError as error:
        raise DataDirError(
            f"{base} has no catalog, and one for it cannot be kept in {home}: {error.strerror or error}. "
            "Set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return store


def _cache_folder() -> Path:
    """Return the user's own folder for what can be made anew, by the platform's convention."""
    named = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (named if named.is_absolute() else Path("~/.cache").expanduser()) / "nvcatalog"


def _state_of(base: Path) -> str:
    """Return what tells whether a folder or file has come or gone: the times of all folders."""
    folders = [base, *(place for place, _ in collection_folders(base))]
    return _short("\n".join(f"{place.name} {place.stat().st_mtime_ns}" for place in folders))


def _sweep(home: Path, current: Path) -> None:
    """Remove the catalogs of earlier states that nobody can be about to open any more."""
    for place in home.iterdir():
        with suppress(OSError):  # another process sweeps too
            if place != current and time.time() - place.stat().st_mtime > _FORMER_KEPT_S:
                shutil.rmtree(place)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
