"""Only what changed is written anew, and what is in a snapshot does not depend on what was written before."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvcatalog import _marks, kept, parts, snapshot
from nvcatalog._batch import Batch, Listing, Words
from nvcatalog._store import Store
from nvcatalog.decoders import add_words
from nvcatalog.known import Refusal

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
N_IMAGES = 30


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Iterator[None]:
    """Let a few rows be as many as a file holds: blocks of 4 ids, of 2 for words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ROWS_IN_ONE_FILE", 20)
        patch.setattr(parts, "_ROWS_A_FILE", 8)
        patch.setattr(parts, "_WORDS_A_FILE", 8)
        patch.setattr(snapshot, "FILES_AT_LEAST", 1)
        for table, blocks in _marks.BLOCKS.items():
            if blocks.size > 1:
                small = _marks.Blocks(blocks.number, 2 if table == "words" else 4)
                patch.setitem(_marks.BLOCKS, table, small)
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a catalog of 30 images in 6 collections, with words, and its snapshot, for copies."""
    store = Store(tmp_path_factory.mktemp("published"))
    batch = Batch()
    for collection_id in range(1, 7):
        batch.add_record("collection", {"id": collection_id, "name": "a study"})
    for image_id in range(1, N_IMAGES + 1):
        add_image(batch, image_id)
        batch.words[image_id] = Words({"pain": image_id / 100, "motor": 0.0}, "terms_20k")
    store.land(batch)
    snapshot.take(store)
    return store.folder


def add_image(batch: Batch, image_id: int, name: str = "a map") -> None:
    record = {"id": image_id, "collection_id": 1 + image_id % 6, "name": name, "map_type": "T map"}
    batch.add_record("image", record)
    batch.add("files", {"image_id": image_id, "kind": "original", "path": f"{name}.nii.gz", "state": "present"})


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Store:
    return copy_of(published, tmp_path / "neurovault")


def copy_of(published: Path, folder: Path) -> Store:
    """Return a copy, times and all: so it is one to which nothing has been written since."""
    shutil.copytree(published, folder, symlinks=True)
    return Store(folder)


@pytest.fixture
def former(store: Store) -> Path:
    """Return the snapshot that is there already."""
    place = kept.newest(store.folder / "snapshots")
    assert place is not None
    return place


def files_of(place: Path) -> dict[str, int]:
    """Return the files of a snapshot, with what tells whether two are one."""
    return {str(path.relative_to(place)): path.stat().st_ino for path in place.rglob("*.parquet")}


def written(former: Path, later: Path) -> set[str]:
    """Return which files of a snapshot are not the former one's."""
    before = files_of(former)
    return {path for path, inode in files_of(later).items() if before.get(path) != inode}


def rows_of(place: Path) -> dict[str, list[str]]:
    return {
        folder.name: sorted(map(repr, pa.dataset.dataset(folder).to_table().to_pylist()))
        for folder in place.iterdir()
        if folder.is_dir()
    }


def assert_is_as_if_written_whole(store: Store, place: Path) -> None:
    with tempfile.TemporaryDirectory() as fresh:
        shutil.copy(store.path, fresh)
        whole = snapshot.take(Store(Path(fresh)))
        assert rows_of(place) == rows_of(whole)


# Which files are written


def test_a_large_table_is_several_files_each_with_a_range_of_ids(store: Store) -> None:
    place = snapshot.take(store)

    names = sorted(path.name for path in (place / "images").iterdir())
    assert names == [f"part-{first:08}.parquet" for first in range(0, N_IMAGES + 1, 8)]
    for number, name in enumerate(names):
        ids = pa.parquet.read_table(place / "images" / name)["image_id"].to_pylist()
        assert sorted(ids) == [id_ for id_ in range(number * 8, number * 8 + 8) if 1 <= id_ <= N_IMAGES]
    assert [path.name for path in (place / "collections").iterdir()] == ["part-0.parquet"]


def test_after_one_image_has_landed_only_its_files_are_written(store: Store, former: Path) -> None:
    batch = Batch(words={21: Words({"pain": 0.5, "motor": 0.25}, "terms_20k")})
    add_image(batch, 21, "renamed")
    store.land(batch)

    later = snapshot.take(store)

    assert written(former, later) == {
        "images/part-00000016.parquet",
        "files/part-00000016.parquet",
        "raw_records/part-00000020.parquet",
        "record_history/part-0.parquet",
        "words/part-00000020.parquet",
        "words_status/part-00000016.parquet",
    }
    assert_is_as_if_written_whole(store, later)


def test_where_nothing_has_landed_nothing_is_written(store: Store, former: Path) -> None:
    assert written(former, snapshot.take(store)) == set()


def test_all_is_written_anew_where_that_is_asked_for(store: Store, former: Path) -> None:
    assert written(former, snapshot.take(store, whole=True)) == set(files_of(former))


def test_an_image_beyond_all_others_has_a_file_of_its_own(store: Store, former: Path) -> None:
    batch = Batch()
    add_image(batch, 1000)
    store.land(batch)

    later = snapshot.take(store)

    assert "images/part-00001000.parquet" in written(former, later)
    assert_is_as_if_written_whole(store, later)


def test_a_table_that_has_grown_dense_is_divided_anew(store: Store, former: Path) -> None:
    batch = Batch()
    for image_id in range(1, N_IMAGES + 1):
        for number in range(6):
            batch.add("files", {"image_id": image_id, "kind": f"kind {number}", "state": "present"})
    store.land(batch)

    later = snapshot.take(store)

    assert len(list((later / "files").iterdir())) > len(list((former / "files").iterdir()))
    assert_is_as_if_written_whole(store, later)


def test_a_table_that_has_shrunk_is_one_file_again(store: Store) -> None:
    with store.writing() as connection:
        connection.execute("DELETE FROM images WHERE image_id > 9")

    place = snapshot.take(store)

    assert [path.name for path in (place / "images").iterdir()] == ["part-0.parquet"]


def test_a_range_of_which_no_row_is_left_is_an_empty_file(store: Store) -> None:
    batch = Batch()
    for image_id in range(16, 24):
        batch.drop_file(image_id, "original")
    store.land(batch)

    place = snapshot.take(store)

    assert pa.parquet.read_table(place / "files" / "part-00000016.parquet").num_rows == 0
    assert_is_as_if_written_whole(store, place)


def test_words_that_somebody_brings_along_are_written_and_nothing_else(store: Store, former: Path) -> None:
    table = pa.table({"image_id": [21], "term": ["pain"], "weight": [0.5]})
    add_words(store, table, reference="terms_20k", replace=True)

    later = snapshot.take(store)

    assert written(former, later) == {"words/part-00000020.parquet", "words_status/part-00000016.parquet"}
    assert_is_as_if_written_whole(store, later)


# What is private by now


@pytest.mark.parametrize("how", ["record", "collection refused", "image refused"])
def test_rows_that_have_become_private_are_in_no_file_of_the_next_one(
    store: Store, former: Path, how: str
) -> None:
    batch, hidden = Batch(), set(range(1, N_IMAGES + 1, 6))
    if how == "record":
        batch.add_record("collection", {"id": 2, "name": "a study", "private": True})
    elif how == "collection refused":
        batch.add_refusal(Refusal("collection", 2, "private", "403", NOW, NOW))
    else:
        batch.add_refusal(Refusal("image", 7, "private", "403", NOW, NOW))
        hidden = {7}
    store.land(batch)

    later = snapshot.take(store)

    for table in ("images", "files", "words", "words_status"):
        ids = set(pa.dataset.dataset(later / table).to_table()["image_id"].to_pylist())
        assert ids == set(range(1, N_IMAGES + 1)) - hidden, table
    if how == "image refused":
        assert len(written(former, later)) < len(files_of(later)) / 2
    assert_is_as_if_written_whole(store, later)


def test_packs_without_a_number_are_hidden_with_their_collection(store: Store) -> None:
    with store.writing() as connection:
        connection.execute("INSERT INTO nidm_packs SELECT NULL, 7 + i % 2, 200 + i FROM range(1, 31) AS r(i)")
        connection.execute("INSERT INTO nidm_packs SELECT 100 + i, 1, 100 + i FROM range(1, 31) AS r(i)")
    place = snapshot.take(store)
    assert len([*(place / "nidm_packs").iterdir()]) > 1
    batch = Batch()
    batch.add_record("collection", {"id": 8, "name": "a study", "private": True})
    store.land(batch)

    later = snapshot.take(store)

    packs = pa.dataset.dataset(later / "nidm_packs").to_table()
    assert (len(packs), 8 in packs["collection_id"].to_pylist()) == (45, False)
    assert_is_as_if_written_whole(store, later)


def test_rows_that_are_public_again_are_back(store: Store) -> None:
    batch = Batch()
    batch.add_refusal(Refusal("image", 7, "private", "403", NOW, NOW))
    store.land(batch)
    snapshot.take(store)
    healed = Batch()
    healed.heal("image", 7)
    store.land(healed)

    place = snapshot.take(store)

    assert 7 in pa.dataset.dataset(place / "images").to_table()["image_id"].to_pylist()
    assert_is_as_if_written_whole(store, place)


def test_what_only_private_images_have_of_a_decoder_is_left_out_until_they_are_public(store: Store) -> None:
    def words(image_id: int, *terms: str) -> pa.Table:
        return pa.table({"image_id": [image_id] * len(terms), "term": terms, "weight": [1.0] * len(terms)})

    def published() -> tuple[list[str], str]:
        place = snapshot.take(store)
        assert_is_as_if_written_whole(store, place)
        info = pa.dataset.dataset(place / "catalog_info").to_table().to_pylist()
        terms = pa.dataset.dataset(place / "terms").to_table()["term"].to_pylist()
        return sorted(terms), next(row["value"] for row in info if row["key"] == "own_references")

    batch = Batch()
    batch.add_refusal(Refusal("image", 7, "private", "403", NOW, NOW))
    batch.add_refusal(Refusal("image", 13, "private", "403", NOW, NOW))
    store.land(batch)
    add_words(store, words(7, "pain", "secret", "shared"), reference="ours", replace=True)
    assert published() == (["motor", "pain"], "[]")

    add_words(store, words(8, "shared"), reference="mine", replace=True)
    assert published() == (["motor", "pain", "shared"], '["mine"]')

    add_words(store, words(7, "other"), reference="ours")
    assert published()[0] == ["motor", "pain", "shared"], "what no image has any more is nobody's business either"

    healed = Batch()
    healed.heal("image", 7)
    store.land(healed)
    assert published() == (["motor", "other", "pain", "shared"], '["ours", "mine"]')


def test_the_manifest_does_not_tell_which_ids_are_private(store: Store) -> None:
    batch = Batch()
    batch.add_refusal(Refusal("image", 7, "private", "403", NOW, NOW))
    store.land(batch)

    entries = json.loads((snapshot.take(store) / "manifest.json").read_text())["files"]

    with store.reading() as connection:
        secret, _ = _marks.read_marks(connection)
    assert secret
    assert secret not in str(entries)


# Whoever wrote


def delete_an_image(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("DELETE FROM images WHERE image_id = 21")


def rename_an_image(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("UPDATE images SET name = 'renamed' WHERE image_id = 21")


@pytest.mark.parametrize("change", [delete_an_image, rename_an_image])
@pytest.mark.parametrize("lands_after", [False, True])
def test_what_somebody_changed_with_a_duckdb_of_their_own_is_in_the_next_one(
    store: Store, change: Callable[[duckdb.DuckDBPyConnection], None], lands_after: bool
) -> None:
    with duckdb.connect(str(store.path)) as connection:
        change(connection)
    if lands_after:
        batch = Batch()
        add_image(batch, 29, "renamed")
        store.land(batch)

    assert snapshot.is_behind(store)
    assert_is_as_if_written_whole(store, snapshot.take(store))


def test_what_was_written_without_marks_is_in_the_next_one(store: Store) -> None:
    with store.writing() as connection:
        rename_an_image(connection)

    assert snapshot.is_behind(store)
    assert_is_as_if_written_whole(store, snapshot.take(store))


def test_a_landing_killed_before_it_was_noted_is_in_the_next_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(_marks, "note_state", lambda catalog: None)
        batch = Batch()
        add_image(batch, 21, "renamed")
        store.land(batch)

    assert snapshot.is_behind(store)
    assert_is_as_if_written_whole(store, snapshot.take(store))


def test_a_catalog_that_was_brought_back_from_a_backup_is_what_is_published(store: Store) -> None:
    shutil.copy2(store.path, store.folder / "backup")
    batch = Batch()
    add_image(batch, 21, "renamed")
    store.land(batch)
    snapshot.take(store)
    shutil.copy2(store.folder / "backup", store.path)
    again = Batch()
    add_image(again, 22, "renamed")
    store.land(again)

    assert_is_as_if_written_whole(store, snapshot.take(store))


def test_a_snapshot_of_an_older_version_is_followed_by_a_whole_one(store: Store, former: Path) -> None:
    manifest = json.loads((former / "manifest.json").read_text())
    for name in ("files", "layouts", "catalog", "schema_version"):
        del manifest[name]
    (former / "manifest.json").write_text(json.dumps(manifest))

    assert snapshot.is_behind(store)
    later = snapshot.take(store)

    assert written(former, later) == set(files_of(later))


def flip_a_byte(file: Path, at: int, *, unnoticed: bool = False) -> None:
    """Damage a file and leave its size; unnoticed, as a disk that fails does, its time too."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[at] ^= 0xFF
    file.write_bytes(content)
    if unnoticed:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "cut short": lambda file: os.truncate(file, 10),
    "written to": lambda file: flip_a_byte(file, 200),
    "its first bytes lost": lambda file: flip_a_byte(file, 0, unnoticed=True),
    "its last bytes lost": lambda file: flip_a_byte(file, -1, unnoticed=True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_the_former_one_that_is_not_as_it_was_is_written_anew(
    store: Store, former: Path, damage: str
) -> None:
    DAMAGES[damage](former / "images" / "part-00000016.parquet")

    later = snapshot.take(store)

    assert_is_as_if_written_whole(store, later)
    assert written(former, later) == {"images/part-00000016.parquet"}


def test_one_with_a_name_takes_over_no_file_unread(store: Store, former: Path) -> None:
    flip_a_byte(former / "images" / "part-00000016.parquet", 200, unnoticed=True)

    named = snapshot.take(store, "paper-v1")

    assert_is_as_if_written_whole(store, named)
    assert written(former, named) == {"images/part-00000016.parquet"}


def test_a_file_whose_time_alone_is_another_is_taken_over(store: Store, former: Path) -> None:
    for file in former.rglob("*.parquet"):
        os.utime(file, (1, 1))

    assert written(former, snapshot.take(store)) == set()


# While others write


def test_what_lands_while_a_snapshot_is_written_is_in_it_whole_or_not_at_all(
    store: Store, former: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two short reads another landing changes a file that is written already, and one that is not."""
    before = {path: path.read_bytes() for path in former.rglob("*.parquet")}
    monkeypatch.setattr(snapshot, "HELD_S", 0.0)
    landed: list[int] = []

    def give_way(self: Store) -> None:
        monkeypatch.setattr(snapshot, "HELD_S", 0.0 if len(landed) < 2 else 60.0)
        if len(landed) < 3:
            batch = Batch()
            for image_id in (21, 29, 100 + len(landed)):
                add_image(batch, image_id, f"renamed {len(landed)}")
            landed.append(1)
            store.land(batch)

    monkeypatch.setattr(Store, "give_way", give_way)

    later = snapshot.take(store, whole=True)

    assert len(landed) == 3
    assert_is_as_if_written_whole(store, later)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in former.rglob("*.parquet")} == before


def test_a_file_that_was_taken_over_and_changed_meanwhile_leaves_the_former_one_alone(
    store: Store, former: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(former)
    batch = Batch()
    add_image(batch, 29, "renamed")
    store.land(batch)
    monkeypatch.setattr(snapshot, "HELD_S", -1.0)  # what can be taken over is; the first file to write is left
    landed: list[int] = []

    def give_way(self: Store) -> None:
        if not landed:
            landed.append(1)
            again = Batch()
            add_image(again, 1, "renamed")
            store.land(again)
        monkeypatch.setattr(snapshot, "HELD_S", 60.0)

    monkeypatch.setattr(Store, "give_way", give_way)

    later = snapshot.take(store)

    assert rows_of(former) == before
    assert_is_as_if_written_whole(store, later)


def test_others_get_at_the_catalog_while_a_snapshot_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "HELD_S", 0.0)
    rounds: list[float] = []
    monkeypatch.setattr(Store, "give_way", lambda self: rounds.append(time.monotonic()))

    snapshot.take(store, whole=True)

    assert len(rounds) >= 10, "it was read in one go"


# What files say of themselves


def test_a_file_tells_what_its_columns_mean_and_of_which_schema_it_is(store: Store) -> None:
    place = snapshot.take(store)

    schema = pa.parquet.read_schema(place / "words" / "part-00000000.parquet")
    assert "Pearson" in schema.field("weight").metadata[b"comment"].decode()
    assert schema.metadata[b"nvcatalog.table"] == b"words"
    assert int(schema.metadata[b"nvcatalog.schema_version"]) >= 5
    for folder in (path for path in place.iterdir() if path.is_dir()):
        for file in folder.iterdir():
            told = duckdb.execute(
                "SELECT decode(value) FROM parquet_kv_metadata(?) WHERE key = 'nvcatalog.columns'", [str(file)]
            ).fetchall()
            assert set(json.loads(told[0][0])) == set(pa.parquet.read_schema(file).names)


def test_the_manifest_has_the_rows_the_size_and_the_digest_of_each_file(store: Store) -> None:
    place = snapshot.take(store)

    manifest = json.loads((place / "manifest.json").read_text())
    assert set(manifest["files"]) == set(files_of(place))
    for path, entry in manifest["files"].items():
        assert entry["sha256"] == parts.sha256_of(place / path)
        assert entry["bytes"] == (place / path).stat().st_size
        assert entry["rows"] == pa.parquet.read_metadata(place / path).num_rows
    assert manifest["schema_version"] >= 5


def test_where_there_are_no_hard_links_files_are_copied(
    store: Store, former: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    later = snapshot.take(store)

    assert written(former, later) == set(files_of(later))
    assert rows_of(later) == rows_of(former)


# Whatever happens

IDS = st.integers(1, 40)
COLLECTIONS = st.integers(1, 8)


def change_images(batch: Batch, ids: list[int], words: str) -> None:
    for image_id in ids:
        add_image(batch, image_id, words)


def change_words(batch: Batch, ids: list[int], words: str) -> None:
    batch.words |= {image_id: Words({words: 0.5, "pain": 0.25}, "terms_20k") for image_id in ids}


def change_collections(batch: Batch, ids: list[int], words: str) -> None:
    for number, id_ in enumerate(ids):
        private = len(words) % 3 == 0 and number == 0
        batch.add_record("collection", {"id": 1 + id_ % 8, "name": words, "private": private})


def list_images(batch: Batch, ids: list[int], words: str) -> None:
    named = frozenset(ids)
    batch.listings.append(Listing(1 + ids[0] % 8, datetime.now(UTC), len(named), complete=True, image_ids=named))


def bury(batch: Batch, ids: list[int], words: str) -> None:
    batch.bury(1 + ids[0] % 8)


def drop_files(batch: Batch, ids: list[int], words: str) -> None:
    for image_id in ids:
        batch.drop_file(image_id, "original")


def refuse(batch: Batch, ids: list[int], words: str) -> None:
    kinds: list[Any] = ["image", "collection", "words", "position"]
    statuses: list[Any] = ["private", "not_found"]
    for number, id_ in enumerate(ids):
        batch.add_refusal(
            Refusal(kinds[number % 4], 1 + id_ % 8, statuses[len(words) % 2], words, NOW, NOW, number)
        )


def heal(batch: Batch, ids: list[int], words: str) -> None:
    for number, id_ in enumerate(ids):
        batch.heal(["image", "collection", "words"][number % 3], 1 + id_ % 8)


def list_packs(batch: Batch, ids: list[int], words: str) -> None:
    batch.forget_packs(1 + ids[0] % 8)
    for image_id in ids[1:]:
        row = {"pack_id": 80 + image_id % 5, "collection_id": 1 + ids[0] % 8, "image_id": image_id}
        batch.add("nidm_packs", row)


def record_call(batch: Batch, ids: list[int], words: str) -> None:
    fetch_id = f"{words} {ids}"
    batch.add("fetches", {"fetch_id": fetch_id, "started_at": datetime.now(UTC), "parameters": '{"a": 1}'})
    for id_ in ids:
        reason = f"record 1 of collection {id_ % 8}"
        batch.add("outcomes", {"fetch_id": fetch_id, "kind": "image", "id": None, "reason": reason})
        batch.add("outcomes", {"fetch_id": fetch_id, "kind": "image", "id": id_, "status": "failed"})


CHANGES = (
    change_images,
    change_words,
    change_collections,
    list_images,
    bury,
    drop_files,
    refuse,
    heal,
    list_packs,
    record_call,
)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_landing_does_to_rows_is_in_the_next_one(
    store: Store, change: Callable[[Batch, list[int], str], None]
) -> None:
    batch = Batch()
    refuse(batch, [2, 4, 20, 7], "a")
    list_packs(batch, [3, 9, 21], "a")
    store.land(batch)
    before = snapshot.take(store)
    batch = Batch()
    change(batch, [3, 21, 4], "a")
    store.land(batch)

    later = snapshot.take(store)

    assert 0 < len(written(before, later)) < len(files_of(later)) / 2
    assert_is_as_if_written_whole(store, later)


STEPS = st.tuples(
    st.lists(
        st.tuples(
            st.sampled_from(CHANGES), st.lists(IDS, min_size=1, max_size=6), st.sampled_from(["a", "bb", "ccc"])
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=4))
def test_after_any_landings_a_snapshot_is_as_if_it_were_written_whole(
    published: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[Any], bool]]
) -> None:
    store = copy_of(published, tmp_path_factory.mktemp("any") / "neurovault")
    for changes, publishes in steps:
        batch = Batch()
        for change, ids, words in changes:
            change(batch, ids, words)
        store.land(batch)
        if publishes:
            snapshot.take(store)
            assert not snapshot.is_behind(store)

    assert_is_as_if_written_whole(store, snapshot.take(store))
    shutil.rmtree(store.folder)
