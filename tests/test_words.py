"""The long table of terms becomes the very matrix that scikit-learn's DictVectorizer makes of the same words."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, issparse
from sklearn.feature_extraction import DictVectorizer

from nvcatalog import words
from nvcatalog._batch import Words, long_table
from nvcatalog.errors import MissingExtraError, WordsError
from nvcatalog.words import TableSource, WordMatrix, as_dense, assemble

# Neurosynth's own terms are text; those it never had must come out right too. Arrow has no half characters,
# NumPy no zeros at the end of a text.
terms = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
# Weights are correlations; signs, zeros and the smallest of numbers must survive.
weights = st.floats(-1, 1, allow_nan=False)
decoded = st.dictionaries(terms, weights, max_size=12)


def table_of(rows: list[tuple[int, str, float]]) -> pa.Table:
    image_ids, row_terms, row_weights = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "image_id": pa.array(image_ids, pa.int32()),
            "term": pa.array(row_terms, pa.string()),
            "weight": pa.array(row_weights, pa.float64()),
        }
    )


def words_to_matrix(image_ids: list[int], words: pa.Table, **how: Any) -> tuple[csr_matrix, np.ndarray]:
    row_of = {id_: row for row, id_ in enumerate(image_ids)}
    return assemble(len(row_of), [TableSource(words, row_of, len(row_of))], **how)


def as_scikit_learn_does(
    image_ids: list[int], answers: dict[int, dict[str, float]]
) -> tuple[csr_matrix, np.ndarray]:
    vectorizer = DictVectorizer(sparse=True)
    frequencies = vectorizer.fit_transform([answers.get(id_, {}) for id_ in image_ids])
    return frequencies, np.asarray(vectorizer.feature_names_, dtype=str)


@settings(max_examples=150)
@given(words=st.dictionaries(st.integers(1, 50), decoded, max_size=6), data=st.data())
@example(words={}, data=None)
@example(words={1: {}}, data=None)
@example(words={1: {"pain": 0.0}}, data=None)
@example(
    words={1: {"pain": -0.0, "Pain": -1.0, "päin": 1.0, "": 0.5, "\U0001d561ain": 0.1, "\ufb00": 0.2}}, data=None
)
def test_the_matrix_and_its_vocabulary_are_scikit_learns(words: dict[int, dict[str, float]], data: Any) -> None:
    without_words = [] if data is None else data.draw(st.lists(st.integers(51, 60), unique=True, max_size=3))
    rows = [(id_, term, weight) for id_, found in words.items() for term, weight in found.items()]
    image_ids = [*words, *without_words]
    if data is not None:
        image_ids, rows = data.draw(st.permutations(image_ids)), data.draw(st.permutations(rows))

    frequencies, vocabulary = words_to_matrix(image_ids, table_of(rows))

    if not image_ids:
        assert frequencies.shape == (0, 0)
        return
    theirs, their_vocabulary = as_scikit_learn_does(image_ids, words)
    assert vocabulary.tolist() == their_vocabulary.tolist()
    assert frequencies.shape == theirs.shape
    np.testing.assert_array_equal(frequencies.toarray(), theirs.toarray())
    assert frequencies.nnz == theirs.nnz == len(rows), "zeros are entries too"


def test_the_matrix_is_a_sparse_one_of_doubles_in_canonical_form() -> None:
    frequencies, vocabulary = words_to_matrix([2, 1], table_of([(1, "b", 0.1), (2, "c", 0.0), (1, "a", -0.3)]))

    assert issparse(frequencies)
    assert isinstance(frequencies, csr_matrix)
    assert frequencies.dtype == np.float64
    assert frequencies.has_canonical_format
    assert vocabulary.dtype.kind == "U"
    assert vocabulary.tolist() == ["a", "b", "c"]
    assert frequencies.toarray().tolist() == [[0.0, 0.0, 0.0], [-0.3, 0.1, 0.0]]


def test_images_without_any_terms_are_rows_of_no_columns() -> None:
    frequencies, vocabulary = words_to_matrix([1, 2, 3], table_of([]))

    assert frequencies.shape == (3, 0)
    assert vocabulary.shape == (0,)


def test_no_weight_loses_a_digit() -> None:
    weights = [0.1 + 0.2, 1 / 3, -1e-17, 5e-324, np.nextafter(1.0, 0.0)]
    rows = [(1, f"t{n}", weight) for n, weight in enumerate(weights)]

    frequencies, _ = words_to_matrix([1], table_of(rows))

    assert frequencies.toarray()[0].tolist() == weights


def test_a_table_in_several_chunks_is_one_table() -> None:
    rows = [(id_, term, id_ / 10) for id_ in (1, 2, 3) for term in ("a", "b")]
    chunks = pa.concat_tables([table_of(rows[:1]), table_of([]), table_of(rows[1:4]), table_of(rows[4:])])

    frequencies, vocabulary = words_to_matrix([3, 2, 1], chunks)

    assert vocabulary.tolist() == ["a", "b"]
    assert frequencies.toarray().tolist() == [[0.3, 0.3], [0.2, 0.2], [0.1, 0.1]]


@pytest.mark.parametrize("stranger", [0, 2, 99])
def test_words_of_an_image_nobody_asked_for_never_land_in_anothers_row(stranger: int) -> None:
    with pytest.raises(ValueError, match="words of images that have no row"):
        words_to_matrix([1, 3], table_of([(1, "a", 0.1), (stranger, "a", 0.2)]))


def test_terms_that_have_not_landed_yet_make_the_same_matrix() -> None:
    words = {5: {"pain": 0.5, "motor": 0.0}, 3: {}, 4: {"pain": -0.25}}

    waiting = long_table({id_: Words(found, None) for id_, found in words.items()})
    frequencies, vocabulary = words_to_matrix([3, 4, 5], waiting)

    assert vocabulary.tolist() == ["motor", "pain"]
    assert frequencies.toarray().tolist() == [[0.0, 0.0], [0.0, -0.25], [0.0, 0.5]]


# Filling


def test_words_of_several_sources_fill_one_matrix() -> None:
    row_of = {1: 0, 2: 1, 3: 2}
    sources = [
        TableSource(table_of([(3, "b", 0.3), (1, "c", 0.1)]), row_of, 3),
        TableSource(table_of([(2, "a", 0.2), (2, "c", -0.2)]), row_of, 3),
    ]

    frequencies, vocabulary = assemble(3, sources)

    assert vocabulary.tolist() == ["a", "b", "c"]
    assert frequencies.toarray().tolist() == [[0, 0, 0.1], [0.2, 0, -0.2], [0, 0.3, 0]]


def test_rows_of_which_nothing_is_known_are_stored_as_not_a_number() -> None:
    table = table_of([(1, "b", 0.1), (1, "a", 0.2)])

    frequencies, _ = assemble(2, [TableSource(table, {1: 1}, 2)], unknown=[0], dtype=np.float32)

    np.testing.assert_array_equal(frequencies.toarray(), np.array([[np.nan, np.nan], [0.2, 0.1]], np.float32))
    assert frequencies.nnz == 4


def test_a_weight_that_is_too_large_for_what_is_asked_for_is_named() -> None:
    table = table_of([(1, "a", -1e300), (1, "b", 0.5)])
    with pytest.raises(WordsError, match="a weight of 1e\\+300 is too large for float32; float64 holds it"):
        assemble(1, [TableSource(table, {1: 0}, 1)], dtype=np.float32)


def test_an_index_is_as_wide_as_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of([(1, "b", 0.1), (1, "a", 0.2), (2, "b", 0.3), (2, "a", 0.4)])
    assert words_to_matrix([1, 2], table)[0].indices.dtype == np.int32

    monkeypatch.setattr(words, "_LARGEST_INT32", 3)

    assert words._Filling(np.array([2, 2]), 2, np.float64)._indices.dtype == np.int64


def test_a_dense_matrix_is_a_copy_only_where_weights_are_not_stored() -> None:
    table = table_of([(2, "b", 0.1), (2, "a", 0.2), (1, "b", 0.3), (1, "a", 0.0)])
    full, _ = words_to_matrix([1, 2], table)
    gappy, _ = words_to_matrix([1, 2], table.slice(1))

    assert as_dense(full).tolist() == [[0.0, 0.3], [0.2, 0.1]]
    assert np.shares_memory(as_dense(full), full.data)
    assert as_dense(gappy).tolist() == [[0.0, 0.3], [0.2, 0.0]]


# The result


@pytest.fixture
def found() -> WordMatrix:
    """Return two images and three terms; one weight is a zero that is stored, two are not there."""
    matrix, vocabulary = words_to_matrix(
        [7, 5], table_of([(5, "b", 0.5), (7, "c", 0.0), (7, "a", -0.3), (5, "a", 1.0)])
    )
    return WordMatrix(matrix, vocabulary, [7, 5], [9], "terms_20k")


def test_the_result_is_two_values_that_know_more(found: WordMatrix) -> None:
    frequencies, vocabulary = found

    assert isinstance(found, tuple)
    assert found[0] is found.frequencies is frequencies
    assert found[1] is found.vocabulary is vocabulary
    assert found.image_ids.tolist() == [7, 5]
    assert repr(found) == "<WordMatrix: 2 images x 3 terms of 'terms_20k'; 1 images have none here>"


def test_the_long_table_has_a_row_a_stored_entry_in_every_library(found: WordMatrix) -> None:
    expected = [(7, "a", -0.3), (7, "c", 0.0), (5, "a", 1.0), (5, "b", 0.5)]

    assert [tuple(row.values()) for row in found.arrow().to_pylist()] == expected
    assert list(found.df().itertuples(index=False, name=None)) == expected
    assert found.pl().rows() == expected
    assert list(found.df().columns) == ["image_id", "term", "weight"]
    assert found.df().dtypes.astype(str).tolist() == ["int32", "category", "float64"]


def test_a_long_table_can_be_changed(found: WordMatrix) -> None:
    frame = found.df()
    frame.loc[0, "weight"] = 5.0

    assert frame["weight"].tolist() == [5.0, 0.0, 1.0, 0.5]
    assert found.frequencies.toarray().tolist() == [[-0.3, 0, 0], [1.0, 0.5, 0]]


def test_the_wide_table_has_a_row_an_image_and_a_column_a_term(found: WordMatrix) -> None:
    frame = found.pivot()

    assert frame.index.tolist() == [7, 5]
    assert frame.columns.tolist() == ["a", "b", "c"]
    assert (frame.index.name, frame.columns.name) == ("image_id", "term")
    assert frame.to_numpy().tolist() == [[-0.3, 0, 0], [1.0, 0.5, 0]]


@pytest.mark.parametrize("twin", [copy.copy, lambda found: pickle.loads(pickle.dumps(found))])
def test_a_copy_knows_all_that_the_result_knows(found: WordMatrix, twin: Any) -> None:
    other = twin(found)

    assert type(other) is WordMatrix
    assert other.frequencies.toarray().tolist() == found.frequencies.toarray().tolist()
    assert (other.image_ids.tolist(), other.missing, other.reference) == ([7, 5], (9,), "terms_20k")


def test_without_polars_the_long_table_says_what_to_install(
    found: WordMatrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'nvcatalog\[polars\]'"):
        found.pl()


def test_no_images_give_empty_tables() -> None:
    none = WordMatrix(*words_to_matrix([], table_of([])))

    assert (len(none.df()), none.pivot().shape, none.missing) == (0, (0, 0), ())
