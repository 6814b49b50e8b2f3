"""The commands that keep a folder in order, run as people run them."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import TYPE_CHECKING

import pytest
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world
from test_cli import nvcatalog as nvcatalog

from nvcatalog import Catalog

if TYPE_CHECKING:
    from pathlib import Path

    from fetching import Fetch
    from test_cli import Done, Run

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def filled(fetch: Fetch, data_dir: Path) -> Path:
    fetch(collection_ids=[3])
    return data_dir / "neurovault"


def rows(done: Done) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(done.stdout.decode())))


def test_verify_ends_with_status_1_when_something_is_wrong(nvcatalog: Run, filled: Path, data_dir: Path) -> None:
    done = nvcatalog("verify", "--deep", "--data-dir", data_dir)
    assert (done.returncode, rows(done)) == (0, [])
    assert b"all is well" in done.stderr
    path = filled / "collection_3/image_4.nii.gz"
    path.write_bytes(bytes(path.stat().st_size))
    assert nvcatalog("verify", "--data-dir", data_dir).returncode == 0
    done = nvcatalog("verify", "--deep", "--quiet", "--data-dir", data_dir)
    assert done.returncode == 1
    assert [(row["kind"], row["image_id"], row["path"]) for row in rows(done)] == [
        ("corrupt", "4", "collection_3/image_4.nii.gz")
    ]
    assert done.stderr == b""


def test_verify_names_duplicates_when_asked(nvcatalog: Run, fetch: Fetch, world: World, data_dir: Path) -> None:
    world.replace_file(4, world.image_bytes(3))
    fetch(collection_ids=[3])
    done = nvcatalog("verify", "--data-dir", data_dir)
    assert (done.returncode, rows(done)) == (0, [])
    assert b"2 files have the bytes of another image's: --notes names them" in done.stderr
    done = nvcatalog("verify", "--notes", "--data-dir", data_dir)
    assert [(row["kind"], row["problem"]) for row in rows(done)] == [("duplicate", "false")] * 2
    assert done.returncode == 0


def test_repair_says_what_it_did_to_each_file(nvcatalog: Run, filled: Path, data_dir: Path, world: World) -> None:
    (filled / "collection_3/image_3.nii.gz").write_bytes(b"no map")
    (filled / "collection_3/image_4.nii.gz").unlink()
    world.delete_image(4)
    done = nvcatalog("repair", "--data-dir", data_dir)
    assert done.returncode == 1
    assert {row["image_id"]: row["action"] for row in rows(done)} == {"3": "restored", "4": "left"}
    assert b"1 files could not be put right" in done.stderr
    done = nvcatalog("repair", "--offline", "--shallow", "--quiet", "--data-dir", data_dir)
    assert done.returncode == 0
    assert [row["action"] for row in rows(done)] == ["forgotten"]
    assert done.stderr == b""
    assert rows(nvcatalog("repair", "--quiet", "--data-dir", data_dir)) == []


def test_rebuild_says_where_the_former_catalog_is_and_what_is_lost(
    nvcatalog: Run, filled: Path, data_dir: Path
) -> None:
    assert nvcatalog("rebuild", "--data-dir", data_dir).returncode == 1
    (filled / "catalog.duckdb").write_bytes(b"broken")
    failed = nvcatalog("sql", "SELECT 1", "--data-dir", data_dir)
    assert f"nvcatalog rebuild --data-dir '{data_dir}'" in " ".join(failed.stderr.decode().split())
    done = nvcatalog("rebuild", "--data-dir", data_dir)
    assert done.returncode == 0
    [name] = done.stdout.decode().splitlines()
    assert name.startswith(str(filled / "catalog.duckdb.broken-"))
    assert b"Not restored: " in done.stderr
    again = nvcatalog("rebuild", "--force", "--quiet", "--data-dir", data_dir)
    assert (again.returncode, again.stderr) == (0, b"")


def test_prune_asks_unless_told_not_to(
    nvcatalog: Run, filled: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("prune", "image_id = $id", "--param", "id=4", "--data-dir", data_dir)
    done = nvcatalog(*command, "--dry-run")
    assert (done.returncode, len(rows(done))) == (0, 2)
    assert b"would remove 2 files of 1 images" in done.stderr
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    done = nvcatalog(*command)
    assert done.returncode == 1
    assert b"Remove them? [y/N]" in done.stderr
    assert (filled / "collection_3/image_4.nii.gz").exists()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    done = nvcatalog(*command, "--quiet")
    assert [row["kind"] for row in rows(done)] == ["original", "metadata"]
    assert not (filled / "collection_3/image_4.nii.gz").exists()
    assert nvcatalog(*command).returncode == 0, "nothing is left to ask about"
    done = nvcatalog("prune", "--collections", "3", "--images", "3,8718", "--yes", "--data-dir", data_dir)
    assert done.returncode == 0
    assert {row["image_id"] for row in rows(done)} == {"3", "8718"}
    assert nvcatalog("prune", "--older-than", "1", "--data-dir", data_dir).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["prune"], "everything is never meant"),
        (["prune", "--yes"], "everything is never meant"),
        (["prune", "image_id = $id"], "give --param id=…"),
        (["prune", "no_such_column = 1"], "no_such_column"),
        (["usage", "--by", "size"], "collection_id, kind, age"),
        (["doctor", "--timeout", "0"], "timeout"),
        (["repair", "--timeout", "0"], "timeout"),
    ],
)
def test_wrong_use_ends_with_status_2(
    nvcatalog: Run, filled: Path, data_dir: Path, arguments: list[str], told: str
) -> None:
    done = nvcatalog(*arguments, "--data-dir", data_dir)
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.decode().split())


def test_what_cannot_be_removed_ends_with_status_1(nvcatalog: Run, filled: Path, data_dir: Path) -> None:
    path = filled / "collection_3/image_4.nii.gz"
    path.unlink()
    path.mkdir()
    done = nvcatalog("prune", "--images", "3,4", "--yes", "--quiet", "--data-dir", data_dir)
    assert done.returncode == 1
    assert [row["image_id"] for row in rows(done) if row["trouble"]] == ["4"]


def test_usage_is_counted_by_kind_and_age_or_as_told(nvcatalog: Run, filled: Path, data_dir: Path) -> None:
    done = nvcatalog("usage", "--data-dir", data_dir)
    assert done.returncode == 0
    assert {row["kind"] for row in rows(done)} >= {"original", "metadata", "catalog"}
    assert {row["age"] for row in rows(done)} == {"up to a day"}
    total = sum(int(row["bytes"]) for row in rows(done))
    assert f"{total / 1e6:,.1f} MB in" in done.stderr.decode()
    done = nvcatalog("usage", "--by", "collection_id", "--format", "json", "--data-dir", data_dir)
    assert {row["collection_id"] for row in json.loads(done.stdout)} == {3, None}


def test_doctor_writes_a_page_and_ends_with_status_1_when_something_is_wrong(
    nvcatalog: Run, filled: Path, data_dir: Path, server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvcatalog.doctor._LITTLE_SPACE", 0)
    done = nvcatalog("doctor", "--data-dir", data_dir)
    assert done.returncode == 0, done.stdout
    page = done.stdout.decode()
    assert page.startswith("Versions\n")
    assert "\nServers\n" in page
    assert str(Catalog(data_dir).folder) in page
    (filled / "catalog.duckdb").write_bytes(b"broken")
    done = nvcatalog("doctor", "--data-dir", data_dir)
    assert done.returncode == 1
    assert b"\n! catalog" in done.stdout


@pytest.mark.parametrize("command", ["verify", "repair", "usage"])
def test_of_a_mistyped_folder_nothing_is_well(nvcatalog: Run, tmp_path: Path, command: str) -> None:
    done = nvcatalog(command, "--data-dir", tmp_path / "mistyped")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"mistyped/neurovault does not exist" in done.stderr
    assert not (tmp_path / "mistyped").exists()
