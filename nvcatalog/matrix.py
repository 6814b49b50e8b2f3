"""Read the terms of many images as one matrix, in memory that is hardly more than the matrix's own."""

from __future__ import annotations

import difflib
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

import duckdb
import numpy as np

from nvcatalog import kept, neurosynth, snapshot
from nvcatalog import where as conditions
from nvcatalog._batch import Words, long_table
from nvcatalog._progress import logger
from nvcatalog._store import Store
from nvcatalog.connecting import connected
from nvcatalog.errors import (
    CatalogTooNewError,
    InvalidOptionError,
    MixedSetsError,
    SelectionWarning,
    SnapshotError,
    WordsWarning,
    listed,
)
from nvcatalog.meant import of_gone
from nvcatalog.wish import Wish
from nvcatalog.words import Part, Source, TableSource, WordMatrix, assemble

# Up to here the catalog itself is read, which takes some 200 ms: whoever wants to write waits that long.
_MOST_AT_ONCE = 2_000
# Few enough that their memory is used again and again: to be given fresh memory costs more than the words.
_WORDS_AT_ONCE = 30_720
_NAMED = 5
# So often the catalog is asked anew where terms come meanwhile; then those who write have to wait.
_TRIES = 3


def chosen_words(store: Store, wish: Wish) -> WordMatrix:
    """Return the terms that a caller wishes for, and warn of what is not here.

    Raises
    ------
    MixedSetsError
        When the images were compared with several reference sets.
    InvalidOptionError
        When there is no such reference set, or no such term.
    QueryError
        When the condition cannot be asked.
    """
    if wish.terms or wish.reference is not None:
        _check_known(store, wish)
    if wish.condition is not None:
        selection = conditions.select(store, wish.condition)
        wish = replace(wish, image_ids=selection.image_ids)
        if not selection.total:
            lines = ["No image matches the condition", *conditions.explain(selection)]
            warnings.warn("\n".join(lines), SelectionWarning, stacklevel=3)
    found = find_words(store, wish)
    if found.n_hidden:
        text = f"{found.n_hidden:,} images of private collections are left out; private=True takes them too"
        warnings.warn(text, SelectionWarning, stacklevel=3)
    if found.gone_ids and not wish.with_gone:
        warnings.warn(of_gone(found.gone_ids, named=wish.named), SelectionWarning, stacklevel=3)
    for text in _what_is_not_here(wish, found) if store.exists else ():
        warnings.warn(text, WordsWarning, stacklevel=3)
    return found.words


@dataclass(frozen=True)
class Found:
    """The terms of images, and what there is to say of them.

    Attributes
    ----------
    words : WordMatrix
        The terms.
    unknown_ids : tuple of int
        The images that the catalog has no record of.
    n_hidden : int
        How many images of private collections were left out.
    gone_ids : tuple of int
        The images that the server no longer has: left out, unless they were named or asked for.
    absent : tuple of str
        The terms asked for that none of the images has.
    """

    words: WordMatrix
    unknown_ids: tuple[int, ...]
    n_hidden: int
    gone_ids: tuple[int, ...]
    absent: tuple[str, ...]


def find_words(store: Store, wish: Wish, waiting: Mapping[int, Words] | None = None) -> Found:
    """Return the terms of images.

    Parameters
    ----------
    store : Store
        The catalog.
    wish : Wish
        What is wanted.
    waiting : mapping of int to Words
        Terms of images that could not land yet; they go before those they will replace.

    Raises
    ------
    MixedSetsError, InvalidOptionError
        As :func:`chosen_words` raises them.
    """
    for _ in range(_TRIES):
        with store.reading() as connection:
            asked = _look(connection, wish, waiting or {})
            if len(asked.landed) <= _MOST_AT_ONCE:
                return _found(asked, wish, [_Landed(connection, asked.landed, asked.row_of, wish)])
        try:
            with ExitStack() as stack:
                return _found(asked, wish, _sources_of_many(store, asked, wish, stack))
        except _ChangedError as change:
            logger.info("The catalog is asked again: %s", change)
        except duckdb.Error as error:  # a snapshot can be damaged; then those who write have to wait
            logger.info("The catalog is read in place of its snapshot: %s", str(error).splitlines()[0])
            break
    with store.reading() as connection:
        asked = _look(connection, wish, waiting or {})
        return _found(asked, wish, [_Landed(connection, asked.landed, asked.row_of, wish)])


# What is here


@dataclass(frozen=True)
class _Asked:
    """The rows of a matrix: which images, and what is known of their terms."""

    image_ids: tuple[int, ...]  # one a row; several rows may be one image's
    references: dict[int, str | None]  # of the images whose terms are here
    landed: dict[int, int]  # those in the catalog, and when they came
    waiting: dict[int, Words]
    missing: tuple[int, ...]
    unknown_ids: tuple[int, ...]
    n_hidden: int
    gone_ids: tuple[int, ...]

    @cached_property
    def row_of(self) -> dict[int, int]:
        """The row of each image, in a matrix that has it once."""
        return {id_: row for row, id_ in enumerate(dict.fromkeys(self.image_ids))}


_ALL = """
    SELECT image_id
    FROM words_status
    JOIN images USING (image_id)
    WHERE status = 'present'
    ORDER BY image_id
"""
_LOOK = """
    SELECT a.image_id, s.image_id IS NOT NULL, s.reference, epoch_us(s.fetched_at), i.image_id IS NULL,
           i.gone_at IS NOT NULL, a.image_id IN (SELECT image_id FROM private_images)
    FROM asked AS a
    LEFT JOIN words_status AS s ON s.image_id = a.image_id AND s.status = 'present'
    LEFT JOIN images AS i ON i.image_id = a.image_id
    ORDER BY a.row
"""


def _look(connection: duckdb.DuckDBPyConnection, wish: Wish, waiting: Mapping[int, Words]) -> _Asked:
    """Look up which images there are, and with which reference set their terms were made."""
    ids = wish.image_ids
    if ids is None:
        ids = tuple(id_ for (id_,) in connection.execute(_ALL).fetchall())
    _ask_for(connection, {id_: row for row, id_ in enumerate(dict.fromkeys(ids))})
    rows = connection.execute(_LOOK).fetchall()
    private = set() if wish.with_private else {id_ for id_, *_, is_private in rows if is_private}
    gone = [id_ for id_, *_, is_gone, _ in rows if is_gone and id_ not in private]
    hidden = private if wish.with_gone or wish.named else private | set(gone)
    waiting = {id_: waiting[id_] for id_, *_ in rows if id_ in waiting}
    references = {id_: reference for id_, here, reference, *_ in rows if here and id_ not in hidden}
    references |= {id_: words.reference for id_, words in waiting.items()}
    references = _of_one_set(references, wish.reference)
    if wish.image_ids is None:  # where nothing chooses, the set does
        ids = tuple(id_ for id_ in ids if id_ in references)
        rows = [row for row in rows if row[0] in references]
    came_at = {id_: moment for id_, _, _, moment, *_ in rows if id_ in references and id_ not in waiting}
    keeps_all = wish.missing != "drop"
    return _Asked(
        image_ids=tuple(id_ for id_ in ids if id_ in references or (keeps_all and id_ not in hidden)),
        references=references,
        landed=came_at,
        waiting={id_: words for id_, words in waiting.items() if id_ in references},
        missing=tuple(id_ for id_, *_ in rows if id_ not in references and id_ not in hidden),
        unknown_ids=tuple(id_ for id_, _, _, _, unknown, *_ in rows if unknown),
        n_hidden=len(private),
        gone_ids=tuple(gone),
    )


def _ask_for(connection: duckdb.DuckDBPyConnection, row_of: Mapping[int, int]) -> None:
    """Make the table of the images asked for; a join with one that DuckDB knows all about is twice as fast."""
    import pyarrow as pa

    images = pa.array(row_of.keys(), pa.int32()), pa.array(row_of.values(), pa.int32())
    connection.register("incoming", pa.table(images, names=["image_id", "row"]))
    connection.execute("CREATE OR REPLACE TEMP TABLE asked AS FROM incoming")
    connection.unregister("incoming")


def _of_one_set(references: dict[int, str | None], wanted: str | None) -> dict[int, str | None]:
    """Return the images of the set wanted; all where they are of one set, or their answers name one at most."""
    if wanted is not None:
        return {id_: name for id_, name in references.items() if (name or "") == wanted}
    sets = Counter(references.values())
    if len(sets) > 1 + (None in sets):
        raise MixedSetsError(sets)
    return references


def _check_known(store: Store, wish: Wish) -> None:
    """Refuse a term or a reference set that nothing here has: it was misspelt, or never fetched."""
    with store.reading() as connection:
        known = {term for (term,) in connection.execute("SELECT term FROM terms").fetchall()}
        query = "SELECT DISTINCT coalesce(reference, '') FROM words_status WHERE status = 'present'"
        sets = sorted(name for (name,) in connection.execute(query).fetchall())
    unknown = [term for term in wish.terms or () if term not in known]
    if unknown and known:
        raise InvalidOptionError(f"terms: no image here has {_unknown_terms(unknown, known)}")
    if sets and wish.reference is not None and wish.reference not in sets:
        raise InvalidOptionError(
            f"reference: no image here has terms of {wish.reference!r}; there are {', '.join(map(repr, sets))}"
        )


def _unknown_terms(unknown: Sequence[str], known: Collection[str]) -> str:
    def offered(term: str) -> str:
        close = difflib.get_close_matches(term, known, n=3)
        return f"{term!r} (did you mean {' or '.join(map(repr, close))}?)" if close else repr(term)

    return ", ".join(map(offered, unknown[:_NAMED])) + (
        f" and {len(unknown) - _NAMED} more" * (len(unknown) > _NAMED)
    )


# Reading it


class _ChangedError(Exception):
    """Says that terms are no longer those that were looked up, perhaps even of another reference set."""


def _sources_of_many(store: Store, asked: _Asked, wish: Wish, stack: ExitStack) -> list[Source]:
    """Read from a snapshot, which blocks nobody, and from the catalog what it has not, such as private images."""
    published = _open_snapshot(store, stack)
    there = _as_in(published, asked) if published else set()
    sources: list[Source] = []
    if len(there) < len(asked.landed):
        catalog = stack.enter_context(ExitStack())
        rest = [id_ for id_ in asked.landed if id_ not in there]
        connection = catalog.enter_context(store.reading())
        if changed := set(rest) - _as_in(connection, asked):
            raise _ChangedError(f"terms of {len(changed):,} images came meanwhile")
        sources.append(_Landed(connection, rest, asked.row_of, wish, close=catalog.close))
    if published:
        sources.append(_Landed(published, there, asked.row_of, wish))
    return sources


def _open_snapshot(store: Store, stack: ExitStack) -> duckdb.DuckDBPyConnection | None:
    """Open the newest snapshot; None where there is none that can be read, or none that has all."""
    if store.base is not None:
        return None
    snapshot.catch_up(Store(store.folder))  # where that fails, more is read from the catalog
    newest = kept.newest(store.folder / kept.FOLDER)
    if newest is None:
        return None
    try:
        return stack.enter_context(connected(store, newest.name))
    except (SnapshotError, CatalogTooNewError, InvalidOptionError):  # the last where it was just removed
        return None


def _as_in(connection: duckdb.DuckDBPyConnection, asked: _Asked) -> set[int]:
    """Return the images whose terms there, in a snapshot or the catalog, are those that were looked up."""
    _ask_for(connection, asked.row_of)
    rows = connection.execute("""
        SELECT image_id, epoch_us(fetched_at)
        FROM words_status
        JOIN asked USING (image_id)
        WHERE status = 'present'
    """).fetchall()
    return {id_ for id_, came_at in rows if asked.landed.get(id_) == came_at}


class _Landed:
    """Words in a catalog or a snapshot of it, as a :class:`~nvcatalog.words.Source`.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        To either.
    image_ids : collection of int
        Whose words.
    row_of : mapping of int to int
        The rows of all images.
    wish : Wish
        Which of their words.
    close : callable
        What to do when they have been read.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        image_ids: Collection[int],
        row_of: Mapping[int, int],
        wish: Wish,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection, self._close = connection, close
        self._which, self._heavy, self._least = "true", "true", {}
        if wish.min_abs_weight:
            self._heavy, self._least = "abs(weight) >= $least", {"least": wish.min_abs_weight}
        if wish.terms is not None:
            self._which = "term_id IN (SELECT term_id FROM asked_terms)"
            terms = "SELECT term_id FROM terms WHERE term IN (SELECT unnest($terms::VARCHAR[]))"
            connection.execute(f"CREATE TEMP TABLE asked_terms AS {terms}", {"terms": list(wish.terms)})
        _ask_for(connection, {id_: row_of[id_] for id_ in image_ids})
        self.counts, self.terms = self._count(len(row_of))

    def _count(self, n_rows: int) -> tuple[np.ndarray, dict[int, str]]:
        """Count each row's words, and find all terms among them."""
        counted = f"count(*) FILTER (WHERE {self._heavy})" if self._least else "count(*)"  # a filter costs a third
        query = f"""
            SELECT row, {counted} AS n,
                   hash(count(*), bit_xor(hash(term_id))) AS terms
            FROM words
            JOIN asked USING (image_id)
            WHERE {self._which}
            GROUP BY row
        """  # noqa: S608 - a condition of our own
        found = self._connection.execute(query, self._least).fetchnumpy()
        counts = np.zeros(n_rows, dtype=np.int64)
        counts[found["row"]] = found["n"]
        # Images whose terms have the same hash have the same terms: one of them tells, mostly of all.
        _, examples = np.unique(found["terms"], return_index=True)
        return counts, self._distinct_terms(found["row"][examples], self._which)

    def _distinct_terms(self, rows: Iterable[int], which: str) -> dict[int, str]:
        query = f"""
            SELECT DISTINCT term_id, term
            FROM words
            JOIN asked USING (image_id)
            JOIN terms USING (term_id)
            WHERE row IN (SELECT unnest($rows::INTEGER[])) AND {which}
        """  # noqa: S608 - as above
        # In columns: thousands of tuples would have Python look through all of its objects for what is garbage.
        found = self._connection.execute(query, {"rows": np.asarray(rows).tolist()}).fetchnumpy()
        return dict(zip(found["term_id"].tolist(), found["term"].tolist(), strict=True))

    def terms_of(self, rows: Collection[int]) -> set[str]:
        """Return all terms that any of these rows has here, whatever is wished for."""
        return set(self._distinct_terms(rows, "true").values())

    def parts(self) -> Iterator[Part]:
        """Read the words, as they come."""
        query = f"""
            SELECT row, term_id, weight
            FROM words
            JOIN asked USING (image_id)
            WHERE {self._which} AND {self._heavy}
        """  # noqa: S608 - as above
        for batch in self._connection.sql(query, params=self._least).to_arrow_reader(_WORDS_AT_ONCE):
            yield Part(*(column.to_numpy() for column in batch.columns))
        self._close()


# Putting it together


def _found(asked: _Asked, wish: Wish, sources: list[Source]) -> Found:
    if asked.waiting:
        sources = [*sources, TableSource(long_table(asked.waiting), asked.row_of, len(asked.row_of))]
    reference = wish.reference or _the_one_set(asked, sources)
    unknown = [row for id_, row in asked.row_of.items() if id_ not in asked.references]
    frequencies, vocabulary = assemble(
        len(asked.row_of),
        sources,
        vocabulary=wish.terms,
        unknown=unknown if wish.missing == "nan" else (),
        dtype=wish.dtype,
    )
    if len(asked.row_of) < len(asked.image_ids):
        frequencies = frequencies[[asked.row_of[id_] for id_ in asked.image_ids]]
    there = {term for source in sources for term in source.terms.values()}
    return Found(
        words=WordMatrix(frequencies, vocabulary, asked.image_ids, asked.missing, reference),
        unknown_ids=asked.unknown_ids,
        n_hidden=asked.n_hidden,
        gone_ids=asked.gone_ids,
        absent=tuple(term for term in wish.terms or () if term not in there) if asked.references else (),
    )


def _the_one_set(asked: _Asked, sources: Sequence[Source]) -> str | None:
    """Return the reference set of all images.

    Older answers of Neurosynth name none: theirs is the one that others name when it has the same terms.
    """
    named = [asked.row_of[id_] for id_, name in asked.references.items() if name is not None]
    unnamed = [asked.row_of[id_] for id_, name in asked.references.items() if name is None]
    if named and unnamed:
        theirs, ours = (set().union(*(each.terms_of(rows) for each in sources)) for rows in (named, unnamed))
        if theirs != ours:
            raise MixedSetsError(Counter(asked.references.values()))
    return next((name for name in asked.references.values() if name is not None), None)


def _what_is_not_here(wish: Wish, found: Found) -> Iterator[str]:
    """Say which images and terms asked for are not here, unless the caller has said what becomes of them."""
    missing, unknown = found.words.missing, found.unknown_ids
    of_set = f" of the reference set {wish.reference!r}" if wish.reference is not None else ""
    if missing and wish.missing == "zero":
        known = f"; {len(unknown):,} of them unknown to the catalog" if unknown else ""
        is_theirs = neurosynth.is_its_own(wish.reference or found.words.reference)
        how = "fetch_neurosynth_words=True fetches" if is_theirs else "add_words adds"
        yield (
            f"Of {len(missing):,} images no terms{of_set} are here, and their rows are zeros: {listed(missing)}"
            f"{known}. {how} them; missing='drop' leaves such rows out"
        )
    elif unknown:
        yield f"{len(unknown):,} images asked for are unknown to the catalog: {listed(unknown)}"
    if found.absent:
        yield f"No image asked for has {listed(map(repr, found.absent))}{of_set}: those columns are zeros"
