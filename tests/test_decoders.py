"""Terms of any decoder land whole or not at all, and are served wherever terms are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from fetching import Once, few_collections, filled_once, outcomes_of
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting

from nvcatalog import Catalog, decoders, fetch_neurovault_ids, snapshot
from nvcatalog.errors import (
    IncompleteWarning,
    InvalidOptionError,
    InvalidOptionTypeError,
    MixedSetsError,
    SnapshotWarning,
    WordsError,
    WordsWarning,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")

MINE = {"image_id": [3, 4, 3], "term": ["pain", "tickle", "tickle"], "weight": [0.5, -1.5, 2.0]}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Once]:
    def fill(world: World, data_dir: Path) -> None:
        fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)
        fetch_neurovault_ids(image_ids=[8718], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)
        shutil.rmtree(data_dir / "neurovault/snapshots")

    with filled_once(tmp_path_factory.mktemp("once"), few_collections(), fill) as once:
        yield once


@pytest.fixture
def world(once: Once) -> World:
    return once.new_world()


@pytest.fixture
def server(once: Once, world: World, monkeypatch: pytest.MonkeyPatch) -> DemoServer:
    return once.as_new(world, monkeypatch)


@pytest.fixture
def catalog(once: Once, server: DemoServer, data_dir: Path) -> Catalog:
    """Return a catalog of four images, the third of which has Neurosynth's terms."""
    shutil.copytree(once.folder, data_dir, symlinks=True)
    return Catalog(data_dir)


def landed(catalog: Catalog) -> list[tuple[Any, ...]]:
    query = """
        SELECT image_id, reference, term, weight FROM image_words JOIN words_status USING (image_id)
        WHERE reference <> 'terms_20k' ORDER BY ALL
    """
    return catalog.sql(query).fetchall()


@pytest.mark.parametrize(
    "library",
    [
        *(pd.DataFrame, pl.DataFrame, pa.table, lambda rows: pd.DataFrame(rows).astype({"term": "category"})),
        lambda rows: pl.DataFrame(rows).with_columns(pl.col("term").cast(pl.Categorical)),
    ],
    ids=["pandas", "polars", "arrow", "categorical", "polars' own"],
)
def test_terms_of_any_dataframe_land(catalog: Catalog, library: Callable[[Any], Any]) -> None:
    assert catalog.add_words(library(MINE), reference="mine") == 2

    assert landed(catalog) == [
        (3, "mine", "pain", 0.5),
        (3, "mine", "tickle", 2.0),
        (4, "mine", "tickle", -1.5),
    ]


def test_they_are_served_wherever_terms_are(catalog: Catalog, fetch: Fetch) -> None:
    catalog.add_words(pd.DataFrame(MINE), reference="mine")

    assert catalog.words([4, 3]).frequencies.toarray().tolist() == [[0.0, -1.5], [0.5, 2.0]]
    assert catalog.query("images_by_term", term="tickle", limit=1).fetchall()[0][0] == 3
    maps = fetch(image_ids=[3, 4], fetch_neurosynth_words=True)
    assert maps.word_frequencies.tolist() == [[0.5, 2.0], [0.0, -1.5]]
    assert maps.vocabulary.tolist() == ["pain", "tickle"]
    with catalog.connect() as connection:
        query = "SELECT count(*) FROM image_words WHERE term = 'tickle'"
        assert connection.execute(query).fetchall() == [(2,)]


def test_they_never_mix_with_neurosynths(catalog: Catalog, fetch: Fetch) -> None:
    catalog.add_words(pd.DataFrame(MINE), reference="mine")

    with pytest.raises(MixedSetsError, match=r"'mine' \(2 images\), 'terms_20k' \(1 images\)"):
        catalog.words([3, 4, 8718])
    with pytest.warns(
        WordsWarning, match="rows of zeros for images whose terms are not of the largest set"
    ) as caught:
        maps = fetch(image_ids=[8718, 3, 4], fetch_neurosynth_words=True)
    assert maps.vocabulary.tolist() == ["pain", "tickle"]
    assert maps.word_frequencies.tolist() == [[0.0, 0.0], [0.5, 2.0], [0.0, -1.5]]
    assert "fetching.py" in caught[0].filename, "it does not point at who asked"


def test_what_the_catalog_gave_can_land_again(catalog: Catalog) -> None:
    theirs = catalog.words([8718])

    with pytest.raises(
        WordsError, match=r"1 images have Neurosynth's terms, or another set's \('terms_20k'\): 8718"
    ):
        catalog.add_words(theirs.df(), reference="terms_20k")
    assert catalog.add_words(theirs.df(), reference="terms_20k", replace=True) == 1

    again = catalog.words([8718])
    assert again.vocabulary.tolist() == theirs.vocabulary.tolist()
    np.testing.assert_array_equal(again.frequencies.toarray(), theirs.frequencies.toarray())


def test_a_decoders_new_terms_replace_all_of_its_old_ones(catalog: Catalog) -> None:
    catalog.add_words(pd.DataFrame(MINE), reference="mine")
    catalog.add_words(pd.DataFrame({"image_id": [3], "term": ["itch"], "weight": [1]}), reference="mine")

    assert landed(catalog) == [(3, "mine", "itch", 1.0), (4, "mine", "tickle", -1.5)]


def test_an_image_loses_terms_of_another_set_only_where_that_is_meant(catalog: Catalog, fetch: Fetch) -> None:
    both = pd.DataFrame(MINE | {"image_id": [3, 8718, 3]})

    with pytest.raises(WordsError, match=r"1 images have terms of another reference set \('terms_20k'\): 8718"):
        catalog.add_words(both, reference="mine")
    assert landed(catalog) == []

    assert catalog.add_words(both, reference="mine", replace=True) == 2
    assert catalog.words([3, 8718]).reference == "mine"


def test_no_fetch_replaces_what_was_added(catalog: Catalog, fetch: Fetch) -> None:
    theirs = catalog.words([8718]).df()
    catalog.add_words(pd.DataFrame(MINE | {"image_id": [3, 8718, 3]}), reference="mine", replace=True)
    before = landed(catalog)

    with pytest.warns(IncompleteWarning, match="its terms are 'mine', of add_words, which alone replaces them"):
        maps = fetch(image_ids=[3, 8718], fetch_neurosynth_words=True, mode="overwrite")

    assert landed(catalog) == before
    assert outcomes_of(maps, "words") == {3: "kept_old", 8718: "kept_old"}
    assert maps.vocabulary.tolist() == ["pain", "tickle"]
    assert b'"terms_20k"' in Path(maps.images_meta[1]["ns_words_absolute_path"]).read_bytes()

    fetch(image_ids=[14227])
    catalog.add_words(pd.DataFrame(MINE | {"image_id": [14227] * 3, "term": list("abc")}), reference="mine")
    with pytest.warns(IncompleteWarning, match="Neurosynth decodes no atlases"):
        maps = fetch(image_ids=[14227], fetch_neurosynth_words=True, mode="overwrite")
    assert outcomes_of(maps, "words") == {14227: "kept_old"}

    assert catalog.add_words(theirs, reference="terms_20k", replace=True) == 1
    maps = fetch(image_ids=[8718], fetch_neurosynth_words=True, mode="overwrite")
    assert outcomes_of(maps, "words") == {8718: "downloaded"}, "these are Neurosynth's again"


def test_what_was_added_is_forgotten_and_neurosynth_asked_again(catalog: Catalog, fetch: Fetch) -> None:
    theirs = catalog.words([8718]).df()
    with pytest.raises(WordsError, match="'mine' is no set of terms that add_words landed; nobody has added any"):
        catalog.forget_words(reference="mine")
    catalog.add_words(pd.DataFrame(MINE | {"image_id": [3, 8718, 3]}), reference="mine", replace=True)

    with pytest.raises(WordsError, match=r"'gclda' is no set .*; there are 'mine'"):
        catalog.forget_words(reference="gclda")
    with pytest.raises(InvalidOptionTypeError, match="takes the name of a set of terms: reference='mine'"):
        catalog.forget_words("mine")
    assert catalog.forget_words(4, reference="mine") == 0
    assert catalog.forget_words(["8718"], reference="mine") == 1
    tickle = "SELECT count(*) FROM terms WHERE term = 'tickle'"
    assert catalog.sql(tickle).fetchall() == [(1,)], "another image has it"

    assert [id_ for id_, *_ in landed(catalog)] == [3, 3]
    maps = fetch(image_ids=[8718], fetch_neurosynth_words=True)
    assert outcomes_of(maps, "words") == {8718: "adopted"}, "its answer is beside the map"
    pd.testing.assert_frame_equal(catalog.words([8718]).df(), theirs)
    assert catalog.forget_words(reference="mine") == 1
    assert landed(catalog) == []
    assert catalog.sql(tickle).fetchall() == [(0,)]


def test_what_was_added_as_neurosynths_is_forgotten_of_the_images_that_are_named(
    catalog: Catalog, fetch: Fetch
) -> None:
    theirs = catalog.words([8718]).df()
    catalog.add_words(theirs.assign(weight=0.5), reference="terms_20k", replace=True)

    with pytest.raises(WordsError, match="'terms_20k' is a set of Neurosynth's; name the images"):
        catalog.forget_words(reference="terms_20k")
    assert catalog.forget_words([8718, 3], reference="terms_20k") == 1

    fetch(image_ids=[8718], fetch_neurosynth_words=True)
    pd.testing.assert_frame_equal(catalog.words([8718]).df(), theirs)


def test_images_that_the_catalog_does_not_know_are_refused(catalog: Catalog, tmp_path: Path) -> None:
    strangers = pd.DataFrame(MINE | {"image_id": [3, 99, 98]})

    with pytest.raises(WordsError, match=r"knows nothing of 2 images: 98, 99\. Fetch or sync"):
        catalog.add_words(strangers, reference="mine")
    assert landed(catalog) == []
    with pytest.raises(WordsError, match="has no catalog yet"):
        Catalog(tmp_path / "elsewhere").add_words(strangers, reference="mine")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"weight": None}, "has no column weight; it has image_id, term"),
        ({"score": [1, 2, 3]}, "columns that would be lost: score. Give image_id, term, weight"),
        ({"image_id": [3.0, 4.0, 3.0]}, "image_id is of type double; give integers"),
        ({"image_id": [True, True, True]}, "image_id is of type bool"),
        ({"image_id": [3, None, 3]}, r"row 1: image_id is missing \(None or NaN\)"),
        ({"image_id": [3, 3, -4]}, "row 2: image_id is -4"),
        ({"image_id": [2**40, 3, 3]}, f"row 0: image_id is {2**40}"),
        ({"term": [1, 2, 3]}, "term is of type int64; give text"),
        ({"term": ["pain", None, "itch"]}, r"row 1: term is missing \(None or NaN\)"),
        ({"term": ["pain", "itch", ""]}, "row 2: term is ''"),
        ({"weight": ["a", "b", "c"]}, "weight is of type string; give numbers"),
        ({"weight": [True, True, True]}, "weight is of type bool"),
        ({"weight": [0.5, None, 1.0]}, r"row 1: weight is missing \(None or NaN\)"),
        ({"weight": [0.5, 1.0, float("nan")]}, "row 2: weight is nan"),
        ({"weight": [float("-inf"), 1.0, 1.0]}, "row 0: weight is -inf"),
        ({"image_id": [3, 3, 3]}, r"more than one weight for 'tickle' of image 3 \(rows 1, 2\)"),
        ({"image_id": pa.array([2**63 + 1, 3, 3], pa.uint64())}, f"row 0: image_id is {2**63 + 1}"),
        ({"term": ["pain", " \t", "itch"]}, r"row 1: term is ' \\t'"),
        ({"term": ["pain", "itch", "ti\0ckle"]}, r"row 2: term is 'ti\\x00ckle'"),
        ({"term": ["pain", "itch", "tickle\x85"]}, r"row 2: term is 'tickle\\x85'"),
        ({"term": ["pain", "itch", "x" * 1_001]}, "row 2: term is 'xxx"),
    ],
)
def test_what_is_no_table_of_terms_is_refused(columns: dict[str, Any], message: str) -> None:
    table = {name: values for name, values in (MINE | columns).items() if values is not None}

    with pytest.raises(WordsError, match=message):
        decoders.as_long_table(pa.table(table))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_id": [3, "4", 3]}, "row 1: image_id is '4'"),
        ({"image_id": [3, 4, 2**70]}, f"row 2: image_id is {2**70}"),
        ({"term": ["pain", 1, "itch"]}, "row 1: term is 1"),
        ({"term": ["pain", "itch", "\ud800"]}, r"row 2: term is '\\ud800'"),
        ({"weight": [True, False, 1.0]}, "row 0: weight is True"),
        ({"weight": [1.0, 10**400, 1]}, "row 1: weight is 1000"),
        ({"weight": [0.5, 1j, 1.0]}, r"row 1: weight is 1j"),
    ],
)
def test_a_value_of_another_kind_among_the_objects_of_pandas_is_named(
    columns: dict[str, list[Any]], message: str
) -> None:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in (MINE | columns).items()})

    with pytest.raises(WordsError, match=message):
        decoders.as_long_table(frame)


@pytest.mark.parametrize(
    "table",
    [
        pd.concat([pd.DataFrame(MINE), pd.DataFrame(MINE)[["term"]]], axis=1),
        pa.table([[3], ["a"], ["b"], [1.0]], names=["image_id", "term", "term", "weight"]),
        pd.DataFrame(MINE).set_index(["image_id", "term"])["weight"],
        pd.DataFrame(MINE).astype({"weight": pd.SparseDtype(float)}),
    ],
    ids=["twice", "arrow", "series", "sparse"],
)
def test_a_table_of_another_shape_is_refused_in_words(table: Any) -> None:
    with pytest.raises(
        WordsError, match=r"the table (is no dataframe of image_id, term|has several columns term)"
    ):
        decoders.as_long_table(table)


@pytest.mark.parametrize("table", [[(3, "pain", 0.5)], MINE, None])
def test_what_is_no_table_at_all_is_refused(table: Any) -> None:
    with pytest.raises(WordsError, match="give a dataframe of pandas, polars or Arrow"):
        decoders.as_long_table(table)


def test_an_index_of_pandas_is_no_column_unless_it_is_named_as_one(catalog: Catalog) -> None:
    frame = pd.DataFrame(MINE)
    assert decoders.as_long_table(frame[frame["weight"] > 0]).num_rows == 2
    for index in ("image_id", ["image_id", "term"]):
        assert decoders.as_long_table(frame.set_index(index)).column("image_id").to_pylist() == [3, 4, 3]


def test_a_set_of_terms_needs_a_name(catalog: Catalog) -> None:
    none: list[Any] = ["", " ", "mine ", None, 3, "mi\0ne", "mi\nne", "\ud800", "x" * 201]
    for reference in none:
        with pytest.raises(InvalidOptionError, match="give the set of terms a name"):
            catalog.add_words(pd.DataFrame(MINE), reference=reference)


def test_an_empty_table_changes_nothing(catalog: Catalog) -> None:
    before = (catalog.folder / "catalog.duckdb").read_bytes()

    for nothing in (
        pd.DataFrame(MINE)[:0],
        pd.DataFrame(columns=[*MINE]),
        pl.DataFrame({name: [] for name in MINE}),
    ):
        assert catalog.add_words(nothing, reference="mine") == 0

    assert (catalog.folder / "catalog.duckdb").read_bytes() == before


def test_a_snapshot_that_cannot_be_published_is_warned_of_and_costs_no_term(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "publish", lambda store: "the disk is full")

    with pytest.warns(SnapshotWarning, match="the disk is full") as caught:
        catalog.add_words(pd.DataFrame(MINE), reference="mine")

    assert caught[0].filename == __file__
    assert len(landed(catalog)) == 3
