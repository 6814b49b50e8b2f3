"""Files are known by their name and place, and nothing else passes for one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvcatalog import extras, layout, storage
from nvcatalog.ids import LARGEST
from nvcatalog.layout import place_of

ids = st.integers(1, LARGEST)
kinds = st.sampled_from(sorted({*layout.WITH_ROW, "metadata", "words"}))


def path_of(kind: str, collection_id: int, item_id: int) -> str:
    if kind in layout.MAPS:
        return storage.map_path(collection_id, item_id, kind)
    if kind == "metadata":
        return storage.sidecar_path(collection_id, item_id)
    if kind == "words":
        return storage.words_path(collection_id, item_id)
    return extras.extra_path(kind, collection_id, item_id)  # type: ignore[arg-type]  # one of them


@given(kind=kinds, collection_id=ids, item_id=ids)
def test_every_path_that_is_given_to_a_file_tells_what_it_is(kind: str, collection_id: int, item_id: int) -> None:
    place = place_of(path_of(kind, collection_id, item_id))
    assert tuple(place) == (kind, item_id, collection_id)
    assert place.has_row == (kind in layout.WITH_ROW)


@given(st.text())
def test_no_other_text_is_the_path_of_a_file_with_a_row(text: str) -> None:
    place = place_of(text)
    if place.has_row:
        assert text == path_of(place.kind, place.collection_id or 0, place.id or 0)


@pytest.mark.parametrize(
    "path",
    [
        "collection_3/../collection_4/image_3.nii.gz",
        "../collection_3/image_3.nii.gz",
        "/collection_3/image_3.nii.gz",
        "collection_3/more/image_3.nii.gz",
        "collection_03/image_3.nii.gz",
        "collection_3/image_0.nii.gz",
        f"collection_3/image_{LARGEST + 1}.nii.gz",
        "collection_3/image_3.nii.gz\n",
        "collection_3/image_3_metadata.json/image_3.nii.gz",
    ],
)
def test_what_only_looks_like_a_path_of_ours_has_no_row(path: str) -> None:
    assert not place_of(path).has_row


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("collection_3/collection_metadata.json", "collection_metadata"),
        ("collection_3/.image_3.nii.gz.4711-0123abcd.part", "temporary"),
        ("collection_3/tmp_12345678-1234-1234-1234-123456789abc.nii.gz", "temporary"),
        ("collection_3/image_3_replaced-0123456789ab.nii.gz", "replaced"),
        ("collection_3/.DS_Store", "other"),
        ("catalog.duckdb", "catalog"),
        ("catalog.duckdb.wal", "catalog"),
        ("catalog.lock", "catalog"),
        ("catalog.duckdb.broken-20260102T030405", "set_aside"),
        (".catalog.duckdb.new.wal", "temporary"),
        (".catalog.duckdb.12-0123abcd.part", "temporary"),
        ("..catalog.duckdb.12-0123abcd.part.new.wal", "temporary"),
        (".locks/17", "house"),
        ("README.md", "house"),
        ("snapshots/CURRENT", "snapshots"),
        ("quarantine/now/collection_3/image_3.nii.gz", "quarantine"),
        ("maps.lock.json", "other"),
    ],
)
def test_all_else_in_a_folder_is_known_too(path: str, kind: str) -> None:
    assert place_of(path).kind == kind
