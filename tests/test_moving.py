"""Of two processes that want the same thing one fetches it, and the other waits and takes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world
from waiting import PATIENCE_S, wait_until

from nvcatalog import Catalog, proving, storage
from nvcatalog._locks import FOLDER, file_lock
from nvcatalog.demo import faults
from nvcatalog.errors import BlockedWarning, IncompleteWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")
BY_ANOTHER = "fetched by another process meanwhile"


@contextmanager
def turn_of_another(data_dir: Path, name: str) -> Iterator[Path]:
    """Take a turn as another process does, and return the data folder."""
    folder = data_dir / storage.SUBFOLDER
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with file_lock(folder / FOLDER / name).acquire():
        yield folder


@pytest.mark.parametrize("mode", ["download_new", "overwrite"])
def test_terms_that_another_process_asks_for_are_waited_for_and_taken(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World, mode: str
) -> None:
    fetch(image_ids=[3], fetch_neurosynth_words=mode == "overwrite")
    maps_before, words_before = len(server.hits("/media/*")), len(server.hits("/api/decode/"))
    world.set_words(3, {"pain": 0.5})

    with ThreadPoolExecutor(1) as pool:
        with turn_of_another(data_dir, "words-03") as folder:
            called = pool.submit(fetch, image_ids=[3, 4], mode=mode, fetch_neurosynth_words=True)
            wait_until(lambda: len(server.hits("/media/*")) > maps_before)  # it has looked by then
            answer = b'{"data": {"reference": "terms_20k", "values": {"pain": 0.5}}}'
            storage.write_whole(folder / storage.words_path(3, 3), answer)
        maps = called.result(PATIENCE_S)

    [outcome] = [o for o in maps.report if (o.kind, o.id) == ("words", 3)]
    assert (outcome.status, outcome.reason) == ("cached", BY_ANOTHER)
    assert len(server.hits("/api/decode/")) == words_before + 1, "only image 4's"
    assert Catalog(data_dir).words([3], terms="pain").frequencies.toarray().tolist() == [[0.5]]


def test_a_map_of_which_it_is_anothers_turn_is_taken_once_it_is_there(
    fetch: Fetch, server: DemoServer, data_dir: Path, world: World
) -> None:
    fetch(image_ids=[3, 4], dry_run=True)

    with ThreadPoolExecutor(1) as pool:
        with turn_of_another(data_dir, "03") as folder:
            called = pool.submit(fetch, image_ids=[3, 4])
            wait_until(lambda: server.hits("/media/*"))
            storage.write_whole(folder / storage.image_path(3, 3), world.image_bytes(3))
        maps = called.result(PATIENCE_S)

    assert {o.id: (o.status, o.reason) for o in maps.report} == {
        3: ("cached", BY_ANOTHER),
        4: ("downloaded", None),
    }
    assert proving.prove(folder / storage.image_path(3, 3)).sha256
    assert len(server.hits("/media/*")) == 1


def test_a_server_that_is_given_up_ends_the_wait_for_another_process_too(
    fetch: Fetch, server: DemoServer, data_dir: Path
) -> None:
    fetch(image_ids=[3, 4], dry_run=True)
    server.fail("/media/*", faults.challenge())

    with (
        turn_of_another(data_dir, "03"),
        pytest.warns(BlockedWarning),
        pytest.warns(IncompleteWarning, match="2 images failed|image"),
    ):
        maps = fetch(image_ids=[3, 4])

    assert {outcome.id: outcome.status for outcome in maps.report} == {3: "failed", 4: "failed"}
