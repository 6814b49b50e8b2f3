"""What nilearn.datasets.neurovault offers is offered under the same names, and does the same."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nilearn.datasets.neurovault as theirs
import numpy as np
import pytest
from fetching import no_waiting as no_waiting
from oracle import assert_same, point_nilearn_at
from waiting import PATIENCE_S

import nvcatalog
from nvcatalog import neurovault as ours
from nvcatalog.demo import DemoServer
from nvcatalog.errors import WordsWarning

if TYPE_CHECKING:
    from collections.abc import Callable


def public_names() -> set[str]:
    """Return what nilearn's module offers of its own, leaving out what it imports."""
    made = {
        name
        for name, thing in inspect.getmembers(theirs)
        if getattr(thing, "__module__", None) == theirs.__name__ and not name.startswith("_")
    }
    return made | {"STD_AFFINE"}


def test_every_public_name_of_nilearns_module_is_offered() -> None:
    assert set(ours.__all__) == public_names()
    assert len(ours.__all__) == len(set(ours.__all__)) > 15
    for name in ours.__all__:
        assert getattr(ours, name).__doc__


def test_it_is_imported_from_the_package_as_from_nilearns() -> None:
    script = (
        "from nvcatalog import fetch_neurovault_ids, neurovault\n"
        "print(neurovault.IsIn('a') == 'a', neurovault.fetch_neurovault_ids is fetch_neurovault_ids)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert said.stdout == "True True\n"


@pytest.mark.usefixtures("no_waiting")
def test_the_auditory_task_is_nilearns(
    server: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_nilearn_at(server, monkeypatch)

    mine = nvcatalog.fetch_neurovault_auditory_computation_task(tmp_path / "ours", 0, timeout=PATIENCE_S)
    other = theirs.fetch_neurovault_auditory_computation_task(tmp_path / "theirs", 0, PATIENCE_S)

    assert [meta["id"] for meta in mine.images_meta] == [32980]
    assert_same(mine, other)


# Terms from files


@pytest.fixture
def word_file(tmp_path: Path) -> Callable[[int, Any], Path]:
    """Return a function that writes an answer of Neurosynth."""

    def write(number: int, values: Any) -> Path:
        path = tmp_path / f"neurosynth_words_for_image_{number}.json"
        path.write_text(json.dumps({"data": {"values": values}}))
        return path

    return write


@pytest.mark.parametrize("options", [{}, {"sort": False}, {"dtype": np.float32}])
def test_the_matrix_of_files_is_nilearns(word_file: Callable[[int, Any], Path], options: dict[str, Any]) -> None:
    paths = [
        word_file(1, {"pain": 0.5, "motor": -0.25}),
        word_file(2, {"Word": 0.1 + 0.2, "motor": 0.0}),
        word_file(3, {"pain": 1}),
    ]

    mine, vocabulary = ours.neurosynth_words_vectorized(map(str, paths), 0, **options)
    other, their_vocabulary = theirs.neurosynth_words_vectorized(paths, 0, **options)

    assert mine is not None
    assert vocabulary is not None
    assert mine.dtype == other.dtype
    assert np.array_equal(mine, other)
    assert vocabulary.dtype == their_vocabulary.dtype
    assert vocabulary.tolist() == their_vocabulary.tolist()


def test_an_image_without_a_file_has_a_row_of_zeros(word_file: Callable[[int, Any], Path]) -> None:
    frequencies, vocabulary = ours.neurosynth_words_vectorized([None, word_file(1, {"pain": 0.5})])

    assert frequencies is not None
    assert vocabulary is not None
    assert frequencies.tolist() == [[0.0], [0.5]]
    assert vocabulary.tolist() == ["pain"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"data": {"values": {}}}', '{"data": {"values": {"a": ""}}}'])
def test_a_file_that_cannot_be_read_is_a_row_of_zeros_and_named(
    word_file: Callable[[int, Any], Path], tmp_path: Path, content: str
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(content)

    with pytest.warns(WordsWarning, match=r"bad\.json gives no terms.*row is zeros") as warned:
        frequencies, _ = ours.neurosynth_words_vectorized([word_file(1, {"pain": 0.5}), bad])

    assert frequencies is not None
    assert frequencies.tolist() == [[0.5], [0.0]]
    assert [each.filename for each in warned] == [__file__]


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with (
        pytest.warns(WordsWarning, match=r"gone\.json gives no terms.*No such file"),
        pytest.warns(WordsWarning, match="None of these files gives a term"),
    ):
        assert ours.neurosynth_words_vectorized([tmp_path / "gone.json"]) == (None, None)


def test_no_files_give_no_matrix_and_say_so() -> None:
    with pytest.warns(WordsWarning, match="None of these files gives a term"):
        assert ours.neurosynth_words_vectorized([]) == (None, None)
