"""What is on disk already is taken over: good files by their size, bad ones not at all, without a download."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from fetching import FOUR, file_of, ids, outcomes_of, traces
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world

from nvcatalog import Catalog, adopt
from nvcatalog.adopt import root_of
from nvcatalog.demo.maps import synthetic_map
from nvcatalog.errors import DataDirError, IncompleteWarning

if TYPE_CHECKING:
    from pathlib import Path

    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def left(fetch: Fetch, server: DemoServer, data_dir: Path) -> Path:
    """Return a folder of maps, terms and metadata files without a catalog, as nilearn leaves it."""
    fetch(collection_ids=[3, 1058], image_ids=[10426], fetch_neurosynth_words=True)
    home = data_dir / "neurovault"
    for path in home.iterdir():
        if not path.name.startswith("collection_"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    server.reset_log()
    return home


@pytest.mark.usefixtures("left")
def test_adopt_registers_a_whole_folder(data_dir: Path, server: DemoServer, world: World) -> None:
    catalog = Catalog(data_dir)
    report = catalog.adopt(verbose=0)

    assert [outcome.id for outcome in report] == [*FOUR, 10426, 14250, 14251, 14252]
    assert report.counts == {"adopted": 8}
    rows = catalog.sql("SELECT image_id, size, state, origin, sha256 FROM files ORDER BY image_id").fetchall()
    assert rows[0] == (3, len(world.image_bytes(3)), "unverified", "nilearn", None)
    assert len(rows) == 8
    assert catalog.sql("SELECT count(DISTINCT image_id) FROM words").fetchall() == [(8,)]
    assert catalog.sql("SELECT DISTINCT source FROM raw_records").fetchall() == [("sidecar",)]
    root = catalog.sql("SELECT value FROM catalog_info WHERE key = 'server_root'").fetchall()
    assert root == [(server.neurovault_url,)]
    assert server.requests == 0


@pytest.mark.usefixtures("left")
def test_adopted_files_are_proven_when_first_part_of_an_answer(
    data_dir: Path, fetch: Fetch, server: DemoServer
) -> None:
    Catalog(data_dir).adopt(verbose=0)
    fetch(image_ids=[3, 4])
    states = Catalog(data_dir).sql("SELECT state, count(*), count(sha256) FROM files GROUP BY ALL ORDER BY ALL")
    assert states.fetchall() == [("present", 2, 2), ("unverified", 6, 0)]
    assert server.requests == 0


@pytest.mark.usefixtures("left")
def test_adopting_twice_changes_nothing(data_dir: Path) -> None:
    Catalog(data_dir).adopt(verbose=0)
    before = traces(data_dir)
    assert len(Catalog(data_dir).adopt(verbose=0)) == 0
    assert traces(data_dir) == before


@pytest.mark.usefixtures("left")
def test_many_collections_are_adopted_in_several_goes(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "_COLLECTIONS_AT_ONCE", 2)
    assert Catalog(data_dir).adopt(verbose=0).counts == {"adopted": 8}
    assert len(Catalog(data_dir).adopt(verbose=0)) == 0


def test_a_folder_that_does_not_exist_cannot_be_taken_over(data_dir: Path) -> None:
    with pytest.raises(DataDirError, match=f"{data_dir} does not exist"):
        Catalog(data_dir).adopt(verbose=0)
    assert not data_dir.exists()


def test_adopting_where_nothing_is_makes_nothing_and_says_what_is_lacking(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir.mkdir()
    assert len(Catalog(data_dir).adopt(verbose=1)) == 0
    assert f"nothing to take over: {data_dir} has no folder neurovault" in capsys.readouterr().err
    assert not list(data_dir.iterdir())
    (data_dir / "neurovault").mkdir()
    assert len(Catalog(data_dir).adopt(verbose=1)) == 0
    assert f"nothing to take over: {data_dir / 'neurovault'} has no folder of a col" in capsys.readouterr().err
    assert not list((data_dir / "neurovault").iterdir())


def test_the_summary_names_the_folder(left: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Catalog(data_dir).adopt(verbose=1)
    assert f"took over 8 images of 3 collections in {left}\n" in capsys.readouterr().err


def test_what_cannot_be_read_is_reported_and_the_rest_is_taken_over(left: Path, data_dir: Path) -> None:
    (left / "collection_3" / "image_4_metadata.json").write_text("{")
    (left / "collection_3" / "neurosynth_words_for_image_3.json").write_text("<html>")
    shutil.copy(left / "collection_3" / "image_3_metadata.json", left / "collection_3" / "image_99_metadata.json")
    report = Catalog(data_dir).adopt(verbose=0)
    assert report.counts == {"adopted": 7, "failed": 3}
    assert {(outcome.kind, outcome.id) for outcome in report.missing} == {
        ("image", 4),
        ("words", 3),
        ("image", 99),
    }
    reasons = {outcome.id: str(outcome.reason) for outcome in report.missing}
    assert all("cannot be taken over" in reason for reason in reasons.values())
    assert "it is no whole JSON (cut off?): Expecting" in reasons[4]
    assert reasons[4].endswith("Fetching image 4 online writes it anew")
    assert reasons[3].endswith("Fetching the terms of image 3 online writes it anew")


def test_a_metadata_file_that_is_cut_off_is_written_anew_as_its_message_says(
    left: Path, data_dir: Path, fetch: Fetch
) -> None:
    names = ("image_4_metadata.json", "collection_metadata.json", "neurosynth_words_for_image_3.json")
    for path in (left / "collection_3" / name for name in names):
        path.write_bytes(path.read_bytes()[:20])
    assert len(Catalog(data_dir).adopt(verbose=0).missing) == 3
    fetch(image_ids=[3, 4], fetch_neurosynth_words=True)
    for name in names:
        assert json.loads((left / "collection_3" / name).read_text())


@pytest.mark.usefixtures("left")
def test_terms_are_taken_over_as_maps_are(fetch: Fetch, server: DemoServer) -> None:
    maps = fetch(image_ids=[3, 4], fetch_neurosynth_words=True)
    assert outcomes_of(maps) == outcomes_of(maps, "words") == {3: "adopted", 4: "adopted"}
    maps = fetch(image_ids=[3, 4], fetch_neurosynth_words=True)
    assert outcomes_of(maps) == outcomes_of(maps, "words") == {3: "cached", 4: "cached"}
    assert server.requests == 0


def test_names_that_nilearn_would_not_give_are_left_alone(left: Path, data_dir: Path) -> None:
    (left / "collection_mine").mkdir()
    (left / "collection_²").mkdir()
    (left / "collection_99999999999").mkdir()
    (left / "collection_8").write_text("a note")
    for name in ("image_²_metadata.json", "image_x_metadata.json", "image_99999999999_metadata.json"):
        (left / "collection_3" / name).write_text('{"id": 1}')
    assert Catalog(data_dir).adopt(verbose=0).counts == {"adopted": 8}


def test_resampled_maps_are_registered_beside(left: Path, data_dir: Path) -> None:
    shutil.copy(left / "collection_3" / "image_3.nii.gz", left / "collection_3" / "image_3_resampled.nii.gz")
    Catalog(data_dir).adopt(verbose=0)
    rows = Catalog(data_dir).sql("SELECT kind, path FROM files WHERE image_id = 3 ORDER BY kind").fetchall()
    assert rows == [
        ("original", "collection_3/image_3.nii.gz"),
        ("resampled", "collection_3/image_3_resampled.nii.gz"),
    ]


def test_a_sidecars_paths_and_collection_are_not_believed(left: Path, data_dir: Path, fetch: Fetch) -> None:
    path = left / "collection_3" / "image_3_metadata.json"
    elsewhere = {"relative_path": "/etc/passwd", "absolute_path": "/etc/passwd", "collection_id": 1058}
    path.write_text(json.dumps(json.loads(path.read_text()) | elsewhere))
    maps = fetch(image_ids=[3], mode="offline")
    assert maps.images == [str(file_of(data_dir, 3, 3))]
    assert "/etc/passwd" not in maps.images_meta[0].values()
    assert maps.collections_meta[0]["id"] == 3


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize("few", [0, 10])
def test_single_images_are_found_in_whatever_folder_they_are(
    fetch: Fetch, server: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(adopt, "_FEW", few)
    maps = fetch(image_ids=[14251, 10426, 8719])
    assert ids(maps) == [14251, 10426, 8719]
    assert maps.report.counts == {"adopted": 3}
    # Only these are: a folder is not walked for what nobody asked for.
    assert Catalog(data_dir).sql("SELECT count(*) FROM images").fetchall() == [(3,)]
    assert server.requests == 0


@pytest.mark.usefixtures("left")
def test_a_map_older_than_its_record_is_taken_over_from_nilearn(
    data_dir: Path, fetch: Fetch, world: World
) -> None:
    # nilearn keeps a file in download_new although the server has replaced it.
    file_of(data_dir, 3, 4).write_bytes(world.image_bytes(14227))
    maps = fetch(collection_ids=[3])
    assert maps.report.counts == {"adopted": 4}


@pytest.mark.usefixtures("left")
def test_what_is_no_map_is_not_taken_over_and_offline_says_why(
    data_dir: Path, fetch: Fetch, server: DemoServer, world: World
) -> None:
    file_of(data_dir, 3, 4).write_bytes(world.image_bytes(4)[:-30])
    for _ in range(2):
        with pytest.warns(IncompleteWarning, match="image 4 missing_offline .*is no whole map: cut off"):
            assert ids(fetch(image_ids=[3, 4], mode="offline")) == [3]
    assert ids(fetch(image_ids=[3, 4])) == [3, 4]
    assert [hit.path for hit in server.hits("/media/*")] == [world.file_path(4)]


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize(
    "name",
    ["image_4.nii.gz", "image_4_metadata.json", "collection_metadata.json", "neurosynth_words_for_image_4.json"],
)
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(data_dir: Path, fetch: Fetch, name: str) -> None:
    path = file_of(data_dir, 3, 4).with_name(name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    wanted: dict[str, Any] = {"image_ids": [3, 4], "fetch_neurosynth_words": True}
    with pytest.warns(IncompleteWarning):
        assert 3 in ids(fetch(**wanted, mode="offline"))
    assert ids(fetch(**wanted)) == [3, 4]
    assert ids(fetch(**wanted, mode="offline")) == [3, 4]


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://neurovault.org/images/3/", "https://neurovault.org"),
        ("https://neurovault.org/images/3/", "https://neurovault.org"),
        ("http://127.0.0.1:8000/images/3/", "http://127.0.0.1:8000"),
        ("ftp://neurovault.org/images/3/", None),
        ("/images/3/", None),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_a_folder_is_of_the_server_that_its_records_links_name(url: Any, root: str | None) -> None:
    assert root_of({"url": url}) == root
    assert root_of({}) is None


@pytest.mark.parametrize("how", ["fetch", "adopt"])
def test_a_stale_copy_in_another_collections_folder_changes_nothing(
    fetch: Fetch, data_dir: Path, how: str
) -> None:
    fetch(collection_ids=[3])
    home = data_dir / "neurovault"
    (home / "collection_999").mkdir()
    for name in ("image_4.nii.gz", "image_4_metadata.json"):
        shutil.copy(home / "collection_3" / name, home / "collection_999" / name)

    if how == "adopt":
        Catalog(data_dir).adopt(verbose=0)
    else:
        with pytest.warns(IncompleteWarning, match="collection 999 missing_offline"):
            assert ids(fetch(collection_ids=[999], mode="offline")) == []
    maps = fetch(collection_ids=[3], mode="offline")
    assert ids(maps) == FOUR
    assert maps.images[1] == str(home / "collection_3" / "image_4.nii.gz")


@pytest.mark.parametrize("is_newer", [True, False])
def test_a_new_version_that_a_killed_call_left_with_its_record_is_taken_over(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path, is_newer: bool
) -> None:
    fetch(collection_ids=[3])
    here = file_of(data_dir, 3, 4)
    sidecar = here.with_name("image_4_metadata.json")
    former = sidecar.read_bytes()
    world.replace_file(4, synthetic_map(4, 3000))
    shutil.copytree(data_dir, data_dir / "again")
    fetch(image_ids=[4], mode="overwrite", data_dir=data_dir / "again")
    # It was killed after its file had come, and before anything of it had landed.
    for path in (here, sidecar) if is_newer else (here,):
        shutil.copy(data_dir / "again" / path.relative_to(data_dir), path)
    assert is_newer == (sidecar.read_bytes() != former)
    server.reset_log()

    maps = fetch(image_ids=[4])

    assert outcomes_of(maps) == {4: "adopted" if is_newer else "downloaded"}
    assert here.read_bytes() == world.image_bytes(4)
    assert bool(server.requests) != is_newer
    assert Catalog(data_dir).verify(deep=True, verbose=0)
