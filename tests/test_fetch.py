"""fetch_neurovault_ids gives all there is in the order asked for, and asks for nothing twice."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from fetching import FOUR, file_of, ids, outcomes_of, traces, write
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world
from waiting import hold_until_together

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import (
    IncompleteWarning,
    WordsWarning,
)
from nvcatalog.moving import Mover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")


# What the answer is


def test_every_image_of_a_collection_comes_with_its_record_and_its_collections(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    maps = fetch(collection_ids=[3])

    assert ids(maps) == FOUR
    assert [Path(path).read_bytes() for path in maps.images] == [world.image_bytes(id_) for id_ in FOUR]
    assert maps.images == [str(file_of(data_dir, 3, id_)) for id_ in FOUR]
    assert maps.images_meta[0]["absolute_path"] == maps.images[0]
    assert maps.images_meta[0]["relative_path"] == "collection_3/image_3.nii.gz"
    assert [meta["id"] for meta in maps.collections_meta] == [3, 3, 3, 3]
    assert maps.collections_meta[0]["relative_path"] == "collection_3"
    assert maps.description.startswith("NeuroVault")
    assert maps.report.counts == {"downloaded": 4}
    assert all(np.asarray(nib.Nifti1Image.from_filename(path).dataobj).any() for path in maps.images)


def test_no_path_object_is_anywhere_in_the_answer(fetch: Fetch) -> None:
    def leaves(value: Any) -> Iterator[Any]:
        children = (
            value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
        )
        if children is None:
            yield value
        for child in children or ():
            yield from leaves(child)

    for _ in range(2):
        maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
        assert not [value for value in leaves(dict(maps)) if isinstance(value, Path)]


def test_collections_come_in_the_order_given_and_single_images_after_them(fetch: Fetch) -> None:
    expected = [14250, 14251, 14252, *FOUR, 14227, 10426, 16256]
    for _ in range(2):
        maps = fetch(collection_ids=[1058, 3], image_ids=[14227, 8718, 10426, 16256, 14250])
        assert ids(maps) == expected
        assert [outcome.id for outcome in maps.report] == expected


def test_an_id_given_twice_is_fetched_once(fetch: Fetch, server: DemoServer) -> None:
    maps = fetch(collection_ids=[3, "3"], image_ids=[3, 3, "https://neurovault.org/images/3/"])
    assert ids(maps) == FOUR
    assert len(server.hits("/media/*")) == 4


def test_asking_for_nothing_gives_nothing_and_asks_nobody(fetch: Fetch, server: DemoServer) -> None:
    for mode in ("download_new", "overwrite", "offline"):
        maps = fetch(mode=mode)
        assert (maps.images, maps.images_meta, maps.collections_meta, len(maps.report)) == ([], [], [], 0)
        assert maps.description
    assert server.requests == 0


def test_an_answer_can_be_pickled_for_a_cluster(fetch: Fetch) -> None:
    maps = fetch(image_ids=[3])
    copy = pickle.loads(pickle.dumps(maps))
    assert copy.images == maps.images
    assert copy.report == maps.report


def test_the_positional_order_is_that_of_old_nilearn(server: DemoServer, data_dir: Path) -> None:
    maps = fetch_neurovault_ids([3], [10426], "overwrite", data_dir, True, True, 0)
    assert ids(maps) == [*FOUR, 10426]
    assert maps.word_frequencies.shape == (5, maps.vocabulary.size)
    assert len(server.hits("/api/decode/")) == 5


def test_nothing_is_printed_and_a_summary_goes_to_stderr(fetch: Fetch, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(image_ids=[3], verbose=3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nvcatalog: images: 1 downloaded" in captured.err
    fetch(image_ids=[3], verbose=0)
    assert capsys.readouterr() == ("", "")


def test_every_request_is_logged_at_info(fetch: Fetch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nvcatalog"):
        fetch(image_ids=[3], verbose=3)
    assert any(re.search(r"GET http://\S+/api/images/3/: 200", line) for line in caplog.messages)


def test_the_whole_record_comes_free_form_fields_included(fetch: Fetch, world: World) -> None:
    free = {"Task Name": "stop", "Unicode clé": [1, {"a": None}], "depth": 12, "modality": "None / Other"}
    world.edit_image(3, free)
    for _ in range(2):
        meta = fetch(image_ids=[3]).images_meta[0]
        assert {key: meta[key] for key in free} == free | {"modality": None}
        assert set(world.image(3) or {}) <= set(meta)


def test_only_whole_placeholders_become_none(fetch: Fetch, world: World) -> None:
    world.edit_image(3, contrast_definition="Nonemotional > emotional faces", name="nullius in verba", sex="n/a")
    world.edit_collection(3, name="None of the above", journal_name="None")
    maps = fetch(image_ids=[3])
    meta, collection = maps.images_meta[0], maps.collections_meta[0]
    assert (meta["contrast_definition"], meta["name"]) == ("Nonemotional > emotional faces", "nullius in verba")
    assert (meta["sex"], collection["name"], collection["journal_name"]) == (None, "None of the above", None)


def test_the_catalog_can_be_asked_about_what_was_fetched(fetch: Fetch, data_dir: Path, world: World) -> None:
    fetch(collection_ids=[3], image_ids=[10426], fetch_neurosynth_words=True)
    catalog = Catalog(data_dir)
    local = catalog.sql("SELECT image_id, collection_id, path FROM local_images ORDER BY image_id").fetchall()
    assert local == [
        *((id_, 3, f"collection_3/image_{id_}.nii.gz") for id_ in (3, 4)),
        *((id_, 3, f"collection_3/image_{id_}.nii.gz") for id_ in (8718, 8719)),
        (10426, 658, "collection_658/image_10426.nii.gz"),
    ]
    weights = catalog.sql("SELECT term, weight FROM image_words WHERE image_id = 3").fetchall()
    assert dict(weights) == world.words(3)


# What is asked for, and what not again


def test_a_second_fetch_makes_no_request(fetch: Fetch, server: DemoServer) -> None:
    fetch(collection_ids=[3, 1058], image_ids=[10426], fetch_neurosynth_words=True)
    server.reset_log()
    maps = fetch(collection_ids=[3, 1058], image_ids=[10426], fetch_neurosynth_words=True)
    assert server.requests == 0
    assert set(maps.report.counts) == {"cached"}
    assert fetch(image_ids=FOUR).report.counts == {"cached": 4}
    assert server.requests == 0


def test_overwrite_asks_for_everything_again(fetch: Fetch, server: DemoServer, world: World) -> None:
    asked = {"collection_ids": [3], "image_ids": [10426], "fetch_neurosynth_words": True}
    fetch(**asked)
    world.edit_image(3, name="a new name")
    world.set_words(3, {"pain": 0.5})
    world.replace_file(4, world.image_bytes(14227))
    server.reset_log()
    maps = fetch(**asked, mode="overwrite")
    assert maps.report.counts == {"downloaded": 10}
    assert len(server.hits("/media/*")) == len(server.hits("/api/decode/")) == 5
    assert {hit.path for hit in server.hits("/api/[ci]*")} == {
        "/api/collections/3/", "/api/collections/3/images/", "/api/images/10426/", "/api/collections/658/",
    }  # fmt: skip
    assert maps.images_meta[0]["name"] == "a new name"
    assert Path(maps.images[1]).read_bytes() == world.image_bytes(14227)
    assert maps.word_frequencies[0].sum() == 0.5
    # What was replaced is what later calls give.
    again = fetch(**asked, mode="offline")
    assert again.images_meta[0]["name"] == "a new name"
    assert (again.word_frequencies == maps.word_frequencies).all()


def test_overwrite_of_single_images_renews_the_collections_record(fetch: Fetch, world: World) -> None:
    fetch(image_ids=[3])
    world.edit_collection(3, name="renamed")
    assert fetch(image_ids=[3], mode="overwrite").collections_meta[0]["name"] == "renamed"


def test_download_new_after_one_image_of_a_collection_fetches_the_others_only(
    fetch: Fetch, server: DemoServer
) -> None:
    fetch(image_ids=[8718])
    server.reset_log()
    assert outcomes_of(fetch(collection_ids=[3])) == dict.fromkeys(FOUR, "downloaded") | {8718: "cached"}
    assert len(server.hits("/media/*")) == 3


def test_a_collection_that_grew_on_the_server_is_seen_by_overwrite(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    fetch(collection_ids=[3])
    new = world.add_image(3)
    server.reset_log()
    assert ids(fetch(collection_ids=[3])) == FOUR
    assert server.requests == 0
    assert ids(fetch(collection_ids=[3], mode="overwrite")) == [*FOUR, new]
    assert fetch(collection_ids=[3]).report.counts == {"cached": 5}


def test_threads_that_fetch_the_same_all_get_it_whole(fetch: Fetch) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(fetch, collection_ids=[3, 1058]) for _ in range(4)]
    assert [ids(answer.result()) for answer in answers] == [[*FOUR, 14250, 14251, 14252]] * 4
    assert fetch(collection_ids=[3, 1058]).report.counts == {"cached": 7}


@pytest.mark.parametrize("damage", ["deleted", "truncated", "emptied", "overwritten"])
def test_a_file_damaged_here_is_fetched_again_and_only_that_one(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World, damage: str
) -> None:
    fetch(collection_ids=[3])
    place = file_of(data_dir, 3, 4)
    if damage == "deleted":
        place.unlink()
    else:
        place.write_bytes({"truncated": place.read_bytes()[:-1], "emptied": b"", "overwritten": b"x" * 99}[damage])
    server.reset_log()
    with pytest.warns(IncompleteWarning, match="image 4 missing_offline"):
        assert ids(fetch(collection_ids=[3], mode="offline")) == [3, 8718, 8719]
    assert outcomes_of(fetch(collection_ids=[3])) == dict.fromkeys(FOUR, "cached") | {4: "downloaded"}
    assert [hit.path for hit in server.log] == [world.file_path(4)]
    assert place.read_bytes() == world.image_bytes(4)


def test_another_valid_map_in_a_files_place_does_not_pass_for_it(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World
) -> None:
    fetch(collection_ids=[3])
    assert len(world.image_bytes(14227)) != len(world.image_bytes(4))
    file_of(data_dir, 3, 4).write_bytes(world.image_bytes(14227))
    maps = fetch(collection_ids=[3])
    assert outcomes_of(maps)[4] == "downloaded"
    assert file_of(data_dir, 3, 4).read_bytes() == world.image_bytes(4)


def test_a_file_damaged_here_that_cannot_be_had_again_is_missing(
    fetch: Fetch, server: DemoServer, data_dir: Path
) -> None:
    fetch(collection_ids=[3])
    file_of(data_dir, 3, 4).unlink()
    server.fail("/media/*", faults.status(503))
    for mode in ("download_new", "overwrite"):
        with pytest.warns(IncompleteWarning, match="image 4 failed"):
            maps = fetch(collection_ids=[3], mode=mode)
        assert ids(maps) == [3, 8718, 8719]
        assert outcomes_of(maps)[4] == "failed"
        assert all(Path(path).is_file() for path in maps.images)


def test_a_collections_folder_thrown_away_comes_back(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World
) -> None:
    fetch(collection_ids=[3, 1058])
    shutil.rmtree(data_dir / "neurovault" / "collection_3")
    server.reset_log()
    maps = fetch(collection_ids=[3, 1058])
    assert [Path(path).read_bytes() for path in maps.images[:4]] == [world.image_bytes(id_) for id_ in FOUR]
    assert len(server.hits("/media/*")) == 4
    assert (data_dir / "neurovault" / "collection_3" / "collection_metadata.json").is_file()


def test_what_a_killed_call_had_renamed_is_taken_over(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    fetch(collection_ids=[3])
    write(data_dir, "DELETE FROM files WHERE image_id IN (4, 8718)")  # as if killed before the rows landed
    server.reset_log()
    assert outcomes_of(fetch(collection_ids=[3])) == {3: "cached", 4: "adopted", 8718: "adopted", 8719: "cached"}
    assert server.requests == 0
    assert fetch(collection_ids=[3]).report.counts == {"cached": 4}


def test_a_file_without_a_row_that_is_not_the_records_is_not_taken_over(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World
) -> None:
    fetch(collection_ids=[3])
    write(data_dir, "DELETE FROM files WHERE image_id = 4")
    file_of(data_dir, 3, 4).write_bytes(world.image_bytes(14227))
    assert outcomes_of(fetch(collection_ids=[3]))[4] == "downloaded"
    assert file_of(data_dir, 3, 4).read_bytes() == world.image_bytes(4)


def test_an_interrupted_call_keeps_what_has_arrived(
    fetch: Fetch, server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_download, arrived = Mover._put_download, []

    def put_or_interrupt(self: Mover, image: Any, *what_came: Any) -> None:
        put_download(self, image, *what_came)
        arrived.append(image.image_id)
        if len(arrived) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Mover, "_put_download", put_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(collection_ids=[555])
    # Files under way at that moment may have been renamed too: they are taken over.
    done = {hit.path for hit in server.hits("/media/*")}
    server.reset_log()
    maps = fetch(collection_ids=[555])
    assert len(maps.images) == 20
    assert not {hit.path for hit in server.hits("/api/*")}
    counts = maps.report.counts
    assert counts["cached"] == 3
    assert counts["downloaded"] == len(server.hits("/media/*"))
    assert len(done) >= 3


def test_a_transient_failure_is_tried_again_at_once(fetch: Fetch, server: DemoServer) -> None:
    server.fail("/media/*", faults.status(503), times=1)
    server.fail("/api/collections/*", faults.status(502), times=1)
    server.fail("/media/*", faults.reset(), times=1)
    assert fetch(collection_ids=[3]).report.counts == {"downloaded": 4}


def test_a_lasting_failure_of_one_file_costs_only_that_file_until_it_passes(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    broken = server.fail(world.file_path(4), faults.status(503))
    with pytest.warns(IncompleteWarning, match=r"1 failed. image 4 failed \(.*503"):
        maps = fetch(collection_ids=[3])
    assert ids(maps) == [3, 8718, 8719]
    broken.remove()
    server.reset_log()
    assert ids(fetch(collection_ids=[3])) == FOUR
    assert [hit.path for hit in server.hits("/media/*")] == [world.file_path(4)]


def test_no_more_connections_than_max_workers(
    world: World, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    with DemoServer(world) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        hold_until_together(server, "/media/*", 6)
        fetch_neurovault_ids(collection_ids=[555], data_dir=data_dir, verbose=0)
        assert server.peak_connections["media"] == 6
        for workers in (1, 3):
            server.reset_log()
            hold_until_together(server, "/media/*", workers)
            options: dict[str, Any] = {"mode": "overwrite", "max_workers": workers}
            fetch_neurovault_ids(collection_ids=[555], data_dir=data_dir, verbose=0, **options)
            assert server.peak_connections["media"] == workers


# Traces


def test_calls_that_need_no_network_leave_no_trace(fetch: Fetch, data_dir: Path) -> None:
    fetch(collection_ids=[3], fetch_neurosynth_words=True)
    before = traces(data_dir)
    fetch(collection_ids=[3], fetch_neurosynth_words=True)
    fetch(collection_ids=[3], image_ids=[4], mode="offline")
    with pytest.warns(IncompleteWarning):
        fetch(collection_ids=[1058], image_ids=[10426], mode="offline")
    assert traces(data_dir) == before
    assert Catalog(data_dir).sql("SELECT count(*) FROM fetches").fetchall() == [(1,)]


def test_known_refusals_leave_no_trace_either(fetch: Fetch, world: World, data_dir: Path) -> None:
    world.broken_media(4)
    world.set_words(3, None)
    asked = {"collection_ids": [3, 777], "image_ids": [14227], "fetch_neurosynth_words": True}
    with pytest.warns(IncompleteWarning), pytest.warns(WordsWarning):
        fetch(**asked)
    before = traces(data_dir)
    for mode in ("download_new", "offline"):
        with pytest.warns(IncompleteWarning):
            fetch(**asked, mode=mode)
    assert traces(data_dir) == before


def test_what_is_taken_over_is_landed_once(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    fetch(collection_ids=[3], fetch_neurosynth_words=True)
    (data_dir / "neurovault" / "catalog.duckdb").unlink()
    server.reset_log()
    for status in ("adopted", "cached"):
        maps = fetch(image_ids=FOUR, fetch_neurosynth_words=True, mode="offline")
        assert set(outcomes_of(maps).values()) == {status}
    before = traces(data_dir)
    fetch(image_ids=FOUR, fetch_neurosynth_words=True)
    assert traces(data_dir) == before
    assert server.requests == 0
    assert Catalog(data_dir).sql("SELECT count(*) FROM fetches").fetchall() == [(0,)]


def test_a_call_that_used_the_network_is_on_record_with_what_was_not_simply_here(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    fetch(image_ids=[3])
    world.broken_media(4)
    with pytest.warns(IncompleteWarning):
        maps = fetch(collection_ids=[3])
    catalog = Catalog(data_dir)
    calls = catalog.sql(
        "SELECT function, mode, server, requested, returned, downloaded, missing, bytes FROM fetches "
        "ORDER BY started_at"
    ).fetchall()
    sizes = [len(world.image_bytes(id_)) for id_ in (3, 8718, 8719)]
    call = ("fetch_neurovault_ids", "download_new", server.neurovault_url)
    assert calls == [(*call, 1, 1, 1, 0, sizes[0]), (*call, 4, 3, 2, 1, sum(sizes[1:]))]
    on_record = catalog.sql(
        "SELECT kind, id, status, reason FROM outcomes JOIN fetches USING (fetch_id) "
        "WHERE requested = 4 ORDER BY id"
    ).fetchall()
    assert on_record == [tuple(outcome) for outcome in maps.report if outcome.status != "cached"]


def test_a_changed_record_leaves_its_former_self_in_the_history(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    fetch(image_ids=[3])
    former = (world.image(3) or {})["name"]
    world.edit_image(3, name="a new name")
    fetch(image_ids=[3], mode="overwrite")
    history = (
        Catalog(data_dir).sql("SELECT kind, id, raw->>'name' FROM record_history WHERE kind = 'image'").fetchall()
    )
    assert history == [("image", 3, former)]


def test_only_whole_files_are_ever_under_their_names(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    server.fail("/media/*", faults.cut(0.5))
    with pytest.warns(IncompleteWarning, match="4 failed"):
        fetch(collection_ids=[3])
    assert not list(data_dir.rglob("*.nii.gz"))
    assert not list(data_dir.rglob("*.part"))


def test_the_report_of_a_call_is_a_dataframe_too(fetch: Fetch) -> None:
    with pytest.warns(IncompleteWarning):
        maps = fetch(collection_ids=[3], image_ids=[999_999], fetch_neurosynth_words=True)
    frame = maps.report.df()
    assert len(frame) == 9
    assert frame.groupby("kind").size().to_dict() == {"image": 5, "words": 4}
    assert frame.loc[frame["status"] == "not_found", "id"].tolist() == [999_999]
