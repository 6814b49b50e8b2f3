"""A snapshot is a database too: the catalog's tables and views, up to date, and in nobody's way."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyarrow import parquet
from test_store import as_nobody, held_elsewhere
from waiting import PATIENCE_S

from nvcatalog import Catalog, connecting, meant, outward, proving, snapshot
from nvcatalog._batch import Batch, Words
from nvcatalog._instances import Instance
from nvcatalog._locks import QUESTION_PATIENCE_S, sign
from nvcatalog._store import LOCK_NAME, Store
from nvcatalog.demo.maps import small_map
from nvcatalog.errors import (
    CatalogLockedError,
    CatalogTooNewError,
    CatalogWarning,
    InvalidOptionError,
    QueryError,
    SnapshotError,
    SnapshotWarning,
)

COLLECTION, PRIVATE = 7, 8
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.fixture(scope="module")
def filled_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalog of two collections, one of them private; made once, for copies."""
    store = Store(tmp_path_factory.mktemp("filled"))
    batch = Batch(words={id_: Words({"pain": 0.25, "motor": 0.0}, "terms_20k") for id_ in (71, 81)})
    for collection_id, image_id in ((COLLECTION, 71), (PRIVATE, 81)):
        batch.add_record(
            "collection", {"id": collection_id, "name": "a study", "private": collection_id == PRIVATE}
        )
        record = {"id": image_id, "collection_id": collection_id, "name": "a map", "map_type": "T map", "own": [1]}
        batch.add_record("image", record)
        batch.add("files", {"image_id": image_id, "kind": "original", "path": "a.nii.gz", "state": "present"})
    store.land(batch)
    return store.path


@pytest.fixture
def store(filled_catalog: Path, tmp_path: Path) -> Store:
    folder = tmp_path / "neurovault"
    folder.mkdir()
    shutil.copy(filled_catalog, folder / "catalog.duckdb")
    return Store(folder)


@pytest.fixture
def catalog(store: Store) -> Catalog:
    return Catalog(store.folder.parent)


def snapshots(store: Store) -> list[str]:
    return sorted(path.parent.name for path in store.folder.glob("snapshots/2*/manifest.json"))


def image_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM images ORDER BY image_id").fetchall()]


def rename_image(store: Store, name: str) -> None:
    batch = Batch()
    batch.add_record("image", {"id": 71, "collection_id": COLLECTION, "name": name, "map_type": "T map"})
    store.land(batch)


# Which one


def test_a_connection_to_the_latest_snapshot_stays_with_it(store: Store, catalog: Catalog) -> None:
    catalog.snapshot()
    with catalog.connect("latest") as connection:
        rename_image(store, "renamed")
        catalog.snapshot()
        assert image_names(connection)[0] == "a map"
        assert image_names(catalog.connect("latest"))[0] == "renamed"


def test_times_come_to_python_in_utc(catalog: Catalog) -> None:
    with catalog.connect() as connection:
        ((fetched_at, *_), *_) = connection.sql("SELECT fetched_at FROM images").fetchall()
    assert abs(datetime.now(UTC) - fetched_at) < timedelta(days=1)


# What is in it


def test_its_tables_and_views_answer_as_those_of_the_catalog_do_but_for_private_rows(store: Store) -> None:
    with store.writing() as connection:
        connection.execute("DELETE FROM images WHERE collection_id = 8; DELETE FROM words WHERE image_id = 81")
        connection.execute("DELETE FROM files WHERE image_id = 81")
    with connecting.connected(store) as theirs, store.reading() as ours:
        names = ["image_words", "local_images", "stat_maps", "images", "files", "words", "terms", "catalog_info"]
        for name in names:
            mine, other = (con.sql(f"FROM {name} ORDER BY ALL") for con in (ours, theirs))
            assert other.columns == mine.columns, name
            assert other.types == mine.types, name
            assert other.to_arrow_table().to_pylist() == mine.to_arrow_table().to_pylist(), name
            assert len(other) > 0, name


def test_private_rows_and_tokens_are_in_no_table_and_no_view(catalog: Catalog) -> None:
    with catalog.connect() as connection:
        for view in ("images", "words", "stat_maps", "local_images", "image_words"):
            assert {id_ for (id_,) in connection.execute(f"SELECT image_id FROM {view}").fetchall()} == {71}, view
        assert "access" not in {name for (name, *_) in connection.execute("SHOW TABLES").fetchall()}


def test_columns_tell_what_they_mean(catalog: Catalog) -> None:
    asked = "SELECT comment FROM duckdb_columns() WHERE table_name = ? AND column_name = 'weight'"
    with catalog.connect() as connection:
        for view in ("words", "image_words"):
            assert "Pearson" in connection.execute(asked, [view]).fetchall()[0][0]


def test_it_may_write_files_and_make_tables(catalog: Catalog, tmp_path: Path) -> None:
    with catalog.connect() as connection:
        connection.execute("CREATE TABLE mine AS SELECT image_id FROM stat_maps")
        connection.execute(f"COPY mine TO '{tmp_path / 'mine.csv'}'")

    assert (tmp_path / "mine.csv").read_text() == "image_id\n71\n"


def test_a_folder_with_brackets_and_quotes_in_its_name_is_fine(filled_catalog: Path, tmp_path: Path) -> None:
    folder = tmp_path / "O'Brien [year=2026]" / "neurovault"
    folder.mkdir(parents=True)
    shutil.copy(filled_catalog, folder / "catalog.duckdb")

    with connecting.connected(Store(folder)) as connection:
        assert image_names(connection) == ["a map"]


def test_a_snapshot_of_a_version_without_a_table_and_a_column_has_them_empty(store: Store) -> None:
    place = snapshot.take(store)
    shutil.rmtree(place / "record_history")
    for file in (place / "images").iterdir():
        other = file.with_name("older.parquet")
        duckdb.execute(f"COPY (SELECT * EXCLUDE (figure) FROM '{file}') TO '{other}'")
        file.unlink()
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"], manifest["layouts"]
    (place / "manifest.json").write_text(json.dumps(manifest))

    with connecting.connected(store, place.name) as connection:
        assert connection.execute("FROM record_history").fetchall() == []
        assert connection.execute("SELECT image_id, figure FROM stat_maps").fetchall() == [(71, None)]


def test_one_of_a_newer_version_is_refused(store: Store) -> None:
    place = snapshot.take(store)
    (place / "manifest.json").write_text('{"schema_version": 9999}')

    with pytest.raises(CatalogTooNewError, match="has schema 9999"):
        connecting.connect(store, place.name)


def test_one_that_is_damaged_is_an_error_that_names_it(store: Store) -> None:
    place = snapshot.take(store)
    (file,) = (place / "images").iterdir()
    file.write_bytes(b"no Parquet")

    with pytest.raises(SnapshotError, match=f"{re.escape(str(file))} is not as it was written"):
        connecting.connect(store, place)


# How new it is


def test_what_landed_since_is_published_first(store: Store) -> None:
    snapshot.take(store)
    rename_image(store, "renamed")

    with connecting.connected(store) as connection:
        assert image_names(connection) == ["renamed"]
    assert len(snapshots(store)) == 2


def test_where_nothing_landed_nothing_is_published(store: Store) -> None:
    for _ in range(3):
        with connecting.connected(store) as connection:
            assert image_names(connection) == ["a map"]

    assert len(snapshots(store)) == 1


def test_a_catalog_that_somebody_holds_keeps_nobody_from_the_former_snapshot(
    catalog: Catalog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot.take(store)
    rename_image(store, "renamed")
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.1")
    script = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == "open\n"
        with (
            pytest.warns(SnapshotWarning, match=rf"process {holder.pid} .* the snapshot of \d+ seconds ago"),
            catalog.connect() as connection,
        ):
            assert image_names(connection) == ["a map"]
        holder.stdin.close()


def test_while_it_is_open_others_land_rows_and_publish_them(catalog: Catalog, store: Store) -> None:
    with catalog.connect() as connection:
        rename_image(store, "renamed")
        snapshot.take(store)

        assert image_names(connection) == ["a map"]
    with catalog.connect() as connection:
        assert image_names(connection) == ["renamed"]


def test_where_none_can_be_published_and_there_is_none_it_is_an_error(store: Store) -> None:
    (store.folder / "snapshots").write_text("a file in the way")

    with pytest.raises(SnapshotError, match="The Parquet snapshot was not published"):
        connecting.connect(store)


def test_without_a_catalog_its_last_snapshot_is_read(store: Store) -> None:
    snapshot.take(store)
    store.path.unlink()

    with connecting.connected(store) as connection:
        assert image_names(connection) == ["a map"]


def test_a_folder_without_a_catalog_has_empty_tables_and_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.warns(CatalogWarning, match="There is no catalog in") as caught:
        connection = Catalog(tmp_path).connect()

    assert caught[0].filename == __file__
    assert connection.execute("FROM stat_maps").fetchall() == []
    assert not list(tmp_path.iterdir())


# By name


def test_any_snapshot_that_is_kept_can_be_named(catalog: Catalog, store: Store) -> None:
    first = catalog.snapshot()
    rename_image(store, "renamed")

    with catalog.connect(first.name) as connection:
        assert image_names(connection) == ["a map"]
    assert snapshots(store) == [first.name], "one that is named need not be up to date"


@pytest.mark.parametrize("name", ["paper-v1", "", ".", "..", "../snapshots", "CURRENT", "20260102T030405Z-1/.", 7])
def test_a_name_that_is_none_of_a_snapshot_is_refused_with_those_that_there_are(
    catalog: Catalog, name: str
) -> None:
    there = catalog.snapshot().name

    with pytest.raises(InvalidOptionError, match=f"there are: {there}, latest"):
        catalog.connect(name)


# How long it is kept


def test_what_is_read_outlives_its_time_until_it_is_closed(store: Store) -> None:
    with connecting.connected(store) as connection:
        read = snapshots(store)
        for _ in range(5):
            snapshot.take(store)
        assert image_names(connection) == ["a map"]
        assert read[0] in snapshots(store)
        assert len(snapshots(store)) == 4

    snapshot.take(store)
    assert read[0] not in snapshots(store)
    assert list(store.folder.glob("snapshots/.held/*")) == []


def test_a_connection_that_is_forgotten_keeps_nothing(catalog: Catalog, store: Store) -> None:
    connection = catalog.connect()
    assert len(list(store.folder.glob("snapshots/.held/*"))) == 1

    del connection
    gc.collect()

    assert list(store.folder.glob("snapshots/.held/*")) == []


def test_a_connection_that_is_closed_keeps_nothing(catalog: Catalog, store: Store) -> None:
    connection = catalog.connect()
    place = store.folder / "snapshots" / snapshots(store)[0]
    assert connection.execute("SELECT nvcatalog_snapshot()").fetchall() == [(str(place),)]

    connection.close()

    assert list(store.folder.glob("snapshots/.held/*")) == []
    del connection


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 advises against it
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_end_of_a_forked_child_is_not_that_of_its_parents_connection(
    catalog: Catalog, store: Store, kind: str
) -> None:
    script = [sys.executable, "-c", FORK_READING, str(store.folder.parent)]
    with subprocess.Popen(
        script,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"NVCATALOG_LOCK": kind},
    ) as reader:
        assert reader.stdout
        assert reader.stdin
        assert reader.stdout.readline() == "the child has ended\n"
        (read,) = snapshots(store)
        for _ in range(4):
            catalog.snapshot()
        assert read in snapshots(store)
        assert len(list(store.folder.glob("snapshots/.held/*"))) == 1
        reader.stdin.close()
        assert reader.stdout.read() == "[('a map',)]\n"
    assert reader.returncode == 0
    assert list(store.folder.glob("snapshots/.held/*")) == []


FORK_READING = """
import os, sys
from nvcatalog import Catalog
connection = Catalog(sys.argv[1]).connect()
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
print("the child has ended", flush=True)
sys.stdin.read()
print(connection.execute("SELECT name FROM images").fetchall())
"""


DIE_READING = """
import os, signal, sys
from nvcatalog import Catalog
connection = Catalog(sys.argv[1]).connect()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_reader_that_was_killed_keeps_nothing(catalog: Catalog, store: Store, kind: str) -> None:
    command = [sys.executable, "-c", DIE_READING, str(store.folder.parent)]
    environment = os.environ | {"NVCATALOG_LOCK": kind}
    subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False, env=environment)
    (read,) = snapshots(store)
    assert len(list(store.folder.glob("snapshots/.held/*"))) == 1

    for _ in range(3):
        catalog.snapshot()

    assert read not in snapshots(store)
    assert list(store.folder.glob("snapshots/.held/*")) == []


def test_a_folder_that_cannot_be_written_is_read_all_the_same(catalog: Catalog, store: Store) -> None:
    catalog.snapshot()
    folders = [store.folder, store.folder / "snapshots"]
    for folder in folders:
        folder.chmod(0o555)

    def read() -> None:
        with catalog.connect() as connection:
            assert image_names(connection) == ["a map"]

    assert as_nobody(read) == "fine"
    for folder in folders:
        folder.chmod(0o755)


# Questions that cannot wait


def test_a_question_is_answered_by_the_newest_snapshot_while_somebody_keeps_the_catalog(
    catalog: Catalog, store: Store
) -> None:
    name = catalog.snapshot().name

    query = "SELECT name, raw->>'$.own[0]' AS own FROM images JOIN raw_records ON id = image_id"
    with held_elsewhere(store), pytest.warns(CatalogWarning) as warned:
        answer = catalog.sql(query)

    assert answer.fetchall() == [("a map", "1")]
    [warning] = warned
    assert re.search(rf"process \d+.*The snapshot of \d+ seconds ago answers, {name}", str(warning.message))
    assert warning.filename == __file__
    assert list(store.folder.glob("snapshots/.held/*")) == []


def test_a_query_of_the_shelf_is_answered_by_it_too(catalog: Catalog, store: Store) -> None:
    catalog.snapshot()

    with held_elsewhere(store), pytest.warns(CatalogWarning, match="The snapshot of .* answers") as warned:
        rows = catalog.query("collections_overview").df()

    assert rows["collection_id"].to_list() == [COLLECTION]
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('{folder}/*')",
        "COPY images TO '{folder}/out.csv'",
        "SET memory_limit = '1GB'",
    ],
)
def test_a_question_to_a_snapshot_reaches_nothing_else(
    catalog: Catalog, store: Store, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.snapshot()
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.1")

    with (
        held_elsewhere(store),
        pytest.warns(CatalogWarning, match="The snapshot of .* answers"),
        pytest.raises(QueryError),
    ):
        catalog.sql(query.format(folder=store.folder))


def test_without_a_snapshot_a_question_waits_and_says_who_is_waited_for(
    catalog: Catalog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.2")

    with held_elsewhere(store) as process, pytest.raises(CatalogLockedError, match=f"process {process.pid}"):
        catalog.sql("SELECT 1")


def test_the_snapshot_that_answers_is_said_to_miss_what_landed_since(catalog: Catalog, store: Store) -> None:
    catalog.snapshot()
    batch = Batch()
    batch.add_record("image", {"id": 72, "collection_id": COLLECTION, "name": "another"})
    store.land(batch)

    with held_elsewhere(store), pytest.warns(CatalogWarning, match="what has landed since is not in it"):
        answer = catalog.sql("SELECT name FROM images")

    assert answer.fetchall() == [("a map",)]


def test_where_the_file_system_has_no_locks_a_snapshot_answers_at_once(
    catalog: Catalog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.snapshot()
    tried = []
    (store.folder / LOCK_NAME).touch()
    sign(store.folder / LOCK_NAME)  # who wrote last is not who is in the way

    def without_locks(_: Instance, path: Path, *, read_only: bool) -> None:
        tried.append(read_only)  # what DuckDB says on an NFS mount without a lock daemon
        raise duckdb.IOException(f'IO Error: Could not set lock on file "{path}": No locks available')

    monkeypatch.setattr(Instance, "attach", without_locks)

    with pytest.warns(CatalogWarning, match=r"cannot be locked \(No locks.*\. The snapshot of .* answers"):
        answer = catalog.sql("SELECT name FROM images")

    assert answer.fetchall() == [("a map",)]
    assert tried == [True], "nobody is waited for"


def frozen(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))["images"]


LABELS = '<atlas><data><label index="0">Motor</label></data></atlas>'
BY_NAME: dict[str, Any] = {"where": "name = 'a map'", "verbose": 0}


@pytest.mark.parametrize(
    "ask",
    [
        lambda catalog, folder: catalog.words([71]).pivot().values.tolist(),
        lambda catalog, folder: catalog.words(where="name = 'a map'", terms="pain").pivot().values.tolist(),
        lambda catalog, folder: catalog.cite(image_ids=[71]).text(),
        lambda catalog, folder: catalog.outdated().fetchall(),
        lambda catalog, folder: [*catalog.to_nimads(image_ids=[71], without_files=True)["studies"]],
        lambda catalog, folder: frozen(catalog.freeze(folder / "lock.json", **BY_NAME)),
        lambda catalog, folder: catalog.labels(71),
        lambda catalog, folder: catalog.export(folder / "out.csv", "images", **BY_NAME).read_text("utf-8"),
    ],
    ids=["words", "words of a condition", "cite", "outdated", "to_nimads", "freeze", "labels", "export"],
)
@pytest.mark.filterwarnings("ignore::nvcatalog.errors.SelectionWarning")
def test_whatever_only_reads_is_answered_by_it_as_by_the_catalog(
    catalog: Catalog, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., object]
) -> None:
    for name, content in (("a.nii.gz", small_map(71)), ("a.xml", LABELS.encode())):
        (store.folder / name).write_bytes(content)
    batch = Batch()
    batch.add_file(71, "a.nii.gz", proving.prove(store.folder / "a.nii.gz"), origin="neurovault")
    batch.add(
        "files", {"image_id": 71, "kind": "labels", "path": "a.xml", "size": len(LABELS), "state": "present"}
    )
    store.land(batch)
    catalog.snapshot()
    former, later = (tmp_path / name for name in ("former", "later"))
    former.mkdir()
    later.mkdir()
    expected = ask(catalog, former)

    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.1")
    with held_elsewhere(store), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        answer = ask(catalog, later)

    assert answer == expected
    told = [each.filename for each in warned if "The snapshot of " in str(each.message)]
    if (later / "out.csv").exists():  # an export is always of the snapshot, in which nothing is missing
        assert told == []
    else:
        assert told == [__file__], [str(each.message) for each in warned]


@pytest.mark.parametrize(
    "ask",
    [
        lambda catalog, folder: catalog.cite(where="name = 'a map'").text(),
        lambda catalog, folder: catalog.to_nimads(where="name = 'a map'", without_files=True)["studies"][0][
            "name"
        ],
        lambda catalog, folder: catalog.freeze(folder / "lock.json", **BY_NAME).read_text().partition("kind")[2],
        lambda catalog, folder: catalog.export(folder / "out.csv", "collections", **BY_NAME).read_text("utf-8"),
    ],
    ids=["cite", "to_nimads", "freeze", "export"],
)
@pytest.mark.filterwarnings("ignore::nvcatalog.errors.NVCatalogWarning")
def test_an_answer_is_of_one_state_whatever_is_published_meanwhile(
    catalog: Catalog, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., object]
) -> None:
    (store.folder / "a.nii.gz").write_bytes(small_map(71))
    batch = Batch()
    batch.add_file(71, "a.nii.gz", proving.prove(store.folder / "a.nii.gz"), origin="neurovault")
    store.land(batch)
    former = catalog.snapshot().name
    folders = [tmp_path / name for name in ("expected", "found")]
    for folder in folders:
        folder.mkdir()
    expected = ask(catalog, folders[0])
    batch = Batch()
    batch.add_record("collection", {"id": COLLECTION, "name": "another study"})
    batch.add_record("image", {"id": 71, "collection_id": COLLECTION, "name": "another map", "map_type": "Z map"})
    store.land(batch)
    later = catalog.snapshot().name

    def chosen(*arguments: Any, **options: Any) -> meant.Meant:
        found = meant.images_meant(*arguments, **options)
        (store.folder / "snapshots/CURRENT").write_text(later)
        return found

    monkeypatch.setattr(outward, "images_meant", chosen)
    (store.folder / "snapshots/CURRENT").write_text(former)
    with held_elsewhere(store):
        found = ask(catalog, folders[1])

    assert (store.folder / "snapshots/CURRENT").read_text() == later
    assert found == expected


# Files that are not as they were written


def damaged(store: Store, how: str) -> Path:
    """Damage the newest snapshot, and return the file that is not as it was written."""
    file = (store.folder / "snapshots/latest").resolve() / "images/part-0.parquet"
    if how == "gone":
        file.unlink()
    elif how == "forged":
        table = parquet.read_table(file)
        names = pa.array(["b map"] * len(table))
        parquet.write_table(table.set_column(table.schema.get_field_index("name"), "name", names), file)
    else:
        file.write_bytes(file.read_bytes()[:-1])
    return file


@pytest.mark.parametrize("how", ["gone", "forged", "cut off"])
def test_a_damaged_snapshot_is_not_read_by_its_name(catalog: Catalog, store: Store, how: str) -> None:
    catalog.snapshot("paper")
    (store.folder / "snapshots/latest").unlink()
    (store.folder / "snapshots/latest").symlink_to("paper")
    file = damaged(store, how)

    with pytest.raises(SnapshotError, match=re.escape(f"{file} ")):
        catalog.connect("paper")
    with pytest.raises(SnapshotError, match="this snapshot is damaged"):
        catalog.diff("paper")


@pytest.mark.parametrize("how", ["gone", "forged", "cut off"])
def test_a_snapshot_that_is_taken_now_stands_in_for_a_damaged_one(
    catalog: Catalog, store: Store, how: str
) -> None:
    catalog.snapshot()
    damaged(store, how)
    with pytest.raises(SnapshotError, match="ask another one, or take one now"):
        catalog.connect()

    catalog.snapshot()

    with catalog.connect() as connection:
        assert image_names(connection) == ["a map"]


def test_a_question_waits_for_the_catalog_where_the_snapshot_is_damaged(catalog: Catalog, store: Store) -> None:
    catalog.snapshot()
    damaged(store, "cut off")

    with held_elsewhere(store) as process:
        threading.Timer(QUESTION_PATIENCE_S + 0.5, process.stdin.close).start()  # type: ignore[union-attr]  # it is a pipe
        answer = catalog.sql("SELECT image_id FROM images ORDER BY ALL")

    assert answer.fetchall() == [(71,), (81,)], "it is the catalog that has the private one too"


def test_what_others_laid_into_a_snapshot_is_no_part_of_it(catalog: Catalog, store: Store) -> None:
    file = catalog.snapshot() / "images/part-0.parquet"
    shutil.copy(file, file.with_name("part-0 (conflicted copy).parquet"))
    shutil.copy(file, file.with_name("part-1.parquet"))

    with catalog.connect() as connection:
        assert image_names(connection) == ["a map"]
