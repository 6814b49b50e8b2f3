"""One page says what a bug report needs, marks what is wrong, and gives no secret away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import traces
from fetching import world as world
from filelock import FileLock
from pyarrow import parquet
from waiting import PATIENCE_S

import nvcatalog
from nvcatalog import Catalog, doctor
from nvcatalog.demo import faults
from nvcatalog.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World
    from nvcatalog.doctor import Diagnosis

pytestmark = pytest.mark.usefixtures("no_waiting")

TOKEN = "ABCDEFGH"


@pytest.fixture
def look(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Diagnosis]:
    """Return a function that looks at the test's folder; how full this machine's disk is is no matter."""
    monkeypatch.setattr(doctor, "_LITTLE_SPACE", 0)
    return lambda: Catalog(data_dir).doctor(timeout=PATIENCE_S)


def facts(found: Diagnosis, section: str) -> dict[str, str]:
    return {line.name: line.value for line in found.lines if line.section == section}


def troubles(found: Diagnosis) -> dict[str, str]:
    return {line.name: line.value for line in found.problems}


def test_where_all_is_well_nothing_is_marked(
    fetch: Fetch, data_dir: Path, look: Callable[[], Diagnosis], server: DemoServer
) -> None:
    fetch(collection_ids=[3], fetch_neurosynth_words=True)
    Catalog(data_dir).snapshot()
    before = {name: trace[:2] for name, trace in traces(data_dir).items()}
    found = look()
    assert found, str(found)
    assert found.ok
    assert not [line for line in str(found).splitlines() if line.startswith("!")]
    assert facts(found, "Versions")["nvcatalog"] == nvcatalog.__version__
    assert facts(found, "Folder")["locks"] == "work"
    catalog = facts(found, "Catalog")
    assert "images 4, files 4, words_status 4" in catalog["rows"]
    assert catalog["files"] == "4 present"
    assert catalog["server_root"] == server.neurovault_url
    assert "fetch_neurovault_ids" in catalog["call"]
    assert facts(found, "Snapshots")["whole"].startswith("yes")
    assert {name: "HTTP 200" in value for name, value in facts(found, "Servers").items()} == {
        "NeuroVault": True,
        "Neurosynth": True,
    }
    assert {name: trace[:2] for name, trace in traces(data_dir).items()} == before
    assert len(str(found).splitlines()) < 60
    assert found.df()["is_trouble"].sum() == 0
    assert "no problems" in repr(found)


def test_a_base_that_is_not_there_is_a_trouble_and_no_end(
    look: Callable[[], Diagnosis], server: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared/neurovault").mkdir(parents=True)
    monkeypatch.setenv("NVCATALOG_BASE", str(tmp_path / "shared"))
    assert facts(look(), "Folder")["base"] == str(tmp_path / "shared/neurovault")
    monkeypatch.setenv("NVCATALOG_BASE", str(tmp_path / "nowhere"))
    assert "does not exist" in troubles(look())["base"]


def test_no_secret_and_no_home_is_in_it(
    fetch: Fetch, world: World, look: Callable[[], Diagnosis], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.make_private(3, TOKEN)
    fetch(collection_ids=[TOKEN])
    monkeypatch.setenv("HOME", str(data_dir.parent))
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("NVCATALOG_CONTACT", "me@institute.example")
    monkeypatch.setenv("NVCATALOG_MIRROR_OF", "https://me:secret@mirror.example/neurovault")
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "7")
    page = str(look())
    for secret in (TOKEN, "secret", "me@", "proxy.example", str(data_dir.parent)):
        assert secret not in page
    settings = facts(look(), "Settings")
    assert settings["HTTPS_PROXY"] == "set"
    assert settings["NVCATALOG_CONTACT"] == "set"
    assert settings["NVCATALOG_MIRROR_OF"] == "https://mirror.example/neurovault"
    assert settings["NVCATALOG_LOCK_TIMEOUT"] == "7"
    assert facts(look(), "Folder")["path"].startswith("~")


def test_a_folder_that_is_not_there_yet_is_no_trouble_and_not_made(
    look: Callable[[], Diagnosis], data_dir: Path, server: DemoServer
) -> None:
    found = look()
    assert found.ok, str(found)
    assert facts(found, "Folder")["path"].endswith("(not made yet)")
    assert facts(found, "Catalog") == {"catalog": "there is none yet"}
    assert facts(found, "Snapshots") == {"snapshots": "there are none yet"}
    assert not data_dir.exists()


def test_a_broken_catalog_and_a_broken_snapshot_are_marked(
    fetch: Fetch, data_dir: Path, look: Callable[[], Diagnosis]
) -> None:
    fetch(collection_ids=[3])
    place = Catalog(data_dir).snapshot() / "images/part-0.parquet"
    parquet.write_table(parquet.read_table(place).slice(1), place)
    (data_dir / "neurovault/catalog.duckdb").write_bytes(b"broken")
    found = look()
    assert not found
    assert "nvcatalog rebuild" in troubles(found)["catalog"]
    assert "images has 3 rows, and its manifest counts 4" in troubles(found)["whole"]
    place.write_bytes(b"broken")
    assert "images cannot be read" in troubles(look())["whole"]
    (place.parent.parent / "manifest.json").write_text("{")
    assert "manifest.json cannot be read" in troubles(look())["whole"]
    assert "2 problems" in repr(look())


def test_a_catalog_that_changed_since_its_snapshot_is_said_to(
    fetch: Fetch, data_dir: Path, look: Callable[[], Diagnosis]
) -> None:
    fetch(collection_ids=[3])
    Catalog(data_dir).snapshot()
    later = (data_dir / "neurovault/snapshots/CURRENT").stat().st_mtime + 10
    os.utime(data_dir / "neurovault/catalog.duckdb", (later, later))
    assert "changed since" in facts(look(), "Snapshots")["age"]


def test_servers_that_are_ill_forbid_or_do_not_answer_are_marked(
    look: Callable[[], Diagnosis], server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail("/api/collections*", faults.challenge())
    monkeypatch.setenv("NVCATALOG_NEUROSYNTH_URL", "http://127.0.0.1:9")
    found = troubles(look())
    assert "HTTP 403" in found["NeuroVault"]
    assert "a firewall?" in found["NeuroVault"]
    assert "127.0.0.1:9" in found["Neurosynth"]


def test_offline_no_server_is_asked(
    look: Callable[[], Diagnosis], server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_OFFLINE", "1")
    found = look()
    assert found.ok, str(found)
    assert "NVCATALOG_OFFLINE" in facts(found, "Servers")["servers"]
    assert server.requests == 0
    monkeypatch.setenv("NVCATALOG_OFFLINE", "perhaps")
    assert "NVCATALOG_OFFLINE is 'perhaps'" in troubles(look())["servers"]


def test_locks_that_do_not_hold_and_files_that_cannot_be_written_are_marked(
    fetch: Fetch, look: Callable[[], Diagnosis], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(image_ids=[3])
    monkeypatch.setattr(FileLock, "acquire", lambda self, *_, **__: self)
    assert "granted twice" in troubles(look())["locks"]

    def unsupported(*_: object, **__: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(FileLock, "__enter__", unsupported)
    assert "no flock here" in troubles(look())["locks"]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nvcatalog.storage.write_whole", full)
    assert troubles(look())["writing"] == "fails: No space left on device"


def test_a_disk_that_is_nearly_full_is_marked(
    look: Callable[[], Diagnosis], server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(doctor, "_LITTLE_SPACE", 2)
    assert troubles(look()) == {"free": "0.0 GB"}


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="only there are file systems named")
def test_the_file_system_is_named(look: Callable[[], Diagnosis], server: DemoServer) -> None:
    assert doctor._file_system(Path("/proc/self")) == "proc"
    assert facts(look(), "Folder")["file system"] not in ("", "unknown")


def test_a_timeout_must_be_one(data_dir: Path) -> None:
    with pytest.raises(InvalidOptionError):
        Catalog(data_dir).doctor(timeout=0)
