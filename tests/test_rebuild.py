"""A lost catalog is made again of the newest intact snapshot and of the folder, and what is lost is named."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from dying import dies, some_steps
from fetching import FOUR, Once, few_collections, file_of, filled_once, ids, traces
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from pyarrow import parquet

from nvcatalog import Catalog, fetch_neurovault_ids, parts
from nvcatalog._successor import Successor
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import (
    CatalogCorruptError,
    CatalogError,
    CatalogLockedError,
    CatalogWarning,
    DataDirError,
    IncompleteWarning,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fetching import Fetch

    from nvcatalog.rebuild import Rebuilt

pytestmark = pytest.mark.usefixtures("no_waiting")

TOKEN = "ABCDEFGH"
TABLES = parts.TABLES


@pytest.fixture
def catalog(data_dir: Path) -> Path:
    return data_dir / "neurovault/catalog.duckdb"


def fill(world: World, data_dir: Path) -> None:
    """Fetch four maps with terms and a pack, have one refused and one edited, and publish."""
    world.add_nidm_pack(658, "fsl", n_maps=1)
    for id_ in world.image_ids():
        world.set_words(id_, {"pain": id_ / 1e5, "reward": 0.0})
    options: dict[str, Any] = {"data_dir": data_dir, "verbose": 0, "vectorize_words": False}
    fetch_neurovault_ids([3, 658], fetch_neurosynth_words=True, extras=True, **options)
    world.edit_image(3, name="edited")
    with pytest.warns(IncompleteWarning):
        fetch_neurovault_ids([3], [999], max_age=0, **options)
    Catalog(data_dir).snapshot()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Once]:
    with filled_once(tmp_path_factory.mktemp("once"), few_collections(), fill) as once:
        yield once


@pytest.fixture
def world(once: Once) -> World:
    return once.new_world()


@pytest.fixture
def server(once: Once, world: World, monkeypatch: pytest.MonkeyPatch) -> DemoServer:
    return once.as_new(world, monkeypatch)


@pytest.fixture
def filled(once: Once, server: DemoServer, data_dir: Path) -> Path:
    """Return the folder of four maps with terms, a pack, a refusal and a former record, with a snapshot of it."""
    shutil.copytree(once.folder, data_dir, symlinks=True)
    return data_dir / "neurovault"


@pytest.fixture
def rebuild(data_dir: Path) -> Callable[..., Rebuilt]:
    """Return a function that rebuilds the test's catalog, quietly."""
    return lambda **options: Catalog(data_dir).rebuild(verbose=0, **options)


def all_rows(catalog: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, as text."""
    with duckdb.connect(str(catalog), read_only=True) as connection:
        return {
            table: sorted(connection.execute(f"SELECT t::VARCHAR FROM {table} AS t").fetchall())
            for table in TABLES
            if table != "schema_migrations"
        }


# From a snapshot


@pytest.mark.parametrize(
    "damage", [b"", b"no database", bytes(50_000), None], ids=["empty", "text", "zeros", "lost"]
)
def test_a_catalog_is_what_it_was_at_its_last_snapshot(
    filled: Path, catalog: Path, rebuild: Callable[..., Rebuilt], server: DemoServer, damage: bytes | None
) -> None:
    before = all_rows(catalog)
    if damage is None:
        catalog.unlink()
    else:
        catalog.write_bytes(damage)
    server.reset_log()
    done = rebuild()
    assert all_rows(catalog) == before
    assert before["refusals"]
    assert before["record_history"]
    assert done.snapshot is not None
    assert done.adopted.counts == {}
    assert done.rows["images"] == len(before["images"])
    if damage is None:
        assert (done.set_aside, done.why) == (None, "there was none")
    else:
        assert done.set_aside is not None
        assert done.set_aside.read_bytes() == damage
    assert server.requests == 0
    assert Catalog(filled.parent).verify(deep=True, verbose=0)


def test_a_lost_catalog_is_made_again_and_never_made_anew(
    fetch: Fetch, filled: Path, data_dir: Path, catalog: Path, rebuild: Callable[..., Rebuilt], server: DemoServer
) -> None:
    Catalog(data_dir).add_words(
        pd.DataFrame({"image_id": [3], "term": ["mine"], "weight": [1.0]}), reference="mine", replace=True
    )
    Catalog(data_dir).snapshot()
    expected = all_rows(catalog)
    catalog.unlink()
    files = [path for path in (filled / "snapshots").rglob("*") if path.is_file()]
    before, requests = {path: path.read_bytes() for path in files}, server.requests

    for ask in (
        lambda: fetch(image_ids=[3]),
        lambda: fetch(image_ids=[3], mode="offline"),
        lambda: Catalog(data_dir).adopt(verbose=0),
        lambda: Catalog(data_dir).sync(verbose=0),
        lambda: Catalog(data_dir).export(data_dir / "out"),
        lambda: Catalog(data_dir).snapshot(),
        lambda: Catalog(data_dir).forget_words(reference="mine"),
    ):
        with pytest.raises(
            CatalogCorruptError, match=r"is gone, and snapshots of it are there.* nvcatalog rebuild"
        ):
            ask()
    with pytest.warns(CatalogWarning, match="nvcatalog rebuild"):
        assert Catalog(data_dir).sql("SELECT 1 FROM images").fetchall() == []
    assert server.requests == requests
    assert not catalog.exists()
    assert {path: path.read_bytes() for path in files} == before
    assert "nvcatalog rebuild" in str(Catalog(data_dir).doctor())

    rebuild()
    assert all_rows(catalog) == expected


def test_its_words_columns_comments_and_views_are_those_of_any_catalog(
    filled: Path, catalog: Path, rebuild: Callable[..., Rebuilt], data_dir: Path
) -> None:
    described = Catalog(data_dir).sql("SELECT * FROM duckdb_columns() ORDER BY ALL").df()
    matrix, vocabulary = Catalog(data_dir).words(FOUR)
    rebuild(force=True)
    again = Catalog(data_dir).sql("SELECT * FROM duckdb_columns() ORDER BY ALL").df()
    columns = ["table_name", "column_name", "comment", "data_type", "is_nullable"]
    assert again[columns].equals(described[columns])
    matrix_again, vocabulary_again = Catalog(data_dir).words(FOUR)
    assert np.array_equal(matrix_again.toarray(), matrix.toarray())
    assert vocabulary_again.tolist() == vocabulary.tolist()


def test_what_came_after_the_snapshot_and_is_in_the_folder_is_taken_over(
    filled: Path, catalog: Path, fetch: Fetch, world: World, data_dir: Path, rebuild: Callable[..., Rebuilt]
) -> None:
    world.add_labels(14227, ["one", "two"])
    fetch(collection_ids=[1058, 1197], extras=True)
    world.edit_image(4, name="newer than the snapshot", modify_date="2099-01-01T00:00:00Z")
    world.edit_collection(3, name="newer too", modify_date="2099-01-01T00:00:00Z")
    world.replace_file(8718, world.image_bytes(10426) + bytes(100))
    fetch(image_ids=[4, 8718], mode="overwrite")
    catalog.write_bytes(b"")

    done = rebuild()
    assert sorted(outcome.id or 0 for outcome in done.adopted) == [8718, 14227, 14250, 14251, 14252, 16256]
    ask = Catalog(data_dir).sql
    assert ask("SELECT name FROM images WHERE image_id = 4").fetchall() == [("newer than the snapshot",)]
    assert ask("SELECT name FROM collections WHERE collection_id = 3").fetchall() == [("newer too",)]
    assert ask("SELECT kind FROM files WHERE image_id = 14227 ORDER BY 1").fetchall() == [
        ("labels",),
        ("original",),
    ]
    assert ask("SELECT state FROM files WHERE image_id = 8718").fetchall() == [("unverified",)]
    assert Catalog(data_dir).verify(deep=True, verbose=0)
    assert ids(fetch(collection_ids=[3], mode="offline")) == FOUR
    assert file_of(data_dir, 3, 8718).read_bytes() == world.image_bytes(8718)


def test_files_that_are_gone_since_have_no_row(
    filled: Path, catalog: Path, rebuild: Callable[..., Rebuilt], data_dir: Path
) -> None:
    file_of(data_dir, 3, 4).unlink()
    catalog.unlink()
    done = rebuild()
    assert any("1 files that the snapshot knows and that are not here any more" in each for each in done.lost)
    assert Catalog(data_dir).verify(verbose=0)


def test_a_snapshot_that_is_not_intact_gives_way_to_the_one_before(
    filled: Path, catalog: Path, data_dir: Path, rebuild: Callable[..., Rebuilt]
) -> None:
    before = all_rows(catalog)
    good = Catalog(data_dir).snapshot()
    flipped, lacking, older = (shutil.copytree(good, good.with_name(f"2099010{n}T000000Z-1")) for n in (3, 2, 1))
    [records] = (flipped / "raw_records").iterdir()
    records.write_bytes(records.read_bytes()[:-3] + b"\0\0\0")
    [images] = (lacking / "images").iterdir()
    images.unlink()
    # One that an earlier version took knows its rows alone.
    [images] = (older / "images").iterdir()
    parquet.write_table(parquet.read_table(images).slice(1), images)
    for n, place in ((3, flipped), (2, lacking), (1, older)):
        manifest = json.loads((place / "manifest.json").read_text())
        manifest["created_at"] = f"2099-01-0{n}T00:00:00+00:00"
        if place == older:
            del manifest["files"]
        (place / "manifest.json").write_text(json.dumps(manifest))
    (good.parent / "CURRENT").write_text(f"{older.name}\n")
    catalog.unlink()

    done = rebuild()
    assert done.snapshot == good.name
    assert all_rows(catalog) == before
    said = dict(each.split(", which is not intact: ") for each in done.lost[:3])
    assert list(said) == [f"snapshot {place.name}" for place in (older, flipped, lacking)]
    assert "has 5 rows, and its manifest counts 6" in said[f"snapshot {older.name}"]
    assert "has other bytes than were written" in said[f"snapshot {flipped.name}"]
    assert "No such file" in said[f"snapshot {lacking.name}"]


def test_a_snapshot_that_was_given_a_name_is_as_new_as_it_is(
    filled: Path, catalog: Path, data_dir: Path, fetch: Fetch, rebuild: Callable[..., Rebuilt]
) -> None:
    Catalog(data_dir).snapshot("zzz-a-name")
    manifest = filled / "snapshots/zzz-a-name/manifest.json"
    told = json.loads(manifest.read_text()) | {"created_at": "2001-01-01T00:00:00+00:00"}
    manifest.unlink()
    manifest.write_text(json.dumps(told))
    fetch(collection_ids=[1058])
    newer = Catalog(data_dir).snapshot()
    (filled / "snapshots/CURRENT").unlink()
    catalog.unlink()
    assert rebuild().snapshot == newer.name
    shutil.rmtree(newer)
    for other in (filled / "snapshots").glob("2*"):
        shutil.rmtree(other)
    catalog.unlink()
    done = rebuild()
    assert done.snapshot == "zzz-a-name"
    assert sorted(outcome.id or 0 for outcome in done.adopted) == [14250, 14251, 14252]


def test_a_snapshot_of_a_later_version_is_none_of_ours(
    filled: Path, catalog: Path, data_dir: Path, rebuild: Callable[..., Rebuilt]
) -> None:
    place = Catalog(data_dir).snapshot()
    for other in (filled / "snapshots").glob("2*"):
        if other != place:
            shutil.rmtree(other)
    [versions] = (place / "schema_migrations").iterdir()
    table = parquet.read_table(versions)
    later = table.set_column(0, "version", [[n + 1000 for n in table["version"].to_pylist()]])
    parquet.write_table(later, versions)
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"]
    (place / "manifest.json").write_text(json.dumps(manifest))
    catalog.unlink()
    done = rebuild()
    assert done.snapshot is None
    assert "upgrade nvcatalog" in done.lost[0]


# Without one


def test_without_a_snapshot_the_folder_tells_what_it_can(
    filled: Path, catalog: Path, fetch: Fetch, data_dir: Path, rebuild: Callable[..., Rebuilt], server: DemoServer
) -> None:
    shutil.rmtree(filled / "snapshots")
    catalog.write_bytes(b"broken")
    done = rebuild()
    assert done.snapshot is None
    assert done.adopted.counts == {"adopted": 6}
    assert "refusals" in done.lost[0]
    assert "the metadata files alone" in repr(done)
    server.reset_log()
    maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    assert ids(maps) == FOUR
    assert not server.hits("/media/*")


def test_metadata_that_cannot_be_read_is_named(
    filled: Path, catalog: Path, rebuild: Callable[..., Rebuilt]
) -> None:
    shutil.rmtree(filled / "snapshots")
    (filled / "collection_3/image_4_metadata.json").write_bytes(b"{")
    catalog.unlink()
    [said] = [each for each in rebuild().lost if "cannot be read" in each]
    assert "1 metadata files" in said
    assert "image_4_metadata.json" in said


# What is lost


def test_tokens_are_named_as_lost_and_private_collections_come_back_from_the_folder(
    fetch: Fetch, world: World, data_dir: Path, catalog: Path, rebuild: Callable[..., Rebuilt]
) -> None:
    fetch(collection_ids=[1058])
    world.make_private(3, TOKEN)
    fetch(collection_ids=[TOKEN])
    Catalog(data_dir).snapshot()
    catalog.write_bytes(b"")
    done = rebuild()
    assert any("the tokens of private collections (3)" in each for each in done.lost)
    assert sorted(outcome.id or 0 for outcome in done.adopted) == FOUR
    assert TOKEN not in repr(done)
    # They stay out of snapshots.
    published = parquet.read_table(Catalog(data_dir).snapshot() / "images")
    assert sorted(published["image_id"].to_pylist()) == [14250, 14251, 14252]
    assert ids(fetch(collection_ids=[TOKEN])) == FOUR


def test_it_says_what_it_made_and_what_is_lost(
    filled: Path, catalog: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog.unlink()
    done = Catalog(data_dir).rebuild(verbose=1)
    said = capsys.readouterr()
    assert said.out == ""
    assert f"made of snapshot {done.snapshot} (2 collections, 6 images)" in said.err
    assert "Not restored: what landed after " in said.err


# When not to


def test_a_catalog_that_can_be_read_is_left_alone_unless_it_must_be(
    filled: Path, catalog: Path, rebuild: Callable[..., Rebuilt]
) -> None:
    before = traces(filled)
    with pytest.raises(CatalogError, match="there is nothing to rebuild") as raised:
        rebuild()
    assert not isinstance(raised.value, CatalogCorruptError)
    assert traces(filled) == before
    rows = all_rows(catalog)
    done = rebuild(force=True)
    assert all_rows(catalog) == rows
    assert done.set_aside is not None
    assert all_rows(done.set_aside) == rows


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE outcomes",
        "DROP VIEW stat_maps",
        "UPDATE raw_records SET raw = '[1]' WHERE id = 3",
    ],
)
def test_what_somebody_has_spoilt_is_a_reason(
    filled: Path, catalog: Path, rebuild: Callable[..., Rebuilt], statement: str
) -> None:
    before = all_rows(catalog)
    with duckdb.connect(str(catalog)) as connection:
        connection.execute(statement)
    assert rebuild().why
    assert all_rows(catalog) == before


def test_damage_deep_inside_is_found_by_reading_all(
    filled: Path, catalog: Path, rebuild: Callable[..., Rebuilt]
) -> None:
    before = all_rows(catalog)
    data = bytearray(catalog.read_bytes())
    for place in range(12288 + 1000, len(data), 256 * 1024):
        data[place : place + 64] = os.urandom(64)
    catalog.write_bytes(data)
    rebuild()
    assert all_rows(catalog) == before


def test_there_must_be_a_folder(data_dir: Path, rebuild: Callable[..., Rebuilt]) -> None:
    with pytest.raises(DataDirError, match="does not exist"):
        rebuild()
    assert not data_dir.exists()


def test_a_catalog_that_somebody_makes_meanwhile_stays(
    filled: Path, catalog: Path, data_dir: Path, rebuild: Callable[..., Rebuilt], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = all_rows(catalog)
    elsewhere = catalog.rename(data_dir / "moved.duckdb")
    take_place = Successor.take_place

    def too_late(successor: Successor) -> Path | None:
        shutil.copy(elsewhere, catalog)
        return take_place(successor)

    monkeypatch.setattr(Successor, "take_place", too_late)
    with pytest.raises(CatalogLockedError, match="changed by somebody else meanwhile"):
        rebuild()
    assert all_rows(catalog) == before
    assert not list(filled.glob(".*.part*"))


def test_the_log_of_the_former_catalog_goes_along_with_it(
    filled: Path, catalog: Path, rebuild: Callable[..., Rebuilt]
) -> None:
    before = all_rows(catalog)
    catalog.write_bytes(b"broken")
    catalog.with_name("catalog.duckdb.wal").write_bytes(b"broken too")
    done = rebuild()
    assert done.set_aside is not None
    assert done.set_aside.with_name(f"{done.set_aside.name}.wal").read_bytes() == b"broken too"
    assert all_rows(catalog) == before


# Death at any step


def test_whenever_it_is_killed_the_former_catalog_or_the_new_one_is_there(
    filled: Path, catalog: Path, data_dir: Path, tmp_path: Path
) -> None:
    before = all_rows(catalog)
    catalog.write_bytes(b"broken")
    for at in some_steps(every=3):
        copy = tmp_path / str(at)
        shutil.copytree(data_dir, copy, symlinks=True)
        came_so_far = dies(at, "rebuild", copy)
        place = copy / "neurovault/catalog.duckdb"
        assert place.exists(), f"step {at}: a call would make an empty one"
        if place.read_bytes() == b"broken":
            Catalog(copy).rebuild(verbose=0)
        assert all_rows(place) == before, f"step {at}"
        assert b"broken" in [path.read_bytes() for path in place.parent.glob("catalog.duckdb.broken-*")]
        if not came_so_far:
            break
    assert at > 5
