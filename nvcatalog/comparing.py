"""Compare two snapshots: what came, what went, what changed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from nvcatalog import connecting, kept
from nvcatalog._instances import in_memory
from nvcatalog._store import Store
from nvcatalog.errors import SnapshotError

if TYPE_CHECKING:
    import pyarrow as pa

# The kind and the id by which rows are told apart. Fetches, outcomes and histories say what was done here, and the
# texts of records hold what these tables have as columns.
_IDS = {
    "collections": ("'collection'", "collection_id"),
    "images": ("'image'", "image_id"),
    "files": ("kind", "image_id"),
    "words": ("'image'", "image_id"),
    "words_status": ("'image'", "image_id"),
    "nidm_packs": ("'pack'", "pack_id"),
    "refusals": ("kind", "id"),
}

# When something was asked for, and what comes with each answer: a row that is the same otherwise has not changed.
_ASIDE = {"fetched_at", "listed_at", "listed_modify_date", "seen_at", "downloaded_at", "etag", "last_modified"}

# What is told of as another table: the same weights of another reference set are other terms.
_TOLD_AS = {"words_status": "words"}

_Files = dict[str, dict[Path, str | None]]  # by table: each file, and the SHA-256 of its bytes where it is known


def compare(store: Store, a: str | os.PathLike[str], b: str | os.PathLike[str] | None = None) -> pa.Table:
    """Return what came, went and changed from one snapshot to another.

    Parameters
    ----------
    store : Store
        The catalog.
    a : str or path-like
        The former snapshot: its name, or its folder, which may be another catalog's.
    b : str, path-like or None
        The later one; None means the newest, after publishing what landed since.

    Returns
    -------
    pyarrow.Table
        A row for each id: ``table_name``, ``change`` (came, went or changed), ``kind`` and ``id``.

    Raises
    ------
    InvalidOptionError
        When there is no such snapshot.
    SnapshotError
        When one cannot be read, or there is none.
    """
    with ExitStack() as stack:
        names = ("" if a is None else a), b  # nothing is compared with itself
        former, later = (kept.files_of(stack.enter_context(connecting.held(store, name))) for name in names)
        connection = stack.enter_context(in_memory())
        connection.execute("CREATE TABLE changes (table_name VARCHAR, change VARCHAR, kind VARCHAR, id INTEGER)")
        try:
            for table in _IDS:
                _compare_table(connection, table, former, later)
        except duckdb.Error as error:
            raise SnapshotError(f"a snapshot cannot be read: {str(error).splitlines()[0]}") from error
        return connection.sql("SELECT DISTINCT * FROM changes ORDER BY ALL").to_arrow_table()


def _compare_table(connection: duckdb.DuckDBPyConnection, table: str, former: _Files, later: _Files) -> None:
    """Compare the rows of files that are not in both: a row never moves into one that has not changed."""
    differing = _without(former, later, table), _without(later, former, table)
    if table == "words" and _numbered_otherwise(connection, former, later):
        differing = list(former[table]), list(later[table])  # the same bytes say something else
    if not any(differing):
        return
    columns = _columns_in_both(connection, *differing)
    ours, theirs = (
        _contents(table, files, terms.get("terms", {}), columns)
        for files, terms in zip(differing, (former, later), strict=True)
    )
    connection.execute(
        f"""
        INSERT INTO changes
        SELECT
            $table,
            CASE WHEN former.n IS NULL THEN 'came' WHEN later.n IS NULL THEN 'went' ELSE 'changed' END,
            coalesce(former.kind, later.kind),
            coalesce(former.id, later.id)
        FROM ({ours}) AS former
        FULL JOIN ({theirs}) AS later
            ON former.kind IS NOT DISTINCT FROM later.kind AND former.id IS NOT DISTINCT FROM later.id
        WHERE former.n IS DISTINCT FROM later.n OR former.content IS DISTINCT FROM later.content
        """,  # noqa: S608 - our own names
        {"table": _TOLD_AS.get(table, table)},
    )


def _without(ours: _Files, theirs: _Files, table: str) -> list[Path]:
    """Return the files of a table that the other snapshot has not."""
    there = set(theirs.get(table, {}).values()) - {None}
    return [path for path, sha256 in ours.get(table, {}).items() if sha256 not in there]


def _numbered_otherwise(connection: duckdb.DuckDBPyConnection, former: _Files, later: _Files) -> bool:
    """Return whether a number that both have stands for another term, as catalogs number theirs themselves."""
    differing = _without(former, later, "terms"), _without(later, former, "terms")
    if not all(differing) or not former.get("words") or not later.get("words"):
        return False
    ours, theirs = (connecting.files_as_table(files) for files in (former["terms"], later["terms"]))
    query = f"SELECT 1 FROM {ours} AS a JOIN {theirs} AS b USING (term_id) WHERE a.term <> b.term LIMIT 1"  # noqa: S608
    return connection.execute(query).fetchone() is not None


def _columns_in_both(connection: duckdb.DuckDBPyConnection, *sides: list[Path]) -> list[str]:
    """Return which columns tell whether a row has changed: a newer version may have more of them."""
    named = [
        {name for name, *_ in connection.execute(f"DESCRIBE FROM {connecting.files_as_table(files)}").fetchall()}
        for files in sides
        if files
    ]
    return sorted(set.intersection(*named) - _ASIDE)


def _contents(table: str, files: list[Path], terms: dict[Path, str | None], columns: list[str]) -> str:
    """Return a SELECT of the ids in files, each with a digest of what its rows hold."""
    if not files:
        return "SELECT NULL::VARCHAR AS kind, NULL::INTEGER AS id, 0 AS n, 0::UBIGINT AS content WHERE false"
    kind, id_ = _IDS[table]
    source = connecting.files_as_table(files)
    if table == "words" and terms:  # each catalog numbers its terms itself
        source += f" LEFT JOIN {connecting.files_as_table(list(terms))} USING (term_id)"
        columns = ["term", "weight"]
    # Hashed twice: the hash of several values is an XOR of theirs, in which rows that swap values are the same.
    return f"""
        SELECT {kind} AS kind, {id_} AS id, count(*) AS n, bit_xor(hash(hash({", ".join(columns)}))) AS content
        FROM {source}
        GROUP BY ALL
    """  # noqa: S608 - our own names
