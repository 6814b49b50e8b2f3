"""A dry run says what a call would do and what that takes, and does none of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import FOUR, SEVEN_DAYS_AGO, ids, traces, write
from fetching import fetch as fetch
from fetching import fetch_filtered as fetch_filtered
from fetching import no_waiting as no_waiting
from fetching import world as world

from nvcatalog import Catalog
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import FolderWarning, IncompleteWarning, NoSpaceError
from nvcatalog.plan import Plan

if TYPE_CHECKING:
    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that says how much room the disk has."""

    def set_free(size: int) -> None:
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage.__class__(usage.total, usage.used, size))

    return set_free


def size_of(world: World, *image_ids: int) -> int:
    return sum(len(world.image_bytes(id_)) for id_ in image_ids)


def test_a_dry_run_lists_and_moves_no_file(fetch: Fetch, server: DemoServer, world: World, data_dir: Path) -> None:
    fetch(image_ids=[4])
    server.reset_log()
    plan: Any = fetch(collection_ids=[3], image_ids=[10426], fetch_neurosynth_words=True, dry_run=True)

    assert isinstance(plan, Plan)
    assert plan.images == (*FOUR, 10426)
    assert tuple(plan.here) == (4,)
    assert plan.to_fetch == (3, 8718, 8719, 10426)
    assert plan.words_to_fetch == {*FOUR, 10426}
    assert plan.unavailable == ()
    assert plan.cost is not None
    assert plan.cost.bytes == plan.cost.bytes_more == size_of(world, 3, 8718, 8719, 10426)
    assert not server.hits("/media/*")
    assert not server.hits("/api/decode*")
    assert [path.name for path in data_dir.rglob("*.nii.gz")] == ["image_4.nii.gz"]
    # What it has listed is known now.
    server.reset_log()
    assert fetch(collection_ids=[3], image_ids=[10426], dry_run=True).to_fetch == plan.to_fetch
    assert server.requests == 0


def test_a_dry_run_chooses_what_the_call_would(fetch_filtered: Fetch, server: DemoServer) -> None:
    choices: list[dict[str, Any]] = [{"max_images": 0}, {"max_images": 5}, {"max_images": None, "image_terms": {}}]
    for asked in choices:
        plan: Any = fetch_filtered(**asked, dry_run=True)
        assert not server.hits("/media/*")
        assert plan.offered == len(plan.images)
        assert list(plan.images) == ids(fetch_filtered(**asked))
        plan = fetch_filtered(**asked, dry_run=True)
        assert (plan.to_fetch, set(plan.here)) == ((), set(plan.images))
        server.reset_log()


def test_what_is_known_to_be_unavailable_is_no_part_of_what_is_offered(
    fetch: Fetch, fetch_filtered: Fetch, world: World
) -> None:
    world.broken_media(4)
    with pytest.warns(IncompleteWarning):
        fetch(collection_ids=[3])
    with pytest.warns(IncompleteWarning, match="1 not_found. image 4 not_found"):
        plan: Any = fetch_filtered(max_images=5, dry_run=True)
    assert plan.images == (3, 8718, 8719, 4, 9034, 9035)
    assert [outcome[:3] for outcome in plan.unavailable] == [("image", 4, "not_found")]
    assert plan.offered == 5
    frame = plan.df()
    assert list(frame.columns) == ["image_id", "fate", "reason"]
    assert dict(zip(frame["image_id"], frame["fate"], strict=True)) == {
        3: "here", 8718: "here", 8719: "here", 4: "unavailable", 9034: "to fetch", 9035: "to fetch",
    }  # fmt: skip
    assert "HTTP 404" in frame.set_index("image_id")["reason"][4]
    assert frame.set_index("image_id")["reason"].drop(4).isna().all()


def test_the_costs_tell_unknown_sizes_and_the_time_once_there_was_a_fetch(
    fetch: Fetch, world: World, data_dir: Path, free: Callable[[int], None]
) -> None:
    free(5_000_000)
    world.edit_image(8718, file_size=None)
    world.edit_image(8719, file_size=0)
    cost = fetch(collection_ids=[3], dry_run=True).cost
    assert (cost.bytes, cost.unknown_sizes, cost.free_bytes, cost.expected_s) == (
        size_of(world, 3, 4), 2, 5_000_000, None,
    )  # fmt: skip
    assert cost.fits
    fetch(collection_ids=[1058])
    write(data_dir, "UPDATE fetches SET bytes = 1000, finished_at = started_at + INTERVAL 2 SECOND")
    write(data_dir, "UPDATE fetches SET downloaded = 3")
    cost = fetch(collection_ids=[3], dry_run=True).cost
    assert cost.expected_s == pytest.approx(size_of(world, 3, 4) / 500)


@pytest.mark.parametrize("size", [10**15, 2**34 + 1, 10**30, 1e300])
def test_a_size_that_no_file_has_is_an_unknown_one(
    fetch: Fetch, world: World, free: Callable[[int], None], size: float
) -> None:
    free(5_000_000)
    world.edit_image(3, file_size=size)
    plan: Any = fetch(image_ids=[3, 4], dry_run=True)
    assert (plan.cost.bytes, plan.cost.unknown_sizes, plan.cost.fits) == (size_of(world, 4), 1, True)
    note = "A size of more than 17 GB in a record is taken for an unknown one: images 3"
    assert plan.report.notes == (note,)
    maps = fetch(image_ids=[3, 4])
    assert maps.report.counts == {"downloaded": 2}
    assert maps.report.notes == (note,)
    assert fetch(image_ids=[3, 4]).report.notes == ()


def test_a_plan_can_be_read(fetch: Fetch, world: World, free: Callable[[int], None], data_dir: Path) -> None:
    free(5_000_000)
    world.edit_image(3, file_size=12_340_000)
    world.edit_image(4, file_size=None)
    fetch(image_ids=[8718, 8719])
    plan: Any = fetch(collection_ids=[3], fetch_neurosynth_words=True, dry_run=True)
    assert repr(plan).startswith(
        "<Plan: 4 images: 2 here, 2 to fetch, 0 unavailable, terms of 3 to fetch; "
        "12.3 MB and 1 file of unknown size to fetch, 5 MB free, about "
    )
    assert not plan.cost.fits
    write(
        data_dir,
        "UPDATE fetches SET bytes = 100_000, finished_at = started_at + INTERVAL 1 SECOND, downloaded = 1",
    )
    assert "about 2 min>" in repr(fetch(collection_ids=[3], dry_run=True))
    plan = fetch(image_ids=[8718, 8719], resample=True, dry_run=True)
    assert repr(plan).startswith("<Plan: 2 images: 2 here (2 to resample), 0 to fetch, 0 unavailable; 0.0 MB to")
    assert list(plan.df()["fate"]) == ["to resample"] * 2


def test_a_file_that_replaces_another_or_stays_resampled_alone_fills_less(fetch: Fetch, world: World) -> None:
    fetch(collection_ids=[3])
    cost = fetch(collection_ids=[3], mode="overwrite", dry_run=True).cost
    assert (cost.bytes, cost.bytes_more) == (size_of(world, *FOUR), 0)
    world.edit_image(10426, file_size=100_000_000)
    cost = fetch(image_ids=[10426], resample=True, dry_run=True).cost
    assert cost.bytes == 100_000_000
    assert cost.bytes_more < 5_000_000


def test_nothing_is_warned_of_but_what_cannot_be_had(fetch: Fetch, fetch_filtered: Fetch) -> None:
    fetch(collection_ids=[3], dry_run=True)
    fetch_filtered(dry_run=True)
    with pytest.warns(IncompleteWarning, match="1 not_found. image 999999 not_found"):
        plan: Any = fetch(collection_ids=[3], image_ids=[999_999], dry_run=True)
    assert [outcome[:3] for outcome in plan.unavailable] == [("image", 999_999, "not_found")]
    assert plan.to_fetch == tuple(FOUR)


def test_a_collection_with_the_id_of_an_image_is_warned_of(fetch: Fetch, world: World) -> None:
    world.add_collection(id=4, images=[{"id": 70}])
    world.poison_collection(4)
    with pytest.warns(IncompleteWarning, match="collection 4 broken_on_server"):
        fetch(collection_ids=[3, 4], dry_run=True)


def test_a_dry_run_offline_tells_what_is_missing_and_leaves_no_trace(fetch: Fetch, data_dir: Path) -> None:
    fetch(image_ids=[4])
    before = traces(data_dir)
    with pytest.warns(IncompleteWarning, match="10426 missing_offline"):
        plan: Any = fetch(image_ids=[4, 10426], mode="offline", dry_run=True)
    assert (tuple(plan.here), plan.to_fetch) == ((4,), ())
    assert [outcome.status for outcome in plan.unavailable] == ["missing_offline"]
    assert traces(data_dir) == before


def test_a_dry_run_of_overwrite_says_what_would_be_fetched_again(
    fetch_filtered: Fetch, server: DemoServer
) -> None:
    fetch_filtered(max_images=3)
    server.reset_log()
    plan: Any = fetch_filtered(max_images=3, mode="overwrite", dry_run=True)
    assert plan.to_fetch == (3, 4, 8718)
    assert not server.hits("/media/*")


def test_a_dry_run_of_a_folder_that_cannot_be_written_is_one_of_a_call_offline(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch, server: DemoServer, data_dir: Path
) -> None:
    fetch(image_ids=[4])
    server.reset_log()
    monkeypatch.setattr("nvcatalog._store.Store.what_cannot_be_written", lambda store: store.folder)
    with pytest.warns(FolderWarning), pytest.warns(IncompleteWarning):
        plan: Any = fetch(collection_ids=[3], image_ids=[4], dry_run=True)
    assert tuple(plan.here) == (4,)
    assert server.requests == 0


def test_a_call_is_on_record_as_a_dry_run(fetch: Fetch, data_dir: Path) -> None:
    fetch(collection_ids=[3], dry_run=True)
    rows = Catalog(data_dir).sql("SELECT downloaded, bytes, parameters->>'dry_run' FROM fetches").fetchall()
    assert rows == [(0, 0, "true")]


# A disk without room


@pytest.mark.parametrize("options", [{"collection_ids": [555]}, {"filters": True}], ids=["ids", "filters"])
def test_a_fetch_that_would_not_fit_stops_before_it_starts_with_the_figures(
    fetch: Fetch, fetch_filtered: Fetch, server: DemoServer, world: World, data_dir: Path,
    free: Callable[[int], None], options: dict[str, Any],
) -> None:  # fmt: skip
    call: Any = (lambda: fetch_filtered(max_images=None)) if "filters" in options else (lambda: fetch(**options))
    world.edit_image(9034, file_size=50_000_000)
    free(1_500_000)
    with pytest.raises(NoSpaceError, match=r"has 1\.5 MB free, and the \d+ files to fetch need 50\.\d MB"):
        call()
    assert not server.hits("/media/*")
    assert not list(data_dir.rglob("*.nii.gz"))
    # What was listed is kept, and with room enough the same call goes on from there.
    world.edit_image(9034, file_size=size_of(world, 9034))
    write(data_dir, SEVEN_DAYS_AGO)
    assert Catalog(data_dir).sql("SELECT count(*) FROM images WHERE collection_id = 555").fetchall() == [(20,)]
    free(50_000_000 + 10_000_000)
    server.reset_log()
    assert len(call().images) >= 20
    assert not server.hits("/api/collections/3/images/")


def test_a_call_that_fetches_nothing_needs_no_room(fetch: Fetch, free: Callable[[int], None]) -> None:
    fetch(collection_ids=[3])
    free(0)
    assert fetch(collection_ids=[3]).report.counts == {"cached": 4}
    # Files that replace others of their size take none either.
    assert fetch(collection_ids=[3], mode="overwrite").report.counts == {"downloaded": 4}


def test_files_that_take_no_more_than_is_free_are_fetched(
    fetch: Fetch, world: World, free: Callable[[int], None]
) -> None:
    free(size_of(world, *FOUR))
    assert fetch(collection_ids=[3]).report.counts == {"downloaded": 4}
