"""Citations are made of what owners typed, and can be read back whatever that was."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import write
from hypothesis import given
from hypothesis import strategies as st

from nvcatalog import Catalog
from nvcatalog.cite import Citations, CitedCollection, escaped
from nvcatalog.demo import World
from nvcatalog.errors import CatalogWarning, InvalidOptionError, SelectionWarning

if TYPE_CHECKING:
    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")

TOKEN = "ABCDEFGH"
ABOUT = {
    3: {"name": "Loss & gain", "DOI": "https://doi.org/10.1126/Science_1134239", "authors": "Tom SM, Fox CR"},
    7: {"name": "Preprinted", "preprint_DOI": "10.1101/123", "authors": "None"},
    8: {"name": "", "add_date": "2015-06-01T12:00:00+00:00"},
    9: {"name": "Soon", "DOI": "in press {2016}"},
}


@pytest.fixture
def world() -> World:
    world = World.empty()
    for id_, record in ABOUT.items():
        world.add_collection(record, id=id_, images=[{"id": 10 * id_}, {"id": 10 * id_ + 1}])
    return world


@pytest.fixture
def catalog(fetch: Fetch, data_dir: Path) -> Catalog:
    fetch(collection_ids=[*ABOUT])
    return Catalog(data_dir)


# A reader of BibTeX as BibTeX reads it: a field ends where its braces are balanced, escaped or not.


def parse(bibtex: str) -> dict[str, dict[str, str]]:
    entries = {}
    for found in re.finditer(r"@(\w+)\{(\w+),", bibtex):
        fields, place = {"": found[1]}, found.end()
        while field := re.compile(r"\s*(\w+) = \{").match(bibtex, place):
            end = closing(bibtex, field.end())
            fields[field[1]], place = bibtex[field.end() : end], end + 2
            assert bibtex[end + 1] == ","
        assert bibtex[place:].lstrip().startswith("}"), bibtex[place:]
        assert found[2] not in entries
        entries[found[2]] = fields
    return entries


def closing(text: str, place: int) -> int:
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        place += 1
    return place - 1


MACROS = {
    "textbackslash": "\\",
    "textbraceleft": "{",
    "textbraceright": "}",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
}


def as_set(latex: str) -> str:
    """Return what LaTeX would print."""
    return re.sub(r"\\(?:([a-z]+)\{\}|([&%$#_]))", lambda found: MACROS[found[1]] if found[1] else found[2], latex)


def test_each_collection_is_cited_with_what_its_owner_typed(catalog: Catalog) -> None:
    entries = parse(catalog.cite().bibtex())
    assert list(entries) == ["neurovault_3", "neurovault_7", "neurovault_8", "neurovault_9", "gorgolewski_2015"]
    assert entries["neurovault_3"] == {
        "": "misc",
        "title": r"{Loss \& gain}",
        "author": "{Tom SM, Fox CR}",
        "howpublished": "NeuroVault collection 3",
        "doi": "10.1126/science_1134239",
        "url": "https://identifiers.org/neurovault.collection:3",
        "urldate": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    assert entries["neurovault_7"]["doi"] == "10.1101/123"
    assert "author" not in entries["neurovault_7"]
    assert not any("year" in entries[f"neurovault_{id_}"] for id_ in ABOUT)
    assert entries["gorgolewski_2015"]["doi"] == "10.3389/fninf.2015.00008"


def test_collections_without_a_doi_are_listed_apart(catalog: Catalog) -> None:
    citations = catalog.cite()
    assert [each.collection_id for each in citations.without_doi] == [8, 9]
    assert repr(citations).startswith("<Citations: 4 collections, 2 without a DOI (8, 9);")
    bibtex = citations.bibtex()
    assert bibtex.index("{neurovault_7") < bibtex.index("% Without a DOI") < bibtex.index("{neurovault_8")
    entries = parse(bibtex)
    assert entries["neurovault_8"]["title"] == "{NeuroVault collection 8}"
    assert as_set(entries["neurovault_9"]["note"]) == "DOI as typed: in press {2016}"
    text = citations.text()
    assert text.index("doi:10.1101/123") < text.index("Without a DOI") < text.index("NeuroVault collection 8")
    assert "Tom SM, Fox CR. Loss & gain. NeuroVault collection 3 (2 maps). doi:10.1126/science_1134239." in text
    assert "2015-06" not in text


def test_what_chooses_the_images_chooses_the_collections(catalog: Catalog, fetch: Fetch) -> None:
    def cited(**options: Any) -> list[tuple[int, int]]:
        return [(each.collection_id, each.n_images) for each in catalog.cite(**options).collections]

    assert cited(where="image_id < $most", params={"most": 71}) == [(3, 2), (7, 1)]
    assert cited(image_ids=[91, 30]) == [(3, 1), (9, 1)]
    assert cited(bunch=fetch(image_ids=[70, 71])) == [(7, 2)]
    assert len(cited()) == 4
    with pytest.raises(InvalidOptionError, match="give one of where, bunch and image_ids"):
        catalog.cite(where="true", image_ids=[3])


def test_neurosynth_is_cited_where_terms_were_used(catalog: Catalog, fetch: Fetch) -> None:
    without = fetch(image_ids=[30])
    with_terms = fetch(image_ids=[30], fetch_neurosynth_words=True)
    unvectorized = fetch(image_ids=[30], fetch_neurosynth_words=True, vectorize_words=False)
    assert not catalog.cite(bunch=without).terms
    assert catalog.cite(bunch=unvectorized).terms
    assert catalog.cite(image_ids=[30]).terms
    assert not catalog.cite(image_ids=[31]).terms
    citations = catalog.cite(bunch=with_terms)
    assert parse(citations.bibtex())["yarkoni_2011"]["doi"] == "10.1038/nmeth.1635"
    assert "doi:10.1038/nmeth.1635" in citations.text()
    assert "with Neurosynth's terms" in repr(citations)


def test_neurosynth_is_not_cited_for_the_terms_of_another_decoder(catalog: Catalog, fetch: Fetch) -> None:
    maps = fetch(image_ids=[30, 31], fetch_neurosynth_words=True)
    for image_id, left in ((30, True), (31, False)):
        theirs = pd.DataFrame({"image_id": [image_id], "term": ["pain"], "weight": [7.5]})
        catalog.add_words(theirs, reference="gclda", replace=True)
        assert not catalog.cite(image_ids=[image_id]).terms
        assert catalog.cite(bunch=maps).terms == left


def test_private_collections_are_cited_only_when_asked_for(fetch: Fetch, world: World, data_dir: Path) -> None:
    world.make_private(3, TOKEN)
    fetch(collection_ids=[TOKEN, 7])
    with pytest.warns(SelectionWarning, match="1 private collections are not cited; private=True"):
        assert [each.collection_id for each in Catalog(data_dir).cite().collections] == [7]
    citations = Catalog(data_dir).cite(private=True)
    assert [each.collection_id for each in citations.collections] == [3, 7]
    assert TOKEN not in citations.bibtex() + citations.text()


def test_what_is_gone_is_cited_where_it_is_named_or_asked_for(catalog: Catalog, data_dir: Path) -> None:
    write(data_dir, "UPDATE images SET gone_at = now() WHERE image_id IN (70, 71, 80)")

    for choice, expected in (("true", [3, 8, 9]), (None, [3, 8, 9])):
        with pytest.warns(SelectionWarning, match="3 images are gone from the server, and left out: 70, 71, 80."):
            assert [each.collection_id for each in catalog.cite(where=choice).collections] == expected
    assert [each.collection_id for each in catalog.cite(where="true", gone=True).collections] == [3, 7, 8, 9]
    with pytest.warns(SelectionWarning, match="gone from the server, and taken as they are here: 70"):
        assert [each.collection_id for each in catalog.cite(image_ids=[30, 70]).collections] == [3, 7]


def test_what_cannot_be_cited_is_said(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.warns(SelectionWarning, match="1 of 2 images are unknown to the catalog, and not cited"):
        assert len(catalog.cite(image_ids=[30, 999]).collections) == 1
    with pytest.warns(SelectionWarning, match="No image was chosen"):
        assert list(parse(catalog.cite(where="false").bibtex())) == ["gorgolewski_2015"]
    with pytest.warns(CatalogWarning, match="no catalog"), pytest.warns(SelectionWarning):
        assert Catalog(tmp_path / "empty").cite().collections == ()


def test_a_doi_that_is_encoded_already_is_not_encoded_again() -> None:
    (entry,) = parse(Citations([CitedCollection(1, doi="10.1/a%20b c%")]).bibtex().split("\n@article")[0]).values()
    assert entry["doi"] == "10.1/a%20b%20c%25"


@pytest.mark.parametrize(
    "authors",
    [
        "Tom SM, Fox CR and Li W",
        "Smith, John and Doe, Jane",
        "Russell Poldrack",
        "NeuroVault",
        "Martin Luther King, Jr. and Craig Fox",
        "the team of Craig Fox and Martin Walter",
        "ENIGMA Sleep and Craig Fox",
    ],
)
def test_authors_of_whom_bibtex_would_make_others_stay_one_group(authors: str) -> None:
    assert f"  author = {{{{{authors}}}}},\n" in Citations([CitedCollection(1, authors=authors)]).bibtex()


def test_a_group_among_authors_is_no_person() -> None:
    authors = "A. B. Smith, Human Connectome Project and ENIGMA Consortium"
    bibtex = Citations([CitedCollection(1, authors=authors)]).bibtex()
    assert "  author = {A. B. Smith and {Human Connectome Project} and {ENIGMA Consortium}},\n" in bibtex


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    st.sampled_from("\\{}~^<>|&%$#_@\"',= \n\tä\x00\u2028%"), max_size=20
)


@given(name=TEXTS, authors=TEXTS, doi=TEXTS)
def test_whatever_owners_typed_is_read_back_from_bibtex(name: str, authors: str, doi: str) -> None:
    dois = (f"10.1/{doi}", doi)
    collections = [CitedCollection(id_, name, authors, doi) for id_, doi in zip((2, 1), dois, strict=True)]
    citations = Citations(collections, terms=True)
    entries = parse(citations.bibtex())
    assert set(entries) == {"neurovault_1", "neurovault_2", "gorgolewski_2015", "yarkoni_2011"}
    for id_ in (1, 2):
        fields = entries[f"neurovault_{id_}"]
        title = as_set(fields["title"][1:-1])
        assert words_of(title) == (words_of(name) or ["NeuroVault", "collection", str(id_)])
        assert words_of(as_set(fields.get("author", "{}")[1:-1])) == words_of(authors)
        assert "\n" not in "".join(fields.values())
    assert not re.search(r"[{}\\\s]", entries["neurovault_2"]["doi"])
    assert citations.text().count("https://identifiers.org/") == 2


def words_of(text: str) -> list[str]:
    """Return the words of a text, parted by whatever controls or spaces there are."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split()


@given(TEXTS)
def test_no_special_character_is_left_bare(text: str) -> None:
    rest = re.sub(r"\\(?:[a-z]+\{\}|[&%$#_])", "", escaped(text))
    assert not re.search(r"[\\{}~^<>|&%$#_\n]", rest)
