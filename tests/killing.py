"""Processes that are killed at random moments of fetches, syncs, migrations and publications, in turn."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from children import pipe, start
from older import make_catalog, opened, rows_about
from stopping import WORKS
from test_records import COLLECTIONS, IMAGES

from nvcatalog import Catalog, _batch, fetch_neurovault_ids
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World
from nvcatalog.layout import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

_N_IMAGES, _FILE_BYTES = 40, 3000


@dataclass
class Tally:
    """What so many kills cost.

    Attributes
    ----------
    kills : Counter of str
        How many processes were killed before their end, by what they did.
    acknowledged : int
        How many rows processes had been told were in the catalog, or readers had seen there.
    lost, corrupt, again : list of str
        Which of those were not there afterwards; which files with a row are not what the server gave; which were
        downloaded again after their row had landed.
    """

    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, and nothing fetched twice."""
        return not (self.lost or self.corrupt or self.again)

    def __str__(self) -> str:
        """Say all figures in a line."""
        kills = ", ".join(f"{number} {work}" for work, number in sorted(self.kills.items()))
        lost = f"{len(self.lost)} of {self.acknowledged} acknowledged rows lost"
        again = f"{len(self.again)} files downloaded again after their row landed"
        corrupt = f"{len(self.corrupt)} corrupt files accepted"
        return f"{self.kills.total()} kills ({kills}): {lost}, {corrupt}, {again}"


def kill_often(kills: int, home: Path, seed: int) -> Tally:
    """Kill so many processes that use one folder in turn, and return what it cost."""
    world = World.empty()
    for collection_id in range(1, 4):
        world.add_synthetic(collection_id, _N_IMAGES, file_bytes=_FILE_BYTES)
    world.add_many(30, 200)
    with DemoServer(world, latency_s=0.005) as server, patch.dict(os.environ, server.environment):
        campaign = _Campaign(server, home, random.Random(seed))
        while campaign.tally.kills.total() < kills:
            campaign.one_more()
        campaign.finish()
    return campaign.tally


class _Campaign:
    def __init__(self, server: DemoServer, home: Path, chance: random.Random) -> None:
        self.tally = Tally()
        self._server = server
        self._home = home
        self._data_dir = home / "data"
        self._chance = chance
        self._with_row: set[int] = set()  # the images of which a file has landed
        self._links = {server.world.file_path(id_): id_ for id_ in server.world.image_ids()}
        self._durations_s: dict[str, float] = {}
        self._turns = self._works()
        fetch_neurovault_ids(image_ids=server.world.image_ids(1)[:1], data_dir=self._data_dir, verbose=0)

    def _works(self) -> Iterator[tuple[str, Path, dict[str, Any]]]:
        """Yield what is done next, and where: each of the four in turn, and what is complete begins anew."""
        self._older = self._home / "older"
        _make_older(self._older)
        next_id = 1
        while True:
            whole = self._is_whole(next_id)
            if whole and (next_id := next_id + 1) > 3:
                next_id = 1
                self._server.world.add_synthetic(1, _N_IMAGES, file_bytes=_FILE_BYTES)
                self._links = {self._server.world.file_path(i): i for i in self._server.world.image_ids()}
                Catalog(self._data_dir).sync(collection_ids=[1], verbose=0)
            yield "fetch", self._data_dir, {"collection_ids": [next_id], "publish": True}
            self._server.world.edit_image(self._chance.choice(self._server.world.image_ids(1)), name="edited")
            yield "sync", self._data_dir, {}
            yield "migrate", self._home / "older", {}
            yield "publish", self._data_dir, {"whole": True}

    def _is_whole(self, collection_id: int) -> bool:
        return set(self._server.world.image_ids(collection_id)) <= self._with_row

    def one_more(self) -> None:
        """Start the next process, and kill it at some moment of the time that such a one takes."""
        work, data_dir, options = next(self._turns)
        before = _rows(data_dir)
        self._server.reset_log()
        moment_s = self._chance.uniform(0, self._durations_s.setdefault(work, 0.5))
        was_killed, told = _kill_at(moment_s, work, data_dir, options)
        if was_killed:
            self.tally.kills[work] += 1
        self._durations_s[work] *= 1.3 if was_killed else 0.7  # about half of them are to come to their end
        after = _rows(data_dir)
        self.tally.lost += [f"{work}: {row}" for row in (before | told) - after]
        self.tally.acknowledged += len(told | (after - before))
        if work == "migrate":
            with suppress(OSError):
                _make_older(self._older)
            return
        self._look(after)

    def _look(self, rows: set[tuple[str, str]]) -> None:
        again = {self._links[hit.path] for hit in self._server.hits("/media/*")} & self._with_row
        self.tally.again += [f"image {id_}" for id_ in again]
        self._with_row = {int(key) for table, key in rows if table == "files"}
        for path in (self._data_dir / "neurovault").glob("collection_*/image_*.nii.gz"):
            image_id = place_of(f"{path.parent.name}/{path.name}").id or 0
            if path.read_bytes() != self._server.world.image_bytes(image_id):
                self.tally.corrupt.append(str(path))

    def finish(self) -> None:
        """Let calls that nobody kills complete everything, and look once more."""
        self._server.reset_log()
        maps = fetch_neurovault_ids([1, 2, 3], data_dir=self._data_dir, verbose=0)
        assert not maps.report.missing
        self._look(_rows(self._data_dir))
        assert Catalog(self._data_dir).sync(verbose=0).complete
        problems = Catalog(self._data_dir).verify(deep=True, verbose=0).problems
        self.tally.corrupt += [str(problem) for problem in problems]


def _make_older(home: Path) -> None:
    """Put a catalog of the first level there, with rows to lose."""
    (home / "neurovault").mkdir(parents=True, exist_ok=True)
    for name in ("catalog.duckdb", "catalog.duckdb.wal"):
        (home / "neurovault" / name).unlink(missing_ok=True)
    make_catalog(home / "neurovault/catalog.duckdb", 1, rows_about(IMAGES, COLLECTIONS))


_KEYS = {
    "images": "image_id",
    "collections": "collection_id",
    "files": "image_id",
    "raw_records": "kind || id",
    "record_history": "kind || id",
    "fetches": "fetch_id",
}


def _rows(data_dir: Path) -> set[tuple[str, str]]:
    """Return the keys of all rows that somebody who reads the catalog now can see."""
    catalog = data_dir / "neurovault/catalog.duckdb"
    if not catalog.exists():
        return set()
    with opened(catalog) as connection:
        return {
            (table, str(key))
            for table, column in _KEYS.items()
            for (key,) in connection.execute(f"SELECT {column} FROM {table}").fetchall()
        }


def _kill_at(
    moment_s: float, work: str, data_dir: Path, options: dict[str, Any]
) -> tuple[bool, set[tuple[str, str]]]:
    """Kill a process then; return whether that came before its end, and which rows it knew to be safe."""
    from_child, to_parent = pipe()
    process = start(_work, work, data_dir, options, to_parent)
    to_parent.close()
    assert from_child.recv() == "started"
    time.sleep(moment_s)
    with suppress(ProcessLookupError):
        process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"{work} failed by itself"
    told: set[tuple[str, str]] = set()
    with suppress(EOFError):
        while (said := from_child.recv()) != "done":
            told |= said
        return False, told
    return True, told


def _work(work: str, data_dir: Path, options: dict[str, Any], to_parent: Connection) -> None:
    warnings.simplefilter("ignore")
    for name in ("land", "land_one_of_many"):
        setattr(Store, name, _telling(getattr(Store, name), to_parent))
    to_parent.send("started")
    WORKS[work](data_dir, **options)
    to_parent.send("done")
    os._exit(0)


def _telling(land: Callable[..., list[str]], to_parent: Connection) -> Callable[..., list[str]]:
    """Tell the parent which rows have landed, as soon as the process itself is told."""

    def tell(store: Store, batch: _batch.Batch, **options: Any) -> list[str]:
        culprits = land(store, batch, **options)
        ids = {"images": "image_id", "collections": "collection_id", "files": "image_id"}
        to_parent.send({(t, str(row[key])) for t, key in ids.items() for row in batch.tables.get(t, ())})
        return culprits

    return tell
