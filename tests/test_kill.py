"""A call may be killed at any moment: what had arrived stays, and the next call asks for the rest alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from children import pipe, start
from waiting import PATIENCE_S, started, wait_until

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World, faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from sklearn.utils import Bunch

    from nvcatalog.demo.server import Hit

COLLECTION, N_IMAGES = 7, 300
KILLS = 20
SLOW_S = 4.0
WORDS = {"pain": 0.3, "reward": -0.1, "motor": 0.0}

# Every run kills at moments of its own; what a failing one was is printed.
SEED = random.SystemRandom().randrange(2**32)

# The one who is killed and the one who comes after sign their requests, so that the server's log tells them apart.
DOOMED, NEXT = "the killed call", "the next call"


@dataclass
class Place:
    """A data folder, and the server it is filled from."""

    server: DemoServer
    data_dir: Path

    @property
    def folder(self) -> Path:
        return self.data_dir / "neurovault"

    @property
    def images(self) -> set[int]:
        """The images whose rename has completed."""
        return _ids(self.folder.glob("collection_*/image_*.nii.gz"))

    @property
    def words(self) -> set[int]:
        """The images whose words' rename has completed."""
        return _ids(self.folder.glob("collection_*/neurosynth_words_for_image_*.json"))

    def asked_by_next(self, pattern: str) -> list[Hit]:
        return [hit for hit in self.server.hits(pattern) if NEXT in hit.headers["user-agent"]]


def _ids(paths: Iterator[Path]) -> set[int]:
    return {int(path.name.rpartition("_")[2].partition(".")[0]) for path in paths}


@pytest.fixture(scope="module")
def running() -> Iterator[DemoServer]:
    world = World.empty()
    for image_id in world.add_synthetic(COLLECTION, N_IMAGES, file_bytes=3000):
        world.set_words(image_id, WORDS)
    with DemoServer(world, latency_s=0.01) as server:
        yield server


@pytest.fixture
def place(running: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NVCATALOG_CONTACT", NEXT)
    running.reset_log()
    return Place(running, tmp_path)


@pytest.fixture(scope="module")
def durations_s(running: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, float]:
    """Return how long an undisturbed call takes, without words and with them."""
    durations = {}
    for words in (False, True):
        undisturbed = Doomed(Place(running, tmp_path_factory.mktemp("undisturbed")), words=words)
        started = time.perf_counter()
        undisturbed.wait()
        durations[words] = time.perf_counter() - started
    return durations


def fetch_all(environment: dict[str, str], data_dir: Path, words: bool, to_parent: Connection) -> None:
    os.environ.update(environment)
    to_parent.send("started")
    fetch_neurovault_ids(COLLECTION, data_dir=data_dir, fetch_neurosynth_words=words, verbose=0)
    to_parent.send("done")


class Doomed:
    """A call in a process of its own, under way once this is made."""

    def __init__(self, place: Place, *, words: bool) -> None:
        environment = place.server.environment | {"NVCATALOG_CONTACT": DOOMED}
        self._from_child, to_parent = pipe()
        self._process = start(fetch_all, environment, place.data_dir, words, to_parent)
        to_parent.close()
        assert self._from_child.recv() == "started"

    @property
    def is_running(self) -> bool:
        return bool(not self._from_child.poll())

    def kill(self) -> bool:
        """Kill it, and return whether that came before its end."""
        with suppress(ProcessLookupError):  # it may have ended by itself
            self._process.kill()
        self._process.join()
        try:
            return bool(self._from_child.recv() != "done")
        except EOFError:
            return True

    def kill_where(self, sign: Callable[[], bool]) -> bool:
        """Kill it in a moment when the sign is there, and return whether that was possible before its end."""
        pid = self._process.pid
        assert pid is not None
        while self.is_running:
            if sign():
                os.kill(pid, signal.SIGSTOP)  # so that the moment does not pass before the kill
                if sign():
                    return self.kill()
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.001)
        self.kill()
        return False

    def wait(self) -> None:
        assert self._from_child.recv() == "done"
        self._process.join()
        assert self._process.exitcode == 0


def kill_at(place: Place, moment_s: float, *, words: bool) -> bool:
    doomed = Doomed(place, words=words)
    time.sleep(moment_s)
    return doomed.kill()


def assert_consistent(place: Place) -> None:
    """Check all that is on disk: whole images, readable sidecars, and a catalog that says what is true."""
    for path in place.folder.glob("collection_*/image_*.nii.gz"):
        (image_id,) = _ids(iter([path]))
        assert path.read_bytes() == place.server.world.image_bytes(image_id), path
    for path in place.folder.glob("collection_*/[!.]*.json"):
        assert isinstance(json.loads(path.read_bytes()), dict), path
    if not (place.folder / "catalog.duckdb").exists():
        return
    rows = Catalog(place.data_dir).sql("SELECT path, size, sha256, state FROM files").fetchall()
    for name, size, sha256, state in rows:
        data = (place.folder / name).read_bytes()
        # Files without a row are taken over by their size first, and proven next.
        proof = hashlib.sha256(data).hexdigest() if state == "present" else None
        assert (size, sha256) == (len(data), proof), (name, state)


def fetch_the_rest(place: Place, *, words: bool) -> Bunch:
    """Make the next call, and check that it completes what was killed and asks for nothing that was here."""
    assert_consistent(place)
    images, terms = place.images, place.words
    listed = _is_listed(place)
    maps = fetch_neurovault_ids(COLLECTION, data_dir=place.data_dir, fetch_neurosynth_words=words, verbose=0)

    everything = place.server.world.image_ids(COLLECTION)
    assert [meta["id"] for meta in maps.images_meta] == everything
    assert not maps.report.missing
    asked = [int(hit.path.rpartition("_")[2].partition(".")[0]) for hit in place.asked_by_next("/media/*")]
    assert sorted(asked) == sorted(set(everything) - images)
    decoded = [int(hit.query["neurovault"]) for hit in place.asked_by_next("/api/decode*")]
    assert sorted(decoded) == (sorted(set(everything) - terms) if words else [])
    lists = [hit for hit in place.asked_by_next("/api/*") if hit.service == "neurovault"]
    assert not (listed and lists)
    _assert_complete(place, maps, words=words)
    return maps


def _is_listed(place: Place) -> bool:
    if not (place.folder / "catalog.duckdb").exists():
        return False
    rows = Catalog(place.data_dir).sql("SELECT complete FROM collections").fetchall()
    return rows == [(True,)]


def _assert_complete(place: Place, maps: Bunch, *, words: bool) -> None:
    assert place.images == set(place.server.world.image_ids(COLLECTION))
    assert_consistent(place)
    catalog = Catalog(place.data_dir)
    with Store(place.folder).reading():  # what is open need not be opened again by each question
        _assert_all_rows_are_there(catalog, maps, words=words)
    snapshot = catalog.snapshot()
    assert json.loads((snapshot / "manifest.json").read_text())["rows"]["files"] == N_IMAGES


def _assert_all_rows_are_there(catalog: Catalog, maps: Bunch, *, words: bool) -> None:
    assert catalog.sql("SELECT state, count(*) FROM files GROUP BY ALL").fetchall() == [("present", N_IMAGES)]
    assert catalog.sql("SELECT count(*) FROM images").fetchall() == [(N_IMAGES,)]
    n_words = catalog.sql("SELECT count(*) FROM words").fetchall()
    if words:
        assert n_words == [(N_IMAGES * len(WORDS),)]
        assert maps.word_frequencies.shape == (N_IMAGES, len(WORDS))


def tell_how_it_starts(to_parent: Connection) -> None:
    heavy = ("stopping", "killing", "dying", "nvcatalog.call", "nvcatalog.sync", "pandas", "pyarrow.dataset")
    to_parent.send(([name for name in heavy if name not in sys.modules], dict(os.environ)))


def test_a_process_starts_with_everything_imported_and_in_the_environment_of_its_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value in ("one", "another"):  # the server that forks them is older than the second
        monkeypatch.setenv("NVCATALOG_CONTACT", value)
        from_child, to_parent = pipe()
        start(tell_how_it_starts, to_parent).join()
        assert from_child.recv() == ([], dict(os.environ))


@pytest.mark.parametrize("number", range(KILLS))
def test_the_call_after_a_kill_asks_for_what_was_not_here_and_nothing_else(
    place: Place, durations_s: dict[bool, float], number: int
) -> None:
    words = number % 4 == 3
    share = (number + random.Random(SEED + number).random()) / KILLS
    moment_s = share * durations_s[words]
    while not kill_at(place, moment_s, words=words):
        # It was quicker than the one that was measured.
        moment_s *= 0.7
        place.data_dir /= "again"
    print(f"seed {SEED}, killed after {moment_s:.3f} s with {len(place.images)} images in place")
    fetch_the_rest(place, words=words)


def test_a_call_killed_again_and_again_loses_nothing_in_between(
    place: Place, durations_s: dict[bool, float]
) -> None:
    before: set[int] = set()
    for _ in range(4):
        kill_at(place, durations_s[False] / 4, words=False)
        assert_consistent(place)
        assert place.images >= before
        before = place.images
    fetch_the_rest(place, words=False)


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param(".catalog.duckdb.*", id="makes-the-catalog"),
        pytest.param("catalog.duckdb.wal", id="lands-rows"),
        pytest.param("snapshots/.*.part", id="writes-the-snapshot"),
        pytest.param("collection_*/.image_*.nii.gz.*.part", id="writes-an-image"),
    ],
)
def test_a_call_may_be_killed_while_it(place: Place, sign: str) -> None:
    for attempt in range(40):
        place.data_dir /= str(attempt)
        doomed = Doomed(place, words=False)
        if doomed.kill_where(lambda: any(place.folder.glob(sign))) and any(place.folder.glob(sign)):
            break
    else:
        pytest.fail(f"{sign} was never there at the moment of the kill")
    fetch_the_rest(place, words=False)


def test_ctrl_c_ends_a_call_at_once_and_keeps_what_had_arrived(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Undisturbed, this call would take minutes longer than it is given after the interrupt.
    slow = place.server.fail("/media/*", faults.slow(SLOW_S), after=10)
    call = f"fetch_neurovault_ids({COLLECTION}, data_dir={str(place.data_dir)!r}, verbose=0)"
    environment = os.environ | {"NVCATALOG_CONTACT": DOOMED}
    command = [sys.executable, "-c", f"from nvcatalog import fetch_neurovault_ids; {call}"]
    with started(command, env=environment, stderr=subprocess.PIPE) as process:
        wait_until(lambda: process.poll() is not None or len(place.images) >= 10)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=N_IMAGES / 6 * SLOW_S / 2)

    assert process.returncode == -signal.SIGINT
    assert complaint.splitlines()[-1] == "KeyboardInterrupt"
    assert 10 <= len(place.images) < N_IMAGES
    # Files renamed in the last moment may be without a row: the next call takes them over.
    landed = {image_id for (image_id,) in Catalog(place.data_dir).sql("SELECT image_id FROM files").fetchall()}
    assert landed
    assert landed <= place.images
    assert not list(place.folder.glob("collection_*/.*.part"))

    slow.remove()
    fetch_the_rest(place, words=False)


@pytest.mark.parametrize("silent", ["/api/collections/*/images/", "/media/*", "/api/decode/*"])
def test_ctrl_c_waits_for_no_silent_server(place: Place, silent: str) -> None:
    muted = place.server.fail(silent, faults.slow(3 * PATIENCE_S))
    request = f"{COLLECTION}, data_dir={str(place.data_dir)!r}, fetch_neurosynth_words=True"
    call = f"fetch_neurovault_ids({request}, verbose=0, timeout={3 * PATIENCE_S})"
    environment = os.environ | {"NVCATALOG_CONTACT": DOOMED}
    command = [sys.executable, "-c", f"from nvcatalog import fetch_neurovault_ids; {call}"]
    with started(command, env=environment, stderr=subprocess.PIPE) as process:
        wait_until(lambda: process.poll() is not None or place.server.hits(silent))
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=PATIENCE_S)

    assert complaint.splitlines()[-1] == "KeyboardInterrupt"
    muted.remove()
    fetch_the_rest(place, words=True)
