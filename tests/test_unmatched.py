"""Filters that keep no image say what each of their terms keeps, and what there is instead."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import fetching
import pytest
from fetching import fetch_filtered as fetch_filtered
from fetching import no_waiting as no_waiting

from nvcatalog import filters
from nvcatalog._store import Store
from nvcatalog.errors import CatalogLockedError, FilterWarning, IncompleteWarning, SelectionWarning
from nvcatalog.unmatched import explain

if TYPE_CHECKING:
    from pathlib import Path

    from fetching import Fetch

    from nvcatalog.demo import DemoServer, World

pytestmark = pytest.mark.usefixtures("no_waiting")

EVERYTHING: dict[str, Any] = {"collection_terms": {}, "image_terms": {}, "max_images": None}
# Term by term: what no image of the demo has, and what is said of it.
IN_VAIN = {
    "another case": ({"modality": "fmri-bold"}, "0  modality: 'fmri-bold' (there is 'fMRI-BOLD')"),
    "part of it": (
        {"cognitive_paradigm_cogatlas": "Gambles"},
        "0  cognitive_paradigm_cogatlas: 'Gambles' (there is 'mixed gambles task')",
    ),
    "misspelt": (
        {"cognitive_paradigm_cogatlas": "mixed gambels task"},
        "0  cognitive_paradigm_cogatlas: 'mixed gambels task' (there is 'mixed gambles task')",
    ),
    "one of several": (
        {"map_type": filters.IsIn("z MAP", "tmap")},
        "0  map_type: IsIn('z MAP', 'tmap') (there is 'Z map')",
    ),
    "list": (
        {"modality": ["MEG", "EEG"]},
        "?  modality: ['MEG', 'EEG'] (for any of several give IsIn('MEG', 'EEG'))",
    ),
    "list in IsIn": (
        {"modality": filters.IsIn(["MEG"])},
        "?  modality: IsIn(['MEG']) (for any of several give IsIn('MEG'))",
    ),
    "text for a number": ({"number_of_subjects": "20"}, "?  number_of_subjects: '20' (the field holds numbers)"),
    "text for a flag": ({"not_mni": "no"}, "?  not_mni: 'no' (the field holds True or False)"),
    "number": (
        {"number_of_subjects": filters.GreaterThan(10**6)},
        "≤54  number_of_subjects: GreaterThan(1000000)",
    ),
    "pattern": ({"name": filters.Pattern("no such name")}, "?  name: Pattern('no such name', 0)"),
}


@pytest.fixture
def fetch(fetch_filtered: Fetch) -> Fetch:
    return fetch_filtered


@pytest.mark.parametrize(("terms", "line"), IN_VAIN.values(), ids=IN_VAIN)
def test_a_term_that_keeps_nothing_is_told_from_those_that_do(
    fetch: Fetch, world: World, terms: dict[str, Any], line: str
) -> None:
    n_images = len(world.image_ids())
    with pytest.warns(SelectionWarning) as warned:
        maps = fetch(**EVERYTHING | {"image_terms": {"url": filters.NotNull(), **terms}})
    first, known, *lines = str(warned[0].message).splitlines()
    assert first == "No image matches."
    assert known.startswith(f"Of {n_images} images and ")
    assert lines[0].strip() == f"{n_images}  url: NotNull()"
    assert lines[1].strip() == line
    assert warned[0].filename == fetching.__file__
    assert repr(maps.report) == "<Report: no outcomes>"


def test_terms_of_collections_are_explained_too(fetch: Fetch) -> None:
    with pytest.warns(SelectionWarning, match=r"(?m)^  0  collections with name: 'Obesity' \(there is .*besity"):
        fetch(**EVERYTHING | {"collection_terms": {"name": "Obesity"}})


def test_a_function_that_keeps_nothing_is_named(fetch: Fetch) -> None:
    with pytest.warns(SelectionWarning, match=r"(?m)^  \?  image_filter \(a function\)$"):
        fetch(**EVERYTHING, image_filter=lambda image: False)


def test_who_keeps_the_catalog_costs_the_explanation_alone(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(*_: object) -> None:
        raise CatalogLockedError("another process has it open")

    monkeypatch.setattr("nvcatalog.unmatched.explain", keep)
    with pytest.warns(SelectionWarning, match=r"^No image matches\.$"):
        fetch(modality="fmri-bold")


def test_offline_none_that_is_here_matches(fetch: Fetch) -> None:
    fetch(max_images=1, collection_id=555)
    with pytest.warns(SelectionWarning, match=r"^No image here matches\.\nOf 20 images"):
        fetch(mode="offline", map_type="T map")


def test_who_asks_for_none_is_told_nothing(fetch: Fetch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetch(max_images=0)


def test_what_could_not_be_looked_through_is_not_said_to_hold_none(fetch: Fetch, server: DemoServer) -> None:
    server.close()
    with pytest.warns(IncompleteWarning) as warned:
        fetch(modality="fmri-bold")
    assert not [each for each in warned if issubclass(each.category, SelectionWarning)]


def test_a_figure_is_never_less_than_what_the_term_keeps(fetch: Fetch, world: World, data_dir: Path) -> None:
    world.edit_image(9034, number_of_subjects=20.9, modality=None, is_valid=None, Task="stop")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FilterWarning)
        fetch(**EVERYTHING)
    terms: dict[str, Any] = {
        "not_mni": filters.NotEqual(True),
        "modality": filters.IsNull(),
        "number_of_subjects": filters.LessOrEqual(20),
        "is_valid": False,
        "Task": "stop",
        "name": filters.Contains("a"),
    }
    lines = explain(Store(data_dir / "neurovault"), terms, {})[1:]
    for line, (name, value) in zip(lines, terms.items(), strict=True):
        found = re.match(rf"  +≤?([\d,]+)  {name}: ", line)
        assert found, line
        kept = sum(filters.ResultFilter({name: value})(world.image(id_) or {}) for id_ in world.image_ids())
        assert 0 < kept <= int(found[1].replace(",", ""))
