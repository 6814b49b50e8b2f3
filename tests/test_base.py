"""A shared folder behind one's own: its maps, records and terms are used, and nothing is ever written to it."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import fetching
import numpy as np
import pandas as pd
import pytest
from fetching import FOUR, Once, few_collections, file_of, filled_once, ids, outcomes_of, traces, write
from fetching import fetch as fetch
from fetching import fetch_filtered as fetch_filtered
from fetching import no_waiting as no_waiting
from fetching import open_dir as open_dir
from oracle import nilearn as nilearn
from oracle import nilearn_dir as nilearn_dir
from test_cli import nvcatalog as nvcatalog
from test_store import as_nobody, held_elsewhere, in_forked_child, let_go_soon
from waiting import patience

from nvcatalog import (
    Catalog,
    fetch_collection,
    fetch_frozen,
    fetch_neurovault_auditory_computation_task,
    fetch_neurovault_ids,
    fetch_where,
)
from nvcatalog._store import Store
from nvcatalog.base import LayeredStore
from nvcatalog.errors import (
    CatalogLockedError,
    CatalogTooNewError,
    CatalogWarning,
    DataDirError,
    IncompleteWarning,
    InvalidOptionError,
    InvalidOptionTypeError,
    QueryError,
    WrongServerError,
)
from nvcatalog.filters import IsIn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fetching import Fetch
    from test_cli import Run

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Once]:
    def fill(world: World, data_dir: Path) -> None:
        fetch_neurovault_ids([3], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)

    with filled_once(tmp_path_factory.mktemp("once"), few_collections(), fill) as once:
        yield once


@pytest.fixture
def world(once: Once) -> World:
    return once.new_world()


@pytest.fixture
def server(once: Once, world: World, monkeypatch: pytest.MonkeyPatch) -> DemoServer:
    return once.as_new(world, monkeypatch)


@pytest.fixture
def base(once: Once, open_dir: Path, server: DemoServer) -> Path:
    """Return a folder that holds collection 3 whole, with terms, of which nothing can be written."""
    shutil.copytree(once.folder, open_dir, dirs_exist_ok=True)
    lock(open_dir)
    return open_dir


def lock(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = traces(folder)
    yield
    assert traces(folder) == before


def test_what_is_in_the_base_is_returned_where_it_lies_and_no_request_is_made(
    fetch: Fetch, base: Path, data_dir: Path, server: DemoServer
) -> None:
    def work() -> None:
        maps = fetch(base=base, collection_ids=[3], fetch_neurosynth_words=True)
        assert maps.images == [str(file_of(base, 3, id_)) for id_ in FOUR]
        assert set(outcomes_of(maps).values()) == {"cached"}
        meta = maps.images_meta[0]
        assert meta["absolute_path"] == maps.images[0]
        assert meta["relative_path"] == "collection_3/image_3.nii.gz"
        assert meta["ns_words_absolute_path"].startswith(str(base))
        assert maps.collections_meta[0]["absolute_path"] == str(base / "neurovault" / "collection_3")
        assert maps.word_frequencies.any()

    requests = server.requests
    with unchanged(base):
        assert as_nobody(work) == "fine"
    assert server.requests == requests
    assert not (data_dir / "neurovault" / "catalog.duckdb").exists()


def test_new_files_go_to_the_folder_in_front_which_then_stands_alone(
    fetch: Fetch, base: Path, data_dir: Path
) -> None:
    with unchanged(base):
        maps = fetch(base=base, collection_ids=[3, 1058], fetch_neurosynth_words=True)

    assert maps.images[:4] == [str(file_of(base, 3, id_)) for id_ in FOUR]
    assert maps.images[4] == str(file_of(data_dir, 1058, 14250))
    assert maps.word_frequencies.any(axis=1).all()
    assert ids(fetch(collection_ids=[1058], mode="offline")) == [14250, 14251, 14252]
    with pytest.warns(IncompleteWarning):
        assert ids(fetch(collection_ids=[3], mode="offline")) == []


def test_a_map_that_the_base_has_lost_is_fetched_into_the_folder_with_its_record(
    fetch: Fetch, base: Path, data_dir: Path, server: DemoServer
) -> None:
    file_of(base, 3, 4).parent.chmod(0o755)
    file_of(base, 3, 4).unlink()
    lock(base)

    with unchanged(base):
        maps = fetch(base=base, collection_ids=[3])

    assert maps.images[1] == str(file_of(data_dir, 3, 4))
    assert outcomes_of(maps) == {3: "cached", 4: "downloaded", 8718: "cached", 8719: "cached"}
    assert fetch(image_ids=[4], mode="offline").images_meta[0]["name"] == maps.images_meta[1]["name"]
    alone = Catalog(data_dir)
    assert alone.sql("SELECT path FROM local_images").fetchall() == [("collection_3/image_4.nii.gz",)]
    root = alone.sql("SELECT value FROM catalog_info WHERE key = 'server_root'").fetchall()
    assert root == [(server.neurovault_url,)]
    ages = "SELECT fetched_at FROM images WHERE image_id = 4"
    assert alone.sql(ages).fetchall() == Catalog(base).sql(ages).fetchall()  # the record is as old as it was


def test_overwriting_writes_anew_into_the_folder_and_never_into_the_base(
    fetch: Fetch, open_dir: Path, data_dir: Path
) -> None:
    fetch(data_dir=open_dir, collection_ids=[3], fetch_neurosynth_words=True)

    with unchanged(open_dir):  # although it could be written
        maps = fetch(base=open_dir, collection_ids=[3], fetch_neurosynth_words=True, mode="overwrite")
        again = fetch(base=open_dir, collection_ids=[3], fetch_neurosynth_words=True)

    assert maps.images == again.images == [str(file_of(data_dir, 3, id_)) for id_ in FOUR]
    assert set(outcomes_of(maps).values()) == {"downloaded"}
    assert again.images_meta[0]["ns_words_absolute_path"].startswith(str(data_dir))
    assert (again.word_frequencies == maps.word_frequencies).all()


def test_an_answer_offline_has_what_either_folder_has(fetch: Fetch, base: Path, server: DemoServer) -> None:
    fetch(base=base, image_ids=[10426])
    requests = server.requests

    maps = fetch(base=base, collection_ids=[3], image_ids=[10426], mode="offline")

    assert ids(maps) == [*FOUR, 10426]
    assert server.requests == requests


def test_what_a_later_list_does_not_name_is_gone_although_its_map_is_in_the_base(
    fetch: Fetch, base: Path, data_dir: Path, world: World
) -> None:
    world.delete_image(4)

    with unchanged(base):
        fetch(base=base, collection_ids=[3], max_age=0)

    assert ids(fetch(base=base, collection_ids=[3])) == FOUR  # as in one folder: what is here stays
    with LayeredStore(data_dir / "neurovault", base / "neurovault").reading() as connection:
        gone = connection.execute("SELECT image_id FROM images WHERE gone_at IS NOT NULL").fetchall()
    assert gone == [(4,)]


def test_a_map_is_resampled_from_the_base_into_the_folder(fetch: Fetch, base: Path, data_dir: Path) -> None:
    with unchanged(base):
        maps = fetch(base=base, image_ids=[3], resample=True)
        again = fetch(base=base, image_ids=[3], resample=True)

    resampled = str(file_of(data_dir, 3, 3)).replace(".nii.gz", "_resampled.nii.gz")
    assert maps.images == again.images == [resampled]
    assert again.images_meta[0]["absolute_path"] == str(file_of(base, 3, 3))
    assert fetch(base=base, image_ids=[3]).images == [str(file_of(base, 3, 3))]
    assert Catalog(data_dir).verify(deep=True, verbose=0), Catalog(data_dir).verify(deep=True, verbose=0).problems


def test_terms_of_a_map_in_the_base_come_into_the_folder(fetch: Fetch, open_dir: Path, data_dir: Path) -> None:
    fetch(data_dir=open_dir, image_ids=[3])
    lock(open_dir)

    with unchanged(open_dir):
        maps = fetch(base=open_dir, image_ids=[3], fetch_neurosynth_words=True)
        again = fetch(base=open_dir, image_ids=[3], fetch_neurosynth_words=True, mode="offline")

    assert maps.images == again.images == [str(file_of(open_dir, 3, 3))]
    assert maps.word_frequencies.any()
    assert (again.word_frequencies == maps.word_frequencies).all()
    assert again.images_meta[0]["ns_words_absolute_path"].startswith(str(data_dir))
    assert Catalog(data_dir).verify(deep=True, verbose=0), Catalog(data_dir).verify(deep=True, verbose=0).problems


def test_a_base_where_files_cannot_be_locked_is_read_through_a_copy(
    fetch: Fetch, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = Store.attach

    def without_locks(store: Store, *args: Any, **options: Any) -> None:
        if store.folder == base / "neurovault":  # what DuckDB says on an NFS mount without a lock daemon
            raise CatalogLockedError('Could not set lock on file "catalog.duckdb": No locks available')
        attach(store, *args, **options)

    monkeypatch.setattr(Store, "attach", without_locks)

    with unchanged(base):
        assert fetch(base=base, collection_ids=[3]).images == [str(file_of(base, 3, id_)) for id_ in FOUR]


def test_a_process_forked_while_others_read_both_can_read_both(fetch: Fetch, base: Path, data_dir: Path) -> None:
    store = LayeredStore(data_dir / "neurovault", base / "neurovault")
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            store.known([3], [])

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read_on) for _ in range(2)]
        try:
            said = [in_forked_child(lambda: store.known([3], [])) for _ in range(5)]
        finally:
            stop.set()
        assert [reader.result() for reader in readers] == [None, None]
    assert said == ["fine"] * 5


def test_a_base_is_named_by_the_environment_too(fetch: Fetch, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCATALOG_BASE", str(base))

    assert fetch(image_ids=[3]).images == [str(file_of(base, 3, 3))]
    with pytest.raises(InvalidOptionError, match=r"base folder \(NVCATALOG_BASE\) and data folder"):
        fetch(data_dir=base, image_ids=[3])


def test_a_base_that_the_environment_names_and_is_not_there_stops_only_what_reads_it(
    fetch: Fetch, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(image_ids=[3])
    monkeypatch.setenv("NVCATALOG_BASE", str(tmp_path / "nowhere"))

    catalog = Catalog(data_dir)
    assert catalog.verify(verbose=0)
    assert len(catalog.usage("kind"))
    assert catalog.snapshot().is_dir()
    assert repr(catalog) == f"Catalog({str(data_dir)!r})"
    why = r"nowhere.* \(NVCATALOG_BASE\) does not exist\. Give .*, or unset NVCATALOG_BASE"
    with pytest.raises(DataDirError, match=why):
        catalog.sql("FROM images")
    with pytest.raises(DataDirError, match=why):
        _ = catalog.base


def test_what_is_about_the_folder_alone_says_that_it_has_no_catalog_whatever_the_base_has(
    base: Path, data_dir: Path
) -> None:
    catalog = Catalog(data_dir, base=base)
    with pytest.warns(CatalogWarning, match="There is no catalog in"):
        catalog.verify(verbose=0)
    with pytest.warns(CatalogWarning, match="There is no catalog in"):
        catalog.prune(image_ids=[3], dry_run=True, verbose=0)


def test_a_base_that_cannot_be_one_is_an_error_that_says_why(fetch: Fetch, tmp_path: Path, data_dir: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "bare").mkdir()
    (data_dir / "neurovault").mkdir(parents=True)

    with pytest.raises(DataDirError, match=r"base folder .*nowhere.* does not exist"):
        fetch(base=tmp_path / "nowhere", image_ids=[3])
    with pytest.raises(DataDirError, match=r"base folder .*file.* is a file"):
        fetch(base=file, image_ids=[3])
    with pytest.raises(DataDirError, match=r"base folder .*bare.* has no folder neurovault"):
        fetch(base=tmp_path / "bare", image_ids=[3])
    with pytest.raises(InvalidOptionError, match="base folder and data folder"):
        fetch(base=data_dir, image_ids=[3])
    with pytest.raises(InvalidOptionTypeError, match="base is 3, a int"):
        fetch(base=3, image_ids=[3])


def test_a_base_of_another_server_is_refused(fetch: Fetch, open_dir: Path) -> None:
    fetch(data_dir=open_dir, image_ids=[3])
    write(open_dir, "UPDATE catalog_info SET value = 'https://example.org' WHERE key = 'server_root'")

    with pytest.raises(WrongServerError, match=r"neurovault was filled from https://example.org"):
        fetch(base=open_dir, image_ids=[3])
    assert fetch(base=open_dir, image_ids=[3], mode="offline").images == [str(file_of(open_dir, 3, 3))]
    fetch(image_ids=[4])
    with pytest.raises(WrongServerError, match=r"and the base folder .* from https://example.org"):
        fetch(base=open_dir, image_ids=[3], mode="offline")


def test_a_base_of_an_older_version_is_read_and_not_migrated(fetch: Fetch, open_dir: Path) -> None:
    fetch(data_dir=open_dir, image_ids=[3])
    write(open_dir, "DROP TABLE marks")
    write(open_dir, "DELETE FROM schema_migrations WHERE version = 5")

    with unchanged(open_dir):
        assert fetch(base=open_dir, image_ids=[3]).images == [str(file_of(open_dir, 3, 3))]


def test_a_base_of_a_newer_version_is_refused(fetch: Fetch, open_dir: Path) -> None:
    fetch(data_dir=open_dir, image_ids=[3])
    write(
        open_dir,
        "INSERT INTO schema_migrations SELECT 99, 'later', 'x', applied_at FROM schema_migrations LIMIT 1",
    )

    with pytest.raises(CatalogTooNewError, match="has schema 99"):
        fetch(base=open_dir, image_ids=[3])


def test_a_base_that_somebody_writes_to_is_waited_for(fetch: Fetch, open_dir: Path) -> None:
    fetch(data_dir=open_dir, image_ids=[3])
    store = Store(open_dir / "neurovault")

    with held_elsewhere(store) as process:
        let_go_soon(process)
        assert fetch(base=open_dir, image_ids=[3]).images == [str(file_of(open_dir, 3, 3))]


def test_a_base_that_is_kept_open_too_long_answers_by_its_newest_snapshot(
    fetch: Fetch, open_dir: Path, server: DemoServer
) -> None:
    fetch(data_dir=open_dir, collection_ids=[3])
    Catalog(open_dir).snapshot()
    before = server.requests

    with (
        held_elsewhere(Store(open_dir / "neurovault")) as process,
        patience(0.2),
        unchanged(open_dir),
        pytest.warns(CatalogWarning, match=rf"process {process.pid} .* The snapshot of .* ago answers") as warned,
    ):
        maps = fetch(base=open_dir, collection_ids=[3])

    assert maps.images == [str(file_of(open_dir, 3, id_)) for id_ in FOUR]
    assert server.requests == before
    assert [each.filename for each in warned if each.category is CatalogWarning] == [fetching.__file__]


def test_a_base_that_is_kept_open_too_long_and_has_no_snapshot_is_done_without(
    fetch: Fetch, open_dir: Path, data_dir: Path
) -> None:
    fetch(data_dir=open_dir, image_ids=[3])

    with held_elsewhere(Store(open_dir / "neurovault")) as process, patience(0.2):
        with pytest.warns(CatalogWarning, match=rf"{open_dir}.* by process {process.pid}.* taken for empty"):
            maps = fetch(base=open_dir, image_ids=[3])
        assert maps.images == [str(file_of(data_dir, 3, 3))]
        with pytest.raises(CatalogLockedError, match=f"process {process.pid}"):
            Catalog(data_dir, base=open_dir).sql("SELECT 1")


def test_a_folder_that_is_kept_open_too_long_keeps_nobody_from_the_base(
    fetch: Fetch, base: Path, data_dir: Path, server: DemoServer
) -> None:
    fetch(image_ids=[10426])
    before = len(server.hits("/media/*"))

    with (
        held_elsewhere(Store(data_dir / "neurovault")),
        patience(0.2),
        pytest.warns(CatalogWarning, match="without the catalog"),
    ):
        maps = fetch(base=base, image_ids=[3, 10426])

    assert maps.images == [str(file_of(base, 3, 3)), str(file_of(data_dir, 658, 10426))]
    assert len(server.hits("/media/*")) == before


@pytest.mark.parametrize("kept", ["base", "front"])
def test_what_only_asks_is_answered_by_the_snapshot_of_the_folder_that_is_kept(
    fetch: Fetch, open_dir: Path, data_dir: Path, kept: str
) -> None:
    fetch(data_dir=open_dir, image_ids=[3], fetch_neurosynth_words=True)
    fetch(image_ids=[10426], fetch_neurosynth_words=True)
    for folder in (open_dir, data_dir):
        Catalog(folder).snapshot()
    both = Catalog(data_dir, base=open_dir)
    query = "SELECT image_id, path, raw->>'$.id' FROM local_images JOIN raw_records ON id = image_id ORDER BY ALL"
    expected = both.sql(query).fetchall(), both.words([3, 10426]).frequencies.toarray().tolist()
    folder = (open_dir if kept == "base" else data_dir) / "neurovault"

    with held_elsewhere(Store(folder)), patience(0.2):
        with pytest.warns(CatalogWarning, match="The snapshot of .* answers") as warned:
            answer = both.sql(query).fetchall(), both.words([3, 10426]).frequencies.toarray().tolist()
        with pytest.warns(CatalogWarning, match="The snapshot of"), pytest.raises(QueryError):
            both.sql(f"COPY images TO '{data_dir / 'neurovault' / 'catalog.duckdb'}'")

    assert answer == expected
    assert [each.filename for each in warned] == [__file__] * 2, "one for each call"


@pytest.mark.parametrize("kept", ["base", "front"])
def test_what_is_private_is_waited_for_in_either_folder(
    fetch: Fetch, open_dir: Path, data_dir: Path, kept: str
) -> None:
    fetch(data_dir=open_dir, image_ids=[3], fetch_neurosynth_words=True)
    fetch(image_ids=[10426], fetch_neurosynth_words=True)
    for folder in (open_dir, data_dir):
        Catalog(folder).snapshot()
    both = Catalog(data_dir, base=open_dir)

    with held_elsewhere(Store((open_dir if kept == "base" else data_dir) / "neurovault")), patience(0.2):
        for ask in (
            lambda: both.cite(private=True),
            lambda: both.words(private=np.True_),  # type: ignore[arg-type]  # a flag that numpy makes
            lambda: both.query("collections_overview", private=True),
        ):
            with pytest.raises(CatalogLockedError, match="is kept open by process"):
                ask()


def test_a_private_collection_of_the_base_stays_private(
    fetch: Fetch, open_dir: Path, data_dir: Path, world: World
) -> None:
    world.add_collection(id=79, images=[{"id": 791}])
    world.make_private(79, token := "ABCDEFGH")
    fetch(data_dir=open_dir, collection_ids=[token])
    lock(open_dir)

    with unchanged(open_dir):
        maps = fetch(base=open_dir, collection_ids=[token])
        private = Catalog(data_dir, base=open_dir).sql("FROM private_images").fetchall()

    assert maps.images == [str(file_of(open_dir, 79, 791))]
    assert private == [(791,)]


def test_threads_read_both_folders_while_one_writes(fetch: Fetch, base: Path, data_dir: Path) -> None:
    fetch(image_ids=[10426])

    def work(number: int) -> list[int]:
        return ids(fetch(base=base, collection_ids=[3], image_ids=[10426, 9034 + number]))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))

    assert found == [[*FOUR, 10426, 9034 + number] for number in range(8)]
    assert len(fetch(collection_ids=[], image_ids=range(9034, 9042), mode="offline").images) == 8


# The other fetchers


def test_filters_choose_from_the_base_first(
    fetch_filtered: Fetch, base: Path, data_dir: Path, server: DemoServer
) -> None:
    server.reset_log()

    with unchanged(base):
        few = fetch_filtered(base=base, max_images=3, image_terms={})
        assert server.requests == 0
        more = fetch_filtered(base=base, max_images=6, image_terms={}, collection_terms={"id": IsIn(3, 1058)})

    assert few.images == [str(file_of(base, 3, id_)) for id_ in FOUR[:3]]
    assert ids(more) == [*FOUR, 14250, 14251]
    assert more.images[4] == str(file_of(data_dir, 1058, 14250))


def test_a_condition_selects_from_what_either_catalog_knows(
    fetch: Fetch, base: Path, data_dir: Path, server: DemoServer
) -> None:
    fetch(base=base, image_ids=[10426])
    server.reset_log()

    with unchanged(base):
        maps = fetch_where("image_id IN (4, 8718, 10426)", data_dir=data_dir, base=base, verbose=0)

    assert maps.images == [
        *(str(file_of(base, 3, id_)) for id_ in (4, 8718)),
        str(file_of(data_dir, 658, 10426)),
    ]
    assert server.requests == 0


def test_a_condition_lists_again_into_the_folder_what_the_base_knows_for_long(
    base: Path, data_dir: Path, server: DemoServer
) -> None:
    server.reset_log()

    with unchanged(base):
        maps = fetch_where("collection_id = 3", data_dir=data_dir, base=base, max_age=0, verbose=0)

    assert server.requests > 0
    assert maps.images == [str(file_of(base, 3, id_)) for id_ in FOUR]
    assert Catalog(data_dir).sql("SELECT collection_id FROM collections WHERE complete").fetchall() == [(3,)]


def test_the_collections_of_a_paper_are_found_in_the_base(
    fetch: Fetch, open_dir: Path, data_dir: Path, world: World, server: DemoServer
) -> None:
    world.add_collection({"DOI": "10.1234/abc"}, id=77, images=[{"id": 771}])
    fetch(data_dir=open_dir, collection_ids=[77])
    lock(open_dir)
    server.reset_log()

    maps = fetch_collection(doi="10.1234/abc", data_dir=data_dir, base=open_dir, verbose=0)

    assert maps.images == [str(file_of(open_dir, 77, 771))]
    assert server.requests == 0


def test_the_map_for_trying_things_out_may_be_in_the_base(
    fetch: Fetch, open_dir: Path, data_dir: Path, world: World
) -> None:
    world.add_collection(id=78, images=[{"id": 32980}])
    fetch(data_dir=open_dir, image_ids=[32980])
    lock(open_dir)

    maps = fetch_neurovault_auditory_computation_task(data_dir, 0, base=open_dir)

    assert maps.images == [str(file_of(open_dir, 78, 32980))]


def test_frozen_maps_come_from_the_base_and_what_differs_there_stays_as_it_is(
    fetch: Fetch, base: Path, data_dir: Path, tmp_path: Path, server: DemoServer
) -> None:
    maps = fetch(data_dir=tmp_path / "frozen", image_ids=[3, 4])
    lock_file = Catalog(tmp_path / "frozen").freeze(tmp_path / "maps.lock.json", bunch=maps, verbose=0)
    server.reset_log()
    with unchanged(base):
        thawed = fetch_frozen(lock_file, data_dir=data_dir, base=base, verbose=0)
    assert thawed.images == [str(file_of(base, 3, id_)) for id_ in (3, 4)]
    assert server.requests == 0

    file_of(base, 3, 4).chmod(0o644)
    file_of(base, 3, 4).write_bytes(bytes(file_of(base, 3, 4).stat().st_size))
    with unchanged(base):
        thawed = fetch_frozen(lock_file, data_dir=data_dir, base=base, verbose=0)
    assert thawed.images == [str(file_of(base, 3, 3)), str(file_of(data_dir, 3, 4))]


def test_the_command_line_takes_a_base(nvcatalog: Run, base: Path, data_dir: Path) -> None:
    def rows(*arguments: str) -> list[str]:
        quiet = () if arguments[0] == "sql" else ("--quiet",)
        done = nvcatalog(*arguments, *quiet, "--base", base, "--data-dir", data_dir, "--format", "csv")
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().splitlines()[1:]

    with unchanged(base):
        assert str(file_of(base, 3, 3)) in rows("fetch", "--images", "3")[0]
        assert str(file_of(base, 3, 4)) in rows("where", "image_id = 4")[0]
        assert rows("sql", "SELECT count(*) FROM local_images") == ["4"]


# A folder that nilearn filled


@pytest.fixture
def nilearns(nilearn: Fetch, open_dir: Path) -> Path:
    """Return a folder that nilearn filled, of which nothing can be written."""
    nilearn(data_dir=open_dir, collection_ids=[3], fetch_neurosynth_words=True)
    lock(open_dir)
    return open_dir


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nvcatalog"


def test_what_nilearn_left_is_used_through_a_catalog_in_the_cache_folder(
    fetch: Fetch, nilearns: Path, caches: Path, server: DemoServer
) -> None:
    def work() -> None:
        maps = fetch(base=nilearns, image_ids=FOUR, fetch_neurosynth_words=True)
        assert maps.images == [str(file_of(nilearns, 3, id_)) for id_ in FOUR]
        assert maps.word_frequencies.any()

    requests = server.requests
    with unchanged(nilearns):
        assert as_nobody(work) == "fine"
    assert server.requests == requests
    [catalog] = caches.rglob("catalog.duckdb")
    with duckdb.connect(str(catalog), read_only=True) as connection:
        files = connection.execute("SELECT path, state FROM files ORDER BY image_id").fetchall()
    assert files == [(f"collection_3/image_{id_}.nii.gz", "present") for id_ in FOUR]  # proven, and once for all


def test_of_a_collection_that_nilearn_left_only_the_list_is_asked_for(
    fetch: Fetch, nilearns: Path, caches: Path, server: DemoServer
) -> None:
    server.reset_log()

    with unchanged(nilearns):
        maps = fetch(base=nilearns, collection_ids=[3])
        requests = server.requests
        again = fetch(base=nilearns, collection_ids=[3])

    assert maps.images == again.images == [str(file_of(nilearns, 3, id_)) for id_ in FOUR]
    assert server.requests == requests <= 2


def test_the_catalog_in_the_cache_folder_is_made_anew_when_files_have_come(
    fetch: Fetch, nilearns: Path, caches: Path
) -> None:
    with pytest.warns(IncompleteWarning):
        assert ids(fetch(base=nilearns, image_ids=[3, 10426], mode="offline")) == [3]
    [first] = caches.rglob("catalog.duckdb")
    (nilearns / "neurovault").chmod(0o755)
    fetch(data_dir=nilearns.parent / f"{nilearns.name}-more", image_ids=[10426])
    more = nilearns.parent / f"{nilearns.name}-more"
    shutil.move(more / "neurovault" / "collection_658", nilearns / "neurovault")
    shutil.rmtree(more)

    assert ids(fetch(base=nilearns, image_ids=[3, 10426], mode="offline")) == [3, 10426]

    assert len(list(caches.rglob("catalog.duckdb"))) == 2
    os.utime(first.parent, (0, 0))  # days later, and another file has come
    os.utime(nilearns / "neurovault" / "collection_658", (1, 1))
    assert ids(fetch(base=nilearns, image_ids=[3, 10426], mode="offline")) == [3, 10426]
    assert not first.exists()


def test_a_damaged_map_of_nilearns_is_fetched_into_the_folder_and_left_as_it_is(
    fetch: Fetch, nilearns: Path, caches: Path, data_dir: Path
) -> None:
    file_of(nilearns, 3, 4).chmod(0o644)
    file_of(nilearns, 3, 4).write_bytes(b"<html>")

    with unchanged(nilearns):
        assert fetch(base=nilearns, image_ids=[3, 4]).images == [
            str(file_of(nilearns, 3, 3)),
            str(file_of(data_dir, 3, 4)),
        ]


def test_a_cache_folder_that_cannot_be_written_is_an_error_that_names_it(
    fetch: Fetch, nilearns: Path, caches: Path
) -> None:
    caches.parent.touch()

    with pytest.raises(DataDirError, match=r"has no catalog, and one for it cannot be kept in .*XDG_CACHE_HOME"):
        fetch(base=nilearns, image_ids=[3])


# SQL over both


def test_sql_terms_and_citations_are_of_both_folders(fetch: Fetch, base: Path, data_dir: Path) -> None:
    fetch(image_ids=[10426], fetch_neurosynth_words=True)
    both = Catalog(data_dir, base=base)
    alone, shared = Catalog(data_dir), Catalog(base)

    with unchanged(base):
        rows = both.sql("SELECT image_id, path FROM local_images ORDER BY image_id").fetchall()
        frequencies, vocabulary = both.words([3, 10426])
        of_maps = both.words(bunch=fetch(base=base, image_ids=[3, 10426]))
        cited = both.cite(image_ids=[3, 10426])
        by_term = both.query("images_by_term", term="pain", min_weight=-1).fetchall()

    assert sorted(rows) == sorted(
        [*((id_, str(file_of(base, 3, id_))) for id_ in FOUR), (10426, "collection_658/image_10426.nii.gz")]
    )
    assert (of_maps.frequencies.toarray() == frequencies.toarray()).all()
    for catalog, id_, row in ((shared, 3, 0), (alone, 10426, 1)):
        theirs = catalog.words([id_])
        expected = dict(zip(theirs.vocabulary, theirs.frequencies.toarray()[0], strict=True))
        assert dict(zip(vocabulary, frequencies.toarray()[row], strict=True)) == expected
    assert {row[0] for row in by_term} == {*FOUR, 10426}
    assert [each.collection_id for each in cited.collections] == [3, 658]


def test_exports_frozen_sets_and_studysets_are_of_both_folders(
    fetch: Fetch, base: Path, data_dir: Path, tmp_path: Path
) -> None:
    fetch(image_ids=[10426], fetch_neurosynth_words=True)

    def work() -> None:
        both = Catalog(data_dir, base=base)
        files = pd.read_csv(both.export(tmp_path / "files.csv", "files", verbose=0))
        assert dict(zip(files["image_id"], files["path"], strict=True)) == {
            10426: "collection_658/image_10426.nii.gz",
            **{id_: str(file_of(base, 3, id_)) for id_ in FOUR},
        }
        everything = both.export(tmp_path / "out", ["images", "image_words", "raw_records"], verbose=0)
        assert pd.read_parquet(everything / "image_words.parquet")["image_id"].nunique() == 5
        assert len(pd.read_parquet(everything / "raw_records.parquet")) == 7
        chosen = both.export(tmp_path / "one.duckdb", "images", image_ids=[3, 10426], verbose=0)
        with duckdb.connect(str(chosen)) as connection:
            assert connection.execute("FROM images SELECT image_id ORDER BY 1").fetchall() == [(3,), (10426,)]
        with pytest.raises(InvalidOptionError, match="'fetches', which says what was asked of one folder"):
            both.export(tmp_path / "calls", "fetches", verbose=0)

        frozen = both.freeze(tmp_path / "maps.lock.json", image_ids=[3, 10426], verbose=0)
        again = fetch(base=base, image_ids=[3, 10426])
        assert fetch_frozen(frozen, data_dir=data_dir, base=base, mode="offline", verbose=0).images == again.images

        studyset = both.to_nimads(image_ids=[3, 10426])
        assert [study["id"] for study in studyset["studies"]] == ["3", "658"]
        images = [image for study in studyset["studies"] for image in study["analyses"][0]["images"]]
        assert {image["filename"] for image in images} == {*again.images}
        assert both.outdated().fetchall() == []

    with unchanged(base):
        assert as_nobody(work) == "fine"


def test_a_base_is_exported_before_anything_is_in_front_and_never_into_itself(
    base: Path, data_dir: Path, tmp_path: Path
) -> None:
    both = Catalog(data_dir, base=base)

    assert len(pd.read_csv(both.export(tmp_path / "images.csv", "images", verbose=0))) == 4
    with unchanged(base), pytest.raises(InvalidOptionError, match="base folder, to which nothing is written"):
        both.export(base / "neurovault" / "images.csv", "images", verbose=0)
    assert not data_dir.exists()


def test_what_is_private_in_either_folder_is_exported_only_where_it_is_asked_for(
    fetch: Fetch, open_dir: Path, data_dir: Path, tmp_path: Path, world: World
) -> None:
    tokens = {3: "ABCDEFGH", 658: "IJKLMNOP"}
    for id_, token in tokens.items():
        world.make_private(id_, token)
    fetch(data_dir=open_dir, collection_ids=[tokens[3], 1058])
    fetch(collection_ids=[tokens[658], 1197])
    both = Catalog(data_dir, base=open_dir)

    def exported(**options: Any) -> dict[str, set[int]]:
        tables = {"images": "image_id", "files": "image_id", "raw_records": "id", "collections": "collection_id"}
        folder = both.export(tmp_path / "out", [*tables], overwrite=True, verbose=0, **options)
        return {table: {*pd.read_parquet(folder / f"{table}.parquet")[id_]} for table, id_ in tables.items()}

    everything, public = exported(private=True), exported()

    secret = {*FOUR, 10426}
    assert everything["images"] - public["images"] == everything["files"] - public["files"] == secret
    assert everything["collections"] - public["collections"] == {3, 658}
    assert everything["raw_records"] - public["raw_records"] == {3, 658, *secret}


def test_terms_that_only_one_catalog_has_keep_their_names(fetch: Fetch, open_dir: Path, data_dir: Path) -> None:
    fetch(data_dir=open_dir, image_ids=[3])
    fetch(image_ids=[4])
    Catalog(open_dir).add_words(long_table(3, shared=0.1, theirs=0.2), reference="mine")
    Catalog(data_dir).add_words(long_table(4, ours=0.3, shared=0.4), reference="mine")

    frequencies, vocabulary = Catalog(data_dir, base=open_dir).words([3, 4])

    assert vocabulary.tolist() == ["ours", "shared", "theirs"]
    assert frequencies.toarray().tolist() == [[0.0, 0.1, 0.2], [0.3, 0.4, 0.0]]


def long_table(image_id: int, **weights: float) -> pd.DataFrame:
    return pd.DataFrame({"image_id": image_id, "term": list(weights), "weight": list(weights.values())})


def test_sql_over_both_is_fenced_and_changes_neither(base: Path, data_dir: Path) -> None:
    both = Catalog(data_dir, base=base)

    for query in (
        "DELETE FROM images",
        "COPY images TO 'stolen.csv'",
        f"FROM read_csv('{base / 'neurovault' / 'README.md'}')",
        f"ATTACH '{base / 'neurovault' / 'catalog.duckdb'}' AS again",
    ):
        with unchanged(base), pytest.raises(QueryError):
            both.sql(query)


def test_all_that_keeps_order_is_about_the_folder_in_front(fetch: Fetch, base: Path, data_dir: Path) -> None:
    fetch(image_ids=[10426])
    both = Catalog(data_dir, base=base)

    with unchanged(base):
        assert both.verify(deep=True, verbose=0)
        both.snapshot()
        with both.connect() as connection:
            assert connection.execute("SELECT image_id FROM images").fetchall() == [(10426,)]
        both.prune(where="true", verbose=0)

    assert both.sql("SELECT count(*) FROM local_images").fetchall() == [(4,)]


def test_the_labels_of_an_atlas_in_the_base_are_read_there(
    fetch: Fetch, open_dir: Path, data_dir: Path, world: World
) -> None:
    world.add_labels(14227, ["Motor", "Sensory"])
    fetch(data_dir=open_dir, image_ids=[14227], extras=True)
    lock(open_dir)

    with unchanged(open_dir):
        assert fetch(base=open_dir, image_ids=[14227], extras=True).report.counts == {"cached": 2}
        assert Catalog(data_dir, base=open_dir).labels(14227) == Catalog(open_dir).labels(14227)


def test_a_catalog_over_nilearns_folder_sees_what_has_come(fetch: Fetch, nilearns: Path, caches: Path) -> None:
    both = Catalog(base=nilearns, data_dir=nilearns / "front")
    assert not caches.exists()
    assert both.base == nilearns / "neurovault"
    assert repr(both) == f"Catalog('{nilearns / 'front'}', base='{nilearns}')"

    assert both.sql("SELECT count(*) FROM images").fetchall() == [(4,)]

    collection = nilearns / "neurovault" / "collection_3"
    collection.chmod(0o755)
    (collection / "image_4_metadata.json").unlink()
    assert both.sql("SELECT count(*) FROM images").fetchall() == [(3,)]
