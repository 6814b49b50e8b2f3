"""What is known for longer than the caller allows is asked for again, and nothing else is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import FOUR, ids, outcomes_of, write
from fetching import fetch as fetch
from fetching import fetch_filtered as fetch_filtered
from fetching import no_waiting as no_waiting
from fetching import world as world

from nvcatalog import Catalog
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import IncompleteWarning
from nvcatalog.filters import NotEqual

if TYPE_CHECKING:
    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")

EVERYTHING: dict[str, Any] = {"image_terms": {}, "collection_terms": {}, "max_images": None}


def paths_of(server: DemoServer) -> list[str]:
    return sorted(hit.path for hit in server.log)


def make_older(data_dir: Path, *collection_ids: int) -> None:
    """Make what is known of collections three days older."""
    ids = ", ".join(map(str, collection_ids))
    ago = "- INTERVAL 3 DAY WHERE collection_id IN"
    write(data_dir, f"UPDATE collections SET listed_at = listed_at {ago} ({ids})")
    write(
        data_dir,
        f"UPDATE raw_records SET fetched_at = fetched_at - INTERVAL 3 DAY WHERE kind = 'image' "
        f"AND id IN (SELECT image_id FROM images WHERE collection_id IN ({ids}))",
    )


# By ids


def test_a_collection_known_for_longer_is_listed_again(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    fetch(collection_ids=[3, 1058])
    make_older(data_dir, 3)
    new = world.add_image(3)
    world.edit_image(4, name="edited")
    server.reset_log()
    for max_age in (None, 4, timedelta(days=4)):
        assert len(fetch(collection_ids=[3, 1058], max_age=max_age).images) == 7
    assert server.requests == 0
    maps = fetch(collection_ids=[3, 1058], max_age=2)
    assert ids(maps) == [*FOUR, new, 14250, 14251, 14252]
    assert maps.images_meta[1]["name"] == "edited"
    assert maps.report.counts == {"cached": 7, "downloaded": 1}
    assert paths_of(server) == ["/api/collections/3/", "/api/collections/3/images/", world.file_path(new)]
    server.reset_log()
    fetch(collection_ids=[3, 1058], max_age=2)
    assert server.requests == 0
    fetch(collection_ids=[3, 1058], max_age=0, mode="offline")
    assert server.requests == 0


def test_the_record_of_a_single_image_known_for_longer_is_read_again(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    fetch(image_ids=[3, 14250])
    make_older(data_dir, 3)
    world.edit_image(3, name="edited")
    world.edit_image(14250, name="edited too")
    server.reset_log()
    assert not fetch(image_ids=[3, 14250], max_age=timedelta(days=4)).report.missing
    assert server.requests == 0
    maps = fetch(image_ids=[3, 14250], max_age=1.5)
    assert [meta["name"] for meta in maps.images_meta] == ["edited", "map 14250"]
    assert maps.report.counts == {"cached": 2}
    assert paths_of(server) == ["/api/images/3/"]


def test_an_image_deleted_meanwhile_stays_while_its_file_is_here(
    fetch: Fetch, world: World, data_dir: Path
) -> None:
    fetch(collection_ids=[3])
    world.delete_image(4)
    assert ids(fetch(collection_ids=[3], max_age=0)) == FOUR
    assert Catalog(data_dir).sql("SELECT image_id FROM images WHERE gone_at IS NOT NULL").fetchall() == [(4,)]


def test_without_a_server_what_is_here_is_returned_and_the_report_says_so(
    fetch: Fetch, server: DemoServer
) -> None:
    fetch(collection_ids=[3], image_ids=[10426])
    server.fail("*", faults.status(503))
    with pytest.warns(IncompleteWarning, match="collection 3 failed"):
        maps = fetch(collection_ids=[3], image_ids=[10426], max_age=0)
    assert ids(maps) == [*FOUR, 10426]
    assert {status for id_, status in outcomes_of(maps).items() if id_ in FOUR} == {"cached"}


# By filters


def test_max_age_lists_again_what_is_older_and_nothing_else(
    fetch_filtered: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    everything = ids(fetch_filtered(**EVERYTHING))
    make_older(data_dir, 3, 1058)
    new = world.add_image(3)
    world.edit_image(4, modality="MEG")
    asked: dict[str, Any] = {"modality": NotEqual("MEG"), "max_images": 2}
    server.reset_log()
    for max_age in (4, timedelta(days=4), None):
        assert ids(fetch_filtered(**asked, max_age=max_age)) == [3, 4]
    assert server.requests == 0
    assert ids(fetch_filtered(**asked, max_age=2)) == [3, 8718]  # enough, so that nobody looks at the other one
    assert paths_of(server) == ["/api/collections/3/", "/api/collections/3/images/"]
    server.reset_log()
    assert set(ids(fetch_filtered(**EVERYTHING, max_age=2))) == {*everything, new}
    # Record and list of 3 came at the same time: the record that was new may be newer than the list.
    lists = ["/api/collections/1058/", "/api/collections/1058/images/", "/api/collections/3/images/"]
    assert paths_of(server) == ["/api/collections/", *lists, world.file_path(new)]
    server.reset_log()
    fetch_filtered(**EVERYTHING, max_age=0)
    lists = [path for path in paths_of(server) if path.endswith("/images/")]
    assert len(lists) == len(set(lists)) == 5


def test_max_age_of_one_collection(fetch_filtered: Fetch, server: DemoServer, world: World) -> None:
    fetch_filtered(collection_id=3)
    world.edit_image(3, modality="MEG")
    new = world.add_image(3)
    server.reset_log()
    assert ids(fetch_filtered(collection_id=3, modality=NotEqual("MEG"), max_age=1)) == FOUR
    assert server.requests == 0
    assert ids(fetch_filtered(collection_id=3, modality=NotEqual("MEG"), max_age=0)) == [4, 8718, 8719, new]
    assert paths_of(server) == ["/api/collections/3/", "/api/collections/3/images/", world.file_path(new)]


def test_max_age_without_a_server_returns_what_is_here(fetch_filtered: Fetch, server: DemoServer) -> None:
    fetch_filtered(max_images=2)
    server.fail("*", faults.status(503))
    with pytest.warns(IncompleteWarning, match="collection 3 failed"):
        assert ids(fetch_filtered(max_images=2, max_age=0)) == [3, 4]
