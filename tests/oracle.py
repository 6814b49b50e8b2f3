"""nilearn beside nvcatalog, over the same local server, and how to compare what they give."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nilearn.datasets.neurovault as theirs
import numpy as np
import pytest
from fetching import ids

from nvcatalog.demo import DemoServer

if TYPE_CHECKING:
    from fetching import Fetch
    from sklearn.utils import Bunch


@pytest.fixture
def nilearn_dir(tmp_path: Path) -> Path:
    """Return the folder of nilearn's own."""
    return tmp_path / "of_nilearn"


@pytest.fixture
def nilearn(server: DemoServer, nilearn_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Return nilearn's fetch_neurovault_ids, pointed at the local server and at a folder of its own."""
    point_nilearn_at(server, monkeypatch)

    def fetch(**options: Any) -> Bunch:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what nilearn warns of is not under test here
            return theirs.fetch_neurovault_ids(**{"data_dir": nilearn_dir, "verbose": 0} | options)

    return fetch


@pytest.fixture
def nilearn_filtered(server: DemoServer, nilearn_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Return nilearn's fetch_neurovault, likewise."""
    point_nilearn_at(server, monkeypatch)

    def fetch(**options: Any) -> Bunch:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return theirs.fetch_neurovault(**{"data_dir": nilearn_dir, "verbose": 0} | options)

    return fetch


def point_nilearn_at(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theirs, "_NEUROVAULT_COLLECTIONS_URL", f"{server.neurovault_url}/api/collections/")
    monkeypatch.setattr(theirs, "_NEUROVAULT_IMAGES_URL", f"{server.neurovault_url}/api/images/")
    monkeypatch.setattr(theirs, "_NEUROSYNTH_FETCH_WORDS_URL", f"{server.neurosynth_url}/api/decode/")
    # Its session lives for ever and would keep connections to the servers of former tests.
    monkeypatch.setattr(theirs._requests_session, "session", None, raising=False)
    # It prints errors and whole tracebacks at verbose=0 too.
    monkeypatch.setattr(theirs.logger, "log", lambda *_, **__: None)


@pytest.fixture
def ours(fetch: Fetch) -> Fetch:
    """Return our fetch_neurovault_ids, with a folder of its own."""
    return fetch


def without_paths(metas: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in meta.items() if not key.endswith("_path")} for meta in metas]


def files_in(data_dir: Path) -> dict[str, bytes]:
    """Return maps and terms by their place; metadata files are compared by what is in them."""
    home = data_dir / "neurovault"
    files = [*home.glob("collection_*/*.nii.gz"), *home.glob("collection_*/neurosynth_words*.json")]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


def sidecars_in(data_dir: Path) -> dict[str, dict[str, Any]]:
    home = data_dir / "neurovault"
    return {str(path.relative_to(home)): json.loads(path.read_bytes()) for path in home.rglob("*metadata.json")}


def assert_same(mine: Bunch, other: Bunch, *, but: dict[int, dict[str, Any]] | None = None) -> None:
    """Compare two answers: all but paths, order, and the values named in `but`, which theirs loses."""
    assert sorted(ids(mine)) == sorted(ids(other))
    place = {id_: row for row, id_ in enumerate(ids(other))}
    rows = [place[id_] for id_ in ids(mine)]
    for image_id, values in (but or {}).items():
        assert {key: other.images_meta[place[image_id]][key] for key in values} == dict.fromkeys(values)
        other.images_meta[place[image_id]].update(values)
    assert without_paths(mine.images_meta) == without_paths(other.images_meta[row] for row in rows)
    assert without_paths(mine.collections_meta) == without_paths(other.collections_meta[row] for row in rows)
    contents = [Path(path).read_bytes() for path in other.images]
    assert [Path(path).read_bytes() for path in mine.images] == [contents[row] for row in rows]
    assert ("word_frequencies" in mine) == ("word_frequencies" in other)
    if "word_frequencies" in mine:
        assert mine.vocabulary.dtype == other.vocabulary.dtype
        assert mine.vocabulary.tolist() == other.vocabulary.tolist()
        assert mine.word_frequencies.dtype == other.word_frequencies.dtype
        assert np.array_equal(mine.word_frequencies, other.word_frequencies[rows])
