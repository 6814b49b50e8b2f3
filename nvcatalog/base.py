"""Read a shared folder below one's own: what it has is used, and nothing is ever written to it."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import duckdb

from nvcatalog import lookup, storage
from nvcatalog._batch import Batch
from nvcatalog._gate import ForkedOpenError, Gate, gate_of
from nvcatalog._locks import lock_timeout_s
from nvcatalog._store import FILE_NAME, NO_LOCKS, Store, fence, in_memory
from nvcatalog.adopt import adopt_folder, collection_folders
from nvcatalog.connecting import Column, Relation, relations_here
from nvcatalog.errors import (
    CatalogCorruptError,
    CatalogLockedError,
    CatalogTooNewError,
    DataDirError,
    InvalidOptionError,
    InvalidOptionTypeError,
    NoSpaceError,
    WrongServerError,
    shown,
)
from nvcatalog.known import Known
from nvcatalog.migrate import load_migrations
from nvcatalog.queries import quoted
from nvcatalog.servers import check_server

#: The variable that names a base folder where no argument does.
VARIABLE = "NVCATALOG_BASE"

# What a damaged file makes of a statement of ours; a user's would be a QueryError.
_DAMAGES = (duckdb.CatalogException, duckdb.IOException, duckdb.SerializationException)
# Catalogs of an earlier state of a base are kept this long: another process may be about to open one.
_FORMER_KEPT_S = 24 * 3600.0
# What is added to the number of a term that only the base knows: the two catalogs number terms each by itself.
_APART = 1_000_000_000
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
    below = base_folder(given)
    if below == folder.resolve():
        named = f" ({VARIABLE})" if base is None else ""
        raise InvalidOptionError(
            f"{below} is base folder{named} and data folder: a base is never written to. Give another data_dir"
        )
    return LayeredStore(folder, below)


def base_folder(base: str | os.PathLike[str]) -> Path:
    """Return the ``neurovault`` folder of a base, by its real path.

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
        found = "is a file" if place.is_file() else None if place.is_dir() else "does not exist"
        if found is None and not folder.is_dir():
            found = f"has no folder {storage.SUBFOLDER}, where maps are"
        if found is None and not os.access(folder, os.R_OK | os.X_OK):
            found = "may not be read by this user"
    except (RuntimeError, ValueError, OSError) as error:  # "~nobody", a zero byte, a folder closed to this user
        found = f"cannot be read ({error})"
    if found is not None:
        raise DataDirError(f"The base folder {shown(base)} {found}. Give the data_dir that was shared, or no base")
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
    """

    has_base = True

    def __init__(self, folder: Path, base: Path) -> None:
        super().__init__(folder)
        self.base = base
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
    def reading(self, *, timeout_s: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
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
            self._base_root = opened.base_root
            cursor = opened.connection.cursor()
            stack.callback(cursor.close)
            try:
                yield cursor
            except _DAMAGES as error:
                raise self._damaged(error) from error

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

    def _open(self, timeout_s: float) -> _Opened:
        deadline = time.monotonic() + timeout_s
        there = {name: store for name, store in (("front", self._front), ("base", self._below)) if store.exists}
        stack = ExitStack()
        try:
            for store in there.values():
                stack.enter_context(store.alone(timeout_s=max(0.0, deadline - time.monotonic())))
            connection = in_memory()
            stack.callback(connection.close)
            connection.execute("SET temp_directory = ''")
            for name, store in there.items():
                _attach(connection, name, store, deadline)
            root = self._lay(connection, there)
            connection.execute("SET enable_external_access = false")
            fence(connection)
        except BaseException:
            stack.close()
            raise
        return _Opened(connection, root, stack.close)

    def _lay(self, connection: duckdb.DuckDBPyConnection, there: dict[str, Store]) -> str | None:
        """Lay one over the other, and return the base's server."""
        try:
            _lay(connection, there, self.base)
            ours, theirs = (_root(connection, side) if side in there else None for side in ("front", "base"))
        except duckdb.Error as error:
            raise self._damaged(error) from error
        if ours is not None and theirs is not None:
            _check_same_server(self.folder, ours, self.base, theirs)
        return theirs

    def _damaged(self, error: duckdb.Error) -> CatalogCorruptError:
        text = str(error).splitlines()[0]
        return CatalogCorruptError(
            f"{self.path}, or that of its base {self.base}, cannot be read as a catalog ({text}). To find out "
            "which, call without a base"
        )


class _Opened:
    """Both catalogs, open; closed together."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, base_root: str | None, close: Callable[[], None]
    ) -> None:
        self.connection, self.base_root, self.close = connection, base_root, close


def _root(connection: duckdb.DuckDBPyConnection, side: str) -> str | None:
    query = f"SELECT value FROM {side}.catalog_info WHERE key = 'server_root'"  # noqa: S608 - one of two
    rows = connection.execute(query).fetchall()
    return rows[0][0] if rows else None


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


def _lay(connection: duckdb.DuckDBPyConnection, there: dict[str, Store], base: Path) -> None:
    """Make the catalog's tables as views of both, below the catalog's own views."""
    places, statements = {}, []
    tables = [relation for relation in relations_here() if relation.sql is None]
    for side in ("front", "base"):
        if side in there and _is_as_here(connection, side, there[side]):
            places[f"{side}_"] = f"{side}.main."  # to describe all columns would take longer than all the rest
            continue
        columns = _columns(connection, side)
        statements += [
            f"CREATE VIEW {side}_{table.name} AS {_side(side, table, columns.get(table.name, []))}"
            for table in tables
        ]
    for relation in relations_here():
        sql = relation.sql or f"CREATE VIEW {relation.name} AS {_layered(relation.name, places, base)}"
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


def _layered(table: str, places: Mapping[str, str], base: Path) -> str:
    """Return all rows of the folder's table, and those of the base's that these do not stand for."""
    text = _OWN.get(table, f"FROM front_{table}")
    if table in _BEHIND:
        text += f" UNION ALL {_BEHIND[table]}"
    for name, place in places.items():
        text = text.replace(name, place)
    return text.replace("{base}", quoted(f"{base}{os.sep}"))


# A list that was read to the end stands for the base's, and the other way round.
_OWN = {
    "collections": """
        FROM front_collections AS f
        WHERE coalesce(f.complete, false)
           OR NOT EXISTS (FROM base_collections AS b WHERE b.collection_id = f.collection_id AND b.complete)
    """
}
# Calls, and what landings left for snapshots, are each folder's own.
_BEHIND = {
    "collections": """
        FROM base_collections AS b
        WHERE NOT EXISTS (
            FROM front_collections AS f
            WHERE f.collection_id = b.collection_id
              AND (coalesce(f.complete, false) OR NOT coalesce(b.complete, false)))
    """,
    # What a later list of the folder's own does not name has gone from the server since.
    "images": """
        SELECT b.* REPLACE (coalesce(b.gone_at, later.listed_at) AS gone_at)
        FROM base_images AS b
        LEFT JOIN (
            SELECT f.collection_id, f.listed_at
            FROM front_collections AS f
            LEFT JOIN base_collections AS c USING (collection_id)
            WHERE f.complete AND f.listed_at > coalesce(c.listed_at, TIMESTAMPTZ '-infinity')
              AND NOT EXISTS (FROM front_refusals AS r WHERE r.kind = 'position' AND r.id = f.collection_id)
        ) AS later ON later.collection_id = b.collection_id
        WHERE NOT EXISTS (FROM front_images AS f WHERE f.image_id = b.image_id)
    """,
    "raw_records": """
        FROM base_raw_records AS b
        WHERE NOT EXISTS (FROM front_raw_records AS f WHERE f.kind = b.kind AND f.id = b.id)
    """,
    "record_history": "FROM base_record_history",
    # What was resampled of an earlier map is none of the map that is here now.
    "files": """
        SELECT b.* REPLACE ({base} || b.path AS path)
        FROM base_files AS b
        WHERE NOT EXISTS (
            FROM front_files AS f
            WHERE f.image_id = b.image_id
              AND (f.kind = b.kind OR (f.kind = 'original' AND b.kind = 'resampled')))
    """,
    "refusals": """
        FROM base_refusals AS b
        WHERE NOT EXISTS (
            FROM front_refusals AS f
            WHERE f.kind = b.kind AND f.id = b.id AND f.position IS NOT DISTINCT FROM b.position)
          AND NOT EXISTS (
            FROM front_collections AS f
            WHERE b.kind = 'position' AND f.collection_id = b.id AND f.complete)
          AND NOT EXISTS (
            FROM front_raw_records AS f
            WHERE f.id = b.id AND f.fetched_at > b.seen_at
              AND f.kind = CASE b.kind WHEN 'position' THEN NULL WHEN 'collection' THEN b.kind ELSE 'image' END)
    """,
    "access": """
        FROM base_access AS b
        WHERE NOT EXISTS (FROM front_access AS f WHERE f.collection_id = b.collection_id)
    """,
    "nidm_packs": """
        FROM base_nidm_packs AS b
        WHERE NOT EXISTS (FROM front_nidm_packs AS f WHERE f.pack_id = b.pack_id)
          AND NOT EXISTS (FROM front_collections AS f WHERE f.collection_id = b.collection_id AND f.complete)
    """,
    "terms": f"""
        SELECT b.term_id + {_APART}, b.term
        FROM base_terms AS b
        WHERE NOT EXISTS (FROM front_terms AS f WHERE f.term = b.term)
    """,  # noqa: S608 - a number of ours
    "words": f"""
        SELECT b.image_id, coalesce(f.term_id, b.term_id + {_APART}), b.weight
        FROM base_words AS b
        JOIN base_terms AS t ON t.term_id = b.term_id
        LEFT JOIN front_terms AS f ON f.term = t.term
        WHERE NOT EXISTS (FROM front_words_status AS s WHERE s.image_id = b.image_id)
    """,  # noqa: S608 - as above
    "words_status": """
        FROM base_words_status AS b
        WHERE NOT EXISTS (FROM front_words_status AS f WHERE f.image_id = b.image_id)
    """,
    # The folder's server is its own, and is noted there once records of it come.
    "catalog_info": """
        FROM base_catalog_info AS b
        WHERE b.key NOT IN ('server_root', 'created_at')
          AND NOT EXISTS (FROM front_catalog_info AS f WHERE f.key = b.key)
    """,
}


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
