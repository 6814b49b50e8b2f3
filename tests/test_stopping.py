"""Killed before any step, or with a full disk from there on, a process leaves what the next one goes on from."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import no_waiting as no_waiting
from killing import kill_often
from older import LEVELS, make_catalog, opened, rows_about
from stopping import NEVER, Stopped, hits_of, stopped
from test_records import COLLECTIONS, IMAGES

from nvcatalog import Catalog, _replaced, fetch_neurovault_ids, storage
from nvcatalog.demo import DemoServer, World
from nvcatalog.demo.maps import synthetic_map
from nvcatalog.errors import NoSpaceError
from nvcatalog.layout import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("no_waiting")

# How many steps of each work are tried, others in every run; tests/scripts/every_step.py tries all.
KILLS, FULL_DISKS = 2, 1
# And how many processes are killed at random moments; tests/scripts/hundred_kills.py kills a hundred.
MOMENTS = 6
SEED = random.SystemRandom().randrange(2**32)
FILE_BYTES = 2500


@dataclass
class Bench:
    """A server, and the folders that a work begins with."""

    server: DemoServer
    home: Path
    served: dict[int, set[bytes]]
    links: dict[str, int]
    n_steps: dict[str, int] = field(default_factory=dict)

    @property
    def world(self) -> World:
        return self.server.world

    def begin(self, name: str, prepare: Callable[[Bench, Path], None]) -> Path:
        """Return a folder as it is when the work begins, a copy that may be spoilt."""
        template = self.home / name
        if not template.exists():
            template.mkdir()
            prepare(self, template)
        target = self.home / "work"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(template, target, symlinks=True)
        return target


def make_bench(server: DemoServer, home: Path) -> Bench:
    """Return a server of two collections, of which one is edited once `prepare` has seen it."""
    world = server.world = World.empty()
    for image_id in (
        *world.add_synthetic(7, 2, file_bytes=FILE_BYTES),
        *world.add_synthetic(8, 1, file_bytes=FILE_BYTES),
    ):
        world.set_words(image_id, {"pain": 0.1, "reward": -0.2})
    links = {world.file_path(id_): id_ for id_ in world.image_ids()}
    return Bench(server, home, {id_: {world.image_bytes(id_)} for id_ in world.image_ids()}, links)


def fetch(data_dir: Path, **options: Any) -> Any:
    return fetch_neurovault_ids([7], data_dir=data_dir, verbose=0, **options)


# What the works begin with, and what the next call is


def _nothing(bench: Bench, data_dir: Path) -> None:
    pass


def _older_files(bench: Bench, data_dir: Path) -> None:
    """Fetch, and let the server have others then: one of the same size, one of another."""
    fetch(data_dir, fetch_neurosynth_words=True)
    Catalog(data_dir).sync(verbose=0)
    Catalog(data_dir).snapshot()
    for image_id, size in ((1, FILE_BYTES), (2, 2 * FILE_BYTES)):
        bench.world.replace_file(image_id, synthetic_map(image_id + 1000, size))
        bench.served[image_id].add(bench.world.image_bytes(image_id))
        bench.links[bench.world.file_path(image_id)] = image_id
    bench.world.edit_image(3, name="edited")


def _files_alone(bench: Bench, data_dir: Path) -> None:
    """Leave what nilearn would have left."""
    fetch(data_dir)
    (data_dir / "neurovault/catalog.duckdb").unlink()


def _first_level(bench: Bench, data_dir: Path) -> None:
    (data_dir / "neurovault").mkdir()
    make_catalog(data_dir / "neurovault/catalog.duckdb", min(LEVELS), rows_about(IMAGES[:20], COLLECTIONS[:5]))


WORKS: dict[str, tuple[str, Callable[[Bench, Path], None], dict[str, Any]]] = {
    "fetches": ("fetch", _nothing, {"collection_ids": [7], "fetch_neurosynth_words": True, "publish": True}),
    "overwrites": ("fetch", _older_files, {"collection_ids": [7], "mode": "overwrite"}),
    "takes-over": ("fetch", _files_alone, {"collection_ids": [7]}),
    "syncs": ("sync", _older_files, {}),
    "publishes": ("publish", _older_files, {"whole": True}),
    "migrates": ("migrate", _first_level, {}),
}


def check_stopped(bench: Bench, name: str, at: int, *, full: bool) -> Stopped:
    """Stop a work before a step, and check what it left, and that the next call goes on from there."""
    work, prepare, options = WORKS[name]
    data_dir = bench.begin(name, prepare)
    before = rows_of(data_dir)
    end = stopped(at, work, data_dir, full=full, **options)
    assert_nothing_lost(before, rows_of(data_dir))
    here = assert_files_whole(bench, data_dir)
    if full:
        assert not list(data_dir.rglob("*.part")), "it takes room"
    if work == "migrate":
        Catalog(data_dir).sql("SELECT count(*) FROM stat_maps").fetchall()
        assert_nothing_lost(before, rows_of(data_dir))
        return end
    assert_goes_on(bench, data_dir, work, here, **options)
    assert_nothing_lost(before, rows_of(data_dir))
    return end


def assert_goes_on(bench: Bench, data_dir: Path, work: str, here: set[int], **options: Any) -> None:
    """Check that the next call completes what was stopped, and asks for nothing that is here."""
    bench.server.reset_log()
    if work == "sync":
        assert Catalog(data_dir).sync(verbose=0).complete
        names = Catalog(data_dir).sql("SELECT name FROM images ORDER BY image_id").fetchall()
        assert names == [((bench.world.image(id_) or {})["name"],) for id_ in bench.world.image_ids()]
    maps = fetch(data_dir, fetch_neurosynth_words=True)
    asked = {bench.links[hit.path] for hit in hits_of(bench.server, "/media/*")}
    assert not asked & here, "what was here was asked for again"
    problems = Catalog(data_dir).verify(deep=True, verbose=0).problems
    assert not [each for each in problems if each.image_id in (1, 2)]
    if options.get("mode") == "overwrite":
        maps = fetch(data_dir, mode="overwrite")
        assert [Path(path).read_bytes() for path in maps.images] == [
            bench.world.image_bytes(id_) for id_ in (1, 2)
        ]
    assert len(maps.images) == 2
    assert not maps.report.missing
    place = Catalog(data_dir).snapshot()
    assert json.loads((place / "manifest.json").read_text())["rows"]["files"] == 2
    assert not Catalog(data_dir).verify(deep=True, verbose=0).problems


def assert_files_whole(bench: Bench, data_dir: Path) -> set[int]:
    """Check that each map is one that the server gave, and return the images of those that need not be fetched."""
    here = set()
    for path in (data_dir / "neurovault").glob("collection_*/image_*.nii.gz"):
        image_id = place_of(f"{path.parent.name}/{path.name}").id or 0
        assert path.read_bytes() in bench.served[image_id], path
        here.add(image_id)
    return here


def rows_of(data_dir: Path) -> set[tuple[str, ...]]:
    """Return the keys of what the catalog has: a file that is lost, or a record, would be missing here."""
    catalog = data_dir / "neurovault/catalog.duckdb"
    if not catalog.exists():
        return set()
    keys = {
        "images": "image_id",
        "collections": "collection_id",
        "files": "image_id",
        "words": "image_id, term_id",
    }
    keys |= {"raw_records": "kind, id", "record_history": "kind, id", "refusals": "id", "access": "token"}
    with opened(catalog) as connection:
        rows = {table: connection.execute(f"SELECT {key} FROM {table}").fetchall() for table, key in keys.items()}
    return {(table, str(row)) for table, found in rows.items() for row in found}


def assert_nothing_lost(before: set[tuple[str, ...]], after: set[tuple[str, ...]]) -> None:
    assert before <= after


def some_steps(bench: Bench, name: str, number: int) -> list[int]:
    """Return some of a work's steps, from its first to its last."""
    work, prepare, options = WORKS[name]
    if name not in bench.n_steps:
        bench.n_steps[name] = stopped(NEVER, work, bench.begin(name, prepare), **options).steps
    n_steps, chance = bench.n_steps[name], random.Random(SEED)
    return [int((part + chance.random()) * n_steps / number) + 1 for part in range(number)]


@pytest.fixture(scope="module")
def running() -> Iterator[DemoServer]:
    with DemoServer(World.empty()) as server:
        yield server


@pytest.fixture
def bench(running: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return make_bench(running, tmp_path)


@pytest.mark.parametrize("name", WORKS)
def test_a_process_may_be_killed_or_its_disk_be_full_before_any_step_while_it(bench: Bench, name: str) -> None:
    print(f"seed {SEED}")
    ends = [check_stopped(bench, name, at, full=False) for at in some_steps(bench, name, KILLS)]
    assert "killed" in {end.how for end in ends}

    ends = [check_stopped(bench, name, at, full=True) for at in some_steps(bench, name, FULL_DISKS)]
    assert {end.how for end in ends} <= {"full", "done"}
    assert all("Free some space" in end.said or "too large" in end.said for end in ends if end.how == "full")


KILLED_BEFORE_ITS_ROW = """
import os, signal, sys
from nvcatalog import fetch_neurovault_ids
from nvcatalog._store import Store
land = Store.land
def land_no_files(store, batch, **options):
    if "files" in batch.tables:
        os.kill(os.getpid(), signal.SIGKILL)
    return land(store, batch, **options)
Store.land = land_no_files
fetch_neurovault_ids(image_ids=[1], data_dir=sys.argv[1], mode="overwrite", verbose=0)
"""


@pytest.mark.parametrize("way", ["offline", "repair"])
def test_what_a_killed_call_put_in_the_place_of_a_file_of_the_same_size_is_proven_anew(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    _older_files(bench, tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_ITS_ROW, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    file = tmp_path / "neurovault/collection_7/image_1.nii.gz"
    assert file.read_bytes() == bench.world.image_bytes(1)
    [found] = Catalog(tmp_path).verify(deep=True, verbose=0).problems
    assert (found.kind, found.image_id) == ("stray", 1)

    monkeypatch.setattr(_replaced, "_MOMENTS_S", 0.0)  # they are over
    if way == "offline":
        maps = fetch_neurovault_ids(image_ids=[1], data_dir=tmp_path, mode="offline", verbose=0)
        assert maps.report.counts == {"cached": 1}
    else:
        assert Catalog(tmp_path).repair(offline=True, verbose=0).counts == {"adopted": 1}

    assert not Catalog(tmp_path).verify(deep=True, verbose=0).problems
    proven = hashlib.sha256(file.read_bytes()).hexdigest()
    assert Catalog(tmp_path).sql("SELECT sha256 FROM files WHERE image_id = 1").fetchall() == [(proven,)]
    assert not (tmp_path / "neurovault/.replaced").exists()


def test_kills_at_random_moments_cost_no_row_and_no_second_download(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tally = kill_often(MOMENTS, tmp_path, SEED)
    assert tally.is_clean, (tally.lost, tally.corrupt, tally.again)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that gives a folder on a disk of its own of that size, with what is there already."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no small disk can be made here: {made.stderr.strip()}")

    def resized(size: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
        return disk

    yield resized
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.usefixtures("migrations_run")
@pytest.mark.parametrize("size", ["32k", "700k", "2m"])
def test_a_fetch_goes_on_once_a_full_disk_has_room(
    bench: Bench, small_disk: Callable[[str], Path], size: str
) -> None:
    for image_id in bench.world.add_synthetic(7, 8, file_bytes=200_000):
        bench.served[image_id] = {bench.world.image_bytes(image_id)}
    data_dir = small_disk(size)
    with pytest.raises(NoSpaceError, match="ree some space"):
        fetch(data_dir)
    here = assert_files_whole(bench, data_dir)
    assert not list(data_dir.rglob("*.part"))
    small_disk("100m")
    bench.server.reset_log()
    maps = fetch(data_dir)
    assert len(maps.images) == 10
    assert len(bench.server.hits("/media/*")) == 10 - len(here)
    assert not Catalog(data_dir).verify(deep=True, verbose=0).problems


def test_temporary_files_older_than_a_day_are_swept(bench: Bench, tmp_path: Path) -> None:
    fetch(tmp_path)
    folder = tmp_path / "neurovault/collection_7"
    old, new = (folder / f".image_1.nii.gz.{pid}-0123abcd.part" for pid in (1, 2))
    for part, age_s in ((old, 25 * 3600), (new, 23 * 3600)):
        part.write_bytes(b"half a map")
        os.utime(part, (part.stat().st_atime, part.stat().st_mtime - age_s))
    storage._old_parts.cache_clear()  # another process looks
    fetch(tmp_path, mode="overwrite")
    assert [part.exists() for part in (old, new)] == [False, True]
