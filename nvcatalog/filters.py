"""Say which collections and images are wanted: terms, special values and functions, as in nilearn."""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from nvcatalog import records
from nvcatalog.errors import InvalidOptionError

#: What filters a record: called with it, gives something true for one that is wanted.
Filter = Callable[[Mapping[str, Any]], object]


# Special values


class SpecialValue(ABC):
    """A set of values, written as something that is equal to each of them.

    Derive from it to make your own; :meth:`accepts` is all that is needed.
    """

    def __eq__(self, other: object) -> bool:
        return self.accepts(other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(value) for value in self._given())})"

    def _given(self) -> Iterable[object]:
        return (value for name, value in vars(self).items() if not name.startswith("_"))

    @abstractmethod
    def accepts(self, value: object) -> bool:
        """Return whether the value is one of the set."""


class IsNull(SpecialValue):
    """Equal to whatever is nothing: None, a field that a record lacks, False, 0, an empty text or list.

    See Also
    --------
    NotNull : Equal to everything else.

    Examples
    --------
    >>> IsNull() == None, IsNull() == "", IsNull() == 0, IsNull() == "a"
    (True, True, True, False)
    """

    def accepts(self, value: object) -> bool:
        """Return whether the value is false."""
        return not value


class NotNull(SpecialValue):
    """Equal to whatever is something: not None, False, 0, an empty text or list.

    See Also
    --------
    IsNull : Equal to everything else.

    Examples
    --------
    >>> NotNull() == "a", NotNull() == 0.5, NotNull() == None, NotNull() == ""
    (True, True, False, False)
    """

    def accepts(self, value: object) -> bool:
        """Return whether the value is true."""
        return bool(value)


class NotEqual(SpecialValue):
    """Equal to everything but one value.

    Parameters
    ----------
    negated : object
        The value that is not wanted. None and fields that a record lacks differ from any other value.

    See Also
    --------
    NotIn : For several values.

    Examples
    --------
    >>> NotEqual("atlas") == "statistic_map", NotEqual("atlas") == None, NotEqual("atlas") == "atlas"
    (True, True, False)
    """

    def __init__(self, negated: object) -> None:
        self.negated_ = negated

    def accepts(self, value: object) -> bool:
        """Return whether the value differs from the one that is not wanted."""
        return not self.negated_ == value  # noqa: SIM201 - the negated value may define equality alone


class _Ordered(SpecialValue):
    """A value that is compared with a bound, both being of the bound's type."""

    compare: ClassVar[Callable[[Any, Any], Any]]

    def __init__(self, bound: Any) -> None:
        self.bound_ = bound

    def accepts(self, value: object) -> bool:
        """Return whether the value, made what the bound is, compares; one that cannot be does not."""
        try:
            return bool(type(self).compare(type(self.bound_)(value), self.bound_))
        except (TypeError, ValueError, OverflowError):
            return False


class GreaterOrEqual(_Ordered):
    """Equal to the values from a bound on upwards.

    A value is made what the bound is before they are compared: beside a bound of 20 the text "25" counts
    as 25 and 20.9 as 20, beside 20.0 they count as 25.0 and 20.9. A value that cannot be made so, such as
    None beside a number, is not equal. Beside a text everything is text, and None is "None".

    Parameters
    ----------
    bound : object
        The smallest value that is wanted; usually a number, or a date as text in ISO 8601.

    See Also
    --------
    GreaterThan, LessOrEqual, LessThan

    Examples
    --------
    >>> GreaterOrEqual(20) == 20, GreaterOrEqual(20) == "25", GreaterOrEqual(20) == None
    (True, True, False)
    """

    compare = operator.ge


class GreaterThan(_Ordered):
    """Equal to the values above a bound.

    Parameters
    ----------
    bound : object
        The value above which the wanted ones are; compared as in :class:`GreaterOrEqual`.

    See Also
    --------
    GreaterOrEqual, LessOrEqual, LessThan

    Examples
    --------
    >>> GreaterThan(20) == 21, GreaterThan(20) == 20.9, GreaterThan(20.0) == 20.9
    (True, False, True)
    >>> GreaterThan("2024-05-01") == "2024-11-23T06:02:47Z"
    True
    """

    compare = operator.gt


class LessOrEqual(_Ordered):
    """Equal to the values up to a bound.

    Parameters
    ----------
    bound : object
        The largest value that is wanted; compared as in :class:`GreaterOrEqual`.

    See Also
    --------
    GreaterOrEqual, GreaterThan, LessThan

    Examples
    --------
    >>> LessOrEqual(20) == 20, LessOrEqual(20) == 21, LessOrEqual(20) == None
    (True, False, False)
    """

    compare = operator.le


class LessThan(_Ordered):
    """Equal to the values below a bound.

    Parameters
    ----------
    bound : object
        The value below which the wanted ones are; compared as in :class:`GreaterOrEqual`.

    See Also
    --------
    GreaterOrEqual, GreaterThan, LessOrEqual

    Examples
    --------
    >>> LessThan(20) == 19, LessThan(20) == 20, LessThan(20) == "unknown"
    (True, False, False)
    """

    compare = operator.lt


class _OfSeveral(SpecialValue):
    """What is made of several values, one an argument."""

    def __init__(self, *values: object) -> None:
        self.values_ = values

    def _given(self) -> Iterable[object]:
        return self.values_


class IsIn(_OfSeveral):
    """Equal to each of some values.

    Parameters
    ----------
    *values : object
        The values that are wanted, one an argument: ``IsIn("a", "b")``, and ``IsIn(*values)`` for a list.

    See Also
    --------
    NotIn : Equal to everything else.

    Examples
    --------
    >>> wanted = IsIn("fMRI-BOLD", "PET FDG")
    >>> wanted == "PET FDG", wanted == "MEG", wanted == None
    (True, False, False)
    """

    def accepts(self, value: object) -> bool:
        """Return whether the value is one of those wanted."""
        return value in self.values_


class NotIn(_OfSeveral):
    """Equal to everything but some values.

    Parameters
    ----------
    *values : object
        The values that are not wanted, one an argument: ``NotIn("a", "b")``, and ``NotIn(*values)`` for a list.

    See Also
    --------
    IsIn : Equal to just these values.

    Examples
    --------
    >>> wanted = NotIn("anatomical", "parcellation")
    >>> wanted == "T map", wanted == None, wanted == "anatomical"
    (True, True, False)
    """

    def accepts(self, value: object) -> bool:
        """Return whether the value is none of those not wanted."""
        return value not in self.values_


class Contains(_OfSeveral):
    """Equal to the texts (and lists) that contain every one of some parts.

    Parameters
    ----------
    *values : object
        The parts, one an argument. Case counts. What can contain nothing, such as None, is not equal.

    See Also
    --------
    NotContains : Equal to those that contain none.
    Pattern : For anything finer.

    Examples
    --------
    >>> Contains("face", "house") == "face vs house", Contains("face", "house") == "face vs frown"
    (True, False)
    """

    def accepts(self, value: object) -> bool:
        """Return whether the value contains every part."""
        return isinstance(value, Container) and all(_contains(value, item) for item in self.values_)


class NotContains(_OfSeveral):
    """Equal to the texts (and lists) that contain not one of some parts.

    Parameters
    ----------
    *values : object
        The parts, one an argument. Case counts. What can contain nothing, such as None, is not equal.

    See Also
    --------
    Contains : Equal to those that contain them all.

    Examples
    --------
    >>> NotContains("test", "tmp") == "a good map", NotContains("test", "tmp") == "a test map"
    (True, False)
    >>> NotContains("test") == None
    False
    """

    def accepts(self, value: object) -> bool:
        """Return whether the value contains none of the parts."""
        return isinstance(value, Container) and not any(_contains(value, item) for item in self.values_)


class Pattern(SpecialValue):
    """Equal to the texts whose beginning matches a regular expression, as with :func:`re.match`.

    Parameters
    ----------
    pattern : str
        The expression; begin it with ``.*`` to look anywhere, end it with ``$`` to match whole texts.
    flags : int
        Flags of :mod:`re`, such as ``re.IGNORECASE``.

    Raises
    ------
    InvalidOptionError
        If the expression is none (a ValueError).

    See Also
    --------
    Contains : For parts that are plain text.

    Examples
    --------
    >>> Pattern("n-?back", re.IGNORECASE) == "N-back task", Pattern("n-?back") == "the n-back task"
    (True, False)
    """

    def __init__(self, pattern: str | re.Pattern[str], flags: int = 0) -> None:
        self.pattern_ = pattern
        self.flags_ = flags
        try:
            self._compiled = re.compile(pattern, flags)
        except (re.error, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidOptionError(f"{pattern!r} is no regular expression that can be used: {error}") from error
        if not isinstance(self._compiled.pattern, str):
            raise InvalidOptionError(f"{pattern!r} is for bytes; give a regular expression as text")

    def accepts(self, value: object) -> bool:
        """Return whether the value is a text that begins as the expression says."""
        return isinstance(value, str) and self._compiled.match(value) is not None


def _contains(container: Container[object], item: object) -> bool:
    """Say whether the item is inside; what cannot be, such as 5 inside a text, is not."""
    try:
        return item in container
    except TypeError:
        return False


# Filters


def keep_all(record: Mapping[str, Any]) -> bool:
    """Keep every record: the filter where none is given."""
    return True


class ResultFilter:
    """A filter made of terms and functions, to combine with others.

    Parameters
    ----------
    query_terms : mapping or None
        Field -> the value that a record must have there, or a special value. A field that a record lacks
        counts as None.
    callable_filter : callable
        Called with a record that meets the terms; gives something true for one that is wanted.
    **kwargs
        More terms, by field.

    Attributes
    ----------
    query_terms_ : dict
        The terms; ``result_filter[field]`` reads, sets and deletes one.
    callable_filters_ : list of callable
        The functions, all of which must agree; :meth:`add_filter` adds one.

    Raises
    ------
    InvalidOptionError
        If a term is a special value's class instead of the value, or the filter cannot be called.

    Examples
    --------
    >>> wanted = ResultFilter(modality="fMRI-BOLD").AND(
    ...     ResultFilter(map_type="T map").OR(lambda image: image.get("number_of_subjects") == 20)
    ... )
    >>> wanted({"modality": "fMRI-BOLD", "map_type": "Z map", "number_of_subjects": 20})
    True
    >>> wanted({"modality": "fMRI-BOLD", "map_type": "Z map"})
    False
    """

    def __init__(
        self,
        query_terms: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        callable_filter: Filter = keep_all,
        **kwargs: Any,
    ) -> None:
        self.query_terms_: dict[str, Any] = {}
        self.callable_filters_: list[Filter] = []
        for name, value in dict(query_terms or (), **kwargs).items():
            self[name] = value
        self.add_filter(callable_filter)

    def __call__(self, candidate: Mapping[str, Any]) -> bool:
        """Return whether the record meets every term and pleases every function.

        Parameters
        ----------
        candidate : mapping
            The record of a collection or an image.
        """
        if any(value != candidate.get(name) for name, value in self.query_terms_.items()):
            return False
        return all(accepts(candidate) for accepts in self.callable_filters_)

    def AND(self, other_filter: Filter) -> ResultFilter:  # noqa: N802 - nilearn's name
        """Return a filter that keeps what both keep, as they are now.

        Examples
        --------
        >>> wanted = ResultFilter(not_mni=False).AND(ResultFilter(is_thresholded=False))
        >>> wanted({"not_mni": False, "is_thresholded": True})
        False
        """
        return ResultFilter(callable_filter=partial(_both, _as_it_is_now(self), _as_it_is_now(other_filter)))

    def OR(self, other_filter: Filter) -> ResultFilter:  # noqa: N802 - nilearn's name
        """Return a filter that keeps what at least one of the two keeps, as they are now.

        Examples
        --------
        >>> wanted = ResultFilter(map_type="T map").OR(ResultFilter(map_type="Z map"))
        >>> wanted({"map_type": "Z map"})
        True
        """
        return ResultFilter(callable_filter=partial(_either, _as_it_is_now(self), _as_it_is_now(other_filter)))

    def XOR(self, other_filter: Filter) -> ResultFilter:  # noqa: N802 - nilearn's name
        """Return a filter that keeps what exactly one of the two keeps, as they are now.

        Examples
        --------
        >>> wanted = ResultFilter(name="a").XOR(ResultFilter(modality="MEG"))
        >>> wanted({"name": "a", "modality": "MEG"}), wanted({"name": "a", "modality": "Other"})
        (False, True)
        """
        return ResultFilter(callable_filter=partial(_just_one, _as_it_is_now(self), _as_it_is_now(other_filter)))

    def NOT(self) -> ResultFilter:  # noqa: N802 - nilearn's name
        """Return a filter that keeps what this one, as it is now, does not.

        Examples
        --------
        >>> ResultFilter(modality="MEG").NOT()({"modality": None})
        True
        """
        return ResultFilter(callable_filter=partial(_neither, _as_it_is_now(self)))

    def add_filter(self, callable_filter: Filter) -> None:
        """Demand that this function, too, gives something true for a record.

        Examples
        --------
        >>> wanted = ResultFilter(modality="MEG")
        >>> wanted.add_filter(lambda image: "face" in image["name"])
        >>> wanted({"modality": "MEG", "name": "face > house"})
        True
        """
        if not callable(callable_filter):
            raise InvalidOptionError(
                f"{callable_filter!r} is no filter; give a function that is called with a record"
            )
        self.callable_filters_.append(callable_filter)

    def __getitem__(self, item: str) -> Any:
        return self.query_terms_[item]

    def __setitem__(self, item: str, value: Any) -> None:
        # Unlike anything in a record, so that the filter would block every one, and nobody would know why.
        if isinstance(value, type) and issubclass(value, SpecialValue):
            raise InvalidOptionError(
                f"{item} is to be {value.__name__}, the class; give a value: {value.__name__}(…)"
            )
        self.query_terms_[item] = value

    def __delitem__(self, item: str) -> None:
        self.query_terms_.pop(item, None)

    def __repr__(self) -> str:
        parts = [repr(self.query_terms_)] if self.query_terms_ else []
        parts += [repr(accepts) for accepts in self.callable_filters_ if accepts is not keep_all]
        return f"{type(self).__name__}({', '.join(parts)})"


def _as_it_is_now(other: Filter) -> Filter:
    """Copy what can be changed later: a combination keeps the meaning it was made with."""
    if not isinstance(other, ResultFilter):
        return other
    copy = ResultFilter(other.query_terms_)
    copy.callable_filters_ = list(other.callable_filters_)
    return copy


# Functions and not lambdas: filters can be pickled, for those who work in several processes.


def _both(one: Filter, other: Filter, record: Mapping[str, Any]) -> bool:
    return bool(one(record)) and bool(other(record))


def _either(one: Filter, other: Filter, record: Mapping[str, Any]) -> bool:
    return bool(one(record)) or bool(other(record))


def _just_one(one: Filter, other: Filter, record: Mapping[str, Any]) -> bool:
    return bool(one(record)) != bool(other(record))


def _neither(one: Filter, record: Mapping[str, Any]) -> bool:
    return not one(record)


def basic_collection_terms() -> dict[str, Any]:
    """Return the terms that leave out empty collections: the default for collections.

    Examples
    --------
    >>> basic_collection_terms()
    {'number_of_images': NotNull()}
    """
    return {"number_of_images": NotNull()}


def basic_image_terms() -> dict[str, Any]:
    """Return the terms that keep unthresholded maps in MNI space that are no atlas: the default for images.

    Examples
    --------
    >>> terms = basic_image_terms() | {"modality": "fMRI-BOLD"}
    >>> ResultFilter(terms)({"not_mni": False, "is_thresholded": False, "modality": "fMRI-BOLD"})
    True
    """
    return {
        "not_mni": False,
        "is_thresholded": False,
        "map_type": NotIn("ROI/mask", "anatomical", "parcellation"),
        "image_type": NotEqual("atlas"),
    }


def keeps(result_filter: Filter, record: Mapping[str, Any]) -> bool:
    """Return whether a filter keeps a record as the server gave it.

    The filter sees None where a value only says that there is none, such as "None / Other". What a
    function of the caller's raises goes through.

    Parameters
    ----------
    result_filter : callable
        A :class:`ResultFilter`, or any function of a record.
    record : mapping
        The record of a collection or an image.

    Examples
    --------
    >>> keeps(ResultFilter(modality=IsNull()), {"modality": "None / Other"})
    True
    """
    return bool(result_filter(records.null_placeholders(record)))
