"""The answer has a row of terms for each image, those that could not land yet included."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sklearn.utils import Bunch

from nvcatalog._batch import Batch, Words
from nvcatalog._store import Store
from nvcatalog.bunch import add_words, build_bunch
from nvcatalog.errors import WordsWarning
from nvcatalog.known import Known, KnownCollection, KnownImage, LocalFile
from nvcatalog.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a catalog that holds terms of the images 1 and 2."""
    store = Store(tmp_path)
    store.land(Batch(words={1: Words({"pain": 0.5, "fear": -0.25}, None), 2: Words({"pain": 0.125}, None)}))
    return store


def matrix(bunch: Bunch) -> list[list[float]]:
    frequencies: np.ndarray = bunch.word_frequencies
    rows: list[list[float]] = frequencies.tolist()
    return rows


def test_terms_that_wait_to_be_landed_go_before_those_they_will_replace(store: Store) -> None:
    bunch = Bunch()
    unlanded = Batch(words={2: Words({"joy": 0.75}, None), 3: Words({"pain": 1.0}, None)})
    add_words(bunch, store, unlanded, [3, 1, 2], sparse=False)
    assert bunch.vocabulary.tolist() == ["fear", "joy", "pain"]
    assert matrix(bunch) == [[0, 0, 1.0], [-0.25, 0, 0.5], [0, 0.75, 0]]


def test_terms_of_images_that_are_not_in_the_answer_stay_out_of_it(store: Store) -> None:
    bunch = Bunch()
    add_words(bunch, store, Batch(words={9: Words({"joy": 0.75}, None)}), [2], sparse=False)
    assert bunch.vocabulary.tolist() == ["pain"]
    assert matrix(bunch) == [[0.125]]


def test_terms_that_nobody_has_are_none(store: Store) -> None:
    bunch = Bunch()
    with pytest.warns(WordsWarning, match="No term is known"):
        add_words(bunch, store, Batch(), [9], sparse=False)
    assert (bunch.word_frequencies, bunch.vocabulary) == (None, None)


def test_paths_lead_to_the_file_wherever_its_row_says_it_is(tmp_path: Path) -> None:
    known = Known(collections={7: KnownCollection(7, {"id": 7, "name": "None"})})
    file = LocalFile("collection_3/image_1.nii.gz", 3, "present")  # it was another collection's once
    known.images[1] = KnownImage(1, 7, {"id": 1, "name": "pain"}, file=file)
    bunch = build_bunch(tmp_path, known, [1], Report())

    assert bunch.images == [str(tmp_path / "collection_3" / "image_1.nii.gz")]
    assert bunch.images_meta == [
        {"id": 1, "name": "pain", "relative_path": file.path, "absolute_path": bunch.images[0]}
    ]
    assert bunch.collections_meta == [
        {"id": 7, "name": None, "relative_path": "collection_7", "absolute_path": str(tmp_path / "collection_7")}
    ]


def test_paths_of_terms_and_resampled_maps_are_named_where_there_are_such_files(tmp_path: Path) -> None:
    known = Known(
        images={1: KnownImage(1, 7, {"id": 1}, file=LocalFile("collection_7/image_1.nii.gz", 3, "present"))}
    )
    (tmp_path / "collection_7").mkdir()
    (tmp_path / "collection_7" / "image_1_resampled.nii.gz").touch()
    (meta,) = build_bunch(tmp_path, known, [1], Report()).images_meta
    assert set(meta) == {
        "id", "relative_path", "absolute_path", "resampled_relative_path", "resampled_absolute_path",
    }  # fmt: skip
    assert meta["resampled_absolute_path"] == str(tmp_path / "collection_7" / "image_1_resampled.nii.gz")


def in_a_fresh_process(*lines: str) -> str:
    script = "\n".join(("import sys", "from nvcatalog._sklearn import bunch_class", *lines))
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_class_of_answers_is_scikit_learns_own_and_does_not_wait_for_the_rest_of_it() -> None:
    printed = in_a_fresh_process(
        "ours = bunch_class()",
        "print('sklearn' in sys.modules, 'scipy' in sys.modules)",
        "import pickle",
        "packed = pickle.dumps(ours(images=['a']))",
        "from sklearn.datasets import load_iris",
        "from sklearn.utils import Bunch",
        "print(ours is Bunch, isinstance(load_iris(), ours), bunch_class() is Bunch)",
        "print(pickle.loads(packed).images, type(pickle.loads(packed)) is Bunch)",
    )
    assert printed.splitlines() == ["False False", "True True True", "['a'] True"]


def test_where_scikit_learn_is_loaded_its_class_is_taken_from_there() -> None:
    printed = in_a_fresh_process("import sklearn.utils", "print(bunch_class() is sklearn.utils.Bunch)")
    assert printed == "True\n"


def test_where_the_class_cannot_be_loaded_alone_scikit_learn_is_imported() -> None:
    printed = in_a_fresh_process(
        "import nvcatalog._sklearn",
        "nvcatalog._sklearn._MODULE = 'sklearn.utils._elsewhere'",
        "nvcatalog._sklearn._spec_of_file = lambda: None",
        "ours = bunch_class()",
        "print(ours is sys.modules['sklearn.utils'].Bunch)",
    )
    assert printed == "True\n"
