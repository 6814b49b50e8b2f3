"""Turn long tables of terms into the matrix that analyses want: one row an image, one column a term."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from nvcatalog.errors import MissingExtraError, WordsError, shown

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from scipy.sparse import csr_matrix

# An index of four bytes reaches as far as this.
_LARGEST_INT32 = 2**31 - 1


class _Pair(NamedTuple):
    frequencies: csr_matrix
    vocabulary: np.ndarray


class WordMatrix(_Pair):
    """The terms of images: a matrix with its vocabulary, as two values or as a table.

    A weight is what the decoder gave an image for a term. Neurosynth's is the Pearson correlation of the map with
    the term's meta-analytic map, from -1 to 1: signed, a similarity. It is no probability, and it says nothing of
    how likely a mental process is given the activation (reverse inference).

    Attributes
    ----------
    frequencies : scipy.sparse.csr_matrix, shape (images, terms)
        The weights. Zeros that a decoder gave are stored entries, what it did not give is none.
    vocabulary : numpy.ndarray of str, shape (terms,)
        The term of each column.
    image_ids : numpy.ndarray of int, shape (images,)
        The image of each row.
    missing : tuple of int
        The images asked for of which no terms (of that reference set) are here.
    reference : str or None
        The set of terms the images were compared with; None where their answers do not name it.

    Examples
    --------
    >>> from nvcatalog import Catalog, fetch_neurovault_ids
    >>> maps = fetch_neurovault_ids(image_ids=[10426], fetch_neurosynth_words=True, verbose=0)
    >>> words = Catalog().words([10426])
    >>> frequencies, vocabulary = words
    >>> words.df().nlargest(2, "weight")["term"].tolist()
    ['premotor', 'motor']
    """

    image_ids: np.ndarray
    missing: tuple[int, ...]
    reference: str | None

    def __new__(
        cls,
        frequencies: csr_matrix,
        vocabulary: np.ndarray,
        image_ids: Sequence[int] = (),
        missing: Iterable[int] = (),
        reference: str | None = None,
    ) -> WordMatrix:
        """Make two values that know more."""
        made = super().__new__(cls, frequencies, vocabulary)
        made.image_ids = np.asarray(image_ids, dtype=np.int64)
        made.missing = tuple(missing)
        made.reference = reference
        return made

    def __repr__(self) -> str:
        """Say how many there are, and of what."""
        images, terms = self.frequencies.shape
        named = f" of {shown(self.reference)}" if self.reference is not None else ""
        missing = f"; {len(self.missing):,} images have none here" if self.missing else ""
        return f"<WordMatrix: {images:,} images x {terms:,} terms{named}{missing}>"

    def arrow(self) -> pa.Table:
        """Return the long table: ``image_id``, ``term`` (dictionary-encoded), ``weight``, a row a stored entry."""
        import pyarrow as pa

        matrix = self.frequencies
        image_ids = np.repeat(self.image_ids.astype(np.int32), np.diff(matrix.indptr))
        terms = pa.DictionaryArray.from_arrays(
            pa.array(matrix.indices), pa.array(self.vocabulary.tolist(), pa.string())
        )
        return pa.table({"image_id": image_ids, "term": terms, "weight": matrix.data})

    def df(self) -> pd.DataFrame:
        """Return the long table as a ``pandas.DataFrame``, ``term`` being a categorical: one byte or two a row."""
        frame: pd.DataFrame = self.arrow().to_pandas()
        return frame

    def pl(self) -> pl.DataFrame:
        """Return the long table as a ``polars.DataFrame``.

        Raises
        ------
        MissingExtraError
            When polars is not installed.
        """
        try:
            import polars as pl
        except ImportError as error:
            raise MissingExtraError("polars is not installed; pip install 'nvcatalog[polars]'") from error
        return pl.DataFrame(self.arrow())

    def pivot(self) -> pd.DataFrame:
        """Return the wide table as a ``pandas.DataFrame``: a row an image, a column a term."""
        import pandas as pd

        rows = pd.Index(self.image_ids, name="image_id")
        return pd.DataFrame(self.frequencies.toarray(), rows, pd.Index(self.vocabulary.tolist(), name="term"))


class Part(NamedTuple):
    """Some words of a source: the row of each, the number of its term, and its weight."""

    rows: np.ndarray
    numbers: np.ndarray
    weights: np.ndarray


class Source(Protocol):
    """Words of some rows of a matrix, from one place, in any order.

    Attributes
    ----------
    counts : numpy.ndarray of int, shape (rows,)
        How many words each row gets from here.
    terms : dict of int to str
        The terms there are among them, by the number each has here.
    """

    counts: np.ndarray
    terms: dict[int, str]

    def parts(self) -> Iterator[Part]:
        """Read the words, a part at a time."""
        ...

    def terms_of(self, rows: Collection[int]) -> set[str]:
        """Return all terms that any of these rows has here."""
        ...


class TableSource:
    """Words that are in memory, as :class:`Source` gives them.

    Parameters
    ----------
    words : pyarrow.Table
        ``image_id``, ``term`` and ``weight``, one row an (image, term).
    row_of : mapping of int to int
        The row of each image.
    n_rows : int
        How many rows the matrix has.

    Raises
    ------
    ValueError
        When ``words`` holds an image that has no row.
    """

    def __init__(self, words: pa.Table, row_of: Mapping[int, int], n_rows: int) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(words.column("image_id"), value_set=pa.array(list(row_of), pa.int32()))
        if found.null_count:
            raise ValueError("words of images that have no row")
        encoded = words.column("term").combine_chunks().dictionary_encode()
        rows = np.fromiter(row_of.values(), np.int64, len(row_of))[found.to_numpy()]
        self._part = Part(rows, encoded.indices.to_numpy(), words.column("weight").to_numpy())
        self.counts = np.bincount(rows, minlength=n_rows)
        self.terms: dict[int, str] = dict(enumerate(encoded.dictionary.to_pylist()))

    def parts(self) -> Iterator[Part]:
        """Give all at once."""
        yield self._part

    def terms_of(self, rows: Collection[int]) -> set[str]:
        """Return all terms that any of these rows has here."""
        numbers = self._part.numbers[np.isin(self._part.rows, list(rows))]
        return {self.terms[number] for number in np.unique(numbers).tolist()}


def assemble(
    n_rows: int,
    sources: Sequence[Source],
    *,
    vocabulary: Sequence[str] | None = None,
    unknown: Sequence[int] = (),
    dtype: type[np.floating[Any]] = np.float64,
) -> tuple[csr_matrix, np.ndarray]:
    """Return the matrix of sources' words and its vocabulary, in memory little larger than the matrix itself.

    Parameters
    ----------
    n_rows : int
        How many rows it has.
    sources : sequence of Source
        Each row's words are all in one of them.
    vocabulary : sequence of str or None
        The columns, among them all terms of the sources; None for just those, in code point order, as
        scikit-learn's ``DictVectorizer`` sorts them.
    unknown : sequence of int
        Rows to be filled with not-a-number.
    dtype : type
        Of the weights.

    Raises
    ------
    WordsError
        When a weight is too large for it.
    """
    if vocabulary is None:
        vocabulary = sorted({term for source in sources for term in source.terms.values()})
    counts = np.zeros(n_rows, dtype=np.int64)
    for source in sources:
        counts += source.counts
    counts[list(unknown)] = len(vocabulary)
    filling = _Filling(counts, len(vocabulary), dtype)
    column_of = {term: column for column, term in enumerate(vocabulary)}
    for source in sources:
        columns = np.zeros(max(source.terms, default=0) + 1, dtype=np.int32)
        columns[list(source.terms)] = [column_of[term] for term in source.terms.values()]
        for part in source.parts():
            try:
                with np.errstate(over="raise"):
                    filling.add(part.rows, columns.take(part.numbers), part.weights)
            except FloatingPointError as error:
                found = f"a weight of {np.abs(part.weights).max():g}"
                raise WordsError(f"{found} is too large for {np.dtype(dtype)}; float64 holds it") from error
    everywhere = np.arange(len(vocabulary))
    for row in unknown:
        filling.add(np.full(len(everywhere), row), everywhere, np.full(len(everywhere), np.nan))
    return filling.matrix(), np.asarray(vocabulary, dtype=str)


class _Filling:
    """A sparse matrix whose arrays are made first and filled then, by words that come in any order."""

    def __init__(self, counts: np.ndarray, n_columns: int, dtype: type[np.floating[Any]]) -> None:
        self._shape = len(counts), n_columns
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        index: type[np.signedinteger[Any]] = np.int32 if total <= _LARGEST_INT32 else np.int64
        self._indptr: np.ndarray = np.concatenate([[0], ends]).astype(index)
        self._data: np.ndarray = np.zeros(total, dtype=dtype)
        self._indices: np.ndarray = np.zeros(total, dtype=index)
        # Neurosynth gives every image all of its terms: then each word's place is known, and nothing is sorted.
        self._is_full = bool(np.isin(counts, (0, n_columns)).all())
        if self._is_full and n_columns:
            self._indices.reshape(-1, n_columns)[:] = np.arange(n_columns)
        self._next = self._indptr[:-1].astype(np.int64)

    def add(self, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> None:
        """Put words in their places."""
        if self._is_full:
            self._data[self._next.take(rows) + columns] = weights
            return
        places = self._free_places(rows)
        self._indices[places] = columns
        self._data[places] = weights

    def _free_places(self, rows: np.ndarray) -> np.ndarray:
        """Return the next free place in its row for each word."""
        order = np.argsort(rows, kind="stable")
        heads = np.flatnonzero(np.diff(rows[order], prepend=-1))
        lengths = np.diff(heads, append=len(rows))
        at = rows[order[heads]]
        places = np.empty(len(rows), dtype=np.int64)
        places[order] = np.repeat(self._next[at] - heads, lengths) + np.arange(len(rows))
        self._next[at] += lengths
        return places

    def matrix(self) -> csr_matrix:
        """Return the matrix in canonical form."""
        from scipy.sparse import csr_matrix

        matrix: csr_matrix = csr_matrix((self._data, self._indices, self._indptr), shape=self._shape, copy=False)
        matrix.sort_indices()
        return matrix


def as_dense(matrix: csr_matrix) -> np.ndarray:
    """Return a matrix in canonical form as an array: its own weights, where it stores all of them."""
    rows, columns = matrix.shape
    if matrix.nnz == rows * columns:
        return np.asarray(matrix.data).reshape(rows, columns)
    dense: np.ndarray = matrix.toarray()
    return dense
