"""The catalog's file: opened for moments, by one writer or many readers, whole whatever happens around it."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from filelock import FileLock
from waiting import PATIENCE_S, wait_until

from nvcatalog import Catalog, _gate, _locks
from nvcatalog._batch import Batch, Listing, Words
from nvcatalog._store import LOCK_NAME, Store
from nvcatalog.errors import (
    CatalogCorruptError,
    CatalogLockedError,
    CatalogTooNewError,
    DataDirError,
    InvalidOptionError,
    NoSpaceError,
    QueryError,
)
from nvcatalog.known import Refusal
from nvcatalog.migrate import Migration, load_migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATER = Migration(len(load_migrations()) + 1, "add_mood", "ALTER TABLE images ADD COLUMN mood VARCHAR")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a folder's store; there is no catalog yet."""
    folder = tmp_path / "data" / "neurovault"
    folder.mkdir(parents=True)
    return Store(folder)


@pytest.fixture(scope="module")
def two_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalog of collection 7 with two images, one of them with terms; made once, for copies."""
    store = Store(tmp_path_factory.mktemp("two_images"))
    store.land(batch_of(records=[image(1), image(2)], words={1: Words({"pain": 0.5, "motor": 0.0}, "terms_20k")}))
    return store.path


@pytest.fixture
def filled(store: Store, two_images: Path) -> Store:
    """Return a store that knows two images, one of them with terms."""
    shutil.copy(two_images, store.path)
    (store.folder / LOCK_NAME).touch()
    return store


def image(id_: int, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "collection_id": 7, "name": f"image {id_}"} | fields


def batch_of(
    *,
    records: list[dict[str, Any]] | None = None,
    collections: list[dict[str, Any]] | None = None,
    words: dict[int, Words] | None = None,
    source: str = "api",
) -> Batch:
    batch = Batch(words=words or {})
    for record in collections or []:
        batch.add_record("collection", record, source=source)
    for record in records or []:
        batch.add_record("image", record, source=source)
    return batch


def listing(*image_ids: int, collection: int = 7, complete: bool = True) -> Listing:
    return Listing(collection, datetime.now(UTC), len(image_ids), complete, frozenset(image_ids))


def refusal(kind: str, id_: int, position: int | None = None, **fields: Any) -> Refusal:
    values: dict[str, Any] = {"status": "not_found", "reason": "HTTP 404", "modify_date": None}
    return Refusal(kind=kind, id=id_, position=position, seen_at=datetime.now(UTC), **(values | fields))


def ask(store: Store, query: str) -> list[tuple[Any, ...]]:
    with store.reading() as connection:
        return connection.execute(query).fetchall()


def tell(store: Store, statement: str) -> None:
    with store.writing() as connection:
        connection.execute(statement)


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options)


HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read only")
print("open", flush=True)
sys.stdin.read()
"""
WRITE = """
import sys
from pathlib import Path
from nvcatalog._store import Store
with Store(Path(sys.argv[1]).parent).writing() as connection:
    print("open", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(store: Store, *, script: str = HOLD, how: str = "writable") -> Iterator[subprocess.Popen[str]]:
    """Keep the catalog open in another process until its standard input is closed."""
    command = [sys.executable, "-c", script, str(store.path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "open\n"
        yield process
        process.stdin.close()


def let_go_soon(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    threading.Timer(0.3, process.stdin.close).start()


def in_forked_child(work: Callable[[], object]) -> str:
    """Do work in a forked child, and return "fine" or what went wrong there."""
    reading_end, writing_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 advises against what is tested here
        child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE_S))  # a child that hangs ends, and its silence is the finding
        try:
            work()
            os.write(writing_end, b"fine")
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(writing_end, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing_end)
    with os.fdopen(reading_end) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


# A new catalog


@pytest.mark.usefixtures("migrations_run")
def test_a_new_catalog_has_its_tables_and_knows_when_it_was_made(store: Store) -> None:
    tell(store, "SELECT 1")

    assert ("images",) in ask(store, "SHOW TABLES")
    [(created_at,)] = ask(store, "SELECT value FROM catalog_info WHERE key = 'created_at'")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(created_at)) < timedelta(minutes=5)


def test_nothing_but_the_catalog_and_its_lock_is_left_in_the_folder(filled: Store) -> None:
    ask(filled, "SELECT name FROM images ORDER BY name")

    assert {path.name for path in filled.folder.iterdir()} == {"catalog.duckdb", "catalog.lock"}


def test_older_tools_can_open_the_file_after_years_of_writing(filled: Store) -> None:
    tell(filled, "CREATE OR REPLACE TEMP TABLE t AS SELECT 1")
    filled.land(batch_of(records=[image(n, name="x" * 500) for n in range(1, 2000)]))

    header = filled.path.read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    assert struct.unpack("<Q", header[12:20]) == (64,)  # what DuckDB 1.0 wrote
    # Whole row groups are written anew at a checkpoint: none may need a newer version.
    with duckdb.connect(str(filled.path), read_only=True) as connection:
        tags = connection.sql("SELECT tags FROM duckdb_databases() WHERE database_name = 'catalog'").fetchall()
    assert "v1.0.0" in str(tags)


@pytest.mark.usefixtures("migrations_run")
def test_a_catalog_that_was_killed_while_it_was_made_is_not_there(store: Store) -> None:
    killed = python(
        """
        import os, signal, sys
        from pathlib import Path
        from nvcatalog import _blank, _store
        def migrate_and_die(connection):
            migrate(connection)
            os.kill(os.getpid(), signal.SIGKILL)
        migrate, _blank.migrate = _blank.migrate, migrate_and_die
        with _store.Store(Path(sys.argv[1])).writing():
            pass
        """.replace("\n        ", "\n"),
        store.folder,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not store.exists
    assert len(list(store.folder.iterdir())) > 1, "the kill came too early to leave anything"

    store.land(batch_of(records=[image(1)]))

    assert ask(store, "SELECT image_id FROM images") == [(1,)]
    assert {path.name for path in store.folder.iterdir()} == {"catalog.duckdb", "catalog.lock"}


@pytest.mark.usefixtures("migrations_run")
def test_the_log_of_a_catalog_that_was_moved_away_does_not_reach_the_new_one(filled: Store) -> None:
    die_with_a_log(filled)
    filled.path.rename(filled.folder / "catalog.duckdb.broken")

    filled.land(batch_of(records=[image(5)]))

    assert ask(filled, "SELECT image_id FROM images") == [(5,)]


@pytest.mark.usefixtures("migrations_run")
def test_a_folder_with_a_quote_in_its_name_is_fine(tmp_path: Path) -> None:
    folder = tmp_path / "O'Brien's data" / "neurovault"
    folder.mkdir(parents=True)
    store = Store(folder)

    store.land(batch_of(records=[image(1)]))

    assert ask(store, "SELECT count(*) FROM images") == [(1,)]


# Nothing stays open


def test_another_process_can_write_right_after_a_read_and_a_write(filled: Store) -> None:
    ask(filled, "SELECT 1")

    done = python("import sys, duckdb; duckdb.connect(sys.argv[1]).execute('DELETE FROM images')", filled.path)

    assert done.returncode == 0, done.stderr
    assert ask(filled, "SELECT count(*) FROM images") == [(0,)]


def test_a_failing_read_and_a_failing_write_leave_nothing_open(filled: Store) -> None:
    with pytest.raises(CatalogCorruptError):
        ask(filled, "SELECT * FROM nowhere")
    with pytest.raises(CatalogCorruptError):
        tell(filled, "INSERT INTO nowhere VALUES (1)")

    done = python("import sys, duckdb; duckdb.connect(sys.argv[1])", filled.path)

    assert done.returncode == 0, done.stderr


def test_times_are_in_utc_whatever_the_machine_thinks(filled: Store) -> None:
    script = """
import sys
from nvcatalog import Catalog
print(Catalog(sys.argv[1]).sql("SELECT current_setting('TimeZone'), TIMESTAMPTZ '2020-01-01 00:00:00+00'::VARCHAR")
      .fetchall())
"""
    done = python(script, filled.folder.parent, env=os.environ | {"TZ": "America/New_York"})

    assert done.stdout.strip() == "[('UTC', '2020-01-01 00:00:00+00')]", done.stderr


# Somebody else has it


@pytest.mark.parametrize("script", [HOLD, WRITE], ids=["another tool", "another nvcatalog"])
def test_a_reader_and_a_writer_wait_until_a_writer_elsewhere_is_done(filled: Store, script: str) -> None:
    with held_elsewhere(filled, script=script) as process:
        let_go_soon(process)
        assert ask(filled, "SELECT count(*) FROM images") == [(2,)]
    with held_elsewhere(filled, script=script) as process:
        let_go_soon(process)
        filled.land(batch_of(records=[image(3)]))

    assert ask(filled, "SELECT count(*) FROM images") == [(3,)]


@pytest.mark.parametrize("script", [HOLD, WRITE], ids=["another tool", "another nvcatalog"])
def test_who_waits_too_long_for_a_writer_is_told_which_process_it_is(
    filled: Store, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.2")

    with held_elsewhere(filled, script=script) as process:
        host = re.escape(socket.gethostname())
        named = rf"{filled.path} is kept open by process {process.pid} \(.*python.*\) on {host}\."
        with pytest.raises(CatalogLockedError, match=named):
            ask(filled, "SELECT 1")
        with pytest.raises(CatalogLockedError, match=named):
            tell(filled, "SELECT 1")

    assert ask(filled, "SELECT count(*) FROM images") == [(2,)]


def test_a_reader_elsewhere_keeps_only_writers_out(filled: Store) -> None:
    with held_elsewhere(filled, how="read only") as process:
        assert ask(filled, "SELECT count(*) FROM images") == [(2,)]
        with (
            pytest.raises(CatalogLockedError, match=rf"process {process.pid} "),
            filled.writing(timeout_s=0.1),
        ):
            pytest.fail("the file was open elsewhere")


def test_a_call_that_only_waits_is_not_accused_of_anything_else(filled: Store) -> None:
    with (
        FileLock(filled.folder / LOCK_NAME),
        pytest.raises(CatalogLockedError, match=r"another call of nvcatalog that waits itself\. "),
        filled.writing(timeout_s=0.1),
    ):
        pytest.fail("the lock file was held")


def test_who_holds_the_lock_file_is_named_on_whatever_host_it_is(filled: Store) -> None:
    with FileLock(filled.folder / LOCK_NAME):
        _locks.sign(filled.folder / LOCK_NAME)
        who = rf"waits itself, process {os.getpid()} on {re.escape(socket.gethostname())}\. "
        with pytest.raises(CatalogLockedError, match=who), filled.writing(timeout_s=0.1):
            pytest.fail("the lock file was held")


def test_a_connection_of_the_users_own_in_this_process_is_waited_for(filled: Store) -> None:
    own = duckdb.connect(str(filled.path))
    with pytest.raises(duckdb.ConnectionException, match="different configuration"):
        duckdb.connect(str(filled.path), read_only=True)
    threading.Timer(0.3, own.close).start()

    assert ask(filled, "SELECT count(*) FROM images") == [(2,)]


def test_who_keeps_a_connection_of_their_own_too_long_is_told_that_it_is_theirs(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.1")
    named = (
        rf"{filled.path} is kept open by this Python process itself, through a connection of its own\. Close it"
    )

    with duckdb.connect(str(filled.path)):
        with pytest.raises(CatalogLockedError, match=named):
            ask(filled, "SELECT 1")
        with pytest.raises(CatalogLockedError, match=named):
            tell(filled, "SELECT 1")

    assert ask(filled, "SELECT count(*) FROM images") == [(2,)]


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1e9"])
def test_a_lock_timeout_that_is_no_number_of_seconds_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", text)

    with pytest.raises(InvalidOptionError, match=f"NVCATALOG_LOCK_TIMEOUT is '{text}'; give seconds"):
        _locks.lock_timeout_s()


def test_the_lock_timeout_is_a_minute_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _locks.lock_timeout_s() == 60
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", " 2.5 ")
    assert _locks.lock_timeout_s() == 2.5


# Threads


def test_eight_threads_that_read_and_write_at_once_lose_nothing(filled: Store) -> None:
    def work(thread: int) -> list[int]:
        seen = []
        for turn in range(3):
            own = Store(filled.folder)
            own.land(batch_of(records=[image(1000 + thread * 100 + turn)]))
            seen.append(ask(own, f"SELECT count(*) FROM images WHERE image_id // 100 = {10 + thread}")[0][0])
            own.known([7], [1, 1000 + thread * 100])
        return seen

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(work, range(8)))

    assert seen == [[1, 2, 3]] * 8, "a thread did not see what it had just landed"
    assert ask(filled, "SELECT count(*) FROM images") == [(2 + 24,)]
    assert ask(filled, "SELECT count(*) FROM raw_records") == [(2 + 24,)]


def test_a_read_within_a_read_sees_the_same_catalog_even_while_a_writer_waits(filled: Store) -> None:
    landed = threading.Event()

    def write() -> None:
        filled.land(batch_of(records=[image(3)]))
        landed.set()

    with filled.reading() as outer:
        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: filled._gate._waiting_writers)
        assert ask(filled, "SELECT count(*) FROM images") == [(2,)]
        assert outer.execute("SELECT count(*) FROM images").fetchall() == [(2,)]
        assert not landed.is_set()
    writer.join()

    assert ask(filled, "SELECT count(*) FROM images") == [(3,)]


def test_two_readers_do_not_see_each_others_temporary_tables(filled: Store) -> None:
    with filled.reading() as one, filled.reading() as other:
        one.execute("CREATE TEMP TABLE mine AS SELECT 1")
        with pytest.raises(duckdb.CatalogException):
            other.execute("SELECT * FROM mine")


def test_a_thread_that_holds_the_catalog_too_long_is_named_as_such(filled: Store) -> None:
    inside, leave = threading.Event(), threading.Event()

    def write() -> None:
        with filled.writing():
            inside.set()
            leave.wait(PATIENCE_S)

    writer = threading.Thread(target=write)
    writer.start()
    assert inside.wait(PATIENCE_S)
    try:
        with (
            pytest.raises(CatalogLockedError, match="another thread of this process has had it open"),
            filled.writing(timeout_s=0.1),
        ):
            pytest.fail("two writers at once")
    finally:
        leave.set()
        writer.join()


# Forks


def test_a_child_forked_while_threads_read_and_write_can_do_both_and_no_row_is_lost(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gate, "_FORK_PATIENCE_S", PATIENCE_S)
    stop = threading.Event()
    landed: list[int] = []

    def write() -> None:
        while not stop.is_set():
            filled.land(batch_of(records=[image(10_000 + len(landed))]))
            landed.append(1)
            stop.wait(0.1)  # the lock file is no queue: who hardly pauses keeps others out for seconds

    def read() -> None:
        while not stop.is_set():
            ask(filled, "SELECT count(*) FROM images")
            stop.wait(0.02)

    def work_in_child(number: int) -> None:
        assert ask(filled, "SELECT count(*) FROM images WHERE image_id = 1") == [(1,)]
        filled.land(batch_of(records=[image(100 + number)]))  # a store made before the fork
        Store(filled.folder).land(batch_of(records=[image(200 + number)]))
        assert ask(filled, f"SELECT count(*) FROM images WHERE image_id % 100 = {number}") >= [(2,)]

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: landed)
        said = [in_forked_child(lambda number=number: work_in_child(number)) for number in range(3, 5)]  # type: ignore[misc]  # a lambda with a default
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert said == ["fine"] * 2
    assert ask(filled, "SELECT count(*) FROM images WHERE image_id BETWEEN 100 AND 299") == [(4,)]
    assert ask(filled, "SELECT count(*) FROM images WHERE image_id >= 10000") == [(len(landed),)]


def test_a_child_forked_by_the_thread_that_reads_refuses_to_touch_the_catalog(filled: Store) -> None:
    with filled.reading() as connection:
        said = in_forked_child(lambda: ask(filled, "SELECT 1"))
        wrote = in_forked_child(lambda: tell(filled, "SELECT 1"))
        assert connection.execute("SELECT count(*) FROM images").fetchall() == [(2,)]

    assert "CatalogLockedError" in said
    assert "'spawn' or 'forkserver'" in said
    assert said == wrote
    assert in_forked_child(lambda: ask(filled, "SELECT 1")) == "fine"


def test_a_fork_does_not_wait_for_ever_for_a_long_read(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gate, "_FORK_PATIENCE_S", 0.05)
    inside, leave = threading.Event(), threading.Event()

    def read() -> None:
        with filled.reading():
            inside.set()
            leave.wait(PATIENCE_S)

    reader = threading.Thread(target=read)
    reader.start()
    assert inside.wait(PATIENCE_S)
    try:
        said = in_forked_child(lambda: ask(filled, "SELECT 1"))
    finally:
        leave.set()
        reader.join()

    assert "CatalogLockedError" in said
    filled.land(batch_of(records=[image(3)]))
    assert in_forked_child(lambda: ask(filled, "SELECT 1")) == "fine"


# What lands


def test_all_that_landed_is_known_afterwards(store: Store) -> None:
    batch = batch_of(collections=[{"id": 7, "name": "seven"}], records=[image(1), image(2)])
    batch.words = {1: Words({"pain": 0.5}, None)}
    batch.listings.append(listing(1, 2))
    batch.add_refusal(refusal("image", 9, status="private"))
    batch.add("catalog_info", {"key": "server_root", "value": "https://neurovault.org"})
    store.land(batch)

    known = store.known([7], [9])

    assert sorted(known.images) == [1, 2]
    assert known.images[1].record == image(1)
    assert known.collections[7].record == {"id": 7, "name": "seven"}
    assert (known.collections[7].complete, known.collections[7].listed_count) == (True, 2)
    assert known.with_words == {1}
    assert known.refusals["image", 9].status == "private"
    assert known.server_root == "https://neurovault.org"


def test_of_several_rows_with_one_key_the_last_wins(store: Store) -> None:
    assert store.land(batch_of(records=[image(1, name="first"), image(2), image(1, name="last")])) == []

    assert ask(store, "SELECT image_id, name FROM images ORDER BY ALL") == [(1, "last"), (2, "image 2")]
    assert ask(store, "SELECT count(*) FROM record_history") == [(0,)]


def test_rows_with_different_columns_land_together(store: Store) -> None:
    batch = Batch()
    batch.add("images", {"image_id": 1, "name": "one"})
    batch.add("images", {"image_id": 2, "file_size": 3})

    assert store.land(batch) == []

    rows = ask(store, "SELECT image_id, name, file_size FROM images ORDER BY 1")
    assert rows == [(1, "one", None), (2, None, 3)]


BAD_ROWS = {
    "a value of another type": ("images", {"image_id": 13, "name": 5}, "images: image_id 13"),
    "a number too large": ("images", {"image_id": 13, "file_size": 2**70}, "images: image_id 13"),
    "an id that is none": ("files", {"image_id": "x", "kind": "original"}, "files: image_id x, kind original"),
    "half a character": ("images", {"image_id": 13, "name": "\ud800"}, "images: image_id 13"),
    "no JSON": ("raw_records", {"kind": "image", "id": 13, "raw": "{"}, "raw_records: kind image, id 13"),
    "nothing": ("raw_records", {"kind": "image", "id": 13, "raw": None}, "raw_records: kind image, id 13"),
    "no column": ("images", {"image_id": 13, "colour": "red"}, "images: image_id 13"),
}


@pytest.mark.parametrize(("table", "row", "named"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_one_bad_row_costs_only_itself_and_is_named(
    store: Store, table: str, row: dict[str, Any], named: str
) -> None:
    batch = batch_of(records=[image(n) for n in range(1, 11)], words={1: Words({"pain": 0.5}, None)})
    batch.tables.setdefault(table, []).insert(3, row)

    [culprit] = store.land(batch)

    assert culprit.startswith(f"{named} could not land: ")
    assert ask(store, "SELECT count(*) FROM images") == [(10,)]
    assert ask(store, "SELECT count(*) FROM raw_records") == [(10,)]
    assert ask(store, "SELECT count(*) FROM words") == [(1,)]


def test_terms_that_do_not_fit_cost_only_their_image(store: Store) -> None:
    words = {1: Words({"pain": 0.5}, None), 2: Words({"pain": "strong"}, None), 3: Words({"pain": 0.25}, None)}  # type: ignore[dict-item]  # what a server might answer

    [culprit] = store.land(Batch(words=words))

    assert culprit.startswith("words: image_id 2 could not land: ")
    assert ask(store, "SELECT image_id, weight FROM words ORDER BY 1") == [(1, 0.5), (3, 0.25)]
    assert ask(store, "SELECT image_id FROM words_status ORDER BY 1") == [(1,), (3,)]


def test_a_list_that_lost_a_record_does_not_count_as_read_to_the_end(store: Store) -> None:
    batch = batch_of(collections=[{"id": 7}], records=[image(1)])
    batch.add("images", {"image_id": 2, "name": 5})
    batch.listings.append(listing(1, 2))

    assert len(store.land(batch)) == 1

    assert not store.known([7], []).collections[7].complete


def test_a_whole_list_that_loses_a_record_when_it_is_read_again_no_longer_counts_as_whole(store: Store) -> None:
    batch = batch_of(collections=[{"id": 7}], records=[image(1)])
    batch.listings.append(listing(1))
    store.land(batch)
    assert store.known([7], []).collections[7].complete
    again = batch_of(records=[image(1)])
    again.add("images", {"image_id": 2, "name": 5})
    again.listings.append(listing(1, 2))

    assert len(store.land(again)) == 1

    assert not store.known([7], []).collections[7].complete


def test_beside_a_bad_row_new_refusals_still_take_the_place_of_old_ones(store: Store) -> None:
    store.land(batch_with_refusals(refusal("position", 7, 3)))
    batch = batch_with_refusals(refusal("position", 7, 5))
    batch.healed.add(("position", 7))
    batch.add("images", {"image_id": 1, "name": 5})

    assert len(store.land(batch)) == 1

    assert ask(store, "SELECT position FROM refusals") == [(5,)]


def batch_with_refusals(*refusals: Refusal) -> Batch:
    batch = Batch()
    for each in refusals:
        batch.add_refusal(each)
    return batch


def test_an_empty_batch_makes_no_catalog(store: Store) -> None:
    assert store.land(Batch()) == []
    assert not store.exists


# History


def test_what_a_record_said_before_the_server_changed_it_is_kept(filled: Store) -> None:
    filled.land(batch_of(records=[image(1, name="renamed")]))

    [(kind, id_, raw, in_order)] = ask(
        filled, "SELECT kind, id, raw, fetched_at < replaced_at FROM record_history"
    )
    assert (kind, id_, json.loads(raw), in_order) == ("image", 1, image(1), True)
    assert ask(filled, "SELECT name FROM images WHERE image_id = 1") == [("renamed",)]


def test_an_equal_record_makes_no_history(filled: Store) -> None:
    filled.land(batch_of(records=[image(1), image(2)]))

    assert ask(filled, "SELECT count(*) FROM record_history") == [(0,)]


def test_a_sidecar_is_not_the_servers_word_and_makes_no_history(store: Store) -> None:
    store.land(batch_of(records=[image(1, name="as nilearn wrote it")], source="sidecar"))
    store.land(batch_of(records=[image(1)]))

    assert ask(store, "SELECT count(*) FROM record_history") == [(0,)]
    assert ask(store, "SELECT source FROM raw_records") == [("api",)]


# Lists, and what is gone


def test_a_fresh_record_of_a_collection_does_not_forget_its_list(store: Store) -> None:
    batch = batch_of(collections=[{"id": 7, "name": "before"}, {"id": 8}], records=[image(1)])
    batch.listings.append(listing(1))
    store.land(batch)

    store.land(batch_of(collections=[{"id": 7, "name": "after"}, {"id": 9}]))

    rows = ask(store, "SELECT collection_id, name, complete, listed_count FROM collections ORDER BY 1")
    assert rows == [(7, "after", True, 1), (8, None, None, None), (9, None, None, None)]


def test_an_image_that_a_whole_list_lacks_is_gone_until_it_comes_back(store: Store) -> None:
    batch = batch_of(collections=[{"id": 7}], records=[image(1), image(2), image(99, collection_id=8)])
    batch.listings.append(listing(1, 2))
    store.land(batch)
    gone = "SELECT image_id FROM images WHERE gone_at IS NOT NULL"

    store.land(Batch(listings=[listing(1, complete=False)]))
    assert ask(store, gone) == []
    store.land(Batch(listings=[listing(1)]))
    assert ask(store, gone) == [(2,)]
    assert [id_ for id_, known in store.known([7], [99]).images.items() if known.gone] == [2]

    store.land(batch_of(records=[image(2)]))
    assert ask(store, gone) == []


def test_an_image_that_was_read_after_the_list_is_not_gone_for_not_being_in_it(store: Store) -> None:
    batch = batch_of(collections=[{"id": 7}], records=[image(1)])
    batch.listings.append(listing(1))
    batch.add_record("image", image(2))  # by its own address: the list was already read

    store.land(batch)

    assert ask(store, "SELECT image_id FROM images WHERE gone_at IS NULL ORDER BY 1") == [(1,), (2,)]


def test_many_lists_land_together_each_with_what_it_lacks(store: Store) -> None:
    collections = [{"id": id_} for id_ in (7, 8, 9)]
    records = [image(1), image(2), image(3, collection_id=8), image(4, collection_id=8), image(5, collection_id=9)]
    store.land(batch_of(collections=collections, records=records))
    lists = [listing(1), listing(4, collection=8), listing(collection=9, complete=False)]
    store.land(Batch(listings=lists))

    assert ask(store, "SELECT image_id FROM images WHERE gone_at IS NOT NULL ORDER BY ALL") == [(2,), (3,)]
    assert ask(store, "SELECT collection_id, listed_count, complete FROM collections ORDER BY ALL") == [
        (7, 1, True),
        (8, 1, True),
        (9, 0, False),
    ]


def test_of_two_lists_of_one_collection_the_last_counts(store: Store) -> None:
    batch = batch_of(collections=[{"id": 7}], records=[image(1), image(2)])
    store.land(batch.followed_by(Batch(listings=[listing(1, complete=False), listing(1, 2)])))
    assert ask(store, "SELECT listed_count, complete FROM collections") == [(2, True)]
    assert ask(store, "SELECT count(*) FROM images WHERE gone_at IS NOT NULL") == [(0,)]


def test_a_collection_that_is_gone_takes_its_images_along_until_it_comes_back(store: Store) -> None:
    batch = batch_of(collections=[{"id": 7}, {"id": 8}], records=[image(1), image(2, collection_id=8)])
    batch.listings.append(listing(1))
    store.land(batch)
    buried = Batch()
    buried.bury(7)
    assert len(buried) == 1
    store.land(buried)

    gone = "SELECT collection_id FROM collections WHERE gone_at IS NOT NULL"
    assert ask(store, gone) == [(7,)]
    assert ask(store, "SELECT image_id FROM images WHERE gone_at IS NOT NULL") == [(1,)]
    # Whoever sees it come back must read its list.
    assert ask(store, "SELECT complete, listed_modify_date IS NULL FROM collections WHERE collection_id = 7") == [
        (False, True)
    ]
    store.land(buried.followed_by(batch_of(collections=[{"id": 7}], records=[image(1)])))
    assert ask(store, gone) == []
    assert ask(store, "SELECT image_id FROM images WHERE gone_at IS NOT NULL") == []


def test_one_of_many_batches_stays_in_the_log_and_is_read_and_written_on_from_there(store: Store) -> None:
    store.land(batch_of(records=[image(1)]))
    size = store.path.stat().st_size
    log = store.path.with_name("catalog.duckdb.wal")
    for id_ in (2, 3):
        store.land_one_of_many(batch_of(records=[image(id_)]))
        assert log.stat().st_size > 0
        assert store.path.stat().st_size == size
        assert ask(store, "SELECT count(*) FROM images") == [(id_,)]
    store.land(batch_of(records=[image(4)]))
    assert not log.exists()
    assert ask(store, "SELECT count(*) FROM images") == [(4,)]


def test_a_log_that_is_large_is_put_into_the_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvcatalog._store._LARGEST_LOG", 1)
    store.land(batch_of(records=[image(1)]))
    store.land_one_of_many(batch_of(records=[image(2)]))
    log = store.path.with_name("catalog.duckdb.wal")
    assert log.exists()
    store.land_one_of_many(batch_of(records=[image(3)]))
    assert not log.exists()


def test_a_list_that_does_not_name_all_images_leaves_none_gone(store: Store) -> None:
    store.land(batch_of(collections=[{"id": 7}], records=[image(1), image(2)]))

    store.land(Batch(listings=[replace(listing(1), names_all=False)]))

    assert ask(store, "SELECT count(*) FROM images WHERE gone_at IS NOT NULL") == [(0,)]
    assert store.known([7], []).collections[7].complete


# What was found in the folder


@pytest.mark.parametrize("first", [True, False], ids=["in the catalog", "in the same batch"])
def test_a_sidecar_never_replaces_what_the_server_said(store: Store, *, first: bool) -> None:
    batch = batch_of(collections=[{"id": 7, "name": "so"}], records=[image(1)])
    if first:
        store.land(batch)
        batch = Batch()
    batch.add_record("collection", {"id": 7, "name": "stale"}, source="sidecar")
    batch.add_record("image", image(1, collection_id=999, name="stale"), source="sidecar")
    batch.add_record("image", image(2, collection_id=999, name="new"), source="sidecar")

    assert store.land(batch) == []

    rows = ask(store, "SELECT image_id, collection_id, name FROM images ORDER BY 1")
    assert rows == [(1, 7, "image 1"), (2, 999, "new")]
    assert ask(store, "SELECT name FROM collections") == [("so",)]
    assert ask(store, "SELECT id, source FROM raw_records ORDER BY ALL") == [
        (1, "api"),
        (2, "sidecar"),
        (7, "api"),
    ]


def test_a_sidecar_replaces_a_sidecar(store: Store) -> None:
    for name in ("before", "after"):
        store.land(batch_of(records=[image(1, name=name)], source="sidecar"))

    assert ask(store, "SELECT name FROM images") == [("after",)]


def test_a_file_that_nobody_proved_replaces_none_and_is_replaced_by_the_proven_one(store: Store) -> None:
    for path, state in (("a", "unverified"), ("b", "unverified"), ("c", "present"), ("d", "unverified")):
        batch = Batch()
        batch.add("files", {"image_id": 1, "kind": "original", "path": path, "state": state})
        store.land(batch)
        if path == "b":
            assert ask(store, "SELECT path FROM files") == [("a",)]

    assert ask(store, "SELECT path, state FROM files") == [("c", "present")]


def test_beside_a_bad_row_a_sidecar_still_gives_way(store: Store) -> None:
    store.land(batch_of(records=[image(1)]))
    batch = batch_of(records=[image(1, name="stale"), image(2)], source="sidecar")
    batch.add("images", {"image_id": 3, "name": 5})

    assert len(store.land(batch)) == 1

    assert ask(store, "SELECT name FROM images ORDER BY image_id") == [("image 1",), ("image 2",)]


# Refusals


def test_a_refusal_replaces_the_former_one_of_its_id_with_or_without_a_place(store: Store) -> None:
    store.land(batch_with_refusals(refusal("image", 9, reason="old"), refusal("position", 7, 3, reason="old")))
    store.land(
        batch_with_refusals(
            refusal("image", 9, reason="new"), refusal("position", 7, 3, reason="new"), refusal("position", 7, 4)
        )
    )

    rows = ask(store, "SELECT kind, id, position, reason FROM refusals ORDER BY ALL")
    assert rows == [("image", 9, None, "new"), ("position", 7, 3, "new"), ("position", 7, 4, "HTTP 404")]


def test_a_healed_refusal_is_forgotten_and_only_that(store: Store) -> None:
    store.land(batch_with_refusals(refusal("image", 9), refusal("words", 9), refusal("image", 10)))

    store.land(Batch(healed={("image", 9)}))

    assert ask(store, "SELECT kind, id FROM refusals ORDER BY ALL") == [("image", 10), ("words", 9)]


def test_what_is_refused_and_then_healed_in_one_batch_is_forgotten(store: Store) -> None:
    batch = batch_with_refusals(refusal("image", 9), refusal("image", 10))
    batch.heal("image", 9)
    batch.heal("position", 7)
    batch.add_refusal(refusal("position", 7, 5))

    store.land(batch)

    assert ask(store, "SELECT kind, id FROM refusals ORDER BY ALL") == [("image", 10), ("position", 7)]


def test_a_refusals_dates_come_back_as_they_were(store: Store) -> None:
    moment = datetime(2021, 3, 4, 5, 6, 7, 891011, UTC)
    store.land(batch_with_refusals(refusal("image", 9, modify_date=moment)))

    assert store.known([], [9]).refusals["image", 9].modify_date == moment


# Words


def test_an_images_new_terms_replace_its_old_ones(filled: Store) -> None:
    filled.land(Batch(words={1: Words({"reward": -0.25}, "terms_20k")}))

    assert ask(filled, "SELECT image_id, term, weight FROM image_words") == [(1, "reward", -0.25)]


def test_zeros_are_kept(filled: Store) -> None:
    words = filled.long_words([1, 2])

    assert sorted(zip(*words.to_pydict().values(), strict=True)) == [(1, "motor", 0.0), (1, "pain", 0.5)]


def test_a_term_keeps_its_number_whatever_comes_later(filled: Store) -> None:
    before = dict(ask(filled, "SELECT term, term_id FROM terms"))

    filled.land(Batch(words={2: Words({"amygdala": 0.1, "pain": 0.2, "zebra": 0.3}, None)}))
    filled.land(Batch(words={1: Words({}, None)}))

    after = dict(ask(filled, "SELECT term, term_id FROM terms"))
    assert after.items() > before.items()
    assert sorted(after.values()) == [1, 2, 3, 4]


def test_terms_that_differ_in_case_or_accent_are_different_terms(store: Store) -> None:
    terms = {"pain": 0.1, "Pain": 0.2, "PAIN": 0.3, "päin": 0.4, "001": 0.5, "true": 0.6, "": 0.7}
    store.land(Batch(words={1: Words(terms, None)}))

    rows = ask(store, "SELECT term, weight FROM image_words")
    assert dict(rows) == terms


# Kills and damage


def die_with_a_log(store: Store) -> None:
    """Let a process land a row and be killed before DuckDB moves it from the log into the file."""
    script = """
import os, signal, sys
from pathlib import Path
from nvcatalog._store import Store
with Store(Path(sys.argv[1])).writing() as connection:
    connection.execute("INSERT INTO images (image_id) VALUES (77)")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = python(script, store.folder)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (store.folder / "catalog.duckdb.wal").exists()


def test_what_a_killed_writer_had_committed_is_read_and_written_on(filled: Store) -> None:
    die_with_a_log(filled)

    assert ask(filled, "SELECT count(*) FROM images WHERE image_id = 77") == [(1,)]
    filled.land(batch_of(records=[image(3)]))
    assert ask(filled, "SELECT count(*) FROM images") == [(4,)]
    assert not (filled.folder / "catalog.duckdb.wal").exists()


def test_a_writer_killed_in_the_middle_of_a_batch_leaves_the_former_catalog(filled: Store) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from nvcatalog import _batch
from nvcatalog._batch import Batch, Words
from nvcatalog._store import Store
_batch._land_words = lambda connection, words: os.kill(os.getpid(), signal.SIGKILL)
batch = Batch(words={1: Words({}, None)})
batch.add("images", {"image_id": 1, "name": "half done"})
Store(Path(sys.argv[1])).land(batch)
"""
    assert python(script, filled.folder).returncode == -signal.SIGKILL

    assert ask(filled, "SELECT name FROM images ORDER BY ALL") == [("image 1",), ("image 2",)]
    filled.land(batch_of(records=[image(3)]))


def test_a_writer_killed_beside_a_bad_row_has_forgotten_nothing_before_what_takes_its_place_is_there(
    store: Store,
) -> None:
    batch = batch_with_refusals(refusal("image", 3))
    batch.add("nidm_packs", {"pack_id": 5, "collection_id": 7, "image_id": 1})
    batch.add("files", {"image_id": 1, "kind": "resampled"})
    store.land(batch)
    script = """
import os, signal, sys
from pathlib import Path
from nvcatalog import _batch
from nvcatalog._batch import Batch
from nvcatalog._store import Store
batch = Batch()
batch.forget_packs(7)
batch.heal("image", 3)
batch.drop_file(1, "resampled")
batch.add("nidm_packs", {"pack_id": 5, "collection_id": 7, "image_id": 2})
batch.add("images", {"image_id": 1, "name": 5})
if len(sys.argv) > 2:
    land_listings, calls = _batch._land_listings, []
    def die_the_second_time(*args):
        calls.append(args)
        os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 2 else land_listings(*args)
    _batch._land_listings = die_the_second_time
assert len(Store(Path(sys.argv[1])).land(batch)) == 1
"""
    state = """
        SELECT
            (SELECT list(image_id) FROM nidm_packs),
            (SELECT count(*) FROM refusals),
            (SELECT count(*) FROM files)
    """

    assert python(script, store.folder, "dies").returncode == -signal.SIGKILL
    assert ask(store, state) == [([1], 1, 1)]
    assert python(script, store.folder).returncode == 0
    assert ask(store, state) == [([2], 0, 0)]


def test_a_file_that_is_no_catalog_is_said_to_be_broken_and_how_to_go_on(filled: Store) -> None:
    filled.path.write_bytes(b"not a database at all" * 1000)
    advice = rf"{filled.path} cannot be read .*nvcatalog rebuild --data-dir '{filled.folder.parent}'"

    for use in (lambda: ask(filled, "SELECT 1"), lambda: tell(filled, "SELECT 1"), lambda: filled.known([7], [])):
        with pytest.raises(CatalogCorruptError, match=advice):
            use()

    filled.path.rename(f"{filled.path}.broken")
    filled.land(batch_of(records=[image(1)]))
    assert ask(filled, "SELECT count(*) FROM images") == [(1,)]


def test_damage_deep_inside_is_said_to_be_damage_whoever_meets_it(filled: Store) -> None:
    names = [f"{n} {random.random()}" * 20 for n in range(3000)]
    filled.land(batch_of(records=[image(n, name=name) for n, name in enumerate(names, 1)]))
    whole = filled.path.read_bytes()
    block = 256 * 1024
    met = []

    for start in range(12288 + block // 2, len(whole), 4 * block):
        damaged = bytearray(whole)
        damaged[start : start + 64] = bytes(64)
        filled.path.write_bytes(damaged)
        for use in (
            lambda: filled.known([7], []),
            lambda: Catalog(filled.folder.parent).sql("SELECT * FROM images JOIN raw_records ON id = image_id"),
            lambda: filled.land(batch_of(records=[image(1)])),
        ):
            try:
                use()
            except CatalogCorruptError as error:
                met.append(str(error))
                break

    assert met, "no damage was met"
    assert all("cannot be read as a catalog" in message for message in met)


def test_a_query_cannot_pretend_that_the_disk_is_full(filled: Store) -> None:
    with pytest.raises(QueryError, match="No space left"):
        Catalog(filled.folder.parent).sql("SELECT error('No space left on device')")


def test_duckdb_prints_nothing_however_long_a_statement_takes(filled: Store) -> None:
    setting = "SELECT value FROM duckdb_settings() WHERE name = 'enable_progress_bar'"
    with filled.writing() as connection:
        assert connection.execute(setting).fetchall() == [("false",)]
    assert ask(filled, setting) == [("false",)]


def test_what_landing_needs_is_imported_before_others_have_to_wait_for_it(filled: Store) -> None:
    script = """
import sys
from pathlib import Path
from nvcatalog import _store
from nvcatalog._batch import Batch
take, before = _store.take, []

def told(*arguments):
    before.extend(sys.modules)
    return take(*arguments)

_store.take = told
batch = Batch()
batch.add_record("image", {"id": 5, "collection_id": 7})
_store.Store(Path(sys.argv[1])).land(batch)
print(sorted({name.split(".")[0] for name in {*sys.modules} - {*before}} & {"pandas", "pyarrow", "numpy"}))
"""
    done = python(script, filled.folder)

    assert done.stdout.strip() == "[]", done.stderr


def test_a_full_disk_is_said_to_be_full_and_what_had_landed_stays(filled: Store) -> None:
    script = """
import resource, sys
from pathlib import Path
from nvcatalog._batch import Batch
from nvcatalog._store import Store
from nvcatalog.errors import NoSpaceError
store = Store(Path(sys.argv[1]))
limit = store.path.stat().st_size + (1 << 20)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
import random
landed = []
try:
    for turn in range(100):
        batch = Batch()
        for number in range(500):
            id_ = 1000 * (turn + 1) + number
            batch.add_record("image", {"id": id_, "collection_id": 7, "name": random.randbytes(500).hex()})
        assert store.land(batch) == []
        landed.append(turn)
except NoSpaceError as error:
    print(len(landed), isinstance(error, OSError), error)
"""
    done = python(script, filled.folder)

    assert done.returncode == 0, done.stderr
    found = re.match(r"(\d+) True (.*could not be written.*Free some space and call again.*)", done.stdout)
    assert found, done.stdout
    assert ask(filled, "SELECT count(*) FROM images") == [(2 + 500 * int(found[1]),)]
    filled.land(batch_of(records=[image(3)]))


@pytest.mark.usefixtures("migrations_run")
def test_no_space_for_a_new_catalog_is_no_catalog(store: Store) -> None:
    script = """
import resource, sys
from pathlib import Path
from nvcatalog._batch import Batch
from nvcatalog._store import Store
from nvcatalog.errors import NoSpaceError
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
batch = Batch()
batch.add("images", {"image_id": 1})
try:
    Store(Path(sys.argv[1])).land(batch)
except NoSpaceError as error:
    print("no space:", error)
"""
    done = python(script, store.folder)

    assert done.stdout.startswith("no space:"), done.stderr
    assert [path.name for path in store.folder.iterdir()] == [LOCK_NAME], "something is left that takes room"
    store.land(batch_of(records=[image(1)]))


# Other versions


@pytest.fixture
def later_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that turns this version of the package into a later one."""

    def become_later() -> None:
        monkeypatch.setattr("nvcatalog.migrate.load_migrations", lambda: [*load_migrations(), LATER])

    return become_later


def test_a_catalog_of_a_later_version_is_refused_and_left_alone(
    store: Store, later_version: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("nvcatalog.migrate.load_migrations", lambda: [*load_migrations(), LATER])
        store.land(batch_of(records=[image(1)]))
    before = hashlib.sha256(store.path.read_bytes()).hexdigest()

    for use in (lambda: ask(store, "SELECT 1"), lambda: store.land(batch_of(records=[image(2)]))):
        with pytest.raises(CatalogTooNewError, match=r"add_mood.*upgrade nvcatalog"):
            use()

    assert hashlib.sha256(store.path.read_bytes()).hexdigest() == before
    later_version()
    assert ask(store, "SELECT image_id FROM images") == [(1,)]


def duckdb_checksum(content: bytes | bytearray) -> int:
    """Return what DuckDB puts before each of its blocks."""
    checksum = 5381
    for (word,) in struct.iter_unpack("<Q", content):
        checksum ^= word * 0xBF58476D1CE4E5B9 % 2**64
    return checksum


def test_a_file_of_a_later_duckdb_is_not_called_broken(filled: Store) -> None:
    content = bytearray(filled.path.read_bytes())
    content[12:20] = struct.pack("<Q", 9999)
    content[:8] = struct.pack("<Q", duckdb_checksum(content[8:4096]))
    filled.path.write_bytes(content)

    with pytest.raises(CatalogTooNewError, match=r"written by a newer DuckDB.*pip install --upgrade duckdb"):
        ask(filled, "SELECT 1")


def test_a_writer_brings_an_older_catalog_up_to_date(filled: Store, later_version: Callable[[], None]) -> None:
    later_version()

    filled.land(batch_of(records=[image(3)]))

    assert ask(filled, "SELECT count(*), count(mood) FROM images") == [(3, 0)]


def test_a_reader_that_may_write_brings_an_older_catalog_up_to_date(
    filled: Store, later_version: Callable[[], None]
) -> None:
    later_version()

    assert ask(filled, "SELECT mood FROM images") == [(None,), (None,)]

    with duckdb.connect(str(filled.path), read_only=True) as connection:
        assert connection.execute("SELECT max(version) FROM schema_migrations").fetchall() == [(LATER.version,)]


@pytest.fixture
def read_only(filled: Store) -> Iterator[Store]:
    """Return a store in a folder that may only be read."""
    home = Path(tempfile.mkdtemp())
    folder = home / "neurovault"
    shutil.copytree(filled.folder, folder)
    for path, mode in ((folder, 0o555), (folder / "catalog.duckdb", 0o444)):
        path.chmod(mode)
    yield Store(folder)
    folder.chmod(0o755)
    shutil.rmtree(home)


def as_nobody(work: Callable[[], object]) -> str:
    """Do work in a child whom folders refuse as they do everyone: root, too, without its powers."""

    def give_up_powers_and_work() -> None:
        if os.geteuid() == 0:
            third_version, no_powers = struct.pack("=Ii", 0x20080522, 0), bytes(24)  # linux/capability.h
            assert ctypes.CDLL(None, use_errno=True).capset(third_version, no_powers) == 0, os.strerror(
                ctypes.get_errno()
            )
        work()

    return in_forked_child(give_up_powers_and_work)


def test_an_older_catalog_that_may_not_be_written_is_read_through_a_copy(
    read_only: Store, later_version: Callable[[], None]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in read_only.folder.iterdir()}
    later_version()

    def read() -> None:
        rows = ask(read_only, "SELECT image_id, name, mood FROM images ORDER BY 1")
        assert rows == [(1, "image 1", None), (2, "image 2", None)], rows
        assert not list(Path("/tmp").glob(f"nvcatalog-*{os.getpid()}*"))

    assert as_nobody(read) == "fine"
    assert {path.name: path.stat().st_mtime_ns for path in read_only.folder.iterdir()} == before


def test_a_catalog_that_may_not_be_written_is_read_as_it_is(read_only: Store) -> None:
    assert as_nobody(lambda: ask(read_only, "SELECT count(*) FROM images")) == "fine"


@pytest.mark.parametrize("lock_is_there", [True, False])
def test_writing_where_one_may_not_says_so(read_only: Store, *, lock_is_there: bool) -> None:
    lock = read_only.folder / LOCK_NAME
    if lock_is_there:
        lock.chmod(0o666)
    else:
        lock.unlink()

    def write() -> None:
        with pytest.raises(DataDirError, match=r"cannot be (written|opened): .*Permission denied"):
            read_only.land(batch_of(records=[image(3)]))

    assert as_nobody(write) == "fine"


def test_no_space_is_an_error_of_the_operating_system_too() -> None:
    assert issubclass(NoSpaceError, OSError)
