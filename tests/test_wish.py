"""What is wanted of terms is read once; what cannot be is refused with what would do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from nvcatalog.errors import InvalidIdError, InvalidIdTypeError, InvalidOptionError, NVCatalogError
from nvcatalog.wish import Wish, parse_wish


def parse(image_ids: Any = None, **options: Any) -> Wish:
    defaults: dict[str, Any] = dict.fromkeys(("where", "params", "terms", "min_abs_weight", "reference"))
    return parse_wish(
        image_ids, **defaults | {"missing": "zero", "dtype": float, "private": False, "gone": False} | options
    )


def test_nothing_said_means_all_images_and_terms_but_private_ones() -> None:
    assert parse() == Wish(with_private=False)


def test_ids_are_read_as_everywhere_and_keep_their_order_and_number() -> None:
    assert parse(["5", 3, np.int64(5), "https://neurovault.org/images/7/"]).image_ids == (5, 3, 5, 7)
    assert parse(5).image_ids == (5,)
    assert parse([]).image_ids == ()


def test_whoever_names_an_image_asks_for_it_though_it_is_private() -> None:
    assert parse([5]).with_private
    assert not parse(where="true").with_private
    assert parse(where="true", private=True).with_private


def test_a_condition_carries_its_parameters() -> None:
    condition = parse(where="n_subjects > $n", params={"n": 3}).condition

    assert condition is not None
    assert (condition.where, condition.params) == ("n_subjects > $n", {"n": 3})


@pytest.mark.parametrize(
    "terms", [["pain", "motor"], ("pain", "motor"), np.array(["pain", "motor"]), pd.Series(["pain", "motor"])]
)
def test_terms_come_in_any_container(terms: Any) -> None:
    assert parse(terms=terms).terms == ("pain", "motor")
    assert all(type(term) is str for term in parse(terms=terms).terms or ())


def test_one_term_and_none_at_all_are_told_apart() -> None:
    assert parse(terms="pain").terms == ("pain",)
    assert parse(terms=[]).terms == ()
    assert parse(terms=None).terms is None


@pytest.mark.parametrize("dtype", [float, "float64", np.float64, np.dtype("float64")])
def test_a_type_may_be_named_as_numpy_takes_it(dtype: Any) -> None:
    assert parse(dtype=dtype).dtype is np.float64
    assert parse(dtype="float32").dtype is np.float32


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_ids": [0]}, InvalidIdError, "cannot be an id"),
        ({"image_ids": [True]}, InvalidIdTypeError, "not the id of an image"),
        ({"image_ids": [1], "where": "true"}, InvalidOptionError, "one of image_ids and where"),
        ({"params": {"n": 3}}, InvalidOptionError, r"values for the \$names of a condition"),
        ({"terms": ["pain", 3]}, InvalidOptionError, "terms: 3 is no term"),
        ({"terms": 3}, InvalidOptionError, "terms: 3 is no term"),
        ({"terms": ["pain", "pain"]}, InvalidOptionError, "'pain' more than once"),
        ({"min_abs_weight": -0.1}, InvalidOptionError, "min_abs_weight is -0.1; give a number from 0 on"),
        ({"min_abs_weight": float("nan")}, InvalidOptionError, "min_abs_weight is nan"),
        ({"min_abs_weight": "0.1"}, InvalidOptionError, "min_abs_weight is '0.1'"),
        ({"missing": "omit"}, InvalidOptionError, "missing is 'omit'; give 'zero', 'nan' or 'drop'"),
        ({"missing": ["nan"]}, InvalidOptionError, "missing is"),
        ({"dtype": int}, InvalidOptionError, "dtype is <class 'int'>; give float64 or float32"),
        ({"dtype": "words"}, InvalidOptionError, "dtype is 'words'"),
        ({"dtype": "float16"}, InvalidOptionError, "dtype is 'float16'"),
        ({"reference": 3}, InvalidOptionError, "reference is 3; give the name"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[NVCatalogError], message: str) -> None:
    with pytest.raises(error, match=message):
        parse(**options)
