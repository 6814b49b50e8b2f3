"""What is wrong is put right byte for byte, what nobody can vouch for is set aside, and nothing is deleted."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dying import dies, some_steps
from fetching import FOUR, file_of, ids, traces, write
from fetching import fetch as fetch
from fetching import fetch_filtered as fetch_filtered
from fetching import no_waiting as no_waiting
from fetching import open_dir as open_dir
from fetching import world as world
from oracle import nilearn as nilearn
from oracle import nilearn_dir as nilearn_dir
from test_store import as_nobody

from nvcatalog import Catalog
from nvcatalog.demo import faults
from nvcatalog.demo.maps import synthetic_map
from nvcatalog.errors import CatalogWarning, DataDirError, IncompleteWarning, SnapshotWarning, WrongServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World
    from nvcatalog.repair import Repaired

pytestmark = pytest.mark.usefixtures("no_waiting")

# Every run damages in ways of its own; what a failing one did is printed.
SEED = random.SystemRandom().randrange(2**32)
DAMAGES = 200
PAGE = b"<!DOCTYPE html><html><body>Down for maintenance</body></html>"


@pytest.fixture
def filled(fetch: Fetch, data_dir: Path) -> Path:
    """Return the folder of four maps."""
    fetch(collection_ids=[3])
    return data_dir / "neurovault"


@pytest.fixture
def mend(data_dir: Path) -> Callable[..., Repaired]:
    """Return a function that repairs the test's folder, quietly."""
    return lambda **options: Catalog(data_dir).repair(verbose=0, **options)


def actions(done: Repaired) -> dict[str, str]:
    return {step.path: step.action for step in done.steps}


def is_well(data_dir: Path) -> bool:
    return not Catalog(data_dir).verify(deep=True, verbose=0).problems


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("collection_*/[!.]*")}


# Damaged files


def damaged(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Return a file's bytes damaged in some way: a bit, a piece of zeros, cut off, another image's, a web page."""
    place = chance.randrange(len(data))
    way = chance.randrange(5)
    if way == 0:
        return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
    if way == 1:
        end = chance.randrange(place, len(data)) + 1
        return data[:place] + bytes(end - place) + data[end:]
    return (data[:place], other, PAGE)[way - 2]


def test_files_damaged_in_200_random_ways_are_all_found_and_restored_byte_for_byte(
    fetch: Fetch, world: World, data_dir: Path, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    image_ids = world.add_synthetic(7, DAMAGES, file_bytes=3000)
    fetch(collection_ids=[7])
    before = contents(data_dir / "neurovault")
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    files = {id_: file_of(data_dir, 7, id_) for id_ in image_ids}
    for path in files.values():
        now = before[path]
        while now == before[path]:  # zeros may have been there already
            now = damaged(before[path], chance, before[files[chance.choice(image_ids)]])
        path.write_bytes(now)
    lost = {path: path.read_bytes() for path in files.values()}

    found = Catalog(data_dir).verify(deep=True, verbose=0)
    assert found.counts == {"corrupt": DAMAGES}
    server.reset_log()
    done = mend()
    assert done.counts == {"restored": DAMAGES}
    assert contents(data_dir / "neurovault") == before
    assert len(server.hits("/media/*")) == DAMAGES
    assert not server.hits("/api/*")
    kept = {
        data_dir / "neurovault" / step.path: data_dir / "neurovault" / (step.kept or "") for step in done.steps
    }
    assert {path: kept[path].read_bytes() for path in files.values()} == lost
    assert is_well(data_dir)
    assert mend().steps == ()


def test_missing_files_are_fetched_again_and_nothing_beside_them(
    filled: Path, fetch: Fetch, world: World, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    world.add_image(3, id=99)
    before = contents(filled)
    for id_ in (3, 8719):
        (filled / f"collection_3/image_{id_}.nii.gz").unlink()
    server.reset_log()
    done = mend()
    assert done
    assert [(step.action, step.kind, step.image_id, step.kept) for step in done.steps] == [
        ("restored", "missing", 3, None),
        ("restored", "missing", 8719, None),
    ]
    assert contents(filled) == before
    assert len(server.log) == 2
    assert not (filled / "quarantine").exists()


def test_a_resampled_map_is_made_again_of_the_one_that_is_here(
    fetch_filtered: Fetch, data_dir: Path, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    options = {"collection_id": 3, "image_terms": {}, "resample": True}
    fetch_filtered(max_images=2, **options)
    fetch_filtered(max_images=1, interpolation="nearest", **options)
    before = contents(data_dir / "neurovault")
    made = [path for path in before if path.name.endswith("_resampled.nii.gz")]
    assert len(made) == 2
    for path in made:
        path.write_bytes(PAGE)
    assert mend().counts == {"restored": 2}
    assert contents(data_dir / "neurovault") == before
    assert is_well(data_dir)


def test_a_resampled_map_is_left_where_nilearn_is_not_installed(
    fetch: Fetch, data_dir: Path, mend: Callable[..., Repaired], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(image_ids=[3], resample=True)
    file_of(data_dir, 3, 3).with_name("image_3_resampled.nii.gz").unlink()
    monkeypatch.setitem(__import__("sys").modules, "nilearn", None)
    with pytest.warns(IncompleteWarning, match="nilearn is not installed"):
        done = mend()
    assert [step.action for step in done.steps] == ["left"]


def test_files_beside_the_maps_are_fetched_again_those_alone(
    fetch: Fetch, world: World, data_dir: Path, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    world.add_labels(14227, ["one", "two"])
    world.add_nidm_pack(3, "fsl", n_maps=1)
    fetch(collection_ids=[3, 1197], extras=True)
    world.add_surfaces(3)
    before = contents(data_dir / "neurovault")
    beside = [path for path in before if path.suffix in (".xml", ".zip", ".ttl")]
    assert len(beside) == 3
    for path in beside:
        path.write_bytes(before[path][:-7])
    server.reset_log()
    done = mend()
    assert done.counts == {"restored": 3}
    assert contents(data_dir / "neurovault") == before
    assert len(server.log) == 3
    rows = Catalog(data_dir).sql("SELECT function, downloaded FROM fetches ORDER BY started_at DESC LIMIT 1")
    assert rows.fetchall() == [("repair", 0)]


def test_what_the_server_has_replaced_meanwhile_is_taken_and_told_of(
    filled: Path, world: World, data_dir: Path, mend: Callable[..., Repaired]
) -> None:
    (filled / "collection_3/image_4.nii.gz").write_bytes(PAGE)
    world.replace_file(4, world.image_bytes(10426))
    [step] = mend().steps
    assert step.action == "restored"
    assert "the bytes had again are others" in step.reason
    assert (filled / "collection_3/image_4.nii.gz").read_bytes() == world.image_bytes(10426)
    assert is_well(data_dir)


def test_what_the_server_has_no_more_is_left_until_it_is_forgotten(
    filled: Path, world: World, data_dir: Path, mend: Callable[..., Repaired]
) -> None:
    damage = PAGE
    (filled / "collection_3/image_4.nii.gz").write_bytes(damage)
    world.delete_image(4)
    with pytest.warns(
        IncompleteWarning, match=r"1 files could not be put right: .*image_4.nii.gz .*404"
    ) as warned:
        done = mend()
    assert [each.filename for each in warned] == [__file__.replace("test_repair", "test_repair")]
    assert not done
    [step] = done.left
    assert (filled / (step.kept or "")).read_bytes() == damage
    assert Catalog(data_dir).verify(verbose=0).counts == {"missing": 1}
    assert mend(offline=True).counts == {"forgotten": 1}
    assert Catalog(data_dir).verify(verbose=0)
    assert Catalog(data_dir).sql("SELECT count(*) FROM images WHERE image_id = 4").fetchall() == [(1,)]


def test_offline_corrupt_and_missing_files_are_forgotten_without_a_request(
    filled: Path, fetch: Fetch, data_dir: Path, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    (filled / "collection_3/image_3.nii.gz").unlink()
    (filled / "collection_3/image_4.nii.gz").write_bytes(PAGE)
    server.reset_log()
    assert actions(mend(offline=True)) == {
        "collection_3/image_3.nii.gz": "forgotten",
        "collection_3/image_4.nii.gz": "forgotten",
    }
    assert server.requests == 0
    assert is_well(data_dir)
    assert fetch(collection_ids=[3]).report.counts == {"downloaded": 2, "cached": 2}


def test_where_the_network_is_forbidden_nothing_is_forgotten_unasked(
    filled: Path,
    data_dir: Path,
    mend: Callable[..., Repaired],
    server: DemoServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (filled / "collection_3/image_3.nii.gz").unlink()
    server.reset_log()
    monkeypatch.setenv("NVCATALOG_OFFLINE", "1")
    with pytest.warns(IncompleteWarning):
        assert mend().counts == {"left": 1}
    assert server.requests == 0
    monkeypatch.delenv("NVCATALOG_OFFLINE")
    assert mend().counts == {"restored": 1}


def test_while_the_server_is_down_bad_bytes_are_no_answer_and_the_next_repair_fetches(
    filled: Path, fetch: Fetch, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    before = contents(filled)
    path = filled / "collection_3/image_4.nii.gz"
    path.write_bytes(bytes(path.stat().st_size))
    server.fail("/media/*", faults.status(503))
    with pytest.warns(IncompleteWarning, match="503"):
        done = mend()
    assert done.counts == {"left": 1}
    with pytest.warns(IncompleteWarning):
        assert ids(fetch(collection_ids=[3], mode="offline")) == [3, 8718, 8719]
    server.heal()
    assert mend().counts == {"restored": 1}
    assert contents(filled) == before


# What nilearn reads


def test_metadata_is_written_anew_from_the_catalog(
    filled: Path, data_dir: Path, fetch: Fetch, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    fetch(image_ids=[4], fetch_neurosynth_words=True)
    before = contents(filled)
    terms = json.loads((filled / "collection_3/neurosynth_words_for_image_4.json").read_bytes())
    for path in filled.glob("collection_3/*.json"):
        path.write_bytes(before[path][:40])
    (filled / "collection_3/image_3_metadata.json").unlink()
    server.reset_log()
    done = mend(offline=True)
    assert done.counts == {"rewritten": 6}
    assert server.requests == 0
    now = contents(filled)
    assert (
        json.loads(now.pop(filled / "collection_3/neurosynth_words_for_image_4.json"))["data"]["values"]
        == (terms["data"]["values"])
    )
    assert now == {path: data for path, data in before.items() if path in now}
    assert is_well(data_dir)


def test_whatever_is_in_the_place_of_metadata_gives_way(
    filled: Path, mend: Callable[..., Repaired], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled / "collection_3/image_3_metadata.json"
    path.unlink()
    path.mkdir()
    assert mend().counts == {"rewritten": 1}
    path.unlink()

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("nvcatalog.sidecars.write_image", denied)
        with pytest.warns(IncompleteWarning, match="it cannot be written"):
            done = mend()
        assert done.counts == {"left": 1}
    assert mend().counts == {"rewritten": 1}
    assert is_well(data_dir)


def test_what_is_set_aside_is_nothing_to_nilearn(
    filled: Path, mend: Callable[..., Repaired], nilearn: Fetch, data_dir: Path
) -> None:
    for path in filled.glob("collection_3/*.json"):
        path.write_bytes(path.read_bytes()[:-1])
    mend()
    quarantined = [path for path in (filled / "quarantine").rglob("*") if path.is_file()]
    assert {path.suffix for path in quarantined} == {".quarantined", ".txt"}
    assert sorted(ids(nilearn(collection_ids=[3], data_dir=data_dir, mode="offline"))) == FOUR
    [why] = (filled / "quarantine").rglob("WHY.txt")
    assert len(why.read_text().splitlines()) == 5


# Files without a row


def test_files_that_lost_their_rows_are_taken_over_without_a_request(
    filled: Path, data_dir: Path, fetch: Fetch, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    write(
        data_dir, "DELETE FROM files; DELETE FROM images WHERE image_id = 4; DELETE FROM raw_records WHERE id = 4"
    )
    server.reset_log()
    assert mend(offline=True).counts == {"adopted": 5}
    assert server.requests == 0
    assert is_well(data_dir)
    rows = Catalog(data_dir).sql("SELECT image_id, state, sha256 IS NOT NULL FROM files ORDER BY 1").fetchall()
    assert rows == [(id_, "present", True) for id_ in FOUR]


def test_without_a_catalog_one_is_made_of_what_is_whole(
    filled: Path, data_dir: Path, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    (filled / "catalog.duckdb").unlink()
    (filled / "collection_3/image_4.nii.gz").write_bytes(PAGE)
    server.reset_log()
    assert mend().counts == {"adopted": 8, "quarantined": 1}
    assert server.requests == 0
    assert is_well(data_dir)
    assert Catalog(data_dir).sql("SELECT image_id FROM local_images ORDER BY 1").fetchall() == [
        (3,),
        (8718,),
        (8719,),
    ]


def test_all_kinds_of_files_are_taken_over(
    fetch: Fetch, world: World, data_dir: Path, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    world.add_labels(14227, ["one", "two"])
    world.add_nidm_pack(3, "fsl", n_maps=1)
    fetch(collection_ids=[3, 1197], extras=True)
    fetch(image_ids=[3], resample=True, fetch_neurosynth_words=True)
    write(data_dir, "DELETE FROM files; DELETE FROM words; DELETE FROM words_status")
    server.reset_log()
    done = mend()
    assert set(done.counts) == {"adopted"}
    assert server.requests == 0
    assert is_well(data_dir)
    kinds = Catalog(data_dir).sql("SELECT kind, count(*) FROM files GROUP BY ALL ORDER BY ALL").fetchall()
    assert dict(kinds) == {"labels": 1, "nidm_ttl": 1, "nidm_zip": 1, "original": 7, "resampled": 1}


def test_a_file_of_an_image_that_is_unknown_here_is_asked_about_and_not_fetched_again(
    filled: Path, data_dir: Path, world: World, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    place = filled / "collection_658"
    place.mkdir()
    (place / "image_10426.nii.gz").write_bytes(world.image_bytes(10426))
    with pytest.warns(IncompleteWarning, match="nobody here knows whose it is"):
        assert mend(offline=True).counts == {"left": 1}
    server.reset_log()
    assert mend().counts == {"adopted": 1}
    assert not server.hits("/media/*")
    assert mend().ok
    assert Catalog(data_dir).sql("SELECT state FROM files WHERE image_id = 10426").fetchall() == [("present",)]


def test_what_is_not_whole_or_belongs_elsewhere_is_set_aside(
    filled: Path, world: World, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    whole = world.image_bytes(10426)
    other = filled / "collection_4"
    other.mkdir()
    strays = {
        "collection_3/image_99.nii.gz": PAGE,  # no map
        "collection_4/image_3.nii.gz": world.image_bytes(3),  # of collection 3
        "collection_4/image_3_metadata.json": (filled / "collection_3/image_3_metadata.json").read_bytes(),
        "collection_4/image_98.nii.gz": whole,  # the server has no such image
        "collection_4/image_10426.nii.gz": whole,  # of collection 658
        "collection_3/image_3_labels.xml": b"<a/>",  # no record names it
        "collection_3/neurosynth_words_for_image_4.json": b"[]",
    }
    for path, data in strays.items():
        (filled / path).write_bytes(data)
    before = contents(filled)
    server.reset_log()
    done = mend()
    assert actions(done) == dict.fromkeys(strays, "quarantined")
    assert {step.path: (filled / (step.kept or "")).read_bytes() for step in done.steps} == strays
    assert contents(filled) == {
        path: data
        for path, data in before.items()
        if path.parent.name == "collection_3" and str(path.relative_to(filled)) not in strays
    }
    assert not server.hits("/media/*"), "nobody has asked for what a stray is named for"
    reasons = {step.path: step.reason for step in done.steps}
    assert "no whole file" in reasons["collection_3/image_99.nii.gz"]
    assert "image 3 is in collection 3" in reasons["collection_4/image_3.nii.gz"]
    assert "image 10426 is in collection 658" in reasons["collection_4/image_10426.nii.gz"]
    assert "the server does not know image 98" in reasons["collection_4/image_98.nii.gz"]
    assert "no record names such a file" in reasons["collection_3/image_3_labels.xml"]


def test_a_whole_map_that_is_not_the_one_of_its_record_is_set_aside(
    fetch: Fetch, data_dir: Path, world: World, server: DemoServer, mend: Callable[..., Repaired]
) -> None:
    world.edit_image(4, file_size=len(world.image_bytes(4)))
    fetch(collection_ids=[3])
    write(data_dir, "DELETE FROM files WHERE image_id = 4")
    file_of(data_dir, 3, 4).write_bytes(synthetic_map(4, 9000))
    [step] = mend().steps
    assert step.action == "quarantined"
    assert "its record says" in step.reason


def test_leftovers_are_set_aside(filled: Path, mend: Callable[..., Repaired]) -> None:
    path = filled / "collection_3/.image_3.nii.gz.1-0123abcd.part"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - 90_000,) * 2)
    [step] = mend().steps
    assert (step.action, step.kind) == ("quarantined", "leftover")
    assert (filled / (step.kept or "")).read_bytes() == b"half"


def test_a_damaged_snapshot_is_written_anew_with_no_file_of_the_damaged_one(
    filled: Path, data_dir: Path, mend: Callable[..., Repaired]
) -> None:
    place = Catalog(data_dir).snapshot()
    for path in place.glob("images/*"):
        data = path.read_bytes()
        path.write_bytes(data[:-9] + bytes(9))
    [problem] = Catalog(data_dir).verify(deep=True, verbose=0).problems
    assert (problem.kind, problem.path) == ("snapshot", f"snapshots/{place.name}")
    [step] = mend().steps
    assert step.action == "rewritten"
    assert is_well(data_dir)
    (place.parent / "CURRENT").write_text(f"{place.name}\n")
    (place / "terms").rename(place.parent / "lost")
    assert Catalog(data_dir).verify(deep=True, verbose=0).counts == {"snapshot": 2}
    assert mend().counts == {"rewritten": 2}
    assert is_well(data_dir)


def test_a_damaged_manifest_is_found_and_a_sound_snapshot_written(
    filled: Path, data_dir: Path, mend: Callable[..., Repaired]
) -> None:
    place = Catalog(data_dir).snapshot()
    (place / "manifest.json").write_text("[]")
    [problem] = Catalog(data_dir).verify(deep=True, verbose=0).problems
    assert (problem.kind, problem.path) == ("snapshot", f"snapshots/{place.name}")
    with pytest.warns(SnapshotWarning, match=r"manifest\.json cannot be read: it is \[\]"):
        assert mend().counts == {"rewritten": 1}
    assert is_well(data_dir)


# What must not happen


def test_a_row_that_names_another_place_is_forgotten_and_the_place_untouched(
    filled: Path, data_dir: Path, mend: Callable[..., Repaired]
) -> None:
    victim = data_dir / "victim"
    victim.write_bytes(b"mine")
    write(data_dir, "UPDATE files SET path = '../victim', size = 4 WHERE image_id = 3")
    assert mend().counts == {"forgotten": 1, "adopted": 1}
    write(data_dir, "UPDATE files SET path = '../victim', size = 4 WHERE image_id = 3")
    (filled / "collection_3/image_3.nii.gz").unlink()
    assert mend().counts == {"forgotten": 1}
    assert victim.read_bytes() == b"mine"


def test_a_folder_that_cannot_be_written_is_refused(fetch: Fetch, open_dir: Path) -> None:
    home = open_dir
    fetch(collection_ids=[3], data_dir=home)
    file_of(home, 3, 4).write_bytes(PAGE)
    (home / "neurovault").chmod(0o555)
    before = traces(home)

    def work() -> None:
        for call in (Catalog(home).repair, Catalog(home).rebuild, lambda **_: Catalog(home).prune(image_ids=[3])):
            with pytest.raises(DataDirError, match="cannot be written"):
                call(verbose=0)

    assert as_nobody(work) == "fine"
    assert traces(home) == before


def test_nothing_is_touched_where_the_server_is_another(
    filled: Path, mend: Callable[..., Repaired], monkeypatch: pytest.MonkeyPatch
) -> None:
    (filled / "collection_3/image_4.nii.gz").write_bytes(PAGE)
    before = traces(filled)
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", "http://127.0.0.1:9")
    with pytest.raises(WrongServerError):
        mend()
    assert traces(filled) == before


def test_what_cannot_be_moved_is_left(
    filled: Path, mend: Callable[..., Repaired], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled / "collection_3/image_4.nii.gz"
    path.write_bytes(PAGE)
    (filled / "quarantine").write_text("a file in the way")
    with pytest.warns(IncompleteWarning, match="it cannot be set aside"):
        assert mend().counts == {"left": 1}
    assert path.read_bytes() == PAGE


def test_what_cannot_land_is_warned_of_and_taken_over_next_time(
    filled: Path, data_dir: Path, mend: Callable[..., Repaired], monkeypatch: pytest.MonkeyPatch
) -> None:
    (filled / "collection_3/image_4.nii.gz").unlink()
    from nvcatalog._store import Store
    from nvcatalog.errors import CatalogLockedError

    def locked(*_: object, **__: object) -> list[str]:
        raise CatalogLockedError("kept open by process 7")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "land", locked)
        patch.setattr(Store, "land_one_of_many", locked)
        with pytest.warns(CatalogWarning, match="process 7"):
            assert mend().counts == {"restored": 1}
    assert is_well(data_dir)


def test_a_call_that_finds_nothing_wrong_writes_nothing(
    filled: Path, mend: Callable[..., Repaired], server: DemoServer
) -> None:
    before, asked = traces(filled), server.requests
    assert mend().ok
    assert repr(mend()) == "<Repaired: nothing to do>"
    assert mend().df().empty
    assert (traces(filled), server.requests) == (before, asked)


# Death at any step


def damage(data_dir: Path) -> None:
    """Spoil a folder in every way that a repair knows."""
    file_of(data_dir, 3, 3).unlink()
    file_of(data_dir, 3, 4).write_bytes(PAGE)
    (data_dir / "neurovault/collection_3/image_8718_metadata.json").write_bytes(PAGE)
    write(data_dir, "DELETE FROM files WHERE image_id = 8718")
    (data_dir / "neurovault/collection_3/image_99.nii.gz").write_bytes(PAGE)


def test_whenever_a_repair_is_killed_the_next_one_ends_it(
    fetch: Fetch, server: DemoServer, tmp_path: Path
) -> None:
    fetch(collection_ids=[3], data_dir=tmp_path / "whole")
    whole = {path.name: data for path, data in contents(tmp_path / "whole/neurovault").items()}
    shutil.copytree(tmp_path / "whole", tmp_path / "spoilt")
    damage(tmp_path / "spoilt")
    for at in some_steps(every=3):
        data_dir = tmp_path / str(at)
        shutil.copytree(tmp_path / "spoilt", data_dir)
        came_so_far = dies(at, "repair", data_dir)
        Catalog(data_dir).repair(verbose=0)
        assert {path.name: data for path, data in contents(data_dir / "neurovault").items()} == whole, f"step {at}"
        assert is_well(data_dir), f"step {at}"
        kept = [path.read_bytes() for path in (data_dir / "neurovault/quarantine").rglob("image_*")]
        assert kept.count(PAGE) == 3, f"step {at}"
        if not came_so_far:
            break
    assert at > 10
