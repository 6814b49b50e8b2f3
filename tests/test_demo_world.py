"""The demo's world: which records and files are shipped, and what changing them does."""

from __future__ import annotations

import ast
import gzip
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import nibabel as nib
import numpy as np
import pytest
import requests

import nvcatalog.demo
from nvcatalog.demo import World

if TYPE_CHECKING:
    from collections.abc import Callable

    Get = Callable[..., requests.Response]
    Decode = Callable[[int], requests.Response]

PACKAGE = Path(nvcatalog.demo.__file__).parent


def ids(response: requests.Response) -> list[int]:
    return [record["id"] for record in response.json()["results"]]


def read_nifti(data: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(data))


# The shipped world


def test_ships_real_collections_and_made_up_ones_for_two_well_known_images(world: World) -> None:
    counts = {i: len(world.image_ids(i)) for i in world.collection_ids()}
    assert counts == {3: 4, 63: 1, 457: 12, 555: 20, 658: 1, 1039: 8, 1056: 20, 1058: 3, 1197: 2, 1952: 1}
    assert world.image_ids(658) == [10426]
    assert world.image_ids(1952) == [32980]


def test_data_stays_small() -> None:
    assert sum(path.stat().st_size for path in (PACKAGE / "data").rglob("*") if path.is_file()) < 1_500_000


def test_every_file_is_a_valid_nifti_of_its_own_and_of_the_recorded_size(world: World) -> None:
    contents = {image_id: world.image_bytes(image_id) for image_id in world.image_ids()}
    assert len(set(contents.values())) == len(contents) == 72
    for image_id, data in contents.items():
        record = world.image(image_id)
        assert record is not None
        assert record["file_size"] == len(data)
        assert np.asarray(read_nifti(data).dataobj).any()


def test_kinds_of_maps_hold_the_values_of_their_kind(world: World) -> None:
    motor = np.asarray(read_nifti(world.image_bytes(10426)).dataobj)
    p_map = np.asarray(read_nifti(world.image_bytes(9034)).dataobj)
    atlas = read_nifti(world.image_bytes(14227))
    assert motor.min() < -5
    assert motor.max() > 5
    assert 0 <= p_map.min() < p_map.max() <= 1
    assert atlas.get_data_dtype() == np.uint8


def test_files_are_the_same_bytes_in_every_process(world: World) -> None:
    code = (
        "import hashlib; from nvcatalog.demo import World; w = World.demo();"
        "print(hashlib.sha256(b''.join(w.image_bytes(i) for i in w.image_ids())).hexdigest(), w.words(9034))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != ""


def test_shipped_free_form_keys_are_served(get: Get) -> None:
    records = get("/api/collections/1039/images/").json()["results"]
    assert len(records[0]) == 57
    assert records[0]["type"] == "control"


def test_demo_imports_nothing_of_the_package_it_tests() -> None:
    imported = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nvcatalog"):
                imported.add(node.module.split(".")[1] if "." in node.module else "nvcatalog")
    assert imported == {"demo"}


def test_both_shipped_atlases_have_their_label_files(get: Get) -> None:
    for atlas_id in (14227, 14228):
        record = get(f"/api/images/{atlas_id}/").json()
        assert record["modify_date"] < "2020"
        labels = ET.fromstring(get(urlsplit(record["label_description_file"]).path).content)
        assert [label.get("index") for label in labels.iter("label")] == list("0123456")
        assert labels.findtext("header/name") == record["name"]


# Changing the world


def modified(record: dict[str, Any] | None) -> datetime:
    assert record is not None
    return datetime.fromisoformat(record["modify_date"])


def test_edited_image_moves_its_date_and_its_collections(world: World, get: Get) -> None:
    before, before_all = modified(world.image(9034)), modified(world.collection(555))
    world.edit_image(9034, {"Free key": [1, None]}, name="another name")
    record = get("/api/images/9034/").json()
    assert (record["name"], record["Free key"]) == ("another name", [1, None])
    assert modified(record) > before
    assert modified(world.collection(555)) > before_all


def test_two_edits_never_have_the_same_date(world: World) -> None:
    dates = []
    for _ in range(50):
        world.edit_image(9034)
        dates.append(modified(world.image(9034)))
    assert dates == sorted(set(dates))


def test_edited_collection_moves_its_date(world: World) -> None:
    before = modified(world.collection(555))
    world.edit_collection(555, DOI=None)
    assert world.collections([555])[0]["DOI"] is None
    assert modified(world.collection(555)) > before


def test_replaced_file_has_another_link_and_the_old_one_is_gone(world: World, get: Get) -> None:
    old, before = world.file_path(9034), modified(world.image(9034))
    world.replace_file(9034, b"new bytes")
    record = get("/api/images/9034/").json()
    assert old.endswith("obesity_higher_ALE.nii.gz")
    # _1 and _2 are taken by other images of this collection.
    assert record["file"].endswith("/media/images/555/obesity_higher_ALE_3.nii.gz")
    assert record["file_size"] == 9
    assert modified(record) > before
    assert get(old).status_code == 404
    assert get(urlsplit(record["file"]).path).content == b"new bytes"
    world.replace_file(9034, b"newer")
    assert get(urlsplit(record["file"]).path).status_code == 404
    assert world.image_bytes(9034) == b"newer"


def test_deleted_image_is_gone_with_its_file(world: World, get: Get) -> None:
    path = world.file_path(9034)
    world.delete_image(9034)
    assert get("/api/images/9034/").status_code == 404
    assert get(path).status_code == 404
    assert ids(get("/api/collections/555/images/"))[0] == 9035
    world.delete_collection(555)
    assert get("/api/collections/555/").status_code == 404
    assert get("/api/images/9035/").status_code == 404


def test_labels_and_surfaces_are_added_to_a_record_and_go_with_it(world: World, get: Get) -> None:
    image_id = world.add_image(555, {"image_type": "atlas", "name": "Mine & yours"})
    before = modified(world.image(image_id))
    paths = [world.add_labels(image_id, ["Gyrus <1>", "é & co"]), *world.add_surfaces(image_id)]
    record = get(f"/api/images/{image_id}/").json()
    keys = ("label_description_file", "surface_left_file", "surface_right_file")
    assert [urlsplit(record[key]).path for key in keys] == paths
    assert modified(record) > before
    labels = ET.fromstring(get(paths[0]).content)
    assert [label.text for label in labels.iter("label")] == ["Gyrus <1>", "é & co"]
    left, right = (nib.GiftiImage.from_bytes(get(path).content).darrays[0].data for path in paths[1:])
    assert left.shape == right.shape
    assert (left != right).all()
    world.delete_image(image_id)
    assert [get(path).status_code for path in paths] == [404, 404, 404]


def test_a_deleted_collection_takes_its_packs_with_it(world: World, get: Get) -> None:
    pack_id = world.add_nidm_pack(555, "spm.nidm")
    assert get("/collections/555/spm.nidm.zip").status_code == 200
    world.delete_collection(555)
    assert get("/collections/555/spm.nidm.zip").status_code == 404
    assert get(f"/api/nidm_results/{pack_id}/").status_code == 404
    assert get("/api/nidm_results/").json()["count"] == 0


def test_lost_file_is_404_and_its_size_unknown_until_cured(world: World, get: Get) -> None:
    path = world.file_path(9034)
    world.broken_media(9034)
    assert get(path).status_code == 404
    assert get("/api/images/9034/").json()["file_size"] == 0
    world.cure(9034)
    assert get(path).status_code == 200
    assert get("/api/images/9034/").json()["file_size"] == len(world.image_bytes(9034))


def test_added_records_are_served_beside_the_shipped_ones(world: World, get: Get) -> None:
    collection_id = world.add_collection({"name": "Mine", "DOI": "10.1/x"}, images=[{"name": "a"}, {"id": 77}])
    image_id = world.add_image(collection_id, {"map_type": "T map"}, data=b"not a map at all")
    collection = get(f"/api/collections/{collection_id}/").json()
    assert (collection["name"], collection["DOI"], collection["number_of_images"]) == ("Mine", "10.1/x", 3)
    assert len(collection) == 107
    assert ids(get(f"/api/collections/{collection_id}/images/")) == sorted([77, image_id - 1, image_id])
    record = get(f"/api/images/{image_id}/").json()
    assert (record["map_type"], record["file_size"], len(record)) == ("T map", 16, 55)
    assert get(urlsplit(record["file"]).path).content == b"not a map at all"
    assert read_nifti(world.image_bytes(77)).shape == (23, 28, 23)


def test_empty_file_is_served_as_empty(world: World, get: Get) -> None:
    image_id = world.add_image(555, data=b"")
    record = get(f"/api/images/{image_id}/").json()
    answer = get(urlsplit(record["file"]).path)
    assert (record["file_size"], answer.status_code, answer.content) == (0, 200, b"")


@pytest.mark.parametrize("file_bytes", [5_000, 220_000])
def test_synthetic_maps_are_valid_distinct_and_of_about_the_wanted_size(file_bytes: int) -> None:
    world = World.empty()
    made = world.add_synthetic(7, 10, first_id=500, file_bytes=file_bytes)
    assert made == world.image_ids(7) == list(range(500, 510))
    contents = [world.image_bytes(image_id) for image_id in made]
    assert len(set(contents)) == 10
    for data in contents:
        assert 0.8 < len(data) / file_bytes < 1.2
        assert np.asarray(read_nifti(data).dataobj).std() > 0


# Many at once


def test_a_crowd_holds_as_many_as_were_asked_for_spread_as_on_the_real_site() -> None:
    world = World.empty()
    made = world.add_many(200, 6000)
    sizes = [len(world.image_ids(id_)) for id_ in made]
    assert made == world.collection_ids()
    assert world.image_ids() == list(range(1, 6001))
    assert [record["number_of_images"] for record in world.collections(made)] == sizes
    assert sizes.count(0) > 0
    assert max(sizes) > 5 * sorted(sizes)[100] > 0


def test_each_of_a_crowd_has_a_whole_record_of_its_own_and_a_file(world: World, get: Get) -> None:
    [first, *_] = world.add_many(20, 500)
    page = get(f"/api/collections/{first}/images/").json()["results"]
    assert {len(record) for record in page} == {55}
    assert len({record["name"] + record["modify_date"] for record in page}) == len(page) > 1
    assert page == get(f"/api/collections/{first}/images/").json()["results"]
    assert len(get(f"/api/collections/{first}/").json()) == 107
    content = get(urlsplit(page[0]["file"]).path).content
    assert len(content) == page[0]["file_size"]
    assert read_nifti(content).shape


def test_one_of_a_crowd_can_be_changed_and_removed_like_any_other(world: World, get: Get) -> None:
    [first, *_] = world.add_many(20, 500)
    one, other, gone = world.image_ids(first)[:3]
    before = modified(world.collection(first))
    world.edit_image(one, name="another name")
    old = world.file_path(other)
    world.replace_file(other, b"new bytes")
    world.delete_image(gone)
    assert get(f"/api/images/{one}/").json()["name"] == "another name"
    assert get(old).status_code == 404
    assert get(world.file_path(other)).content == b"new bytes"
    assert get(f"/api/images/{gone}/").status_code == 404
    assert gone not in world.image_ids(first)
    assert modified(world.collection(first)) > before


def test_an_image_that_moves_takes_its_file_along_and_touches_both_collections(world: World, get: Get) -> None:
    before = {id_: (world.collection(id_) or {})["modify_date"] for id_ in (3, 1058)}
    data = world.image_bytes(4)

    world.move_image(4, 1058)

    record = get("/api/images/4/").json()
    assert (record["collection_id"], record["collection"].rpartition("/collections/")[2]) == (1058, "1058/")
    assert get(world.file_path(4)).content == data
    assert "/1058/" in record["file"]
    assert 4 in ids(get("/api/collections/1058/images/"))
    assert 4 not in ids(get("/api/collections/3/images/"))
    assert all((world.collection(id_) or {})["modify_date"] > date for id_, date in before.items())
