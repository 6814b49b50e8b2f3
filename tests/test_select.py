"""Conditions in SQL, queries and DOIs select what is fetched, and say what they select."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from fetching import FOUR, ids, outcomes_of, write
from fetching import no_waiting as no_waiting

from nvcatalog import Catalog, fetch_collection, fetch_neurovault_ids, fetch_where
from nvcatalog.demo import World
from nvcatalog.errors import (
    IncompleteWarning,
    InvalidOptionError,
    NoSpaceError,
    QueryError,
    SelectionWarning,
)
from nvcatalog.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from sklearn.utils import Bunch

    from nvcatalog.demo import DemoServer

pytestmark = pytest.mark.usefixtures("no_waiting")
if TYPE_CHECKING:
    Select = Callable[..., Bunch]


@pytest.fixture
def world() -> World:
    """Return maps of two statistics with and without a number of subjects, and an atlas."""
    world = World.empty()
    about = {3: ("T map", 20), 4: ("T map", None), 8718: ("Z map", 30), 8719: ("Z map", 0)}
    images = [{"id": id_, "map_type": kind, "number_of_subjects": n} for id_, (kind, n) in about.items()]
    world.add_collection({"name": "Loss aversion", "DOI": "10.1126/science.1134239"}, id=3, images=images)
    world.add_collection({"name": "Stop signal"}, id=1197, images=[{"id": 14227, "image_type": "atlas"}])
    world.add_collection({"name": "Faces"}, id=658, images=[{"id": 10426, "map_type": "F map"}])
    return world


@pytest.fixture
def where(server: DemoServer, data_dir: Path) -> Select:
    """List everything, fetch nothing, and return a quiet fetch_where on the folder."""
    fetch_neurovault_ids([3, 658, 1197], data_dir=data_dir, verbose=0, dry_run=True)
    server.reset_log()

    def where(condition: str | None = None, /, *args: Any, **options: Any) -> Bunch:
        settings: dict[str, Any] = {"data_dir": data_dir, "verbose": 0}
        return fetch_where(condition, *args, **settings | options)

    return where


def test_just_what_a_condition_selects_is_fetched_and_no_list_is_read(where: Select, server: DemoServer) -> None:
    maps = where("stat IN ('t', 'z') AND n_subjects >= $n", n=20)
    assert ids(maps) == [3, 8718]
    assert maps.report.counts == {"downloaded": 2}
    assert {hit.path.split("/")[1] for hit in server.log} == {"media"}
    server.reset_log()
    assert where("stat IN ('t', 'z') AND n_subjects >= $n", {"n": 20}).report.counts == {"cached": 2}
    assert ids(where("n_subjects = 30", mode="offline")) == [8718]
    assert server.requests == 0


def test_the_collection_is_reached_by_its_name_and_a_name_of_both_is_the_images(where: Select) -> None:
    assert ids(where("collections.name = 'Loss aversion' AND stat = 't'")) == [3, 4]
    with pytest.warns(SelectionWarning, match="No image matches"):
        assert ids(where("name = 'Loss aversion'")) == []


def test_order_and_number_are_as_asked_and_more_is_warned_of(where: Select) -> None:
    with pytest.warns(SelectionWarning, match=r"5 images match \(.* MB in all\), and 3 .* max_images=None"):
        assert ids(where("true", order_by="n_subjects DESC NULLS LAST", max_images=2)) == [8718, 3]
    for every in (None, -1, float("inf")):
        assert ids(where("true", max_images=every)) == [*FOUR, 10426]


def test_a_query_selects_in_its_own_order_with_tables_of_ones_own(where: Select) -> None:
    mine = pd.DataFrame({"image_id": [8718, 10426, 999], "rank": [2, 1, 3]})
    query = "SELECT image_id FROM mine ORDER BY rank"
    with pytest.warns(SelectionWarning, match="1 images of the query are unknown to the catalog"):
        maps = where(query=query, tables={"mine": mine})
    assert ids(maps) == [10426, 8718]
    assert maps.report.notes == ("1 images of the query are unknown to the catalog and left out: 999",)


def test_where_nothing_is_left_the_report_says_what_each_part_keeps(where: Select) -> None:
    with pytest.warns(SelectionWarning, match="No image matches"):
        maps = where("stat = 't' AND n_subjects > 500")
    assert maps.report.notes == (
        "Of 5 maps, each part of the condition alone keeps:",
        "  2  stat = 't'",
        "  0  n_subjects > 500 (2 left out because a value is NULL)",
    )
    assert "2 left out because a value is NULL" in repr(maps.report)
    assert maps.images == []


def test_what_a_warning_says_is_not_said_once_more(where: Select, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(SelectionWarning, match="No image matches .*\n.*each part"):
        where("stat = 't' AND n_subjects > 500", verbose=1)
    assert "each part" not in capsys.readouterr().err
    where("n_subjects > 1", verbose=1)
    assert capsys.readouterr().err.count("each part") == 1


def test_rows_that_null_leaves_out_are_said_beside_an_answer(where: Select) -> None:
    assert any("NULL" in note for note in where("n_subjects > 1").report.notes)
    assert where("stat = 'z'").report.notes == ()


def test_it_says_when_the_metadata_was_read_and_offers_to(
    where: Select, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(SelectionWarning, match=r"sync never ran.*Catalog\(\).sync\(\) .nvcatalog sync. lets"):
        where("false", verbose=1)
    assert "0 images match in what was fetched or listed here (sync never ran)" in capsys.readouterr().err
    Catalog(data_dir).sync(verbose=0)
    where("stat = 'z'", verbose=1)
    assert "2 images match in NeuroVault's metadata of 20" in capsys.readouterr().err


def test_without_a_catalog_it_offers_a_sync_and_makes_nothing(server: DemoServer, data_dir: Path) -> None:
    with pytest.warns(SelectionWarning, match="sync"):
        assert fetch_where("true", data_dir=data_dir, verbose=0, mode="offline").images == []
    assert not data_dir.exists()


CANNOT_BE_ASKED: list[tuple[str | None, dict[str, Any], str]] = [
    ("n_subject > 3", {}, "no column n_subject .* did you mean n_subjects"),
    ("stat = ", {}, r"syntax error(?s:.*)\^"),
    ("n_subjects > $n", {}, r"no value for \$n; give n="),
    ("n_subjects > 3", {"n": 3}, r"no parameter \$n; it has none"),
    (
        "n_subjects > 3",
        {"oder_by": "name"},
        r"no parameter \$oder_by, and .* no option oder_by; .* order_by\?",
    ),
    ("n_subjects > $n", {"n": 3, "Max_image": 3}, r"no option Max_image; did you mean max_images\?"),
    ("n_subjects > $n", {"param": {"n": 3}}, r"no option param; did you mean params\?"),
    ("n_subjects > $timeout", {"timeout": 20}, r"\$timeout is a parameter .* give it in params="),
    ("n_subjects > $n", {"params": {"n": 1}, "n": 2}, "given both in params and as a keyword: n"),
    (None, {}, "either a condition .* or a query; got neither"),
    ("true", {"query": "SELECT 3 AS image_id"}, "got both"),
]


def test_a_condition_that_cannot_be_asked_says_why(where: Select) -> None:
    for condition, options, message in CANNOT_BE_ASKED:
        with pytest.raises(QueryError, match=message) as raised:
            where(condition, **options)
        assert isinstance(raised.value, ValueError)


def test_an_options_name_may_be_a_parameter_given_in_params(where: Select) -> None:
    assert ids(where("n_subjects > $timeout", {"timeout": 25})) == [8718]


@pytest.mark.parametrize("max_images", ["ten", True, 2.5, float("nan")])
def test_a_number_of_images_that_is_none_is_refused(where: Select, max_images: Any) -> None:
    with pytest.raises(InvalidOptionError, match="max_images is"):
        where("true", max_images=max_images)


def test_a_dry_run_plans_and_moves_nothing(where: Select, server: DemoServer, data_dir: Path) -> None:
    plan = where("stat = 't'", dry_run=True)
    assert isinstance(plan, Plan)
    assert (plan.images, plan.to_fetch) == ((3, 4), (3, 4))
    assert server.requests == 0
    assert not list(data_dir.rglob("*.nii.gz"))


def test_what_does_not_fit_the_disk_does_not_begin(
    where: Select, world: World, server: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
    write(
        data_dir,
        "UPDATE raw_records SET raw = json_merge_patch(raw, '{\"file_size\": 100000000}') WHERE id = 3",
    )
    with pytest.raises(NoSpaceError, match=r"free, and the 2 files to fetch need 100\.\d MB"):
        where("stat = 't'")
    assert not server.hits("/media/*")


def test_old_metadata_is_read_again_before_the_selection(where: Select, world: World, server: DemoServer) -> None:
    world.edit_image(3, map_type="Z map")
    assert ids(where("stat = 'z'", max_age=timedelta(days=1))) == [8718, 8719]
    assert ids(where("stat = 't'", max_age=0)) == [4]
    assert [hit.path for hit in server.hits("/api/*/images/")] == ["/api/collections/3/images/"]
    assert ids(where("stat = 'z'")) == [3, 8718, 8719]


def test_what_is_gone_from_the_server_is_not_selected_unless_it_is_here(where: Select, world: World) -> None:
    where("image_id = 3")
    for id_ in (3, 4):
        world.delete_image(id_)
    where("stat = 't'", max_age=0)
    assert ids(where("stat = 't'")) == [3]


# By a DOI


@pytest.mark.parametrize("doi", ["10.1126/science.1134239", "https://doi.org/10.1126/SCIENCE.1134239"])
@pytest.mark.parametrize("honour_filters", [True, False])
def test_a_papers_collection_comes_from_the_server(
    server: DemoServer, data_dir: Path, doi: str, honour_filters: bool
) -> None:
    server.settings.honour_filters = honour_filters
    maps = fetch_collection(doi=doi, data_dir=data_dir, verbose=0)
    assert ids(maps) == FOUR
    server.reset_log()
    for mode in ("download_new", "offline"):
        assert ids(fetch_collection(doi=doi, data_dir=data_dir, verbose=0, mode=mode)) == FOUR
    assert server.requests == 0


def test_all_collections_of_a_doi_come_and_are_named(server: DemoServer, world: World, data_dir: Path) -> None:
    world.edit_collection(658, DOI="https://doi.org/10.1126/science.1134239")
    maps = fetch_collection(doi="10.1126/science.1134239", data_dir=data_dir, verbose=0)
    assert ids(maps) == [*FOUR, 10426]
    (note,) = maps.report.notes
    assert note == "10.1126/science.1134239 is the DOI of 2 collections: 3 (Loss aversion); 658 (Faces)"


@pytest.mark.parametrize("mode", ["download_new", "offline"])
def test_a_doi_that_nothing_has_is_reported(server: DemoServer, data_dir: Path, mode: str) -> None:
    with pytest.warns(IncompleteWarning, match=r"no collection .* the DOI 10\.1/nothing"):
        maps = fetch_collection(doi="10.1/nothing", data_dir=data_dir, verbose=0, mode=mode)
    expected = "missing_offline" if mode == "offline" else "not_found"
    assert outcomes_of(maps, "collection") == {None: expected}


@pytest.mark.parametrize("doi", ["", "None", "my paper", 3, None])
def test_what_is_no_doi_is_refused(server: DemoServer, data_dir: Path, doi: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"doi is .* give a DOI, such as"):
        fetch_collection(doi=doi, data_dir=data_dir)
    assert server.requests == 0


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("10.1234/nv.test.0001", FOUR),
        ("doi:10.1234/NV.TEST.0001", FOUR),
        ("https://doi.org/10.1234/NV.TEST.0001", FOUR),
        ("10.1101/pre.1", [10426]),
    ],
)
def test_a_doi_is_found_however_it_is_typed_on_a_server_that_looks_for_just_that_text(
    server: DemoServer, world: World, data_dir: Path, typed: str, expected: list[int]
) -> None:
    world.edit_collection(3, DOI="10.1234/NV.TEST.0001")
    world.edit_collection(658, preprint_DOI="10.1101/pre.1")
    server.settings.honour_filters = True
    assert ids(fetch_collection(doi=typed, data_dir=data_dir, verbose=0)) == expected


def test_what_is_selected_anew_is_not_old_either(where: Select, world: World, server: DemoServer) -> None:
    for id_ in (3, 10426):
        world.edit_image(id_, number_of_subjects=5)
    world.edit_image(8718, number_of_subjects=5)
    with pytest.warns(SelectionWarning, match="No image matches"):
        assert ids(where("n_subjects > 19", max_images=1, max_age=0)) == []
