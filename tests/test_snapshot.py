"""A snapshot is complete or not there; every dataframe tool reads it; what is private is not in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
from fetching import open_dir as open_dir
from filelock import FileLock
from test_store import as_nobody
from waiting import PATIENCE_S

from nvcatalog import Catalog, fetch_neurovault_ids, snapshot
from nvcatalog._batch import Batch, Listing, Words
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import CatalogLockedError, SnapshotError, SnapshotWarning
from nvcatalog.known import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC, PRIVATE = 7, 8
PRIVATE_IMAGES = (81, 82)
TOKEN = "ABCDEFGH"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
PLAIN = (pa.int32(), pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.timestamp("us", tz="UTC"))


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no snapshot for the end of the session; and no pause of the machine makes one due."""
    monkeypatch.setattr(snapshot, "EVERY_S", 3600.0)
    yield
    snapshot._waiting.clear()


@pytest.fixture(scope="module")
def rich_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalog with rows in every table, of a public and a private collection; made once, for copies."""
    store = Store(tmp_path_factory.mktemp("rich"))
    for name in ("before", "after"):  # the second time around, the former records become history
        store.land(rich_batch(name))
    with store.writing() as connection:
        connection.execute("INSERT INTO access VALUES (?, ?)", [PRIVATE, TOKEN])
        connection.execute("INSERT INTO nidm_packs VALUES (700, ?, 71), (800, ?, 81)", [PUBLIC, PRIVATE])
    return store.path


def rich_batch(name: str) -> Batch:
    batch = Batch(
        words={id_: Words({"pain": id_ / 100, "motor": 0.0}, "terms_20k") for id_ in (71, *PRIVATE_IMAGES)}
    )
    for collection_id, image_ids in ((PUBLIC, (71, 72)), (PRIVATE, PRIVATE_IMAGES)):
        private = collection_id == PRIVATE
        batch.add_record(
            "collection", {"id": collection_id, "name": f"{name} clé", "private": private, "new": [1]}
        )
        batch.listings.append(Listing(collection_id, NOW, 2, complete=True, image_ids=frozenset(image_ids)))
        batch.add_refusal(refusal("position", collection_id, 5, "broken_on_server"))
        outcome = {"fetch_id": "f", "kind": "collection", "id": collection_id, "status": "failed", "reason": "x"}
        nameless = {"id": None, "kind": "image", "reason": f"record 38 of collection {collection_id}"}
        for row in (outcome, outcome | nameless):
            batch.add("outcomes", row)
        for id_ in image_ids:
            batch.add_record(
                "image", {"id": id_, "collection_id": collection_id, "name": name, "free": {"a": None}}
            )
            batch.add("files", {"image_id": id_, "kind": "original", "shape": [2, 3], "voxel_size_mm": [1.5, 2.0]})
            batch.add_refusal(refusal("words", id_, None, "not_found"))
            batch.add("outcomes", outcome | {"kind": "image", "id": id_})
            batch.add("outcomes", outcome | {"kind": "words", "id": id_})
    batch.add_refusal(refusal("collection", 9, None, "private"))
    batch.add("outcomes", {"fetch_id": "f", "kind": "collection", "id": 9, "status": "private", "reason": "403"})
    batch.add("fetches", {"fetch_id": "f", "parameters": '{"collection_ids": [7]}', "bytes": 2**40})
    batch.add("catalog_info", {"key": "server_root", "value": "https://neurovault.org"})
    return batch


def refusal(kind: str, id_: int, position: int | None, status: Any) -> Refusal:
    return Refusal(kind, id_, status, f"about {id_}", NOW, NOW, position)


@pytest.fixture
def store(rich_catalog: Path, tmp_path: Path) -> Store:
    folder = tmp_path / "neurovault"
    folder.mkdir()
    shutil.copy(rich_catalog, folder / "catalog.duckdb")
    return Store(folder)


def home(store: Store) -> Path:
    return store.folder / "snapshots"


def current(folder: Path) -> Path | None:
    """Return the snapshot that is named as the newest."""
    name = folder / "snapshots" / "CURRENT"
    return name.parent / name.read_text().strip() if name.is_file() else None


def complete(store: Store) -> list[str]:
    return sorted(path.parent.name for path in home(store).glob("*/manifest.json") if not path.parent.is_symlink())


# What is in it


def tables(store: Store) -> list[str]:
    with store.reading() as connection:
        rows = connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()
    return [name for (name,) in rows]


def test_every_table_but_the_tokens_and_the_marks_is_there_and_nothing_else(store: Store) -> None:
    place = snapshot.take(store)

    folders = sorted(path.name for path in place.iterdir() if path.is_dir())
    assert folders == tables_of(store)
    assert [path.name for path in place.iterdir() if path.is_file()] == ["manifest.json"]


def private_rows_left_out(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table as plain SQL gives it, without those of the private collection."""
    private_ids = {*PRIVATE_IMAGES, PRIVATE, 9}
    kept: dict[str, list[dict[str, Any]]] = {}
    for table in tables(store):
        with store.reading() as connection:
            relation = connection.sql(f"FROM {table}")
            assert relation is not None
            rows = relation.to_arrow_table().to_pylist()
        kept[table] = [
            row | {"parameters": None} if table == "fetches" else row
            for row in rows
            if row.get("collection_id") != PRIVATE
            and row.get("image_id") not in PRIVATE_IMAGES
            and not (row.keys() >= {"kind", "id"} and row["id"] in private_ids)
            and f"of collection {PRIVATE}" not in str(row.get("reason"))
        ]
    return kept


def ordered(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(row) for row in rows)


def test_the_rows_are_those_of_sql_and_none_is_of_a_private_collection(store: Store) -> None:
    place = snapshot.take(store)

    expected = private_rows_left_out(store)
    for folder in (path for path in place.iterdir() if path.is_dir()):
        rows = pa.dataset.dataset(folder).to_table().to_pylist()
        assert ordered(rows) == ordered(expected[folder.name]), folder.name
        assert rows, f"{folder.name} has no row to compare"


def test_no_byte_of_a_token_or_of_a_private_record_is_anywhere_in_it(store: Store) -> None:
    with store.writing() as connection:
        connection.execute("UPDATE images SET name = 'TOPSECRET' WHERE collection_id = ?", [PRIVATE])
        connection.execute(
            'UPDATE raw_records SET raw = \'{"a": "TOPSECRET"}\' WHERE id = ? OR id IN (81, 82)', [PRIVATE]
        )
    place = snapshot.take(store)

    for file in place.rglob("*.parquet"):
        text = str(pa.dataset.dataset(file).to_table().to_pylist()) + str(pa.parquet.read_metadata(file).to_dict())
        assert TOKEN not in text
        assert "TOPSECRET" not in text, file


def test_what_was_asked_for_is_told_only_where_nothing_is_private(store: Store, tmp_path: Path) -> None:
    def published(store: Store) -> list[str | None]:
        return pl.read_parquet(snapshot.take(store) / "fetches" / "*.parquet")["parameters"].to_list()

    assert published(store) == [None]
    open_one = Store(tmp_path)
    batch = Batch()
    batch.add("fetches", {"fetch_id": "f", "parameters": '{"collection_ids": [7]}'})
    open_one.land(batch)
    assert published(open_one) == ['{"collection_ids": [7]}']


@pytest.mark.parametrize("kind", ["collection", "image"])
def test_what_the_server_has_made_private_since_is_left_out_too(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path)
    batch = rich_batch("once public")
    batch.add_refusal(refusal(kind, 7 if kind == "collection" else 71, None, "private"))
    store.land(batch)

    place = snapshot.take(store)

    kept = [] if kind == "collection" else [72]
    for table in ("images", "files"):
        assert pl.read_parquet(place / table / "*.parquet")["image_id"].to_list() == kept
    assert 71 not in pl.read_parquet(place / "words" / "*.parquet")["image_id"].to_list()
    records = pl.read_parquet(place / "raw_records" / "*.parquet")["id"].sort().to_list()
    assert records == ([] if kind == "collection" else [7, 72])


def test_pandas_polars_and_pyarrow_read_every_table_alike(store: Store) -> None:
    place = snapshot.take(store)

    for folder in (path for path in place.iterdir() if path.is_dir()):
        table = pa.dataset.dataset(folder).to_table()
        by_polars = pl.read_parquet(folder / "*.parquet")
        by_pandas = pd.read_parquet(folder, dtype_backend="pyarrow")
        by_duckdb = duckdb.read_parquet(f"{folder}/*.parquet").to_arrow_table()
        assert by_polars.to_dicts() == table.to_pylist()
        assert by_duckdb.to_pylist() == table.to_pylist()
        assert list(by_pandas.columns) == by_polars.columns == table.column_names
        assert len(by_pandas) == len(by_polars) == table.num_rows


def test_the_types_are_plain_ones(store: Store) -> None:
    place = snapshot.take(store)

    for folder in (path for path in place.iterdir() if path.is_dir()):
        for field in pa.dataset.dataset(folder).schema:
            kind = field.type.value_type if pa.types.is_list(field.type) else field.type
            assert kind in PLAIN, f"{folder.name}.{field.name} is {field.type}"
    raw = pl.read_parquet(place / "raw_records" / "*.parquet").filter(pl.col("id") == 71)["raw"].to_list()
    assert json.loads(raw[0])["free"] == {"a": None}


def test_a_table_without_rows_is_there_with_its_columns(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing():
        pass

    place = snapshot.take(store)

    for name in ("images", "words", "files"):
        frame = pl.read_parquet(place / name / "*.parquet")
        assert frame.height == 0
        with store.reading() as connection:
            assert frame.columns == [row[0] for row in connection.execute(f"DESCRIBE {name}").fetchall()]


def test_the_manifest_says_what_is_in_it_and_whose_it_is(store: Store) -> None:
    place = snapshot.take(store)

    manifest = json.loads((place / "manifest.json").read_text())
    counted = {path.name: pa.dataset.dataset(path).count_rows() for path in place.iterdir() if path.is_dir()}
    assert manifest["rows"] == counted
    assert "nvcatalog" in manifest["created_by"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(manifest["created_at"])) < timedelta(minutes=5)
    assert manifest["licences"].keys() == {"records", "terms, words"}
    assert "ODbL" in manifest["licences"]["terms, words"]


def test_only_neurosynths_terms_are_under_its_licence(store: Store) -> None:
    def licences() -> dict[str, str]:
        licences: dict[str, str] = json.loads((snapshot.take(store) / "manifest.json").read_text())["licences"]
        return licences

    store.land(Batch(words={72: Words({"pain": 0.5}, "gclda")}))
    assert licences().keys() == {"records", "terms, words", "terms, words of gclda"}
    with store.writing() as connection:
        connection.execute("DELETE FROM words_status WHERE reference <> 'gclda'")
    assert licences().keys() == {"records", "terms, words of gclda"}
    assert "ODbL" not in str(licences())


# Where it is


def test_current_names_the_newest_one_and_latest_leads_there(store: Store) -> None:
    assert current(store.folder) is None
    places = [snapshot.take(store) for _ in range(2)]

    assert re.fullmatch(r"\d{8}T\d{6}Z-\d+", places[0].name)
    assert (home(store) / "CURRENT").read_text() == f"{places[1].name}\n"
    assert current(store.folder) == places[1]
    assert (home(store) / "latest").resolve() == places[1]


def test_latest_leads_to_the_newest_again_after_a_copy_that_followed_it(store: Store, tmp_path: Path) -> None:
    snapshot.take(store)
    copied = Store(tmp_path / "copied" / "neurovault")
    shutil.copytree(store.folder, copied.folder)  # which makes a folder of what was a link
    assert not (home(copied) / "latest").is_symlink()
    copied.land(Batch(words={71: Words({"pain": 1.0}, None)}))
    newest = snapshot.take(copied)
    assert (home(copied) / "latest").resolve() == newest
    assert not list(home(copied).glob(".*.part"))


def test_the_last_three_are_kept_however_quickly_they_come(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "datetime", StoppedClock)

    places = [snapshot.take(store) for _ in range(12)]

    assert [place.name for place in places] == [f"20260102T030405Z-{n}" for n in range(1, 13)]
    assert complete(store) == sorted(place.name for place in places[-3:])
    assert current(store.folder) == places[-1]


class StoppedClock(datetime):
    """A clock that has stopped."""

    @classmethod
    def now(cls, tz: Any = None) -> StoppedClock:
        return cls.fromtimestamp(NOW.timestamp(), tz)


def test_the_newest_is_kept_even_if_the_clock_was_set_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        snapshot.take(store)
    monkeypatch.setattr(snapshot, "datetime", StoppedClock)

    place = snapshot.take(store)

    assert current(store.folder) == place
    assert (place / "manifest.json").is_file()


def test_a_reader_of_the_former_snapshot_is_not_disturbed(store: Store) -> None:
    former = snapshot.take(store)
    before = {path: path.read_bytes() for path in former.rglob("*.parquet")}

    store.land(Batch(words={71: Words({"pain": 1.0}, None)}))
    later = snapshot.take(store)

    assert {path: path.read_bytes() for path in former.rglob("*.parquet")} == before
    assert len(pl.read_parquet(later / "words" / "*.parquet")) == 1


def test_a_folder_with_a_quote_in_its_name_is_fine(rich_catalog: Path, tmp_path: Path) -> None:
    folder = tmp_path / "O'Brien" / "neurovault"
    folder.mkdir(parents=True)
    shutil.copy(rich_catalog, folder / "catalog.duckdb")

    place = snapshot.take(Store(folder))

    assert pa.dataset.dataset(place / "images").count_rows() == 2


# When it goes wrong

DIE = """
import os, signal, sys
from pathlib import Path
from nvcatalog import kept, parts, snapshot
from nvcatalog._store import Store
left = int(sys.argv[2])
def counting(function):
    def counted(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return counted
for name in ("_name", "_make_current"):
    setattr(snapshot, name, counting(getattr(snapshot, name)))
for name in ("write_manifest", "prune"):
    setattr(kept, name, counting(getattr(kept, name)))
parts.View.write = counting(parts.View.write)
snapshot.take(Store(Path(sys.argv[1])), whole=True)
"""


def test_killed_at_any_step_the_current_one_is_complete_and_the_next_call_clears_up(store: Store) -> None:
    snapshot.take(store)
    n_tables = len(tables_of(store))
    steps = [0, 5, n_tables, n_tables + 1, n_tables + 2, n_tables + 3]
    kinds = set()

    for step in steps:
        command = [sys.executable, "-c", DIE, str(store.folder), str(step)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == -signal.SIGKILL, (step, done.stderr)
        newest = current(store.folder)
        assert newest
        assert sorted(path.name for path in newest.iterdir() if path.is_dir()) == tables_of(store)
        for folder in (path for path in newest.iterdir() if path.is_dir()):
            pa.dataset.dataset(folder).to_table()
        kinds |= {path.suffix for path in home(store).iterdir() if path.name.startswith(".")}
    assert ".part" in kinds, "no kill left anything to clear up"

    snapshot.take(store)

    assert {path.name for path in home(store).iterdir() if path.name.startswith(".")} == {".lock", ".noted"}
    assert len(complete(store)) == 3


def tables_of(store: Store) -> list[str]:
    return [name for name in tables(store) if name not in ("access", "marks")]


def test_what_cannot_be_written_is_an_error_for_who_asked_and_told_to_who_publishes(store: Store) -> None:
    home(store).write_text("a file in the way")

    with pytest.raises(SnapshotError, match=r"snapshots cannot be written: File exists\. Mend that"):
        snapshot.take(store)
    trouble = snapshot.publish(store)
    assert trouble
    assert re.match("The Parquet snapshot was not published: .*snapshots cannot be written: ", trouble)
    assert current(store.folder) is None


def test_in_a_folder_that_may_only_be_read_the_error_says_who_can_write_one(store: Store, open_dir: Path) -> None:
    shutil.copytree(store.folder, open_dir / "neurovault")
    store = Store(open_dir / "neurovault")
    snapshot.take(store)
    for path in (store.folder, *store.folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def ask() -> None:
        with pytest.raises(SnapshotError, match=r"written: Permission denied\. Let somebody call who may"):
            Catalog(store.folder.parent).snapshot()

    assert as_nobody(ask) == "fine"


def test_who_waits_in_vain_for_another_snapshot_is_told_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    home(store).mkdir()
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0")
    with FileLock(home(store) / ".lock"), pytest.raises(SnapshotError, match="another process is writing a snap"):
        snapshot.take(store)


def test_a_full_disk_leaves_the_former_snapshot(store: Store) -> None:
    former = snapshot.take(store)
    script = """
import resource, sys
from pathlib import Path
from nvcatalog import snapshot
from nvcatalog._store import Store
from nvcatalog.errors import SnapshotError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    snapshot.take(Store(Path(sys.argv[1])))
except SnapshotError as error:
    print("not published:", error)
"""
    command = [sys.executable, "-c", script, str(store.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert done.stdout.startswith("not published:"), done.stderr
    assert current(store.folder) == former
    assert complete(store) == [former.name]
    assert not list(home(store).glob(".*.part"))


def test_a_catalog_held_by_a_writer_is_a_trouble_that_says_by_whom(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.1")
    script = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(CatalogLockedError, match=f"process {holder.pid} "):
            snapshot.take(store)
        assert f"process {holder.pid} " in (snapshot.publish(store) or "")
        holder.stdin.close()


def test_threads_that_publish_at_once_take_turns(store: Store) -> None:
    places: list[Path] = []
    threads = [threading.Thread(target=lambda: places.append(snapshot.take(store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({place.name for place in places}) == 4
    assert current(store.folder) in places
    assert len(complete(store)) == 3


LAND_AND_PUBLISH = """
import sys
from pathlib import Path
from nvcatalog import snapshot
from nvcatalog._batch import Batch
from nvcatalog._store import Store
store = Store(Path(sys.argv[1]))
for number in range(3):
    batch = Batch()
    batch.add_record("image", {"id": 1000 + 10 * int(sys.argv[2]) + number, "collection_id": 7})
    store.land(batch)
    snapshot.take(store)
"""


def test_processes_that_land_and_publish_at_once_miss_nothing(store: Store) -> None:
    commands = [[sys.executable, "-c", LAND_AND_PUBLISH, str(store.folder), str(number)] for number in range(3)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        assert (process.communicate(timeout=PATIENCE_S)[1], process.returncode) == ("", 0)

    newest = current(store.folder)
    assert newest is not None
    ids = pl.read_parquet(newest / "images" / "*.parquet")["image_id"].to_list()
    assert {1000 + 10 * number + each for number in range(3) for each in range(3)} <= set(ids)
    assert not snapshot.is_behind(store)
    assert not list(home(store).glob(".*.part"))


# When it is published


def test_soon_after_the_last_one_it_waits_until_somebody_asks(store: Store) -> None:
    first = publish(store)
    assert first is not None

    store.land(Batch(words={71: Words({"pain": 1.0}, None)}))
    assert publish(store) == first
    assert store.path in snapshot._waiting
    snapshot.publish_waiting()

    assert current(store.folder) not in (None, first)
    assert not snapshot._waiting


def test_later_it_does_not_wait(store: Store) -> None:
    first = publish(store)
    past = datetime.now().timestamp() - snapshot.EVERY_S - 1
    os.utime(home(store) / "CURRENT", (past, past))
    store.land(Batch(words={71: Words({"pain": 1.0}, None)}))

    assert publish(store) != first
    assert not snapshot._waiting


def test_what_another_process_has_published_meanwhile_is_not_published_again(store: Store) -> None:
    publish(store)
    store.land(Batch(words={71: Words({"pain": 1.0}, None)}))
    publish(store)
    assert store.path in snapshot._waiting
    theirs = snapshot.take(store)
    snapshot._waiting[store.path] = store  # as in a process of its own

    snapshot.publish_waiting()

    assert current(store.folder) == theirs


def test_one_that_is_asked_for_publishes_what_waits_too(store: Store) -> None:
    publish(store)
    publish(store)

    snapshot.take(store)

    assert not snapshot._waiting


def publish(store: Store) -> Path | None:
    snapshot.publish(store)
    return current(store.folder)


def test_it_is_behind_from_the_first_row_that_landed_after_it(store: Store, tmp_path: Path) -> None:
    assert snapshot.is_behind(store)
    snapshot.take(store)
    assert not snapshot.is_behind(store)

    store.land(Batch(words={71: Words({"pain": 1.0}, None)}))

    assert snapshot.is_behind(store)
    assert not snapshot.is_behind(Store(tmp_path / "nothing here"))


def test_a_catalog_that_is_gone_by_the_end_is_no_trouble(store: Store) -> None:
    publish(store)
    publish(store)
    shutil.rmtree(store.folder)

    snapshot.publish_waiting()

    assert not snapshot._waiting


def test_at_the_end_what_cannot_be_published_is_a_warning(store: Store) -> None:
    publish(store)
    publish(store)
    shutil.rmtree(home(store))
    home(store).write_text("a file in the way")

    with pytest.warns(SnapshotWarning, match="The Parquet snapshot was not published"):
        snapshot.publish_waiting()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 advises against it
def test_a_forked_child_leaves_what_waits_to_its_parent(store: Store) -> None:
    publish(store)
    publish(store)
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:
        os.write(writing, str(len(snapshot._waiting)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "0"
    os.waitpid(child, 0)

    assert store.path in snapshot._waiting


@pytest.fixture
def world() -> World:
    world = World.empty()
    for id_ in (3, 4):
        world.add_collection(id=id_, images=[{"id": 10 * id_ + 1}])
    return world


TWO_FETCHES = """
import sys
from pathlib import Path
from nvcatalog import fetch_neurovault_ids, snapshot
snapshot.EVERY_S = 3600.0
for collection in (3, 4):
    fetch_neurovault_ids([collection], data_dir=sys.argv[1], verbose=0)
    print(Path(sys.argv[1], "neurovault", "snapshots", "CURRENT").read_text().strip())
"""


def test_of_two_quick_fetches_the_second_is_published_when_the_process_ends(
    server: DemoServer, data_dir: Path
) -> None:
    command = [sys.executable, "-W", "error", "-c", TWO_FETCHES, str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()

    assert first == second, "two snapshots so soon"
    newest = current(data_dir / "neurovault")
    assert newest is not None
    assert newest.name != first
    assert pl.read_parquet(newest / "images" / "*.parquet")["image_id"].sort().to_list() == [31, 41]
    assert done.stderr == ""


def test_a_fetch_publishes_what_it_landed_and_one_that_landed_nothing_publishes_nothing(
    server: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)
    first = current(data_dir / "neurovault")
    assert first is not None
    assert pl.read_parquet(first / "files" / "*.parquet")["image_id"].to_list() == [31]

    fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)

    assert current(data_dir / "neurovault") == first


def test_a_fetch_passes_over_a_damaged_snapshot_and_says_so(
    server: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "EVERY_S", 0.0)
    fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)
    damaged = current(data_dir / "neurovault")
    assert damaged is not None
    (damaged / "manifest.json").write_text('{"files": [')

    with pytest.warns(SnapshotWarning, match=r"manifest\.json cannot be read: Expecting"):
        fetch_neurovault_ids([4], data_dir=data_dir, verbose=0)

    newest = current(data_dir / "neurovault")
    assert newest not in (None, damaged)
    assert pl.read_parquet(f"{newest}/files/*.parquet")["image_id"].to_list() == [31, 41]


def test_a_fetch_answers_even_if_nothing_can_be_published(server: DemoServer, data_dir: Path) -> None:
    (data_dir / "neurovault").mkdir(parents=True)
    (data_dir / "neurovault" / "snapshots").write_text("a file in the way")

    with pytest.warns(SnapshotWarning, match="The Parquet snapshot was not published"):
        maps = fetch_neurovault_ids([3], data_dir=data_dir, verbose=0)

    assert [meta["id"] for meta in maps.images_meta] == [31]
    assert Catalog(data_dir).sql("SELECT count(*) FROM local_images").fetchall() == [(1,)]
