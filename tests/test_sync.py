"""A sync brings in all that is public, asks again for what has changed alone, and says what it could not have."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from children import pipe, start
from fetching import SEVEN_DAYS_AGO, file_of, write
from fetching import no_waiting as no_waiting
from waiting import PATIENCE_S, hold_until_together, patience

from nvcatalog import Catalog, fetch_neurovault_ids, landing
from nvcatalog._batch import Batch
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import (
    CatalogLockedError,
    DataDirError,
    IncompleteWarning,
    InvalidIdError,
    InvalidOptionError,
    WrongServerError,
)
from nvcatalog.report import Outcome
from nvcatalog.sync import SyncReport, sync_catalog

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    Sync = Callable[..., SyncReport]

pytestmark = pytest.mark.usefixtures("no_waiting")

N_COLLECTIONS, N_IMAGES = 40, 600
SECRET, SECRET_TOKEN = 900, "ABCDEFGH"
ROBOT = 5761
KILLS = 10


@pytest.fixture
def world() -> World:
    """Return a crowd, beside a private collection of two images."""
    world = World.empty()
    world.add_many(N_COLLECTIONS, N_IMAGES)
    world.add_collection(id=SECRET, images=2)
    world.make_private(SECRET, SECRET_TOKEN)
    return world


@pytest.fixture
def sync(server: DemoServer, data_dir: Path) -> Sync:
    """Return a function that syncs the test's folder with the local server, quietly."""

    def sync(**options: Any) -> SyncReport:
        server.reset_log()
        return Catalog(data_dir).sync(**{"verbose": 0} | options)

    return sync


@pytest.fixture
def ask(data_dir: Path) -> Callable[..., list[tuple[Any, ...]]]:
    def ask(query: str, **params: Any) -> list[tuple[Any, ...]]:
        return Catalog(data_dir).sql(query, **params).fetchall()

    return ask


def ids(rows: list[tuple[Any, ...]]) -> list[int]:
    return [id_ for (id_,) in rows]


def lists_read(server: DemoServer) -> list[int]:
    """Return the collections whose lists were asked for since the last sync began."""
    return sorted({int(hit.path.split("/")[3]) for hit in server.hits("/api/collections/*/images/")})


def records_asked_for(server: DemoServer) -> list[int]:
    paths = [hit.path.split("/") for hit in server.hits("/api/collections/*/")]
    return sorted({int(path[3]) for path in paths if len(path) == 5})


def info(ask: Any) -> dict[str, str]:
    return dict(ask("SELECT key, value FROM catalog_info"))


def full(world: World) -> list[int]:
    """Return the public collections that hold images."""
    return [id_ for id_ in world.collection_ids() if world.image_ids(id_)]


def largest(world: World) -> int:
    return max(world.collection_ids(), key=lambda id_: len(world.image_ids(id_)))


# All there is


def test_brings_in_every_public_collection_and_image_and_no_file(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    found = sync()
    assert ids(ask("SELECT collection_id FROM collections ORDER BY ALL")) == world.collection_ids()
    assert ids(ask("SELECT image_id FROM images ORDER BY ALL")) == world.image_ids()
    assert server.hits("/media/*") == []
    assert (found.new_collections, found.new_images) == (N_COLLECTIONS, N_IMAGES)
    assert (found.complete, len(found.report)) == (True, 0)
    assert found.requests == server.requests
    assert found.seconds > 0


def test_keeps_each_record_as_the_server_gives_it(world: World, sync: Sync, ask: Any, server: DemoServer) -> None:
    sync()
    for image_id in world.image_ids()[::60]:
        [(raw, name, collection_id)] = ask(
            "SELECT raw, name, collection_id FROM images JOIN raw_records ON kind = 'image' AND id = image_id "
            "WHERE image_id = $id",
            id=image_id,
        )
        record = world.image(image_id)
        assert record is not None
        assert json.loads(raw.replace(server.neurovault_url, "")) == record
        assert list(json.loads(raw)) == list(record)
        assert (name, collection_id) == (record["name"], record["collection_id"])


def test_never_sees_what_is_private(server: DemoServer, sync: Sync, ask: Any) -> None:
    sync()
    assert ask("SELECT * FROM collections WHERE collection_id = $id OR private", id=SECRET) == []
    assert [hit for hit in server.log if str(SECRET) in hit.path or SECRET_TOKEN in hit.path] == []


def test_reads_no_list_of_a_collection_without_images(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    sync()
    empty = set(world.collection_ids()) - set(full(world))
    assert empty
    assert lists_read(server) == full(world)
    assert {complete for (complete,) in ask("SELECT complete FROM collections")} == {True}


def test_two_connections_are_enough(server: DemoServer, sync: Sync) -> None:
    hold_until_together(server, "/api/collections/*/images/", 2)
    sync()
    assert server.peak_connections["api"] == 2
    assert server.connections_opened == 2


def test_quirks_of_the_real_site_cost_what_is_broken_and_nothing_else(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    world.add_many(360, 400)  # several pages, so that the list of collections loses rows
    server.settings.ordered = False
    broken_image, broken_collection = world.image_ids(largest(world))[3], full(world)[5]
    world.poison_image(broken_image)
    world.poison_collection(broken_collection)
    server.fail("/api/collections/", faults.empty_page(), times=1, after=2)
    with pytest.warns(IncompleteWarning, match="2 broken_on_server"):
        found = sync()
    lost = {broken_image, *world.image_ids(broken_collection)}
    assert ids(ask("SELECT image_id FROM images ORDER BY ALL")) == sorted(set(world.image_ids()) - lost)
    assert set(world.collection_ids()) - set(ids(ask("SELECT collection_id FROM collections"))) == {
        broken_collection
    }
    of_image, of_collection = sorted(found.report, reverse=True)
    reason = f"record 4 of collection {largest(world)}"
    assert of_image == Outcome("image", None, "broken_on_server", reason)
    assert (of_collection.kind, of_collection.id, of_collection.status) == ("collection", None, "broken_on_server")
    assert "of the list of collections" in (of_collection.reason or "")
    assert found.complete
    places = ask("SELECT id FROM refusals WHERE kind = 'position' ORDER BY id")
    assert ids(places) == [0, largest(world)]


def test_says_first_how_many_requests_and_at_the_end_what_it_found(
    sync: Sync, capsys: pytest.CaptureFixture[str], world: World
) -> None:
    sync(verbose=2)
    first, *_, last = capsys.readouterr().err.strip().splitlines()
    assert first == (
        f"nvcatalog: 40 collections, about {len(full(world))} of them to be read: about {len(full(world)) + 1} "
        "requests, less than a minute. What arrives is kept if you stop it"
    )
    assert "collections: 40 new, 0 changed, 0 gone; images: 600 new, 0 changed, 0 gone;" in last
    sync(verbose=1)
    assert len(capsys.readouterr().err.splitlines()) == 1
    sync(verbose=0)
    assert capsys.readouterr().err == ""


def test_shows_how_far_it_is_and_how_long_it_will_take(sync: Sync, capsys: pytest.CaptureFixture[str]) -> None:
    sync()
    sync(verbose=2, collection_ids=[1, 2])
    said = capsys.readouterr().err
    assert "nvcatalog: about 4 requests." in said


def test_leaves_a_record_of_itself_and_publishes(
    server: DemoServer, world: World, sync: Sync, ask: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # let it publish as it does
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    world.poison_image(world.image_ids()[0])
    with pytest.warns(IncompleteWarning):
        sync(exclude_owners=[ROBOT])
    [(function, parameters, returned, missing, root)] = ask(
        "SELECT function, parameters, returned, missing, server FROM fetches"
    )
    assert (function, missing, root) == ("sync", 1, server.neurovault_url)
    assert json.loads(parameters) == {"collection_ids": None, "exclude_owners": [ROBOT], "seed": None}
    assert returned == ask("SELECT count(*) FROM images")[0][0]
    assert ask("SELECT kind, status FROM outcomes") == [("image", "broken_on_server")]
    snapshots = data_dir / "neurovault" / "snapshots"
    manifest = json.loads((snapshots / (snapshots / "CURRENT").read_text().strip() / "manifest.json").read_text())
    assert manifest["rows"]["images"] == returned


def test_files_and_what_is_known_of_them_stay(world: World, sync: Sync, ask: Any, data_dir: Path) -> None:
    id_ = full(world)[0]
    fetch_neurovault_ids(collection_ids=[id_], data_dir=data_dir, verbose=0)
    sync()
    assert ids(ask("SELECT image_id FROM files ORDER BY ALL")) == world.image_ids(id_)
    assert file_of(data_dir, id_, world.image_ids(id_)[0]).exists()
    assert ask("SELECT count(*) FROM record_history") == [(0,)]


# Again


def test_a_second_sync_of_the_same_server_reads_the_collection_pages_alone(
    server: DemoServer, sync: Sync, ask: Any
) -> None:
    sync()
    before = ask("FROM collections ORDER BY collection_id")
    found = sync()
    assert {hit.path for hit in server.log} == {"/api/collections/"}
    assert found.requests == server.requests == 1
    assert [found.new_images, found.changed_images, found.gone_images] == [0, 0, 0]
    assert [found.new_collections, found.changed_collections, found.gone_collections] == [0, 0, 0]
    assert ask("FROM collections ORDER BY collection_id") == before


def test_a_change_costs_one_list_and_its_former_record_is_kept(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    sync()
    image_id = world.image_ids(largest(world))[0]
    former = world.image(image_id)
    world.edit_image(image_id, name="another name")
    found = sync()
    assert lists_read(server) == [largest(world)]
    assert (found.new_images, found.changed_images, found.changed_collections) == (0, 1, 1)
    assert ask("SELECT name FROM images WHERE image_id = $id", id=image_id) == [("another name",)]
    [(raw,)] = ask("SELECT raw FROM record_history WHERE kind = 'image'")
    assert former is not None
    assert json.loads(raw)["name"] == former["name"]


def test_what_is_new_is_found(server: DemoServer, world: World, sync: Sync) -> None:
    sync()
    image_id = world.add_image(full(world)[0])
    collection_id = world.add_collection(images=3)
    found = sync()
    assert lists_read(server) == [full(world)[0], collection_id]
    assert (found.new_collections, found.new_images) == (1, 4)
    assert image_id in world.image_ids()


def test_a_change_while_the_lists_are_read_is_found_the_next_time(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    id_ = largest(world)

    def change(answer: Any) -> Any:
        world.edit_image(world.image_ids(id_)[0], name="changed meanwhile")
        return answer

    server.fail(f"/api/collections/{id_}/images/", faults.Fault("changes after it was read", change), times=1)
    sync()
    assert ask("SELECT count(*) FROM images WHERE name = 'changed meanwhile'") == [(0,)]
    sync()
    assert lists_read(server) == [id_]
    assert ask("SELECT count(*) FROM images WHERE name = 'changed meanwhile'") == [(1,)]


def test_a_record_that_comes_refutes_what_was_refused_about_it(
    world: World, sync: Sync, ask: Any, data_dir: Path
) -> None:
    image_id, collection_id = world.image_ids()[0], full(world)[0]
    sync(collection_ids=[collection_id])
    write(
        data_dir,
        f"INSERT INTO refusals (kind, id, status, seen_at) VALUES ('image', {image_id}, 'not_found', now()), "
        f"('collection', {collection_id}, 'not_found', now())",
    )
    sync()
    sync(collection_ids=[collection_id])
    assert ask("SELECT kind, id FROM refusals") == []


# What is gone


def test_an_image_that_is_gone_stays_with_the_time_it_went_and_may_come_back(
    world: World, sync: Sync, ask: Any
) -> None:
    sync()
    image_id = world.image_ids(largest(world))[0]
    record = world.image(image_id)
    assert record is not None
    world.delete_image(image_id)
    found = sync()
    assert (found.gone_images, found.gone_collections) == (1, 0)
    assert ids(ask("SELECT image_id FROM images WHERE gone_at IS NOT NULL")) == [image_id]
    world.add_image(largest(world), record)
    found = sync()
    assert (found.new_images, found.gone_images) == (1, 0)
    assert ids(ask("SELECT image_id FROM images WHERE gone_at IS NOT NULL")) == []


def test_a_collection_whose_images_are_all_gone_is_complete_without_a_request(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    sync()
    id_ = full(world)[0]
    n_images = len(world.image_ids(id_))
    for image_id in world.image_ids(id_):
        world.delete_image(image_id)
    found = sync()
    assert found.gone_images == n_images
    assert lists_read(server) == []
    assert ask("SELECT complete, listed_count FROM collections WHERE collection_id = $id", id=id_) == [(True, 0)]


def test_a_collection_that_is_gone_takes_its_images_along_and_costs_one_request_once(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    sync()
    id_ = largest(world)
    gone = world.image_ids(id_)
    world.delete_collection(id_)
    found = sync()
    assert (found.gone_collections, found.gone_images, len(found.report)) == (1, len(gone), 0)
    assert records_asked_for(server) == [id_]
    assert ids(ask("SELECT image_id FROM images WHERE gone_at IS NOT NULL ORDER BY ALL")) == gone
    assert ids(ask("SELECT collection_id FROM collections WHERE gone_at IS NOT NULL")) == [id_]
    found = sync()
    assert (server.requests, found.gone_collections) == (1, 0)


@pytest.mark.parametrize("interrupted", [False, True], ids=["undisturbed", "interrupted"])
def test_a_collection_that_comes_back_as_it_was_has_its_images_again(
    server: DemoServer, world: World, sync: Sync, ask: Any, interrupted: bool
) -> None:
    sync()
    id_, record = largest(world), world.collection(largest(world))
    images = [image for image in map(world.image, world.image_ids(id_)) if image]
    world.delete_collection(id_)
    sync()
    world.add_collection(record, id=id_, images=images)
    world._collections[id_] = dict(record or {})  # its dates too
    if interrupted:
        with server_failing_at(server, f"/api/collections/{id_}/images/"), pytest.warns(IncompleteWarning):
            sync()
        assert ids(ask("SELECT collection_id FROM collections WHERE gone_at IS NOT NULL")) == []
    sync()
    assert lists_read(server) == [id_]
    assert ids(ask("SELECT image_id FROM images WHERE gone_at IS NULL ORDER BY ALL")) == world.image_ids()


class server_failing_at:  # noqa: N801 - read as a phrase
    def __init__(self, server: DemoServer, pattern: str) -> None:
        self.fault = server.fail(pattern, faults.status(503))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.fault.remove()


def test_a_collection_that_has_become_private_is_not_gone_and_is_left_alone(
    server: DemoServer, world: World, sync: Sync, ask: Any, data_dir: Path
) -> None:
    sync()
    id_ = largest(world)
    world.make_private(id_, "HGFEDCBA")
    found = sync()
    assert (found.gone_collections, found.gone_images, len(found.report)) == (0, 0, 0)
    assert ask("SELECT kind, id, status FROM refusals") == [("collection", id_, "private")]
    sync()
    assert server.requests == 1
    published = json.loads((Catalog(data_dir).snapshot() / "manifest.json").read_text())["rows"]
    assert published["images"] == N_IMAGES - len(world.image_ids(id_))


def test_a_collection_of_our_own_is_not_looked_for(server: DemoServer, sync: Sync, data_dir: Path) -> None:
    sync()
    write(data_dir, f"INSERT INTO collections (collection_id, private) VALUES ({SECRET}, true)")
    write(data_dir, "INSERT INTO collections (collection_id) VALUES (901)")
    write(data_dir, "INSERT INTO access VALUES (901, 'ZYXWVUTS')")
    found = sync()
    assert (server.requests, found.gone_collections) == (1, 0)


def test_a_list_of_collections_that_comes_short_buries_nobody(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    sync()
    world.delete_collection(full(world)[0])
    synced_at = info(ask)["synced_at"]
    server.fail("/api/collections/", faults.empty_page())
    with pytest.warns(IncompleteWarning, match="counts 39 collections and listed 0"):
        found = sync()
    assert not found.complete
    assert (found.gone_collections, found.gone_images) == (0, 0)
    assert info(ask)["synced_at"] == synced_at


# What is broken


def test_a_collection_that_can_no_longer_be_rendered_is_known_by_its_id_and_not_gone(
    server: DemoServer, world: World, sync: Sync, ask: Any, data_dir: Path
) -> None:
    sync()
    id_ = full(world)[3]
    world.poison_collection(id_)
    broken = Outcome("collection", id_, "broken_on_server", None)
    for requests in ([id_], []):  # asked for once, and reported each time
        with pytest.warns(IncompleteWarning):
            found = sync()
        assert [outcome._replace(reason=None) for outcome in found.report] == [broken]
        assert records_asked_for(server) == requests
        assert (found.gone_collections, found.gone_images) == (0, 0)
    write(data_dir, SEVEN_DAYS_AGO)
    with pytest.warns(IncompleteWarning):
        sync()
    assert records_asked_for(server) == [id_]
    world.cure(id_)
    assert len(sync().report) == 0
    assert ask("SELECT kind, id FROM refusals") == []


def test_a_broken_record_stays_in_the_report_and_is_looked_for_again_after_a_week(
    server: DemoServer, world: World, sync: Sync, ask: Any, data_dir: Path
) -> None:
    id_ = largest(world)
    image_id = world.image_ids(id_)[2]
    world.poison_image(image_id)
    for lists in (full(world), []):
        with pytest.warns(IncompleteWarning):
            found = sync()
        assert list(found.report) == [Outcome("image", None, "broken_on_server", f"record 3 of collection {id_}")]
        assert lists_read(server) == lists
    world.cure(image_id)
    write(data_dir, SEVEN_DAYS_AGO)
    assert len(sync().report) == 0
    assert lists_read(server) == [id_]
    assert ids(ask("SELECT image_id FROM images ORDER BY ALL")) == world.image_ids()


def test_one_collections_trouble_is_its_own_and_its_list_alone_is_read_the_next_time(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    id_ = full(world)[2]
    with (
        server_failing_at(server, f"/api/collections/{id_}/images/"),
        pytest.warns(IncompleteWarning, match="503"),
    ):
        found = sync()
    assert [(outcome.kind, outcome.id, outcome.status) for outcome in found.report] == [
        ("collection", id_, "failed")
    ]
    assert not found.complete
    assert "synced_at" not in info(ask)
    expected = sorted(set(world.image_ids()) - set(world.image_ids(id_)))
    assert ids(ask("SELECT image_id FROM images ORDER BY ALL")) == expected
    found = sync()
    assert lists_read(server) == [id_]
    assert (found.complete, found.new_images) == (True, len(world.image_ids(id_)))
    assert "synced_at" in info(ask)


def test_a_server_that_is_given_up_ends_it_with_what_is_there(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    server.fail("/api/collections/*/images/", faults.retry_after(1000), after=10)
    with pytest.warns(IncompleteWarning, match="Stopped early"):
        found = sync()
    n_here = ask("SELECT count(*) FROM images")[0][0]
    assert 0 < n_here == found.new_images < N_IMAGES
    unread = ids(ask("SELECT collection_id FROM collections WHERE complete IS NOT true ORDER BY ALL"))
    assert sorted(outcome.id or 0 for outcome in found.report) == unread
    assert not found.complete
    server.heal()
    sync()
    assert lists_read(server) == unread


@pytest.mark.usefixtures("pages_of_100")
def test_pages_of_collections_before_the_trouble_are_of_use(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    world.add_many(200, 10)
    server.fail("/api/collections/", faults.status(503), after=1)
    with pytest.warns(IncompleteWarning, match="was not read to its end"):
        found = sync()
    assert found.new_collections == 100
    assert ask("SELECT count(*) FROM collections WHERE complete") == [(100,)]
    assert not found.complete


# Parts


def test_just_the_collections_asked_for_are_read_whatever_is_known_of_them(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    one, other = full(world)[:2]
    for _ in range(2):
        found = sync(collection_ids=[one, str(other)])
        assert lists_read(server) == records_asked_for(server) == [one, other]
        assert len(server.hits("/api/collections/")) == 0
    assert found.complete
    assert ids(ask("SELECT image_id FROM images ORDER BY ALL")) == sorted(
        world.image_ids(one) + world.image_ids(other)
    )
    assert not {"synced_at", "sync_started_at"} & info(ask).keys()


def test_collections_asked_for_that_are_not_to_be_had_are_in_the_report(
    world: World, sync: Sync, ask: Any
) -> None:
    one = full(world)[0]
    sync(collection_ids=[one])
    n_images = len(world.image_ids(one))
    world.delete_collection(one)
    with pytest.warns(IncompleteWarning):
        found = sync(collection_ids=[one, SECRET, 777_777])
    statuses = {outcome.id: outcome.status for outcome in found.report}
    assert statuses == {one: "not_found", SECRET: "private", 777_777: "not_found"}
    assert (found.gone_collections, found.gone_images) == (1, n_images)
    assert ids(ask("SELECT collection_id FROM collections")) == [one]


def test_a_partial_sync_knows_that_it_is_one_and_the_next_reads_just_the_rest(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    robots = [r["id"] for r in world.collections(full(world)) if r["owner"] == ROBOT]
    assert robots
    found = sync(exclude_owners=ROBOT)
    assert found.complete
    assert lists_read(server) == sorted(set(full(world)) - set(robots))
    assert ids(ask("SELECT collection_id FROM collections ORDER BY ALL")) == world.collection_ids()
    assert json.loads(info(ask)["sync_excluded_owners"]) == [ROBOT]
    sync(exclude_owners=[ROBOT])
    assert server.requests == 1
    assert sync().gone_collections == 0
    assert lists_read(server) == robots
    assert json.loads(info(ask)["sync_excluded_owners"]) == []


def test_a_partial_sync_counts_as_partial_until_a_whole_one_is_complete(
    server: DemoServer, world: World, sync: Sync, ask: Any
) -> None:
    sync(exclude_owners=[ROBOT, 999_999])
    server.fail("/api/collections/*/images/", faults.status(503))
    with pytest.warns(IncompleteWarning):
        sync()
    assert json.loads(info(ask)["sync_excluded_owners"]) == [ROBOT, 999_999]


def test_the_catalog_knows_when_it_was_synced(sync: Sync, ask: Any) -> None:
    sync()
    first = info(ask)
    assert first["synced_at"] == first["sync_started_at"]
    assert first["synced_at"].endswith("+00:00")
    assert "sync_excluded_owners" not in first


# What cannot be


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"collection_ids": [0]}, InvalidIdError),
        ({"collection_ids": [1], "exclude_owners": [ROBOT]}, InvalidOptionError),
        ({"exclude_owners": ["someone"]}, InvalidOptionError),
        ({"exclude_owners": [True]}, InvalidOptionError),
        ({"timeout": 0}, InvalidOptionError),
        ({"seed": "/no/such/place"}, InvalidOptionError),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_asked(
    server: DemoServer, sync: Sync, data_dir: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        sync(**options)
    assert server.requests == 0
    assert not data_dir.exists()


def test_offline_there_is_nothing_to_do(server: DemoServer, sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCATALOG_OFFLINE", "1")
    with pytest.raises(InvalidOptionError, match="NVCATALOG_OFFLINE"):
        sync()
    assert server.requests == 0


def test_a_folder_that_cannot_be_written_is_an_error(
    server: DemoServer, sync: Sync, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "what_cannot_be_written", lambda store: store.folder)
    with pytest.raises(DataDirError, match="cannot be written"):
        sync()
    assert server.requests == 0


def test_a_catalog_of_another_server_is_left_alone(sync: Sync, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sync()
    with DemoServer(World.demo()) as other:
        monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", other.neurovault_url)
        with pytest.raises(WrongServerError, match="NVCATALOG_MIRROR_OF"):
            sync()
        assert other.requests == 0
    assert ask("SELECT count(*) FROM images") == [(N_IMAGES,)]


@pytest.mark.parametrize("days", [0, 2])
def test_a_list_that_a_fetch_has_read_is_read_again_only_where_it_may_have_changed_meanwhile(
    server: DemoServer, world: World, sync: Sync, data_dir: Path, days: int
) -> None:
    modified = datetime.now(UTC) - timedelta(days=days)
    id_, other = full(world)[:2]
    world.edit_collection(id_, modify_date=modified.isoformat())
    fetch_neurovault_ids(collection_ids=[id_], data_dir=data_dir, dry_run=True, verbose=0)
    assert sync().complete
    assert (id_ in lists_read(server), other in lists_read(server)) == (days == 0, True)
    world.edit_image(world.image_ids(id_)[0], name="edited")
    sync()
    assert lists_read(server) == [id_]


@pytest.mark.parametrize("remembered", ["http", "https"])
def test_a_declared_mirror_gives_the_records_of_its_original(
    server: DemoServer, world: World, sync: Sync, ask: Any, data_dir: Path, monkeypatch: Any, remembered: str
) -> None:
    sync()
    fetch_neurovault_ids(image_ids=world.image_ids()[:1], data_dir=data_dir, verbose=0)
    # A site that is reached by https may name itself by http in its links.
    root = server.neurovault_url.replace("http", remembered)
    write(data_dir, f"UPDATE catalog_info SET value = '{root}' WHERE key = 'server_root'")
    before = ask("SELECT kind, id, raw::VARCHAR FROM raw_records ORDER BY ALL")
    with DemoServer(world) as mirror:
        monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", mirror.neurovault_url)
        monkeypatch.setenv("NVCATALOG_MIRROR_OF", root)
        for found in (sync(), sync(collection_ids=full(world)[:5])):
            assert (found.changed_collections, found.changed_images) == (0, 0)
        assert mirror.requests > 5
    assert server.requests == 0
    assert ask("SELECT kind, id, raw::VARCHAR FROM raw_records ORDER BY ALL") == before
    assert ask("FROM record_history") == []
    assert len(Catalog(data_dir).outdated()) == 0


def test_a_catalog_that_somebody_keeps_open_ends_it(server: DemoServer, sync: Sync, data_dir: Path) -> None:
    sync(collection_ids=[1])
    store = Store(data_dir / "neurovault")
    with store._file_lock(time.monotonic() + PATIENCE_S), patience(0.1), pytest.raises(CatalogLockedError):
        sync()
    assert sync().complete


# However it ends


def test_however_many_images_come_few_wait_in_memory(
    server: DemoServer, world: World, sync: Sync, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_EVERY_ROWS_OF_MANY", 50)
    monkeypatch.setattr(landing, "_MOST_ROWS_OF_MANY", 100)
    land, sizes = Store.land_one_of_many, []

    def land_slowly(store: Store, batch: Batch, *, timeout_s: float | None = None) -> list[str]:
        sizes.append(len(batch))
        time.sleep(0.05)
        return land(store, batch, timeout_s=timeout_s)

    monkeypatch.setattr(Store, "land_one_of_many", land_slowly)
    sync()
    assert ask("SELECT count(*) FROM images") == [(N_IMAGES,)]
    page = 2 * max(len(world.image_ids(id_)) for id_ in world.collection_ids())
    assert max(sizes[1:]) <= 100 + page
    assert len(sizes) > 2 * N_IMAGES / (100 + page)


def test_an_interrupted_sync_keeps_what_arrived(
    server: DemoServer, world: World, sync: Sync, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[int] = []
    extend = Batch.extend

    def interrupt(batch: Batch, rows: Batch) -> None:
        extend(batch, rows)
        arrived.extend(row["image_id"] for row in rows.tables.get("images", ()))
        if len(arrived) > 100:
            raise KeyboardInterrupt

    monkeypatch.setattr(Batch, "extend", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sync()
    monkeypatch.setattr(Batch, "extend", extend)
    assert ids(ask("SELECT image_id FROM images ORDER BY ALL")) == sorted(arrived)
    assert sync().complete


def sync_in_a_child(data_dir: Path, to_parent: Connection) -> None:
    landing._EVERY_S = 0.02  # so that there is much to lose
    to_parent.send("started")
    sync_catalog(Store(data_dir / "neurovault"), verbose=0)


def kill_after(seconds: float, data_dir: Path) -> None:
    from_child, to_parent = pipe()
    process = start(sync_in_a_child, data_dir, to_parent)
    to_parent.close()
    assert from_child.recv() == "started"
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        process.kill()
    process.join()


def test_killed_again_and_again_it_reads_no_list_twice_that_had_landed(
    server: DemoServer, world: World, sync: Sync, ask: Any, data_dir: Path
) -> None:
    server.latency_s = 0.01
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    landed: list[int] = []
    for _ in range(KILLS):
        server.reset_log()
        kill_after(moment := chance.uniform(0.05, 0.3), data_dir)
        print(f"seed {seed}, killed after {moment:.3f} s with {len(landed)} lists landed before")
        assert not set(lists_read(server)).intersection(landed)
        if Catalog(data_dir).folder.joinpath("catalog.duckdb").exists():
            landed = ids(ask("SELECT collection_id FROM collections WHERE complete ORDER BY ALL"))
            check_that_complete_lists_are_whole(world, ask)
    found = sync()
    assert found.complete
    assert lists_read(server) == sorted(set(full(world)) - set(landed))
    assert ids(ask("SELECT image_id FROM images WHERE gone_at IS NULL ORDER BY ALL")) == world.image_ids()
    assert sync().requests == 1


def check_that_complete_lists_are_whole(world: World, ask: Any) -> None:
    here: dict[int, list[int]] = {}
    for collection_id, image_id in ask("SELECT collection_id, image_id FROM images ORDER BY image_id"):
        here.setdefault(collection_id, []).append(image_id)
    for id_ in ids(ask("SELECT collection_id FROM collections WHERE complete")):
        assert here.get(id_, []) == world.image_ids(id_)
    texts = ask("SELECT id FROM raw_records WHERE kind = 'image' ORDER BY id")
    assert ids(texts) == sorted(image_id for images in here.values() for image_id in images)


# What else a collection may be


def test_nidm_packs_are_listed_where_a_collection_counts_more_than_its_images(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    collection_id = world.collection_ids()[0]
    pack = world.add_nidm_pack(collection_id, "spm_example.nidm")
    Catalog(data_dir).sync(verbose=0)
    packs = Catalog(data_dir).sql("SELECT DISTINCT collection_id, pack_id FROM nidm_packs").fetchall()
    assert packs == [(collection_id, pack)]
    assert [hit.path for hit in server.hits("*nidm_results*")] == [
        f"/api/collections/{collection_id}/nidm_results/"
    ]


def test_a_private_collection_that_was_opened_is_refreshed_with_its_token_and_stays(
    server: DemoServer, world: World, data_dir: Path
) -> None:
    collection_id = world.add_collection(images=[{}])
    world.make_private(collection_id, "QWERTYUI")
    fetch_neurovault_ids("QWERTYUI", data_dir=data_dir, verbose=0)
    (image_id,) = world.image_ids(collection_id)
    world.edit_image(image_id, name="edited")
    report = Catalog(data_dir).sync(collection_ids=[collection_id], verbose=0)
    assert (report.changed_images, report.complete) == (1, True)
    Catalog(data_dir).sync(verbose=0)
    maps = fetch_neurovault_ids(collection_id, data_dir=data_dir, verbose=0)
    assert [meta["name"] for meta in maps.images_meta] == ["edited"]
    assert maps.report.counts == {"cached": 1}


def test_packs_that_could_not_be_had_are_asked_for_again(server: DemoServer, world: World, data_dir: Path) -> None:
    collection_id = world.collection_ids()[0]
    world.add_nidm_pack(collection_id, "spm_example.nidm")
    fault = server.fail(f"/api/collections/{collection_id}/nidm_results/*", faults.status(503))
    with pytest.warns(IncompleteWarning):
        assert not Catalog(data_dir).sync(verbose=0).complete
    fault.remove()
    assert Catalog(data_dir).sync(verbose=0).complete
    assert len(Catalog(data_dir).sql("SELECT * FROM nidm_packs").fetchall()) == 2


@pytest.mark.parametrize("owner", [{}, [1], None, "5"])
def test_an_odd_owner_ends_no_sync(server: DemoServer, world: World, data_dir: Path, owner: object) -> None:
    world.edit_collection(world.collection_ids()[0], owner=owner)
    assert Catalog(data_dir).sync(exclude_owners=5761, verbose=0).new_images > 0
