"""Stand in for ``nilearn.datasets.neurovault``: its fetchers, filters and default terms under their names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvcatalog import neurosynth
from nvcatalog.errors import WordsWarning
from nvcatalog.fetch import fetch_neurovault, fetch_neurovault_ids
from nvcatalog.filters import (
    Contains,
    GreaterOrEqual,
    GreaterThan,
    IsIn,
    IsNull,
    LessOrEqual,
    LessThan,
    NotContains,
    NotEqual,
    NotIn,
    NotNull,
    Pattern,
    ResultFilter,
    basic_collection_terms,
    basic_image_terms,
)
from nvcatalog.resample import STD_AFFINE

if TYPE_CHECKING:
    from sklearn.utils import Bunch

__all__ = [
    "STD_AFFINE",
    "Contains",
    "GreaterOrEqual",
    "GreaterThan",
    "IsIn",
    "IsNull",
    "LessOrEqual",
    "LessThan",
    "NotContains",
    "NotEqual",
    "NotIn",
    "NotNull",
    "Pattern",
    "ResultFilter",
    "basic_collection_terms",
    "basic_image_terms",
    "fetch_neurovault",
    "fetch_neurovault_auditory_computation_task",
    "fetch_neurovault_ids",
    "neurosynth_words_vectorized",
]


def fetch_neurovault_auditory_computation_task(
    data_dir: str | os.PathLike[str] | None = None,
    verbose: int = 1,
    *,
    timeout: float = 10.0,
    base: str | os.PathLike[str] | None = None,
) -> Bunch:
    """Fetch one Z map, of mental subtraction upon spoken instructions, which is handy for trying things out.

    It is image 32980: https://neurovault.org/images/32980/

    Parameters
    ----------
    data_dir : path-like or None
        Where ``neurovault/`` is or will be, as in :func:`~nvcatalog.fetch_neurovault_ids`.
    verbose : int
        0 is quiet, 1 gives a one-line summary, 2 a progress bar too, 3 also logs every request.
    timeout : float
        Seconds to wait for a connection, and for the next byte of an answer.
    base : path-like or None
        A shared folder that may have it, as in :func:`~nvcatalog.fetch_neurovault_ids`.

    Returns
    -------
    sklearn.utils.Bunch
        As from :func:`~nvcatalog.fetch_neurovault_ids`, with one image.

    Examples
    --------
    >>> from nvcatalog import fetch_neurovault_auditory_computation_task
    >>> fetch_neurovault_auditory_computation_task(verbose=0).images_meta[0]["contrast_definition"]
    'auditory calculation vs baseline'
    """
    return fetch_neurovault_ids(image_ids=[32980], data_dir=data_dir, verbose=verbose, timeout=timeout, base=base)


def neurosynth_words_vectorized(
    word_files: Iterable[str | os.PathLike[str] | None], verbose: int = 3, **kwargs: Any
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Make the matrix of terms from the files of Neurosynth's answers.

    The fetchers give it as ``word_frequencies`` already, and :meth:`nvcatalog.Catalog.words` for any images;
    this is for scripts that pick files themselves.

    Parameters
    ----------
    word_files : iterable of path-like or None
        The files, such as each image's ``ns_words_absolute_path``; None for an image that has none.
    verbose : int
        Taken as nilearn takes it; nothing is printed.
    **kwargs
        For :class:`sklearn.feature_extraction.DictVectorizer`.

    Returns
    -------
    frequencies : numpy.ndarray of shape (files, terms) or None
        The weights; a row of zeros where a file gives none.
    vocabulary : numpy.ndarray of str, shape (terms,), or None
        The terms, sorted. Both are None when no file gives any.

    Warns
    -----
    WordsWarning
        For each file that cannot be read, and when no file gives a term.

    Examples
    --------
    >>> maps = fetch_neurovault_ids(image_ids=[10426], fetch_neurosynth_words=True, verbose=0)
    >>> paths = [meta.get("ns_words_absolute_path") for meta in maps.images_meta]
    >>> frequencies, vocabulary = neurosynth_words_vectorized(paths)
    >>> bool((frequencies == maps.word_frequencies).all())
    True
    """
    from sklearn.feature_extraction import DictVectorizer

    words = list(map(_words_in, word_files))
    if not any(words):
        warnings.warn("None of these files gives a term", WordsWarning, stacklevel=2)
        return None, None
    vectorizer = DictVectorizer(**{**kwargs, "sparse": False})
    frequencies: np.ndarray = vectorizer.fit_transform(words)
    return frequencies, np.asarray(vectorizer.feature_names_)


def _words_in(path: str | os.PathLike[str] | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        return neurosynth.read_answer(Path(path).read_bytes()).weights
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} gives no terms ({error}); its row is zeros", WordsWarning, stacklevel=3)
        return {}
