"""Marks that landings leave on the rows they change, by which a snapshot knows what to write anew."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    import duckdb


class Blocks(NamedTuple):
    """How a table's rows are divided: by ranges of a number that depends on a row's key, where it has one."""

    number: str
    size: int

    @property
    def sql(self) -> str:
        """The expression for a row's block."""
        return f"({self.number}) // {self.size}"


# An outcome without an id names its collection in the reason only: "record 38 of collection 7".
COLLECTION_IN_REASON = r"try_cast(regexp_extract(reason, 'collection (\d+)', 1) AS INTEGER)"

# Each image has thousands of words: their blocks are of fewer ids than the others'.
_ONE = Blocks("0", 1)
BLOCKS = {
    "collections": _ONE,
    "images": Blocks("image_id", 4096),
    "files": Blocks("image_id", 4096),
    "words": Blocks("image_id", 256),
    "words_status": Blocks("image_id", 4096),
    "nidm_packs": Blocks("coalesce(pack_id, 0)", 4096),
    "raw_records": Blocks("id", 4096),
    "record_history": Blocks("coalesce(id, 0)", 4096),
    "refusals": Blocks("coalesce(id, 0)", 4096),
    "outcomes": Blocks(f"coalesce(id, {COLLECTION_IN_REASON}, 0)", 4096),
    "fetches": Blocks("coalesce(epoch_us(started_at) // 86_400_000_000, 0)", 1),  # a day is a block
    "terms": _ONE,
    "catalog_info": _ONE,
    "schema_migrations": _ONE,
}

_EVERYTHING = "*"

# In the folder of the snapshots: without that, nothing needs to be known.
_NOTE = Path("snapshots", ".noted")


class Marks:
    """The blocks that a transaction changes, until it leaves its mark on them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._changed: set[tuple[str, int]] = set()

    def change(self, table: str, statement: str) -> None:
        """Run an INSERT or an UPDATE, and note which blocks the rows are in."""
        if table in BLOCKS:
            statement = f"{statement} RETURNING {BLOCKS[table].sql}"
        changed = self.connection.execute(statement).fetchall()
        self._changed.update((table, block) for (block,) in changed if table in BLOCKS)

    def delete(self, table: str, where: str, params: dict[str, Any]) -> None:
        """Delete rows, and note which blocks they were in; to have them returned, DuckDB reads them whole."""
        blocks = f"SELECT DISTINCT {BLOCKS[table].sql} FROM {table} WHERE {where}"  # noqa: S608 - our own names
        self._changed.update((table, block) for (block,) in self.connection.execute(blocks, params).fetchall())
        self.connection.execute(f"DELETE FROM {table} WHERE {where}", params)  # noqa: S608 - our own names

    def note_words(self, image_ids: Iterable[int]) -> None:
        """Note that the words of these images change: to have each row returned would take long."""
        size = BLOCKS["words"].size
        self._changed.update(("words", image_id // size) for image_id in image_ids)

    def leave(self) -> None:
        """Leave a mark on all that was changed; the transaction commits it with the rows."""
        if self._changed:
            _mark(self.connection, self._changed)
            self._changed = set()


def mark_everything(connection: duckdb.DuckDBPyConnection) -> None:
    """Mark all tables as changed, whatever has been changed in them."""
    connection.execute("BEGIN")
    _mark(connection, {(_EVERYTHING, 0)})
    connection.execute("COMMIT")


def read_marks(connection: duckdb.DuckDBPyConnection) -> tuple[str, dict[str, dict[int, str]]]:
    """Return the mark on everything, and those on the blocks of each table."""
    marks: dict[str, dict[int, str]] = {}
    for table, block, mark in connection.execute("FROM marks").fetchall():
        marks.setdefault(table, {})[block] = mark
    return marks.pop(_EVERYTHING, {}).get(0, ""), marks


def _mark(connection: duckdb.DuckDBPyConnection, changed: set[tuple[str, int]]) -> None:
    blocks: dict[str, Any] = {
        "tables": [table for table, _ in changed],
        "blocks": [block for _, block in changed],
    }
    named = "SELECT unnest($tables::VARCHAR[]) AS table_name, unnest($blocks::INTEGER[]) AS block"
    connection.execute(
        f"DELETE FROM marks USING ({named}) AS changed "  # noqa: S608 - our own names
        "WHERE marks.table_name = changed.table_name AND marks.block = changed.block",
        blocks,
    )
    connection.execute(
        f"INSERT INTO marks SELECT table_name, block, $mark FROM ({named})",  # noqa: S608 - our own names
        blocks | {"mark": uuid.uuid4().hex},
    )


# Those who leave no marks


def is_as_noted(catalog: Path) -> bool:
    """Whether the last to write to a catalog left marks; true where there are no snapshots to rely on them.

    Whoever opens the file with a DuckDB of their own leaves none, and a landing that is killed may not get to say
    so: then the file is not as large, or not as old, as was noted after the last landing.
    """
    note = catalog.parent / _NOTE
    try:
        return note.read_text(encoding="ascii") == state_of(catalog)
    except FileNotFoundError:
        return not note.parent.is_dir()
    except (OSError, ValueError):
        return False


def note_state(catalog: Path) -> None:
    """Note how large and how old a catalog is that nobody has open for writing any more."""
    note = catalog.parent / _NOTE
    if note.parent.is_dir():
        with suppress(OSError):  # then the next snapshot is written as if somebody else had been at the catalog
            # Not written over: the former one may be another user's.
            new = note.with_suffix(".new")
            new.unlink(missing_ok=True)
            new.write_text(state_of(catalog), encoding="ascii")
            new.replace(note)


def state_of(catalog: Path) -> str:
    """Return size and time of a catalog's file, and of the log that DuckDB keeps beside it."""
    states = []
    for place in (catalog, catalog.with_name(f"{catalog.name}.wal")):
        try:
            found = place.stat()
        except FileNotFoundError:
            states.append("-")
        else:
            states.append(f"{found.st_size} {found.st_mtime_ns}")
    return "; ".join(states)
