"""What a condition selects is removed, files and rows, and nothing else; what is known of it stays."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from dying import dies, some_steps
from fetching import FOUR, file_of, ids, traces, write
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world
from oracle import nilearn as nilearn
from oracle import nilearn_dir as nilearn_dir

from nvcatalog import Catalog
from nvcatalog.errors import InvalidIdError, InvalidOptionError, QueryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World
    from nvcatalog.prune import Pruned

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def filled(fetch: Fetch, data_dir: Path) -> Path:
    """Return the folder of two collections, of four and of three maps."""
    fetch(collection_ids=[3, 1058])
    return data_dir / "neurovault"


@pytest.fixture
def prune(data_dir: Path) -> Callable[..., Pruned]:
    """Return a function that prunes the test's folder, quietly."""
    return lambda *where, **options: Catalog(data_dir).prune(*where, verbose=0, **options)


def maps_here(folder: Path) -> list[int]:
    return sorted(
        int(path.name.split("_")[1].split(".")[0]) for path in folder.glob("collection_*/image_*.nii.gz")
    )


def rows(data_dir: Path) -> list[tuple[int, str]]:
    found = Catalog(data_dir).sql("SELECT image_id, kind FROM files ORDER BY ALL").fetchall()
    return [(image_id, kind) for image_id, kind in found]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("collection_*/*"))


# What is removed


def test_files_rows_and_metadata_of_what_is_selected_go_and_records_stay(
    filled: Path, data_dir: Path, prune: Callable[..., Pruned], fetch: Fetch, server: DemoServer
) -> None:
    fetch(image_ids=[4], fetch_neurosynth_words=True)
    before = bytes_in(filled)
    done = prune("image_id = $id", params={"id": 4})
    assert (done.images, len(done.removed), done.kept) == (1, 3, ())
    assert done.bytes == before - bytes_in(filled)
    assert {file.kind for file in done.removed} == {"original", "metadata", "words"}
    assert not list(filled.glob("collection_3/*image_4*"))
    assert (4, "original") not in rows(data_dir)
    assert len(rows(data_dir)) == 6
    catalog = Catalog(data_dir)
    assert catalog.verify(deep=True, verbose=0)
    assert catalog.sql("SELECT count(*) FROM images WHERE image_id = 4").fetchall() == [(1,)]
    assert catalog.words([4])[0].nnz > 0
    server.reset_log()
    assert fetch(collection_ids=[3]).report.counts == {"cached": 3, "downloaded": 1}
    assert not server.hits("/api/*")


def test_a_dry_run_says_the_same_and_removes_nothing(
    filled: Path, prune: Callable[..., Pruned], capsys: pytest.CaptureFixture[str]
) -> None:
    before = traces(filled)
    planned = prune("collection_id = 3", dry_run=True)
    assert traces(filled) == before
    assert "would remove 9 files of 4 images" in repr(planned)
    done = prune("collection_id = 3")
    assert (planned.removed, planned.bytes) == (done.removed, done.bytes)
    assert "removed 9 files of 4 images" in repr(done)
    assert planned.df().drop(columns="trouble").equals(done.df().drop(columns="trouble"))


def test_the_last_image_of_a_collection_takes_its_folder_along(
    filled: Path, prune: Callable[..., Pruned], nilearn: Fetch, data_dir: Path
) -> None:
    prune(collection_ids=3)
    assert not (filled / "collection_3").exists()
    assert maps_here(filled) == [14250, 14251, 14252]
    assert sorted(ids(nilearn(collection_ids=[1058], data_dir=data_dir, mode="offline"))) == [14250, 14251, 14252]
    # nilearn takes a folder with a collection's record for the whole collection.
    assert sorted(ids(nilearn(collection_ids=[3], data_dir=data_dir))) == FOUR


def test_what_is_not_ours_stays_in_its_folder(filled: Path, prune: Callable[..., Pruned]) -> None:
    (filled / "collection_3/notes.txt").write_text("mine")
    prune(collection_ids=[3])
    assert [path.name for path in (filled / "collection_3").iterdir()] == ["notes.txt"]


def test_all_conditions_must_hold(filled: Path, data_dir: Path, prune: Callable[..., Pruned]) -> None:
    write(
        data_dir, "UPDATE files SET downloaded_at = downloaded_at - INTERVAL 30 DAY WHERE image_id IN (4, 14250)"
    )
    assert prune(older_than=31).removed == ()
    assert prune(older_than=timedelta(days=29), collection_ids=[3], image_ids=[3, 4, 14250]).images == 1
    assert maps_here(filled) == [3, 8718, 8719, 14250, 14251, 14252]
    assert prune("collection_id = 1058", older_than=29).images == 1
    assert prune("collection_id = 1058", image_ids=[3]).removed == ()
    assert prune(image_ids=[]).removed == ()
    assert maps_here(filled) == [3, 8718, 8719, 14251, 14252]


def test_an_image_goes_with_all_that_was_made_of_it_and_lies_beside_it(
    fetch: Fetch, world: World, data_dir: Path, prune: Callable[..., Pruned]
) -> None:
    world.add_labels(14227, ["one", "two"])
    fetch(collection_ids=[1197], extras=True)
    fetch(image_ids=[16256], resample=True)
    assert rows(data_dir) == [(14227, "labels"), (14227, "original"), (16256, "original"), (16256, "resampled")]
    assert prune(collection_ids=1197).images == 2
    assert rows(data_dir) == []
    assert not (data_dir / "neurovault/collection_1197").exists()


def test_a_pack_goes_with_the_last_of_its_maps(
    fetch: Fetch, world: World, data_dir: Path, prune: Callable[..., Pruned]
) -> None:
    pack = world.add_nidm_pack(658, "fsl", n_maps=2)
    first, second = (id_ for id_ in world.image_ids(658) if id_ != 10426)
    fetch(collection_ids=[658], extras=True)
    prune(image_ids=[first])
    assert (pack, "nidm_zip") in rows(data_dir)
    prune(image_ids=[second])
    assert rows(data_dir) == [(10426, "original")]


def test_a_pack_alone_goes_with_its_collection(
    fetch: Fetch, world: World, data_dir: Path, prune: Callable[..., Pruned]
) -> None:
    world.add_nidm_pack(658, "fsl", n_maps=1)
    fetch(collection_ids=[658], extras=True)
    write(data_dir, "DELETE FROM files WHERE kind = 'original'")
    prune(collection_ids=[658])
    assert rows(data_dir) == []


# What is not


@pytest.mark.parametrize("options", [{}, {"dry_run": True}])
def test_without_a_condition_it_is_an_error_and_never_everything(
    filled: Path, prune: Callable[..., Pruned], options: dict[str, bool]
) -> None:
    with pytest.raises(InvalidOptionError, match="everything is never meant"):
        prune(**options)
    assert len(maps_here(filled)) == 7


def test_what_cannot_be_asked_removes_nothing(filled: Path, prune: Callable[..., Pruned]) -> None:
    for options, error in (
        ({"where": "no_such_column = 1"}, QueryError),
        ({"where": "image_id = $id"}, QueryError),
        ({"older_than": -1}, InvalidOptionError),
        ({"older_than": "long"}, InvalidOptionError),
        ({"params": {"n": 1}, "image_ids": [3]}, InvalidOptionError),
        ({"image_ids": ["all"]}, InvalidIdError),
    ):
        with pytest.raises(error):
            prune(**options)
    assert len(maps_here(filled)) == 7


def test_a_row_that_names_another_place_goes_and_the_place_stays(
    filled: Path, data_dir: Path, prune: Callable[..., Pruned]
) -> None:
    (data_dir / "victim").write_text("mine")
    write(data_dir, "UPDATE files SET path = '../victim' WHERE image_id = 3")
    prune(image_ids=[3])
    assert (data_dir / "victim").read_text() == "mine"
    assert (3, "original") not in rows(data_dir)


def test_a_file_that_cannot_be_removed_keeps_its_row_and_is_named(
    filled: Path, data_dir: Path, prune: Callable[..., Pruned]
) -> None:
    path = file_of(data_dir, 3, 4)
    path.unlink()
    path.mkdir()  # in its place is what no unlink removes, not even root's
    done = prune(collection_ids=[3])
    assert [(file.image_id, file.kind) for file in done.kept] == [(4, "original")]
    assert done.kept[0].trouble
    assert "1 files could not be removed" in repr(done)
    assert (4, "original") in rows(data_dir)
    assert (filled / "collection_3/image_4_metadata.json").exists()
    assert (filled / "collection_3/collection_metadata.json").exists()


def test_a_folder_without_a_catalog_has_nothing_to_prune(data_dir: Path) -> None:
    with pytest.warns(UserWarning, match="no catalog"):
        assert Catalog(data_dir).prune(image_ids=[3], verbose=0).removed == ()
    assert not data_dir.exists()


def test_a_summary_says_the_bytes(filled: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Catalog(data_dir).prune(image_ids=[3])
    assert "removed 2 files of 1 images (0.0 MB)" in capsys.readouterr().err


# Death at any step


def test_whenever_it_is_killed_the_same_call_ends_it_and_no_lost_file_goes_unnoticed(
    filled: Path, data_dir: Path, tmp_path: Path
) -> None:
    for at in some_steps(every=2):
        copy = tmp_path / str(at)
        shutil.copytree(data_dir, copy)
        came_so_far = dies(at, "prune", copy, collection_ids=[1058])
        catalog = Catalog(copy)
        found = catalog.verify(verbose=0)
        assert set(found.counts) <= {"missing"}, f"step {at}"
        here = set(maps_here(copy / "neurovault"))
        claimed = {image_id for image_id, _ in rows(copy)}
        assert claimed - here == {problem.image_id for problem in found.problems}
        assert here <= claimed, "a file without a row would be selected by no later call"
        catalog.prune(collection_ids=[1058], verbose=0)
        assert maps_here(copy / "neurovault") == FOUR
        assert rows(copy) == [(id_, "original") for id_ in FOUR]
        assert not (copy / "neurovault/collection_1058").exists(), f"step {at}"
        assert catalog.verify(verbose=0)
        if not came_so_far:
            break
    assert at > 8
