"""Make a lost or damaged catalog again: of the newest intact snapshot, and of what is in the folder since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import duckdb

from nvcatalog import kept, lookup, records, seed, sidecars, snapshot
from nvcatalog._batch import Batch
from nvcatalog._progress import Progress, summarise
from nvcatalog._store import Store
from nvcatalog._successor import Successor
from nvcatalog.adopt import adopt_folder, collection_folders
from nvcatalog.errors import CatalogCorruptError, CatalogError, CatalogTooNewError, DataDirError, SnapshotError
from nvcatalog.layout import place_of
from nvcatalog.migrate import load_migrations
from nvcatalog.records import Record
from nvcatalog.report import Report
from nvcatalog.strays import check, take_over
from nvcatalog.verify import damages_of_snapshot, file_rows, verify

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 100_000
_RECORDS_AT_ONCE = 2000
_MOST_NAMED = 20
_RecordKind = Literal["image", "collection"]
_Found = dict[_RecordKind, dict[int, Record]]
# Clocks of machines that share a folder differ.
_CLOCKS_DIFFER = timedelta(hours=1)
# A value that its column does not take: the snapshot is none of ours.
_MISFITS = (duckdb.DataError, duckdb.IntegrityError, duckdb.ProgrammingError)


@dataclass
class Rebuilt:
    """What a catalog was made of, and what could not be had again.

    Attributes
    ----------
    folder : Path
        The data folder.
    why : str
        What was wrong with the former catalog.
    snapshot : str or None
        The name of the snapshot it was made of; None where there was none that is intact.
    rows : dict of str to int
        How many rows came from it, by table.
    adopted : Report
        What was taken over from the folder.
    set_aside : Path or None
        Where the former catalog is, if there was one.
    lost : list of str
        What could not be restored, in sentences.
    """

    folder: Path
    why: str
    snapshot: str | None = None
    rows: dict[str, int] = field(default_factory=dict)
    adopted: Report = field(default_factory=Report)
    set_aside: Path | None = None
    lost: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        """Say what it was made of, and what was lost."""
        return "\n".join([f"<Rebuilt: {self.summary}>", *self.lost])

    @property
    def summary(self) -> str:
        """What it was made of, in a line."""
        source = f"snapshot {self.snapshot}" if self.snapshot else "the metadata files alone"
        known = f"{self.rows.get('collections', 0):,} collections, {self.rows.get('images', 0):,} images"
        newer = self.adopted.counts.get("adopted", 0)
        kept = f"; the former one is {self.set_aside.name}" if self.set_aside else ""
        return f"made of {source} ({known}), and {newer:,} images from the folder{kept}"


def rebuild(store: Store, *, force: bool = False, verbose: int = 2) -> Rebuilt:
    """Make a folder's catalog again; the former one is kept under another name.

    Until the new one is whole, nothing of what is there is touched: whenever it is killed, it can be called again.

    Parameters
    ----------
    store : Store
        The catalog.
    force : bool
        Whether to do so although the catalog can be read.
    verbose : int
        0 says nothing, 1 a summary, 2 shows progress bars too.

    Raises
    ------
    CatalogError
        When the catalog can be read whole, and `force` is not given.
    DataDirError
        When there is no such folder, or it cannot be written (an OSError).
    CatalogLockedError
        When somebody keeps the catalog open.
    """
    if not store.folder.is_dir():
        raise DataDirError(f"{store.folder} does not exist; give the data_dir of what is to be rebuilt")
    obstacle = store.what_cannot_be_written()
    if obstacle is not None:
        raise DataDirError(f"{obstacle} cannot be written, so no catalog can be made here")
    why = "it was to be made again" if force else why_unreadable(store)
    if why is None:
        raise CatalogError(
            f"{store.path} can be read whole, so there is nothing to rebuild. With force=True it is made again, "
            "and loses what is in no snapshot"
        )
    rebuilt = Rebuilt(store.folder, why)
    successor = Successor(store.folder)
    try:
        _fill(successor, rebuilt, verbose=verbose)
        rebuilt.set_aside = successor.take_place()
    finally:
        successor.discard()
    trouble = snapshot.publish(store)
    rebuilt.lost += [trouble] if trouble else []
    summarise(f"nvcatalog: {rebuilt.summary}, in {store.folder}", verbose=verbose)
    for each in rebuilt.lost:
        summarise(f"Not restored: {each}", verbose=verbose)
    return rebuilt


def why_unreadable(store: Store) -> str | None:
    """Read a catalog to its last row and say why it cannot be; None where it can.

    Raises
    ------
    CatalogLockedError, CatalogTooNewError
        When somebody keeps it open, and when a newer nvcatalog has made it.
    """
    try:
        if not store.exists:
            return "there was none"
        with store.reading() as connection:
            for table in (*records.TABLES, "schema_migrations"):
                connection.execute(f"SELECT count(*), bit_xor(hash(t)) FROM {table} AS t").fetchall()  # noqa: S608 - our own names
            for view in ("image_words", "local_images", "stat_maps"):
                connection.execute(f"SELECT * FROM {view} LIMIT 0").fetchall()  # noqa: S608 - our own names
            broken = connection.execute(_RECORDS_THAT_ARE_NONE).fetchall()[0][0]
    except CatalogCorruptError as error:
        return str(error.__cause__ or error).splitlines()[0]
    return f"{broken} of its records are none" if broken else None


_RECORDS_THAT_ARE_NONE = "SELECT count(*) FROM raw_records WHERE NOT starts_with(ltrim(raw::VARCHAR), '{')"


def _fill(successor: Successor, rebuilt: Rebuilt, *, verbose: int) -> None:
    """Fill a new catalog, and note what is lost."""
    taken_at = _take_newest(successor, rebuilt, verbose=verbose)
    if taken_at is None:
        with successor.writing():
            pass  # an empty one
        rebuilt.lost.append(
            "all that is in no metadata file: which lists were read to the end, refusals, former records, the log "
            "of calls"
        )
    else:
        rebuilt.lost.append(
            f"what landed after {taken_at:%Y-%m-%d %H:%M} UTC and is in no file: lists and records of images that "
            "are not here, refusals, former records, the log of calls"
        )
        _take_newer_records(successor, taken_at, verbose=verbose)
        _drop_rows_without_file(successor, rebuilt)
    rebuilt.adopted = adopt_folder(successor, verbose=verbose)
    _take_over_strays(successor, verbose=verbose)
    _note_losses(successor, rebuilt)


# The snapshot


def _take_newest(successor: Successor, rebuilt: Rebuilt, *, verbose: int) -> datetime | None:
    """Fill a new catalog from the newest snapshot that is intact, and return when that was taken."""
    for place in snapshots_newest_first(successor.folder):
        try:
            manifest = kept.read_manifest(place)
            for damage in damages_of_snapshot(place):
                raise SnapshotError(damage)
            rebuilt.rows = _load(successor, place, manifest.get("rows"), verbose=verbose)
            rebuilt.snapshot = place.name
            return datetime.fromisoformat(str(manifest.get("created_at")))
        except (SnapshotError, CatalogTooNewError, ValueError) as error:
            successor.discard()
            rebuilt.lost.append(f"snapshot {place.name}, which is not intact: {error}")
    return None


def snapshots_newest_first(folder: Path) -> list[Path]:
    """Return the folders of a data folder's snapshots; the current one first, whatever the clocks said."""
    home = folder / kept.FOLDER
    current = kept.current(home)
    places = [place.parent for place in home.glob(f"*/{kept.MANIFEST}") if not place.parent.is_symlink()]
    return sorted(places, key=lambda place: (place == current, _taken_at(place), kept.order(place)), reverse=True)


def _taken_at(place: Path) -> str:
    """Return when a snapshot was taken, as it says itself: one that was given a name tells by nothing else."""
    try:
        return str(kept.read_manifest(place).get("created_at"))
    except SnapshotError:
        return ""


def _load(successor: Successor, place: Path, counted: object, *, verbose: int) -> dict[str, int]:
    """Land all tables of a snapshot in an empty catalog, and return how many rows each has."""
    counts = counted if isinstance(counted, dict) else {}
    _check_version(place)
    rows: dict[str, int] = {}
    total = sum(number for number in counts.values() if isinstance(number, int))
    with (
        Progress("Loading", total=total, verbose=verbose, unit="row") as progress,
        successor.writing() as connection,
    ):
        for table in records.TABLES:
            rows[table] = 0
            for batch in seed.read_table(place, table, rows_at_once=_ROWS_AT_ONCE):
                _insert(connection, table, batch, place)
                rows[table] += batch.num_rows
                progress.step(batch.num_rows)
            if rows[table] != counts.get(table, rows[table]):
                raise SnapshotError(
                    f"{place / table} has {rows[table]:,} rows, and its manifest counts {counts[table]}"
                )
    return rows


def _check_version(place: Path) -> None:
    batches = seed.read_table(place, "schema_migrations", ["version"])
    newest = max((version for batch in batches for version in batch.column("version").to_pylist()), default=0)
    ours = load_migrations()[-1].version
    if newest > ours:
        raise CatalogTooNewError(
            f"{place} has schema {newest}, this nvcatalog knows {ours}: pip install --upgrade nvcatalog"
        )


def _insert(connection: duckdb.DuckDBPyConnection, table: str, batch: pa.RecordBatch, place: Path) -> None:
    """Insert rows with their values as the table has them: a snapshot has plain types only."""
    import pyarrow as pa

    connection.register("incoming", pa.Table.from_batches([batch]))
    kinds = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
    columns = ", ".join(f'"{name}"::{kinds[name]} AS "{name}"' for name in batch.schema.names if name in kinds)
    try:
        if table == "catalog_info":  # an empty catalog knows when it was made
            connection.execute("DELETE FROM catalog_info")
        connection.execute(f"INSERT INTO {table} BY NAME SELECT {columns} FROM incoming")  # noqa: S608 - our own names
    except _MISFITS as error:
        raise SnapshotError(f"{place / table} does not fit: {str(error).splitlines()[0]}") from error


# What is in the folder


def _take_newer_records(successor: Successor, taken_at: datetime, *, verbose: int) -> None:
    """Take records from metadata files that were written after the snapshot, where they are of a later day."""
    since = (taken_at - _CLOCKS_DIFFER).timestamp()
    found: _Found = {kind: {} for kind in get_args(_RecordKind)}
    places = list(collection_folders(successor.folder))
    with Progress("Reading records", total=len(places), verbose=verbose, unit="collection") as progress:
        for folder, collection_id in places:
            for kind, id_, record in _records_since(folder, collection_id, since):
                found[kind][id_] = record
            progress.step()
            if sum(map(len, found.values())) >= _RECORDS_AT_ONCE:
                _land_newer(successor, found)
    _land_newer(successor, found)


def _records_since(folder: Path, collection_id: int, since: float) -> Iterator[tuple[_RecordKind, int, Record]]:
    """Yield the records in a collection's folder that were written after a moment; bad ones are none."""
    for path in folder.glob("*_metadata.json"):
        place = place_of(f"{folder.name}/{path.name}")
        with suppress(OSError, ValueError):
            if path.stat().st_mtime < since:
                continue
            if place.kind == "metadata" and place.id:
                yield "image", place.id, sidecars.read(path, place.id) | {"collection_id": collection_id}
            elif place.kind == "collection_metadata":
                yield "collection", collection_id, sidecars.read(path, collection_id)


def _land_newer(successor: Successor, found: _Found) -> None:
    """Land the records that are of a later day than those that the snapshot had, and empty what was found."""
    batch, now = Batch(), datetime.now(UTC)
    for kind, records_of_kind in found.items():
        for id_, former in lookup.records_of(successor, kind, records_of_kind).items():
            record = records_of_kind[id_]
            date, former_date = records.modify_date_of(record), records.modify_date_of(former)
            if date is None or (former_date is not None and date <= former_date):
                continue
            # Not as what is merely found in a folder: that would give way to what the server said before.
            row = records.image_row(record) if kind == "image" else records.collection_row(record)
            raw = {"kind": kind, "id": id_, "raw": records.raw_text(record), "source": "sidecar"}
            batch.add(f"{kind}s", row | {"fetched_at": now})
            batch.add("raw_records", raw | {"fetched_at": now})
        records_of_kind.clear()
    successor.land_one_of_many(batch)


def _drop_rows_without_file(successor: Successor, rebuilt: Rebuilt) -> None:
    """Forget files that are not here any more, or are others: those are taken over as what they are."""
    batch = Batch()
    rows = {row.path: row for row in file_rows(successor)}
    gone = 0
    for finding in verify(successor, verbose=0).problems:
        row = rows.get(finding.path)
        if row is not None and finding.kind in ("missing", "corrupt"):
            batch.drop_file(row.image_id, row.kind)
            gone += finding.kind == "missing"
    successor.land(batch)
    if gone:
        rebuilt.lost.append(f"{gone:,} files that the snapshot knows and that are not here any more")


def _take_over_strays(successor: Successor, *, verbose: int) -> None:
    """Give rows to what has no metadata file of its own, such as label files."""
    strays = [finding.path for finding in verify(successor, verbose=0).problems if finding.kind == "stray"]
    checked = check(successor.folder, strays, verbose=verbose)
    take_over(successor, (path for path, trouble in checked.items() if trouble is None))


def _note_losses(successor: Successor, rebuilt: Rebuilt) -> None:
    """Note what no snapshot has."""
    with successor.reading() as connection:
        rows = connection.execute("SELECT collection_id FROM collections WHERE private ORDER BY 1").fetchall()
    if rows:
        named = ", ".join(str(id_) for (id_,) in rows[:_MOST_NAMED]) + (", …" if len(rows) > _MOST_NAMED else "")
        rebuilt.lost.append(f"the tokens of private collections ({named}): fetch those by their tokens once more")
    if unread := rebuilt.adopted.missing:
        named = "; ".join(str(outcome.reason) for outcome in unread[:3])
        rebuilt.lost.append(f"{len(unread):,} metadata files that cannot be read: {named}")
