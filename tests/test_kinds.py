"""A parameter's value is read by the kind that its query declares, and refused where it is of no such kind."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvcatalog._kinds import describe, is_known, read, says_null

SINGLE = ("integer", "count", "number", "text", "boolean", "date", "image id", "collection id")


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("integer", "-3", -3),
        ("integer", 4.0, 4),
        ("count", " 20 ", 20),
        ("count", 0, 0),
        ("number", "0.5", 0.5),
        ("number", "-1e-3", -0.001),
        ("number", 3, 3.0),
        ("text", "001", "001"),
        ("text", "true", "true"),
        ("text", "", ""),
        ("boolean", "true", True),
        ("boolean", "No", False),
        ("boolean", True, True),
        ("date", "2025-09-01", "2025-09-01T00:00:00+00:00"),
        ("date", "2025-09-01 12:30", "2025-09-01T12:30:00+00:00"),
        ("date", date(2025, 9, 1), "2025-09-01T00:00:00+00:00"),
        ("date", datetime(2025, 9, 1, tzinfo=timezone(timedelta(hours=2))), "2025-09-01T00:00:00+02:00"),
        ("image id", "https://neurovault.org/images/10426/", 10426),
        ("collection id", "555", 555),
        ("collection ids", "555,658", [555, 658]),
        ("collection ids", "[555, 658]", [555, 658]),
        ("collection ids", 555, [555]),
        ("image ids", [1, "2"], [1, 2]),
        ("image ids", [], []),
        ("texts", "a, b", ["a", "b"]),
        ("numbers", ["1", 2.5], [1.0, 2.5]),
        ("one of t, z", "T", "t"),
        ("one of task, contrast", " contrast ", "contrast"),
        ("any of t, z, f", "t,z", ["t", "z"]),
        ("any of t, z, f", ["f"], ["f"]),
        ("any of t, z, f", "['t', 'z']", ["t", "z"]),
        ("", "anything", "anything"),
        ("", [1, 2], [1, 2]),
    ],
)
def test_a_value_is_read_as_its_kind(kind: str, value: Any, wanted: Any) -> None:
    found = read(kind, value)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((kind, object()) for kind in SINGLE),
        ("integer", "1.5"),
        ("integer", 1.5),
        ("integer", True),
        ("integer", math.inf),
        ("count", -1),
        ("count", "many"),
        ("integer", 2**63),
        ("count", 2**64),
        ("number", "a"),
        ("number", math.nan),
        ("number", False),
        ("text", 1),
        ("text", 1.5),
        ("text", "half a character: \ud800"),
        ("boolean", "perhaps"),
        ("boolean", 1),
        ("date", "yesterday"),
        ("date", 20250901),
        ("date", pd.NaT),
        ("image id", 0),
        ("image id", "https://neurovault.org/collections/555/"),
        ("collection ids", "555,many"),
        ("collection ids", [[555]]),
        ("one of t, z", "f"),
        ("one of t, z", 1),
        ("any of t, z", "t,f"),
    ],
)
def test_what_is_of_another_kind_is_refused(kind: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        read(kind, value)


@given(st.integers(-(2**40), 2**40))
def test_an_integer_as_text_is_the_same_integer(number: int) -> None:
    assert read("integer", str(number)) == read("integer", number) == number


@given(st.floats(allow_nan=False))
def test_a_number_as_text_is_the_same_number(number: float) -> None:
    assert read("number", repr(number)) == read("number", number) == number


@given(st.text())
def test_text_stays_as_it_is(text: str) -> None:
    assert read("text", text) == text


@given(st.lists(st.integers(1, 2**31 - 1), min_size=1))
def test_ids_as_text_are_the_same_ids(ids: list[int]) -> None:
    assert read("image ids", ",".join(map(str, ids))) == read("image ids", ids) == ids


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_moment_is_the_same_moment_as_text(moment: datetime) -> None:
    assert read("date", moment) == read("date", moment.isoformat())


def test_the_text_null_is_none_where_no_text_is_wanted() -> None:
    assert says_null("count", "null")
    assert says_null("one of t, z", " NULL ")
    assert says_null("text", None)
    assert not says_null("text", "NULL")
    assert not says_null("count", "0")


def test_every_kind_is_known_and_says_what_it_wants() -> None:
    several = ("integers", "image ids", "collection ids", "numbers", "texts", "one of a, b", "any of a, b")
    for kind in (*SINGLE, *several):
        assert is_known(kind), kind
        assert describe(kind), kind
    assert not is_known("colour")
    assert describe("image ids") == "a list of ids of images, such as 10426"
    assert describe("any of t, z") == "a list of t, z"
