"""What arrives lands in short writes beside the downloads; what somebody keeps from landing is kept, and told."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
import warnings
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from waiting import patience, wait_until

from nvcatalog import Catalog, fetch_neurovault, fetch_neurovault_ids, landing, snapshot, storage
from nvcatalog._batch import Batch, Listing, Words
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import (
    CatalogLockedError,
    CatalogTooNewError,
    CatalogWarning,
    IncompleteWarning,
    WrongServerError,
)
from nvcatalog.known import Refusal
from nvcatalog.landing import Lander

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MUCH_LATER = datetime(2099, 1, 2, tzinfo=UTC)
HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_snapshots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let snapshots wait, and then forget them: they have their own tests."""
    monkeypatch.setattr(snapshot, "_age_s", lambda folder: 0.0)
    yield
    snapshot._waiting.clear()


@pytest.fixture(autouse=True)
def first_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "_FIRST_AFTER_S", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "neurovault"
    folder.mkdir()
    return Store(folder)


@pytest.fixture
def lander(store: Store) -> Lander:
    return Lander(store, writable=True)


def read_by_another_tool(store: Store) -> AbstractContextManager[subprocess.Popen[str]]:
    return held_by_another_tool(store, "read")


@contextmanager
def held_by_another_tool(store: Store, how: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(store.path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "open\n"
        yield process
        process.stdin.close()


def ids_in(store: Store) -> list[int]:
    if not store.exists:
        return []
    with store.reading() as connection:
        return [id_ for (id_,) in connection.execute("SELECT image_id FROM images ORDER BY 1").fetchall()]


def add_image(lander: Lander, id_: int, **fields: Any) -> None:
    lander.batch.add_record("image", {"id": id_, "collection_id": 7, **fields})


# When


def test_the_first_rows_land_at_once_and_nobody_waits_for_them(store: Store, lander: Lander) -> None:
    add_image(lander, 1)

    lander.land_if_due()

    assert len(lander.batch) == 0
    wait_until(lambda: ids_in(store) == [1])
    lander.finish()
    assert lander.landed


def test_later_rows_wait_until_enough_have_come_together(
    store: Store, lander: Lander, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_EVERY_ROWS", 6)
    monkeypatch.setattr(landing, "_EVERY_S", 3600.0)
    add_image(lander, 1)
    lander.land()

    for id_ in (2, 3):
        add_image(lander, id_)
        lander.land_if_due()
    assert ids_in(store) == [1]
    add_image(lander, 4)  # a record is two rows, so this is the sixth
    lander.land_if_due()

    wait_until(lambda: ids_in(store) == [1, 2, 3, 4])
    lander.finish()


def test_later_rows_wait_until_some_time_has_passed(
    store: Store, lander: Lander, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_EVERY_S", 0.05)
    add_image(lander, 1)
    lander.land()
    add_image(lander, 2)
    time.sleep(0.06)

    lander.land_if_due()

    wait_until(lambda: ids_in(store) == [1, 2])
    lander.finish()


def test_the_rest_lands_at_the_end(store: Store, lander: Lander) -> None:
    for id_ in (1, 2, 3):
        add_image(lander, id_)
        lander.land_if_due()

    lander.finish()

    assert ids_in(store) == [1, 2, 3]


def test_nothing_to_land_makes_no_catalog(store: Store, lander: Lander) -> None:
    lander.land_if_due()
    lander.finish()

    assert not lander.landed
    assert list(store.folder.iterdir()) == []


def test_where_nothing_can_be_written_nothing_is_and_nothing_is_said(store: Store) -> None:
    lander = Lander(store, writable=False)
    add_image(lander, 1)

    lander.land_if_due()
    lander.finish()

    assert not lander.landed
    assert len(lander.batch) == 2, "the answer may still need what could not land"
    assert list(store.folder.iterdir()) == []


def test_what_a_row_says_of_a_file_is_on_the_disk_before_the_row_is(
    store: Store, lander: Lander, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[set[Path], list[int]]] = []
    sync_folders = storage.sync_folders

    def sync_and_note(folders: set[Path]) -> None:
        sync_folders(folders)
        synced.append((set(folders), ids_in(store)))

    monkeypatch.setattr(storage, "sync_folders", sync_and_note)
    for id_ in (1, 2):
        add_image(lander, id_)
        lander.folders.add(store.folder)
        lander.land()

    assert synced == [({store.folder}, []), ({store.folder}, [1])]
    assert lander.folders == set()
    lander.finish()


def test_the_server_gives_the_catalog_its_name_with_the_first_record(store: Store, lander: Lander) -> None:
    lander.server_root = "https://neurovault.org"
    lander.batch.add("files", {"image_id": 1, "kind": "original"})
    lander.land()
    assert store.known([], []).server_root is None

    add_image(lander, 1)
    lander.finish()

    assert store.known([], []).server_root == "https://neurovault.org"


# What cannot land


def test_a_row_that_does_not_fit_is_a_trouble_and_the_others_land(
    store: Store, lander: Lander, caplog: pytest.LogCaptureFixture
) -> None:
    add_image(lander, 1)
    lander.batch.add("images", {"image_id": 2, "name": 5})

    with caplog.at_level(logging.INFO, logger="nvcatalog"):
        lander.finish()

    [trouble] = lander.troubles
    assert trouble.startswith("images: image_id 2 could not land: ")
    assert ids_in(store) == [1]
    assert "image_id 2" in caplog.text


def test_who_keeps_the_catalog_open_is_named_and_nothing_is_lost(store: Store, lander: Lander) -> None:
    add_image(lander, 1)
    lander.land()

    with read_by_another_tool(store) as process, patience(0.1):
        add_image(lander, 2)
        lander.land()
        add_image(lander, 3)
        lander.finish()

    [trouble] = lander.troubles
    assert re.search(rf"on disk but not in the catalog yet: .*process {process.pid} ", trouble)
    assert ids_in(store) == [1]
    assert lander.batch.tables["images"][-1]["image_id"] == 3
    assert len(lander.batch.tables["images"]) == 2


def test_once_the_catalog_is_free_again_everything_lands_and_nothing_is_said(store: Store, lander: Lander) -> None:
    add_image(lander, 1)
    lander.land()
    with read_by_another_tool(store), patience(0.1):
        add_image(lander, 2, name="old")
        lander.land()
        add_image(lander, 2, name="new")
        add_image(lander, 3)
        lander.land()

    lander.finish()

    assert lander.troubles == []
    assert ids_in(store) == [1, 2, 3]
    with store.reading() as connection:
        assert connection.execute("SELECT name FROM images WHERE image_id = 2").fetchall() == [("new",)]


def test_a_catalog_that_is_held_is_asked_for_now_and_then_not_for_every_row(
    store: Store, lander: Lander, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_EVERY_ROWS", 2)
    monkeypatch.setattr(landing, "_EVERY_S", 3600.0)
    tries: list[float | None] = []
    land = Store.land

    def land_and_count(store: Store, batch: Batch, *, timeout_s: float | None = None) -> list[str]:
        tries.append(timeout_s)
        return land(store, batch, timeout_s=timeout_s)

    add_image(lander, 1)
    lander.land()
    monkeypatch.setattr(Store, "land", land_and_count)
    with read_by_another_tool(store), patience(0.05):
        add_image(lander, 2)
        lander.land()
        for id_ in range(3, 50):
            add_image(lander, id_)
            lander.land_if_due()
        assert tries == [None]
        lander.land()

    assert tries == [None, landing._SHORT_PATIENCE_S], "it was waited for at length more than once"
    lander.finish()
    assert ids_in(store) == list(range(1, 50))


def test_what_ends_the_call_is_raised_where_the_call_is(store: Store, lander: Lander) -> None:
    add_image(lander, 1)
    lander.land()
    with store.writing() as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9999, 'x', 'y', now())")
    add_image(lander, 2)

    with pytest.raises(CatalogTooNewError):
        lander.land()


def test_what_an_error_kept_from_landing_lands_with_the_list_that_names_it_or_not_at_all(
    store: Store, lander: Lander
) -> None:
    lander.batch.add_record("collection", {"id": 7})
    lander.land()
    add_image(lander, 1)
    change(store, "INSERT INTO schema_migrations VALUES (9999, 'x', 'y', now())")
    with pytest.raises(CatalogTooNewError):
        lander.land()
    add_image(lander, 2)
    lander.batch.listings.append(Listing(7, MUCH_LATER, 2, complete=True, image_ids=frozenset({1, 2})))
    with pytest.raises(CatalogTooNewError):
        lander.land()
    change(store, "DELETE FROM schema_migrations WHERE version = 9999")
    assert not store.known([7], []).collections[7].complete

    lander.finish()

    assert ids_in(store) == [1, 2]
    assert store.known([7], []).collections[7].complete


def change(store: Store, statement: str) -> None:
    with duckdb.connect(str(store.path)) as connection:
        connection.execute(statement)


def test_a_list_is_not_whole_while_a_record_of_an_earlier_landing_did_not_fit(
    store: Store, lander: Lander
) -> None:
    lander.batch.add_record("collection", {"id": 7})
    add_image(lander, 1)
    lander.batch.add("images", {"image_id": 2, "collection_id": 7, "name": 5})
    lander.land()
    lander.batch.listings.append(Listing(7, MUCH_LATER, 2, complete=True, image_ids=frozenset({1, 2})))

    lander.finish()

    assert not store.known([7], []).collections[7].complete


# Two batches as one


def refusal(kind: str, id_: int, reason: str, position: int | None = None) -> Refusal:
    return Refusal(kind, id_, "not_found", reason, None, NOW, position)


def first_batch() -> Batch:
    batch = Batch(words={1: Words({"pain": 0.1}, None), 2: Words({"pain": 0.2}, None)})
    batch.add_record("collection", {"id": 7, "name": "first"})
    batch.add_record("image", {"id": 1, "collection_id": 7, "name": "first"})
    batch.add_record("image", {"id": 2, "collection_id": 7})
    batch.add_refusal(refusal("image", 9, "first"))
    batch.add_refusal(refusal("image", 10, "first"))
    batch.add_refusal(refusal("position", 7, "first", 3))
    batch.listings.append(Listing(7, datetime.now(UTC), 1, complete=True, image_ids=frozenset({1})))
    batch.healed.add(("image", 8))
    batch.add_record("image", {"id": 4, "collection_id": 7, "name": "found"}, source="sidecar")
    batch.add("files", {"image_id": 4, "kind": "original", "state": "unverified", "path": "first"})
    return batch


def second_batch() -> Batch:
    batch = Batch(words={2: Words({"motor": 0.5}, None)})
    batch.add_record("image", {"id": 1, "collection_id": 7, "name": "second"})
    batch.add_refusal(refusal("position", 7, "second", 4))
    batch.add_refusal(refusal("image", 10, "second"))
    batch.add("files", {"image_id": 1, "kind": "original"})
    batch.add_record("image", {"id": 3, "collection_id": 7, "name": "in no list"})
    batch.listings.append(Listing(7, MUCH_LATER, 2, complete=False, image_ids=frozenset({1})))
    batch.healed |= {("image", 9), ("position", 7)}
    batch.add_record("image", {"id": 1, "collection_id": 9, "name": "found"}, source="sidecar")
    batch.add_record("image", {"id": 4, "collection_id": 7, "name": "found later"}, source="sidecar")
    batch.add("files", {"image_id": 4, "kind": "original", "state": "unverified", "path": "second"})
    return batch


def left_by(store: Store) -> dict[str, list[str]]:
    """Return every row of every table that batches fill, but for the times at which they came or went."""
    tables = ("collections", "images", "raw_records", "files", "refusals", "image_words", "words_status")
    left = {}
    with store.reading() as connection:
        for table in tables:
            rows = connection.table(table).to_arrow_table().to_pylist()
            left[table] = sorted(repr({key: shown(key, value) for key, value in row.items()}) for row in rows)
    return left


def shown(key: str, value: Any) -> Any:
    return value is None if key in ("fetched_at", "gone_at", "listed_at") else value


def test_two_batches_as_one_leave_what_they_leave_one_after_the_other(tmp_path: Path) -> None:
    stores = []
    for name in ("apart", "as one"):
        (tmp_path / name).mkdir()
        stores.append(Store(tmp_path / name))
        stores[-1].land(former_batch())
    apart, as_one = stores

    first, second = first_batch(), second_batch()
    apart.land(first)
    apart.land(second)
    as_one.land(first.followed_by(second))

    assert left_by(as_one) == left_by(apart)
    assert len(left_by(as_one)["refusals"]) == 3
    assert [row["gone_at"] is None for row in images_in(as_one)] == [True, False, True, True]
    assert [row["name"] for row in images_in(as_one)] == ["second", None, "in no list", "found later"]


def images_in(store: Store) -> list[dict[str, Any]]:
    with store.reading() as connection:
        rows: list[dict[str, Any]] = connection.table("images").order("image_id").to_arrow_table().to_pylist()
    return rows


def former_batch() -> Batch:
    batch = Batch()
    for each in (refusal("image", 8, "former"), refusal("image", 9, "former"), refusal("image", 11, "former")):
        batch.add_refusal(each)
    return batch


# A whole call


@pytest.fixture
def world() -> World:
    world = World.empty()
    world.add_collection(id=3, images=[{"id": 31}, {"id": 32}])
    world.add_collection(id=4, images=[{"id": 41}])
    return world


def test_a_fetch_beside_a_reader_answers_with_the_files_and_the_next_one_takes_them_over(
    server: DemoServer, data_dir: Path
) -> None:
    fetch_neurovault_ids([4], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)

    with (
        read_by_another_tool(Store(data_dir / "neurovault")) as process,
        patience(0.2),
        pytest.warns(CatalogWarning, match=rf"not in the catalog yet: .*is kept open by process {process.pid} "),
    ):
        maps = fetch_neurovault_ids([3], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)

    assert maps.report.counts == {"downloaded": 4}
    assert [Path(path).stat().st_size > 0 for path in maps.images] == [True, True]
    assert maps.word_frequencies.any(axis=1).all(), "terms that could not land belong to the answer all the same"
    assert Catalog(data_dir).sql("SELECT DISTINCT collection_id FROM images").fetchall() == [(4,)]

    server.reset_log()
    again = fetch_neurovault_ids([3], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)

    assert server.hits("/media/*") == []
    assert server.hits("/api/decode/") == []
    assert again.images == maps.images
    assert (again.word_frequencies == maps.word_frequencies).all()
    rows = Catalog(data_dir).sql("SELECT image_id FROM local_images ORDER BY 1").fetchall()
    assert rows == [(31,), (32,), (41,)]


@pytest.fixture
def held_for_writing(server: DemoServer, data_dir: Path) -> Iterator[str]:
    """Fetch collection 4 and image 31, then let somebody keep the catalog; return what warnings say of that."""
    fetch_neurovault_ids([4], [31], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)
    server.reset_log()
    with held_by_another_tool(Store(data_dir / "neurovault"), "write") as process, patience(0.1):
        yield rf"does without the catalog.*kept open by process {process.pid} "


def test_a_fetch_while_somebody_keeps_the_catalog_answers_with_the_files(
    server: DemoServer, data_dir: Path, held_for_writing: str
) -> None:
    with pytest.warns(CatalogWarning, match=held_for_writing):
        maps = fetch_neurovault_ids([4], [32, 31], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)

    assert [meta["id"] for meta in maps.images_meta] == [41, 32, 31]
    assert [meta["id"] for meta in maps.collections_meta] == [4, 3, 3]
    assert {outcome.id: outcome.status for outcome in maps.report if outcome.kind == "image"} == {
        41: "adopted",
        32: "downloaded",
        31: "adopted",
    }
    assert maps.word_frequencies.any(axis=1).all()
    assert len(server.hits("/media/*")) == len(server.hits("/api/decode/")) == 1


def test_offline_while_somebody_keeps_the_catalog_what_is_here_is_returned(
    server: DemoServer, data_dir: Path, held_for_writing: str
) -> None:
    with (
        pytest.warns(CatalogWarning, match=held_for_writing),
        pytest.warns(IncompleteWarning, match="collection 4"),
    ):
        maps = fetch_neurovault_ids([4], [31], mode="offline", data_dir=data_dir, verbose=0)

    assert [meta["id"] for meta in maps.images_meta] == [41, 31]
    assert server.requests == 0


def test_a_folder_of_another_server_is_known_while_somebody_keeps_the_catalog(
    data_dir: Path, held_for_writing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", "http://127.0.0.1:9")
    with pytest.raises(WrongServerError):
        fetch_neurovault_ids([], [99], data_dir=data_dir, verbose=0)


def test_filters_need_the_catalog(data_dir: Path, held_for_writing: str) -> None:
    with pytest.raises(CatalogLockedError):
        fetch_neurovault(collection_id=4, data_dir=data_dir, verbose=0)


def test_the_next_call_takes_over_what_a_call_without_the_catalog_brought(
    server: DemoServer, data_dir: Path
) -> None:
    fetch_neurovault_ids([4], data_dir=data_dir, verbose=0)
    held = held_by_another_tool(Store(data_dir / "neurovault"), "write")
    with held, patience(0.1), pytest.warns(CatalogWarning):
        maps = fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)
    server.reset_log()

    again = fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)

    assert again.images == maps.images
    assert not server.hits("/media/*")
    rows = Catalog(data_dir).sql("SELECT image_id FROM local_images ORDER BY 1").fetchall()
    assert rows == [(31,), (32,), (41,)]


def test_a_fetch_beside_a_writer_waits_for_it(server: DemoServer, data_dir: Path) -> None:
    fetch_neurovault_ids([4], data_dir=data_dir, verbose=0)
    script = """
import sys, time
from pathlib import Path
from nvcatalog._store import Store
with Store(Path(sys.argv[1])).writing():
    print("open", flush=True)
    time.sleep(0.5)
"""
    command = [sys.executable, "-c", script, str(data_dir / "neurovault")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        maps = fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)

    assert maps.report.counts == {"downloaded": 2}
    rows = Catalog(data_dir).sql("SELECT image_id FROM local_images ORDER BY 1").fetchall()
    assert rows == [(31,), (32,), (41,)]
