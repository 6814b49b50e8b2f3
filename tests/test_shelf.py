"""Queries are found by name, those that ship and one's own, and say what is wrong with what they are given."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nvcatalog import Catalog, shelf
from nvcatalog._batch import Batch, Words
from nvcatalog._store import Store
from nvcatalog.errors import CatalogWarning, InvalidOptionError, QueryError, SelectionWarning

LARGE_MAPS = """\
-- The images of large files,
-- largest first.
--
-- What a file is large for is up to you.
-- $min_size: leave out smaller ones, in bytes (count, default 1000)
-- $names: those alone, however
--     they are written (texts, default NULL)
-- $anything: what the file does not say
SELECT image_id, file_size, $anything AS anything, '$nothing' AS text  -- $min_image is none either
FROM images
WHERE file_size >= $min_size AND ($names IS NULL OR list_contains($names::VARCHAR[], name))
ORDER BY file_size DESC, image_id
"""


def fill(folder: Path) -> Path:
    """Return a data folder with three images and their terms."""
    (folder / "neurovault").mkdir()
    batch = Batch(words={n: Words({"pain": n / 10, "001": -n / 20}, None) for n in (1, 2, 3)})
    batch.add_record("collection", {"id": 7, "name": "seven"})
    for id_ in (1, 2, 3):
        batch.add_record("image", {"id": id_, "collection_id": 7, "name": f"map {id_}", "file_size": 800 * id_})
    Store(folder / "neurovault").land(batch)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Return a catalog for tests that leave it and its folder as they are."""
    return Catalog(fill(tmp_path_factory.mktemp("data")))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return fill(tmp_path)


@pytest.fixture
def catalog(data_dir: Path) -> Catalog:
    return Catalog(data_dir)


def put(data_dir: Path, name: str, text: str) -> Path:
    """Put a query of one's own into the folder for them."""
    folder = data_dir / "neurovault" / "queries"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.sql").write_text(text, encoding="utf-8")
    return folder / f"{name}.sql"


# Those that ship


def test_a_query_takes_its_defaults_and_what_is_given(shared: Catalog) -> None:
    assert [row[0] for row in shared.query("images_by_term", term="pain").fetchall()] == [3, 2, 1]
    assert len(shared.query("images_by_term", {"term": "pain"}, limit=2)) == 2
    assert len(shared.query("images_by_term", term="pain", min_weight=0.2)) == 2
    assert shared.query("top_terms", image_id=3, n=1).fetchall() == [("pain", 0.3, None)]


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"term": "pain", "limit": "2"}, 2),
        ({"TERM": "pain"}, 3),
        ({"term": "001"}, 3),
        ({"term": "pain", "collection_ids": "7,8"}, 3),
        ({"term": "pain", "collection_ids": {7}}, 3),
        ({"term": "pain", "collection_ids": np.array([7])}, 3),
        ({"term": "pain", "collection_ids": pd.Series([7, 8])}, 3),
        ({"term": "pain", "collection_ids": []}, 0),
        ({"term": "pain", "limit": np.int64(1)}, 1),
        ({"term": "pain", "limit": None}, 3),
        ({"term": "pain", "min_weight": "NULL"}, 3),
    ],
)
def test_values_are_taken_as_people_have_them(shared: Catalog, given: dict[str, Any], rows: int) -> None:
    assert len(shared.query("images_by_term", given)) == rows


def test_a_date_may_be_a_date_or_text(shared: Catalog) -> None:
    assert shared.query("changed_since", date=date(2020, 1, 1)).fetchall() == []
    assert shared.query("changed_since", date="2020-01-01 12:00").fetchall() == []


def test_what_changed_on_the_day_itself_has_changed_since_that_day(data_dir: Path, catalog: Catalog) -> None:
    with Store(data_dir / "neurovault").writing() as connection:
        connection.execute("UPDATE images SET modify_date = '2026-01-02 00:00:00Z' WHERE image_id = 2")
    found = catalog.query("changed_since", date=date(2026, 1, 2)).fetchall()
    assert [row[:2] for row in found] == [("image", 2)]
    assert catalog.query("changed_since", date=date(2026, 1, 3)).fetchall() == []


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("image_by_term", {}, "there is no query 'image_by_term'; did you mean images_by_term"),
        ("zzz", {}, "there is no query 'zzz'; there are atlases, changed_since, "),
        ("../migrations/0001_create_catalog", {}, "there is no query"),
        ("top_terms.sql", {}, "did you mean top_terms"),
        ("", {}, "there is no query ''"),
        ("a\0b", {}, r"there is no query 'a\\x00b'"),
        ("a" * 100_000, {}, r"there is no query 'a{299}\.\.\.; there are"),
        (["a"], {}, r"\['a'\] is no name of a query"),
        ("top_terms", {"image_id": 3, "limt": 3}, "top_terms has no parameter limt; did you mean limit?"),
        ("top_terms", {"image_id": 3, "zzz": 3}, "top_terms has no parameter zzz; it has image_id, limit"),
        (
            "top_terms",
            {},
            r"top_terms needs a value for image_id: the image \(image id from words_status.image_id, required\)",
        ),
        ("terms_between", {}, "needs a value for a: the one set .*; b: the other set"),
        ("top_terms", {"image_id": 3, "n": 3, "limit": 3}, "top_terms: limit is given twice"),
        ("top_terms", {"image_id": None}, "image_id of top_terms is NULL; give the id of an image, such as 10426"),
        ("top_terms", {"image_id": "abc"}, "image_id of top_terms is 'abc'; give the id of an image"),
        ("top_terms", {"image_id": 3, "limit": "few"}, "limit of top_terms is 'few'; give an integer from 0"),
        (
            "top_terms",
            {"image_id": 3, "limit": 2**64},
            "limit of top_terms is 18.*give an integer .* fits 64 bits",
        ),
        ("changed_since", {"date": pd.NaT}, "date of changed_since is NaT; give a date"),
        ("collection_search", {"text": "\ud800"}, r"text of collection_search is '.ud800'; give text of whole"),
        ("top_terms", {"image_id": 3, "limit": -1}, "limit of top_terms is -1; give an integer from 0"),
        ("top_terms", {"image_id": 3, "limit": 1.5}, "limit of top_terms is 1.5"),
        ("tasks", {"level": "grup"}, "give one of group, single-subject, meta-analysis, other"),
        ("tasks", {"private": None}, "private of tasks is NULL; give true or false"),
        ("decoder_table", {"label": None}, "label of decoder_table is NULL; give one of task, contrast"),
        ("images_by_term", {"term": 1}, "term of images_by_term is 1; give text"),
        ("images_by_term", {"term": "pain", "min_weight": "much"}, "give a number, such as 0.5"),
        (
            "changed_since",
            {"date": "some day"},
            "date of changed_since is 'some day'; give a date, such as 2025-09-01",
        ),
        (
            "terms_of_selection",
            {"image_ids": [*range(1, 1000), "x"]},
            "image_ids of terms_of_selection has 'x'; give a list of ids of images, such as 10426",
        ),
        (
            "collections_overview",
            {"has_doi": "perhaps"},
            "has_doi of collections_overview is 'perhaps'; give true or false",
        ),
    ],
)
def test_what_cannot_be_asked_is_told_with_what_can(
    shared: Catalog, name: str, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(QueryError, match=told):
        shared.query(name, given)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("images_by_term", {"term": "PAIN"}, "for term='PAIN'. terms.term has no such term, but '001', 'pain'"),
        ("image_search", {"text": "map", "collection_ids": [8]}, "collection_id has no such collection_ids: 8"),
        ("terms_of_selection", {"image_ids": range(10, 30)}, "image_ids: 10, 11, 12, 13, 14, …$"),
        ("paired_maps", {"stat_b": "beta"}, "stat_a and stat_b are both 'beta'; give two statistics"),
        (
            "terms_between",
            {"a": [1, 2], "b": [3]},
            r"the terms of a are of another reference set \('mine'\) than those of b \(one without a name\)",
        ),
    ],
)
def test_where_a_query_finds_nothing_and_it_is_known_why_a_warning_says_so(
    catalog: Catalog, name: str, given: dict[str, Any], told: str
) -> None:
    if name == "terms_between":
        mine = pd.DataFrame({"image_id": [1, 2], "term": "pain", "weight": 1.0})
        catalog.add_words(mine, reference="mine", replace=True)

    with pytest.warns(SelectionWarning, match=told) as caught:
        assert catalog.query(name, given).fetchall() == []

    assert caught[0].filename == __file__


def test_positional_parameters_have_no_place_in_a_query_by_name(shared: Catalog) -> None:
    with pytest.raises(QueryError, match="have names; give name=value, or a mapping"):
        shared.query("top_terms", [3])  # type: ignore[arg-type]


def test_a_query_of_no_catalog_warns_and_gives_nothing(tmp_path: Path) -> None:
    with pytest.warns(CatalogWarning, match="no catalog"):
        assert Catalog(tmp_path).query("tasks").fetchall() == []
    assert list(tmp_path.iterdir()) == []


def test_private_and_gone_images_are_left_out_unless_asked_for_or_named(data_dir: Path, catalog: Catalog) -> None:
    with Store(data_dir / "neurovault").writing() as connection:
        connection.execute("UPDATE images SET gone_at = now() WHERE image_id = 1")
        connection.execute("INSERT INTO refusals BY NAME SELECT 'image' AS kind, 2 AS id, 'private' AS status")

    def found(**asked: Any) -> list[int]:
        return sorted(row[0] for row in catalog.query("images_by_term", term="pain", **asked).fetchall())

    assert found() == [3]
    assert found(gone=True) == [1, 3]
    assert found(private=True) == [2, 3]
    assert found(collection_ids=[7]) == [2, 3]
    assert len(catalog.query("top_terms", image_id=2)) == 2
    assert len(catalog.query("top_terms", image_id=1)) == 2


# One's own


def test_a_query_of_ones_own_is_found_by_its_files_name(data_dir: Path, catalog: Catalog) -> None:
    put(data_dir, "large_maps", LARGE_MAPS)

    assert catalog.query("large_maps", anything=1).fetchall() == [
        (3, 2400, 1, "$nothing"),
        (2, 1600, 1, "$nothing"),
    ]
    assert len(catalog.query("large_maps", anything=None, min_size=0, names="map 1,map 2")) == 2
    with pytest.raises(QueryError, match=r"min_size of large_maps is 'big'; give an integer from 0"):
        catalog.query("large_maps", anything=1, min_size="big")
    with pytest.raises(QueryError, match="large_maps needs a value for anything: what the file does not say"):
        catalog.query("large_maps")
    with pytest.raises(QueryError, match="did you mean large_maps"):
        catalog.query("large_map")


def test_what_a_file_says_at_its_head_is_listed(data_dir: Path, catalog: Catalog) -> None:
    path = put(data_dir, "large_maps", LARGE_MAPS)
    listed = {row[0]: row for row in catalog.queries().fetchall()}

    assert listed["large_maps"] == (
        "large_maps",
        "The images of large files, largest first.",
        "min_size: leave out smaller ones, in bytes (count, default 1000)\n"
        "names: those alone, however they are written (texts, default NULL)\n"
        "anything: what the file does not say",
        str(path),
    )
    assert listed["top_terms"][-1] is None
    assert (
        listed["top_terms"][2].splitlines()[0]
        == "image_id: the image (image id from words_status.image_id, required)"
    )


def test_the_environment_names_another_folder(
    data_dir: Path, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.sql").write_text("SELECT 1 AS one")
    put(data_dir, "large_maps", LARGE_MAPS)
    monkeypatch.setenv("NVCATALOG_QUERIES", str(elsewhere))

    assert catalog.query("mine").fetchall() == [(1,)]
    with pytest.raises(QueryError, match="no query 'large_maps'"):
        catalog.query("large_maps", anything=1)

    monkeypatch.setenv("NVCATALOG_QUERIES", str(tmp_path / "nowhere"))
    with pytest.raises(InvalidOptionError, match=r"NVCATALOG_QUERIES is .*nowhere.*, which is no folder"):
        catalog.query("top_terms", image_id=3)


def test_a_name_that_ships_cannot_be_used_again(data_dir: Path, catalog: Catalog) -> None:
    path = put(data_dir, "top_terms", "SELECT 1")
    with pytest.raises(QueryError, match=f"two queries top_terms, one that ships and {path}; rename yours"):
        catalog.query("top_terms", image_id=3)


def test_a_query_of_ones_own_is_fenced_like_any_other(data_dir: Path, catalog: Catalog) -> None:
    secret = data_dir / "secret.txt"
    secret.write_text("nobody may read this")
    put(data_dir, "curious", f"SELECT * FROM read_text('{secret}')")
    put(data_dir, "busy", "DELETE FROM images")
    put(data_dir, "two", "SELECT 1; SELECT 2")

    with pytest.raises(QueryError, match="no files, no network"):
        catalog.query("curious")
    for name in ("busy", "two"):
        with pytest.raises(QueryError, match="ask with one SELECT"):
            catalog.query(name)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "-- Rows.\n-- $n: how many (colour, default 3)\nSELECT $n",
            r"mine.sql: \$n is of kind 'colour'; write integer",
        ),
        (
            "-- Rows.\n-- $n: how many (count, default few)\nSELECT $n",
            r"the default of \$n is few; write NULL, true",
        ),
        (
            "-- Rows.\n-- $n: how many (text from terms, required)\nSELECT $n",
            r"\$n is from 'terms'; write a table and a column",
        ),
        ("-- Rows.\n-- $n: how many (count, default -3)\nSELECT $n", "must be an integer from 0"),
        (
            "-- Rows.\n-- $n: which (text, default x (y))\nSELECT $n",
            r"\$n has \(text, default x \(y\)\), of which the default cannot be read; put text in quotes",
        ),
    ],
)
def test_a_file_that_declares_what_cannot_be_says_so(
    data_dir: Path, catalog: Catalog, text: str, told: str
) -> None:
    put(data_dir, "mine", text)

    with pytest.raises(QueryError, match=told):
        catalog.query("mine")
    (summary,) = [row[1] for row in catalog.queries().fetchall() if row[0] == "mine"]
    assert "mine.sql: " in summary


def test_a_file_that_cannot_be_read_hides_no_other(data_dir: Path, catalog: Catalog) -> None:
    path = put(data_dir, "mine", "")
    path.write_bytes(b"SELECT '\xff'")

    with pytest.raises(QueryError, match=r"mine.sql cannot be read as a query"):
        catalog.query("mine")
    assert len(catalog.query("top_terms", image_id=3)) == 2
    assert "cannot be read" in next(row[1] for row in catalog.queries().fetchall() if row[0] == "mine")


def test_only_files_of_sql_are_queries(data_dir: Path, catalog: Catalog) -> None:
    folder = put(data_dir, "mine", "SELECT 1").parent
    for name in ("notes.txt", ".hidden.sql", "mine.sql~"):
        (folder / name).write_text("SELECT 2")
    mine = [row[0] for row in catalog.queries().fetchall() if row[3]]
    assert mine == ["mine"]


def test_parameters_that_no_comment_declares_take_anything(data_dir: Path) -> None:
    path = put(data_dir, "mine", "SELECT $a + $b")
    query = shelf.find("mine", path.parent)
    assert [(each.name, each.kind, each.required) for each in query.parameters] == [
        ("a", "", True),
        ("b", "", True),
    ]
    assert query.summary == ""
    assert shelf.arguments(query, {"a": 1, "B": None}) == {"a": 1, "b": None}


def test_a_default_that_is_text_may_have_parentheses(data_dir: Path, catalog: Catalog) -> None:
    put(data_dir, "mine", "-- Rows.\n-- $n: which (text, default 'x (y)')\nSELECT $n AS n")
    assert catalog.query("mine").fetchall() == [("x (y)",)]


def test_text_between_dollars_holds_no_parameters(data_dir: Path, catalog: Catalog) -> None:
    put(data_dir, "mine", "SELECT $$it's $5, $name$$ AS a, $x$ $other $$ $x$ AS b, $n AS c, $$$$ AS d, $m AS e")
    assert catalog.query("mine", n=1, m=2).fetchall() == [("it's $5, $name", " $other $$ ", 1, "", 2)]


@pytest.mark.skipif(os.name == "nt", reason="a home is named otherwise there")
def test_the_folder_may_be_named_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sql").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NVCATALOG_QUERIES", "~/sql")
    assert shelf.own_folder(Path("unused")) == tmp_path / "sql"
