"""Images are chosen by filters however the server misbehaves, and what could not be looked at is told."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fetching
import nilearn.datasets.neurovault as theirs
import numpy as np
import pytest
from fetching import FOUR, SEVEN_DAYS_AGO, file_of, ids, outcomes_of, traces, write
from fetching import fetch_filtered as fetch_filtered
from fetching import no_waiting as no_waiting
from fetching import world as world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import nilearn_dir as nilearn_dir
from oracle import nilearn_filtered as nilearn_filtered
from test_store import as_nobody
from waiting import PATIENCE_S, patience, started, wait_until

from nvcatalog import Catalog, Outcome, fetch_neurovault, fetch_neurovault_ids
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import (
    BlockedWarning,
    CatalogWarning,
    FilterWarning,
    FolderWarning,
    IncompleteWarning,
    shown,
)
from nvcatalog.filters import (
    Contains,
    GreaterOrEqual,
    GreaterThan,
    IsIn,
    IsNull,
    LessOrEqual,
    LessThan,
    NotContains,
    NotEqual,
    NotIn,
    NotNull,
    Pattern,
    ResultFilter,
    SpecialValue,
    keep_all,
    keeps,
)
from nvcatalog.moving import Mover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fetching import Fetch

pytestmark = [
    pytest.mark.usefixtures("no_waiting"),
    pytest.mark.filterwarnings("ignore:No image:nvcatalog.errors.SelectionWarning"),  # test_unmatched.py has these
]

THREE = [14250, 14251, 14252]
TWENTY = list(range(9034, 9054))
ANY: dict[str, Any] = {"image_terms": {}, "collection_terms": {}}
EVERYTHING: dict[str, Any] = {**ANY, "max_images": None}
ALL_IDS = sorted([*FOUR, *THREE, *TWENTY, 16256, 14227, 10426])


@pytest.fixture
def fetch(fetch_filtered: Fetch) -> Fetch:
    """Return our fetch_neurovault, quiet and into the test's folder."""
    return fetch_filtered


@pytest.fixture
def no_sockets(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return a function after which every attempt to open a connection is an error."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a socket was opened")

    def forbid() -> None:
        for name in ("connect", "connect_ex", "__init__"):
            monkeypatch.setattr(socket.socket, name, refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    yield forbid
    monkeypatch.undo()


def paths_of(server: DemoServer) -> list[str]:
    return sorted(hit.path for hit in server.log)


def start(world: World, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> DemoServer:
    server = DemoServer(world, **settings).start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


# Filters that fail


def test_a_function_that_raises_costs_the_record_it_raised_for_and_names_it(fetch: Fetch, world: World) -> None:
    world.edit_image(4, contrast_definition=None)

    def is_about_stopping(image: Any) -> Any:
        return "stop" in image["contrast_definition"] if image["id"] == 4 else True

    with pytest.warns(IncompleteWarning, match=r"image 4 failed \(the filter raised TypeError.*for its record"):
        maps = fetch(collection_id=3, image_terms={"collection_id": 3}, image_filter=is_about_stopping)
    assert ids(maps) == [3, 8718, 8719]
    assert outcomes_of(maps)[4] == "failed"
    with pytest.warns(IncompleteWarning, match="image 4 failed"):
        assert ids(fetch(max_images=4, **ANY, image_filter=is_about_stopping)) == [3, 8718, 8719, 9034]


@pytest.mark.filterwarnings("ignore::nvcatalog.errors.FilterWarning")
def test_a_function_of_collections_that_raises_costs_that_collection(fetch: Fetch, server: DemoServer) -> None:
    def picky(collection: Any) -> bool:
        return bool(1 / (collection["id"] - 555))

    for _ in range(2):
        with pytest.warns(IncompleteWarning, match=r"1 failed. collection 555 failed \(the filter raised Zero"):
            maps = fetch(**EVERYTHING, collection_filter=picky)
        assert sorted(ids(maps)) == sorted(set(ALL_IDS) - set(TWENTY))
        assert [outcome[:3] for outcome in maps.report.missing] == [("collection", 555, "failed")]


def test_a_special_value_of_ones_own_that_raises_is_no_worse(fetch: Fetch) -> None:
    class Divides(SpecialValue):
        def accepts(self, value: Any) -> bool:
            return bool(1 / (value - 4))

    with pytest.warns(IncompleteWarning, match="image 4 failed .the filter raised ZeroDivisionError"):
        assert ids(fetch(collection_id=3, image_terms={"id": Divides()})) == [3, 8718, 8719]


def test_an_interrupt_in_a_function_is_no_failure_of_the_record(fetch: Fetch) -> None:
    def interrupt(image: Any) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(**EVERYTHING, image_filter=interrupt)


def test_a_function_that_changes_a_record_changes_a_copy(fetch: Fetch, world: World) -> None:
    def vandal(image: Any) -> bool:
        image.clear()
        return True

    maps = fetch(collection_id=3, image_terms={}, image_filter=vandal)
    assert [meta["name"] for meta in maps.images_meta] == [(world.image(id_) or {})["name"] for id_ in FOUR]


# Fields that nobody has


@pytest.mark.parametrize("mode", ["download_new", "offline"])
def test_a_field_that_no_image_has_is_warned_of_with_the_nearest_name(fetch: Fetch, mode: str) -> None:
    with pytest.warns(
        FilterWarning, match="No image here has a field 'modalty'; did you mean 'modality'"
    ) as warned:
        maps = fetch(modalty="fMRI-BOLD", max_images=2, mode=mode)
    assert warned[0].filename == fetching.__file__
    assert maps.images == []


def test_a_keyword_that_looks_like_an_option_is_warned_of_before_anything_is_looked_through(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            FilterWarning, match=r"max_image is no option .* did you mean the option max_images"
        ) as it:
            fetch(max_image=2)
    assert it.traceback[1].path == Path(fetching.__file__)
    assert server.requests == 0
    world.edit_image(4, max_image=2)
    with pytest.warns(FilterWarning, match="did you mean the option max_images"):
        assert ids(fetch(max_image=2)) == [4]
    assert ids(fetch(max_image=2)) == [4]  # now that one is known to have such a field


def test_a_free_form_field_is_known_once_an_image_has_it(fetch: Fetch, world: World) -> None:
    with pytest.warns(FilterWarning, match="No image here has a field 'Scanner'$"):
        fetch(Scanner="7T")
    world.edit_image(4, Scanner="7T")
    assert ids(fetch(Scanner="7T")) == [4]
    assert ids(fetch(Scanner="7T", mode="offline")) == [4]
    assert fetch(Scanner="3T", mode="offline").images == []


@pytest.mark.parametrize(
    "name", ["id", "collection_id", "sex", "gender", "file", "url", "modify_date", "smoothness_fwhm"]
)
def test_documented_fields_are_known_without_any_image(fetch: Fetch, name: str) -> None:
    fetch(mode="offline", **{name: NotEqual("x")})


# A server in trouble


def test_a_broken_record_in_the_list_of_collections_costs_that_one(fetch: Fetch, world: World) -> None:
    world.poison_collection(555)
    for _ in range(2):
        with pytest.warns(IncompleteWarning, match="collection broken_on_server .record 2 of the"):
            maps = fetch(**EVERYTHING)
        assert sorted(ids(maps)) == sorted(set(ALL_IDS) - set(TWENTY))
    world.cure(555)
    assert sorted(ids(fetch(**EVERYTHING))) == ALL_IDS


def test_a_list_of_collections_without_order_is_read_until_it_is_whole(
    world: World, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(250):
        world.add_collection(images=0)
    world.add_collection(id=9999, images=[{"id": 99_999}])
    with start(world, monkeypatch, ordered=False) as server:
        maps = fetch_neurovault(**EVERYTHING, data_dir=data_dir, verbose=0)
        assert sorted(ids(maps)) == [*ALL_IDS, 99_999]
        # Collections without images are not listed.
        assert len(server.hits("/api/collections/*/images/")) == 6


def test_a_collection_that_cannot_be_listed_is_named_and_the_others_arrive(
    fetch: Fetch, server: DemoServer
) -> None:
    server.fail("/api/collections/555/images/", faults.status(503))
    with pytest.warns(IncompleteWarning, match=r"collection 555 failed \(.*503"):
        maps = fetch(**EVERYTHING)
    assert sorted(ids(maps)) == sorted(set(ALL_IDS) - set(TWENTY))
    assert outcomes_of(maps, "collection") == {555: "failed"}
    server.heal()
    server.reset_log()
    assert sorted(ids(fetch(**EVERYTHING))) == ALL_IDS
    assert {hit.path for hit in server.hits("/api/*")} == {"/api/collections/", "/api/collections/555/images/"}
    assert len(server.hits("/media/*")) == 20


def test_one_collection_that_is_none_is_named_at_every_call(fetch: Fetch, server: DemoServer) -> None:
    for requests in (True, False):
        server.reset_log()
        with pytest.warns(IncompleteWarning, match="collection 777 not_found"):
            maps = fetch(collection_id=777)
        assert maps.images == []
        assert bool(server.requests) == requests


def test_broken_records_of_a_collection_stay_in_every_report_and_are_asked_for_again_in_time(
    fetch: Fetch, server: DemoServer, world: World, data_dir: Path
) -> None:
    world.poison_image(8718)
    for _ in range(2):
        with pytest.warns(IncompleteWarning, match="1 broken_on_server.*record 3 of collection 3"):
            maps = fetch(**EVERYTHING)
        assert sorted(ids(maps)) == sorted(set(ALL_IDS) - {8718})
        assert maps.report.missing == (Outcome("image", None, "broken_on_server", "record 3 of collection 3"),)
    with pytest.warns(IncompleteWarning, match="record 3 of collection 3"):
        assert ids(fetch(collection_id=3)) == [3, 4, 8719]
    world.cure(8718)
    write(data_dir, SEVEN_DAYS_AGO)
    server.reset_log()
    assert sorted(ids(fetch(**EVERYTHING))) == ALL_IDS
    assert [hit.path for hit in server.hits("/api/collections/*/*")] == ["/api/collections/3/images/"]


def test_the_next_candidates_take_the_place_of_files_that_cannot_be_had(fetch: Fetch, world: World) -> None:
    world.broken_media(3)
    world.replace_file(8718, b"no map at all")
    for status in ("downloaded", "cached"):
        with pytest.warns(IncompleteWarning, match="1 not_found, 1 corrupt_on_server"):
            maps = fetch(max_images=5 if status == "downloaded" else 6)
        assert ids(maps)[:5] == [4, 8719, 9034, 9035, 9036]
        assert {id_: status for id_, status in outcomes_of(maps).items() if id_ in FOUR} == {
            3: "not_found", 8718: "corrupt_on_server", 4: status, 8719: status,
        }  # fmt: skip


def test_an_image_damaged_here_is_fetched_again_before_others(
    fetch: Fetch, server: DemoServer, data_dir: Path
) -> None:
    fetch(max_images=3)
    file_of(data_dir, 3, 4).write_bytes(b"damaged")
    server.reset_log()
    assert ids(fetch(max_images=3)) == [3, 4, 8718]
    assert len(server.log) == 1


def test_an_unreachable_server_costs_what_is_not_here_and_the_report_says_why(
    fetch: Fetch, server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(max_images=3)
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        monkeypatch.setenv("NVCATALOG_MIRROR_OF", server.neurovault_url)
        monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", f"http://127.0.0.1:{nobody_listens.getsockname()[1]}")
        assert ids(fetch(max_images=3)) == [3, 4, 8718]
        for max_images in (5, None):
            with pytest.warns(IncompleteWarning, match="no connection in 3 tries"):
                maps = fetch(max_images=max_images)
            assert ids(maps) == [3, 4, 8718]
            assert ("collection", None, "failed") in [outcome[:3] for outcome in maps.report.missing] or max_images
        with pytest.warns(IncompleteWarning, match="kept_old"):
            maps = fetch(max_images=3, mode="overwrite")
        assert ids(maps) == [3, 4, 8718]
        assert set(outcomes_of(maps).values()) == {"kept_old"}


def test_a_server_given_up_is_not_asked_for_all_that_the_catalog_knows(fetch: Fetch, server: DemoServer) -> None:
    server.fail("/media/*", faults.status(503))
    with pytest.warns(IncompleteWarning):
        fetch(**EVERYTHING)
    server.heal()
    server.fail("*", faults.challenge())
    with pytest.warns(BlockedWarning), pytest.warns(IncompleteWarning, match="Stopped early"):
        maps = fetch(max_images=2, **ANY)
    assert maps.images == []
    assert len(outcomes_of(maps)) == 2


def test_overwrite_renews_what_matches_and_keeps_what_the_server_lost(
    fetch: Fetch, server: DemoServer, world: World
) -> None:
    assert sorted(ids(fetch(**EVERYTHING))) == ALL_IDS
    world.edit_image(4, name="edited")
    world.delete_image(8718)
    world.edit_image(8719, modality="MEG")
    world.delete_collection(658)
    server.reset_log()
    with pytest.warns(IncompleteWarning, match="2 kept_old"):
        maps = fetch(**EVERYTHING, mode="overwrite", modality=NotEqual("MEG"))
    assert sorted(ids(maps)) == sorted(set(ALL_IDS) - {8719})
    assert {id_ for id_, status in outcomes_of(maps).items() if status == "kept_old"} == {8718, 10426}
    assert [meta["name"] for meta in maps.images_meta if meta["id"] == 4] == ["edited"]


def test_records_are_judged_as_the_server_has_them_now(fetch: Fetch, world: World) -> None:
    asked: dict[str, Any] = {"max_images": None, "collection_terms": {"name": Contains("wanted")}}
    world.edit_collection(1058, name="wanted")
    assert ids(fetch(**asked)) == THREE
    world.edit_collection(1058, name="no more")
    world.edit_collection(3, name="wanted now")
    # Images that are here are judged by the records here, as in nilearn; an overwrite looks at the server's.
    assert ids(fetch(**asked)) == [*THREE, *FOUR]
    assert ids(fetch(**asked, mode="overwrite")) == FOUR
    assert ids(fetch(**asked, mode="offline")) == FOUR


# Offline


def test_offline_opens_no_socket(
    fetch: Fetch, no_sockets: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(max_images=5, fetch_neurosynth_words=True)
    no_sockets()
    for asked in ({"max_images": 5}, {"collection_id": 3}, {"max_age": 0}):
        for mode in ("offline", "download_new"):
            monkeypatch.setenv("NVCATALOG_OFFLINE", str(int(mode != "offline")))
            maps = fetch(**asked, fetch_neurosynth_words=True, mode=mode)
            assert ids(maps) == [*FOUR, 9034][: 4 if "collection_id" in asked else 5]
            assert maps.word_frequencies.any(axis=1).all()


def test_offline_with_nothing_here_gives_nothing_and_makes_nothing(fetch: Fetch, data_dir: Path) -> None:
    maps = fetch(mode="offline")
    assert (maps.images, maps.images_meta, maps.collections_meta, len(maps.report)) == ([], [], [], 0)
    assert not data_dir.exists()


def test_offline_finds_what_a_killed_call_left_without_a_row(fetch: Fetch, data_dir: Path) -> None:
    fetch(max_images=5)
    write(data_dir, "DELETE FROM files WHERE image_id IN (4, 9034)")
    for status in ("adopted", "cached"):
        maps = fetch(max_images=5, mode="offline")
        assert sorted(ids(maps)) == [3, 4, 8718, 8719, 9034]
        assert {outcomes_of(maps)[id_] for id_ in (4, 9034)} == {status}


def test_what_nilearn_added_later_to_a_folder_of_ours_is_found(
    fetch: Fetch, nilearn_filtered: Fetch, server: DemoServer, data_dir: Path
) -> None:
    fetch_neurovault_ids(image_ids=[4], data_dir=data_dir, verbose=0)
    nilearn_filtered(data_dir=data_dir, max_images=None, collection_filter=lambda c: c["id"] == 1058)
    theirs.fetch_neurovault_ids([], [3, 8718, 8719], data_dir=data_dir, verbose=0)
    server.reset_log()
    assert sorted(ids(fetch(mode="offline"))) == [*FOUR, *THREE]
    assert server.requests == 0


# Folders


def test_a_read_only_folder_of_nilearns_is_read_as_it_is(nilearn_filtered: Fetch, server: DemoServer) -> None:
    home = Path(tempfile.mkdtemp())
    try:
        nilearn_filtered(data_dir=home, max_images=6)
        for path in (home, *home.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = traces(home)
        server.reset_log()

        def read() -> None:
            with pytest.warns(FolderWarning, match="cannot be written, so this call works offline"):
                maps = fetch_neurovault(max_images=3, data_dir=home, verbose=0)
            assert ids(maps) == [3, 4, 8718]
            assert set(outcomes_of(maps).values()) == {"adopted"}
            maps = fetch_neurovault(
                max_images=None, data_dir=home, verbose=0, mode="offline", name=Pattern("map 9")
            )
            assert ids(maps) == [9034, 9035], ids(maps)

        assert as_nobody(read) == "fine"
        assert traces(home) == before
        assert server.requests == 0
    finally:
        shutil.rmtree(home)


def test_a_catalog_that_somebody_holds_costs_no_download(
    fetch: Fetch, server: DemoServer, nilearn_filtered: Fetch, data_dir: Path
) -> None:
    nilearn_filtered(data_dir=data_dir, max_images=2)
    held = Store(data_dir / "neurovault")._file_lock(time.monotonic() + PATIENCE_S)
    with held, patience(0.2), pytest.warns(CatalogWarning, match="not in the catalog yet"):
        maps = fetch(max_images=5)
    assert ids(maps) == [3, 4, 8718, 8719, 9034]
    server.reset_log()
    assert ids(fetch(max_images=5)) == [3, 4, 8718, 8719, 9034]
    assert not server.hits("/media/*")


# Interruptions


def test_after_ctrl_c_the_next_call_completes_and_asks_for_no_file_twice(
    fetch: Fetch, server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_download, arrived = Mover._put_download, []

    def put_or_interrupt(self: Mover, image: Any, *what_came: Any) -> None:
        put_download(self, image, *what_came)
        arrived.append(image.image_id)
        if len(arrived) == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Mover, "_put_download", put_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(**EVERYTHING)
    maps = fetch(**EVERYTHING)
    assert sorted(ids(maps)) == ALL_IDS
    assert not maps.report.missing
    asked = [hit.path for hit in server.hits("/media/*")]
    assert len(asked) - len(set(asked)) <= 10  # those under way at that moment may have been cut off
    lists = [hit.path for hit in server.hits("/api/collections/*/images/")]
    assert len(lists) == len(set(lists))


def test_after_a_kill_the_next_call_completes_and_asks_for_no_file_that_is_here(
    world: World, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(world, monkeypatch) as server:
        server.fail("/media/*", faults.slow(3600), after=8)
        options = f"None, {{}}, image_terms={{}}, data_dir={str(data_dir)!r}, verbose=0, max_workers=2"
        code = f"from nvcatalog import fetch_neurovault; fetch_neurovault({options})"
        with started([sys.executable, "-c", code]) as process:
            wait_until(lambda: process.poll() is not None or len(list(data_dir.rglob("image_*.nii.gz"))) == 8)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        server.heal()
        here = {int(path.name[6:].partition(".")[0]) for path in data_dir.rglob("image_*.nii.gz")}
        server.reset_log()
        maps = fetch_neurovault(None, {}, image_terms={}, data_dir=data_dir, verbose=0)
        assert sorted(ids(maps)) == ALL_IDS
        assert not maps.report.missing
        assert {hit.path for hit in server.hits("/media/*")} == {world.file_path(id_) for id_ in {*ALL_IDS} - here}


# Whatever the filters


ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 20, 20.0, 0.5, 2**31, 2**63, 10**30, 1e300, float("nan"), float("inf")),
    *("", "None", "fMRI-BOLD", "Z map", "map 3", "\ud800", "a\0b", "20", b"bytes", (), [], {}, [1], {"a": 1}),
    *(Decimal("20"), np.float64(20.0), np.int64(3), np.array(3), object(), float, timedelta(1)),
]


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Any]]]:
    """Return a folder with everything in it, and what the records of its images and their collections are."""
    world = World.demo()
    oddities = [None, 0, 1, False, "20", 20.5, "None", "n/a", "", [1], {"a": 1}, "x", 2**40, True, "Nonesuch"]
    fields = ["number_of_subjects", "modality", "not_mni", "free", "is_thresholded", "name", "smoothness_fwhm"]
    for place, id_ in enumerate(world.image_ids(555) + world.image_ids(1056)):
        odd = {name: oddities[(place + shift) % len(oddities)] for shift, name in enumerate(fields)}
        world.edit_image(id_, odd)
    data_dir = tmp_path_factory.mktemp("adopted")
    with pytest.MonkeyPatch.context() as patch, DemoServer(world) as server:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        fetch_neurovault(**EVERYTHING, data_dir=data_dir, verbose=0)
    query = """
        SELECT i.raw, c.raw
        FROM images
        JOIN raw_records AS i ON i.kind = 'image' AND i.id = image_id
        JOIN raw_records AS c ON c.kind = 'collection' AND c.id = collection_id
    """
    pairs = [tuple(map(json.loads, row)) for row in Catalog(data_dir).sql(query).fetchall()]
    with Store(data_dir / "neurovault").reading():  # what is open need not be opened again by each test
        yield data_dir, pairs


FIELDS = [
    "number_of_subjects",
    "modality",
    "not_mni",
    "is_thresholded",
    "id",
    "name",
    "free",
    "modify_date",
    "data",
]
COLLECTION_FIELDS = ["id", "name", "DOI", "owner", "number_of_images", "modify_date", "private", "authors"]
words = st.sampled_from(["fMRI-BOLD", "Z map", "map", "o", "Nonesuch", "20", "1", "", "None", "x", "2017"])
numbers = st.sampled_from([0, 1, 20, 20.5, 3, 9034, 555, 1058, -1, 2**40, 10**30])
values = words | numbers | st.sampled_from(ODD)
special_values = st.one_of(
    st.sampled_from([IsNull(), NotNull()]),
    st.builds(NotEqual, values),
    *(st.builds(kind, words | numbers) for kind in (GreaterOrEqual, GreaterThan, LessOrEqual, LessThan)),
    *(st.builds(kind, *[values] * 2) for kind in (IsIn, NotIn)),
    *(st.builds(kind, *[words] * 2) for kind in (Contains, NotContains)),
    st.builds(Pattern, st.sampled_from(["map", ".*9$", "[A-M]", "20"])),
)


def functions_of(fields: list[str]) -> st.SearchStrategy[Any]:
    simple = st.dictionaries(st.sampled_from(fields), values | special_values, max_size=2).map(ResultFilter)
    return st.recursive(
        simple | st.just(lambda record: record.get("id", 0) % 2),
        lambda inner: (
            st.builds(
                lambda one, other, how: getattr(ResultFilter(callable_filter=one), how)(other),
                inner,
                inner,
                st.sampled_from(["AND", "OR", "XOR"]),
            )
            | inner.map(lambda one: ResultFilter(callable_filter=one).NOT())
        ),
        max_leaves=3,
    )


@pytest.mark.filterwarnings("ignore::nvcatalog.errors.FilterWarning")
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    image_terms=st.dictionaries(st.sampled_from(FIELDS), values | special_values, max_size=3),
    collection_terms=st.dictionaries(st.sampled_from(COLLECTION_FIELDS), values | special_values, max_size=2),
    image_filter=st.just(keep_all) | functions_of(FIELDS),
    collection_filter=st.just(keep_all) | functions_of(COLLECTION_FIELDS),
)
def test_whatever_the_filters_ours_chooses_what_python_alone_would(
    adopted: tuple[Path, list[Any]], **asked: Any
) -> None:
    data_dir, pairs = adopted
    images = ResultFilter(asked["image_terms"], asked["image_filter"])
    collections = ResultFilter(asked["collection_terms"], asked["collection_filter"])
    expected = {
        image["id"] for image, collection in pairs if keeps(collections, collection) and keeps(images, image)
    }

    maps = fetch_neurovault(**asked, max_images=None, data_dir=data_dir, mode="offline", verbose=0)
    assert set(ids(maps)) == expected
    assert len(maps.images) == len(expected)
    assert not maps.report.missing


def test_an_image_whose_record_changed_in_the_course_of_a_call_is_judged_by_the_new_one(
    world: World, server: DemoServer, data_dir: Path
) -> None:
    Catalog(data_dir).sync(verbose=0)
    first, second = world.image_ids(3)[:2]
    world.replace_file(first, world.image_bytes(second))
    for id_ in (first, second):
        world.edit_image(id_, is_thresholded=True)
    maps = fetch_neurovault(max_images=None, collection_id=3, data_dir=data_dir, verbose=0)
    later = fetch_neurovault(max_images=None, data_dir=data_dir, verbose=0)
    assert first not in ids(maps)
    assert not {first, second} & set(ids(later))
    assert all(meta["is_thresholded"] is False for meta in later.images_meta)


def test_what_lies_beside_a_file_is_the_record_that_came_last(fetch: Fetch, world: World, data_dir: Path) -> None:
    fetch(collection_id=3, image_terms={})
    fetch(**EVERYTHING, dry_run=True)
    for image_id in (3, 9034):  # one that is here, and one that is fetched before its list is read again
        world.edit_image(image_id, name="edited")
    world.edit_collection(3, name="edited")
    names = {meta["id"]: meta["name"] for meta in fetch(**EVERYTHING).images_meta}
    for collection_id, image_id in ((3, 3), (555, 9034)):
        beside = file_of(data_dir, collection_id, image_id).with_name(f"image_{image_id}_metadata.json")
        assert json.loads(beside.read_text())["name"] == names[image_id] == "edited"
    collection = data_dir / "neurovault" / "collection_3" / "collection_metadata.json"
    assert json.loads(collection.read_text())["name"] == "edited"


class _UnshowableError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr either")

    __str__ = __repr__


class _HalfCharacterError(Exception):
    def __repr__(self) -> str:
        return "\ud800"


class _Odd(SpecialValue):
    """A value of somebody's own that cannot be compared and not even shown."""

    def accepts(self, value: object) -> bool:
        raise _UnshowableError

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "error", [_UnshowableError(), _HalfCharacterError()], ids=["unshowable", "half a character"]
)
@pytest.mark.parametrize("kind", ["image", "collection"])
def test_whatever_a_function_raises_is_named_with_the_record_and_lands(
    fetch: Fetch, data_dir: Path, error: Exception, kind: str
) -> None:
    def refuse(record: Mapping[str, Any]) -> bool:
        if record["id"] in (4, 658):
            raise error
        return True

    with pytest.warns(IncompleteWarning, match=rf"{kind} \d+ failed .the filter raised"):
        maps = fetch(**{**EVERYTHING, f"{kind}_filter": refuse})
    assert sorted(ids(maps)) == sorted(set(ALL_IDS) - {4 if kind == "image" else 10426})
    told = Catalog(data_dir).sql("SELECT reason FROM outcomes WHERE status = 'failed'").fetchall()
    assert told == [(maps.report.missing[0].reason,)]


@pytest.mark.parametrize(
    "terms",
    [
        {"image_terms": {"modality": _Odd()}},
        {"image_terms": {"modality": IsIn(_Odd())}},
        {"collection_terms": {"name": _Odd()}},
        {"image_terms": {}, "collection_id": _Odd(), "collection_terms": {"id": 3}},
    ],
)
def test_a_value_that_raises_costs_the_records_it_is_compared_with(fetch: Fetch, terms: dict[str, Any]) -> None:
    with pytest.warns((IncompleteWarning, FilterWarning), match="cannot be shown"):
        assert fetch(**terms).images == []


@pytest.mark.parametrize(
    ("terms", "found"),
    [
        ({"image_terms": {"modality": "\ud800"}}, False),
        ({"image_terms": {"name": Contains("\ud800")}}, False),
        ({"image_terms": {"modality": NotEqual("\udc00")}}, True),
        ({"image_terms": {"modality": b"fMRI-BOLD"}}, False),
        ({"image_terms": {"number_of_subjects": 10**5000}}, False),
        *(({"image_terms": {}, "collection_terms": {name: "\ud800"}}, False) for name in ("DOI", "name", "owner")),
        ({"image_terms": {}, "collection_terms": {"owner": 10**5000}}, False),
    ],
    ids=shown,
)
def test_a_value_that_no_record_can_have_matches_none_of_them(
    fetch: Fetch, terms: dict[str, Any], found: bool
) -> None:
    for _ in range(2):
        assert bool(fetch(max_images=1, **terms).images) == found


@pytest.mark.parametrize("terms", ["image_terms", "collection_terms"])
def test_a_field_whose_name_is_no_text_that_can_be_stored_is_one_that_no_record_has(
    fetch: Fetch, terms: str
) -> None:
    with pytest.warns(FilterWarning, match=r"here has a field '\\ud800'"):
        assert fetch(**{"image_terms": {}, terms: {"\ud800": 1}}).images == []
