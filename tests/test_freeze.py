"""A frozen set is brought back byte for byte, or each image says what differs."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import FOUR, file_of, ids, outcomes_of, traces, write
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvcatalog import Catalog, fetch_frozen, fetch_neurovault_ids, lockfile
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import (
    FreezeError,
    FrozenWarning,
    IncompleteWarning,
    InvalidOptionError,
    InvalidOptionTypeError,
    LockFileError,
    QueryError,
    SelectionWarning,
    WrongServerError,
)
from nvcatalog.lockfile import FrozenCollection, FrozenImage, LockFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from fetching import Fetch
    from sklearn.utils import Bunch

    Thaw = Callable[..., Bunch]

pytestmark = pytest.mark.usefixtures("no_waiting")

TOKEN = "ABCDEFGH"


@pytest.fixture
def frozen(fetch: Fetch, data_dir: Path, tmp_path: Path) -> Path:
    """Fetch four maps and freeze them."""
    maps = fetch(collection_ids=[3])
    return Catalog(data_dir).freeze(tmp_path / "maps.lock.json", bunch=maps, verbose=0)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


@pytest.fixture
def thaw(server: DemoServer, frozen: Path, elsewhere: Path) -> Thaw:
    """Return a function that brings the four maps back into another folder, quietly."""

    def thaw(**options: Any) -> Bunch:
        settings: dict[str, Any] = {"data_dir": elsewhere, "verbose": 0}
        return fetch_frozen(frozen, **settings | options)

    return thaw


def reasons(maps: Bunch) -> dict[int | None, str | None]:
    return {outcome.id: outcome.reason for outcome in maps.report if outcome.kind == "image"}


def entries(path: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["images"]
    return listed


# Bringing back


def test_a_frozen_set_is_brought_back_byte_for_byte_into_an_empty_folder(
    thaw: Thaw, server: DemoServer, data_dir: Path, elsewhere: Path
) -> None:
    maps = thaw()
    assert ids(maps) == FOUR
    assert maps.report.counts == {"downloaded": 4}
    for id_ in FOUR:
        assert file_of(elsewhere, 3, id_).read_bytes() == file_of(data_dir, 3, id_).read_bytes()
    server.reset_log()
    before = traces(elsewhere)
    again = thaw()
    assert again.report.counts == {"cached": 4}
    assert again.images == maps.images
    assert server.requests == 0
    assert traces(elsewhere) == before


def test_with_one_map_replaced_on_the_server_it_says_which(thaw: Thaw, world: World, server: DemoServer) -> None:
    world.replace_file(8718, world.image_bytes(10426))
    with (
        pytest.warns(IncompleteWarning, match="image 8718 failed"),
        pytest.warns(FrozenWarning, match="Of 4 frozen images .*: 1 with other bytes, 1 with a changed record"),
    ):
        maps = thaw()
    assert ids(maps) == [3, 4, 8719]
    assert outcomes_of(maps) == {3: "downloaded", 4: "downloaded", 8718: "failed", 8719: "downloaded"}
    assert "the server's version has other bytes: sha256 " in (reasons(maps)[8718] or "")
    server.reset_log()
    with pytest.warns(IncompleteWarning), pytest.warns(FrozenWarning, match="1 with other bytes"):
        maps = thaw()
    assert "the file here has other bytes" in (reasons(maps)[8718] or "")
    assert server.requests == 0, "what is here is known to be the server's own version"
    assert "mode='overwrite' asks the server for it again" in (reasons(maps)[8718] or "")


@pytest.mark.parametrize("strict", [True, False])
def test_what_a_server_in_trouble_gave_for_a_while_gives_way_when_it_is_right_again(
    thaw: Thaw, world: World, strict: bool
) -> None:
    right = world.image_bytes(4)
    world._store(4, world.image_bytes(10426), 0)  # under the same link, and its record says nothing of it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "other bytes" in (reasons(thaw(strict=strict))[4] or "")
    world._store(4, right, 0)
    maps = thaw(strict=strict)
    assert outcomes_of(maps) == dict.fromkeys(FOUR, "cached") | {4: "downloaded"}
    assert Path(maps.images[ids(maps).index(4)]).read_bytes() == right


def test_not_strictly_the_new_version_is_taken_and_said_to_be(
    thaw: Thaw, world: World, server: DemoServer, elsewhere: Path
) -> None:
    world.replace_file(8718, world.image_bytes(10426))
    with pytest.warns(FrozenWarning, match="1 with other bytes, 1 with a changed record"):
        maps = thaw(strict=False)
    assert ids(maps) == FOUR
    assert maps.report.counts == {"downloaded": 4}
    assert "and is taken" in (reasons(maps)[8718] or "")
    assert file_of(elsewhere, 3, 8718).read_bytes() == world.image_bytes(10426)
    server.reset_log()
    with pytest.warns(FrozenWarning):
        assert thaw(strict=False).report.counts == {"cached": 4}
    assert server.requests == 0


def test_a_record_that_changed_is_said_beside_a_map_that_did_not(thaw: Thaw, world: World) -> None:
    world.edit_image(3, name="edited")
    with pytest.warns(FrozenWarning, match="Of 4 frozen images .*: 1 with a changed record;"):
        maps = thaw()
    assert ids(maps) == FOUR
    assert reasons(maps).keys() == set(FOUR)
    assert "its record has changed: modify_date 20" in (reasons(maps)[3] or "")
    assert reasons(maps)[4] is None


def test_another_doi_of_its_collection_is_said_of_each_image(
    thaw: Thaw, frozen: Path, world: World, data_dir: Path
) -> None:
    world.edit_collection(3, DOI="https://doi.org/10.5555/NEW", preprint_DOI=None)

    with pytest.warns(FrozenWarning, match="Of 4 frozen images .*: 4 with another DOI;"):
        maps = thaw()

    assert ids(maps) == FOUR
    [doi] = [each["doi"] for each in json.loads(frozen.read_text())["collections"]]
    said = f"the DOI of collection 3 has changed: frozen {doi or 'without one'}, now 10.5555/new"
    assert set(reasons(maps).values()) == {said}
    with pytest.warns(FrozenWarning, match="4 with another DOI;"):
        assert thaw(strict=False).collections_meta[0]["DOI"] == "https://doi.org/10.5555/NEW"
    assert fetch_frozen(frozen, data_dir=data_dir, verbose=0).report.counts == {"cached": 4}, "nobody has asked"
    with pytest.warns(FrozenWarning, match="4 with another DOI;"):
        fetch_frozen(frozen, data_dir=data_dir, verbose=0, mode="overwrite")


def test_what_is_gone_from_the_server_is_said_and_kept_where_it_is_here(
    thaw: Thaw, frozen: Path, world: World, data_dir: Path
) -> None:
    world.delete_image(4)
    with (
        pytest.warns(IncompleteWarning, match="image 4 not_found"),
        pytest.warns(FrozenWarning, match="1 gone from the server"),
    ):
        maps = thaw()
    assert ids(maps) == [3, 8718, 8719]
    assert (reasons(maps)[4] or "").startswith("gone from the server; ")
    assert ids(fetch_frozen(frozen, data_dir=data_dir, verbose=0)) == FOUR
    with pytest.warns(IncompleteWarning, match="image 4 kept_old"), pytest.warns(FrozenWarning, match="1 gone"):
        assert ids(fetch_frozen(frozen, data_dir=data_dir, verbose=0, mode="overwrite")) == FOUR
    with pytest.warns(FrozenWarning, match="1 gone"):
        assert ids(fetch_frozen(frozen, data_dir=data_dir, verbose=0, mode="offline")) == FOUR


def test_overwrite_asks_for_the_records_and_not_for_files_that_are_right(
    frozen: Path, server: DemoServer, data_dir: Path
) -> None:
    server.reset_log()
    assert fetch_frozen(frozen, data_dir=data_dir, verbose=0, mode="overwrite").report.counts == {"cached": 4}
    assert server.requests > 0
    assert not server.hits("/media/")


def test_offline_only_what_is_here_as_it_was_frozen_is_returned(thaw: Thaw, elsewhere: Path) -> None:
    thaw()
    file_of(elsewhere, 3, 3).unlink()
    damage(file_of(elsewhere, 3, 4))
    with pytest.warns(IncompleteWarning, match="2 missing_offline"), pytest.warns(FrozenWarning):
        maps = thaw(mode="offline")
    assert ids(maps) == [8718, 8719]
    assert "the file here has other bytes" in (reasons(maps)[4] or "")
    assert ids(thaw()) == FOUR


def damage(path: Path) -> None:
    """Change a byte and nothing that a look at the folder would tell."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# What is here already


def test_another_version_here_gives_way_to_the_frozen_one_and_is_kept(
    fetch: Fetch, thaw: Thaw, world: World, data_dir: Path, elsewhere: Path, tmp_path: Path
) -> None:
    older = world.image_bytes(4)
    fetch_neurovault_ids(image_ids=[4], data_dir=elsewhere, verbose=0)
    world.replace_file(4, world.image_bytes(10426))
    maps = fetch(image_ids=[4], mode="overwrite")
    path = Catalog(data_dir).freeze(tmp_path / "newer.lock.json", bunch=maps, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        brought = fetch_frozen(path, data_dir=elsewhere, verbose=0)
    assert brought.report.counts == {"downloaded": 1}
    assert file_of(elsewhere, 3, 4).read_bytes() == world.image_bytes(10426)
    (kept,) = elsewhere.rglob("image_4_replaced-*.nii.gz")
    assert kept.read_bytes() == older
    assert f"kept as collection_3/{kept.name}" in (reasons(brought)[4] or "")
    assert fetch_neurovault_ids(image_ids=[4], data_dir=elsewhere, verbose=0).report.counts == {"cached": 1}


def test_another_version_here_stays_when_the_server_has_not_the_frozen_one_either(
    thaw: Thaw, world: World, elsewhere: Path, frozen: Path, data_dir: Path
) -> None:
    world.replace_file(4, world.image_bytes(10426))
    fetch_neurovault_ids(image_ids=[4], data_dir=elsewhere, verbose=0)
    world.replace_file(4, world.image_bytes(9034))
    for mode in ("download_new", "overwrite"):
        with pytest.warns(IncompleteWarning, match="image 4 failed"), pytest.warns(FrozenWarning):
            maps = thaw(mode=mode)
        assert ids(maps) == [3, 8718, 8719]
        assert file_of(elsewhere, 3, 4).read_bytes() == world.image_bytes(10426)
    assert "the server's version has other bytes" in (reasons(maps)[4] or "")
    assert "the file here has other bytes" in (reasons(maps)[4] or "")
    with pytest.warns(FrozenWarning):
        assert ids(thaw(mode="overwrite", strict=False)) == FOUR
    assert file_of(elsewhere, 3, 4).read_bytes() == world.image_bytes(9034)


def test_a_file_that_was_damaged_since_is_fetched_again(thaw: Thaw, elsewhere: Path, data_dir: Path) -> None:
    thaw()
    damage(file_of(elsewhere, 3, 4))
    assert outcomes_of(thaw()) == {3: "cached", 4: "downloaded", 8718: "cached", 8719: "cached"}
    assert file_of(elsewhere, 3, 4).read_bytes() == file_of(data_dir, 3, 4).read_bytes()


def test_a_right_file_is_never_replaced_by_the_servers(frozen: Path, world: World, data_dir: Path) -> None:
    before = file_of(data_dir, 3, 4).read_bytes()
    world.replace_file(4, world.image_bytes(10426))
    for strict in (True, False):
        with pytest.warns(FrozenWarning, match="1 with a changed record"):
            maps = fetch_frozen(frozen, data_dir=data_dir, verbose=0, mode="overwrite", strict=strict)
        assert maps.report.counts == {"cached": 4}
    assert file_of(data_dir, 3, 4).read_bytes() == before


def test_files_that_nilearn_left_are_used_when_they_are_the_frozen_ones(
    frozen: Path, data_dir: Path, elsewhere: Path, server: DemoServer
) -> None:
    shutil.copytree(data_dir / "neurovault" / "collection_3", elsewhere / "neurovault" / "collection_3")
    server.reset_log()
    maps = fetch_frozen(frozen, data_dir=elsewhere, verbose=0)
    assert maps.report.counts == {"adopted": 4}
    assert not server.hits("/media/")


def test_a_server_in_trouble_costs_only_what_is_not_here(
    thaw: Thaw, server: DemoServer, elsewhere: Path, frozen: Path
) -> None:
    thaw()
    file_of(elsewhere, 3, 3).unlink()
    server.world.broken_media(3)
    with pytest.warns(IncompleteWarning, match="image 3"), pytest.warns(FrozenWarning):
        assert ids(thaw()) == [4, 8718, 8719]


def test_a_lock_file_of_another_server_is_refused(frozen: Path, elsewhere: Path, thaw: Thaw) -> None:
    text = frozen.read_text(encoding="utf-8")
    root = json.loads(text)["server"]
    assert root == os.environ["NVCATALOG_NEUROVAULT_URL"]
    frozen.write_text(text.replace(root, "https://neurovault.org"), encoding="utf-8")
    with pytest.raises(
        WrongServerError, match=r"maps.lock.json was frozen from https://neurovault.org.*MIRROR_OF"
    ):
        thaw()
    assert not elsewhere.exists()


# Resampled maps


def test_resampled_maps_are_frozen_as_such(fetch: Fetch, data_dir: Path, elsewhere: Path, tmp_path: Path) -> None:
    maps = fetch(image_ids=[3, 4], resample=True)
    path = Catalog(data_dir).freeze(tmp_path / "maps.lock.json", bunch=maps, verbose=0)
    assert json.loads(path.read_text(encoding="utf-8"))["kind"] == "resampled"
    brought = fetch_frozen(path, data_dir=elsewhere, verbose=0)
    assert brought.report.counts == {"downloaded": 2}
    assert [Path(image).read_bytes() for image in brought.images] == [
        Path(image).read_bytes() for image in maps.images
    ]
    with pytest.raises(FreezeError, match=r"2 of 2 images .*no file here: 3, 4"):
        Catalog(data_dir).freeze(path, image_ids=[3, 4], overwrite=True, verbose=0)


def test_resampled_maps_made_otherwise_differ_and_leave_the_map_here_alone(
    fetch: Fetch, data_dir: Path, elsewhere: Path, tmp_path: Path
) -> None:
    fetch(image_ids=[3], resample=True)
    path = Catalog(data_dir).freeze(tmp_path / "maps.lock.json", image_ids=[3], resample=True, verbose=0)
    sha256 = entries(path)[0]["sha256"]
    path.write_text(path.read_text(encoding="utf-8").replace(sha256, "0" * 64), encoding="utf-8")
    fetch_neurovault_ids(image_ids=[3], data_dir=elsewhere, verbose=0)
    before = file_of(elsewhere, 3, 3).read_bytes()
    for _ in range(2):
        with pytest.warns(IncompleteWarning, match="image 3 failed"), pytest.warns(FrozenWarning):
            assert fetch_frozen(path, data_dir=elsewhere, verbose=0).images == []
    assert file_of(elsewhere, 3, 3).read_bytes() == before


# Freezing


def test_a_lock_file_says_what_was_frozen_from_where_and_by_what(
    fetch: Fetch, data_dir: Path, tmp_path: Path
) -> None:
    fetch(collection_ids=[3, 658])
    write(data_dir, "UPDATE collections SET doi = '10.1/x', name = 'Größe & Co' WHERE collection_id = 3")
    where = "image_id IN (SELECT unnest($wanted)) AND file_size > 0"
    path = Catalog(data_dir).freeze(tmp_path / "a.json", where=where, params={"wanted": [10426, 8718]}, verbose=0)
    said = json.loads(path.read_text(encoding="utf-8"))
    assert said["selection"] == {"where": where, "params": {"wanted": [10426, 8718]}}
    assert said["created_by"].startswith("nvcatalog ")
    assert datetime.fromisoformat(said["created_at"]).tzinfo is not None
    assert (said["version"], said["kind"], said["interpolation"]) == (1, "original", None)
    assert [each["collection_id"] for each in said["collections"]] == [3, 658]
    assert said["collections"][0] | {"private": None} == {
        "collection_id": 3,
        "name": "Größe & Co",
        "doi": "10.1/x",
        "preprint_doi": None,
        "private": None,
    }
    first = said["images"][0]
    assert (first["image_id"], first["collection_id"]) == (8718, 3)
    assert first["size"] == file_of(data_dir, 3, 8718).stat().st_size
    assert datetime.fromisoformat(first["modify_date"]) < datetime.now(UTC)
    assert [each["image_id"] for each in said["images"]] == [8718, 10426]


def test_two_lock_files_differ_by_a_line_for_each_image(fetch: Fetch, data_dir: Path, tmp_path: Path) -> None:
    fetch(collection_ids=[3])
    texts: list[list[str]] = []
    for wanted in ([8719, 3, 4, 8718], [3, 4, 8719]):
        path = Catalog(data_dir).freeze(tmp_path / "a.json", image_ids=wanted, overwrite=True, verbose=0)
        texts.append(path.read_text(encoding="utf-8").splitlines())
    changes = [line for line in difflib.ndiff(texts[0], texts[1]) if line[0] in "+-" and "created_at" not in line]
    assert len(changes) == 1
    assert '"image_id": 8718' in changes[0]


def test_without_a_choice_all_that_is_here_is_frozen(fetch: Fetch, data_dir: Path, tmp_path: Path) -> None:
    fetch(image_ids=[10426, 14227, 3])
    path = Catalog(data_dir).freeze(tmp_path / "deep" / "a.json", verbose=0)
    assert [each["image_id"] for each in entries(path)] == [3, 10426, 14227]


def test_what_is_not_here_and_proven_is_named_and_nothing_is_written(
    fetch: Fetch, data_dir: Path, tmp_path: Path
) -> None:
    fetch(collection_ids=[3, 1058], dry_run=True)
    fetch(image_ids=[3, 4, 8718])
    file_of(data_dir, 3, 3).unlink()
    damage(file_of(data_dir, 3, 4))
    write(data_dir, "UPDATE files SET state = 'unverified', sha256 = NULL WHERE image_id = 8718")
    path = tmp_path / "a.json"
    with pytest.raises(FreezeError) as raised:
        Catalog(data_dir).freeze(path, image_ids=[3, 4, 8718, 14250, 14251, 999], verbose=0)
    assert str(raised.value).startswith("6 of 6 images cannot be frozen")
    for said in ("no file here: 3, 14250, 14251", "never proven: 8718", "unknown to this catalog: 999"):
        assert said in str(raised.value)
    assert "no longer the file that was proven: 4" in str(raised.value)
    with pytest.raises(FreezeError, match=r"path IS NOT NULL"):
        Catalog(data_dir).freeze(path, where="collection_id = 1058", verbose=0)
    assert not path.exists()


def test_nothing_to_freeze_is_an_error(fetch: Fetch, data_dir: Path, tmp_path: Path) -> None:
    fetch(image_ids=[3])
    with pytest.raises(FreezeError, match="no image to freeze"):
        Catalog(data_dir).freeze(tmp_path / "a.json", where="false", verbose=0)
    assert not (tmp_path / "a.json").exists()


def test_an_answer_of_another_folder_is_told_from_ones_own(
    fetch: Fetch, data_dir: Path, elsewhere: Path, tmp_path: Path
) -> None:
    maps = fetch(image_ids=[3])
    fetch_neurovault_ids(image_ids=[3], data_dir=elsewhere, verbose=0)
    with pytest.raises(FreezeError, match=r"of another folder than .*elsewhere.*: 3"):
        Catalog(elsewhere).freeze(tmp_path / "a.json", bunch=maps, verbose=0)
    (tmp_path / "link").symlink_to(data_dir)
    assert Catalog(tmp_path / "link").freeze(tmp_path / "a.json", bunch=maps, verbose=0).exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"where": "true", "image_ids": [3]}, InvalidOptionError, "give one of where, bunch and image_ids"),
        ({"params": {"n": 1}}, InvalidOptionError, "give where"),
        ({"bunch": [3]}, InvalidOptionError, "bunch is a list; give what a fetcher returned"),
        ({"where": "nonsense = 1"}, QueryError, "no column nonsense"),
        ({"path": ""}, InvalidOptionError, "is a folder"),
        ({"path": "a" * 300}, InvalidOptionError, "path is .*: File name too long; give another path"),
        ({"path": "a" * 240}, InvalidOptionError, "File name too long"),
        ({"path": "a\0b"}, InvalidOptionError, r"path is .*a\\x00b'\): embedded null byte; give another"),
        ({"path": "a\udc80"}, InvalidOptionError, "path is .*surrogates not allowed"),
        ({"path": Path("~nobody at all/a")}, InvalidOptionError, "path is .*home directory; give another"),
        ({"path": 3}, InvalidOptionTypeError, "path is 3, a int"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    fetch: Fetch, data_dir: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    fetch(image_ids=[3])
    path = options.pop("path", "a.json")
    with pytest.raises(error, match=message):
        Catalog(data_dir).freeze(tmp_path / path if isinstance(path, str) else path, verbose=0, **options)


def test_private_collections_are_left_out_unless_asked_for_and_their_tokens_always(
    fetch: Fetch, world: World, data_dir: Path, elsewhere: Path, tmp_path: Path
) -> None:
    world.make_private(3, TOKEN)
    fetch(collection_ids=[TOKEN], image_ids=[10426])
    path, everything = tmp_path / "a.json", tmp_path / "b.json"
    with pytest.warns(SelectionWarning, match="4 images of private collections are left out"):
        Catalog(data_dir).freeze(path, overwrite=True, verbose=0)
    assert [each["image_id"] for each in entries(path)] == [10426]
    with pytest.raises(FreezeError, match="private ones are left out unless private=True"):
        Catalog(data_dir).freeze(path, image_ids=FOUR, overwrite=True, verbose=0)
    Catalog(data_dir).freeze(everything, private=True, verbose=0)
    assert [each["image_id"] for each in entries(everything)] == [*FOUR, 10426]
    assert TOKEN not in everything.read_text(encoding="utf-8")
    with pytest.warns(IncompleteWarning), pytest.warns(FrozenWarning, match="4 of private collections"):
        maps = fetch_frozen(everything, data_dir=elsewhere, verbose=0)
    assert ids(maps) == [10426]
    assert "collection 3 is private: fetch it by its token" in (reasons(maps)[3] or "")
    fetch_neurovault_ids([TOKEN], data_dir=elsewhere, verbose=0, dry_run=True)
    assert ids(fetch_frozen(everything, data_dir=elsewhere, verbose=0)) == [*FOUR, 10426]


def test_what_is_gone_from_the_server_is_left_out_unless_asked_for_and_named_with_a_warning(
    fetch: Fetch, data_dir: Path, tmp_path: Path
) -> None:
    maps = fetch(collection_ids=[3])
    write(data_dir, "UPDATE images SET gone_at = now() WHERE image_id = 4")

    def frozen(name: str, **options: Any) -> list[int]:
        path = Catalog(data_dir).freeze(tmp_path / name, verbose=0, **options)
        return [each["image_id"] for each in entries(path)]

    for choice in ({"where": "image_id < 9"}, {}):
        with pytest.warns(SelectionWarning, match="1 images are gone from the server, and left out: 4. gone=True"):
            assert frozen(f"{len(choice)}.json", **choice) == [3, *([] if choice else FOUR[2:])]
    assert frozen("asked.json", where="image_id < 9", gone=True) == [3, 4]
    for name, choice in {"ids": {"image_ids": [3, 4]}, "bunch": {"bunch": maps}}.items():
        with pytest.warns(SelectionWarning, match="gone from the server, and taken as they are here: 4$"):
            assert 4 in frozen(name, **choice)
    with pytest.raises(FreezeError, match=r"no image to freeze .* left out: 4. gone=True takes them too"):
        frozen("none.json", where="image_id = 4")


def test_a_size_or_a_collection_that_somebody_edited_is_said_of_the_image(
    fetch: Fetch, data_dir: Path, elsewhere: Path, tmp_path: Path
) -> None:
    path = Catalog(data_dir).freeze(tmp_path / "a.json", bunch=fetch(image_ids=[3, 4, 10426, 16256]), verbose=0)
    text = path.read_text(encoding="utf-8")
    for old, new in {
        '10426, "collection_id": 658': '10426, "collection_id": 3',
        f'"size": {entries(path)[0]["size"]}': '"size": 7',
    }.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")

    for folder in (data_dir, elsewhere):
        with pytest.warns(
            FrozenWarning, match="1 of another size than the lock file says, 1 of another collection"
        ):
            maps = fetch_frozen(path, data_dir=folder, verbose=0)
        assert sorted(ids(maps)) == [3, 4, 10426, 16256], "their sha256 is right"
        assert "bytes; the lock file says 7" in (reasons(maps)[3] or "")
        assert reasons(maps)[10426] == "it is in collection 658; the lock file says 3"
        assert reasons(maps)[4] is None


# Lock files

MOMENT = datetime(2016, 1, 21, 17, 22, 46, 112356, UTC)
LOCK = LockFile(
    images=(FrozenImage(3, 3, "ab" * 32, 12, MOMENT), FrozenImage(4, 3, "cd" * 32, 7, None)),
    collections=(FrozenCollection(3, 'A "quoted" {name}\n', "10.1/x"), FrozenCollection(5, private=True)),
    server="https://neurovault.org",
    selection={"where": "name = 'a\n\"images\": [1, 2]'", "params": {"images": [1, 2, 3]}},
    created_at="2026-01-02T03:04:05+00:00",
    created_by="nvcatalog 0.1.0",
)


def test_a_lock_file_is_read_as_it_was_written_however_it_is_laid_out(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    lockfile.write(LOCK, path)
    assert lockfile.read(path) == LOCK
    for indent in (None, 4):
        path.write_text(json.dumps(json.loads(lockfile.text_of(LOCK)), indent=indent), encoding="utf-8-sig")
        assert lockfile.read(path) == LOCK


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"version": 1',
            '"version": 2',
            "line 3: it is of version 2, and this nvcatalog reads up to 1: pip install",
        ),
        ('"version": 1', '"version": "1"', "line 3: \"version\" is '1', no version"),
        ('"nvcatalog lock file"', '"poetry"', 'line 1: it is no lock file: its "format" is not'),
        ('"original"', '"reduced"', "line 8: \"kind\" is 'reduced', none of original and resampled"),
        ('"https://neurovault.org"', '"neurovault"', "line 6: \"server\" is 'neurovault', no root of a server"),
        ('"ab', '"xy', 'line 15: "images": sha256 is \'xyab.*not 64 hexadecimal digits'),
        ('"image_id": 4', '"image_id": 3', 'line 16: "images": 3 is there twice'),
        ('"image_id": 4', '"image_id": 4, "image_id": 4', 'line 16: "image_id" is there twice in one object'),
        ('"images": [\n', '"images": [],\n  "images" : [\n', 'line 15: "images" is there twice in one object'),
        ('"selection": {', '"selection": 5, "chosen": {', 'line 7: "selection" is 5, no object'),
        ('"image_id": 4', '"image_id": true', 'line 16: "images": image_id is True, no id'),
        ('"size": 7', '"size": -7', 'line 16: "images": size is -7, no number of bytes'),
        ('"size": 7', '"size": NaN', 'line 16: "images": size is .NaN., no number of bytes'),
        ("46.112356+00:00", "46", 'line 15: "images": modify_date is .* no time with its offset'),
        ('"collection_id": 5', '"collection_id": 0', 'line 12: "collections": collection_id is 0, no id'),
        ('"10.1/x"', "10.1", 'line 11: "collections": 10.1 is no text'),
        ('"images": [\n', '"images": [\n<<<<<<< HEAD\n', "line 15: it is no whole JSON"),
        ('"size": 7', f'"size": {"7" * 5000}', 'line 16: "images": size is inf, no number of bytes'),
        ('"images": [\n', '"maps": [\n', 'line 1: it has no "images"'),
        ('"images": [\n', '"images": [],\n"maps": [\n', 'line 14: "images" is empty, and there is none without'),
        (
            '4, "collection_id": 3',
            '4, "collection_id": 7',
            'line 16: "images": collection_id is 7, which "collections" has not',
        ),
    ],
)
def test_a_damaged_lock_file_is_refused_with_line_and_reason(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "a.json"
    text = lockfile.text_of(LOCK)
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(LockFileError, match=message):
        fetch_frozen(path, data_dir=tmp_path)


def test_no_lock_file_at_all_is_said_too(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "\0"):
        with pytest.raises(LockFileError, match=r"cannot be read: .* Catalog\.freeze writes such a file"):
            fetch_frozen(path, data_dir=tmp_path)
    (tmp_path / "a.json").write_bytes(b'{\n"format": "\xff"}')
    with pytest.raises(LockFileError, match=r"a.json, line 2: it is not UTF-8"):
        fetch_frozen(tmp_path / "a.json", data_dir=tmp_path)
    (tmp_path / "a.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(LockFileError, match="line 1: "):
        fetch_frozen(tmp_path / "a.json", data_dir=tmp_path)


def read_or_refused(path: Path) -> None:
    try:
        lockfile.read(path)
    except LockFileError as error:
        refused = str(error)
    else:
        refused = "a.json, line 0: it was not"
    assert re.search(r"a\.json, line \d+: .", refused)


TEXT = lockfile.text_of(LOCK).encode()


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, len(TEXT)),
    length=st.integers(0, len(TEXT)),
    junk=st.one_of(
        st.binary(max_size=8),
        st.sampled_from([b"null", b"[]", b"{}", b"-1", b'""', b"9" * 5000, b"1e999", b'"\\ud800"', b'"http://["']),
    ),
)
def test_however_a_lock_file_is_damaged_it_is_read_or_refused_with_a_line(
    tmp_path: Path, start: int, length: int, junk: bytes
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(TEXT[:start] + junk + TEXT[start + length :])
    read_or_refused(path)


VALUES = [
    b"null", b"[]", b"{}", b"-1", b"0", b"true", b'"x"', b"1.5", b"9" * 5000, b"1e999", b'"\\ud800"', b'"http://["',
    b"[[1]]", b"[null]", b'[{"image_id": 3}]', b"9999999999",
]  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    where=st.sampled_from(["version", "server", "kind", "interpolation", "images", "collections", "selection"])
    | st.tuples(
        st.sampled_from(["images", "collections"]),
        st.sampled_from(["image_id", "collection_id", "sha256", "size", "modify_date", "name", "doi", "private"]),
    ),
    value=st.sampled_from(VALUES),
)
def test_whatever_a_field_of_a_lock_file_holds_it_is_read_or_refused_with_a_line(
    tmp_path: Path, where: str | tuple[str, str], value: bytes
) -> None:
    path = tmp_path / "a.json"
    said = json.loads(TEXT)
    if isinstance(where, str):
        said[where] = "@"
    else:
        said[where[0]][0][where[1]] = "@"
    path.write_bytes(json.dumps(said, indent=1).encode().replace(b'"@"', value))
    read_or_refused(path)


def test_a_lock_file_is_replaced_only_on_demand_and_nothing_else_ever(
    fetch: Fetch, data_dir: Path, tmp_path: Path
) -> None:
    fetch(collection_ids=[3])
    path = Catalog(data_dir).freeze(tmp_path / "a.json", image_ids=[3], verbose=0)
    former = path.read_bytes()
    with pytest.raises(InvalidOptionError, match=r"there already.*overwrite=True"):
        Catalog(data_dir).freeze(path, image_ids=[4], verbose=0)
    assert path.read_bytes() == former
    assert Catalog(data_dir).freeze(path, image_ids=[4], overwrite=True, verbose=0).read_bytes() != former
    script = tmp_path / "analysis.py"
    script.write_text("my work")
    with pytest.raises(LockFileError):
        Catalog(data_dir).freeze(script, image_ids=[4], overwrite=True, verbose=0)
    assert script.read_text() == "my work"
