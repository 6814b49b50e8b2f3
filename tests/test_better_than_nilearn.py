"""What nilearn does wrong, shown on nilearn itself, ours does right: a test for each way."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nilearn.datasets.neurovault as theirs
import pytest
from fetching import fetch as fetch
from fetching import ids, traces
from fetching import no_waiting as no_waiting
from oracle import assert_same, point_nilearn_at
from oracle import nilearn as nilearn
from oracle import nilearn_dir as nilearn_dir
from oracle import ours as ours
from waiting import hold_until_together

from nvcatalog import Catalog, Outcome, fetch_neurovault_ids
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import IncompleteWarning, WordsWarning

if TYPE_CHECKING:
    from fetching import Fetch
    from sklearn.utils import Bunch

pytestmark = pytest.mark.usefixtures("no_waiting")


class EndlessError(BaseException):
    """Ends a loop of nilearn's, which catches every Exception and goes on."""


def interrupt_nilearn_after(files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop nilearn in its tracks, as Ctrl-C does, after so many files."""
    download = theirs._simple_download
    done: list[Any] = []

    def interrupted(*args: Any, **options: Any) -> Any:
        if len(done) == files:
            raise KeyboardInterrupt
        done.append(args)
        return download(*args, **options)

    monkeypatch.setattr(theirs, "_simple_download", interrupted)


def test_a_collection_interrupted_after_3_of_8_images_is_completed_with_exactly_the_missing_files(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_nilearn_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            nilearn(collection_ids=[1039])
    server.reset_log()
    assert len(nilearn(collection_ids=[1039]).images) == 3
    assert server.requests == 0

    maps = ours(collection_ids=[1039], data_dir=nilearn_dir)
    assert ids(maps) == list(range(14084, 14092))
    assert maps.report.counts == {"downloaded": 5, "adopted": 3}
    assert len(server.hits("/media/*")) == 5


def test_a_collection_that_met_a_503_is_completed_by_the_next_call(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path, data_dir: Path, world: World
) -> None:
    trouble = server.fail(world.file_path(14252), faults.status(503))
    nilearn(collection_ids=[1058])
    with pytest.warns(IncompleteWarning, match="image 14252 failed"):
        ours(collection_ids=[1058])
    trouble.remove()
    server.reset_log()
    assert len(nilearn(collection_ids=[1058]).images) == 2
    assert server.requests == 0

    for folder in (data_dir, nilearn_dir):
        server.reset_log()
        assert ids(ours(collection_ids=[1058], data_dir=folder)) == [14250, 14251, 14252]
        assert [hit.path for hit in server.hits("/media/*")] == [world.file_path(14252)]


def test_a_collection_of_which_one_image_was_fetched_is_fetched_whole(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path
) -> None:
    nilearn(image_ids=[14251])
    ours(image_ids=[14251])
    assert ids(nilearn(collection_ids=[1058])) == [14251]

    assert ids(ours(collection_ids=[1058])) == [14250, 14251, 14252]
    assert ids(ours(collection_ids=[1058], data_dir=nilearn_dir)) == [14250, 14251, 14252]


def test_offline_with_words_opens_no_socket_and_an_image_without_terms_is_remembered(
    nilearn: Fetch, ours: Fetch, server: DemoServer, world: World
) -> None:
    for id_ in (14250, 14251):
        world.set_words(id_, 404)
    asked = {"collection_ids": [1058], "fetch_neurosynth_words": True}
    nilearn(**asked)
    with pytest.warns(WordsWarning, match="2 of 3"):
        ours(**asked)
    for _ in range(2):
        server.reset_log()
        nilearn(**asked, mode="offline")
        assert len(server.hits("/api/decode*")) == 2

        server.reset_log()
        for mode in ("offline", "download_new"):
            ours(**asked, mode=mode)
        assert server.requests == 0


def bound_nilearn(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    """End nilearn after so many pages."""
    get_batch = theirs._get_batch
    asked: list[Any] = []

    def bounded(*args: Any, **options: Any) -> Any:
        asked.append(args)
        if len(asked) > pages:
            raise EndlessError
        return get_batch(*args, **options)

    monkeypatch.setattr(theirs, "_get_batch", bounded)


def test_paging_ends_at_an_empty_page(
    nilearn: Fetch, ours: Fetch, server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail("/api/collections/1058/images/", faults.empty_page())
    bound_nilearn(monkeypatch, 30)
    with pytest.raises(EndlessError):
        nilearn(collection_ids=[1058])

    with pytest.warns(IncompleteWarning, match="counts 3 images and listed 0"):
        maps = ours(collection_ids=[1058])
    assert maps.images == []
    server.heal()
    assert len(ours(collection_ids=[1058]).images) == 3


def test_paging_ends_when_an_image_is_deleted_meanwhile(
    nilearn: Fetch, ours: Fetch, server: DemoServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *others = world.add_synthetic(7, 300, file_bytes=200)

    def delete_behind_the_first_page(image_id: int) -> None:
        def edit(body: bytes) -> bytes:
            world.delete_image(image_id)
            return body

        server.fail("/api/collections/7/images/", faults.rewrite(edit), times=1)

    delete_behind_the_first_page(first)
    bound_nilearn(monkeypatch, 30)
    with pytest.raises(EndlessError):
        nilearn(collection_ids=[7])

    delete_behind_the_first_page(second)
    maps = ours(collection_ids=[7])
    assert ids(maps) == others
    assert not maps.report.missing


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_one_truncated_json_file_costs_at_most_its_own_image_and_is_repaired_on_the_next_online_call(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path
) -> None:
    asked = {"collection_ids": [1058], "image_ids": [10426]}
    nilearn(**asked)
    home = nilearn_dir / "neurovault"
    cut_in_half(home / "collection_1058" / "image_14251_metadata.json")
    cut_in_half(home / "collection_658" / "collection_metadata.json")
    with pytest.raises(json.JSONDecodeError):
        nilearn(image_ids=[9034])

    with pytest.warns(IncompleteWarning):
        offline = ours(**asked, data_dir=nilearn_dir, mode="offline")
    assert ids(offline) == [14250, 14252, 10426]
    (bad,) = (outcome for outcome in offline.report if outcome.id == 14251)
    assert bad.missing
    assert "image_14251_metadata.json" in str(bad.reason)

    server.reset_log()
    online = ours(**asked, data_dir=nilearn_dir)
    assert ids(online) == [14250, 14251, 14252, 10426]
    assert online.collections_meta[3]["name"].startswith("Demo: a motor contrast")
    assert not online.report.missing
    assert not server.hits("/media/*")
    assert_same(online, nilearn(**asked, mode="offline"))


def test_one_truncated_json_file_of_ours_disturbs_no_call(ours: Fetch, server: DemoServer, data_dir: Path) -> None:
    first = ours(collection_ids=[1058], fetch_neurosynth_words=True)
    for path in data_dir.rglob("*.json"):
        cut_in_half(path)
    server.reset_log()
    again = ours(collection_ids=[1058], fetch_neurosynth_words=True)
    assert_same(again, first)
    assert server.requests == 0


def test_reading_writes_nothing(nilearn: Fetch, ours: Fetch, data_dir: Path, nilearn_dir: Path) -> None:
    nilearn(collection_ids=[1058])
    ours(collection_ids=[1058])
    before = traces(data_dir), traces(nilearn_dir)
    for mode in ("offline", "download_new"):
        nilearn(collection_ids=[1058], mode=mode)
        ours(collection_ids=[1058], mode=mode)
    assert traces(nilearn_dir) != before[1]
    assert traces(data_dir) == before[0]


@pytest.mark.parametrize(
    "fault", [faults.html(), faults.wrong_bytes(b""), faults.cut(0.5)], ids=["html page", "empty", "cut off"]
)
def test_a_page_an_empty_file_and_a_cut_off_file_are_never_returned_as_images(
    nilearn: Fetch, ours: Fetch, server: DemoServer, world: World, fault: faults.Fault, request: Any
) -> None:
    server.fail(world.file_path(14251), fault)
    with pytest.warns(IncompleteWarning, match="image 14251 failed"):
        maps = ours(collection_ids=[1058])
    assert ids(maps) == [14250, 14252]
    if "cut off" not in request.node.name:  # the library under nilearn notices that the connection closed early
        assert 14251 in ids(nilearn(collection_ids=[1058]))
    server.heal()
    assert ids(ours(collection_ids=[1058])) == [14250, 14251, 14252]


def test_a_file_cut_off_on_the_server_itself_is_never_returned_as_an_image(
    nilearn: Fetch, ours: Fetch, world: World
) -> None:
    whole = world.image_bytes(14251)
    world.replace_file(14251, whole[: len(whole) // 2])
    assert 14251 in ids(nilearn(collection_ids=[1058]))

    with pytest.warns(IncompleteWarning, match="image 14251 corrupt_on_server .*cut off"):
        assert ids(ours(collection_ids=[1058])) == [14250, 14252]


def test_what_nilearn_took_for_images_is_not_taken_over(
    nilearn: Fetch, ours: Fetch, server: DemoServer, world: World, nilearn_dir: Path
) -> None:
    server.fail(world.file_path(14250), faults.html())
    server.fail(world.file_path(14251), faults.wrong_bytes(b""))
    server.fail(world.file_path(14252), faults.wrong_bytes(world.image_bytes(14252)[:-20]))
    assert len(nilearn(collection_ids=[1058], image_ids=[10426]).images) == 4
    server.heal()

    with pytest.warns(IncompleteWarning, match="is no whole map"):
        assert ids(ours(image_ids=[14250, 14251, 14252, 10426], data_dir=nilearn_dir, mode="offline")) == [10426]
    maps = ours(collection_ids=[1058], image_ids=[10426], data_dir=nilearn_dir)
    assert [Path(path).read_bytes() for path in maps.images] == [world.image_bytes(id_) for id_ in ids(maps)]
    assert maps.report.counts == {"downloaded": 3, "cached": 1}


def test_retry_after_is_honoured_and_the_files_arrive(nilearn: Fetch, ours: Fetch, server: DemoServer) -> None:
    server.fail("/media/*", faults.retry_after(1), times=3)
    assert nilearn(collection_ids=[1058]).images == []

    server.heal()
    server.fail("/media/*", faults.retry_after(1), times=1)
    server.reset_log()
    assert len(ours(collection_ids=[1058]).images) == 3
    refused = next(hit for hit in server.log if hit.status == 429)
    again = next(hit for hit in server.hits(refused.path) if hit.status == 200)
    assert again.time - refused.time >= 0.95


def test_a_pause_longer_than_anyone_waits_ends_the_call_and_is_reported(
    nilearn: Fetch, ours: Fetch, server: DemoServer
) -> None:
    server.fail("/media/*", faults.retry_after(3600))
    assert nilearn(collection_ids=[555]).images == []
    assert len(server.hits("/media/*")) == 20

    server.reset_log()
    with pytest.warns(IncompleteWarning, match="20 failed.* asked for a pause of 3600 s"):
        maps = ours(collection_ids=[555])
    assert all("pause of 3600 s" in str(outcome.reason) for outcome in maps.report)
    assert len(server.hits("/media/*")) <= 6


@pytest.mark.parametrize("fault", [faults.html(), faults.cut_json()], ids=["html page", "cut off"])
def test_a_bad_answer_of_neurosynth_is_parsed_before_it_is_stored(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path, fault: faults.Fault
) -> None:
    asked = {"collection_ids": [1058], "fetch_neurosynth_words": True}
    server.fail("/api/decode/", fault, query={"neurovault": 14251})
    nilearn(**asked)
    with pytest.warns(IncompleteWarning, match="words 14251 failed"):
        ours(**asked)
    server.heal()
    assert nilearn(**asked).word_frequencies.any(axis=1).tolist().count(False) == 1

    assert ours(**asked).word_frequencies.any(axis=1).all()
    # Nor is what nilearn stored believed: it is asked for again.
    server.reset_log()
    assert ours(**asked, data_dir=nilearn_dir).word_frequencies.any(axis=1).all()
    assert [hit.query for hit in server.hits("/api/decode/")] == [{"neurovault": "14251"}]
    assert nilearn(**asked, mode="offline").word_frequencies.any(axis=1).all()


def test_one_broken_record_costs_only_itself_and_is_reported(
    nilearn: Fetch, ours: Fetch, world: World, monkeypatch: pytest.MonkeyPatch, nilearn_dir: Path
) -> None:
    monkeypatch.setattr(theirs, "_DEFAULT_BATCH_SIZE", 4)
    world.poison_image(14089)
    assert ids(nilearn(collection_ids=[1039])) == [14084, 14085, 14086, 14087]

    with pytest.warns(IncompleteWarning, match="record 6 of collection 1039"):
        maps = ours(collection_ids=[1039])
    assert ids(maps) == [14084, 14085, 14086, 14087, 14088, 14090, 14091]
    assert maps.report.missing == (Outcome("image", None, "broken_on_server", "record 6 of collection 1039"),)

    world.cure(14089)
    assert len(nilearn(collection_ids=[1039]).images) == 4
    assert len(ours(collection_ids=[1039], mode="overwrite").images) == 8
    assert len(ours(collection_ids=[1039], data_dir=nilearn_dir).images) == 8


def test_a_half_made_collection_folder_is_irrelevant(
    nilearn: Fetch, ours: Fetch, nilearn_dir: Path, data_dir: Path
) -> None:
    for folder in (nilearn_dir, data_dir):
        (folder / "neurovault" / "collection_658").mkdir(parents=True)
    for mode in ("download_new", "overwrite"):
        assert nilearn(image_ids=[10426], mode=mode).images == []
    assert ids(ours(image_ids=[10426])) == [10426]
    assert ids(nilearn(image_ids=[10426], data_dir=data_dir, mode="offline")) == [10426]


def test_a_folder_whose_collection_record_is_missing_is_made_whole(
    nilearn: Fetch, ours: Fetch, server: DemoServer, nilearn_dir: Path
) -> None:
    nilearn(collection_ids=[1058])
    (nilearn_dir / "neurovault" / "collection_1058" / "collection_metadata.json").unlink()
    assert nilearn(collection_ids=[1058], mode="offline").images == []

    server.reset_log()
    maps = ours(collection_ids=[1058], data_dir=nilearn_dir)
    assert maps.report.counts == {"adopted": 3}
    assert not server.hits("/media/*")
    assert_same(maps, nilearn(collection_ids=[1058], mode="offline"))


def test_a_copied_cache_returns_paths_in_its_own_place(
    nilearn: Fetch, ours: Fetch, nilearn_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    def leading_to(folder: Path, maps: Bunch) -> list[str]:
        values = [value for meta in (*maps.images_meta, *maps.collections_meta) for value in meta.values()]
        return [value for value in (*maps.images, *values) if str(folder) in str(value)]

    nilearn(collection_ids=[1058])
    nilearn(collection_ids=[1058], mode="offline")
    ours(collection_ids=[1058])
    shutil.copytree(nilearn_dir, tmp_path / "copy of nilearn's")
    shutil.copytree(data_dir, tmp_path / "copy of ours")
    copied = nilearn(collection_ids=[1058], data_dir=tmp_path / "copy of nilearn's", mode="offline")
    assert leading_to(nilearn_dir, copied)

    copied = ours(collection_ids=[1058], data_dir=tmp_path / "copy of ours", mode="offline")
    assert not leading_to(data_dir, copied)
    assert leading_to(tmp_path / "copy of ours", copied)


def test_values_that_only_begin_with_none_are_kept(
    nilearn: Fetch, ours: Fetch, world: World, nilearn_dir: Path
) -> None:
    values = {"contrast_definition": "Nonemotional > emotional faces", "name": "None vs. all", "note": "nullius"}
    world.edit_image(14250, values)
    placeholders = {
        "modality": "None / Other",
        "sex": "",
        "race": "n/a",
        "ethnicity": "NULL",
        "handedness": "None",
    }
    world.edit_image(14251, placeholders)

    mine = ours(collection_ids=[1058])
    assert {key: mine.images_meta[0][key] for key in values} == values
    assert {key: mine.images_meta[1][key] for key in placeholders} == dict.fromkeys(placeholders)
    assert_same(mine, nilearn(collection_ids=[1058]), but={14250: values})
    # The record is kept as the server gave it.
    raw = Catalog(mine.images[0].partition("/neurovault/")[0]).sql(
        "SELECT raw->>'modality' FROM raw_records WHERE kind = 'image' AND id = 14251"
    )
    assert raw.fetchall() == [("None / Other",)]


def test_files_come_in_parallel_over_few_connections(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    with DemoServer(world) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        point_nilearn_at(server, monkeypatch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            theirs.fetch_neurovault_ids(collection_ids=[555], data_dir=tmp_path / "theirs", verbose=0)
        assert server.peak_connections["media"] == 1
        assert server.connections_opened > 20

        theirs._requests_session.session.close()
        opened = server.connections_opened
        server.reset_log()
        hold_until_together(server, "/media/*", 6)
        fetch_neurovault_ids(collection_ids=[555], data_dir=tmp_path / "ours", verbose=0)
        assert server.peak_connections["media"] == 6
        assert server.connections_opened - opened <= 6 + 2


def test_the_timeout_applies_to_image_ids_too(nilearn: Fetch, ours: Fetch, server: DemoServer) -> None:
    server.fail("/api/images/*", faults.slow(0.5))
    assert ids(nilearn(image_ids=[10426], timeout=0.1)) == [10426]

    server.heal()
    server.fail("/api/images/*", faults.slow(3600))
    with pytest.warns(IncompleteWarning, match="image 10426 failed .*[Tt]imed? ?out"):
        assert ours(image_ids=[10426], timeout=0.1).images == []


@pytest.mark.usefixtures("nilearn")
def test_ids_that_do_not_exist_are_reported(ours: Fetch, world: World, nilearn_dir: Path) -> None:
    world.make_private(1058, "ABCDEFGH")
    asked = {"collection_ids": [777, 1058], "image_ids": [999_999, 10426]}
    with warnings.catch_warnings(record=True) as warned:
        maps = theirs.fetch_neurovault_ids(**asked, data_dir=nilearn_dir, verbose=0)
    assert ids(maps) == [10426]
    assert not warned

    with pytest.warns(IncompleteWarning, match="2 not_found, 1 private"):
        maps = ours(**asked)
    assert [(outcome.id, outcome.status) for outcome in maps.report] == [
        (777, "not_found"), (1058, "private"), (999_999, "not_found"), (10426, "downloaded"),
    ]  # fmt: skip


def test_the_order_of_the_result_is_that_of_the_request_in_every_call(nilearn: Fetch, ours: Fetch) -> None:
    asked = {"collection_ids": [1058, 63], "image_ids": [9044, 9035, 10426, 9035, 14251]}
    # nilearn goes through a set of the ids: two small ones come in the order of their remainders by eight.
    assert ids(nilearn(image_ids=[9044, 9035])) == [9035, 9044]
    for mode in ("download_new", "download_new", "offline", "overwrite"):
        assert ids(ours(**asked, mode=mode)) == [14250, 14251, 14252, 308, 9044, 9035, 10426]


def test_overwrite_by_image_id_refreshes_the_collections_record(nilearn: Fetch, ours: Fetch, world: World) -> None:
    nilearn(image_ids=[10426])
    ours(image_ids=[10426])
    world.edit_collection(658, name="renamed")
    stale = nilearn(image_ids=[10426], mode="overwrite")
    assert stale.collections_meta[0]["name"] != "renamed"
    assert ours(image_ids=[10426], mode="overwrite").collections_meta[0]["name"] == "renamed"


def test_a_list_that_lost_a_row_is_read_again(nilearn: Fetch, ours: Fetch, server: DemoServer) -> None:
    def lose_the_first(body: bytes) -> bytes:
        page = json.loads(body)
        return json.dumps({**page, "results": page["results"][1:]}).encode()

    server.fail("/api/collections/1058/images/", faults.rewrite(lose_the_first), times=1)
    assert sorted(ids(nilearn(collection_ids=[1058]))) == [14251, 14252, 14252]

    server.fail("/api/collections/1058/images/", faults.rewrite(lose_the_first), times=1)
    maps = ours(collection_ids=[1058])
    assert ids(maps) == [14250, 14251, 14252]
    assert not maps.report.missing


def test_good_images_behind_thirty_that_are_404_arrive(nilearn: Fetch, ours: Fetch, world: World) -> None:
    collection_id = world.add_collection(images=33)
    *lost, good, better = world.image_ids(collection_id)
    for image_id in lost:
        world.broken_media(image_id)
    assert nilearn(collection_ids=[collection_id]).images == []

    with pytest.warns(IncompleteWarning, match="31 not_found"):
        assert ids(ours(collection_ids=[collection_id])) == [good, better]


def test_finding_one_image_among_many_reads_no_metadata_file(
    nilearn: Fetch, ours: Fetch, data_dir: Path, nilearn_dir: Path
) -> None:
    asked = {"collection_ids": [1039, 1058], "image_ids": [10426]}
    nilearn(**asked)
    ours(**asked)
    for folder in (data_dir, nilearn_dir):
        for path in folder.rglob("*_metadata.json"):
            path.unlink()
    assert nilearn(image_ids=[10426], mode="offline").images == []

    maps = ours(image_ids=[10426], mode="offline")
    assert maps.images_meta[0]["name"]
    assert maps.collections_meta[0]["name"].startswith("Demo: a motor contrast")
    assert re.search(r"collection_658/image_10426\.nii\.gz$", maps.images[0])
