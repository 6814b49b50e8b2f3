"""What cannot be had is accounted for id by id, remembered where it lasts, and asked for again in time."""

from __future__ import annotations

import re
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fetching
import pytest
from fetching import FOUR, SEVEN_DAYS_AGO, file_of, ids, outcomes_of, write
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world

from nvcatalog import Catalog, Outcome
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import (
    BlockedWarning,
    IncompleteWarning,
    InvalidModeError,
    InvalidOptionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")


# Without a server


@pytest.fixture
def no_sockets(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return a function after which every attempt to open a connection is an error."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a socket was opened")

    def forbid() -> None:
        for name in ("connect", "connect_ex", "__init__"):
            monkeypatch.setattr(socket.socket, name, refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    yield forbid
    monkeypatch.undo()


def test_offline_opens_no_socket(fetch: Fetch, no_sockets: Callable[[], None]) -> None:
    fetch(collection_ids=[3], fetch_neurosynth_words=True)
    no_sockets()
    maps = fetch(collection_ids=[3], fetch_neurosynth_words=True, mode="offline")
    assert ids(maps) == FOUR
    with pytest.warns(IncompleteWarning, match="2 missing_offline"):
        maps = fetch(collection_ids=[1058], image_ids=[10426, 3], fetch_neurosynth_words=True, mode="offline")
    assert ids(maps) == [3]
    assert outcomes_of(maps, "collection") == {1058: "missing_offline"}
    assert outcomes_of(maps) == {10426: "missing_offline", 3: "cached"}


@pytest.mark.parametrize("value", ["1", "true", "on"])
@pytest.mark.parametrize("mode", ["download_new", "overwrite"])
def test_a_variable_makes_every_call_offline(
    fetch: Fetch, no_sockets: Callable[[], None], monkeypatch: pytest.MonkeyPatch, mode: str, value: str
) -> None:
    fetch(image_ids=[3])
    monkeypatch.setenv("NVCATALOG_OFFLINE", value)
    no_sockets()
    if mode == "overwrite":
        with pytest.warns(
            IncompleteWarning, match="image 3 kept_old .to be overwritten, but this call works offline"
        ):
            assert ids(fetch(image_ids=[3], mode=mode)) == [3]
    else:
        assert ids(fetch(image_ids=[3], mode=mode)) == [3]


@pytest.mark.parametrize("value", ["", "0", "false", "off"])
def test_the_variable_can_say_no_too(fetch: Fetch, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NVCATALOG_OFFLINE", value)
    assert fetch(image_ids=[3]).report.counts == {"downloaded": 1}


def test_a_word_that_says_neither_opens_no_socket(
    fetch: Fetch, no_sockets: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_OFFLINE", "banana")
    no_sockets()
    with pytest.raises(InvalidOptionError, match="NVCATALOG_OFFLINE is 'banana'; give 1"):
        fetch(image_ids=[3])


def test_a_bad_mode_is_an_error_even_when_a_variable_makes_the_call_offline(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_OFFLINE", "1")
    with pytest.raises(InvalidModeError):
        fetch(image_ids=[3], mode="nonsense")


def test_offline_with_nothing_here_says_so_and_makes_nothing(
    fetch: Fetch, server: DemoServer, data_dir: Path
) -> None:
    with pytest.warns(IncompleteWarning):
        maps = fetch(collection_ids=[3], image_ids=[10426], mode="offline")
    assert maps.images == []
    assert [tuple(outcome) for outcome in maps.report] == [
        ("collection", 3, "missing_offline", "unknown here, never listed"),
        ("image", 10426, "missing_offline", "unknown here, never fetched"),
    ]
    assert server.requests == 0
    assert not data_dir.exists()


def test_an_unreachable_server_costs_what_is_missing_only_and_little_time(
    fetch: Fetch, server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(collection_ids=[3])
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.warns(IncompleteWarning, match="no connection in 3 tries"):
        maps = fetch(collection_ids=[3, 1058], image_ids=[10426, *range(20_000, 20_100)])
    assert ids(maps) == FOUR
    assert outcomes_of(maps, "collection") == {1058: "failed"}
    assert outcomes_of(maps) == dict.fromkeys(FOUR, "cached") | {10426: "failed"} | dict.fromkeys(
        range(20_000, 20_100), "failed"
    )
    assert all("NeuroVault" in str(outcome.reason) for outcome in maps.report.missing)
    assert len(tried) <= 6
    # Nothing was learnt about the ids, so that the next call asks for all of them.
    monkeypatch.undo()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    assert ids(fetch(collection_ids=[1058], image_ids=[10426])) == [14250, 14251, 14252, 10426]


def test_everything_here_is_returned_without_a_word_when_the_server_is_unreachable(
    fetch: Fetch, no_sockets: Callable[[], None]
) -> None:
    fetch(collection_ids=[3])
    no_sockets()
    assert fetch(collection_ids=[3]).report.counts == {"cached": 4}


def test_overwrite_without_a_server_returns_what_is_here_as_kept_old(
    fetch: Fetch, server: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(collection_ids=[3], fetch_neurosynth_words=True)
    content = file_of(data_dir, 3, 3).read_bytes()
    server.fail("*", faults.status(503))
    monkeypatch.setattr("nvcatalog._http.TRIES", 1)
    with pytest.warns(IncompleteWarning, match="kept_old"):
        maps = fetch(collection_ids=[3], mode="overwrite", fetch_neurosynth_words=True)
    assert ids(maps) == FOUR
    assert outcomes_of(maps) == outcomes_of(maps, "words") == dict.fromkeys(FOUR, "kept_old")
    assert all("503" in str(outcome.reason) for outcome in maps.report if outcome.kind == "image")
    assert file_of(data_dir, 3, 3).read_bytes() == content
    assert maps.word_frequencies.any(axis=1).all()


def test_a_firewall_in_the_servers_place_is_called_so(fetch: Fetch, server: DemoServer) -> None:
    fetch(collection_ids=[3])
    server.fail("*", faults.challenge())
    with pytest.warns(BlockedWarning, match="challenge"), pytest.warns(IncompleteWarning):
        maps = fetch(collection_ids=[3, 1058], image_ids=[10426])
    assert ids(maps) == FOUR
    assert outcomes_of(maps, "collection") == {1058: "failed"}
    server.heal()
    assert ids(fetch(collection_ids=[1058], image_ids=[10426])) == [14250, 14251, 14252, 10426]


# What the server refuses


def test_ids_that_do_not_exist_are_reported(fetch: Fetch) -> None:
    with pytest.warns(IncompleteWarning, match="2 not_found") as warned:
        maps = fetch(collection_ids=[777], image_ids=[999_999, 3])
    assert warned[0].filename == fetching.__file__
    assert ids(maps) == [3]
    assert [tuple(outcome) for outcome in maps.report] == [
        ("collection", 777, "not_found", "HTTP 404 for /api/collections/777/"),
        ("image", 999_999, "not_found", "HTTP 404 for /api/images/999999/"),
        ("image", 3, "downloaded", None),
    ]


def test_private_collections_and_images_are_reported(fetch: Fetch, world: World) -> None:
    world.make_private(3, "ABCDEFGH")
    with pytest.warns(IncompleteWarning, match="1 private, 1 not_found"):
        maps = fetch(collection_ids=[3], image_ids=[4])
    assert maps.images == []
    # The API says 404 for a private image: that there is one is not for everybody to know.
    assert [tuple(outcome)[:3] for outcome in maps.report] == [
        ("collection", 3, "private"),
        ("image", 4, "not_found"),
    ]


def test_an_empty_collection_is_whole(fetch: Fetch, server: DemoServer, world: World) -> None:
    empty = world.add_collection()
    for _ in range(2):
        maps = fetch(collection_ids=[empty])
        assert maps.images == []
        assert list(maps.report) == [Outcome("collection", empty, "cached", "it holds no images")]
    assert len(server.hits("*/images/")) == 1


def test_refusals_are_remembered(fetch: Fetch, server: DemoServer, world: World) -> None:
    world.broken_media(4)
    world.replace_file(8718, b"no map at all")
    asked = {"collection_ids": [777, 3], "image_ids": [999_999]}
    with pytest.warns(IncompleteWarning):
        first = fetch(**asked)
    assert outcomes_of(first) == {
        3: "downloaded", 4: "not_found", 8718: "corrupt_on_server", 8719: "downloaded", 999_999: "not_found",
    }  # fmt: skip
    server.reset_log()
    for mode in ("download_new", "offline"):
        with pytest.warns(IncompleteWarning):
            maps = fetch(**asked, mode=mode)
        assert [outcome[:3] for outcome in maps.report.missing] == [
            outcome[:3] for outcome in first.report.missing
        ]
        assert all(outcome.reason for outcome in maps.report.missing)
    assert server.requests == 0


@pytest.mark.parametrize("how", ["after a week", "overwrite"])
def test_refusals_are_asked_for_again_in_time(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path, how: str
) -> None:
    world.broken_media(4)
    asked = {"collection_ids": [777, 3], "image_ids": [999_999]}
    with pytest.warns(IncompleteWarning):
        fetch(**asked)
    world.cure(4)
    world.add_collection(id=777, images=[{"id": 999_999}])
    server.reset_log()
    if how == "after a week":
        write(data_dir, SEVEN_DAYS_AGO)
    maps = fetch(**asked, mode="overwrite" if how == "overwrite" else "download_new")
    assert ids(maps) == [999_999, *FOUR]
    assert not maps.report.missing
    assert fetch(**asked, mode="offline").report.counts == {"cached": 5}
    assert Catalog(data_dir).sql("SELECT count(*) FROM refusals").fetchall() == [(0,)]


def test_a_week_after_a_refusal_that_still_stands_it_is_remembered_anew(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    world.broken_media(4)
    for requests in (1, 0):
        with pytest.warns(IncompleteWarning):
            fetch(collection_ids=[3])
        server.reset_log()
        if requests:
            write(data_dir, SEVEN_DAYS_AGO)
        with pytest.warns(IncompleteWarning):
            fetch(collection_ids=[3])
        assert len(server.hits(world.file_path(4))) == requests
    assert Catalog(data_dir).sql("SELECT id FROM refusals").fetchall() == [(4,)]


def test_a_refused_file_is_asked_for_again_when_its_record_moves(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    world.broken_media(4)
    with pytest.warns(IncompleteWarning):
        fetch(collection_ids=[3])
    world.cure(4)
    world.edit_image(4, description="uploaded anew")
    # Another call renews the record; this one then knows that the image has changed.
    fetch(image_ids=[3], mode="overwrite")
    with pytest.warns(IncompleteWarning):
        fetch(collection_ids=[3])
    server.fail("/media/*", faults.status(503))
    with pytest.warns(IncompleteWarning):
        fetch(image_ids=[4], mode="overwrite")
    server.heal()
    server.reset_log()
    assert outcomes_of(fetch(image_ids=[4])) == {4: "downloaded"}
    assert [hit.path for hit in server.log] == [world.file_path(4)]


def test_an_image_refused_alone_is_fetched_once_its_collection_lists_it(fetch: Fetch, world: World) -> None:
    with pytest.warns(IncompleteWarning):
        fetch(image_ids=[999_999])
    world.add_image(3, id=999_999)
    assert outcomes_of(fetch(collection_ids=[3]))[999_999] == "downloaded"


def test_trouble_that_may_pass_is_not_remembered(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    server.fail("/api/*", faults.status(503))
    with pytest.warns(IncompleteWarning, match="2 failed"):
        fetch(collection_ids=[3], image_ids=[10426])
    server.heal()
    assert Catalog(data_dir).sql("SELECT count(*) FROM refusals").fetchall() == [(0,)]
    assert ids(fetch(collection_ids=[3], image_ids=[10426])) == [*FOUR, 10426]


def test_what_the_server_lost_is_kept_old_with_a_warning(fetch: Fetch, world: World, data_dir: Path) -> None:
    fetch(collection_ids=[3], image_ids=[10426])
    world.delete_image(4)
    world.broken_media(8718)
    world.delete_collection(658)
    with pytest.warns(IncompleteWarning, match="kept_old"):
        maps = fetch(collection_ids=[3], image_ids=[10426], mode="overwrite")
    assert ids(maps) == [*FOUR, 10426]
    assert outcomes_of(maps) == {
        3: "downloaded", 4: "kept_old", 8718: "kept_old", 8719: "downloaded", 10426: "kept_old",
    }  # fmt: skip
    assert all(outcome.reason for outcome in maps.report if outcome.status == "kept_old")
    assert maps.collections_meta[4]["id"] == 658
    # In the other modes what is here is here, and what the server refused stays in the report.
    again = fetch(collection_ids=[3], image_ids=[10426]).report
    assert set(again.counts) == {"cached"}
    reasons = {outcome.id: outcome.reason for outcome in again}
    assert {id_: reason and reason.split(": ")[0] for id_, reason in reasons.items()} == {
        3: None, 4: "when it was last asked for", 8718: "when it was last asked for", 8719: None,
        10426: "when it was last asked for",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "lasts"),
    [(faults.status(500), True), (faults.api_error(404, "Not found."), True), (faults.status(503), False)],
    ids=["broken", "gone", "down"],
)
def test_overwrite_fetches_no_file_whose_record_could_not_be_renewed(
    fetch: Fetch,
    server: DemoServer,
    world: World,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: faults.Fault,
    lasts: bool,
) -> None:
    monkeypatch.setattr("nvcatalog._http.TRIES", 1)
    fetch(collection_ids=[3])
    server.fail("/api/images/3/", answer)
    server.reset_log()
    with pytest.warns(IncompleteWarning, match=r"image 3 kept_old \(.*api/images/3/"):
        maps = fetch(image_ids=[3, 4], mode="overwrite")
    assert outcomes_of(maps) == {3: "kept_old", 4: "downloaded"}
    assert [hit.path for hit in server.hits("/media/*")] == [world.file_path(4)]
    assert Catalog(data_dir).sql("SELECT id FROM refusals").fetchall() == [(3,)] * lasts


def test_a_file_that_is_gone_is_not_fetched_while_its_record_cannot_be_renewed(
    fetch: Fetch, server: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvcatalog._http.TRIES", 1)
    fetch(collection_ids=[3])
    file_of(data_dir, 3, 3).unlink()
    broken = server.fail("/api/images/3/", faults.status(503))
    asked: dict[str, Any] = {"image_ids": [3], "mode": "overwrite", "fetch_neurosynth_words": True}
    with pytest.warns(IncompleteWarning, match="image 3 failed"):
        plan = fetch(**asked, dry_run=True)
    assert plan.unavailable[0][:3] == ("image", 3, "failed")
    with pytest.warns(IncompleteWarning, match="image 3 failed"):
        assert outcomes_of(fetch(**asked | {"vectorize_words": False})) == {3: "failed"}
    broken.remove()
    assert outcomes_of(fetch(**asked)) == {3: "downloaded"}


def test_a_record_broken_on_the_server_is_reported_by_its_place(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    world.poison_image(8718)
    with pytest.warns(IncompleteWarning, match="record 3 of collection 3"):
        first = fetch(collection_ids=[3])
    assert ids(first) == [3, 4, 8719]
    assert first.report.missing == (Outcome("image", None, "broken_on_server", "record 3 of collection 3"),)
    server.reset_log()
    with pytest.warns(IncompleteWarning, match="broken_on_server"):
        assert fetch(collection_ids=[3]).report.missing == first.report.missing
    with pytest.warns(IncompleteWarning, match="broken_on_server"):
        assert fetch(collection_ids=[3], mode="offline").report.missing == first.report.missing
    assert server.requests == 0
    world.cure(8718)
    write(data_dir, SEVEN_DAYS_AGO)
    maps = fetch(collection_ids=[3])
    assert ids(maps) == FOUR
    assert not maps.report.missing
    assert len(server.hits("/media/*")) == 1


def test_a_record_broken_on_the_server_asked_for_by_id_is_reported_by_its_id(fetch: Fetch, world: World) -> None:
    world.poison_image(3)
    with pytest.warns(IncompleteWarning):
        maps = fetch(image_ids=[3, 4])
    assert outcomes_of(maps) == {3: "broken_on_server", 4: "downloaded"}


def test_the_images_of_a_collection_whose_own_record_is_broken_arrive(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    world.poison_collection(3)
    with pytest.warns(IncompleteWarning, match="collection 3 broken_on_server"):
        maps = fetch(collection_ids=[3])
    assert ids(maps) == FOUR
    assert [meta["id"] for meta in maps.collections_meta] == [3, 3, 3, 3]
    server.reset_log()
    with pytest.warns(IncompleteWarning, match="collection 3 broken_on_server"):
        assert ids(fetch(collection_ids=[3])) == FOUR
    assert server.requests == 0


def test_a_collection_whose_own_record_is_broken_is_listed_again_when_its_list_failed(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    world.poison_collection(3)
    trouble = server.fail("/api/collections/3/images/", faults.status(503))
    with pytest.warns(IncompleteWarning, match=r"collection 3 failed \(its list: .*HTTP 503"):
        assert ids(fetch(collection_ids=[3])) == []
    trouble.remove()
    with pytest.warns(IncompleteWarning, match="collection 3 broken_on_server"):
        assert ids(fetch(collection_ids=[3])) == FOUR


def test_an_image_of_a_collection_whose_own_record_is_broken_is_fetched_once(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    world.poison_collection(3)
    with pytest.warns(IncompleteWarning, match="collection 3 broken_on_server"):
        fetch(image_ids=[3])
    server.reset_log()
    with pytest.warns(IncompleteWarning, match="collection 3 broken_on_server"):
        maps = fetch(image_ids=[3])
    assert server.requests == 0
    assert maps.report.counts == {"cached": 1, "broken_on_server": 1}


def test_a_single_images_collection_whose_record_cannot_be_read_is_reported(
    fetch: Fetch, server: DemoServer
) -> None:
    trouble = server.fail("/api/collections/3/", faults.status(503))
    with pytest.warns(IncompleteWarning, match=r"collection 3 failed \(.*HTTP 503"):
        maps = fetch(image_ids=[4, 3])
    assert ids(maps) == [4, 3]
    assert outcomes_of(maps, "collection") == {3: "failed"}
    trouble.remove()
    assert fetch(image_ids=[4, 3]).report.counts == {"cached": 2}


def test_a_single_images_collection_whose_record_cannot_be_renewed_is_reported(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    fetch(image_ids=[3])
    world.edit_collection(3, name="renamed")
    server.fail("/api/collections/3/", faults.status(503))
    with pytest.warns(IncompleteWarning, match=r"collection 3 kept_old \(.*HTTP 503"):
        maps = fetch(image_ids=[3], mode="overwrite")
    assert maps.collections_meta[0]["name"] != "renamed"
    assert outcomes_of(maps) == {3: "downloaded"}


def test_offline_a_single_images_collection_without_a_record_is_reported(fetch: Fetch, server: DemoServer) -> None:
    server.fail("/api/collections/3/", faults.status(503))
    with pytest.warns(IncompleteWarning):
        fetch(image_ids=[3])
    with pytest.warns(IncompleteWarning, match="collection 3 missing_offline"):
        assert ids(fetch(image_ids=[3], mode="offline")) == [3]


def test_an_image_deleted_on_the_server_leaves_the_collection_whole(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    fetch(collection_ids=[3])
    world.delete_image(4)
    with pytest.warns(IncompleteWarning, match="kept_old"):
        fetch(collection_ids=[3], mode="overwrite")
    file_of(data_dir, 3, 4).unlink()
    server.reset_log()
    maps = fetch(collection_ids=[3])
    assert ids(maps) == [3, 8718, 8719]
    assert maps.report.counts == {"cached": 3}
    assert server.requests == 0


def test_a_file_replaced_on_the_server_since_its_record_was_read_is_found_under_its_new_link(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    fetch(collection_ids=[3])
    world.replace_file(4, world.image_bytes(14227))
    file_of(data_dir, 3, 4).unlink()
    server.reset_log()
    maps = fetch(collection_ids=[3])
    assert outcomes_of(maps)[4] == "downloaded"
    assert Path(maps.images[1]).read_bytes() == world.image_bytes(14227)
    assert maps.images_meta[1]["file"] == server.neurovault_url + world.file_path(4)


def test_an_image_that_moved_to_another_collection_is_found_there(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    fetch(collection_ids=[3])
    world.edit_image(4, collection_id=1058, collection="/collections/1058/")
    for _ in range(2):
        maps = fetch(collection_ids=[1058])
        assert ids(maps) == [4, 14250, 14251, 14252]
        assert [meta["id"] for meta in maps.collections_meta] == [1058] * 4
        assert all(Path(path).is_file() for path in maps.images)
        assert [meta["absolute_path"] for meta in maps.images_meta] == maps.images


@pytest.mark.parametrize("parent", ["unknown", "known", "not to be had"])
def test_an_image_whose_record_read_again_names_another_collection_goes_there(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path, parent: str
) -> None:
    asked = {"image_ids": [4, 14250] if parent == "known" else [4]}
    fetch(**asked, fetch_neurosynth_words=True)
    file_of(data_dir, 3, 4).unlink()
    world.edit_image(4, collection_id=1058, collection="/collections/1058/")
    world.replace_file(4, world.image_bytes(14251))
    if parent == "not to be had":
        server.fail("/api/collections/1058/", faults.status(503))

    for _ in range(2):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            maps = fetch(**asked, fetch_neurosynth_words=True)
        assert bool(warned) == (parent == "not to be had")
        assert maps.images[0] == str(file_of(data_dir, 1058, 4))
        assert maps.images_meta[0]["collection_id"] == maps.collections_meta[0]["id"] == 1058
        assert ("name" in maps.collections_meta[0]) == (parent != "not to be had")
        assert maps.images_meta[0]["ns_words_relative_path"].startswith("collection_1058/")
    place = "SELECT collection_id, path FROM local_images WHERE image_id = 4"
    assert Catalog(data_dir).sql(place).fetchall() == [(1058, "collection_1058/image_4.nii.gz")]
    assert [path.parent.name for path in data_dir.rglob("*image_4*")] == ["collection_1058"] * 3


def test_an_image_that_moved_leaves_no_file_behind_when_it_is_fetched_again(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    fetch(image_ids=[4])
    world.edit_image(4, collection_id=1058, collection="/collections/1058/")
    assert fetch(image_ids=[4], mode="overwrite").images == [str(file_of(data_dir, 1058, 4))]
    assert [path.parent.name for path in data_dir.rglob("image_4.nii.gz")] == ["collection_1058"]


def test_a_link_to_another_host_is_refused_and_reported(fetch: Fetch, server: DemoServer, world: World) -> None:
    world.edit_image(3, file="https://evil.example/x.nii.gz")
    world.edit_image(4, file="file:///etc/passwd")
    with pytest.warns(IncompleteWarning, match="2 failed"):
        maps = fetch(collection_ids=[3])
    assert ids(maps) == [8718, 8719]
    assert "evil.example" in str(maps.report[0].reason)
    server.reset_log()
    with pytest.warns(IncompleteWarning):
        fetch(collection_ids=[3])
    assert len(server.hits("/media/*")) == 0


def test_a_list_that_comes_short_of_its_count_is_reported_and_read_again(fetch: Fetch, server: DemoServer) -> None:
    def drop_one(body: bytes) -> bytes:
        return re.sub(rb'"count":4', b'"count":5', body)

    short = server.fail("/api/collections/3/images/", faults.rewrite(drop_one))
    with pytest.warns(IncompleteWarning, match="counts 5 images and listed 4"):
        maps = fetch(collection_ids=[3])
    assert ids(maps) == FOUR
    reason = "the server counts 5 images and listed 4; call again"
    assert list(maps.report.missing) == [Outcome("collection", 3, "failed", reason)]
    short.remove()
    server.reset_log()
    assert not fetch(collection_ids=[3]).report.missing
    assert len(server.hits("/api/collections/3/images/")) == 1
    assert not server.hits("/media/*")


def test_a_list_that_comes_back_empty_does_not_pass_for_an_empty_collection(
    fetch: Fetch, server: DemoServer
) -> None:
    empty = server.fail("/api/collections/658/images/", faults.empty_page())
    with pytest.warns(IncompleteWarning, match="collection 658 failed"):
        maps = fetch(collection_ids=[658])
    reason = "the server counts 1 images and listed 0; call again"
    assert list(maps.report) == [Outcome("collection", 658, "failed", reason)]
    with pytest.warns(IncompleteWarning, match="never read to the end|never listed"):
        maps = fetch(collection_ids=[658], mode="offline")
    assert [outcome[:3] for outcome in maps.report] == [("collection", 658, "missing_offline")]
    empty.remove()
    assert fetch(collection_ids=[658]).report.counts == {"downloaded": 1}


def test_a_plan_tells_of_a_short_list_whose_collection_has_an_images_number(
    fetch: Fetch, server: DemoServer
) -> None:
    server.fail(
        "/api/collections/3/images/", faults.rewrite(lambda body: body.replace(b'"count":4', b'"count":5'))
    )
    with pytest.warns(IncompleteWarning, match="collection 3 failed"):
        plan = fetch(collection_ids=[3], dry_run=True)
    assert 3 in plan.to_fetch


def test_an_image_taken_for_deleted_is_asked_for_again_by_its_id(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    fetch(collection_ids=[3])
    record = world.image(4)
    world.delete_image(4)
    with pytest.warns(IncompleteWarning, match="image 4 kept_old"):
        fetch(collection_ids=[3], mode="overwrite")
    file_of(data_dir, 3, 4).unlink()
    with pytest.warns(IncompleteWarning, match="image 4 not_found"):
        fetch(image_ids=[4])
    world.add_image(3, record, id=4)
    write(data_dir, SEVEN_DAYS_AGO)
    assert fetch(image_ids=[4]).report.counts == {"downloaded": 1}
