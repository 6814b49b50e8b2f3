"""Databases in memory, an empty catalog's file, and what is done in the background for whoever needs one."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest
from waiting import PATIENCE_S, wait_until

from nvcatalog import _background, _blank, _instances
from nvcatalog._batch import Batch
from nvcatalog._instances import Instance
from nvcatalog._store import Store

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells what is open here")


def put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be no more threads, as while Python ends."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.fixture(autouse=True)
def nothing_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with nothing that other tests have left."""
    monkeypatch.setattr(_instances, "_ready", [])
    monkeypatch.setattr(_instances, "_was_asked", False)
    monkeypatch.setattr(_blank, "_made", {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A catalog."""
    _blank.write(tmp_path / "catalog.duckdb")
    return tmp_path / "catalog.duckdb"


def is_closed(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a connection can be used no more."""
    try:
        connection.execute("SELECT 1")
    except duckdb.Error:
        return True
    return False


def is_open(file: Path) -> bool:
    """Whether this process has a file open."""
    return any(link.is_symlink() and link.readlink() == file for link in Path("/proc/self/fd").iterdir())


# One that is ready


def test_one_is_used_again_and_again(file: Path) -> None:
    used = set()
    for _ in range(5):
        with Instance() as instance:
            used.add(id(instance.connection))
            instance.attach(file, read_only=True)
            instance.spill_to(file.parent)
            assert instance.connection.execute("SELECT count(*) FROM images").fetchall() == [(0,)]
    assert len(used) == 1


def test_of_two_at_a_time_one_is_kept(file: Path) -> None:
    with Instance() as one, Instance() as other:
        assert one.connection is not other.connection
        one.attach(file, read_only=True)
        other.create(file.with_name("other"))
    wait_until(lambda: is_closed(one.connection))
    assert _instances._ready == [other.connection]


@pytest.mark.parametrize("spoil", [Instance.fence, Instance.put_off_checkpoints])
def test_one_that_is_no_longer_as_new_gives_way_to_another(file: Path, spoil: Callable[[Instance], None]) -> None:
    for asks_again in (False, True):
        with Instance() as instance:
            instance.attach(file, read_only=True)
            spoil(instance)
            spoil(instance)
        _background.in_background(lambda: None)
        wait_until(lambda: is_closed(instance.connection))
        if asks_again:  # who asks once may never ask again
            wait_until(lambda: _instances._ready)
    assert instance.connection not in _instances._ready


def test_what_ends_in_an_error_is_not_used_again(file: Path) -> None:
    with suppress(KeyError), Instance() as instance:
        instance.attach(file, read_only=False)
        instance.connection.begin()
        raise KeyError
    assert not _instances._ready
    assert not is_open(file)


@needs_proc
def test_a_file_is_closed_at_once_and_its_database_when_there_is_time(file: Path) -> None:
    with _background._at_work:  # somebody has the background to themselves
        instance = Instance()
        instance.attach(file, read_only=False)
        assert is_open(file)
        instance.fence()
        instance.close()
        assert not is_open(file)
        assert not is_closed(instance.connection)
    _background.in_background(lambda: None)
    wait_until(lambda: is_closed(instance.connection))


def test_where_there_can_be_no_more_threads_everything_is_done_at_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_off(monkeypatch)
    for _ in range(2):
        instance = Instance()
        instance.attach(file, read_only=True)
        instance.fence()
        instance.close()
        assert is_closed(instance.connection)
    assert not _instances._ready
    assert not _background._jobs


@needs_proc
def test_a_file_that_cannot_be_closed_in_order_is_closed_all_the_same(file: Path) -> None:
    instance = Instance()
    instance.attach(file, read_only=False)
    instance.connection.begin()
    with pytest.raises(duckdb.Error):
        instance.connection.execute("SELECT nonsense")  # the transaction is aborted, and nothing goes on in it
    instance.close()
    assert not is_open(file)


def test_what_was_landed_leaves_nothing_in_it(tmp_path: Path) -> None:
    store, batch = Store(tmp_path), Batch()
    batch.add_record("collection", {"id": 1, "name": "a name"})
    assert store.land(batch) == []
    [ready] = _instances._ready
    assert ready.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall() == []


# An empty catalog


def test_an_empty_catalog_that_is_written_down_is_as_one_that_is_made(tmp_path: Path) -> None:
    made, written = tmp_path / "made", tmp_path / "written"
    _blank.write(made)
    _blank.write(written)
    assert made.read_bytes() == written.read_bytes()


def test_each_new_catalog_says_when_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _blank.get_ready()
    wait_until(lambda: _blank._made)
    monkeypatch.setattr(_blank, "_make", lambda path: pytest.fail("one is there"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        store = Store(tmp_path / name)
        with store.writing() as connection:
            connection.execute("INSERT INTO catalog_info VALUES ('which', $name)", {"name": name})
        with store.reading() as connection:
            info = dict(connection.execute("SELECT key, value FROM catalog_info").fetchall())
        assert info["which"] == name
        assert info["created_at"].startswith("20")


def test_where_none_can_be_made_beforehand_it_is_made_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    _blank._make_somewhere()
    assert not _blank._made
    _blank.write(tmp_path / "catalog.duckdb")
    with Instance() as instance:
        instance.attach(tmp_path / "catalog.duckdb", read_only=True)
        assert instance.connection.execute("SELECT count(*) FROM images").fetchall() == [(0,)]


# Forks, and the end


def count(folder: Path) -> int:
    """Leave one to be closed, and one that is ready."""
    store = Store(folder)
    for fenced in (True, False, True, False):
        with store.reading(fenced=fenced) as connection:
            [(rows,)] = connection.execute("SELECT count(*) FROM images").fetchall()
    return int(rows)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_fork_takes_nothing_along(file: Path) -> None:
    count(file.parent)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(count, [file.parent] * 4) == [0] * 4
    assert count(file.parent) == 0


ENDS = """
import atexit, sys
from pathlib import Path
from nvcatalog._store import Store
store = Store(Path(sys.argv[1]))
def ask():
    for _ in range(3):
        with store.reading() as connection:
            connection.execute("SELECT 1").fetchall()
ask()
atexit.register(ask)
"""


def test_a_process_that_asks_to_its_end_ends_well(file: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", ENDS, str(file.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
