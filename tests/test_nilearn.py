"""nilearn's fetch_neurovault_ids is the oracle: ours gives what it gives, and each reads the other's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from oracle import assert_same, files_in, sidecars_in, without_paths
from oracle import nilearn as nilearn
from oracle import nilearn_dir as nilearn_dir
from oracle import ours as ours

from nvcatalog import Catalog
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import IncompleteWarning, WordsWarning

if TYPE_CHECKING:
    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_ours_gives_what_nilearn_gives_for_every_record_of_the_demo(
    nilearn: Fetch, ours: Fetch, world: World, data_dir: Path, nilearn_dir: Path
) -> None:
    world.edit_image(9034, {"Task Name": "stop", "clé": [1, {"a": None}], "unset": "None", "n": "n/a", "e": ""})
    world.add_nidm_pack(3, "spm_example.nidm")
    world.set_words(9035, 404)
    asked = {"collection_ids": world.collection_ids(), "fetch_neurosynth_words": True}

    with pytest.warns(WordsWarning, match="now or later"):
        mine = ours(**asked)
    other = nilearn(**asked)

    assert len(mine.images) == 74
    assert_same(mine, other)
    assert files_in(data_dir) == files_in(nilearn_dir)
    written, expected = sidecars_in(data_dir), sidecars_in(nilearn_dir)
    assert set(written) == set(expected)
    for place, sidecar in written.items():
        assert without_paths([sidecar]) == without_paths([expected[place]])
        # That of the terms' file nilearn makes up when it reads, and its relative paths are not relative.
        assert set(sidecar) == set(expected[place]) - {"ns_words_relative_path"}


@pytest.mark.parametrize(
    "asked",
    [
        {"collection_ids": [1058, 1197]},
        {"image_ids": [14250, 10426, 16256]},
        {"collection_ids": [1058, 1197], "image_ids": [14250, 10426, 32980]},
    ],
    ids=["collections", "ids", "both"],
)
def test_ours_gives_what_nilearn_gives_in_each_mode(
    nilearn: Fetch, ours: Fetch, world: World, data_dir: Path, nilearn_dir: Path, asked: dict[str, list[int]]
) -> None:
    request: dict[str, Any] = {**asked, "fetch_neurosynth_words": True}
    assert_same(ours(**request), nilearn(**request))
    assert_same(ours(**request), nilearn(**request))

    world.edit_image(14250, name="edited", free="form")
    world.replace_file(14250, world.image_bytes(308))
    assert_same(ours(**request, mode="offline"), nilearn(**request, mode="offline"))
    assert_same(ours(**request), nilearn(**request))
    for mode in ("overwrite", "offline"):
        mine, other = ours(**request, mode=mode), nilearn(**request, mode=mode)
        assert "edited" in {meta["name"] for meta in mine.images_meta}
        for meta in other.collections_meta:  # nilearn leaves the record of a single image's collection stale
            if meta["id"] not in asked.get("collection_ids", []):
                meta["modify_date"] = (world.collection(meta["id"]) or {})["modify_date"]
        assert_same(mine, other)
    written, expected = files_in(data_dir), files_in(nilearn_dir)
    # It does not ask for terms again either; the answer names the new file.
    renewed = "collection_1058/neurosynth_words_for_image_14250.json"
    assert written.pop(renewed) != expected.pop(renewed)
    assert written == expected


def test_ours_has_every_key_of_nilearns_metadata_that_leads_to_a_file(nilearn: Fetch, ours: Fetch) -> None:
    for mode in ("download_new", "offline"):
        other = nilearn(collection_ids=[1058], fetch_neurosynth_words=True, mode=mode)
        mine = ours(collection_ids=[1058], fetch_neurosynth_words=True, mode=mode)
        for meta, their_meta in zip(
            mine.images_meta, sorted(other.images_meta, key=lambda m: m["id"]), strict=True
        ):
            leading = {key for key, value in their_meta.items() if "absolute" in key and Path(value).is_file()}
            assert {key for key in meta if key.endswith("absolute_path")} == leading
            assert {Path(meta[key]).name for key in leading} == {Path(their_meta[key]).name for key in leading}


def test_nilearn_offline_reads_our_folder(
    nilearn: Fetch, ours: Fetch, server: DemoServer, data_dir: Path, tmp_path: Path
) -> None:
    asked = {"collection_ids": [1058], "image_ids": [10426, 9034], "fetch_neurosynth_words": True}
    mine = ours(**asked)
    before = files_in(data_dir)
    server.reset_log()

    assert_same(mine, nilearn(**asked, data_dir=data_dir, mode="offline"))
    # It rewrites the metadata files as it reads; neither side minds.
    assert_same(mine, nilearn(**asked, data_dir=data_dir, mode="offline"))
    assert_same(ours(**asked, mode="offline"), nilearn(**asked, data_dir=data_dir))
    assert files_in(data_dir) == before

    data_dir.rename(tmp_path / "moved")
    assert_same(ours(**asked, data_dir=tmp_path / "moved", mode="offline"),
                nilearn(**asked, data_dir=tmp_path / "moved", mode="offline"))  # fmt: skip
    assert not server.hits("/media/*")
    assert not server.hits("/api/decode*")


@pytest.mark.parametrize("place", ["where it was", "moved", "read by nilearn, then moved"])
def test_ours_offline_reads_nilearns_folder(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path, tmp_path: Path, place: str
) -> None:
    asked = {"collection_ids": [1058], "image_ids": [10426, 9034], "fetch_neurosynth_words": True}
    other = nilearn(**asked)
    if place == "read by nilearn, then moved":
        nilearn(**asked, mode="offline")  # leaves absolute paths in the metadata files
    data_dir = nilearn_dir if place == "where it was" else tmp_path / "moved"
    nilearn_dir.rename(data_dir)
    other["images"] = [path.replace(str(nilearn_dir), str(data_dir)) for path in other.images]
    server.reset_log()

    for status in ("adopted", "cached"):
        # Whether nilearn had fetched the collection to its end is not to be seen in its folder.
        with pytest.warns(IncompleteWarning, match="collection 1058 missing_offline .its list was never read"):
            mine = ours(**asked, data_dir=data_dir, mode="offline")
        assert_same(mine, other)
        assert {outcome.status for outcome in mine.report if outcome.kind == "image"} == {status}
        assert all(path.startswith(str(data_dir / "neurovault")) for path in mine.images)
        values = [value for meta in (*mine.images_meta, *mine.collections_meta) for value in meta.values()]
        assert data_dir == nilearn_dir or not any(str(nilearn_dir) in str(value) for value in values)
    assert server.requests == 0


def test_download_new_over_nilearns_folder_downloads_not_a_byte_of_files(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path
) -> None:
    asked = {"collection_ids": [1058], "image_ids": [10426, 9034], "fetch_neurosynth_words": True}
    other = nilearn(**asked)
    before = {path: path.stat().st_mtime_ns for path in nilearn_dir.rglob("*") if path.is_file()}
    server.reset_log()
    mine = ours(**asked, data_dir=nilearn_dir)

    assert_same(mine, other)
    assert mine.report.counts == {"adopted": 10}
    assert {hit.path for hit in server.log} == {"/api/collections/1058/", "/api/collections/1058/images/"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    server.reset_log()
    assert ours(**asked, data_dir=nilearn_dir).report.counts == {"cached": 10}
    assert server.requests == 0


def test_adopting_nilearns_whole_folder_makes_it_a_catalog(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path
) -> None:
    nilearn(collection_ids=[1058, 1197], image_ids=[10426], fetch_neurosynth_words=True)
    server.reset_log()
    report = Catalog(nilearn_dir).adopt(verbose=0)
    assert [outcome[:3] for outcome in report] == [
        ("image", id_, "adopted") for id_ in (10426, 14250, 14251, 14252, 16256, 16257)
    ]
    held = Catalog(nilearn_dir).sql(
        "SELECT collection_id, count(*) FROM images JOIN files USING (image_id) GROUP BY ALL ORDER BY ALL"
    )
    assert held.fetchall() == [(658, 1), (1058, 3), (1197, 2)]
    assert Catalog(nilearn_dir).words([10426])[0].nnz
    assert len(Catalog(nilearn_dir).adopt(verbose=0)) == 0
    assert server.requests == 0
    assert ours(image_ids=[14250, 10426], data_dir=nilearn_dir).report.counts == {"cached": 2}
    assert server.requests == 0
