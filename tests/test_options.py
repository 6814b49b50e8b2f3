"""Options are read once, in every form that means something, and refused by name where they mean nothing."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nvcatalog import Catalog, fetch_collection, fetch_frozen, fetch_where
from nvcatalog.errors import InvalidModeError, InvalidOptionError, InvalidOptionTypeError, NVCatalogError
from nvcatalog.options import Options, is_offline_here, parse_max_age, parse_options
from nvcatalog.where import parse_max_images


def parse(**options: Any) -> Options:
    defaults: dict[str, Any] = {
        "mode": "download_new", "fetch_neurosynth_words": False, "vectorize_words": True, "sparse_words": False,
        "verbose": 3, "timeout": 10.0, "max_workers": None,
    }  # fmt: skip
    return parse_options(**defaults | options)


# max_images


@given(st.none() | st.integers() | st.floats() | st.fractions() | st.decimals() | st.text() | st.booleans())
@example(10**400)
@example(-(10**400))
def test_whatever_max_images_is_it_is_a_limit_or_none_or_refused(value: Any) -> None:
    try:
        limit = parse_max_images(value)
    except NVCatalogError:
        return
    assert limit is None or (type(limit) is int and limit == float(value) >= 0)


# max_age


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (0, timedelta(0)),
        (7, timedelta(days=7)),
        (0.5, timedelta(hours=12)),
        (np.float64(1.5), timedelta(hours=36)),
        (np.int64(2), timedelta(days=2)),
        (timedelta(hours=3), timedelta(hours=3)),
        (timedelta(0), timedelta(0)),
    ],
)
def test_an_age_is_a_timedelta_or_a_number_of_days(value: Any, expected: timedelta | None) -> None:
    assert parse_max_age(value) == expected


@pytest.mark.parametrize(
    "value",
    [-1, -0.1, timedelta(seconds=-1), math.nan, math.inf, 10**10, 10**400, True, "7", [7], Decimal(7)],
)
def test_what_is_no_age_is_named(value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"max_age is .*; give a timedelta, or a number of days"):
        parse_max_age(value)


@given(st.none() | st.floats() | st.integers() | st.fractions() | st.timedeltas() | st.text())
def test_whatever_an_age_is_it_can_be_gone_back_or_is_refused(value: Any) -> None:
    try:
        age = parse_max_age(value)
    except NVCatalogError:
        return
    assert age is None or age >= timedelta(0)


# The others


def test_the_defaults_are_nilearns() -> None:
    assert parse() == Options(
        mode="download_new", asked_mode="download_new", words=False, vectorize_words=True, sparse_words=False,
        verbose=3, timeout_s=10.0, max_workers=None, dry_run=False, kind="original", interpolation=None,
        max_age=None, extras=False,
    )  # fmt: skip


@pytest.mark.parametrize("value", ["1", "true", "YES", " on "])
def test_a_variable_makes_a_call_offline_and_what_was_asked_for_is_remembered(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("NVCATALOG_OFFLINE", value)
    options = parse(mode="Overwrite")
    assert (options.mode, options.asked_mode) == ("offline", "overwrite")
    assert is_offline_here()
    monkeypatch.setenv("NVCATALOG_OFFLINE", "maybe")
    with pytest.raises(InvalidOptionError, match="NVCATALOG_OFFLINE is 'maybe'; give 1"):
        parse()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"verbose": "loud"}, "verbose is 'loud'; give a number from 0"),
        ({"verbose": 1.5}, "verbose is 1.5"),
        ({"timeout": 0}, "timeout is 0; give seconds above 0"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": math.nan}, "timeout is nan"),
        ({"timeout": math.inf}, "timeout is inf"),
        ({"timeout": True}, "timeout is True"),
        ({"timeout": None}, "timeout is None"),
        ({"timeout": 10**400}, "timeout is 1000"),
        ({"timeout": 1e12}, "timeout is 1000"),
        ({"max_workers": 0}, "max_workers is 0; give a number of connections from 1 to 32"),
        ({"max_workers": 2.0}, r"max_workers is 2\.0"),
        ({"max_workers": True}, "max_workers is True"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOptionError, match=said):
        parse(**options)


FLAGS: dict[str, tuple[list[Any], str]] = {
    "export": (["out.csv", "images"], "overwrite private gone"),
    "freeze": (["a.json"], "resample private gone overwrite"),
    "to_nimads": ([], "resample without_files private gone"),
    "to_nimare": ([], "resample private gone"),
    "cite": ([], "private gone"),
    "words": ([], "private gone"),
    "add_words": ([[]], "replace"),
    "snapshot": ([], "whole"),
    "verify": ([], "deep"),
    "repair": ([], "offline deep"),
    "rebuild": ([], "force"),
    "prune": (["true"], "dry_run"),
    "fetch_frozen": (["a.json"], "strict"),
    "fetch_where": (["true"], "fetch_neurosynth_words vectorize_words sparse_words resample dry_run extras"),
    "fetch_collection": ([], "fetch_neurosynth_words vectorize_words sparse_words resample dry_run extras"),
}


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["no", 1])
def test_a_flag_that_is_no_bool_is_named_before_anything_is_done(tmp_path: Path, name: str, value: Any) -> None:
    given, flags = FLAGS[name]
    catalog = Catalog(tmp_path)
    functions: dict[str, Any] = {each.__name__: each for each in (fetch_collection, fetch_frozen, fetch_where)}
    needed = {"fetch_collection": {"doi": "10.1/x"}, "add_words": {"reference": "mine"}}
    for flag in flags.split():
        with pytest.raises(InvalidOptionTypeError, match=f"^{flag} is {value!r}, a .*; give True or False"):
            (functions.get(name) or getattr(catalog, name))(*given, **{flag: value}, **needed.get(name, {}))
    assert list(tmp_path.iterdir()) == []


def test_a_mode_that_is_none_is_refused_in_nilearns_words() -> None:
    with pytest.raises(InvalidModeError, match="'mode' must be one of"):
        parse(mode=None)


def test_numbers_of_numpy_will_do() -> None:
    options = parse(verbose=np.int64(2), timeout=np.float32(2.5), max_workers=np.int8(3), dry_run=np.bool_(1))
    assert (options.verbose, options.timeout_s, options.max_workers, options.dry_run) == (2, 2.5, 3, True)
