"""Between two snapshots it is told what came, went and changed; files that both have are not read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nvcatalog import Catalog, comparing
from nvcatalog._batch import Batch, Words
from nvcatalog._store import Store
from nvcatalog.errors import InvalidOptionError, SnapshotError

COLLECTION = 7


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with three images and a snapshot; made once, for copies."""
    data_dir = tmp_path_factory.mktemp("filled")
    catalog = Catalog(data_dir)
    batch = Batch()
    add_collection(batch, "a study")
    for image_id in (71, 72, 73):
        add_image(batch, image_id)
        batch.words[image_id] = Words({"pain": 0.25, "motor": 0.5}, "terms_20k")
    Store(catalog.folder).land(batch)
    catalog.snapshot("before")
    return data_dir


@pytest.fixture
def catalog(filled: Path, tmp_path: Path) -> Catalog:
    shutil.copytree(filled, tmp_path / "data", symlinks=True)
    return Catalog(tmp_path / "data")


def add_collection(batch: Batch, name: str) -> None:
    batch.add_record("collection", {"id": COLLECTION, "name": name})


def add_image(batch: Batch, image_id: int, name: str = "a map") -> None:
    batch.add_record("image", {"id": image_id, "collection_id": COLLECTION, "name": name})


def land(catalog: Catalog, batch: Batch) -> None:
    Store(catalog.folder).land(batch)


def rows(catalog: Catalog, *names: Any) -> list[tuple[Any, ...]]:
    return catalog.diff(*names).fetchall()


def test_it_is_told_what_came_what_went_and_what_changed(catalog: Catalog) -> None:
    batch = Batch(words={71: Words({"pain": 0.75, "motor": 0.5}, "terms_20k")})
    add_image(batch, 72, "renamed")
    add_image(batch, 74)
    batch.add("files", {"image_id": 74, "kind": "original", "path": "a.nii.gz", "state": "present"})
    land(catalog, batch)
    with Store(catalog.folder).writing() as connection:
        connection.execute("DELETE FROM images WHERE image_id = 73")

    assert rows(catalog, "before") == [
        ("files", "came", "original", 74),
        ("images", "came", "image", 74),
        ("images", "changed", "image", 72),
        ("images", "went", "image", 73),
        ("words", "changed", "image", 71),
    ]


def test_the_other_way_round_what_came_went(catalog: Catalog) -> None:
    batch = Batch()
    add_image(batch, 74)
    land(catalog, batch)
    later = catalog.snapshot()

    assert rows(catalog, "before", later) == [("images", "came", "image", 74)]
    assert rows(catalog, later, "before") == [("images", "went", "image", 74)]


def test_a_row_that_is_the_same_but_for_when_it_was_asked_for_has_not_changed(catalog: Catalog) -> None:
    batch = Batch(words={71: Words({"motor": 0.5, "pain": 0.25}, "terms_20k")})
    add_collection(batch, "a study")
    add_image(batch, 71)
    land(catalog, batch)

    answer = catalog.diff("before")

    assert len(answer) == 0
    assert answer.df().columns.tolist() == ["table_name", "change", "kind", "id"]


def test_files_that_both_have_are_not_read(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch()
    add_image(batch, 72, "renamed")
    land(catalog, batch)
    read: list[Path] = []
    contents = comparing._contents

    def noting(table: str, files: list[Path], *rest: Any) -> str:
        read.extend(files)
        return contents(table, files, *rest)

    monkeypatch.setattr(comparing, "_contents", noting)

    assert rows(catalog, "before", catalog.snapshot()) == [("images", "changed", "image", 72)]

    assert "images" in {file.parent.name for file in read}
    assert "words" not in {file.parent.name for file in read}


def test_what_has_become_private_went(catalog: Catalog) -> None:
    batch = Batch()
    batch.add_record("collection", {"id": COLLECTION, "name": "a study", "private": True})
    land(catalog, batch)

    gone = {(table, change, id_) for table, change, _, id_ in rows(catalog, "before")}

    assert {("collections", "went", 7), ("images", "went", 71), ("words", "went", 73)} <= gone
    assert {change for _, change, _ in gone} == {"went"}


def test_the_terms_of_another_catalog_are_compared_by_name_and_not_by_its_numbers(
    catalog: Catalog, tmp_path: Path
) -> None:
    other = Catalog(tmp_path / "other")
    batch = Batch(words={70: Words({"zeal": 0.5}, "terms_20k")})
    land(other, batch)
    again = Batch()
    add_collection(again, "a study")
    for image_id in (71, 72, 73):
        add_image(again, image_id)
        again.words[image_id] = Words({"pain": 0.25, "motor": 0.5}, "terms_20k")
    land(other, again)

    assert rows(catalog, "before", other.snapshot()) == [("words", "came", "image", 70)]


def test_files_of_words_that_are_the_same_are_compared_by_their_terms(tmp_path: Path) -> None:
    folders = []
    for term in ("pain", "reward"):
        catalog = Catalog(tmp_path / term)
        batch = Batch(words={71: Words({term: 0.5}, "terms_20k"), 72: Words({"motor": 0.5}, "terms_20k")})
        land(catalog, batch)
        folders.append(catalog.snapshot())
    words = [(place / "words" / "part-0.parquet").read_bytes() for place in folders]

    assert words[0] == words[1]
    assert rows(catalog, *folders) == [("words", "changed", "image", 71)]


def test_a_snapshot_that_does_not_list_its_files_is_read_whole(catalog: Catalog) -> None:
    batch = Batch()
    add_image(batch, 72, "renamed")
    land(catalog, batch)
    place = catalog.folder / "snapshots" / "before"
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"]
    (place / "manifest.json").write_text(json.dumps(manifest))

    assert rows(catalog, "before") == [("images", "changed", "image", 72)]


def test_a_snapshot_that_there_is_not_is_refused(catalog: Catalog) -> None:
    with pytest.raises(InvalidOptionError, match=r", before, latest$"):
        catalog.diff("after")
    with pytest.raises(InvalidOptionError, match=r", before, latest; did you mean before\?$"):
        catalog.diff("befor")
    with pytest.raises(InvalidOptionError, match="has none of that name"):
        catalog.diff("before", "a/b")


def test_the_newest_is_not_compared_with_itself(catalog: Catalog) -> None:
    with pytest.raises(InvalidOptionError, match="snapshot is '', and"):
        catalog.diff(None)  # type: ignore[arg-type]  # what a script may hand on


def test_one_whose_files_cannot_be_read_is_an_error_that_names_it(catalog: Catalog) -> None:
    batch = Batch()
    add_image(batch, 72, "renamed")
    land(catalog, batch)
    later = catalog.snapshot()
    (later / "images" / "part-0.parquet").unlink()
    (later / "images" / "part-0.parquet").write_bytes(b"no Parquet")

    with pytest.raises(SnapshotError, match="images"):
        comparing.compare(Store(catalog.folder), "before", later)


def test_terms_of_another_reference_set_are_a_change_though_their_weights_are_the_same(catalog: Catalog) -> None:
    land(catalog, Batch(words={71: Words({"pain": 0.25, "motor": 0.5}, "mine")}))
    assert rows(catalog, "before") == [("words", "changed", "image", 71)]


def test_weights_that_change_places_are_a_change(catalog: Catalog) -> None:
    land(catalog, Batch(words={71: Words({"pain": 0.5, "motor": 0.25}, "terms_20k")}))
    catalog.snapshot()
    assert ("words", "changed", "image", 71) in rows(catalog, "before")
