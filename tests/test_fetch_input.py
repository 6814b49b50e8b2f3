"""Whatever a user passes or has on disk, a fetch does as told or says what to do instead; nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import fetching
import numpy as np
import pytest
from fetching import FOUR, file_of, ids, outcomes_of, traces, write
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world

from nvcatalog import Catalog, NVCatalogError
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import (
    CatalogCorruptError,
    CatalogTooNewError,
    DataDirError,
    FolderWarning,
    IncompleteWarning,
    InvalidIdError,
    InvalidIdTypeError,
    InvalidModeError,
    InvalidOptionError,
    WrongServerError,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")


# Bad input

HUGE = 10**5000  # more digits than Python writes out


@pytest.mark.parametrize("mode", ["new", "", None, 3])
def test_an_unknown_mode_is_a_value_error_and_writes_nothing(fetch: Fetch, data_dir: Path, mode: Any) -> None:
    with pytest.raises(InvalidModeError, match="'mode' must be one of") as raised:
        fetch(image_ids=[3], mode=mode)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, NVCatalogError)
    assert not data_dir.exists()


def test_the_mode_is_known_in_any_case(fetch: Fetch, server: DemoServer) -> None:
    fetch(image_ids=[3], mode="Download_New")
    server.reset_log()
    fetch(image_ids=[3], mode="OFFLINE")
    assert server.requests == 0
    fetch(image_ids=[3], mode="OverWrite")
    assert len(server.hits("/media/*")) == 1


@pytest.mark.parametrize("given", [True, 1.5, [3, None], [3, np.float64(4)], object()])
@pytest.mark.parametrize("which", ["collection_ids", "image_ids"])
def test_what_is_no_id_by_its_type_is_a_type_error_and_writes_nothing(
    fetch: Fetch, server: DemoServer, data_dir: Path, which: str, given: Any
) -> None:
    with pytest.raises(InvalidIdTypeError, match=f"{which}: ") as raised:
        fetch(**{which: given})
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, NVCatalogError)
    assert server.requests == 0
    assert not data_dir.exists()


@pytest.mark.parametrize(
    "given",
    [0, -3, "pain", [3, "abcdefgh"], "ABCDEFG", [2**40], [HUGE], [-HUGE], "9" * 5000, "https://neurovault.org/"],
    ids=shown,
)
@pytest.mark.parametrize("which", ["collection_ids", "image_ids"])
def test_what_is_no_id_by_its_value_is_a_value_error_and_writes_nothing(
    fetch: Fetch, server: DemoServer, data_dir: Path, which: str, given: Any
) -> None:
    with pytest.raises(InvalidIdError, match=f"{which}: ") as raised:
        fetch(**{which: given})
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, NVCatalogError)
    assert server.requests == 0
    assert not data_dir.exists()


@pytest.mark.parametrize(
    "given",
    [3, "3", [np.int64(3)], np.array([3]), "https://neurovault.org/images/3/", ["neurovault.image:3"], {3}],
)
def test_ids_come_as_people_have_them(fetch: Fetch, given: Any) -> None:
    assert ids(fetch(image_ids=given, collection_ids=None)) == [3]


def test_a_bare_collection_id_or_link_is_taken_as_one(fetch: Fetch) -> None:
    assert ids(fetch(collection_ids=3, image_ids=None)) == FOUR
    assert ids(fetch(collection_ids="https://neurovault.org/collections/3/")) == FOUR


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout": value} for value in (0, -1, "10", True, float("nan"), float("inf"), 1e10, HUGE)),
        *({"max_workers": value} for value in (0, -2, 1.5, True, "3", 33, 10**9, HUGE)),
        *({"max_age": value} for value in (-1, "1", True, float("nan"), 1e10, HUGE)),
        {"verbose": "3"},
    ],
    ids=lambda options: f"{next(iter(options))}, {shown(next(iter(options.values())))}",
)
def test_an_option_that_cannot_be_is_a_value_error_and_writes_nothing(
    fetch: Fetch, server: DemoServer, data_dir: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(options))) as raised:
        fetch(image_ids=[3], **options)
    assert isinstance(raised.value, ValueError)
    assert server.requests == 0
    assert not data_dir.exists()


def test_a_server_root_that_is_none_is_a_value_error(
    fetch: Fetch, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", "neurovault.org")
    with pytest.raises(InvalidOptionError, match=r"NVCATALOG_NEUROVAULT_URL is 'neurovault\.org'"):
        fetch(image_ids=[3])
    assert not data_dir.exists()


# The folder


def test_a_data_dir_that_is_a_file_is_an_error_that_says_so(
    fetch: Fetch, server: DemoServer, tmp_path: Path
) -> None:
    place = tmp_path / "notes.txt"
    place.write_text("precious")
    for data_dir in (place, place / "below"):
        for mode in ("download_new", "offline"):
            with pytest.raises(DataDirError, match=r"notes\.txt is a file") as raised:
                fetch(image_ids=[3], data_dir=data_dir, mode=mode)
            assert isinstance(raised.value, OSError)
            assert isinstance(raised.value, NVCatalogError)
    assert place.read_text() == "precious"
    assert server.requests == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where nobody can make a folder")
def test_a_data_dir_that_cannot_be_made_is_an_error_that_says_so(fetch: Fetch, server: DemoServer) -> None:
    with pytest.raises(DataDirError, match="/proc/nowhere/neurovault cannot be made"):
        fetch(image_ids=[3], data_dir="/proc/nowhere")
    assert server.requests == 0


needs_another_user = pytest.mark.skipif(
    not hasattr(os, "setresuid"), reason="needs a way to give up root's rights for a while"
)


@contextmanager
def nobody() -> Iterator[None]:
    """Give up root's rights for a while: to root every folder can be written."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def shared_dir(fetch: Fetch) -> Iterator[Path]:
    """Return a filled folder that cannot be written, outside of pytest's own, which nobody else may enter."""
    with tempfile.TemporaryDirectory() as place:
        data_dir = Path(place) / "shared"
        fetch(collection_ids=[3], data_dir=data_dir, fetch_neurosynth_words=True)
        everything = [Path(place), data_dir, *data_dir.rglob("*")]
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield data_dir
        for path in everything:
            if path.is_dir():
                path.chmod(0o755)


@needs_another_user
def test_a_folder_that_cannot_be_written_makes_the_call_work_offline(
    fetch: Fetch, server: DemoServer, shared_dir: Path
) -> None:
    server.reset_log()
    with nobody(), pytest.warns(FolderWarning, match="cannot be written") as warned:
        maps = fetch(collection_ids=[3], data_dir=shared_dir, fetch_neurosynth_words=True)
    assert issubclass(warned[0].category, UserWarning)
    assert warned[0].filename == fetching.__file__
    assert ids(maps) == FOUR
    assert maps.word_frequencies.any()
    assert maps.report.counts == {"cached": 8}
    with nobody(), pytest.warns(IncompleteWarning, match="missing_offline"), pytest.warns(FolderWarning):
        maps = fetch(collection_ids=[3], image_ids=[10426], data_dir=shared_dir, mode="overwrite")
    assert ids(maps) == FOUR
    assert server.requests == 0


@needs_another_user
def test_offline_in_a_folder_that_cannot_be_written_warns_of_nothing(fetch: Fetch, shared_dir: Path) -> None:
    with nobody():
        assert ids(fetch(collection_ids=[3], data_dir=shared_dir, mode="offline")) == FOUR


@needs_another_user
def test_what_nilearn_left_in_a_folder_that_cannot_be_written_is_used_all_the_same(
    fetch: Fetch, shared_dir: Path
) -> None:
    shared = shared_dir / "neurovault"
    shared.chmod(0o755)
    (shared / "catalog.duckdb").unlink()
    shared.chmod(0o555)
    for _ in range(2):
        with nobody(), warnings.catch_warnings(record=True) as warned:
            maps = fetch(image_ids=FOUR, data_dir=shared_dir, fetch_neurosynth_words=True, mode="offline")
        assert not warned
        assert ids(maps) == FOUR
        assert outcomes_of(maps) == outcomes_of(maps, "words") == dict.fromkeys(FOUR, "adopted")
        assert maps.word_frequencies.any(axis=1).all()


@needs_another_user
def test_a_catalog_that_somebody_else_owns_makes_the_call_work_offline(
    fetch: Fetch, server: DemoServer, shared_dir: Path
) -> None:
    (shared_dir / "neurovault").chmod(0o777)
    server.reset_log()
    with nobody(), pytest.warns(FolderWarning, match="catalog.duckdb"), pytest.warns(IncompleteWarning):
        maps = fetch(collection_ids=[3], image_ids=[10426], data_dir=shared_dir)
    assert ids(maps) == FOUR
    assert server.requests == 0


@needs_another_user
def test_a_collections_folder_that_cannot_be_written_costs_only_its_own_images(
    fetch: Fetch, shared_dir: Path
) -> None:
    home = shared_dir / "neurovault"
    home.chmod(0o777)
    for name in ("catalog.duckdb", "catalog.lock"):
        (home / name).chmod(0o666)
    (home / "collection_1197").mkdir(mode=0o555)
    asked: dict[str, Any] = {"collection_ids": [3, 1197, 1058], "data_dir": shared_dir}
    with nobody(), pytest.warns(IncompleteWarning, match="Permission denied.*collection_1197"):
        maps = fetch(**asked)
    assert ids(maps) == [*FOUR, 14250, 14251, 14252]
    assert outcomes_of(maps)[16256] == "failed"
    (home / "collection_1197").chmod(0o755)
    (home / "collection_1058").chmod(0o755)
    assert ids(fetch(**asked)) == [*FOUR, 14227, 16256, 14250, 14251, 14252]


@needs_another_user
@pytest.mark.parametrize("others", [0, 20], ids=["looked for one by one", "more than are looked for one by one"])
def test_a_collections_folder_that_is_closed_to_the_user_costs_only_its_own_images(
    fetch: Fetch, shared_dir: Path, others: int
) -> None:
    home = shared_dir / "neurovault"
    home.chmod(0o777)
    for name in ("catalog.duckdb", "catalog.lock"):
        (home / name).chmod(0o666)
    (home / "collection_1197").mkdir(mode=0o000)
    asked = [3, 9034, 16256, *range(700_000, 700_000 + others)]
    for mode, lost in (("download_new", "failed"), ("offline", "missing_offline")):
        with nobody(), pytest.warns(IncompleteWarning):
            maps = fetch(collection_ids=[1058], image_ids=asked, mode=mode, data_dir=shared_dir)
        assert ids(maps) == [14250, 14251, 14252, 3, 9034]
        assert outcomes_of(maps)[16256] == lost
    (home / "collection_1197").chmod(0o755)


def test_something_else_in_the_place_of_a_file_or_folder_costs_only_its_own_images(
    fetch: Fetch, data_dir: Path
) -> None:
    place = file_of(data_dir, 3, 4)
    place.mkdir(parents=True)
    (data_dir / "neurovault" / "collection_1058").write_text("a note of mine")
    with pytest.warns(IncompleteWarning, match="4 failed"):
        maps = fetch(collection_ids=[3, 1058], fetch_neurosynth_words=True)
    assert ids(maps) == [3, 8718, 8719]
    assert str(place) in str(maps.report[1].reason)
    assert (data_dir / "neurovault" / "collection_1058").read_text() == "a note of mine"


def test_the_data_dir_is_found_as_nilearn_finds_it(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path / "data"))
    assert fetch(image_ids=[3], data_dir=None).images == [str(file_of(tmp_path / "data", 3, 3))]
    monkeypatch.setenv("NILEARN_SHARED_DATA", str(tmp_path / "shared"))
    (tmp_path / "shared" / "neurovault").mkdir(parents=True)
    assert fetch(image_ids=[3], data_dir=None).images == [str(file_of(tmp_path / "shared", 3, 3))]
    monkeypatch.delenv("NILEARN_DATA")
    monkeypatch.delenv("NILEARN_SHARED_DATA")
    home = Path(os.environ["HOME"])
    assert fetch(image_ids=[3], data_dir=None).images == [str(file_of(home / "nilearn_data", 3, 3))]
    assert fetch(image_ids=[3], data_dir="~/mine").images == [str(file_of(home / "mine", 3, 3))]


def test_a_relative_data_dir_gives_absolute_paths(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert fetch(image_ids=[3], data_dir="here").images == [str(file_of(tmp_path / "here", 3, 3))]


def test_a_data_dir_may_be_called_anything(fetch: Fetch, server: DemoServer, tmp_path: Path) -> None:
    data_dir = tmp_path / 'it\'s $HOME; 100% "日本語" ünïcode\tdata'
    assert ids(fetch(image_ids=[3], data_dir=data_dir)) == [3]
    before = server.requests
    assert ids(fetch(image_ids=[3], data_dir=str(data_dir))) == [3]
    assert server.requests == before


@pytest.mark.parametrize(
    ("data_dir", "reason"),
    [
        ("~nosuchuser_zz/x", "home directory"),
        ("/tmp/a\0b", "null"),
        ("/tmp/" + "a" * 300, "File name too long"),
        (os.fsdecode(b"/tmp/nvcatalog-\xff-dir"), "surrogates not allowed"),
        ("/tmp/which maps?", "with \\? in its name"),
        ("/tmp/maps\\mine", "with \\\\ in its name"),
    ],
    ids=["nobody's home", "a zero byte", "too long", "no UTF-8", "a question mark", "a backslash"],
)
@pytest.mark.parametrize("mode", ["download_new", "offline"])
def test_a_data_dir_that_can_never_be_made_is_named(
    fetch: Fetch, server: DemoServer, data_dir: str, reason: str, mode: str
) -> None:
    with pytest.raises(DataDirError, match=f"{re.escape(repr(data_dir))} cannot hold the data: .*{reason}"):
        fetch(image_ids=[3], data_dir=data_dir, mode=mode)
    assert server.requests == 0


def test_a_place_of_the_environment_that_can_never_be_made_is_passed_over(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NILEARN_SHARED_DATA", f"~nosuchuser_zz/x{os.pathsep}{tmp_path / 'shared'}")
    assert fetch(image_ids=[3], data_dir=None).images == [str(file_of(tmp_path / "shared", 3, 3))]


@needs_another_user
@pytest.mark.parametrize("closed", ["", "neurovault"], ids=["below it", "itself"])
def test_a_data_dir_that_this_user_may_not_enter_is_named(fetch: Fetch, shared_dir: Path, closed: str) -> None:
    (shared_dir / closed).chmod(0o000)
    with nobody(), pytest.raises(DataDirError, match=f"{shared_dir}.*(Permission denied|may not look into it)"):
        fetch(image_ids=[3], data_dir=shared_dir)


def test_a_moved_folder_gives_paths_in_its_new_place(
    fetch: Fetch, server: DemoServer, data_dir: Path, tmp_path: Path
) -> None:
    fetch(collection_ids=[3], fetch_neurosynth_words=True)
    data_dir.rename(tmp_path / "elsewhere")
    before = server.requests
    maps = fetch(collection_ids=[3], data_dir=tmp_path / "elsewhere", fetch_neurosynth_words=True)
    assert server.requests == before
    assert maps.images == [str(file_of(tmp_path / "elsewhere", 3, id_)) for id_ in FOUR]
    assert maps.images_meta[0]["ns_words_absolute_path"].startswith(str(tmp_path / "elsewhere"))
    assert str(data_dir) not in repr(dict(maps))


# The catalog file


def test_the_catalog_of_a_newer_version_is_left_alone(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    fetch(image_ids=[3])
    write(data_dir, "INSERT INTO schema_migrations VALUES (9999, 'from_the_future', 'x', now())")
    before, asked = traces(data_dir), server.requests
    for mode in ("download_new", "overwrite", "offline"):
        with pytest.raises(CatalogTooNewError, match="upgrade nvcatalog") as raised:
            fetch(image_ids=[3, 4], mode=mode)
        assert isinstance(raised.value, NVCatalogError)
    assert traces(data_dir) == before
    assert server.requests == asked


@pytest.mark.parametrize(
    "damage", [b"", b"not a database", b"\0" * 50_000, None], ids=["empty", "text", "zeros", "cut"]
)
def test_a_corrupt_catalog_says_how_to_rebuild_and_nothing_is_lost(
    fetch: Fetch, server: DemoServer, data_dir: Path, damage: bytes | None
) -> None:
    fetch(collection_ids=[3], fetch_neurosynth_words=True)
    catalog = data_dir / "neurovault" / "catalog.duckdb"
    catalog.write_bytes(catalog.read_bytes()[:30_000] if damage is None else damage)
    before, asked = traces(data_dir), server.requests
    for mode in ("download_new", "overwrite", "offline"):
        with pytest.raises(CatalogCorruptError, match="nvcatalog rebuild --data-dir") as raised:
            fetch(collection_ids=[3], mode=mode)
        assert str(catalog) in str(raised.value)
        assert isinstance(raised.value, NVCatalogError)
    assert traces(data_dir) == before
    assert server.requests == asked

    # No snapshot was taken yet.
    rebuilt = Catalog(data_dir).rebuild(verbose=0)
    assert rebuilt.adopted.counts == {"adopted": 4}
    maps = fetch(collection_ids=[3], fetch_neurosynth_words=True)
    assert ids(maps) == FOUR
    assert maps.word_frequencies.any(axis=1).all()
    # The list is read again, since only the server can tell whether it was whole; no file and no term is.
    assert {hit.path for hit in server.log[asked:]} == {"/api/collections/3/", "/api/collections/3/images/"}


def in_its_place_a_folder(catalog: Path) -> None:
    catalog.unlink()
    catalog.mkdir()


def in_its_place_links_in_a_circle(catalog: Path) -> None:
    catalog.unlink()
    catalog.symlink_to(catalog.name)


def without_a_table(catalog: Path) -> None:
    change(catalog, "DROP VIEW stat_maps; DROP VIEW local_images; DROP TABLE images")


def without_a_table_that_is_only_written(catalog: Path) -> None:
    change(catalog, "DROP TABLE fetches")


def with_an_image_whose_record_is_none(catalog: Path) -> None:
    change(catalog, "UPDATE raw_records SET raw = '[1]' WHERE kind = 'image'")


def with_a_collection_whose_record_is_none(catalog: Path) -> None:
    change(catalog, "UPDATE raw_records SET raw = '[1]' WHERE kind = 'collection'")


def change(catalog: Path, statements: str) -> None:
    with duckdb.connect(str(catalog)) as connection:
        connection.execute(statements)


@pytest.mark.parametrize(
    "damage",
    [
        in_its_place_a_folder,
        in_its_place_links_in_a_circle,
        without_a_table,
        without_a_table_that_is_only_written,
        with_an_image_whose_record_is_none,
        with_a_collection_whose_record_is_none,
    ],
)
def test_a_catalog_that_somebody_has_spoilt_says_how_to_rebuild(
    fetch: Fetch, data_dir: Path, damage: Callable[[Path], None]
) -> None:
    fetch(collection_ids=[3])
    catalog = data_dir / "neurovault" / "catalog.duckdb"
    damage(catalog)

    with pytest.raises(CatalogCorruptError, match=f"{catalog} cannot be read.*nvcatalog rebuild --data-dir"):
        fetch(collection_ids=[3], image_ids=[10426])

    assert Catalog(data_dir).rebuild(verbose=0).adopted.counts["adopted"] >= len(FOUR)
    assert ids(fetch(collection_ids=[3])) == FOUR


@pytest.mark.parametrize("damage", [in_its_place_a_folder, in_its_place_links_in_a_circle])
def test_what_is_no_file_is_no_empty_catalog(fetch: Fetch, data_dir: Path, damage: Callable[[Path], None]) -> None:
    fetch(collection_ids=[3])
    damage(data_dir / "neurovault" / "catalog.duckdb")
    with pytest.raises(CatalogCorruptError, match="nvcatalog rebuild --data-dir"):
        Catalog(data_dir).sql("SELECT count(*) FROM images")


def test_a_lost_catalog_costs_no_download(fetch: Fetch, server: DemoServer, data_dir: Path) -> None:
    fetch(collection_ids=[3])
    (data_dir / "neurovault" / "catalog.duckdb").unlink()
    server.reset_log()
    maps = fetch(collection_ids=[3])
    assert outcomes_of(maps) == dict.fromkeys(FOUR, "adopted")
    assert not server.hits("/media/*")
    assert fetch(collection_ids=[3]).report.counts == {"cached": 4}


# Another server


@pytest.fixture
def other(world: World) -> Iterator[DemoServer]:
    """Serve the same world at another place."""
    with DemoServer(world) as running:
        yield running


def test_another_servers_catalog_is_refused_and_both_are_named(
    fetch: Fetch, server: DemoServer, other: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(image_ids=[3])
    before = traces(data_dir)
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", other.neurovault_url)
    for mode in ("download_new", "overwrite"):
        with pytest.raises(WrongServerError, match=re.escape(server.neurovault_url)) as raised:
            fetch(image_ids=[4], mode=mode)
        assert other.neurovault_url in str(raised.value)
        assert isinstance(raised.value, ValueError)
        assert isinstance(raised.value, NVCatalogError)
    assert other.requests == 0
    assert traces(data_dir) == before


def test_what_is_here_of_another_server_can_still_be_used(
    fetch: Fetch, other: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(image_ids=[3])
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", other.neurovault_url)
    assert ids(fetch(image_ids=[3], mode="offline")) == [3]


def test_a_folder_that_nilearn_filled_from_another_server_is_refused(
    fetch: Fetch, server: DemoServer, other: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(collection_ids=[3])
    (data_dir / "neurovault" / "catalog.duckdb").unlink()
    shutil.rmtree(data_dir / "neurovault" / "snapshots", ignore_errors=True)
    before = traces(data_dir)
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", other.neurovault_url)
    for call in (
        lambda: fetch(collection_ids=[3]),
        lambda: fetch(image_ids=[9034]),  # of which it has nothing
        lambda: Catalog(data_dir).sync(verbose=0),
    ):
        with pytest.raises(WrongServerError, match=re.escape(server.neurovault_url)):
            call()
    assert other.requests == 0
    assert traces(data_dir).keys() >= before.keys()
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", server.neurovault_url)
    assert ids(fetch(image_ids=[9034])) == [9034]
    found = Catalog(data_dir).sql("SELECT value FROM catalog_info WHERE key = 'server_root'").fetchall()
    assert found == [(server.neurovault_url,)]


def test_a_declared_mirror_may_go_on_filling_the_folder(
    fetch: Fetch, server: DemoServer, other: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(image_ids=[3])
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", other.neurovault_url)
    monkeypatch.setenv("NVCATALOG_MIRROR_OF", server.neurovault_url)
    server.reset_log()
    maps = fetch(image_ids=[3, 4])
    assert ids(maps) == [3, 4]
    assert len(other.hits("/media/*")) == 1
    assert server.requests == 0
    assert all(str(meta["file"]).startswith(server.neurovault_url) for meta in maps.images_meta)
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", server.neurovault_url)
    monkeypatch.delenv("NVCATALOG_MIRROR_OF")
    assert ids(fetch(image_ids=[8718])) == [8718]
