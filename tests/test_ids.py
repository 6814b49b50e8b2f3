"""Ids come as people have them at hand, and what is none is told apart from what is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from nvcatalog.errors import InvalidIdError, InvalidIdTypeError, NVCatalogError
from nvcatalog.ids import LARGEST, Kind, parse_ids


@pytest.mark.parametrize(
    "given",
    [
        [555, 3],
        (555, 3),
        range(555, 1, -552),
        iter([555, 3]),
        dict.fromkeys([555, 3]),
        ["555", " 3 "],
        ["+555", "003"],
        np.array([555, 3]),
        np.array(["555", "3"]),
        [np.int16(555), np.uint64(3)],
        pd.Series([555, 3], index=[8, 9]),
        pd.Series([555, 3], dtype="Int64"),
        pd.Series(["555", "3"]),
        pd.Index([555, 3]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_containers_of_all_kinds_give_integers_in_their_order(given: Any) -> None:
    ids = parse_ids(given, kind="collection")

    assert ids == (555, 3)
    assert [type(id_) for id_ in ids] == [int, int]


@pytest.mark.parametrize("given", [555, "555", np.int64(555), np.array(555), np.str_("555")])
def test_a_bare_id_stands_for_itself(given: Any) -> None:
    assert parse_ids(given, kind="image") == (555,)


@pytest.mark.parametrize("given", [None, (), [], set(), np.array([])])
def test_none_and_empty_containers_mean_no_ids(given: Any) -> None:
    assert parse_ids(given, kind="image") == ()


def test_an_id_given_twice_counts_once_at_its_first_place() -> None:
    assert parse_ids([7, "3", 7, "https://neurovault.org/images/3/", 1], kind="image") == (7, 3, 1)


@pytest.mark.parametrize(
    "link",
    [
        "https://neurovault.org/{kind}s/10426/",
        "https://neurovault.org/{kind}s/10426",
        "http://neurovault.org/api/{kind}s/10426/?format=json",
        "https://neurovault.org/{kind}s/10426/#details",
        "neurovault.org/{kind}s/10426/",
        "http://127.0.0.1:8000/{kind}s/10426/",
        "https://identifiers.org/neurovault.{kind}:10426",
        "identifiers.org/neurovault.{kind}:10426",
        "neurovault.{kind}:10426",
        "  https://neurovault.org/{kind}s/10426/\n",
    ],
)
@pytest.mark.parametrize("kind", ["collection", "image"])
def test_pasted_links_are_ids(link: str, kind: Kind) -> None:
    assert parse_ids([link.format(kind=kind)], kind=kind) == (10426,)


@pytest.mark.parametrize("given", [True, np.True_, 1.5, 555.0, np.float64(555), b"555", object(), pd.NA])
def test_what_cannot_be_an_id_by_its_type_is_a_type_error_that_names_it(given: Any) -> None:
    for ids in (given, [3, given]):
        with pytest.raises(InvalidIdTypeError, match="image_ids: ") as raised:
            parse_ids(ids, kind="image")
        assert isinstance(raised.value, TypeError)
        assert isinstance(raised.value, NVCatalogError)
        assert repr(given) in str(raised.value)


def test_none_inside_a_container_is_a_type_error() -> None:
    with pytest.raises(InvalidIdTypeError, match="None is a NoneType"):
        parse_ids([3, None], kind="image")


@pytest.mark.parametrize("given", [0, -1, np.int64(-3), LARGEST + 1, 10**30])
def test_numbers_that_are_no_ids_are_value_errors(given: Any) -> None:
    for ids in (given, [3, given]):
        with pytest.raises(InvalidIdError, match=f"image_ids: .* from 1 to {LARGEST}") as raised:
            parse_ids(ids, kind="image")
        assert isinstance(raised.value, ValueError)
        assert isinstance(raised.value, NVCatalogError)


NO_IDS = ["0", "-5", "9" * 20, "9" * 5000, "", "  ", "pain", "1,2", "1.0", "1e3", "١٢", "https://neurovault.org/"]
NO_IDS += ["https://neurovault.org/images/0/", f"https://neurovault.org/images/{'9' * 5000}/"]


@pytest.mark.parametrize("given", NO_IDS, ids=lambda given: given[:40])
def test_texts_that_are_no_ids_are_value_errors(given: str) -> None:
    for ids in (given, [3, given]):
        with pytest.raises(InvalidIdError, match="image_ids: "):
            parse_ids(ids, kind="image")


def test_the_largest_id_that_the_catalog_holds_is_one() -> None:
    assert parse_ids([1, LARGEST], kind="image") == (1, LARGEST)


def test_a_link_to_the_other_kind_of_page_is_refused() -> None:
    with pytest.raises(InvalidIdError, match="a link to the collection's page"):
        parse_ids(["https://neurovault.org/images/10426/"], kind="collection")
    with pytest.raises(InvalidIdError, match="a link to the image's page"):
        parse_ids(["https://neurovault.org/collections/555/"], kind="image")


@pytest.mark.parametrize(
    "given",
    [
        "ABCDEFGH",
        "https://neurovault.org/collections/ABCDEFGH/",
        "https://neurovault.org/api/collections/ABCDEFGH/images/",
        "ABCDEFGH-243",
    ],
)
def test_the_token_of_a_private_collection_is_recognised_and_refused(given: str) -> None:
    with pytest.raises(InvalidIdError, match="token of a private collection"):
        parse_ids([given], kind="collection")
