"""What the tests of a fetch have in common: few records that are quickly made, and no waiting."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import duckdb
import pytest

from nvcatalog import fetch_neurovault, fetch_neurovault_ids, snapshot
from nvcatalog.demo import DemoServer, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sklearn.utils import Bunch

    Fetch = Callable[..., Bunch]

FOUR = [3, 4, 8718, 8719]
SEVEN_DAYS_AGO = "UPDATE refusals SET seen_at = seen_at - INTERVAL 7 DAY"


@pytest.fixture
def world() -> World:
    return few_collections()


def few_collections() -> World:
    """Return collections of four, three, twenty, two and one image; 14227 is an atlas, no map has its size."""
    world = World.empty()
    world.add_collection(id=3, images=[{"id": id_} for id_ in FOUR])
    world.add_collection(id=1058, images=[{"id": id_} for id_ in (14250, 14251, 14252)])
    world.add_collection(id=555, images=[{"id": 9034 + n} for n in range(20)])
    world.add_collection(id=1197, images=[{"id": 16256}, {"id": 14227, "image_type": "atlas"}])
    world.add_collection(id=658, images=[{"id": 10426}])
    return world


class Once(NamedTuple):
    """A folder that was filled once, for copies, and the server it was filled from, for all tests of a module."""

    server: DemoServer
    world: World
    folder: Path

    def new_world(self) -> World:
        """Return a world like that which the folder was filled from; it may be changed."""
        copied = World.empty()
        vars(copied).update({name: deepcopy(value) for name, value in vars(self.world).items() if name != "lock"})
        return copied

    def as_new(self, world: World, monkeypatch: pytest.MonkeyPatch) -> DemoServer:
        """Return the server with nothing in its log and that world, and point nvcatalog at it."""
        self.server.heal()
        self.server.reset_log()
        self.server.world = world
        for name, value in self.server.environment.items():
            monkeypatch.setenv(name, value)
        return self.server


@contextmanager
def filled_once(folder: Path, world: World, fill: Callable[[World, Path], None]) -> Iterator[Once]:
    """Fill a folder from a server, which stays."""
    with DemoServer(world) as server:
        with patch.dict(os.environ, server.environment):
            fill(world, folder)
        yield Once(server, world, folder)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second try come at once, and snapshots wait, as they do after each."""
    monkeypatch.setattr("nvcatalog._http.BACKOFF_S", 0.001)
    monkeypatch.setattr(snapshot, "_age_s", lambda folder: 0.0)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """Return a data folder of which a test may lock what it likes."""
    home = Path(tempfile.mkdtemp())
    yield home
    for path in (home, *home.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(home)


@pytest.fixture
def fetch(server: DemoServer, data_dir: Path) -> Fetch:
    """Return a function that fetches from the local server into the test's folder, quietly."""

    def fetch(**options: Any) -> Bunch:
        settings: dict[str, Any] = {"data_dir": data_dir, "verbose": 0}
        return fetch_neurovault_ids(**settings | options)

    return fetch


@pytest.fixture
def fetch_filtered(server: DemoServer, data_dir: Path) -> Fetch:
    """Return a function that fetches by filters, likewise."""

    def fetch(**options: Any) -> Bunch:
        settings: dict[str, Any] = {"data_dir": data_dir, "verbose": 0}
        return fetch_neurovault(**settings | options)

    return fetch


def ids(maps: Bunch) -> list[int]:
    return [meta["id"] for meta in maps.images_meta]


def outcomes_of(maps: Bunch, kind: str = "image") -> dict[int | None, str]:
    return {outcome.id: outcome.status for outcome in maps.report if outcome.kind == kind}


def file_of(data_dir: Path, collection_id: int, image_id: int) -> Path:
    return data_dir / "neurovault" / f"collection_{collection_id}" / f"image_{image_id}.nii.gz"


def traces(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what tells whether anything was written in a folder: each entry's inode, size and time."""
    stats = {str(path.relative_to(folder)): path.stat() for path in (folder, *folder.rglob("*"))}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def write(data_dir: Path, statement: str) -> None:
    """Change the catalog behind nvcatalog's back."""
    with duckdb.connect(str(data_dir / "neurovault" / "catalog.duckdb")) as connection:
        connection.execute(statement)
