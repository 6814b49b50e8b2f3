"""Land the terms that another decoder than Neurosynth's gave for images: all of a table, or nothing of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import duckdb

from nvcatalog import _batch, neurosynth
from nvcatalog._store import Store
from nvcatalog.errors import InvalidOptionError, InvalidOptionTypeError, WordsError, listed, shown
from nvcatalog.ids import LARGEST, parse_ids

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("image_id", "term", "weight")
_LONGEST_NAME = 200
_LONGEST_TERM = 1_000


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
        Whether images may lose terms of another reference set, and of Neurosynth's whatever it is called.

    Raises
    ------
    WordsError
        When the table is not such a one, an image is unknown, or has terms of another set or Neurosynth's.
    InvalidOptionError
        When `reference` is no name.
    """
    reference = _name(reference)
    words = as_long_table(table)
    image_ids: list[int] = words.column("image_id").unique().to_pylist()
    if not image_ids:
        return 0
    if not store.exists:
        store.check_not_lost()
        raise WordsError(f"{store.folder} has no catalog yet, and so no images to have terms: fetch some first")
    now = datetime.now(UTC)
    status = [
        {"image_id": id_, "status": "present", "reference": reference, "fetched_at": now} for id_ in image_ids
    ]
    with _changing(store) as connection:
        _check_images(connection, image_ids, None if replace else reference)
        _note_own(connection, reference)
        _batch.replace_words(connection, words, status)
    return len(image_ids)


def forget_words(
    store: Store, image_ids: Iterable[int | str] | int | str | None = None, *, reference: str | None = None
) -> int:
    """Forget terms that :func:`add_words` landed, so that Neurosynth is asked again; return of how many images.

    Parameters
    ----------
    store : Store
        The catalog.
    image_ids : iterable of int or str, int, str or None
        Of which images; None means all that have terms of the set.
    reference : str
        The set of terms. One of Neurosynth's is forgotten of named images only.

    Raises
    ------
    WordsError
        When nobody has added a set of that name.
    InvalidOptionTypeError
        When no set is named.
    """
    if reference is None:
        example = shown(image_ids) if isinstance(image_ids, str) else "'mine'"
        raise InvalidOptionTypeError(f"forget_words takes the name of a set of terms: reference={example}")
    ids = None if image_ids is None else parse_ids(image_ids, kind="image")
    is_theirs = isinstance(reference, str) and reference != "" and neurosynth.is_its_own(reference)
    if is_theirs and ids is None:
        raise WordsError(
            f"{shown(reference)} is a set of Neurosynth's; name the images that are to lose its terms (image_ids)"
        )
    if not store.exists:
        store.check_not_lost()
        raise WordsError(f"{store.folder} has no catalog yet, and so no terms to forget")
    with _changing(store) as connection:
        own = _own(connection)
        if reference not in own and not is_theirs:
            there = f"there are {', '.join(map(repr, own))}" if own else "nobody has added any"
            raise WordsError(f"{shown(reference)} is no set of terms that add_words landed; {there}")
        rows = connection.execute(
            """
            SELECT image_id FROM words_status
            WHERE reference = $reference AND ($ids IS NULL OR image_id IN (SELECT unnest($ids::INTEGER[])))
            """,
            {"reference": reference, "ids": None if ids is None else list(ids)},
        ).fetchall()
        _batch.forget_words(connection, [id_ for (id_,) in rows])
    return len(rows)


@contextmanager
def _changing(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a catalog for one transaction."""
    with store.writing(marked=True) as connection:
        connection.execute("BEGIN")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a failed COMMIT has rolled back already
                connection.execute("ROLLBACK")
            raise


def as_long_table(table: Any) -> pa.Table:
    """Return a table of terms as Arrow, with the types of the catalog.

    Raises
    ------
    WordsError
        When it is no table, lacks a column or has one too many, and when a value is none: the message names the
        first.
    """
    import pyarrow as pa

    arrow = _as_arrow(table)
    if missing := [name for name in _COLUMNS if name not in arrow.column_names]:
        raise WordsError(f"the table has no column {missing[0]}; it has {listed(arrow.column_names) or 'none'}")
    if others := [name for name in arrow.column_names if name not in _COLUMNS]:
        raise WordsError(f"the table has columns that would be lost: {listed(others)}. Give {', '.join(_COLUMNS)}")
    if twice := [name for name in _COLUMNS if arrow.column_names.count(name) > 1]:
        raise WordsError(f"the table has several columns {twice[0]}; give one")
    if not arrow.num_rows:  # of what kind the columns would be, nobody can tell
        return pa.schema(
            [("image_id", pa.int32()), ("term", pa.large_string()), ("weight", pa.float64())]
        ).empty_table()
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
    try:
        arrow = pa.table(table)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise WordsError(_why_unreadable(table, error)) from error
    # The index that pandas makes where rows were left out means nothing.
    kept = [place for place, name in enumerate(arrow.column_names) if not name.startswith("__index_level_")]
    return arrow.select(kept)


def _why_unreadable(table: Any, error: Exception) -> str:
    """Name the first value that is none of its column's kind, as pandas may have beside others."""
    for name, is_good in _IS_GOOD.items():
        try:
            values = list(table[name])
        except (LookupError, TypeError, ValueError):
            continue
        for row, value in enumerate(values):
            if not is_good(value):
                return f"row {row}: {name} is {shown(value)}; nothing of the table has landed"
    return f"the table is no dataframe of {', '.join(_COLUMNS)}: {str(error).splitlines()[0]}"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()


def _is_finite(value: Any) -> bool:
    try:
        return type(value) is not bool and isinstance(value, Real | Decimal) and math.isfinite(value)
    except OverflowError:
        return False


def _is_id(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, Integral) and 0 < int(value) <= LARGEST


_IS_GOOD: dict[str, Callable[[Any], bool]] = {"image_id": _is_id, "term": _is_text, "weight": _is_finite}


def _name(reference: object) -> str:
    good = isinstance(reference, str) and reference.isprintable() and 0 < len(reference) <= _LONGEST_NAME
    if not good or reference != str(reference).strip():
        raise InvalidOptionError(
            f"reference is {shown(reference)}; give the set of terms a name of up to {_LONGEST_NAME} characters, "
            "such as 'gclda'"
        )
    return str(reference)


# One column each


def _image_ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type):
        raise WordsError(f"image_id is of type {column.type}; give integers")

    def is_good(each: pa.ChunkedArray) -> pa.ChunkedArray:
        numbers = each.cast(pa.float64(), safe=False)  # of whatever kind of integer it is
        return pc.and_(pc.greater(numbers, 0), pc.less_equal(numbers, LARGEST))

    _check_each(column, "image_id", is_good)
    return column.cast(pa.int32())


def _terms(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if encoded else column.type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_text(kind) for is_text in text):
        raise WordsError(f"term is of type {kind}; give text")
    if encoded:
        chunks = [chunk.dictionary.cast(pa.large_string()).take(chunk.indices) for chunk in column.chunks]
        column = pa.chunked_array(chunks, pa.large_string())
    terms = column.cast(pa.large_string())
    _check_each(terms, "term", lambda each: pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(each)), 0))
    _check_each(terms, "term", lambda each: pc.less_equal(pc.utf8_length(each), _LONGEST_TERM))
    _check_each(terms, "term", lambda each: pc.invert(pc.match_substring_regex(each, r"\p{Cc}")))
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
        value = column[row].as_py()
        found = "missing (None or NaN)" if value is None else shown(value)
        raise WordsError(f"row {row}: {name} is {found}; nothing of the table has landed")


def _check_distinct(words: pa.Table) -> None:
    import pyarrow.compute as pc

    counted = words.group_by(["image_id", "term"]).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted.column("count_all"), 1)).slice(0, 5).to_pylist()
    if twice:
        named = ", ".join(_named(words, row["image_id"], row["term"]) for row in twice)
        raise WordsError(f"the table has more than one weight for {named}")


def _named(words: pa.Table, image_id: int, term: str) -> str:
    import pyarrow.compute as pc

    same = pc.and_(pc.equal(words.column("image_id"), image_id), pc.equal(words.column("term"), term))
    return f"{shown(term)} of image {image_id} (rows {listed(pc.indices_nonzero(same).to_pylist())})"


# The images


def _note_own(connection: duckdb.DuckDBPyConnection, reference: str) -> None:
    """Note that a set of terms is somebody's own, which no fetch may replace, unless it is Neurosynth's."""
    own = _own(connection)
    others = "SELECT 1 FROM words_status WHERE status = 'present' AND reference = $reference LIMIT 1"
    if reference in own or neurosynth.is_its_own(reference):
        return
    if not connection.execute(others, {"reference": reference}).fetchall():
        text = json.dumps([*own, reference], ensure_ascii=False)
        _batch.upsert(connection, "catalog_info", [{"key": "own_references", "value": text}])


def _own(connection: duckdb.DuckDBPyConnection) -> list[str]:
    noted = "SELECT value FROM catalog_info WHERE key = 'own_references'"
    return [name for (text,) in connection.execute(noted).fetchall() for name in json.loads(text)]


def _check_images(connection: duckdb.DuckDBPyConnection, image_ids: Sequence[int], reference: str | None) -> None:
    """Refuse images that the catalog does not know, and where a set is named, those that have terms of another.

    Neurosynth's are nobody's own, so that those of its name are refused too.
    """
    is_theirs = reference is not None and neurosynth.is_its_own(reference)
    rows = connection.execute(
        """
        SELECT a.image_id, i.image_id IS NULL, coalesce(s.reference, '')
        FROM (SELECT unnest($ids::INTEGER[]) AS image_id) AS a
        LEFT JOIN images AS i ON i.image_id = a.image_id
        LEFT JOIN words_status AS s ON s.image_id = a.image_id AND s.status = 'present'
        WHERE i.image_id IS NULL
           OR (s.image_id IS NOT NULL AND ($is_theirs OR s.reference IS DISTINCT FROM $reference))
        ORDER BY a.image_id
        """,
        {"ids": list(image_ids), "reference": reference, "is_theirs": is_theirs},
    ).fetchall()
    if unknown := [id_ for id_, is_unknown, _ in rows if is_unknown]:
        raise WordsError(
            f"the catalog knows nothing of {len(unknown):,} images: {listed(unknown)}. Fetch or sync them first"
        )
    if rows and reference is not None:
        sets = sorted({name for _, _, name in rows})
        what = "Neurosynth's terms, or another set's" if is_theirs else "terms of another reference set"
        raise WordsError(
            f"{len(rows):,} images have {what} ({listed(map(repr, sets))}): "
            f"{listed(id_ for id_, *_ in rows)}. An image has those of one set; replace=True gives it the new ones"
        )
