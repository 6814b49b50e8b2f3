"""Every file is compared with its row, and what belongs to none is found; nothing is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from fetching import fetch as fetch
from fetching import file_of, traces, write
from fetching import no_waiting as no_waiting
from fetching import open_dir as open_dir
from fetching import world as world
from oracle import nilearn as nilearn
from oracle import nilearn_dir as nilearn_dir
from test_store import as_nobody
from waiting import PATIENCE_S, started, wait_until

from nvcatalog import Catalog, verify
from nvcatalog._store import Store
from nvcatalog.errors import CatalogCorruptError, CatalogWarning
from nvcatalog.moving import Mover
from nvcatalog.verify import Verification

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")

YESTERDAY = time.time() - 25 * 3600


@pytest.fixture
def filled(fetch: Fetch, data_dir: Path) -> Path:
    """Return the folder of four maps."""
    fetch(collection_ids=[3])
    return data_dir / "neurovault"


@pytest.fixture
def look(data_dir: Path) -> Callable[..., Verification]:
    """Return a function that verifies the test's folder, quietly."""
    return lambda **options: Catalog(data_dir).verify(verbose=0, **options)


def kinds(found: Verification) -> dict[str, str]:
    """Return what is wrong, by path."""
    return {problem.path: problem.kind for problem in found.problems}


# What is well


def test_what_was_fetched_is_as_it_should_be_and_a_look_writes_nothing(
    filled: Path, look: Callable[..., Verification], server: DemoServer
) -> None:
    server.reset_log()
    before = traces(filled)
    for deep in (False, True):
        found = look(deep=deep)
        assert found
        assert found.ok
        assert found.findings == ()
        assert (found.files, found.deep) == (4, deep)
        assert found.bytes == sum(path.stat().st_size for path in filled.glob("collection_3/*.nii.gz"))
        assert "all is well" in repr(found)
    assert traces(filled) == before
    assert server.requests == 0


def test_what_was_taken_over_from_nilearn_is_as_it_should_be(
    nilearn: Fetch, nilearn_dir: Path, fetch: Fetch
) -> None:
    nilearn(collection_ids=[3], fetch_neurosynth_words=True)
    Catalog(nilearn_dir).adopt(verbose=0)
    assert Catalog(nilearn_dir).verify(deep=True, verbose=0).findings == ()
    file_of(nilearn_dir, 3, 4).write_bytes(b"\0" * file_of(nilearn_dir, 3, 4).stat().st_size)
    found = Catalog(nilearn_dir).verify(deep=True, verbose=0)
    assert [problem.kind for problem in found.problems] == ["corrupt"]
    assert "no whole file" in found.problems[0].reason


def test_a_folder_that_may_only_be_read_is_verified_and_left_alone(fetch: Fetch, open_dir: Path) -> None:
    home = open_dir
    fetch(collection_ids=[3], data_dir=home)
    file_of(home, 3, 4).write_bytes(b"not a map")
    for path in (home / "neurovault", *(home / "neurovault").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = traces(home)

    def read() -> None:
        assert Catalog(home).verify(deep=True, verbose=0).counts == {"corrupt": 1}
        assert Catalog(home).usage("kind").df()["files"].sum() > 4
        assert "no: " in str(Catalog(home).doctor(timeout=1))

    assert as_nobody(read) == "fine"
    assert traces(home) == before


# Files with a row


def test_files_that_are_gone_or_of_another_size_are_found_without_reading_any(
    filled: Path, look: Callable[..., Verification]
) -> None:
    (filled / "collection_3/image_3.nii.gz").unlink()
    path = filled / "collection_3/image_4.nii.gz"
    path.write_bytes(path.read_bytes()[:-1])
    found = look()
    assert not found
    assert kinds(found) == {"collection_3/image_3.nii.gz": "missing", "collection_3/image_4.nii.gz": "corrupt"}
    assert found.counts == {"missing": 1, "corrupt": 1}
    assert f"it has {path.stat().st_size:,} bytes, and {path.stat().st_size + 1:,} are recorded" in (
        found.problems[1].reason
    )
    frame = found.df()
    assert frame[["kind", "image_id", "problem"]].values.tolist() == [
        ["missing", 3, True],
        ["corrupt", 4, True],
    ]


def test_one_bit_that_has_flipped_is_found_by_reading(filled: Path, look: Callable[..., Verification]) -> None:
    path = filled / "collection_3/image_8718.nii.gz"
    data = bytearray(path.read_bytes())
    data[5] ^= 1  # in gzip's own note of the time, which nothing but the sha256 covers
    path.write_bytes(data)
    assert look()
    [problem] = look(deep=True).problems
    assert problem[:3] == ("corrupt", 8718, "collection_3/image_8718.nii.gz")
    assert "not the bytes that were proven: sha256 " in problem.reason


def test_a_whole_folder_that_is_gone_is_missing_file_by_file(
    filled: Path, look: Callable[..., Verification]
) -> None:
    shutil.rmtree(filled / "collection_3")
    assert look(deep=True).counts == {"missing": 4}


def test_files_beside_the_maps_are_read_as_what_they_are(
    fetch: Fetch, world: World, data_dir: Path, look: Callable[..., Verification]
) -> None:
    world.add_labels(14227, ["one", "two"])
    world.add_surfaces(3)
    world.add_nidm_pack(3, "fsl")
    fetch(collection_ids=[3, 1197], extras=True)
    assert look(deep=True).findings == ()
    beside = [path for path in (data_dir / "neurovault").rglob("collection_*/*") if path.suffix in SUFFIXES]
    assert len(beside) == 5
    for path in beside:
        data = path.read_bytes()
        path.write_bytes(bytes(len(data)))
    assert look(deep=True).counts == {"corrupt": 5}


SUFFIXES = (".xml", ".gii", ".zip", ".ttl")


def test_a_row_that_names_another_place_is_never_followed(
    filled: Path, data_dir: Path, look: Callable[..., Verification]
) -> None:
    victim = data_dir / "victim"
    victim.write_bytes(b"mine")
    write(data_dir, "UPDATE files SET path = '../victim', size = 4 WHERE image_id = 3")
    [problem] = [each for each in look(deep=True).problems if each.kind == "missing"]
    assert problem.path == "../victim"
    assert "names a place where no file of ours can be" in problem.reason


# Files without one


def test_what_has_no_row_is_a_stray_if_it_is_named_as_ours_are(
    filled: Path, look: Callable[..., Verification]
) -> None:
    place = filled / "collection_3"
    strays = {
        "image_99.nii.gz",
        "image_4_resampled.nii.gz",
        "image_99_metadata.json",
        "neurosynth_words_for_image_99.json",
        "image_3_labels.xml",
    }
    for name in (*strays, "notes.txt"):
        (place / name).write_text("anything")
    (filled / "collection_4").mkdir()
    (filled / "collection_4/collection_metadata.json").write_text("{}")
    (filled / "collection_4/image_3_metadata.json").write_text("{}")
    (filled / "maps.lock.json").write_text("{}")
    found = look()
    assert found.counts == {"stray": 7}
    assert kinds(found).keys() == {f"collection_3/{name}" for name in strays} | {
        "collection_4/collection_metadata.json",
        "collection_4/image_3_metadata.json",
    }
    notes = {finding.path: finding.kind for finding in found.findings if not finding.is_problem}
    assert notes == {"collection_3/notes.txt": "foreign", "maps.lock.json": "foreign"}


def test_temporary_files_are_leftovers_once_nobody_can_be_writing_to_them(
    filled: Path, look: Callable[..., Verification]
) -> None:
    for path in (filled / ".catalog.duckdb.new", filled / "collection_3/.image_3.nii.gz.1-0123abcd.part"):
        path.write_bytes(b"half")
    assert look()
    for path in (filled / ".catalog.duckdb.new", filled / "collection_3/.image_3.nii.gz.1-0123abcd.part"):
        os.utime(path, (YESTERDAY, YESTERDAY))
    assert look().counts == {"leftover": 2}


def test_the_folder_keeps_its_own_house(filled: Path, look: Callable[..., Verification], data_dir: Path) -> None:
    Catalog(data_dir).snapshot()
    (filled / ".locks").mkdir(exist_ok=True)
    (filled / "quarantine").mkdir()
    (filled / "quarantine/image_3.nii.gz").write_bytes(b"")
    assert look().findings == ()


def test_metadata_that_nilearn_needs_is_missed_and_read(
    filled: Path, fetch: Fetch, look: Callable[..., Verification]
) -> None:
    fetch(image_ids=[4], fetch_neurosynth_words=True)
    place = filled / "collection_3"
    (place / "image_3_metadata.json").unlink()
    (place / "collection_metadata.json").unlink()
    assert kinds(look()) == {
        "collection_3/collection_metadata.json": "sidecar",
        "collection_3/image_3_metadata.json": "sidecar",
    }
    for name in ("image_4_metadata.json", "neurosynth_words_for_image_4.json"):
        (place / name).write_bytes((place / name).read_bytes()[:-9])
    (place / "image_8718_metadata.json").write_text('{"id": 5}')
    assert look().counts == {"sidecar": 2}
    found = {problem.path.partition("/")[2]: problem.reason for problem in look(deep=True).problems}
    assert len(found) == 5
    assert "cut off" in found["image_4_metadata.json"]
    assert "not the record of 8718" in found["image_8718_metadata.json"]


def test_the_same_bytes_under_several_ids_are_named_and_no_problem(
    fetch: Fetch, world: World, look: Callable[..., Verification]
) -> None:
    for id_ in (8718, 8719):
        world.replace_file(id_, world.image_bytes(3))
    fetch(collection_ids=[3])
    found = look()
    assert found.ok
    assert [(each.image_id, each.reason) for each in found.duplicates] == [
        (3, "the same bytes as image 8718 and 1 more"),
        (8718, "the same bytes as image 3"),
        (8719, "the same bytes as image 3"),
    ]
    assert found.df()["problem"].tolist() == [False] * 3


def test_a_folder_without_a_catalog_holds_strays_alone(filled: Path, look: Callable[..., Verification]) -> None:
    (filled / "catalog.duckdb").unlink()
    with pytest.warns(CatalogWarning, match="no catalog"):
        found = look()
    assert found.counts == {"stray": 9}


def test_no_folder_at_all_has_no_problem(look: Callable[..., Verification], data_dir: Path) -> None:
    with pytest.warns(CatalogWarning, match="no catalog"):
        assert look()
    assert not data_dir.exists()


def test_a_corrupt_catalog_says_how_to_rebuild_it(filled: Path, look: Callable[..., Verification]) -> None:
    (filled / "catalog.duckdb").write_bytes(b"nothing")
    with pytest.raises(CatalogCorruptError, match="nvcatalog rebuild --data-dir"):
        look()


def test_a_folder_that_cannot_be_listed_is_told_of_once(fetch: Fetch, open_dir: Path) -> None:
    home = open_dir
    fetch(collection_ids=[3], data_dir=home)
    (home / "neurovault/collection_3").chmod(0)

    def read() -> None:
        found = Catalog(home).verify(deep=True, verbose=0)
        assert found.counts == {"unreadable": 1}
        assert "Permission denied" in found.problems[0].reason

    assert as_nobody(read) == "fine"


def test_a_file_that_cannot_be_read_is_not_called_corrupt(fetch: Fetch, open_dir: Path) -> None:
    fetch(collection_ids=[3], data_dir=open_dir)
    file_of(open_dir, 3, 4).chmod(0)
    (open_dir / "neurovault/collection_3/image_8718_metadata.json").chmod(0)

    def read() -> None:
        assert Catalog(open_dir).verify(verbose=0)
        assert Catalog(open_dir).verify(deep=True, verbose=0).counts == {"unreadable": 1, "sidecar": 1}

    assert as_nobody(read) == "fine"


# Beside others


def test_what_another_process_does_meanwhile_is_no_problem(
    filled: Path, fetch: Fetch, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_at = verify._look_at

    def fetched_and_overwritten_meanwhile(*arguments: object, **options: object) -> object:
        write(data_dir, "UPDATE files SET sha256 = 'of an earlier file' WHERE image_id = 3")
        rows = verify.file_rows(Store(filled))
        fetch(collection_ids=[1058])
        fetch(image_ids=[3], mode="overwrite")
        (filled / "collection_3/image_4.nii.gz").unlink()
        write(data_dir, "DELETE FROM files WHERE image_id = 4")
        return look_at(filled, rows, verbose=0)

    monkeypatch.setattr(verify, "_look_at", fetched_and_overwritten_meanwhile)
    assert Catalog(data_dir).verify(deep=True, verbose=0).problems == ()


def test_what_a_running_call_has_yet_to_land_is_left_alone_and_told_of(
    filled: Path, fetch: Fetch, look: Callable[..., Verification], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = filled / "collection_3/image_98.nii.gz"
    old.write_bytes(b"of a call that was killed yesterday")
    os.utime(old, (YESTERDAY, YESTERDAY))
    put, go_on = Mover._put_download, threading.Event()

    def put_late(*arguments: Any) -> None:
        assert go_on.wait(PATIENCE_S)
        put(*arguments)

    monkeypatch.setattr(Mover, "_put_download", put_late)
    with ThreadPoolExecutor(1) as pool:
        try:
            call = pool.submit(fetch, collection_ids=[1058])
            wait_until(lambda: len(list(filled.glob("collection_1058/*.nii.gz"))) == 3)
            found = look()
        finally:
            go_on.set()
        call.result()
    assert kinds(found) == {"collection_3/image_98.nii.gz": "stray"}
    notes = {finding.path: finding for finding in found.findings if finding.kind == "unlanded"}
    assert all(path.startswith("collection_1058/") for path in notes)
    assert "a running call may land it yet" in next(iter(notes.values())).reason
    assert f"1 stray; {len(notes)} of a call that is running" in found.summary
    after = look()
    assert kinds(after) == {"collection_3/image_98.nii.gz": "stray"}
    assert len(after.findings) == 1


def test_a_call_that_is_killed_leaves_strays(filled: Path, look: Callable[..., Verification]) -> None:
    (filled / "collection_3/image_98.nii.gz").write_bytes(b"")
    sign = "import sys; from pathlib import Path; from nvcatalog._locks import Underway\n"
    show = f"{sign}Underway(Path(sys.argv[1])).show()\nprint('shown', flush=True); sys.stdin.read()"
    with started(
        [sys.executable, "-c", show, str(filled)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "shown\n"
        assert look().counts == {}
        process.kill()
        process.wait()
        assert look().counts == {"stray": 1}


def test_neurosynths_terms_that_were_forgotten_are_no_stray_and_are_read(
    filled: Path, fetch: Fetch, look: Callable[..., Verification], data_dir: Path
) -> None:
    fetch(image_ids=[4], fetch_neurosynth_words=True)
    assert Catalog(data_dir).forget_words([4], reference="terms_20k") == 1
    path = "collection_3/neurosynth_words_for_image_4.json"
    for deep in (False, True):
        found = look(deep=deep)
        assert found.ok
        assert {finding.path: finding.kind for finding in found.findings} == {path: "unlanded"}
    (filled / path).write_text("[]")
    found = look(deep=True)
    assert {finding.path: finding.kind for finding in found.findings} == {path: "sidecar"}


def test_a_summary_and_a_bar_say_how_it_goes(
    filled: Path, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Catalog(data_dir).verify(deep=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "4 files read" in said.err
    assert "Reading: 100%" in said.err
