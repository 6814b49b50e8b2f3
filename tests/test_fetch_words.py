"""Neurosynth's terms come beside the files, and their lack costs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import fetching
import numpy as np
import pytest
from fetching import FOUR, SEVEN_DAYS_AGO, ids, outcomes_of, write
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world
from scipy.sparse import csr_matrix

from nvcatalog import Catalog
from nvcatalog._store import AbsentStore, Store
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import (
    CatalogLockedError,
    IncompleteWarning,
    WordsWarning,
)
from nvcatalog.matrix import find_words

if TYPE_CHECKING:
    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")


# Words


def test_terms_come_as_a_dense_matrix_with_a_row_an_image(fetch: Fetch, world: World) -> None:
    maps = fetch(image_ids=[8718, 10426, 3], fetch_neurosynth_words=True)
    frequencies, vocabulary = maps.word_frequencies, maps.vocabulary
    assert type(frequencies) is np.ndarray
    assert frequencies.dtype == np.float64
    assert frequencies.shape == (3, vocabulary.size)
    assert vocabulary.dtype.kind == "U"
    assert list(vocabulary) == sorted(vocabulary)
    for row, image_id in enumerate([8718, 10426, 3]):
        assert dict(zip(vocabulary, frequencies[row], strict=True)) == world.words(image_id)


def test_an_image_without_terms_is_a_row_of_zeros(fetch: Fetch, server: DemoServer, world: World) -> None:
    world.set_words(4, None)
    world.set_words(8718, 413)
    with pytest.warns(WordsWarning, match="2 of 4 images") as warned:
        maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    assert warned[0].filename == fetching.__file__
    assert maps.word_frequencies.any(axis=1).tolist() == [True, False, False, True]
    assert outcomes_of(maps, "words") == {3: "downloaded", 4: "not_found", 8718: "not_found", 8719: "downloaded"}
    assert not maps.report.missing


def test_terms_that_neurosynth_has_not_are_warned_of_once_and_not_asked_for_again(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    world.set_words(4, 404)
    with pytest.warns(WordsWarning, match="has no such image"):
        fetch(collection_ids=[3], fetch_neurosynth_words=True)
    server.reset_log()
    for mode in ("download_new", "offline"):
        maps = fetch(collection_ids=[3], fetch_neurosynth_words=True, mode=mode)
        assert outcomes_of(maps, "words")[4] == "not_found"
    assert server.requests == 0
    world.set_words(4, {"pain": 0.5})
    write(data_dir, SEVEN_DAYS_AGO)
    maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    assert outcomes_of(maps, "words")[4] == "downloaded"
    assert server.requests == 1


def test_neurosynth_is_not_asked_about_atlases_and_that_is_warned_of_once(
    fetch: Fetch, server: DemoServer
) -> None:
    with pytest.warns(WordsWarning, match="no atlases"):
        maps = fetch(image_ids=[14227, 3], fetch_neurosynth_words=True)
    assert maps.word_frequencies.any(axis=1).tolist() == [False, True]
    assert len(server.hits("/api/decode/")) == 1
    fetch(image_ids=[14227, 3], fetch_neurosynth_words=True)


def test_when_nobody_has_terms_both_are_none_with_a_warning(fetch: Fetch, world: World) -> None:
    world.set_words(3, None)
    with (
        pytest.warns(WordsWarning, match="No term is known") as warned,
        pytest.warns(WordsWarning, match="1 of 1"),
    ):
        maps = fetch(image_ids=[3], fetch_neurosynth_words=True)
    assert maps.word_frequencies is None
    assert maps.vocabulary is None
    assert fetching.__file__ in {warning.filename for warning in warned}
    with pytest.warns(WordsWarning, match="No term is known"):
        fetch(fetch_neurosynth_words=True)


def test_words_may_stay_sparse(fetch: Fetch) -> None:
    dense = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    sparse = fetch(collection_ids=[3], fetch_neurosynth_words=True, sparse_words=True)
    assert isinstance(sparse.word_frequencies, csr_matrix)
    assert sparse.word_frequencies.dtype == np.float64
    assert (sparse.word_frequencies.toarray() == dense.word_frequencies).all()
    assert (sparse.vocabulary == dense.vocabulary).all()


def test_words_that_are_not_vectorized_are_fetched_all_the_same(fetch: Fetch, data_dir: Path) -> None:
    maps = fetch(image_ids=[3], fetch_neurosynth_words=True, vectorize_words=False)
    assert "word_frequencies" not in maps
    assert "vocabulary" not in maps
    assert Path(maps.images_meta[0]["ns_words_absolute_path"]).is_file()
    frequencies, vocabulary = Catalog(data_dir).words([3])
    assert frequencies.shape == (1, vocabulary.size)


def test_words_are_not_part_of_an_answer_nobody_asked_for_them_in(fetch: Fetch, server: DemoServer) -> None:
    maps = fetch(image_ids=[3])
    assert "word_frequencies" not in maps
    assert not server.hits("/api/decode/")
    assert [outcome.kind for outcome in maps.report] == ["image"]


def test_words_can_be_had_later_without_the_file_again(fetch: Fetch, server: DemoServer) -> None:
    fetch(collection_ids=[3])
    server.reset_log()
    maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    assert maps.report.counts == {"cached": 4, "downloaded": 4}
    assert {hit.path for hit in server.log} == {"/api/decode/"}


@pytest.mark.parametrize("fault", [faults.html(), faults.cut_json(), faults.nan_json(), faults.status(503)],
                         ids=lambda fault: fault.name)  # fmt: skip
def test_a_bad_answer_of_neurosynth_is_not_stored_and_asked_for_again(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World, fault: faults.Fault
) -> None:
    server.fail("/api/decode/", fault, query={"neurovault": 4})
    with pytest.warns(IncompleteWarning, match="words 4 failed"):
        maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    assert ids(maps) == FOUR
    assert maps.word_frequencies.any(axis=1).tolist() == [True, False, True, True]
    assert not list((data_dir / "neurovault" / "collection_3").glob("neurosynth_words_for_image_4.json"))
    server.heal()
    server.reset_log()
    maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    assert maps.word_frequencies.any(axis=1).all()
    assert server.requests == 1


def test_neurosynth_being_down_costs_no_file(fetch: Fetch, server: DemoServer) -> None:
    server.fail("/api/decode/", faults.status(502))
    with (
        pytest.warns(IncompleteWarning, match=r"\(Neurosynth: .* Stopped early\."),
        pytest.warns(WordsWarning, match="No term"),
    ):
        maps = fetch(collection_ids=[555], fetch_neurosynth_words=True)
    assert len(maps.images) == 20
    assert set(outcomes_of(maps).values()) == {"downloaded"}
    assert set(outcomes_of(maps, "words").values()) == {"failed"}
    assert len(server.hits("/api/decode/")) < 10


def test_words_of_an_image_whose_file_cannot_be_had_disturb_nobody(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    world.broken_media(4)
    with pytest.warns(IncompleteWarning, match="image 4 not_found"):
        maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    for row, image_id in enumerate([3, 8718, 8719]):
        assert dict(zip(maps.vocabulary, maps.word_frequencies[row], strict=True)) == world.words(image_id)
    assert list(outcomes_of(maps, "words")) == [3, 8718, 8719]


def test_a_warning_that_is_an_error_costs_no_row(fetch: Fetch, data_dir: Path) -> None:
    with pytest.raises(WordsWarning):  # as everywhere in these tests, a warning is an error
        fetch(image_ids=[14227], fetch_neurosynth_words=True)
    assert Catalog(data_dir).sql("SELECT count(*) FROM files").fetchall() == [(1,)]


def test_a_catalog_taken_by_somebody_meanwhile_costs_no_terms(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fetch(collection_ids=[3], fetch_neurosynth_words=True)

    def taken(store: Store, *rest: Any) -> Any:
        if isinstance(store, AbsentStore):
            return find_words(store, *rest)
        raise CatalogLockedError("held by another process")

    monkeypatch.setattr("nvcatalog.bunch.find_words", taken)
    maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    assert (maps.word_frequencies == expected.word_frequencies).all()
