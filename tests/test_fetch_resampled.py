"""Maps on nilearn's grid: made once, from what is here where it is, and never of a map that is no more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fetching import FOUR, file_of, ids, outcomes_of, traces
from fetching import fetch as fetch
from fetching import fetch_filtered as fetch_filtered
from fetching import no_waiting as no_waiting
from fetching import world as world

from nvcatalog import Catalog
from nvcatalog.demo import DemoServer, World
from nvcatalog.demo.maps import nifti_gz
from nvcatalog.errors import IncompleteWarning, MissingExtraError
from nvcatalog.resample import resample_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def expected(world: World, tmp_path: Path) -> Callable[..., bytes]:
    """Return a function that gives the file an image is to become."""

    def expected(image_id: int, interpolation: str = "continuous") -> bytes:
        source, target = tmp_path / "source.nii.gz", tmp_path / "target.nii.gz"
        source.write_bytes(world.image_bytes(image_id))
        resample_map(source, target, interpolation=interpolation)
        return target.read_bytes()

    return expected


def resampled(data_dir: Path, collection_id: int, image_id: int) -> Path:
    return file_of(data_dir, collection_id, image_id).with_name(f"image_{image_id}_resampled.nii.gz")


def no_map() -> bytes:
    """Return a file that is a whole NIfTI image, and no volume."""
    return nifti_gz(np.zeros((5, 6), np.float32), np.eye(4))


def test_of_what_is_downloaded_the_resampled_map_alone_is_kept(
    fetch: Fetch, server: DemoServer, data_dir: Path, expected: Callable[..., bytes]
) -> None:
    maps = fetch(image_ids=[3, 4], resample=True)
    assert maps.images == [str(resampled(data_dir, 3, id_)) for id_ in (3, 4)]
    assert [Path(path).read_bytes() for path in maps.images] == [expected(3), expected(4)]
    assert [meta["resampled_absolute_path"] for meta in maps.images_meta] == maps.images
    assert maps.report.counts == {"downloaded": 2}
    here = {path.name for path in (data_dir / "neurovault" / "collection_3").iterdir()}
    assert here == {
        "collection_metadata.json", "image_3_metadata.json", "image_3_resampled.nii.gz",
        "image_4_metadata.json", "image_4_resampled.nii.gz",
    }  # fmt: skip
    before = traces(data_dir)
    server.reset_log()
    for mode in ("download_new", "offline"):
        assert fetch(image_ids=[3, 4], resample=True, mode=mode).report.counts == {"cached": 2}
    assert server.requests == 0
    assert traces(data_dir) == before
    rows = Catalog(data_dir).sql("SELECT image_id, kind, origin, shape[1] FROM files ORDER BY ALL").fetchall()
    assert [row[:3] for row in rows] == [(id_, "resampled", "resampled: continuous") for id_ in (3, 4)]


def test_an_original_that_was_here_stays_and_is_what_the_new_map_is_made_of(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World, expected: Callable[..., bytes]
) -> None:
    fetch(image_ids=[3])
    server.reset_log()
    maps = fetch(image_ids=[3], resample=True)
    assert [tuple(outcome) for outcome in maps.report] == [("image", 3, "cached", "resampled here")]
    assert Path(maps.images[0]).read_bytes() == expected(3)
    assert file_of(data_dir, 3, 3).read_bytes() == world.image_bytes(3)
    assert fetch(image_ids=[3]).images == [str(file_of(data_dir, 3, 3))]
    assert server.requests == 0


def test_originals_are_resampled_offline_too(fetch: Fetch, fetch_filtered: Fetch, server: DemoServer) -> None:
    fetch(collection_ids=[3])
    fetch(image_ids=[10426], resample=True)
    server.reset_log()
    maps = fetch_filtered(mode="offline", resample=True)
    assert ids(maps) == [10426, *FOUR] or ids(maps) == [*FOUR, 10426]
    assert all(path.endswith("_resampled.nii.gz") and Path(path).is_file() for path in maps.images)
    assert [meta["resampled_absolute_path"] for meta in maps.images_meta] == maps.images
    with pytest.warns(IncompleteWarning, match="10426 missing_offline"):
        assert ids(fetch(image_ids=[*FOUR, 10426], mode="offline")) == FOUR
    assert server.requests == 0


def test_both_maps_are_asked_for_where_only_one_is_here(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    fetch(image_ids=[3], resample=True)
    server.reset_log()
    assert fetch(image_ids=[3]).report.counts == {"downloaded": 1}
    assert len(server.hits("/media/*")) == 1
    assert resampled(data_dir, 3, 3).is_file()
    assert fetch(image_ids=[3], resample=True).report.counts == {"cached": 1}
    assert len(server.hits("/media/*")) == 1


@pytest.mark.parametrize("resample", [False, True])
def test_a_replaced_original_takes_the_map_made_of_the_former_one_along(
    fetch: Fetch, data_dir: Path, world: World, expected: Callable[..., bytes], resample: bool
) -> None:
    fetch(image_ids=[3])
    fetch(image_ids=[3], resample=True)
    world.replace_file(3, world.image_bytes(14250))
    fetch(image_ids=[3], mode="overwrite", resample=resample)
    assert file_of(data_dir, 3, 3).read_bytes() == world.image_bytes(14250)
    assert resampled(data_dir, 3, 3).is_file() == resample
    maps = fetch(image_ids=[3], resample=True, mode="offline")
    assert Path(maps.images[0]).read_bytes() == expected(3)


def test_overwrite_asks_for_the_map_again_and_leaves_no_original(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World, expected: Callable[..., bytes]
) -> None:
    fetch(image_ids=[3], resample=True)
    world.replace_file(3, world.image_bytes(14250))
    maps = fetch(image_ids=[3], mode="overwrite", resample=True)
    assert maps.report.counts == {"downloaded": 1}
    assert Path(maps.images[0]).read_bytes() == expected(3)
    assert not file_of(data_dir, 3, 3).exists()


def test_another_interpolation_makes_the_map_again(
    fetch_filtered: Fetch, fetch: Fetch, server: DemoServer, expected: Callable[..., bytes]
) -> None:
    asked: dict[str, Any] = {"collection_id": 3, "id": 3, "resample": True}
    for interpolation, downloads in (("nearest", 1), ("nearest", 0), ("linear", 1), (None, 0), ("linear", 0)):
        server.reset_log()
        maps = fetch_filtered(**asked, interpolation=interpolation)
        assert len(server.hits("/media/*")) == downloads
        # What is here is taken as it is where nobody says how it is to be.
        assert Path(maps.images[0]).read_bytes() == expected(3, interpolation or "linear")
    with pytest.warns(
        IncompleteWarning, match="image 3 missing_offline .*'linear'.* leave out interpolation='nearest'"
    ):
        assert not fetch_filtered(**asked, interpolation="nearest", mode="offline").images
    fetch(image_ids=[3])
    server.reset_log()
    for mode in ("offline", "download_new"):
        maps = fetch_filtered(**asked, interpolation="nearest" if mode == "offline" else "continuous", mode=mode)
        assert Path(maps.images[0]).read_bytes() == expected(3, "nearest" if mode == "offline" else "continuous")
    assert server.requests == 0


def test_labels_keep_their_numbers_unless_somebody_wants_otherwise(
    fetch_filtered: Fetch, expected: Callable[..., bytes]
) -> None:
    asked: dict[str, Any] = {"collection_id": 1197, "id": 14227, "image_terms": {}, "resample": True}
    assert Path(fetch_filtered(**asked).images[0]).read_bytes() == expected(14227, "nearest")
    chosen = fetch_filtered(**asked, interpolation="continuous")
    assert Path(chosen.images[0]).read_bytes() == expected(14227, "continuous")


def test_a_map_that_cannot_be_resampled_is_named_and_not_downloaded_again(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    world.replace_file(4, no_map())
    for mode in ("download_new", "download_new", "offline"):
        with pytest.warns(IncompleteWarning, match="image 4 failed .*cannot be made.*without resample"):
            maps = fetch(collection_ids=[3], resample=True, mode=mode)
        assert ids(maps) == [3, 8718, 8719]
        assert outcomes_of(maps)[4] == "failed"
    assert len(server.hits(world.file_path(4))) == 1
    # So the original is kept, and here where it is asked for.
    assert fetch(image_ids=[4]).report.counts == {"cached": 1}
    assert file_of(data_dir, 3, 4).read_bytes() == world.image_bytes(4)
    assert [path.name for path in data_dir.rglob("image_*[0-9].nii.gz")] == ["image_4.nii.gz"]


def test_the_next_candidate_takes_the_place_of_a_map_that_cannot_be_resampled(
    fetch_filtered: Fetch, server: DemoServer, world: World
) -> None:
    world.replace_file(4, no_map())
    with pytest.warns(IncompleteWarning, match="image 4 failed"):
        assert ids(fetch_filtered(max_images=3, resample=True)) == [3, 8718, 8719]
    assert len(server.hits("/media/*")) == 4
    assert ids(fetch_filtered(max_images=3, resample=True)) == [3, 8718, 8719]
    assert len(server.hits("/media/*")) == 4


def test_a_map_that_can_no_more_be_resampled_since_it_was_replaced_is_not_answered_with_the_former(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    fetch(image_ids=[3])
    fetch(image_ids=[3], resample=True)
    world.replace_file(3, no_map())
    with pytest.warns(IncompleteWarning, match="image 3 failed"):
        assert fetch(image_ids=[3], resample=True, mode="overwrite").images == []
    assert not resampled(data_dir, 3, 3).exists()
    assert fetch(image_ids=[3]).report.counts == {"cached": 1}


def test_an_image_that_its_collection_lost_is_resampled_from_the_map_here(fetch: Fetch, world: World) -> None:
    fetch(collection_ids=[3])
    world.delete_image(4)
    fetch(collection_ids=[3], max_age=0)
    assert ids(fetch(collection_ids=[3], resample=True)) == FOUR


def test_a_damaged_resampled_map_is_made_again(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    fetch(image_ids=[3])
    content = Path(fetch(image_ids=[3], resample=True).images[0]).read_bytes()
    resampled(data_dir, 3, 3).write_bytes(content[:1000])
    server.reset_log()
    assert Path(fetch(image_ids=[3], resample=True).images[0]).read_bytes() == content
    assert server.requests == 0


@pytest.mark.parametrize("mode", ["download_new", "offline"])
def test_without_nilearn_nothing_is_done(
    fetch: Fetch,
    fetch_filtered: Fetch,
    server: DemoServer,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)
    for call in (fetch, fetch_filtered):
        with pytest.raises(MissingExtraError, match=r"pip install 'nvcatalog\[resample\]'"):
            call(resample=True, mode=mode)
    assert server.requests == 0
    assert not data_dir.exists()


def test_to_overwrite_an_original_is_to_doubt_what_was_resampled_without_it(fetch: Fetch, world: World) -> None:
    first = fetch(image_ids=[3], resample=True)
    before = Path(first.images[0]).read_bytes()
    world.replace_file(3, world.image_bytes(10426))
    fetch(image_ids=[3], mode="overwrite")
    after = Path(fetch(image_ids=[3], resample=True).images[0]).read_bytes()
    assert after != before
