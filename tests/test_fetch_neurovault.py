"""nilearn's fetch_neurovault is the oracle: ours chooses what it chooses, but where it is wrong, and says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nilearn.datasets.neurovault as theirs
import numpy as np
import pytest
from fetching import FOUR, ids, traces
from fetching import fetch_filtered as fetch_filtered
from fetching import no_waiting as no_waiting
from oracle import assert_same, files_in, sidecars_in, without_paths
from oracle import nilearn_dir as nilearn_dir
from oracle import nilearn_filtered as nilearn_filtered

from nvcatalog import Catalog, fetch_neurovault, fetch_neurovault_ids, filters
from nvcatalog._store import Store
from nvcatalog.demo import DemoServer, World
from nvcatalog.errors import FilterWarning, InvalidModeError, InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from fetching import Fetch

    Asked = dict[str, Any]

pytestmark = [
    pytest.mark.usefixtures("no_waiting"),
    pytest.mark.filterwarnings("ignore:No image:nvcatalog.errors.SelectionWarning"),  # test_unmatched.py has these
]

ALL: dict[str, Any] = {"collection_terms": {}, "image_terms": {}, "max_images": None}
# A filter that raises nowhere: nilearn lets what a function raises end the call.
is_group: Callable[[Any], Any] = lambda image: image.get("analysis_level") == "group"  # noqa: E731


@pytest.fixture
def other(nilearn_filtered: Fetch) -> Fetch:
    """Return nilearn's function, with a folder of its own."""
    return nilearn_filtered


@pytest.fixture
def mine(fetch_filtered: Fetch) -> Fetch:
    """Return ours, with a folder of its own."""
    return fetch_filtered


# Which images


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Return nilearn's folder and ours, each filled by its owner with all images of the demo, some made odd."""
    world = World.demo()
    world.edit_image(9034, {"Task Name": "stop", "counts": [1, 2], "depth": 12.5, "empty": ""})
    world.edit_image(9035, {"Task Name": "go", "counts": [], "depth": "33", "modality": "n/a"})
    world.edit_image(9036, number_of_subjects=20.9, name="n-Back > 0-back", is_valid=None, not_mni=None)
    world.edit_collection(63, name="null", owner_name="None")
    folders = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours")
    with pytest.MonkeyPatch.context() as patch, DemoServer(world) as server:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setattr(theirs, "_NEUROVAULT_COLLECTIONS_URL", f"{server.neurovault_url}/api/collections/")
        patch.setattr(theirs._requests_session, "session", None, raising=False)
        theirs.fetch_neurovault(**ALL, data_dir=folders[0], verbose=0)
        fetch_neurovault(**ALL, data_dir=folders[1], verbose=0)
    with Store(folders[1] / "neurovault").reading():  # what is open need not be opened again by each test
        yield folders


def choices(nv: ModuleType) -> dict[str, Asked]:
    """Return what may be asked for, in the words of one package or the other: their names are the same."""
    terms: dict[str, Any] = {
        "text": {"modality": "Diffusion MRI"},
        "number": {"number_of_subjects": 16},
        "boolean": {"is_valid": False},
        "zero is false": {"not_mni": 0},
        "None": {"map_type": None},
        "a field nobody has": {"nobody": None},
        "free-form": {"Task Name": "stop"},
        "free-form list": {"counts": [1, 2]},
        "IsNull": {"cognitive_paradigm_cogatlas": nv.IsNull()},
        "IsNull of a boolean": {"is_thresholded": nv.IsNull()},
        "IsNull of a number": {"smoothness_fwhm": nv.IsNull()},
        "IsNull free-form": {"counts": nv.IsNull()},
        "NotNull": {"smoothness_fwhm": nv.NotNull()},
        "NotNull of a text": {"modality": nv.NotNull()},
        "NotEqual": {"modality": nv.NotEqual("Diffusion MRI")},
        "NotEqual None": {"modality": nv.NotEqual(None)},
        "GreaterOrEqual": {"number_of_subjects": nv.GreaterOrEqual(20)},
        "GreaterOrEqual float": {"number_of_subjects": nv.GreaterOrEqual(20.5)},
        "GreaterThan": {"number_of_subjects": nv.GreaterThan(20)},
        "GreaterThan a date": {"modify_date": nv.GreaterThan("2017")},
        "LessOrEqual": {"number_of_subjects": nv.LessOrEqual(20)},
        "LessThan": {"file_size": nv.LessThan(12_000)},
        "LessThan text": {"name": nv.LessThan("m")},
        "a number that may be text": {"depth": nv.GreaterThan(12)},
        "IsIn": {"map_type": nv.IsIn("Z map", "T map")},
        "IsIn nothing": {"map_type": nv.IsIn()},
        "IsIn with None": {"map_type": nv.IsIn("Z map", None)},
        "NotIn": {"map_type": nv.NotIn("Z map", "T map")},
        "Contains": {"name": nv.Contains("FOOT")},
        "Contains several": {"name": nv.Contains("task", "cope")},
        "NotContains": {"name": nv.NotContains("a", "tfMRI")},
        "Contains in a list": {"counts": nv.Contains(2)},
        "Pattern": {"name": nv.Pattern("tfMRI.*FOOT")},
        "Pattern with flags": {"name": nv.Pattern("N-BACK", re.IGNORECASE)},
        "an id": {"id": nv.IsIn(3, 4, 9034, 777)},
        "several": {"modality": "fMRI-BOLD", "map_type": nv.NotEqual("Z map"), "is_valid": True},
    }
    asked: dict[str, Asked] = {f"image {name}": {"image_terms": term} for name, term in terms.items()}
    asked |= {
        f"keyword {name}": dict(term) for name, term in terms.items() if set(term) <= {"modality", "map_type"}
    }
    collections: dict[str, Any] = {
        "DOI": {"DOI": "10.1126/science.1134239"},
        "owner": {"owner": 1},
        "IsNull": {"DOI": nv.IsNull()},
        "placeholder": {"name": nv.IsNull()},
        "Pattern": {"name": nv.Pattern("Demo")},
        "Contains": {"name": nv.Contains("of", "in")},
        "GreaterThan": {"number_of_images": nv.GreaterThan(5)},
        "ids": {"id": nv.NotIn(3, 555)},
    }
    asked |= {f"collection {name}": {"collection_terms": term} for name, term in collections.items()}
    bold, z = nv.ResultFilter(modality="fMRI-BOLD"), nv.ResultFilter(map_type="Z map")
    functions: dict[str, Any] = {
        "function": is_group,
        "truth of any value": lambda image: image.get("number_of_subjects"),
        "ResultFilter": bold,
        "AND": bold.AND(z),
        "OR": bold.OR(z),
        "XOR": bold.XOR(z),
        "NOT": bold.NOT(),
        "nested": bold.AND(z.NOT()).OR(nv.ResultFilter({"modality": "Diffusion MRI"}, is_group)).XOR(is_group),
        "terms and function": nv.ResultFilter({"map_type": nv.IsIn("Z map", "other")}, is_group),
        "with a function": z.OR(is_group),
    }
    asked |= {f"filter {name}": {"image_filter": each, "image_terms": {}} for name, each in functions.items()}
    asked["filter beside the default terms"] = {"image_filter": is_group}
    asked["filter of collections"] = {"collection_filter": lambda collection: collection["DOI"] is not None}
    asked["everything"] = {"collection_terms": {}, "image_terms": {}}
    asked["by default"] = {}
    asked["both"] = {"collection_terms": {"owner": 1}, "modality": nv.NotNull(), "image_filter": is_group}
    return asked


@pytest.mark.filterwarnings("ignore::nvcatalog.errors.FilterWarning", "ignore:You specified a value:UserWarning")
@pytest.mark.parametrize("name", choices(theirs))
def test_ours_chooses_what_nilearn_chooses_and_nilearn_reads_our_folder(
    filled: tuple[Path, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs.logger, "log", lambda *_, **__: None)
    options: dict[str, Any] = {"mode": "offline", "verbose": 0, "max_images": None, "data_dir": filled[1]}
    mine = fetch_neurovault(**choices(filters)[name], **options)
    assert_same(mine, theirs.fetch_neurovault(**choices(theirs)[name], **options))


@pytest.mark.filterwarnings("ignore::nvcatalog.errors.FilterWarning", "ignore:You specified a value:UserWarning")
@pytest.mark.parametrize("name", ["filter nested", "collection Pattern", "keyword IsIn", "everything"])
def test_ours_reads_nilearns_folder_offline_and_chooses_the_same(
    filled: tuple[Path, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs.logger, "log", lambda *_, **__: None)
    options: dict[str, Any] = {"mode": "offline", "verbose": 0, "max_images": None, "data_dir": filled[0]}
    other = theirs.fetch_neurovault(**choices(theirs)[name], **options)
    before = {path: path.stat().st_mtime_ns for path in filled[0].rglob("*.nii.gz")}
    mine = fetch_neurovault(**choices(filters)[name], **options)
    assert_same(mine, other)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_value_that_only_begins_like_a_placeholder_is_a_value(filled: tuple[Path, Path]) -> None:
    """nilearn takes "Nonemotional > emotional faces" for None, in filters too."""
    assert filters.keeps(filters.ResultFilter(name=filters.NotNull()), {"name": "Nonemotional > emotional faces"})
    assert theirs._remove_none_strings({"name": "Nonemotional > emotional faces"}) == {"name": None}


# From the server


@pytest.mark.parametrize("max_images", [0, 1, 5, 100, 1000, None, -1, float("inf")])
def test_a_fresh_folder_is_given_the_images_that_nilearn_picks(
    mine: Fetch, other: Fetch, max_images: float | None, data_dir: Path, nilearn_dir: Path
) -> None:
    expected, chosen = other(max_images=max_images), mine(max_images=max_images)
    assert_same(chosen, expected)
    assert len(chosen.images) == min(49, 49 if max_images is None or max_images < 0 else int(min(max_images, 49)))
    assert ids(chosen) == ids(expected)  # in the server's order, which is by collection and id
    assert files_in(data_dir) == files_in(nilearn_dir)
    # It writes down each collection that it looks at, whether it finds anything there or not.
    chosen_from = {f"collection_{meta['id']}" for meta in chosen.collections_meta}
    written, expected_there = sidecars_in(data_dir), sidecars_in(nilearn_dir)
    assert set(written) == {path for path in expected_there if path.partition("/")[0] in chosen_from}
    assert all(without_paths([written[path]]) == without_paths([expected_there[path]]) for path in written)


ONLINE: dict[str, Asked] = {
    "special values": {"modality": "fMRI-BOLD", "map_type": ("IsIn", "Z map", "T map"), "max_images": 3},
    "no default terms": {"image_terms": {}, "collection_terms": {}, "max_images": 30},
    "terms of both": {"collection_terms": {"owner": 1}, "image_terms": {"map_type": "parcellation"}},
    "a function": {"image_filter": is_group, "image_terms": {}},
    "a function of collections": {"collection_filter": lambda c: c["number_of_images"] < 5},
    "words": {"fetch_neurosynth_words": True, "max_images": 4},
    "words, not vectorized": {"fetch_neurosynth_words": True, "vectorize_words": False, "max_images": 4},
}


@pytest.mark.filterwarnings("ignore::nvcatalog.errors.FilterWarning", "ignore::nvcatalog.errors.WordsWarning")
@pytest.mark.parametrize("name", ONLINE)
def test_ours_gives_what_nilearn_gives_in_each_mode(mine: Fetch, other: Fetch, name: str, world: World) -> None:
    def asked(nv: ModuleType) -> Asked:
        return {
            key: getattr(nv, value[0])(*value[1:]) if isinstance(value, tuple) else value
            for key, value in ONLINE[name].items()
        }

    for mode in ("download_new", "offline", "overwrite"):
        if mode == "overwrite":
            for id_ in world.image_ids():  # nothing that changes their terms: nilearn does not ask for those again
                world.edit_image(id_, figure="edited")
        assert_same(mine(**asked(filters), mode=mode), other(**asked(theirs), mode=mode))


@pytest.mark.parametrize("honour_filters", [False, True])
@pytest.mark.parametrize(
    ("terms", "expected"),
    [({"DOI": "10.1126/science.1134239"}, [3]), ({"name": "Demo: a motor"}, [658]), ({"owner": 6}, [3])],
)
def test_server_filters_are_sent_and_applied_again(
    world: World,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    honour_filters: bool,
    terms: Asked,
    expected: list[int],
) -> None:
    """nilearn leaves them to the server alone, so that every collection comes back where it ignores them."""
    world.edit_collection(658, name="Demo: a motor")
    with DemoServer(world, honour_filters=honour_filters) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        maps = fetch_neurovault(None, terms, image_terms={}, data_dir=data_dir, verbose=0)
        assert {meta["id"] for meta in maps.collections_meta} == set(expected)
        ((key, value),) = terms.items()
        pages = server.hits("/api/collections/")
        assert {hit.query[key] for hit in pages} == {str(value)}
        assert len(server.hits("/api/collections/*/images/")) == len(expected)


def test_an_owner_that_the_server_does_not_know_has_no_images(
    world: World, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DemoServer(world, honour_filters=True) as server:  # it answers 400
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        maps = fetch_neurovault(collection_terms={"owner": 4711}, data_dir=data_dir, verbose=0)
    assert maps.images == []
    assert len(maps.report) == 0


@pytest.mark.parametrize(
    ("where", "value"),
    [("keyword", 3), ("keyword", "3"), ("keyword", np.int64(3)), ("image term", 3), ("collection term", 3)],
)
def test_the_images_of_one_collection_are_asked_for_by_its_id(
    mine: Fetch, server: DemoServer, value: Any, where: str
) -> None:
    """nilearn leaves that to the server, which knows no such filter: every collection comes back."""
    if where == "keyword":
        maps = mine(collection_id=value)
    elif where == "image term":
        maps = mine(image_terms={"collection_id": value})
    else:
        maps = mine(collection_terms={"id": value})
    assert ids(maps) == FOUR
    assert {hit.path for hit in server.hits("/api/*")} == {"/api/collections/3/", "/api/collections/3/images/"}
    server.reset_log()
    assert ids(mine(collection_id=value)) == FOUR
    assert server.requests == 0


def test_one_collections_images_are_those_nilearn_finds_with_a_function(mine: Fetch, other: Fetch) -> None:
    maps = mine(collection_id=1039)
    assert len(maps.images) == 8
    assert_same(maps, other(collection_filter=lambda c: c["id"] == 1039))


def test_terms_of_collections_apply_beside_an_id(mine: Fetch) -> None:
    for _ in range(2):
        assert mine(collection_id=3, collection_terms={"owner": 1}).images == []
        assert ids(mine(collection_id=3, collection_terms={"owner": 6})) == FOUR


@pytest.mark.parametrize("value", [3, filters.IsIn(3, 1058)], ids=str)
def test_ids_that_agree_are_one(mine: Fetch, value: Any) -> None:
    terms = {"id": value}
    assert ids(mine(collection_terms=terms, collection_id=3)) == FOUR
    assert terms["id"] is value  # as the caller left it


def test_contradictory_ids_are_warned_of_and_give_nothing(mine: Fetch, nilearn_dir: Path) -> None:
    asked: Asked = {"collection_terms": {"id": 3}, "collection_id": 1058}
    with pytest.warns(FilterWarning, match="collection_id=1058 contradicts the collections' id=3"):
        maps = mine(**asked)
    with pytest.warns(UserWarning, match="contradictory collection ids"):
        expected = theirs.fetch_neurovault(**asked, data_dir=nilearn_dir, mode="offline", verbose=0)
    assert maps.images == expected.images == []


@pytest.mark.parametrize("kind", ["collection", "image"])
def test_default_terms_beside_a_function_are_warned_of_at_the_callers_line(mine: Fetch, kind: str) -> None:
    asked: Asked = {f"{kind}_filter": is_group, "mode": "offline", "verbose": 0}
    with pytest.warns(FilterWarning, match=f"default {kind}_terms still apply.*give {kind}_terms={{}}") as warned:
        fetch_neurovault(0, **asked)
    assert warned[0].filename == __file__
    mine(max_images=0, **{f"{kind}_filter": is_group, f"{kind}_terms": {}}, mode="offline")
    terms = {**getattr(filters, f"basic_{kind}_terms")(), "id": 3}
    mine(max_images=0, **{f"{kind}_filter": is_group, f"{kind}_terms": terms}, mode="offline")


def test_resampled_maps_are_nilearns_to_the_last_byte_labels_excepted(mine: Fetch, other: Fetch) -> None:
    """nilearn makes up values between the numbers of two regions; ours takes the nearest one by default."""
    asked: Asked = {"image_terms": {}, "collection_terms": {}, "resample": True}
    asked["collection_filter"] = lambda collection: collection["id"] in (63, 1058, 1952)
    expected = other(**asked)
    maps = mine(**asked)
    labels = {meta["id"] for meta in maps.images_meta if meta["map_type"] in ("parcellation", "R")}
    assert 0 < len(labels) < len(maps.images)
    contents = dict(zip(ids(expected), (Path(path).read_bytes() for path in expected.images), strict=True))
    assert ids(maps) == ids(expected)
    for id_, path in zip(ids(maps), maps.images, strict=True):
        assert path.endswith(f"image_{id_}_resampled.nii.gz")
        assert (Path(path).read_bytes() == contents[id_]) == (id_ not in labels)
    assert without_paths(maps.images_meta) == without_paths(expected.images_meta)
    assert not list(Path(maps.images[0]).parent.glob("image_*[0-9].nii.gz"))  # nor does nilearn keep the original
    # As it was chosen, labels too.
    chosen = asked | {"interpolation": "continuous", "mode": "overwrite"}
    assert [Path(path).read_bytes() for path in mine(**chosen).images] == [contents[id_] for id_ in ids(maps)]


def test_resampled_maps_that_nilearn_made_are_taken_over(
    mine: Fetch, other: Fetch, server: DemoServer, nilearn_dir: Path
) -> None:
    asked: Asked = {"max_images": 3, "resample": True}
    expected = other(**asked)
    server.reset_log()
    for interpolation in (None, "nearest"):
        maps = mine(**asked, data_dir=nilearn_dir, interpolation=interpolation)
        assert maps.images == expected.images
    assert server.requests == 0


# Better than nilearn


def test_two_images_and_later_five_are_five(mine: Fetch, other: Fetch, server: DemoServer) -> None:
    """nilearn leaves out each collection that it has seen an image of."""
    two = mine(max_images=2)
    server.reset_log()
    five = mine(max_images=5)
    assert ids(two) == ids(five)[:2] == [3, 4]
    assert len(five.images) == 5
    assert len(server.hits("/media/*")) == 3
    other(max_images=2)
    assert set(ids(other(max_images=5))) != set(ids(five))


def test_what_is_enough_and_here_asks_nobody(mine: Fetch, server: DemoServer, data_dir: Path) -> None:
    first = mine(max_images=12, fetch_neurosynth_words=True)
    server.reset_log()
    before = traces(data_dir)
    for asked in ({"max_images": 12}, {"max_images": 5}, {"max_images": 12, "fetch_neurosynth_words": True}):
        assert ids(mine(**asked)) == ids(first)[: asked["max_images"]]
    assert server.requests == 0
    assert traces(data_dir) == before


def test_what_is_here_and_unchanged_asks_for_the_list_of_collections_alone(
    mine: Fetch, server: DemoServer, world: World
) -> None:
    first = mine(max_images=None)
    server.reset_log()
    assert ids(mine(max_images=None)) == ids(first)
    assert [hit.path for hit in server.log] == ["/api/collections/"]
    new = world.add_image(1058)
    world.edit_collection(3, description="no new image, but who knows")
    server.reset_log()
    assert set(ids(mine(max_images=None))) == {*ids(first), new}
    assert sorted(hit.path for hit in server.log) == [
        "/api/collections/",
        "/api/collections/1058/images/",
        "/api/collections/3/images/",
        world.file_path(new),
    ]


def test_images_here_come_first_whatever_their_collection(mine: Fetch, server: DemoServer, data_dir: Path) -> None:
    fetch_neurovault_ids(collection_ids=[1058], data_dir=data_dir, verbose=0)
    server.reset_log()
    assert ids(mine(max_images=5, image_terms={})) == [14250, 14251, 14252, 3, 4]
    assert len(server.hits("/media/*")) == 2


def test_the_order_is_the_same_at_every_call_whatever_the_servers(
    world: World, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DemoServer(world, ordered=False) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        answers = [ids(fetch_neurovault(max_images=None, data_dir=data_dir, verbose=0)) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 49


def test_an_image_is_in_the_catalog_with_all_that_was_looked_at(mine: Fetch, data_dir: Path) -> None:
    mine(max_images=1)
    catalog = Catalog(data_dir)
    assert catalog.sql("SELECT image_id FROM local_images").fetchall() == [(3,)]
    call = catalog.sql("SELECT function, parameters->>'max_images', downloaded, missing FROM fetches").fetchall()
    assert call == [("fetch_neurovault", "1", 1, 0)]
    (looked_at,) = catalog.sql("SELECT count(*) FROM images").fetchall()[0]
    assert looked_at >= len(FOUR)


# Bad input


@pytest.mark.parametrize("value", ["many", True, 2.5, float("nan"), [3], b"3"])
def test_max_images_that_is_no_number_is_refused(mine: Fetch, value: object) -> None:
    with pytest.raises(InvalidOptionError, match=r"max_images is .*; give a whole number, or None"):
        mine(max_images=value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_terms": ["modality"]}, "image_terms is .*give a mapping"),
        ({"collection_terms": "DOI"}, "collection_terms is .*give a mapping"),
        ({"image_filter": {"modality": "MEG"}}, "image_filter is .*give a function"),
        ({"collection_filter": None}, "collection_filter is None; give a function"),
        ({"modality": filters.IsNull}, "the class; give a value"),
        ({"image_terms": {"name": filters.NotNull}}, "the class; give a value"),
        ({"collection_terms": {"name": filters.IsIn}}, "the class; give a value"),
        ({"interpolation": "cubic", "resample": True}, "interpolation is 'cubic'; give"),
        ({"max_age": "a week"}, "max_age is 'a week'; give"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_done(
    mine: Fetch, server: DemoServer, data_dir: Path, options: Asked, said: str
) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        mine(**options)
    assert server.requests == 0
    assert not data_dir.exists()


def test_an_unknown_mode_is_refused_in_nilearns_words(mine: Fetch) -> None:
    with pytest.raises(InvalidModeError, match="'mode' must be one of"):
        mine(mode="sometimes")
    with pytest.raises(ValueError, match="'mode' must be one of"):
        theirs.fetch_neurovault(mode="sometimes")


def test_the_positional_order_is_that_of_old_nilearn(server: DemoServer, data_dir: Path) -> None:
    maps = fetch_neurovault(
        2,
        {"owner": 6},
        filters.keep_all,
        {"is_valid": True},
        filters.keep_all,
        "overwrite",
        data_dir,
        True,
        True,
        0,
    )
    assert ids(maps) == [3, 4]
    assert maps.word_frequencies.shape == (2, maps.vocabulary.size)
    assert len(server.hits("/api/decode/")) == 2
