"""Which snapshots there are, by what names, how old they are and how long they are kept."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvcatalog import Catalog, kept, parts, snapshot
from nvcatalog._batch import Batch
from nvcatalog._store import Store
from nvcatalog.errors import InvalidOptionError, SnapshotError, SnapshotWarning


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


class BytesPath:
    """A path as the system has it."""

    def __fspath__(self) -> bytes:
        return b"paper-v1"


@pytest.mark.parametrize(
    "name",
    [
        *("../snapshots/paper-v1", "", ".", "CURRENT", "paper", None, "a\0b", "a\nb", "a\udc80", "a" * 300),
        *("a" * 10_000, Path("a" * 300), Path("a\0b"), Path("a\udc80"), BytesPath()),
    ],
    ids=lambda name: repr(name)[:30],
)
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


FILE = {"rows": 1, "bytes": 2, "sha256": "ab", "key": "cd"}
DAMAGED = {
    "{": "Expecting",
    "": "Expecting",
    "[" * 100_000: "recursion",
    "null": "it is None",
    "[1]": r"it is \[1\], where names with values belong",
    '{"schema_version": "9"}': "schema_version is '9', where a whole number belongs",
    '{"rows": [3]}': r"rows is \[3\]",
    '{"rows": {"images": "many"}}': "rows: images is 'many'",
    '{"files": []}': "files is",
    '{"files": {"images/part-0.parquet": null}}': "images/part-0.parquet is None",
    '{"files": {"images/part-0.parquet": {"rows": 1}}}': "images/part-0.parquet: bytes is not there",
    json.dumps({"files": {"images/part-0.parquet": FILE | {"key": 7}}}): "key is 7, where a text belongs",
    json.dumps({"files": {"../../mine.parquet": FILE}}): "files has '../../mine.parquet'",
    json.dumps({"files": {"images/part-x.parquet": FILE}}): "files has 'images/part-x.parquet'",
    json.dumps({"layouts": {"images": {"origin": "ab"}}}): "layouts: 'images': numbers_a_file is not there",
}


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:60])
def test_a_manifest_that_cannot_be_read_is_an_error_that_names_it_and_says_why(home: Path, text: str) -> None:
    place = add_snapshot(home, "paper-v1")
    (place / "manifest.json").write_text(text)

    with pytest.raises(SnapshotError, match=rf"paper-v1.manifest\.json cannot be read: .*{DAMAGED[text]}"):
        kept.read_manifest(place)
    assert kept.manifest_with_files(place) == {}


@given(data=st.data())
def test_whatever_a_manifest_holds_it_is_sound_or_a_snapshot_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("any")
    manifest = json.loads(json.dumps(SOUND))
    inside = data.draw(st.sampled_from([manifest, *objects_in(manifest)]))
    inside[data.draw(st.sampled_from([*inside, "new"]))] = data.draw(ANY)
    place = add_snapshot(home, "20260102T030405Z-1", **manifest)

    try:
        kept.read_manifest(place)
    except SnapshotError:
        assert kept.manifest_with_files(place) == {}
    else:
        parts.layouts_of(kept.manifest_with_files(place))
        kept.age(place)
        with suppress(SnapshotError):  # its files are not there
            kept.files_of(place)


SOUND = {
    "created_at": "2026-01-02T03:04:05+00:00",
    "schema_version": 5,
    "rows": {"images": 1},
    "files": {"images/part-0.parquet": FILE},
    "layouts": {"images": {"origin": "ab", "numbers_a_file": 0}},
}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def objects_in(value: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [each for each in value.values() if isinstance(each, dict)]
    return inner + [deeper for each in inner for deeper in objects_in(each)]


def test_a_newest_one_that_is_damaged_is_passed_over_for_an_older_one(home: Path) -> None:
    for name in ("20250102T030405Z-1", "20250102T030405Z-2", "paper-v1"):
        add_snapshot(home, name)
    assert kept.why_passed_over(home) is None
    for name in ("20260102T030405Z-1", "20250102T030405Z-2"):
        (home / name / "manifest.json").write_text("[]")

    assert kept.newest(home) == home / "20250102T030405Z-1"
    assert kept.current(home) == home / "20260102T030405Z-1"
    assert "20260102T030405Z-1/manifest.json cannot be read" in (kept.why_passed_over(home) or "")


def test_where_the_newest_one_is_damaged_the_next_one_is_written_and_says_so(catalog: Catalog) -> None:
    newest = catalog.snapshot()
    for text in DAMAGED:
        (newest / "manifest.json").write_text(text)
        assert snapshot.is_behind(Store(catalog.folder)), text
        with pytest.warns(
            SnapshotWarning, match=r"manifest\.json cannot be read: .* A new snapshot, .*, is there"
        ):
            newest = catalog.snapshot()
        assert (newest / "images" / "part-0.parquet").is_file(), text

    with catalog.connect() as connection:
        assert connection.execute("SELECT name FROM images").fetchall() == [("a map",)]


def test_one_that_is_asked_for_and_damaged_is_an_error_that_says_why(catalog: Catalog) -> None:
    catalog.snapshot()
    (catalog.snapshot("paper-v1") / "manifest.json").write_text("[]")

    with pytest.raises(SnapshotError, match=r"paper-v1.manifest\.json cannot be read: it is \[\]"):
        catalog.connect("paper-v1")
    with pytest.raises(SnapshotError, match=r"paper-v1.manifest\.json cannot be read: it is \[\]"):
        catalog.diff("paper-v1")


def test_without_a_catalog_to_write_one_of_the_older_one_is_read_with_a_word(catalog: Catalog) -> None:
    older, newest = catalog.snapshot(), catalog.snapshot()
    (newest / "manifest.json").write_text("[]")
    (catalog.folder / "catalog.duckdb").unlink()

    with (
        pytest.warns(SnapshotWarning, match=rf"manifest\.json cannot be read: .*, {older.name}$"),
        catalog.connect() as connection,
    ):
        assert connection.execute("SELECT name FROM images").fetchall() == [("a map",)]


# Who reads them


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_reader_says_so_by_the_lock_that_the_file_system_has(
    home: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK", kind)
    place, let_go = kept.hold(home / "20260102T030405Z-1")
    (mark,) = (home / ".held").iterdir()
    assert mark.name.endswith(".soft") == (kind == "soft")
    for other in ("hard", "soft"):
        monkeypatch.setenv("NVCATALOG_LOCK", other)
        prune_as_the_oldest(home)
        assert place.is_dir()

    let_go()

    assert list((home / ".held").iterdir()) == []
    prune_as_the_oldest(home)
    assert not place.exists()


def prune_as_the_oldest(home: Path) -> None:
    names = [f"20270102T030405Z-{number}" for number in range(1, 5)]
    for name in names:
        if not (home / name).exists():
            add_snapshot(home, name)
    kept.prune(home, keep=home / names[-1])


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
        *("a\0b", "a\x1b[31m", "a\udc80", "a" * 201, "a" * 100_000, Path("a"), ["a"]),
    ],
)
def test_what_cannot_be_a_name_is_refused(catalog: Catalog, name: str) -> None:
    with pytest.raises(InvalidOptionError, match="name is") as caught:
        catalog.snapshot(name)

    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 600
    assert not (catalog.folder / "snapshots").exists()


def test_a_long_name_can_be_read_by_too(catalog: Catalog) -> None:
    place = catalog.snapshot("a" * 200)

    with catalog.connect(place.name):
        assert len(list(place.parent.glob(".held/*"))) == 1


def test_a_name_that_is_taken_is_refused_and_the_snapshot_stays_as_it_was(catalog: Catalog) -> None:
    place = catalog.snapshot("paper-v1")
    before = (place / "manifest.json").read_bytes()

    with pytest.raises(InvalidOptionError, match="paper-v1 is there already"):
        catalog.snapshot("paper-v1")

    assert (place / "manifest.json").read_bytes() == before
