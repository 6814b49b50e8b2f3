"""Files whose record changed on the server since they came are named, with what changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world
from oracle import nilearn as nilearn
from oracle import nilearn_dir as nilearn_dir

from nvcatalog import Catalog
from nvcatalog.errors import CatalogWarning

if TYPE_CHECKING:
    from fetching import Fetch

    from nvcatalog.demo import World

pytestmark = pytest.mark.usefixtures("no_waiting")


def changes(data_dir: Path) -> dict[int, tuple[bool, bool, list[str]]]:
    """Return, by image, whether it is gone, whether its file is another, and which fields differ."""
    frame = Catalog(data_dir).outdated().arrow().to_pylist()
    return {row["image_id"]: (row["gone"], row["file_changed"], row["changed"]) for row in frame}


def test_what_changed_since_a_file_came_is_named_once_the_catalog_hears_of_it(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    fetch(collection_ids=[3])
    world.edit_image(3, name="edited", free="form")
    world.replace_file(4, world.image_bytes(10426))
    world.delete_image(8718)
    assert changes(data_dir) == {}

    fetch(collection_ids=[3], max_age=0)
    found = changes(data_dir)
    assert found.keys() == {3, 4, 8718}
    assert found[3] == (False, False, ["free", "modify_date", "name"])
    assert found[4][:2] == (False, True)
    assert {"file", "modify_date"} <= set(found[4][2])
    assert found[8718] == (True, False, [])


def test_a_file_that_was_fetched_again_is_up_to_date(fetch: Fetch, world: World, data_dir: Path) -> None:
    fetch(collection_ids=[3])
    world.edit_image(3, name="edited")
    fetch(collection_ids=[3], max_age=0)
    fetch(image_ids=[3], mode="overwrite")
    assert changes(data_dir) == {}


def test_a_resampled_map_is_as_old_as_the_map_it_was_made_of(fetch: Fetch, world: World, data_dir: Path) -> None:
    fetch(image_ids=[3])
    world.edit_image(3, name="edited")
    fetch(image_ids=[3], max_age=0)
    fetch(image_ids=[3], resample=True)
    frame = Catalog(data_dir).outdated().df()
    assert frame["path"].tolist() == ["collection_3/image_3.nii.gz", "collection_3/image_3_resampled.nii.gz"]
    assert frame["downloaded_at"].nunique() == 1
    fetch(image_ids=[4], resample=True)
    assert changes(data_dir).keys() == {3}


def test_a_record_that_was_changed_back_is_not_named(fetch: Fetch, world: World, data_dir: Path) -> None:
    fetch(collection_ids=[3])
    former = dict(world.image(3) or {})
    for record in ({"name": "edited"}, former):
        world.edit_image(3, record)
        fetch(collection_ids=[3], max_age=0)
    assert changes(data_dir) == {}


def test_files_that_nilearn_left_are_compared_with_the_record_of_their_day(
    fetch: Fetch, nilearn: Fetch, nilearn_dir: Path, world: World
) -> None:
    nilearn(collection_ids=[3])
    world.edit_image(4, name="edited since")
    assert fetch(collection_ids=[3], data_dir=nilearn_dir).report.counts == {"adopted": 4}
    found = changes(nilearn_dir)
    assert found.keys() == {4}
    assert {"modify_date", "name"} <= set(found[4][2])


def test_without_a_catalog_nothing_is_outdated(data_dir: Path) -> None:
    with pytest.warns(CatalogWarning, match="no catalog"):
        answer = Catalog(data_dir).outdated()
    assert len(answer) == 0
    assert answer.df().columns[0] == "image_id"
