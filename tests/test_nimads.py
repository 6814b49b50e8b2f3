"""Maps become a NIMADS studyset: what they are decides, nothing is guessed, and nothing is left out in silence."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import write
from hypothesis import given
from hypothesis import strategies as st

from nvcatalog import Catalog
from nvcatalog.demo import World
from nvcatalog.errors import CatalogWarning, InvalidOptionError, MissingExtraError, SelectionWarning
from nvcatalog.nimads import Nimads, Remark, Remarks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")

TOKEN = "ABCDEFGH"
PAIR = {"contrast_definition": "faces > shapes", "number_of_subjects": 15}
IMAGES: dict[int, list[dict[str, Any]]] = {
    3: [
        {"id": 30, "map_type": "T map", "number_of_subjects": 20},
        {"id": 31, "map_type": "Z", "number_of_subjects": None, "is_thresholded": True},
    ],
    4: [{"id": 40, "map_type": "univariate-beta map", **PAIR}, {"id": 41, "map_type": "variance", **PAIR}],
    5: [{"id": 50, "map_type": "P map (given null hypothesis)", "number_of_subjects": 0, "not_mni": True}],
    6: [{"id": 60, "map_type": "F map"}, {"id": 61, "image_type": "atlas"}, {"id": 62, "map_type": "Pa"}],
    7: [{"id": 70, "number_of_subjects": 12}],
}
ABOUT: dict[int, dict[str, Any]] = {
    3: {"name": "Loss & gain", "DOI": "10.1126/Science.1134239", "authors": "Tom SM", "journal_name": "Science"},
    4: {"DOI": "10.1126/science.1134239", "description": "More of it"},
    5: {"preprint_DOI": "10.1101/123", "authors": "None"},
}


@pytest.fixture
def world() -> World:
    world = World.empty()
    for id_, images in IMAGES.items():
        world.add_collection(ABOUT.get(id_), id=id_, images=images)
    return world


@pytest.fixture
def catalog(fetch: Fetch, data_dir: Path) -> Catalog:
    fetch(collection_ids=[*IMAGES])
    return Catalog(data_dir)


def nimads(catalog: Catalog, **options: Any) -> Nimads:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        return catalog.to_nimads(**options)


def shape(studyset: Nimads) -> dict[str, list[str]]:
    """Return the analyses of each study, by their ids."""
    return {study["id"]: [analysis["id"] for analysis in study["analyses"]] for study in studyset["studies"]}


def analyses(studyset: Nimads) -> dict[str, dict[str, Any]]:
    return {analysis["id"]: analysis for study in studyset["studies"] for analysis in study["analyses"]}


def sizes(studyset: Nimads) -> dict[str, list[int] | None]:
    return {id_: analysis["metadata"].get("sample_sizes") for id_, analysis in analyses(studyset).items()}


def remarks(studyset: Nimads, kind: Any) -> dict[Any, str]:
    return {each.image_id or each.study: each.text for each in studyset.report.of(kind)}


def test_each_map_is_an_analysis_of_its_collection_with_what_its_voxels_mean(catalog: Catalog) -> None:
    studyset = nimads(catalog)

    assert shape(studyset) == {"3": ["30", "31"], "4": ["40", "41"], "5": ["50"], "7": ["70"]}
    types = {id_: [image["value_type"] for image in each["images"]] for id_, each in analyses(studyset).items()}
    assert types == {"30": ["t"], "31": ["z"], "40": ["beta"], "41": ["varcope"], "50": ["p"], "70": ["z"]}
    for analysis in analyses(studyset).values():
        [image] = analysis["images"]
        assert Path(image["filename"]).is_file()
        assert "url" not in image
        assert image["metadata"]["url"].endswith(".nii.gz")
    study = studyset["studies"][0]
    assert (study["name"], study["doi"]) == ("Loss & gain", "10.1126/science.1134239")
    assert (study["authors"], study["publication"]) == ("Tom SM", "Science")
    assert not {"authors", "year"} & studyset["studies"][2].keys()  # neither a placeholder nor the year of upload


def test_it_is_as_the_published_schema_has_it_and_json_can_hold_it(catalog: Catalog) -> None:
    studyset = nimads(catalog, analysis="contrast_definition")
    assert json.loads(json.dumps(studyset, allow_nan=False)) == studyset
    check(studyset, {"id": str, "name": str, "studies": list})
    for study in studyset["studies"]:
        check(study, STUDY)
        for analysis in study["analyses"]:
            check(analysis, ANALYSIS)
            assert len(analysis["conditions"]) == len(analysis["weights"])
            for image in analysis["images"]:
                check(image, IMAGE)


STUDY = {
    **dict.fromkeys(("id", "name", "doi", "description", "publication", "authors"), str),
    "metadata": dict,
    "analyses": list,
}
ANALYSIS = {
    **dict.fromkeys(("id", "name", "description"), str),
    **dict.fromkeys(("conditions", "weights", "images", "points"), list),
    "metadata": dict,
}
IMAGE = {**dict.fromkeys(("id", "url", "filename", "space", "value_type", "add_date"), str), "metadata": dict}


def check(found: dict[str, Any], schema: Mapping[str, type]) -> None:
    assert found.keys() <= schema.keys()
    for name, value in found.items():
        assert value is None or isinstance(value, schema[name]), (name, value)


def test_what_is_left_out_is_reported_with_its_reason(catalog: Catalog, world: World) -> None:
    with pytest.warns(
        SelectionWarning, match=r"3 images are left out \(1 F map, 1 an atlas, 1 parcellation|1 Pa\)"
    ):
        studyset = catalog.to_nimads(image_ids=[30, 60, 61, 62])
    assert remarks(studyset, "left_out") == {60: "F map", 61: "an atlas", 62: "Pa"}
    assert shape(studyset) == {"3": ["30"]}

    studyset = nimads(catalog, image_ids=[30, 999])
    assert remarks(studyset, "left_out") == {999: "unknown to this catalog"}
    with pytest.warns(SelectionWarning, match="There is no map for a meta-analysis"):
        assert catalog.to_nimads(image_ids=[60])["studies"] == []


def test_maps_that_are_not_here_are_reported_and_come_by_their_link_when_asked_for(
    catalog: Catalog, data_dir: Path
) -> None:
    (data_dir / "neurovault" / "collection_7" / "image_70.nii.gz").unlink()
    (data_dir / "neurovault" / "collection_5" / "image_50.nii.gz").write_bytes(b"cut off")

    with pytest.warns(SelectionWarning, match=r"2 maps are not here; fetch them first \(50, 70\)"):
        studyset = catalog.to_nimads(where="true")
    assert {*shape(studyset)} == {"3", "4"}
    assert remarks(studyset, "no_file").keys() == {50, 70}

    studyset = nimads(catalog, where="true", without_files=True)
    [image] = analyses(studyset)["70"]["images"]
    assert "filename" not in image
    assert image["url"].startswith("http://")
    assert remarks(studyset, "no_file").keys() == {50, 70}


def test_studies_with_several_analyses_are_named(catalog: Catalog) -> None:
    with pytest.warns(SelectionWarning, match=r"2 studies contribute several .* not independent \(3, 4\)"):
        studyset = catalog.to_nimads()
    assert remarks(studyset, "several_analyses") == {
        "3": "2 analyses, not independent: 30, 31",
        "4": "2 analyses, not independent: 40, 41",
    }
    assert remarks(studyset, "thresholded").keys() == {31}
    assert remarks(studyset, "not_mni").keys() == {50}
    assert set(studyset.report.df()["kind"]) == {*studyset.report.counts}


def test_collections_of_one_paper_are_one_study_by_its_doi(catalog: Catalog) -> None:
    studyset = nimads(catalog, study="doi")

    assert shape(studyset) == {
        "10.1126/science.1134239": ["30", "31", "40", "41"],
        "10.1101/123": ["50"],  # the preprint's
        "7": ["70"],  # neither has one: the collection
    }
    assert len(studyset["studies"][0]["metadata"]["urls"]) == 2


def test_a_beta_and_its_varcope_become_one_analysis_when_told_what_makes_one(catalog: Catalog) -> None:
    analysis = analyses(nimads(catalog, analysis="contrast_definition"))["40-41"]

    assert analysis["name"] == "faces > shapes"
    assert [image["value_type"] for image in analysis["images"]] == ["beta", "varcope"]
    assert analysis["metadata"]["sample_sizes"] == [15]


def test_maps_of_one_kind_are_never_in_one_analysis(world: World, fetch: Fetch, data_dir: Path) -> None:
    same = {"map_type": "Z map", "contrast_definition": "a > b"}
    world.add_collection(
        id=8, images=[{"id": 80, **same}, {"id": 81, **same}, {"id": 82, **same, "map_type": "T map"}]
    )
    fetch(collection_ids=[8])
    studyset = nimads(Catalog(data_dir), analysis="contrast_definition")

    assert shape(studyset) == {"8": ["80", "81", "82"]}
    assert remarks(studyset, "apart").keys() == {80, 81, 82}


def test_maps_of_several_levels_or_subjects_are_never_in_one_analysis(
    world: World, fetch: Fetch, data_dir: Path
) -> None:
    same = {"contrast_definition": "a > b"}
    alone = {**same, "analysis_level": "single-subject"}
    beta, varcope = {"map_type": "univariate-beta map"}, {"map_type": "variance"}
    images = [
        {"id": 80, "name": "sub-01 beta", **alone, **beta},
        {"id": 81, "name": "sub-02 varcope", **alone, **varcope},
        {"id": 82, "name": "sub-01 varcope", **alone, **varcope, "analysis_level": "S"},
        {"id": 83, "name": "group T", **same, "map_type": "T map", "analysis_level": "group"},
    ]
    world.add_collection(id=8, images=images)
    fetch(collection_ids=[8])
    studyset = nimads(Catalog(data_dir), analysis="contrast_definition")

    assert shape(studyset) == {"8": ["80-82", "81", "83"]}
    text = "one of 4 maps of 'a > b', which are of several levels or subjects"
    assert remarks(studyset, "apart") == dict.fromkeys((80, 81, 82, 83), text)
    assert analyses(studyset)["80-82"]["metadata"]["analysis_level"] == "single-subject"


def test_texts_that_say_nothing_make_no_study_and_no_analysis(world: World, fetch: Fetch, data_dir: Path) -> None:
    for id_, text in ((8, ""), (9, " "), (10, "None"), (11, "n/a"), (12, "")):
        images = [
            {"id": 10 * id_ + n, "map_type": map_type, "contrast_definition": text}
            for n, map_type in enumerate(("T map", "Z map"))
        ]
        world.add_collection(id=id_, images=images)
    fetch(collection_ids=range(8, 13))
    studyset = nimads(Catalog(data_dir), study="contrast_definition", analysis="contrast_definition")

    assert shape(studyset) == {str(id_): [f"{id_}0", f"{id_}1"] for id_ in range(8, 13)}


def test_maps_of_a_nidm_pack_are_one_analysis_when_asked_for(world: World, fetch: Fetch, data_dir: Path) -> None:
    world.add_nidm_pack(7, "results", n_maps=2)
    fetch(collection_ids=[7])
    first, second = (id_ for id_ in world.image_ids(7) if id_ != 70)
    world.edit_image(first, map_type="T map")
    world.edit_image(second, map_type="Z map")
    fetch(collection_ids=[7], mode="overwrite")

    assert shape(nimads(Catalog(data_dir), analysis="pack_id")) == {"7": ["70", f"{first}-{second}"]}


def test_a_sample_size_is_what_is_given_else_what_the_record_says_else_absent(catalog: Catalog) -> None:
    recorded = {"30": [20], "31": None, "40": [15], "41": [15], "50": None, "70": [12]}
    studyset = nimads(catalog)
    assert sizes(studyset) == recorded
    assert remarks(studyset, "no_sample_size").keys() == {31, 50}

    assert set(map(str, sizes(nimads(catalog, sample_sizes=np.int64(9))).values())) == {"[9]"}
    assert sizes(nimads(catalog, sample_sizes={30: 21, "31": 22, "5": 23.0, "40": None})) == {
        **recorded,
        "30": [21],
        "31": [22],
        "50": [23],
    }
    given = pd.Series({31: 7.0, 50: np.nan})
    assert sizes(nimads(catalog, sample_sizes=given)) == {**recorded, "31": [7]}
    by_doi = {"https://doi.org/10.1126/SCIENCE.1134239": 30}
    assert sizes(nimads(catalog, study="doi", sample_sizes=by_doi)) == {
        **recorded,
        **{id_: [30] for id_ in ("30", "31", "40", "41")},
    }


def test_maps_of_one_analysis_with_different_sizes_have_none(catalog: Catalog) -> None:
    studyset = nimads(catalog, analysis="contrast_definition", sample_sizes={40: 14})
    assert sizes(studyset)["40-41"] is None
    assert remarks(studyset, "no_sample_size")[40] == "its maps have different ones: [14, 15]"


def test_sizes_that_cannot_be_are_refused(catalog: Catalog, world: World, fetch: Fetch) -> None:
    for bad in (0, -3, 2.5, "many", True, float("inf"), [20]):
        with pytest.raises(InvalidOptionError, match=r"sample_sizes is .*; give a whole number of subjects"):
            nimads(catalog, sample_sizes=bad)
        with pytest.raises(InvalidOptionError, match=r"sample_sizes\[30\] is "):
            nimads(catalog, sample_sizes={30: bad})
    world.add_collection(id=30, images=[{"id": 300}])
    fetch(collection_ids=[30])
    with pytest.raises(InvalidOptionError, match="sample_sizes has 30, which is an image as well as a study"):
        nimads(catalog, sample_sizes={30: 20})
    by_image, by_study = (nimads(catalog, sample_sizes=given) for given in ({30: 9, 300: 8}, {30: 9, 4: 8}))
    assert [sizes(each)[image] for each in (by_image, by_study) for image in ("30", "300")] == [
        [9],
        [8],
        [20],
        [9],
    ]


def test_columns_that_do_not_exist_are_told_with_those_that_are_near(catalog: Catalog) -> None:
    with pytest.raises(InvalidOptionError, match=r"study is 'collection'|did you mean"):
        catalog.to_nimads(study="colection_id")
    with pytest.raises(InvalidOptionError, match=r"analysis is 3; give a column of stat_maps, or pack_id$"):
        catalog.to_nimads(analysis=3)  # type: ignore[arg-type]


def test_private_maps_are_left_out_unless_asked_for(world: World, fetch: Fetch, data_dir: Path) -> None:
    world.make_private(7, TOKEN)
    fetch(collection_ids=[TOKEN, 5])
    catalog = Catalog(data_dir)

    assert shape(nimads(catalog)) == {"5": ["50"]}
    assert remarks(nimads(catalog), "left_out") == {70: "of a private collection; private=True takes it too"}
    studyset = nimads(catalog, private=True)
    assert shape(studyset) == {"5": ["50"], "7": ["70"]}
    assert TOKEN not in json.dumps(studyset)


def test_sample_sizes_of_what_is_no_image_and_no_study_are_reported(catalog: Catalog) -> None:
    given = {30: 11, "3": 12, 61: 13, 300: 14, "10.1/x": 15, 31.0: 16}
    with pytest.warns(
        SelectionWarning,
        match=r"2 of sample_sizes are of no use \(300 is no image and no study of these, '10.1/x' is",
    ):
        studyset = catalog.to_nimads(sample_sizes=given)
    assert studyset.report.counts["unused_size"] == 2, "an image that is left out is reported as that"
    assert sizes(studyset)["30"] == [11]
    series = pd.Series([20, 30], index=[30, 99])
    assert [each.text for each in nimads(catalog, sample_sizes=series).report.of("unused_size")] == [
        "99 is no image and no study of these"
    ]
    assert not nimads(catalog, sample_sizes=20).report.of("unused_size")


def test_what_is_gone_is_left_out_unless_asked_for_and_reported_where_it_is_named(
    catalog: Catalog, data_dir: Path
) -> None:
    write(data_dir, "UPDATE images SET gone_at = now() WHERE image_id = 50")
    choice = {"where": "collection_id IN (5, 7)"}

    assert shape(nimads(catalog, **choice)) == {"7": ["70"]}
    assert remarks(nimads(catalog, **choice), "left_out") == {50: "gone from the server; gone=True takes it too"}
    assert shape(nimads(catalog, gone=True, **choice)) == {"5": ["50"], "7": ["70"]}
    with pytest.warns(SelectionWarning, match=r"1 maps are gone from the server, .* named \(50\)"):
        studyset = catalog.to_nimads(image_ids=[50])
    assert shape(studyset) == {"5": ["50"]}
    assert remarks(studyset, "gone") == {50: "no longer on the server"}


def test_resampled_maps_are_described_where_those_are_meant(fetch: Fetch, data_dir: Path) -> None:
    pytest.importorskip("nilearn", minversion="0.14.1")
    maps = fetch(image_ids=[30], resample=True)
    catalog = Catalog(data_dir)
    for studyset in (nimads(catalog, bunch=maps), nimads(catalog, resample=True)):
        [image] = analyses(studyset)["30"]["images"]
        assert image["filename"] == maps.images[0]
        assert nib.load(image["filename"]).header.get_zooms()[:3] == (3.0, 3.0, 3.0)  # type: ignore[attr-defined]


def test_without_a_catalog_it_is_empty_and_says_why(tmp_path: Path) -> None:
    with pytest.warns(CatalogWarning, match="no catalog"), pytest.warns(SelectionWarning, match="There is no map"):
        studyset = Catalog(tmp_path).to_nimads()
    assert studyset["studies"] == []
    assert list(tmp_path.iterdir()) == []


def test_without_nimare_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nimare", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nvcatalog\[nimare\]'"):
        Catalog(tmp_path).to_nimare()


@given(
    st.lists(st.builds(Remark, st.sampled_from(["left_out", "no_file"]), st.none(), st.integers(1, 9), st.text()))
)
def test_a_report_counts_and_lists_all_its_remarks(found: list[Remark]) -> None:
    report = Remarks(found)
    assert sum(report.counts.values()) == len(report) == len(report.df())
    assert [each for kind in ("left_out", "no_file") for each in report.of(kind)] == sorted(
        found, key=lambda each: each.kind
    )
