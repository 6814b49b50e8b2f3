"""Land the terms that another decoder than Neurosynth's gave for images: all of a table, or nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb

from nvcatalog import _batch
from nvcatalog._store import Store
from nvcatalog.errors import InvalidOptionError, WordsError, listed, shown
from nvcatalog.ids import LARGEST

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("image_id", "term", "weight")


def add_words(store: Store, table: Any, *, reference: str, replace: bool = False) -> int:
    """Land terms in one transaction, and return of how many images they are.

    Parameters
    ----------
    store : Store
        The catalog.
    table : dataframe
        ``image_id``, ``term`` and ``weight``, one row an (image, term); of pandas, polars or Arrow. All terms of
        its images are replaced.
    reference : str
        What to call the set of terms.
    replace : bool
        Whether images may lose terms of another reference set.

    Raises
    ------
    WordsError
        When the table is not such a one, an image is unknown, or has terms of another set.
    InvalidOptionError
        When `reference` is no name.
    """
    if not isinstance(reference, str) or not reference or reference != reference.strip():
        raise InvalidOptionError(f"reference is {shown(reference)}; give the set of terms a name, such as 'gclda'")
    words = as_long_table(table)
    image_ids: list[int] = words.column("image_id").unique().to_pylist()
    if not image_ids:
        return 0
    if not store.exists:
        raise WordsError(f"{store.folder} has no catalog yet, and so no images to have terms: fetch some first")
    now = datetime.now(UTC)
    status = [
        {"image_id": id_, "status": "present", "reference": reference, "fetched_at": now} for id_ in image_ids
    ]
    with store.writing(marked=True) as connection:
        connection.execute("BEGIN")
        try:
            _check_images(connection, image_ids, None if replace else reference)
            _batch.replace_words(connection, words, status)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a failed COMMIT has rolled back already
                connection.execute("ROLLBACK")
            raise
    return len(image_ids)


def as_long_table(table: Any) -> pa.Table:
    """Return a table of terms as Arrow, with the types of the catalog.

    Raises
    ------
    WordsError
        When it is no table, lacks a column or has one too many, and when a value is none: the message names the
        first.
    """
    arrow = _as_arrow(table)
    if missing := [name for name in _COLUMNS if name not in arrow.column_names]:
        raise WordsError(f"the table has no column {missing[0]}; it has {listed(arrow.column_names) or 'none'}")
    if others := [name for name in arrow.column_names if name not in _COLUMNS]:
        raise WordsError(f"the table has columns that would be lost: {listed(others)}. Give {', '.join(_COLUMNS)}")
    import pyarrow as pa

    words = pa.table(
        {
            "image_id": _image_ids(arrow.column("image_id")),
            "term": _terms(arrow.column("term")),
            "weight": _weights(arrow.column("weight")),
        }
    )
    _check_distinct(words)
    return words


def _as_arrow(table: Any) -> pa.Table:
    import pyarrow as pa

    if not hasattr(table, "__arrow_c_stream__"):
        raise WordsError(f"the table is a {type(table).__name__}; give a dataframe of pandas, polars or Arrow")
    arrow = pa.table(table)
    # The index that pandas makes where rows were left out means nothing.
    return arrow.select([name for name in arrow.column_names if not name.startswith("__index_level_")])


# One column each


def _image_ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type):
        raise WordsError(f"image_id is of type {column.type}; give integers")
    _check_each(column, "image_id", lambda each: pc.and_(pc.greater(each, 0), pc.less_equal(each, LARGEST)))
    return column.cast(pa.int32())


def _terms(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_text(column.type) for is_text in text):
        raise WordsError(f"term is of type {column.type}; give text")
    terms = column.cast(pa.large_string())
    _check_each(terms, "term", lambda each: pc.not_equal(each, ""))
    return terms


def _weights(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if not any(is_number(column.type) for is_number in numbers):
        raise WordsError(f"weight is of type {column.type}; give numbers")
    weights = column.cast(pa.float64(), safe=False)
    _check_each(weights, "weight", pc.is_finite)
    return weights


def _check_each(column: pa.ChunkedArray, name: str, is_good: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> None:
    """Refuse a column with a value that is not there, or not good."""
    import pyarrow.compute as pc

    wrong = pc.invert(pc.fill_null(is_good(column), fill_value=False))
    if (row := pc.index(wrong, value=True).as_py()) >= 0:
        raise WordsError(f"row {row}: {name} is {shown(column[row].as_py())}; nothing of the table has landed")


def _check_distinct(words: pa.Table) -> None:
    import pyarrow.compute as pc

    counted = words.group_by(["image_id", "term"]).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted.column("count_all"), 1)).slice(0, 5).to_pylist()
    if twice:
        named = ", ".join(f"{row['term']!r} of image {row['image_id']}" for row in twice)
        raise WordsError(f"the table has more than one weight for {named}")


# The images


def _check_images(connection: duckdb.DuckDBPyConnection, image_ids: Sequence[int], reference: str | None) -> None:
    """Refuse images that the catalog does not know, and where a set is named, those that have terms of another."""
    rows = connection.execute(
        """
        SELECT a.image_id, i.image_id IS NULL, coalesce(s.reference, '')
        FROM (SELECT unnest($ids::INTEGER[]) AS image_id) AS a
        LEFT JOIN images AS i ON i.image_id = a.image_id
        LEFT JOIN words_status AS s ON s.image_id = a.image_id AND s.status = 'present'
        WHERE i.image_id IS NULL OR (s.image_id IS NOT NULL AND s.reference IS DISTINCT FROM $reference)
        ORDER BY a.image_id
        """,
        {"ids": list(image_ids), "reference": reference},
    ).fetchall()
    if unknown := [id_ for id_, is_unknown, _ in rows if is_unknown]:
        raise WordsError(
            f"the catalog knows nothing of {len(unknown):,} images: {listed(unknown)}. Fetch or sync them first"
        )
    if rows and reference is not None:
        sets = sorted({name for _, _, name in rows})
        raise WordsError(
            f"{len(rows):,} images have terms of another reference set ({listed(map(repr, sets))}): "
            f"{listed(id_ for id_, *_ in rows)}. An image has those of one set; replace=True gives it the new ones"
        )
