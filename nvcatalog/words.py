"""Turn the long table of terms into the matrix that analyses want: one row an image, one column a term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_matrix


def words_to_matrix(image_ids: Sequence[int], words: pa.Table) -> tuple[csr_matrix, np.ndarray]:
    """Return the matrix of weights and its vocabulary.

    Parameters
    ----------
    image_ids : sequence of int
        One a row, in the order wanted; an id without terms gives a row of zeros.
    words : pyarrow.Table
        ``image_id``, ``term`` and ``weight`` of these images, one row an (image, term), in any order.

    Returns
    -------
    frequencies : scipy.sparse.csr_matrix of float64, shape (images, terms)
        The weights, each the Pearson correlation of a map with a term's map: signed, unit-free. Explicit
        zeros are kept as stored entries.
    vocabulary : numpy.ndarray of str, shape (terms,)
        The terms in code point order, as scikit-learn's ``DictVectorizer`` sorts them.

    Raises
    ------
    ValueError
        When ``words`` holds an image that is none of ``image_ids``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from scipy.sparse import csr_matrix

    encoded = words.column("term").combine_chunks().dictionary_encode()
    terms = encoded.dictionary.to_pylist()
    order = sorted(range(len(terms)), key=terms.__getitem__)
    column_of = np.empty(len(terms), dtype=np.int64)
    column_of[order] = np.arange(len(terms))

    places_of = {id_: place for place, id_ in enumerate(dict.fromkeys(image_ids))}
    row_of = pc.index_in(words.column("image_id"), value_set=pa.array(list(places_of), pa.int32()))
    if row_of.null_count:
        raise ValueError("words of images that have no row")
    places = (row_of.to_numpy(), column_of[encoded.indices.to_numpy()])
    shape = (len(places_of), len(terms))
    frequencies = csr_matrix((words.column("weight").to_numpy(), places), shape=shape, dtype=np.float64)
    if len(places_of) < len(image_ids):
        frequencies = frequencies[[places_of[id_] for id_ in image_ids]]
    return frequencies, np.asarray([terms[place] for place in order], dtype=str)
