"""Which snapshots there are, by what names, how old they are and how long they are kept."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nvcatalog import Catalog, kept
from nvcatalog._batch import Batch
from nvcatalog._store import Store
from nvcatalog.errors import InvalidOptionError, SnapshotError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder of one snapshot, without anything in it."""
    home = tmp_path / "snapshots"
    add_snapshot(home, "20260102T030405Z-1")
    (home / "CURRENT").write_text("20260102T030405Z-1\n")
    return home


def add_snapshot(home: Path, name: str, **manifest: object) -> Path:
    (home / name).mkdir(parents=True)
    (home / name / "manifest.json").write_text(json.dumps(manifest))
    return home / name


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog(tmp_path)
    batch = Batch()
    batch.add_record("image", {"id": 71, "collection_id": 7, "name": "a map"})
    Store(catalog.folder).land(batch)
    return catalog


# Which there are


@pytest.mark.parametrize("content", ["gone-1\n", "", "..", "../snapshots", "\udc80", "20260102T030405Z-1/.."])
def test_what_current_names_is_the_newest_only_if_it_is_a_snapshot_here(home: Path, content: str) -> None:
    assert kept.newest(home) == home / "20260102T030405Z-1"
    (home / "CURRENT").write_bytes(content.encode("utf-8", "surrogateescape"))

    assert kept.newest(home) is None


def test_a_snapshot_is_found_by_its_name_and_by_its_folder(home: Path) -> None:
    place = add_snapshot(home, "paper-v1")

    assert kept.find(home, "paper-v1") == kept.find(home / "elsewhere", place) == place


@pytest.mark.parametrize("name", ["../snapshots/paper-v1", "", ".", "CURRENT", "paper", None])
def test_what_is_no_snapshot_is_refused_with_those_that_there_are(home: Path, name: str) -> None:
    add_snapshot(home, "paper-v1")

    with pytest.raises(InvalidOptionError, match="there are: 20260102T030405Z-1, paper-v1"):
        kept.find(home, name)


@pytest.mark.parametrize(
    ("old", "told"),
    [
        (timedelta(seconds=5), "5 seconds"),
        (timedelta(seconds=119), "119 seconds"),
        (timedelta(minutes=3), "3 minutes"),
        (timedelta(hours=47), "47 hours"),
        (timedelta(days=400), "400 days"),
        (timedelta(days=-1), "0 seconds"),
    ],
)
def test_its_age_is_told_in_a_unit_that_people_count_in(home: Path, old: timedelta, told: str) -> None:
    place = add_snapshot(home, "paper-v1", created_at=(datetime.now(UTC) - old).isoformat())

    unit = told.split()[1]
    assert kept.age(place) in (told, f"{int(told.split()[0]) + 1} {unit}")


@pytest.mark.parametrize("created_at", [None, 7, "yesterday"])
def test_one_that_does_not_say_when_it_was_taken_is_as_old_as_its_manifest(home: Path, created_at: object) -> None:
    place = add_snapshot(home, "paper-v1", created_at=created_at)

    assert kept.age(place).endswith(" seconds")


def test_a_manifest_that_cannot_be_read_is_an_error_that_names_it(home: Path) -> None:
    place = add_snapshot(home, "paper-v1")
    (place / "manifest.json").write_text("{")

    with pytest.raises(SnapshotError, match=r"paper-v1.manifest\.json cannot be read"):
        kept.read_manifest(place)
    assert kept.manifest_with_files(place) == {}


# How long they are kept


def test_the_last_three_are_kept_and_all_that_have_a_name(home: Path) -> None:
    names = [f"20260102T030405Z-{number}" for number in range(2, 13)]
    for name in (*names, "paper-v1", "2025-06-01", "20250102"):
        add_snapshot(home, name)

    kept.prune(home, keep=home / names[-1])

    there = {path.parent.name for path in home.glob("*/manifest.json")}
    assert there == {*names[-3:], "paper-v1", "2025-06-01", "20250102"}


def test_one_that_is_removed_before_it_is_held_is_followed_by_the_newest(home: Path) -> None:
    place, let_go = kept.hold(home / "20250102T030405Z-1")
    let_go()

    assert place == home / "20260102T030405Z-1"
    shutil.rmtree(place)
    with pytest.raises(SnapshotError, match="has been removed"):
        kept.hold(place)


def test_reading_a_snapshot_that_lies_somewhere_leaves_nothing_there(tmp_path: Path) -> None:
    place = add_snapshot(tmp_path / "copies", "paper-v1")

    _, let_go = kept.hold(place)

    assert [path.name for path in place.parent.iterdir()] == ["paper-v1"]
    let_go()


# Names


def test_one_with_a_name_is_kept_for_good_and_the_newest_is_another(catalog: Catalog) -> None:
    place = catalog.snapshot("paper-v1")
    for _ in range(5):
        catalog.snapshot()

    assert place == catalog.folder / "snapshots" / "paper-v1"
    assert json.loads((place / "manifest.json").read_text())["name"] == "paper-v1"
    newest = kept.newest(place.parent)
    assert newest is not None
    assert newest != place
    file = "images/part-0.parquet"
    assert (place / file).samefile(newest / file), "it takes no room of its own"
    with catalog.connect("paper-v1") as connection:
        assert connection.execute("SELECT name FROM images").fetchall() == [("a map",)]


@pytest.mark.parametrize(
    "name",
    [
        *("a/b", "/tmp/x", "..", ".", "", ".hidden", "CURRENT", "current", "latest", "Latest", "manifest.json"),
        *("20260102T030405Z-1", "a b", "a\\b", "a:b", "name.", "pâper", "line\n", 7, b"x"),
    ],
)
def test_what_cannot_be_a_name_is_refused(catalog: Catalog, name: str) -> None:
    with pytest.raises(InvalidOptionError, match="name is") as caught:
        catalog.snapshot(name)

    assert isinstance(caught.value, ValueError)
    assert not (catalog.folder / "snapshots").exists()


def test_a_name_that_is_taken_is_refused_and_the_snapshot_stays_as_it_was(catalog: Catalog) -> None:
    place = catalog.snapshot("paper-v1")
    before = (place / "manifest.json").read_bytes()

    with pytest.raises(InvalidOptionError, match="paper-v1 is there already"):
        catalog.snapshot("paper-v1")

    assert (place / "manifest.json").read_bytes() == before
