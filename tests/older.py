"""Catalogs as earlier versions made them, with rows that those may have had."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb

from nvcatalog import records
from nvcatalog.migrate import load_migrations, migrate
from nvcatalog.queries import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from nvcatalog.records import Record, Row

LEVELS = range(1, len(load_migrations()) + 1)
Tables = dict[str, list[tuple[Any, ...]]]

_MOMENT = datetime(2024, 2, 29, 12, 0, 0, 123456, UTC)


def rows_about(images: Iterable[Record], collections: Iterable[Record]) -> dict[str, list[Row]]:
    """Return rows for every table: of these records, and of what a fetch leaves beside them."""
    tables: dict[str, list[Row]] = {"images": [], "collections": [], "raw_records": [], "record_history": []}
    known = [
        ("image", {each["id"]: each for each in images}),
        ("collection", {each["id"]: each for each in collections}),
    ]
    for kind, by_id in known:
        for id_, record in by_id.items():
            shape = records.image_row if kind == "image" else records.collection_row
            raw = {"kind": kind, "id": id_, "raw": records.raw_text(record), "fetched_at": _MOMENT}
            tables[f"{kind}s"].append(shape(record) | {"fetched_at": _MOMENT})
            tables["raw_records"].append(raw | {"source": "api"})
            tables["record_history"].append(raw)
    ids = list(known[0][1])
    tables["collections"] = [row | {"complete": True, "listed_count": 3} for row in tables["collections"]]
    tables["files"] = [
        {
            "image_id": id_,
            "kind": "original",
            "path": f"collection_1/image_{id_}.nii.gz",
            "size": id_,
            "sha256": "ab",
        }
        | {"state": "present", "shape": [2, 2, 2], "voxel_size_mm": [1.5, 2.0, 2.5], "downloaded_at": _MOMENT}
        for id_ in ids
    ]
    tables["terms"] = [{"term_id": 1, "term": "pain"}, {"term_id": 2, "term": "päin"}]
    tables["words"] = [{"image_id": id_, "term_id": n, "weight": id_ / -7} for id_ in ids for n in (1, 2)]
    tables["words_status"] = [{"image_id": id_, "status": "present", "fetched_at": _MOMENT} for id_ in ids]
    tables["refusals"] = [
        {
            "kind": "position",
            "id": 7,
            "position": 38,
            "status": "broken_on_server",
            "reason": "é",
            "seen_at": _MOMENT,
        }
    ]
    tables["access"] = [{"collection_id": 7, "token": "ABCDEFGH"}]
    tables["nidm_packs"] = [{"pack_id": 9, "collection_id": 7, "image_id": id_} for id_ in ids]
    tables["catalog_info"] = [{"key": "server_root", "value": "https://neurovault.org"}]
    tables["fetches"] = [{"fetch_id": "one", "started_at": _MOMENT, "parameters": '{"words": true}'}]
    tables["outcomes"] = [{"fetch_id": "one", "kind": "image", "id": id_, "status": "downloaded"} for id_ in ids]
    return tables


def make_catalog(path: Path, level: int, tables: dict[str, list[Row]]) -> None:
    """Make a catalog as it was when so many migrations were there, with these rows."""
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {quoted(path)} AS catalog (STORAGE_VERSION 'v1.0.0')")
        connection.execute("USE catalog")
        migrate(connection, load_migrations()[:level])
        for table, rows in tables.items():
            connection.register("incoming", records.to_arrow(rows, records.TABLES[table]))
            columns = ", ".join(f'"{name}"' for name in _columns(connection, table))
            connection.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM incoming")
            connection.unregister("incoming")
        connection.execute("USE memory")


@contextmanager
def opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a catalog without nvcatalog, which would bring it up to date."""
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def columns_of(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """Return the columns of all tables but the ledger and the marks, which are not about what was fetched."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    return {
        table: _columns(connection, table) for (table,) in tables if table not in ("schema_migrations", "marks")
    }


def all_rows(connection: duckdb.DuckDBPyConnection, columns: dict[str, list[str]]) -> Tables:
    """Return all rows, as text, of these columns."""
    return {table: _rows(connection, table, names) for table, names in columns.items()}


def _rows(connection: duckdb.DuckDBPyConnection, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    texts = ", ".join(f'"{name}"::VARCHAR' for name in columns)
    return sorted(connection.execute(f"SELECT {texts} FROM {table}").fetchall(), key=str)


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    return [name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()]
