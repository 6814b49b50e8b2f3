"""A catalog can start from the snapshot of another, and is then as good as if it had asked the server itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from fetching import Once, filled_once, write
from fetching import no_waiting as no_waiting
from pyarrow import parquet

from nvcatalog import Catalog, fetch_neurovault_ids, seed
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import (
    CatalogTooNewError,
    IncompleteWarning,
    InvalidOptionError,
    SnapshotError,
    WrongServerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nvcatalog.sync import SyncReport

    Sync = Callable[..., SyncReport]

pytestmark = pytest.mark.usefixtures("no_waiting")

METADATA = ("collections", "images", "raw_records")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Once]:
    def fill(world: World, folder: Path) -> None:
        world.add_many(12, 200)
        Catalog(folder).sync(verbose=0)
        Catalog(folder).snapshot()

    with filled_once(tmp_path_factory.mktemp("once"), World.empty(), fill) as once:
        yield once


@pytest.fixture
def world(once: Once) -> World:
    return once.new_world()


@pytest.fixture
def server(once: Once, world: World, monkeypatch: pytest.MonkeyPatch) -> DemoServer:
    return once.as_new(world, monkeypatch)


@pytest.fixture
def theirs(once: Once, server: DemoServer, tmp_path: Path) -> Path:
    """Return the data folder of another user, who has synced and whose snapshot is published."""
    folder = tmp_path / "theirs"
    shutil.copytree(once.folder, folder, symlinks=True)
    return folder


@pytest.fixture
def sync(server: DemoServer, data_dir: Path) -> Sync:
    def sync(**options: Any) -> SyncReport:
        server.reset_log()
        return Catalog(data_dir).sync(**{"verbose": 0} | options)

    return sync


def rows(folder: Path, query: str, **params: Any) -> list[tuple[Any, ...]]:
    return Catalog(folder).sql(query, **params).fetchall()


def lists_read(server: DemoServer) -> list[int]:
    return sorted({int(hit.path.split("/")[3]) for hit in server.hits("/api/collections/*/images/")})


def full(world: World) -> list[int]:
    return [id_ for id_ in world.collection_ids() if world.image_ids(id_)]


def test_a_seeded_catalog_is_the_same_and_asks_for_the_collection_pages_alone(
    server: DemoServer, theirs: Path, sync: Sync, data_dir: Path
) -> None:
    found = sync(seed=theirs)
    assert {hit.path for hit in server.log} == {"/api/collections/"}
    assert found.complete
    for table in METADATA:
        assert rows(data_dir, f"FROM {table} ORDER BY ALL") == rows(theirs, f"FROM {table} ORDER BY ALL")
    assert rows(data_dir, "SELECT count(*) FROM images") == [(200,)]
    assert sync().requests == 1


@pytest.mark.parametrize("place", [".", "neurovault", "neurovault/snapshots", "neurovault/snapshots/<newest>"])
def test_any_folder_around_the_snapshot_will_do(theirs: Path, sync: Sync, data_dir: Path, place: str) -> None:
    newest = (theirs / "neurovault" / "snapshots" / "CURRENT").read_text().strip()
    sync(seed=str(theirs / place.replace("<newest>", newest)))
    assert rows(data_dir, "SELECT json_extract_string(parameters, '$.seed') FROM fetches") == [(newest,)]


def test_what_has_changed_since_the_snapshot_is_read(
    server: DemoServer, world: World, theirs: Path, sync: Sync, data_dir: Path
) -> None:
    image_id, gone = world.image_ids(full(world)[1])[0], world.image_ids(full(world)[3])[0]
    world.edit_image(image_id, name="another name")
    world.delete_image(gone)
    found = sync(seed=theirs)
    assert lists_read(server) == [full(world)[1], full(world)[3]]
    assert (found.changed_images, found.gone_images, found.new_images) == (1, 1, 0)
    assert rows(data_dir, "SELECT name FROM images WHERE image_id = $id", id=image_id) == [("another name",)]


def test_what_is_newer_here_stays_and_what_is_older_is_replaced(
    server: DemoServer, world: World, theirs: Path, sync: Sync, data_dir: Path
) -> None:
    older, newer = full(world)[0], full(world)[1]
    sync(collection_ids=[older])
    write(data_dir, "UPDATE images SET fetched_at = '2020-01-01', name = 'as it was'")
    write(data_dir, "UPDATE raw_records SET fetched_at = '2020-01-01', raw = '{\"id\": 0}'")
    world.edit_image(world.image_ids(newer)[0], name="as it is")
    sync(collection_ids=[newer])
    sync(seed=theirs)
    assert rows(data_dir, "SELECT count(*) FROM images WHERE name = 'as it was'") == [(0,)]
    assert rows(data_dir, "SELECT count(*) FROM images WHERE name = 'as it is'") == [(1,)]
    assert rows(data_dir, "SELECT count(*) FROM raw_records WHERE raw::VARCHAR = '{\"id\": 0}'") == [(0,)]
    assert lists_read(server) == []


def test_files_of_a_record_that_the_seed_replaces_are_outdated(
    world: World, sync: Sync, data_dir: Path, tmp_path: Path
) -> None:
    same, edited = world.image_ids()[:2]
    fetch_neurovault_ids(image_ids=[same, edited], data_dir=data_dir, verbose=0)
    world.edit_image(edited, name="edited")
    Catalog(tmp_path / "theirs").sync(verbose=0)
    sync(seed=Catalog(tmp_path / "theirs").snapshot())
    assert rows(data_dir, "SELECT id FROM record_history WHERE kind = 'image'") == [(edited,)]
    assert Catalog(data_dir).outdated().arrow()["image_id"].to_pylist() == [edited]


def test_which_images_are_in_nidm_packs_comes_with_their_lists(
    server: DemoServer, world: World, sync: Sync, data_dir: Path, tmp_path: Path
) -> None:
    read, unread = (world.add_collection(images=1) for _ in range(2))
    for id_ in (read, unread):
        world.add_nidm_pack(id_, "pack")
        world.edit_collection(id_, number_of_images=4)
    sync(collection_ids=[read, unread])
    write(data_dir, f"UPDATE collections SET listed_at = '2020-01-01' WHERE collection_id = {unread}")
    write(data_dir, f"DELETE FROM nidm_packs WHERE collection_id = {unread}")
    Catalog(tmp_path / "theirs").sync(verbose=0)
    taken = Catalog(tmp_path / "theirs").snapshot()
    expected = rows(tmp_path / "theirs", "FROM nidm_packs ORDER BY ALL")
    assert len(expected) == 4
    sync(seed=taken)
    assert lists_read(server) == []
    assert rows(data_dir, "FROM nidm_packs ORDER BY ALL") == expected


def test_an_image_known_to_be_gone_stays_gone(
    server: DemoServer, world: World, theirs: Path, sync: Sync, data_dir: Path
) -> None:
    id_ = full(world)[0]
    sync(collection_ids=[id_])
    write(data_dir, "UPDATE images SET fetched_at = '2020-01-01'")
    write(data_dir, "UPDATE raw_records SET fetched_at = '2020-01-01'")
    gone = world.image_ids(id_)[0]
    world.delete_image(gone)
    sync(collection_ids=[id_])
    sync(seed=theirs)
    assert rows(data_dir, "SELECT image_id FROM images WHERE gone_at IS NOT NULL") == [(gone,)]


def test_a_list_that_lacks_an_image_we_have_is_read_again(
    server: DemoServer, world: World, theirs: Path, sync: Sync, data_dir: Path
) -> None:
    id_ = full(world)[0]
    extra = world.add_image(id_)
    fetch_neurovault_ids(image_ids=[extra], data_dir=data_dir, verbose=0)
    world.delete_image(extra)
    sync(seed=theirs)
    assert lists_read(server) == [id_]
    assert rows(data_dir, "SELECT image_id FROM images WHERE gone_at IS NOT NULL") == [(extra,)]


def test_a_list_with_broken_records_is_read_again(
    server: DemoServer, world: World, sync: Sync, tmp_path: Path
) -> None:
    world.poison_image(world.image_ids(full(world)[0])[0])
    broken = Catalog(tmp_path / "broken")
    with pytest.warns(IncompleteWarning):
        broken.sync(verbose=0)
    broken.snapshot()
    with pytest.warns(IncompleteWarning, match="1 broken_on_server"):
        sync(seed=broken.folder)
    assert lists_read(server) == [full(world)[0]]


def test_a_records_text_found_in_the_folder_gives_way_to_the_servers_own(
    world: World, theirs: Path, sync: Sync, data_dir: Path
) -> None:
    id_ = full(world)[0]
    fetch_neurovault_ids(collection_ids=[id_], data_dir=data_dir, verbose=0)
    (data_dir / "neurovault" / "catalog.duckdb").unlink()
    Catalog(data_dir).adopt(verbose=0)
    assert rows(data_dir, "SELECT DISTINCT source FROM raw_records") == [("sidecar",)]
    sync(seed=theirs)
    assert rows(data_dir, "SELECT DISTINCT source FROM raw_records") == [("api",)]
    assert rows(data_dir, "SELECT count(*) FROM files") == [(len(world.image_ids(id_)),)]


def test_terms_are_left_where_they_are(world: World, theirs: Path, sync: Sync, data_dir: Path) -> None:
    image_id = world.image_ids()[0]
    fetch_neurovault_ids(image_ids=[image_id], data_dir=theirs, fetch_neurosynth_words=True, verbose=0)
    Catalog(theirs).snapshot()
    sync(seed=theirs)
    assert rows(data_dir, "SELECT count(*) FROM words") == [(0,)]
    assert rows(data_dir, "SELECT count(*) FROM files") == [(0,)]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_interrupted_while_it_is_seeded_no_list_counts_as_read(
    server: DemoServer, world: World, theirs: Path, sync: Sync, data_dir: Path, monkeypatch: Any, after: int
) -> None:
    monkeypatch.setattr(seed, "_KEYS", dict(list(seed._KEYS.items())[:after]) | {"no_such_table": ("id",)})
    monkeypatch.setattr(seed.Seed, "_batches", interrupted(seed.Seed._batches))
    with pytest.raises(KeyboardInterrupt):
        sync(seed=theirs)
    monkeypatch.undo()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    sync()
    assert lists_read(server) == full(world)
    assert rows(data_dir, "FROM images ORDER BY image_id")
    assert rows(data_dir, "SELECT image_id FROM images ORDER BY ALL") == [(id_,) for id_ in world.image_ids()]


def interrupted(batches: Any) -> Any:
    def until_then(self: seed.Seed, table: str, columns: list[str] | None = None) -> Any:
        if table == "no_such_table":
            raise KeyboardInterrupt
        yield from batches(self, table, columns)

    return until_then


def test_a_catalog_of_an_older_schema_can_be_a_seed(
    server: DemoServer, world: World, theirs: Path, sync: Sync, data_dir: Path
) -> None:
    edit(theirs, "collections", lambda table: table.drop_columns(["listed_modify_date"]))
    edit(theirs, "images", lambda table: table.append_column("former", pa.nulls(len(table))))
    sync(seed=theirs)
    assert lists_read(server) == full(world)
    assert rows(data_dir, "SELECT count(*) FROM images") == [(200,)]


# What is no seed


def newest(theirs: Path) -> Path:
    snapshots = theirs / "neurovault" / "snapshots"
    return snapshots / (snapshots / "CURRENT").read_text().strip()


def edit(theirs: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    [file] = (newest(theirs) / table).glob("*.parquet")
    parquet.write_table(change(parquet.read_table(file)), file)


def test_a_seed_of_another_server_is_refused(
    theirs: Path, sync: Sync, server: DemoServer, monkeypatch: Any
) -> None:
    with DemoServer(World.empty()) as other:
        monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", other.neurovault_url)
        with pytest.raises(WrongServerError, match=f"was filled from {server.neurovault_url}"):
            sync(seed=theirs)
        assert other.requests == 0


def test_a_seed_that_names_no_server_is_refused(theirs: Path, sync: Sync) -> None:
    edit(theirs, "catalog_info", lambda table: table.slice(0, 0))
    with pytest.raises(WrongServerError, match="no server that it names"):
        sync(seed=theirs)


def test_a_seed_of_a_newer_version_is_refused(theirs: Path, sync: Sync) -> None:
    def newer(table: pa.Table) -> pa.Table:
        versions = pa.array([9999] * len(table), table.schema.field("version").type)
        return table.set_column(table.schema.get_field_index("version"), "version", versions)

    edit(theirs, "schema_migrations", newer)
    with pytest.raises(CatalogTooNewError, match="9999"):
        sync(seed=theirs)


@pytest.mark.parametrize("text", ["", "no-such-folder", "../../elsewhere"])
def test_a_folder_without_a_snapshot_is_refused(theirs: Path, sync: Sync, tmp_path: Path, text: str) -> None:
    shutil.copytree(newest(theirs), tmp_path / "elsewhere")
    (theirs / "neurovault" / "snapshots" / "CURRENT").write_text(text)
    with pytest.raises(InvalidOptionError, match="holds none"):
        sync(seed=theirs)


@pytest.mark.parametrize("table", ["images", "raw_records", "schema_migrations"])
def test_a_damaged_seed_says_what_cannot_be_read(theirs: Path, sync: Sync, table: str) -> None:
    [file] = (newest(theirs) / table).glob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SnapshotError, match=f"{table} cannot be read"):
        sync(seed=theirs)


def test_a_seed_whose_manifest_is_damaged_says_so(theirs: Path, sync: Sync) -> None:
    (newest(theirs) / "manifest.json").write_text("{")
    with pytest.raises(SnapshotError, match=r"manifest\.json cannot be read"):
        sync(seed=theirs)


def test_values_that_do_not_fit_are_named_and_nothing_is_kept_of_them(
    theirs: Path, sync: Sync, data_dir: Path
) -> None:
    def texts(table: pa.Table) -> pa.Table:
        return table.set_column(
            table.schema.get_field_index("number_of_subjects"), "number_of_subjects", pa.array(["x"] * len(table))
        )

    edit(theirs, "images", texts)
    with pytest.raises(SnapshotError, match="images does not fit into a catalog"):
        sync(seed=theirs)
    assert rows(data_dir, "SELECT count(*) FROM images") == [(0,)]
    assert Store(data_dir / "neurovault").exists


def test_a_snapshot_that_lacks_rows_is_no_seed(server: DemoServer, tmp_path: Path) -> None:
    Catalog(tmp_path / "one").sync(verbose=0)
    taken = Catalog(tmp_path / "one").snapshot()
    shutil.rmtree(taken / "images")
    with pytest.raises(SnapshotError, match=r"images has 0 rows and its manifest counts"):
        Catalog(tmp_path / "other").sync(seed=taken, verbose=0)
