"""The long table of terms becomes the very matrix that scikit-learn's DictVectorizer makes of the same words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, issparse
from sklearn.feature_extraction import DictVectorizer

from nvcatalog._batch import Words, long_table
from nvcatalog.words import words_to_matrix

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


def as_scikit_learn_does(
    image_ids: list[int], words: dict[int, dict[str, float]]
) -> tuple[csr_matrix, np.ndarray]:
    vectorizer = DictVectorizer(sparse=True)
    frequencies = vectorizer.fit_transform([words.get(id_, {}) for id_ in image_ids])
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


def test_an_image_given_twice_has_two_rows_zeros_and_all() -> None:
    frequencies, _ = words_to_matrix([2, 1, 2, 3], table_of([(2, "b", 0.5), (2, "a", 0.0), (1, "b", -0.3)]))

    assert frequencies.toarray().tolist() == [[0.0, 0.5], [0.0, -0.3], [0.0, 0.5], [0.0, 0.0]]
    assert frequencies.nnz == 5
    assert isinstance(frequencies, csr_matrix)
    assert frequencies.has_canonical_format


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
