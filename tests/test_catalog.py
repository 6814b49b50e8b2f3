"""The catalog as people meet it: opens nothing until asked, and where there is none it says so and makes none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from waiting import PATIENCE_S

from nvcatalog import Catalog, NVCatalogError, fetch_neurovault_ids
from nvcatalog._batch import Batch, Words
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import (
    CatalogCorruptError,
    CatalogWarning,
    DataDirError,
    InvalidIdError,
    InvalidIdTypeError,
    InvalidOptionError,
    InvalidOptionTypeError,
    QueryError,
    SnapshotError,
    SnapshotWarning,
    WordsWarning,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def world() -> World:
    world = World.empty()
    world.add_collection(id=3, images=[{"id": 31}, {"id": 32}])
    world.add_collection(id=4, images=[{"id": 41}])
    return world


@pytest.fixture
def catalog(server: DemoServer, data_dir: Path) -> Catalog:
    """Return the catalog of three images with their terms."""
    fetch_neurovault_ids([3, 4], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)
    return Catalog(data_dir)


def test_a_catalog_knows_its_folder_and_opens_nothing_until_asked(data_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog = Catalog(data_dir)

    assert catalog.folder == data_dir / "neurovault"
    assert repr(catalog) == f"Catalog({str(data_dir)!r})"
    assert not data_dir.exists()


def test_the_folder_is_found_as_nilearn_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path / "theirs"))
    assert Catalog().folder == tmp_path / "theirs" / "neurovault"
    monkeypatch.delenv("NILEARN_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Catalog().folder == tmp_path / "nilearn_data" / "neurovault"
    assert Catalog("~/mine").folder == tmp_path / "mine" / "neurovault"


def test_a_file_in_the_way_is_said_to_be_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")

    with pytest.raises(DataDirError, match="is a file"):
        Catalog(tmp_path / "data")


ASK: dict[str, Callable[[Catalog], object]] = {
    "sql": lambda catalog: catalog.sql("SELECT count(*) FROM images").fetchall(),
    "query": lambda catalog: catalog.query("images_by_term", term="pain", limit=3).fetchall(),
    "words": lambda catalog: catalog.words([1, 2])[0].toarray().tolist(),
}


@pytest.mark.parametrize("way", ASK)
@pytest.mark.parametrize("folder_exists", [True, False])
def test_where_there_is_no_catalog_the_answer_is_empty_and_says_so(
    data_dir: Path, way: str, *, folder_exists: bool
) -> None:
    catalog = Catalog(data_dir)
    if folder_exists:
        catalog.folder.mkdir(parents=True)

    with pytest.warns(CatalogWarning, match=f"There is no catalog in {catalog.folder}") as caught:
        answer = ASK[way](catalog)

    assert answer == {"sql": [(0,)], "query": [], "words": [[], []]}[way]
    assert [warning.filename for warning in caught] == [__file__], "it does not point at who asked"
    assert data_dir.exists() == folder_exists
    assert not folder_exists or not list(catalog.folder.iterdir())


def test_there_is_nothing_to_publish_where_there_is_no_catalog(data_dir: Path) -> None:
    with pytest.raises(SnapshotError, match="has no catalog yet: fetch something, or adopt"):
        Catalog(data_dir).snapshot()

    assert not data_dir.exists()


def test_one_catalog_sees_what_was_fetched_after_it_was_made(server: DemoServer, data_dir: Path) -> None:
    catalog = Catalog(data_dir)
    fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)
    assert catalog.sql("SELECT image_id FROM local_images ORDER BY 1").fetchall() == [(31,), (32,)]

    fetch_neurovault_ids([4], data_dir=data_dir, verbose=0)

    assert catalog.sql("SELECT image_id FROM local_images ORDER BY 1").fetchall() == [(31,), (32,), (41,)]


def test_another_process_may_write_between_two_questions(catalog: Catalog) -> None:
    catalog.sql("SELECT 1")

    script = "import sys, duckdb; duckdb.connect(sys.argv[1]).execute(\"UPDATE images SET name = 'theirs'\")"
    subprocess.run(
        [sys.executable, "-c", script, str(catalog.folder / "catalog.duckdb")], check=True, timeout=PATIENCE_S
    )

    assert catalog.sql("SELECT DISTINCT name FROM images").fetchall() == [("theirs",)]


def test_words_are_those_of_the_fetch_in_the_order_asked_for(
    catalog: Catalog, data_dir: Path, world: World
) -> None:
    maps = fetch_neurovault_ids([3, 4], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)

    frequencies, vocabulary = catalog.words([31, 32, 41])
    np.testing.assert_array_equal(frequencies.toarray(), maps.word_frequencies)
    assert vocabulary.tolist() == maps.vocabulary.tolist()

    turned, same_vocabulary = catalog.words(["41", "https://neurovault.org/images/31/"])
    np.testing.assert_array_equal(turned.toarray(), maps.word_frequencies[[2, 0]])
    assert same_vocabulary.tolist() == maps.vocabulary.tolist()


def test_words_of_an_answer_are_in_its_order(catalog: Catalog, data_dir: Path) -> None:
    maps = fetch_neurovault_ids(image_ids=[41, 31], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)

    found = catalog.words(bunch=maps)

    assert found.image_ids.tolist() == [41, 31]
    np.testing.assert_array_equal(found.frequencies.toarray(), maps.word_frequencies)
    with pytest.raises(InvalidOptionError, match=r"give one of where, bunch and image_ids .*got where and bunch"):
        catalog.words(bunch=maps, where="true")
    with pytest.raises(InvalidOptionError, match="bunch is a list; give what a fetcher returned"):
        catalog.words(bunch=[31])


def test_words_of_an_image_asked_for_twice_are_two_rows(catalog: Catalog) -> None:
    once, vocabulary = catalog.words([31, 41])
    again, same_vocabulary = catalog.words(np.array([31, 41, 31]))

    np.testing.assert_array_equal(again.toarray(), once.toarray()[[0, 1, 0]])
    assert same_vocabulary.tolist() == vocabulary.tolist()


def test_an_image_without_terms_is_a_row_of_zeros(catalog: Catalog) -> None:
    with pytest.warns(
        WordsWarning, match=r"Of 1 images no terms are here, .* zeros: 99; 1 of them unknown"
    ) as warned:
        frequencies, vocabulary = catalog.words([99, 31])

    assert warned[0].filename == __file__

    assert frequencies.shape == (2, len(vocabulary))
    assert frequencies[0].nnz == 0
    assert frequencies[1].nnz == len(vocabulary)


@pytest.mark.parametrize(
    ("ids", "error"), [([0], InvalidIdError), (["x"], InvalidIdError), ([1.5], InvalidIdTypeError)]
)
def test_words_of_what_is_no_id_are_refused(
    data_dir: Path, ids: list[object], error: type[NVCatalogError]
) -> None:
    with pytest.raises(error):
        Catalog(data_dir).words(ids)  # type: ignore[arg-type]  # what people type


def test_queries_by_name_take_their_parameters_either_way(catalog: Catalog) -> None:
    by_keyword = catalog.query("top_terms", image_id=31, limit=3)
    by_mapping = catalog.query("top_terms", {"image_id": 31, "limit": 3})

    assert by_keyword.fetchall() == by_mapping.fetchall()
    assert len(by_keyword) == 3


def test_whatever_takes_a_condition_takes_its_values_by_keyword(catalog: Catalog, tmp_path: Path) -> None:
    one, gave = "image_id = $n", {"n": 41}

    assert catalog.words(where=one, n=41).image_ids.tolist() == [41]
    assert [each.collection_id for each in catalog.cite(where=one, n=41).collections] == [4]
    assert catalog.prune(one, n=41, dry_run=True, verbose=0).images == 1
    assert '"image_id": 41' in catalog.freeze(tmp_path / "a.json", where=one, n=41, verbose=0).read_text()
    lines = catalog.export(tmp_path / "a.csv", "images", where=one, n=41, verbose=0).read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["image_id", "41"]
    with pytest.raises(QueryError, match="n"):
        catalog.cite(where=one, params=gave, n=41)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("words", "terms", "%t%"),
        ("words", "min_abs_weight", 0.5),
        ("words", "gone", True),
        ("export", "format", "csv"),
        ("to_nimads", "study", "doi"),
        ("freeze", "Verbose", 0),
        ("cite", "private", False),
        ("prune", "older_than", 3),
    ],
)
def test_a_value_whose_name_is_an_option_goes_into_params(
    catalog: Catalog, tmp_path: Path, method: str, option: str, value: Any
) -> None:
    place = [tmp_path / "out"] if method in ("export", "freeze") else []
    condition = f"image_id = 41 AND name <> '$name' AND ${option}::VARCHAR IS NOT NULL"

    with pytest.raises(QueryError, match=rf"option of {method}; .* give it in params=\{{'{option.lower()}': …}}"):
        getattr(catalog, method)(*place, where=condition, **{option.lower(): value})

    assert catalog.cite(where=condition, params={option: value}).collections[0].collection_id == 4


def test_a_keyword_that_is_no_value_of_a_condition_is_refused(catalog: Catalog) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"dryrun": True}, "prune has no option dryrun; did you mean dry_run"),
        ({"where": "image_id = 41", "dryrun": True}, "prune has no option dryrun; did you mean dry_run"),
        ({"where": "image_id = 41", "n": 3}, r"the condition has no parameter \$n; it has none"),
        ({"image_ids": [41], "n": 3}, r"prune has no option n; if it is the value of a \$n, give where too"),
    ]
    for keywords, told in refused:
        with pytest.raises((InvalidOptionTypeError, QueryError), match=told):
            catalog.prune(**keywords, verbose=0)

    assert len(catalog.sql("FROM files")) == 3


def test_what_names_the_images_may_write_to_the_catalog(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.2")

    def named() -> Iterator[int]:
        catalog.add_words(
            pd.DataFrame({"image_id": [41], "term": ["x"], "weight": [1]}), reference="mine", replace=True
        )
        yield 41

    assert [each.collection_id for each in catalog.cite(image_ids=named()).collections] == [4]


def test_a_snapshot_is_written_when_asked_for(catalog: Catalog) -> None:
    first, second = catalog.snapshot(), catalog.snapshot()

    assert first != second
    assert (second / "images").is_dir()
    assert (catalog.folder / "snapshots" / "CURRENT").read_text() == f"{second.name}\n"


def test_adopting_publishes_what_was_taken_over(catalog: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "copy" / "neurovault"
    for name in ("collection_3", "collection_4"):
        (folder / name).mkdir(parents=True)
        for file in (catalog.folder / name).iterdir():
            os.link(file, folder / name / file.name)

    report = Catalog(tmp_path / "copy").adopt(verbose=0)

    assert [(outcome.id, outcome.status) for outcome in report] == [(n, "adopted") for n in (31, 32, 41)]
    assert Catalog(tmp_path / "copy").sql("SELECT count(*) FROM files").fetchall() == [(3,)]
    assert (folder / "snapshots" / "CURRENT").is_file()


def test_what_cannot_be_published_after_adopting_is_a_warning_at_the_line_that_adopted(catalog: Catalog) -> None:
    shutil.rmtree(catalog.folder / "snapshots")
    (catalog.folder / "snapshots").write_text("a file in the way")

    with pytest.warns(SnapshotWarning, match="The Parquet snapshot was not published") as caught:
        catalog.adopt(verbose=0)

    assert [warning.filename for warning in caught] == [__file__]


def test_a_broken_catalog_is_put_right_as_the_error_advises(catalog: Catalog) -> None:
    path = catalog.folder / "catalog.duckdb"
    path.write_bytes(os.urandom(100_000))
    with pytest.raises(CatalogCorruptError, match=r"Rebuild it .*nvcatalog rebuild --data-dir"):
        catalog.sql("SELECT 1")

    catalog.rebuild(verbose=0)

    assert catalog.sql("SELECT image_id FROM files ORDER BY 1").fetchall() == [(31,), (32,), (41,)]


def test_a_catalog_in_a_folder_that_is_reached_through_a_link_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "real" / "neurovault").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Store(tmp_path / "real" / "neurovault").land(Batch(words={1: Words({"pain": 0.5}, None)}))

    assert Catalog(tmp_path / "link").sql("SELECT term FROM image_words").fetchall() == [("pain",)]
