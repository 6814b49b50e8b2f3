"""The files that a snapshot is made of: which rows are in each, what it depends on, and how it is written."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nvcatalog._marks import BLOCKS, COLLECTION_IN_REASON, read_marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import duckdb
    import pyarrow as pa

#: A table of more rows than this is several files.
ROWS_IN_ONE_FILE = 200_000

# What fits well into one file of several: to write a file anew should take a fraction of a second.
_ROWS_A_FILE = 8_192
_WORDS_A_FILE = 1_000_000
_ROWS_AT_ONCE = 122_880
# Records are wide: their texts alone are a few kB each.
_WIDE_ROWS_AT_ONCE = 8_192

_MAGIC = b"PAR1"
_EVERYTHING = -(2**31), 2**31 - 1

# What is left out: rows of collections that are private or have become so, and the whole of `access`, which
# holds their tokens. NIDM packs share the images' numbers.
_HIDDEN = """
    CREATE OR REPLACE TEMP TABLE hidden_collections AS
    SELECT collection_id AS id FROM private_collections;

    CREATE OR REPLACE TEMP TABLE hidden_images AS
    SELECT image_id AS id FROM private_images
    UNION
    SELECT coalesce(pack_id, 0) FROM nidm_packs  -- 0 stands for none in what divides the table, too
    WHERE collection_id IN (SELECT id FROM hidden_collections);

    CREATE OR REPLACE TEMP TABLE own_sets AS
    SELECT unnest(from_json(value, '["VARCHAR"]')) AS name FROM catalog_info WHERE key = 'own_references';

    CREATE OR REPLACE TEMP TABLE hidden_sets (name VARCHAR);
    CREATE OR REPLACE TEMP TABLE hidden_terms (id INTEGER);
"""
# A decoder of somebody's own has terms of its own. Those that neither a published image has nor one with terms of
# Neurosynth's are left out too, and so are the names of sets that no published image has.
_HIDDEN_SETS = """
    CREATE OR REPLACE TEMP TABLE open_words AS
    SELECT image_id, reference
    FROM words_status
    WHERE status = 'present'
      AND (image_id NOT IN (SELECT id FROM hidden_images)
           OR coalesce(reference NOT IN (SELECT name FROM own_sets), true));

    INSERT INTO hidden_sets
    SELECT name FROM own_sets WHERE name NOT IN (SELECT reference FROM open_words WHERE reference IS NOT NULL);

    -- One image of each set has most terms that are not hidden.
    INSERT INTO hidden_terms
    SELECT term_id
    FROM terms
    WHERE term_id NOT IN (
        SELECT term_id FROM words WHERE image_id IN (SELECT min(image_id) FROM open_words GROUP BY reference)
    );
"""
# All others mostly came later than Neurosynth's: by their numbers DuckDB passes over words that have none of them.
_OPEN_TERMS = """
    DELETE FROM hidden_terms
    WHERE id IN (
        SELECT term_id
        FROM words
        WHERE term_id BETWEEN $first AND $last AND image_id IN (SELECT image_id FROM open_words)
    )
"""
_PRIVATE = "SELECT id FROM hidden_collections"
_PRIVATE_IMAGES = "SELECT id FROM hidden_images"
# The `id` of these tables is a collection's or an image's, as `kind` says; a 'position' is a collection's too.
_NOT_PRIVATE_RECORD = f"""
    CASE WHEN kind IN ('collection', 'position') THEN id NOT IN ({_PRIVATE})
    ELSE id NOT IN ({_PRIVATE_IMAGES}) END
"""
# What the server calls private was never here, and is nobody else's business either.
_NOT_REFUSED_AS_PRIVATE = "status IS DISTINCT FROM 'private'"
_NAMES_NO_PRIVATE = f"coalesce({COLLECTION_IN_REASON}, 0) NOT IN ({_PRIVATE})"
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
    "terms": "term_id NOT IN (SELECT id FROM hidden_terms)",
    "fetches": "true",
    "catalog_info": "true",
    "schema_migrations": "true",
}
TABLES = tuple(_ROWS)
_SAY_PRIVATE = ("refusals", "outcomes")  # of what is not here

# What was asked for names ids, private ones among them: it is published where nothing is known to be private.
_COLUMNS = {
    ("fetches", "parameters"): f"""
        CASE WHEN NOT EXISTS ({_PRIVATE}) AND NOT EXISTS ({_PRIVATE_IMAGES}) THEN parameters::VARCHAR END
    """,
    ("catalog_info", "value"): """
        CASE WHEN key = 'own_references' AND EXISTS (SELECT name FROM hidden_sets)
        THEN (
            SELECT coalesce(to_json(list(name))::VARCHAR, '[]')
            FROM own_sets
            WHERE name NOT IN (SELECT name FROM hidden_sets)
        ) ELSE value END
    """,
}

# Neighbours belong together. Words and records lie so already, and sorting those would cost minutes and memory.
_ORDER = {
    "collections": "ORDER BY collection_id",
    "images": "ORDER BY collection_id, image_id",
    "files": "ORDER BY image_id, kind",
}


class Part(NamedTuple):
    """A file of a snapshot, and a key that is another one whenever something that is in it is another."""

    table: str
    path: str  # in the snapshot's folder
    first: int
    last: int  # of its blocks
    key: str

    @property
    def bounded(self) -> bool:
        """Whether it is one of several."""
        return (self.first, self.last) != _EVERYTHING


class Layout(NamedTuple):
    """How a table is divided into files: how many blocks each has (0: all), and with which blocks they begin."""

    origin: str
    blocks_a_file: int
    firsts: tuple[int, ...]

    def as_told(self, table: str) -> dict[str, Any]:
        """Return what a manifest says of it; with which numbers files begin is in their names."""
        return {"numbers_a_file": self.blocks_a_file * BLOCKS[table].size, "origin": self.origin}


class View:
    """The catalog as a connection sees it: what is hidden, what has been marked, what tables look like."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        connection.execute(_HIDDEN)
        self._hidden = {
            kind: sorted(id_ for (id_,) in connection.execute(f"SELECT id FROM hidden_{kind}").fetchall())  # noqa: S608
            for kind in ("collections", "images")
        }
        self._hidden_of = self._hidden_of_decoders() if any(self._hidden.values()) else {}
        self._mark, self._marks = read_marks(connection)
        version = connection.execute("SELECT max(version) FROM schema_migrations").fetchall()[0][0]
        self.schema_version = int(version)
        self._columns: dict[str, list[tuple[str, str, str | None]]] = {}
        for table, *column in connection.execute(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal "
            "ORDER BY column_index"
        ).fetchall():
            self._columns.setdefault(table, []).append((column[0], column[1], column[2]))

    def references(self) -> set[str | None]:
        """Return the reference sets of the terms that are published."""
        query = f"SELECT DISTINCT reference FROM words_status WHERE {_ROWS['words_status']}"  # noqa: S608 - our own
        return {reference for (reference,) in self._connection.execute(query).fetchall()}

    def _hidden_of_decoders(self) -> dict[str, list[Any]]:
        """Return what of tables without ids is left out, since only private images have it."""
        if not self._connection.execute("FROM own_sets").fetchall():
            return {}
        self._connection.execute(_HIDDEN_SETS)
        [(first, last)] = self._connection.execute("SELECT min(id), max(id) FROM hidden_terms").fetchall()
        if first is not None:
            self._connection.execute(_OPEN_TERMS, {"first": first, "last": last})
        return {
            table: [each for (each,) in self._connection.execute(f"FROM {hidden} ORDER BY ALL").fetchall()]
            for table, hidden in {"terms": "hidden_terms", "catalog_info": "hidden_sets"}.items()
        }

    # Which files

    def parts(self, layouts: dict[str, Layout]) -> list[Part]:
        """Return the files that a snapshot of this moment is made of; layouts are brought up to date."""
        found: list[Part] = []
        query = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in TABLES)  # noqa: S608 - our own
        rows = dict(self._connection.execute(query).fetchall())
        for table in TABLES:
            layouts[table] = self._layout(table, rows[table], layouts.get(table))
            found += self._parts_of(table, layouts[table])
        return found

    def _layout(self, table: str, rows: int, former: Layout | None) -> Layout:
        """Return how to divide a table of so many rows: as before, while that fits."""
        origin = _digest(self._mark, self.schema_version, self._select(table), BLOCKS[table])
        if rows <= ROWS_IN_ONE_FILE or BLOCKS[table].number == "0":
            return Layout(origin, 0, (0,))
        if former is not None and former.origin == origin and former.blocks_a_file:
            width = former.blocks_a_file
            # A landing may fill blocks that were empty.
            firsts = {*former.firsts, *(block // width * width for block in self._marks.get(table, ()))}
            if width == 1 or rows <= 4 * len(firsts) * _rows_a_file(table):
                return Layout(origin, width, tuple(sorted(firsts)))
        return self._new_layout(table, origin, rows)

    def _new_layout(self, table: str, origin: str, rows: int) -> Layout:
        statement = f"SELECT DISTINCT {BLOCKS[table].sql} FROM {table}"  # noqa: S608 - our own names
        blocks = [block for (block,) in self._connection.execute(statement).fetchall()]
        width = 1
        while rows * width * 2 <= len(blocks) * _rows_a_file(table):
            width *= 2
        return Layout(origin, width, tuple(sorted({block // width * width for block in blocks})))

    def _parts_of(self, table: str, layout: Layout) -> Iterable[Part]:
        if not layout.blocks_a_file:
            yield Part(table, f"{table}/part-0.parquet", *_EVERYTHING, self._key(table, layout, *_EVERYTHING))
            return
        for first in layout.firsts:
            last = first + layout.blocks_a_file - 1
            name = f"part-{first * BLOCKS[table].size:08}.parquet"
            yield Part(table, f"{table}/{name}", first, last, self._key(table, layout, first, last))

    def _key(self, table: str, layout: Layout, first: int, last: int) -> str:
        """Return a digest of all that a file depends on."""
        marks = self._marks_between(table, first, last)
        size = BLOCKS[table].size
        hidden = [
            ids[bisect_left(ids, first * size) : bisect_left(ids, (last + 1) * size)]
            for ids in self._hidden.values()
        ]
        if table == "fetches":  # its blocks are days, and it depends on whether anything is hidden
            hidden = [[any(self._hidden.values())]]
        elif BLOCKS[table].number == "0" and table != "collections":
            hidden = [self._hidden_of.get(table, [])]
        return _digest(layout.origin, layout.blocks_a_file, marks, hidden)

    def _marks_between(self, table: str, first: int, last: int) -> list[tuple[int, str]]:
        marks = self._marks.get(table, {})
        if last - first < len(marks):
            return [(block, marks[block]) for block in range(first, last + 1) if block in marks]
        return sorted((block, mark) for block, mark in marks.items() if first <= block <= last)

    # What is in them

    def write(self, part: Part, folder: Path) -> dict[str, Any]:
        """Write a file into the folder of a snapshot, and return what its manifest says of it."""
        import pyarrow as pa
        from pyarrow import parquet

        order = _ORDER.get(part.table, "")
        relation = self._connection.sql(
            f"{self._select(part.table)} WHERE {_place(part)} AND {self._shown(part.table)} {order}"
        )
        reader = relation.to_arrow_reader(_ROWS_AT_ONCE if part.table == "words" else _WIDE_ROWS_AT_ONCE)
        schema = self._described(part.table, reader.schema)
        path = folder / part.path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = 0
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
                rows += batch.num_rows
        sha256, status = sha256_of(path), path.stat()
        return {
            "rows": rows,
            "bytes": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "sha256": sha256,
            "key": part.key,
        }

    def _shown(self, table: str) -> str:
        """Return which rows of a table are published; to find that out takes long for what nothing hides."""
        if any(self._hidden.values()):
            return _ROWS[table]
        return _NOT_REFUSED_AS_PRIVATE if table in _SAY_PRIVATE else "true"

    def _select(self, table: str) -> str:
        """Return a SELECT of a table's columns, with JSON as text: not every tool knows DuckDB's own types."""
        columns = []
        for name, kind, _ in self._columns[table]:
            plain = _COLUMNS.get((table, name), f"{name}::VARCHAR" if kind == "JSON" else name)
            columns.append(f"{plain} AS {name}")
        return f"SELECT {', '.join(columns)} FROM {table}"  # noqa: S608 - our own names

    def _described(self, table: str, schema: pa.Schema) -> pa.Schema:
        """Return a schema that says what the columns mean, for Arrow's tools and, as JSON, for all others."""
        import pyarrow as pa

        comments = {name: comment for name, _, comment in self._columns[table]}
        fields = [
            field.with_metadata({"comment": comments[field.name]}) if comments.get(field.name) else field
            for field in schema
        ]
        return pa.schema(
            fields,
            {
                "nvcatalog.table": table,
                "nvcatalog.schema_version": str(self.schema_version),
                "nvcatalog.columns": json.dumps(comments, ensure_ascii=False),
            },
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_as_written(path: Path, entry: Mapping[str, Any], *, every_byte: bool) -> bool:
    """Whether a file is what its manifest says of it; every byte is read where that is asked for, or in doubt.

    At a glance it is if nobody has written to it since, and it begins and ends as Parquet does: what a power cut
    leaves of a file may be as long as the file, and empty.

    Raises
    ------
    OSError
        When it cannot be read, or is not there.
    """
    found = path.stat()
    if found.st_size != entry["bytes"]:
        return False
    if every_byte or found.st_mtime_ns != entry.get("mtime_ns"):
        return sha256_of(path) == str(entry["sha256"])
    with path.open("rb") as file:
        first = file.read(len(_MAGIC))
        file.seek(-len(_MAGIC), os.SEEK_END)
        return first == file.read() == _MAGIC


def layouts_of(manifest: dict[str, Any]) -> dict[str, Layout]:
    """Return how the tables of a snapshot are divided, from what it says of itself."""
    firsts: dict[str, list[int]] = {}
    for path in manifest.get("files", {}):
        table, _, name = path.partition("/")
        firsts.setdefault(table, []).append(int(name.removeprefix("part-").removesuffix(".parquet")))
    return {
        table: Layout(
            told["origin"],
            told["numbers_a_file"] // BLOCKS[table].size,
            tuple(first // BLOCKS[table].size for first in firsts.get(table, ())),
        )
        for table, told in manifest.get("layouts", {}).items()
        if table in BLOCKS
    }


def _place(part: Part) -> str:
    """Return which rows of its table belong in a file, as DuckDB finds them without reading all others."""
    number, size = BLOCKS[part.table]
    return f"{number} BETWEEN {part.first * size} AND {(part.last + 1) * size - 1}" if part.bounded else "true"


def _rows_a_file(table: str) -> int:
    return _WORDS_A_FILE if table == "words" else _ROWS_A_FILE


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]
