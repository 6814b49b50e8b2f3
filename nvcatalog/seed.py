"""Start a catalog from the snapshot of another: its metadata, where this one has none or an older one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from nvcatalog import _batch, kept, records
from nvcatalog._http import same_host
from nvcatalog._marks import Marks
from nvcatalog._progress import Progress
from nvcatalog._store import Store
from nvcatalog.errors import CatalogTooNewError, InvalidOptionError, SnapshotError, WrongServerError
from nvcatalog.migrate import load_migrations
from nvcatalog.storage import SUBFOLDER

if TYPE_CHECKING:
    import pyarrow as pa

# Each is a write of its own; together with what they replace they fit into the memory of any machine.
_ROWS_AT_ONCE = 20_000

# The texts go first and the collections last: whenever it is interrupted, no list counts as read that is not here.
_KEYS = {"raw_records": ("kind", "id"), "images": ("image_id",), "collections": ("collection_id",)}

# What a list is known by, apart from a collection's record.
_LISTING = ("listed_at", "listed_count", "listed_modify_date", "complete")

# A value that its column does not take: the snapshot is none of ours.
_MISFITS = (duckdb.DataError, duckdb.IntegrityError, duckdb.ProgrammingError)


class Seed:
    """A snapshot of another catalog.

    Parameters
    ----------
    place : path-like
        The snapshot's folder, the ``snapshots`` folder it is in, or the data folder around that.

    Raises
    ------
    InvalidOptionError
        When there is no snapshot.
    SnapshotError
        When it cannot be read.
    CatalogTooNewError
        When a newer version of nvcatalog has written it.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.folder = _find(Path(place).expanduser())
        self.name = self.folder.name
        rows = kept.read_manifest(self.folder).get("rows")
        numbers = rows.items() if isinstance(rows, dict) else ()
        self._rows = {table: number for table, number in numbers if isinstance(number, int)}
        newest, ours = max(self._column("schema_migrations", "version"), default=0), load_migrations()[-1].version
        if newest > ours:
            raise CatalogTooNewError(
                f"{self.folder} has schema {newest}, this nvcatalog knows {ours}: pip install --upgrade nvcatalog"
            )
        info = dict(zip(self._column("catalog_info", "key"), self._column("catalog_info", "value"), strict=True))
        self.server_root = info.get("server_root")

    def land(self, store: Store, root: str, *, verbose: int) -> None:
        """Land what this catalog does not have, or has from an earlier time.

        Parameters
        ----------
        store : Store
            This catalog.
        root : str
            The server it is filled from.
        verbose : int
            The call's verbosity.

        Raises
        ------
        WrongServerError
            When the snapshot's records come from another server.
        """
        if self.server_root is None or not same_host(self.server_root, root):
            whose = self.server_root or "no server that it names"
            raise WrongServerError(f"{self.folder} was filled from {whose}, and {store.folder} is from {root}")
        self._check_rows()
        total = sum(self._rows.get(table, 0) for table in _KEYS)
        with Progress("Seeding", total=total, verbose=verbose, unit="row") as progress:
            for table in _KEYS:
                named = {"named": self._named(), "packs": self._packs()} if table == "collections" else {}
                for batch in self._batches(table):
                    self._land(store, table, batch, root, named)
                    progress.step(batch.num_rows)

    def _land(
        self, store: Store, table: str, batch: pa.RecordBatch, root: str, named: dict[str, pa.Table]
    ) -> None:
        """Land rows of a table; those of collections with what their lists name, and the packs read with these."""
        import pyarrow as pa

        with store.writing(one_of_many=True) as connection:
            connection.execute("BEGIN")
            try:
                _batch.upsert(connection, "catalog_info", [{"key": "server_root", "value": root}])
                connection.register("incoming", pa.Table.from_batches([batch]))
                _take_rows(connection, table, batch.schema.names)
                if named and set(_LISTING) <= set(batch.schema.names):
                    for name, rows in named.items():
                        connection.register(name, rows)
                    _take_listings(connection, self._with_broken())
            except _MISFITS as error:
                text = str(error).splitlines()[0]
                raise SnapshotError(f"{self.folder / table} does not fit into a catalog: {text}") from error
            connection.execute("COMMIT")

    def _named(self) -> pa.Table:
        """Return which images the snapshot's lists name: those not gone, with their collections."""
        from pyarrow import compute

        whole = self._numbers("images", ["image_id", "collection_id", "gone_at"])
        return whole.filter(compute.is_null(whole["gone_at"])).drop_columns(["gone_at"])

    def _packs(self) -> pa.Table:
        """Return which images are in which NIDM packs."""
        return self._numbers("nidm_packs", list(records.TABLES["nidm_packs"]))

    def _numbers(self, table: str, columns: list[str]) -> pa.Table:
        import pyarrow as pa

        batches = list(self._batches(table, columns))
        none = pa.record_batch([pa.array([], pa.int32())] * len(columns), columns)
        return pa.Table.from_batches(batches or [none])

    def _with_broken(self) -> list[int]:
        """Return the collections that have records without an id: nobody here would know when to look again."""
        kinds, ids = (self._column("refusals", name) for name in ("kind", "id"))
        return [id_ for kind, id_ in zip(kinds, ids, strict=True) if kind == "position"]

    def _column(self, table: str, name: str) -> list[Any]:
        return [value for batch in self._batches(table, [name]) for value in batch.column(name).to_pylist()]

    def _check_rows(self) -> None:
        """Raise where a table lacks rows that the manifest counts: its lists would pass for read for good."""
        for table in _KEYS:
            found = sum(batch.num_rows for batch in self._batches(table, [_KEYS[table][-1]]))
            counted = self._rows.get(table)
            if counted is not None and found != counted:
                raise SnapshotError(
                    f"{self.folder / table} has {found:,} rows and its manifest counts {counted:,}: take another "
                    "snapshot to start from"
                )

    def _batches(self, table: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        return read_table(self.folder, table, columns)


def read_table(
    folder: Path, table: str, columns: list[str] | None = None, *, rows_at_once: int = _ROWS_AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a snapshot's table, whatever files it consists of; one that is not there has none.

    Parameters
    ----------
    folder : Path
        The snapshot.
    table : str
        The table.
    columns : list of str or None
        Which columns; None for all.
    rows_at_once : int
        How many rows come together at most.

    Raises
    ------
    SnapshotError
        When a file is damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        for file in sorted((folder / table).glob("*.parquet")):
            with parquet.ParquetFile(file) as reader:
                yield from reader.iter_batches(rows_at_once, columns=columns)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise SnapshotError(f"{folder / table} cannot be read: {str(error).splitlines()[0]}") from error


def _find(place: Path) -> Path:
    """Return the folder of a snapshot, given it or a folder around it."""
    if (place / kept.MANIFEST).is_file():
        return place
    for home in (place, place / kept.FOLDER, place / SUBFOLDER / kept.FOLDER):
        if (found := kept.current(home)) is not None:
            return found
    raise InvalidOptionError(
        f"seed: {place} is no snapshot and holds none; give a folder such as .../neurovault/{kept.FOLDER}"
    )


def _take_rows(connection: duckdb.DuckDBPyConnection, table: str, given: list[str]) -> None:
    """Take what is not here, or was fetched later than what is; of a record, row and text go together."""
    if table == "raw_records":
        condition = """
            here.id IS NULL
            OR (incoming.source = 'api' AND (here.source <> 'api' OR incoming.fetched_at > here.fetched_at))
        """
        texts, values = "", {}
    else:
        kind, key = table.removesuffix("s"), _KEYS[table][0]
        texts = f"""
            JOIN raw_records AS texts
                ON texts.kind = '{kind}' AND texts.id = incoming.{key} AND texts.fetched_at = incoming.fetched_at
        """
        condition = f"here.{key} IS NULL OR here.fetched_at <> incoming.fetched_at"
        values = {
            "gone_at": "CASE WHEN here.gone_at > incoming.fetched_at THEN here.gone_at ELSE incoming.gone_at END"
        }
        values |= {name: f"here.{name}" for name in _LISTING if table == "collections"}
    columns = [name for name in records.TABLES[table] if name in given or name in values]
    selected = ", ".join(f"{values.get(name, f'incoming.{name}')} AS {name}" for name in columns)
    same = " AND ".join(f"here.{name} = incoming.{name}" for name in _KEYS[table])
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE taken AS
        SELECT {selected}
        FROM incoming {texts}
        LEFT JOIN {table} AS here ON {same}
        WHERE {condition}
    """)  # noqa: S608 - our own names
    if table == "raw_records":
        _batch.keep_history(Marks(connection), "taken")
    same = " AND ".join(f"{table}.{name} = taken.{name}" for name in _KEYS[table])
    connection.execute(f"DELETE FROM {table} USING taken WHERE {same}")  # noqa: S608 - our own names
    connection.execute(f"INSERT INTO {table} BY NAME FROM taken")


def _take_listings(connection: duckdb.DuckDBPyConnection, with_broken: list[int]) -> None:
    """Believe the snapshot's lists that were read later than ours, but for those that lack an image we have."""
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE believed AS
        SELECT incoming.collection_id, incoming.listed_at, incoming.listed_count, incoming.listed_modify_date
        FROM incoming
        JOIN collections USING (collection_id)
        WHERE incoming.complete
          AND collections.gone_at IS NULL
          AND (collections.listed_at IS NULL OR incoming.listed_at > collections.listed_at)
          AND incoming.collection_id NOT IN (SELECT unnest($with_broken::INTEGER[]))
          AND incoming.collection_id NOT IN (
              SELECT i.collection_id
              FROM images AS i
              ANTI JOIN named AS n ON n.image_id = i.image_id AND n.collection_id = i.collection_id
              WHERE i.gone_at IS NULL AND i.collection_id IS NOT NULL
          )
    """,
        {"with_broken": with_broken},
    )
    connection.execute("""
        UPDATE collections
        SET listed_at = believed.listed_at, listed_count = believed.listed_count, complete = true,
            listed_modify_date = believed.listed_modify_date
        FROM believed
        WHERE collections.collection_id = believed.collection_id
    """)
    # A list that is complete counts as read with its packs, which are not asked for again.
    connection.execute(
        "DELETE FROM nidm_packs USING believed WHERE nidm_packs.collection_id = believed.collection_id"
    )
    connection.execute(
        "INSERT INTO nidm_packs BY NAME SELECT packs.* FROM packs SEMI JOIN believed USING (collection_id)"
    )
