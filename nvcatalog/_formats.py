"""Write tables in the formats of an export, in types that every tool reads alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from nvcatalog._instances import in_memory
from nvcatalog._places import INFO, MANIFEST, FilePlace, FolderPlace, OneFilePlace
from nvcatalog.queries import quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Format = Literal["parquet", "csv", "arrow", "ndjson", "duckdb"]

_ROWS_AT_ONCE = 122_880


class Column(NamedTuple):
    """A column: its name, its type in DuckDB, and what it means."""

    name: str
    type: str
    comment: str | None


class Relation(NamedTuple):
    """A table or view, and what it holds."""

    name: str
    comment: str | None
    columns: tuple[Column, ...]

    def has(self, *names: str) -> bool:
        """Whether it has columns of all these names."""
        return {*names} <= {column.name for column in self.columns}


class Writer(Protocol):
    """What writes a format; opened, and closed, as a context."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def write(self, relation: Relation, query: str, source: duckdb.DuckDBPyConnection) -> int:
        """Write a table, the rows of a query, and return how many there are."""

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write what the export says about itself."""


def plain(column: Column, format_: Format) -> str:
    """Return a column in SQL, as a type that the format has and that all tools read alike.

    Examples
    --------
    >>> plain(Column("raw", "JSON", None), "parquet")
    '"raw"::VARCHAR'
    """
    name, kind = f'"{column.name}"', column.type
    if kind in ("JSON", "UUID") or kind.startswith("ENUM"):
        return f"{name}::VARCHAR"
    if kind == "TIMESTAMP WITH TIME ZONE" and format_ in ("csv", "ndjson"):
        return f"strftime({name}, '%Y-%m-%dT%H:%M:%S.%fZ')"
    if format_ == "csv" and (kind.endswith("]") or kind.startswith(("STRUCT", "MAP"))):
        return f"to_json({_finite(name, kind)})::VARCHAR"
    if kind in ("DOUBLE", "FLOAT") and format_ == "csv":  # polars knows NaN by this name only
        return f"CASE WHEN isnan({name}) THEN 'NaN' ELSE {name}::VARCHAR END"
    return _finite(name, kind) if format_ == "ndjson" else name


def _finite(name: str, kind: str) -> str:
    """Return numbers without those that JSON has not, NaN and infinity."""
    if kind in ("DOUBLE", "FLOAT"):
        return f"CASE WHEN isfinite({name}) THEN {name} END"
    if kind in ("DOUBLE[]", "FLOAT[]"):
        return f"list_transform({name}, lambda x: CASE WHEN isfinite(x) THEN x END)"
    return name


# Folders of files


class _Files:
    """Writes a file for each table into a folder."""

    suffix: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        self.folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open between tables."""

    def path(self, relation: Relation) -> Path:
        return self.folder / f"{relation.name}.{self.suffix}"

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write what the export says about itself; last, so that it tells a whole one from a part."""
        tables = {
            name: {"file": file.name, "bytes": file.stat().st_size, **about}
            for name, about in manifest["tables"].items()
            for file in [self.folder / f"{name}.{self.suffix}"]
        }
        text = json.dumps({**manifest, "tables": tables}, indent=2, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


class _ArrowFiles(_Files):
    """Arrow files, with what columns mean beside their types."""

    suffix = "arrow"

    def write(self, relation: Relation, query: str, source: duckdb.DuckDBPyConnection) -> int:
        import pyarrow as pa

        reader = _rows_of(query, source)
        schema = _commented(reader.schema, relation)
        count = 0
        with self.open(self.path(relation), schema) as writer:
            for batch in reader:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
                count += batch.num_rows
        return count

    def open(self, path: Path, schema: pa.Schema) -> Any:
        from pyarrow import ipc

        return ipc.new_file(path, schema, options=ipc.IpcWriteOptions(compression="zstd"))


class _ParquetFiles(_ArrowFiles):
    """Parquet files, likewise."""

    suffix = "parquet"

    def open(self, path: Path, schema: pa.Schema) -> Any:
        from pyarrow import parquet

        return parquet.ParquetWriter(path, schema, compression="zstd")


def _commented(schema: pa.Schema, relation: Relation) -> pa.Schema:
    import pyarrow as pa

    fields = [
        field.with_metadata({"comment": column.comment}) if column.comment else field
        for field, column in zip(schema, relation.columns, strict=True)
    ]
    return pa.schema(fields, metadata={"comment": relation.comment} if relation.comment else None)


class _TextFiles(_Files):
    """Files that DuckDB writes itself."""

    options: ClassVar[str]

    def write(self, relation: Relation, query: str, source: duckdb.DuckDBPyConnection) -> int:
        with in_memory() as connection:
            copy = f"COPY incoming TO {quoted(self.path(relation))} ({self.options})"
            return _execute(connection, copy, _rows_of(query, source))


class _CsvFiles(_TextFiles):
    suffix, options = "csv", "FORMAT csv, HEADER"


class _NdjsonFiles(_TextFiles):
    suffix, options = "ndjson", "FORMAT json"


# One file


class _DuckdbFile:
    """Writes all tables into one DuckDB file, which older DuckDB tools open too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = in_memory()

    def __enter__(self) -> Self:
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute(f"ATTACH {quoted(self._path)} AS export (STORAGE_VERSION 'v1.0.0')")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def write(self, relation: Relation, query: str, source: duckdb.DuckDBPyConnection) -> int:
        table = f'export."{relation.name}"'
        count = _execute(self._connection, f"CREATE TABLE {table} AS FROM incoming", _rows_of(query, source))
        if relation.comment:
            self._connection.execute(f"COMMENT ON TABLE {table} IS {quoted(relation.comment)}")
        for column in relation.columns:
            if column.comment:
                self._connection.execute(f'COMMENT ON COLUMN {table}."{column.name}" IS {quoted(column.comment)}')
        return count

    def finish(self, manifest: Mapping[str, Any]) -> None:
        facts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in manifest.items()}
        self._connection.execute(f"CREATE TABLE export.{INFO} (key VARCHAR, value VARCHAR)")
        self._connection.executemany(f"INSERT INTO export.{INFO} VALUES (?, ?)", list(facts.items()))  # noqa: S608 - a constant
        self._connection.execute("DETACH export")


def _execute(connection: duckdb.DuckDBPyConnection, statement: str, rows: pa.RecordBatchReader) -> int:
    """Run a statement over ``incoming``, the rows as they come, and return how many there were."""
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("incoming", rows)
    [(count,)] = connection.execute(statement).fetchall()
    connection.unregister("incoming")
    return int(count)


def _rows_of(query: str, source: duckdb.DuckDBPyConnection) -> pa.RecordBatchReader:
    return source.sql(query).to_arrow_reader(_ROWS_AT_ONCE)


WRITERS: dict[Format, Callable[[Path], Writer]] = {
    "parquet": _ParquetFiles,
    "arrow": _ArrowFiles,
    "csv": _CsvFiles,
    "ndjson": _NdjsonFiles,
    "duckdb": _DuckdbFile,
}


def place_of(format_: Format, *, one_file: bool) -> type[FolderPlace | FilePlace | OneFilePlace]:
    """Return what an export becomes: a DuckDB file, a file of one table, or a folder of such files."""
    return FilePlace if format_ == "duckdb" else OneFilePlace if one_file else FolderPlace
