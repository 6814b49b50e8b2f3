"""Publish the catalog as Parquet: a folder that is complete or not there, readable by any dataframe tool."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import time
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from nvcatalog import __version__
from nvcatalog._locks import file_lock, lock_timeout_s
from nvcatalog._store import Store
from nvcatalog.errors import NVCatalogError, SnapshotError, SnapshotWarning
from nvcatalog.storage import write_whole

FOLDER = "snapshots"
CURRENT = "CURRENT"
KEPT = 3
EVERY_S = 10.0
_ROWS_AT_ONCE = 122_880

_LICENCES = {
    "records": "CC0-1.0, NeuroVault (https://neurovault.org)",
    "terms, words": "ODbL-1.0, Neurosynth (https://neurosynth.org)",
}

# What is left out: rows of collections that are private or have become so, and the whole of `access`, which
# holds their tokens.
_PRIVATE = """
    SELECT collection_id FROM collections WHERE private
    UNION ALL
    SELECT id FROM refusals WHERE kind = 'collection' AND status = 'private'
"""
# NIDM packs share the images' numbers.
_PRIVATE_IMAGES = f"""
    SELECT image_id FROM images WHERE collection_id IN ({_PRIVATE})
    UNION ALL
    SELECT pack_id FROM nidm_packs WHERE collection_id IN ({_PRIVATE})
    UNION ALL
    SELECT id FROM refusals WHERE kind = 'image' AND status = 'private'
"""  # noqa: S608 - a constant
# The `id` of these tables is a collection's or an image's, as `kind` says; a 'position' is a collection's too.
_NOT_PRIVATE_RECORD = f"""
    CASE WHEN kind IN ('collection', 'position') THEN id NOT IN ({_PRIVATE})
    ELSE id NOT IN ({_PRIVATE_IMAGES}) END
"""
# What the server calls private was never here, and is nobody else's business either.
_NOT_REFUSED_AS_PRIVATE = "status IS DISTINCT FROM 'private'"
# An outcome without an id names its collection in the reason only: "record 38 of collection 7".
_NAMES_NO_PRIVATE = rf"""
    coalesce(try_cast(regexp_extract(reason, 'collection (\d+)', 1) AS INTEGER), 0) NOT IN ({_PRIVATE})
"""
_ROWS = {
    "collections": f"collection_id NOT IN ({_PRIVATE})",
    "images": f"image_id NOT IN ({_PRIVATE_IMAGES})",
    "files": f"image_id NOT IN ({_PRIVATE_IMAGES})",
    "words": f"image_id NOT IN ({_PRIVATE_IMAGES})",
    "words_status": f"image_id NOT IN ({_PRIVATE_IMAGES})",
    "nidm_packs": f"coalesce(collection_id, 0) NOT IN ({_PRIVATE})",
    "raw_records": _NOT_PRIVATE_RECORD,
    "record_history": _NOT_PRIVATE_RECORD,
    "refusals": f"{_NOT_REFUSED_AS_PRIVATE} AND {_NOT_PRIVATE_RECORD}",
    "outcomes": f"""
        {_NOT_REFUSED_AS_PRIVATE}
        AND CASE WHEN id IS NULL THEN {_NAMES_NO_PRIVATE} ELSE {_NOT_PRIVATE_RECORD} END
    """,
    "terms": "true",
    "fetches": "true",
    "catalog_info": "true",
    "schema_migrations": "true",
}

# What was asked for names ids, private ones among them: it is published where nothing is known to be private.
_COLUMNS = {
    ("fetches", "parameters"): f"""
        CASE WHEN NOT EXISTS ({_PRIVATE}) AND NOT EXISTS ({_PRIVATE_IMAGES}) THEN parameters::VARCHAR END
    """
}

# Neighbours belong together. Words and records lie so already, and sorting those would cost minutes and memory.
_ORDER = {
    "collections": "ORDER BY collection_id",
    "images": "ORDER BY collection_id, image_id",
    "files": "ORDER BY image_id, kind",
}

_waiting: dict[Path, Store] = {}


def publish(store: Store) -> str | None:
    """Publish what has landed; within 10 s of the last snapshot it waits for the process to end.

    Returns
    -------
    str or None
        Why it could not be published, for the caller to warn of: the catalog itself is fine.
    """
    if _age_s(store.folder) < EVERY_S:
        _waiting[store.path] = store
        return None
    return _trouble_with(store)


def is_behind(store: Store) -> bool:
    """Whether something landed after the last snapshot, such as when a process was killed before it published."""
    try:
        landed_at = store.path.stat().st_mtime_ns
    except OSError:
        return False
    try:
        return landed_at > (store.folder / FOLDER / CURRENT).stat().st_mtime_ns
    except OSError:
        return True


@atexit.register
def publish_waiting() -> None:
    """Publish what waits; called when the process ends, and before anybody reads a snapshot here."""
    while _waiting:
        store = _waiting.popitem()[1]
        trouble = _trouble_with(store) if store.exists else None  # a temporary folder may be gone by now
        if trouble:
            warnings.warn(trouble, SnapshotWarning, stacklevel=2)


if hasattr(os, "register_at_fork"):  # what waits in the parent, the parent publishes
    os.register_at_fork(after_in_child=_waiting.clear)


def _trouble_with(store: Store) -> str | None:
    try:
        take(store)
    except NVCatalogError as error:
        return f"The Parquet snapshot was not published: {error}"
    return None


def take(store: Store) -> Path:
    """Write a snapshot now, and return its folder.

    Parameters
    ----------
    store : Store
        The catalog.

    Returns
    -------
    Path
        ``<folder>/snapshots/<time>-<n>``: ``manifest.json``, and a folder of Parquet for each table.

    Raises
    ------
    SnapshotError
        When it cannot be written, or there is no catalog yet.
    CatalogLockedError
        When another process keeps the catalog open.
    """
    if not store.exists:
        raise SnapshotError(f"{store.folder} has no catalog yet: fetch something, or adopt() what is there")
    _waiting.pop(store.path, None)
    home = store.folder / FOLDER
    try:
        home.mkdir(parents=True, exist_ok=True)
        with file_lock(home / ".lock").acquire(timeout=lock_timeout_s()):
            _sweep(home)
            snapshot = _write(store, home)
            _make_current(home, snapshot)
            _prune(home, keep=snapshot)
    except (OSError, duckdb.Error) as error:
        raise SnapshotError(f"{home}: {str(error).splitlines()[0]}") from error
    return snapshot


def _age_s(folder: Path) -> float:
    try:
        return time.time() - (folder / FOLDER / CURRENT).stat().st_mtime
    except OSError:
        return float("inf")


def _sweep(home: Path) -> None:
    """Remove what a killed process left: whoever writes holds the lock, so nobody is at it any more."""
    for leftover in home.glob(".*.part"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()


def _write(store: Store, home: Path) -> Path:
    """Write into a hidden folder, and rename it when it is complete."""
    hidden = home / f".{os.getpid()}.part"
    try:
        with store.reading() as connection:
            rows = {table: _write_table(connection, table, where, hidden) for table, where in _ROWS.items()}
        manifest = {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": f"nvcatalog {__version__}",
            "rows": rows,
            "licences": _LICENCES,
        }
        write_whole(hidden / "manifest.json", json.dumps(manifest, indent=2).encode())
        return _name(home, hidden)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)  # gone already when all went well


def _name(home: Path, hidden: Path) -> Path:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    taken = (_order(place)[1] for place in home.glob(f"{moment}-*"))
    return hidden.rename(home / f"{moment}-{max(taken, default=0) + 1}")


def _write_table(connection: duckdb.DuckDBPyConnection, table: str, where: str, hidden: Path) -> int:
    """Write one table in batches, in plain types, and return how many rows it has."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = _plain_columns(connection, table)
    relation = connection.sql(f"SELECT {columns} FROM {table} WHERE {where} {_ORDER.get(table, '')}")  # noqa: S608 - our own names
    reader = relation.to_arrow_reader(_ROWS_AT_ONCE)
    folder = hidden / table
    folder.mkdir(parents=True)
    rows = 0
    with parquet.ParquetWriter(folder / "part-0.parquet", reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]))
            rows += batch.num_rows
    return rows


def _plain_columns(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """Return the columns with JSON as text: not every tool knows DuckDB's own types."""
    columns = []
    for name, kind, *_ in connection.execute(f"DESCRIBE {table}").fetchall():
        plain = _COLUMNS.get((table, name), f"{name}::VARCHAR" if kind == "JSON" else name)
        columns.append(f"{plain} AS {name}")
    return ", ".join(columns)


def _make_current(home: Path, snapshot: Path) -> None:
    write_whole(home / CURRENT, f"{snapshot.name}\n".encode())
    latest = home / ".latest.part"
    with suppress(OSError, NotImplementedError):  # a convenience, where the platform has symbolic links
        latest.symlink_to(snapshot.name)
        latest.replace(home / "latest")


def _prune(home: Path, *, keep: Path) -> None:
    """Keep the last few; a tool that reads an older one has had its time."""
    complete = sorted(
        (place for place in home.iterdir() if (place / "manifest.json").is_file() and not place.is_symlink()),
        key=_order,
    )
    for place in complete[:-KEPT]:
        if place != keep:  # a clock that was set back makes the newest look old
            shutil.rmtree(place, ignore_errors=True)


def _order(place: Path) -> tuple[str, int]:
    moment, _, number = place.name.partition("-")
    return moment, int(number) if number.isdigit() else 0
