"""Read the values of a query's parameters by the kind that its file declares: counts, dates, ids, choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from typing import Any, Literal

from nvcatalog.ids import parse_ids


def read(kind: str, value: Any) -> Any:
    """Return a value of a kind as DuckDB takes it; text stands for what it says, as on a command line.

    Parameters
    ----------
    kind : str
        ``integer``, ``count``, ``number``, ``text``, ``boolean``, ``date``, ``image id``, ``collection id``; for
        several of them ``integers``, ``image ids``; ``one of a, b`` or, for several, ``any of a, b``; empty for
        anything.
    value : object
        What was given; not None.

    Raises
    ------
    ValueError, TypeError, OverflowError
        When it is of no such kind.

    Examples
    --------
    >>> read("count", "20"), read("collection ids", "555, 658"), read("any of t, z", "T")
    (20, [555, 658], ['t'])
    >>> read("date", "2025-09-01")
    '2025-09-01T00:00:00+00:00'
    """
    if not kind:
        return value
    if kind.startswith("one of "):
        return _choice(value, _choices(kind))
    if kind.startswith("any of "):
        return [_choice(each, _choices(kind)) for each in _several(value)]
    if kind in _READERS:
        return _READERS[kind](value)
    return [_READERS[kind.removesuffix("s")](each) for each in _several(value)]


def first_wrong(kind: str, value: Any) -> Any:
    """Return the first of several values that is not one of a kind; of what is no list of several, all of it.

    Examples
    --------
    >>> first_wrong("image ids", [1, "x", 3]), first_wrong("count", -1)
    ('x', -1)
    """
    if isinstance(value, list) and len(value) > 1:
        for each in value:
            try:
                read(kind, [each])
            except (ValueError, TypeError, OverflowError):
                return each
    return value


def is_known(kind: str) -> bool:
    """Return whether there is such a kind."""
    return not kind or kind.startswith(("one of ", "any of ")) or kind.removesuffix("s") in _READERS


def describe(kind: str) -> str:
    """Return what a value of a kind is, for a message.

    Examples
    --------
    >>> describe("count"), describe("image ids"), describe("one of task, contrast")
    ('an integer from 0 that fits 64 bits', 'a list of ids of images, such as 10426', 'one of task, contrast')
    """
    if kind in _DESCRIBED:
        return _DESCRIBED[kind]
    if kind.startswith("any of "):
        return f"a list of {kind.removeprefix('any of ')}"
    if kind.removesuffix("s") in _SEVERAL:
        return f"a list of {_SEVERAL[kind.removesuffix('s')]}"
    return kind or "any value"


def says_null(kind: str, value: Any) -> bool:
    """Return whether a value stands for none at all: None, and the text NULL where no text is wanted."""
    is_word = isinstance(value, str) and value.strip().upper() == "NULL"
    return value is None or (is_word and kind not in ("", "text", "texts"))


# The kinds


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = int(value)
    if (isinstance(value, float) and number != value) or not -(2**63) <= number < 2**63:
        raise ValueError
    return number


def _count(value: Any) -> int:
    number = _integer(value)
    if number < 0:
        raise ValueError
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if math.isnan(number):
        raise ValueError
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # DuckDB takes no half of a character
    return value


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.strip().lower() not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[value.strip().lower()]


def _date(value: Any) -> str:
    """Return a moment as text: DuckDB reads a time with a zone only with the help of another library."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise TypeError
    if math.isnan(value.year):  # pandas.NaT, which calls itself a datetime
        raise ValueError
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()


def _id(kind: Literal["image", "collection"]) -> Callable[[Any], int]:
    def read_id(value: Any) -> int:
        (number,) = parse_ids([value], kind=kind)
        return number

    return read_id


def _several(value: Any) -> list[Any]:
    """Return a list of what was given as one, alone, or as text: ``555,658``."""
    if isinstance(value, str):
        return [part.strip() for part in value.strip(" []").split(",") if part.strip()]
    return value if isinstance(value, list) else [value]


def _choices(kind: str) -> list[str]:
    return [choice.strip() for choice in kind[len("one of ") :].split(",")]


def _choice(value: Any, choices: list[str]) -> str:
    lower = _text(value).strip().strip("'\"").lower()
    return choices[[choice.lower() for choice in choices].index(lower)]


_READERS: dict[str, Callable[[Any], Any]] = {
    "integer": _integer,
    "count": _count,
    "number": _number,
    "text": _text,
    "boolean": _boolean,
    "date": _date,
    "image id": _id("image"),
    "collection id": _id("collection"),
}
_DESCRIBED = {
    "integer": "an integer that fits 64 bits, such as 20",
    "count": "an integer from 0 that fits 64 bits",
    "number": "a number, such as 0.5",
    "text": "text of whole characters",
    "boolean": "true or false",
    "date": "a date, such as 2025-09-01",
    "image id": "the id of an image, such as 10426",
    "collection id": "the id of a collection, such as 555",
}
_SEVERAL = {
    "integer": "integers",
    "count": "integers from 0",
    "number": "numbers",
    "text": "texts",
    "boolean": "true and false",
    "date": "dates, such as 2025-09-01",
    "image id": "ids of images, such as 10426",
    "collection id": "ids of collections, such as 555",
}
#: All kinds, for a message.
ALL = f"{', '.join(_READERS)}, several of these as in 'image ids', 'one of a, b' or 'any of a, b'"
