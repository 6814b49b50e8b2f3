"""How a call goes, whatever it asks for: the options that all fetchers share, checked and read once."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from numbers import Integral
from typing import Any, cast

import numpy as np

from nvcatalog.errors import InvalidOptionError, InvalidOptionTypeError, QueryError, shown
from nvcatalog.known import MapKind
from nvcatalog.plan import Mode, Request, parse_mode
from nvcatalog.queries import Params, all_params, parameter_names
from nvcatalog.resample import parse_interpolation
from nvcatalog.where import real_number

#: No server that still answers lets one wait longer, and the system's own clocks end somewhere.
LONGEST_TIMEOUT_S = 24 * 3600
#: A browser opens six connections; a server of one's own may bear more, and none is helped by hundreds.
MOST_WORKERS = 32

# How like an option's name a keyword is that was meant for it: more than "modality" is like "mode".
_LIKE = 0.7

_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Options:
    """How a call goes.

    Attributes
    ----------
    mode, asked_mode : {'download_new', 'overwrite', 'offline'}
        When the servers are asked; and what the caller said of it, which ``NVCATALOG_OFFLINE`` overrules.
    words, vectorize_words, sparse_words : bool
        Whether terms are fetched, added as a matrix, and left sparse in it.
    verbose : int
        0 is quiet, 1 gives a summary, 2 progress bars too, 3 also logs requests.
    timeout_s : float
        How long to wait for a connection, and for the next byte.
    max_workers : int or None
        Parallel downloads; None is the polite default.
    dry_run : bool
        Whether only the plan is wanted.
    kind, interpolation, max_age, extras
        What is asked for of each image, as in :class:`~nvcatalog.plan.Request`.
    """

    mode: Mode
    asked_mode: Mode
    words: bool
    vectorize_words: bool
    sparse_words: bool
    verbose: int
    timeout_s: float
    max_workers: int | None
    dry_run: bool
    kind: MapKind
    interpolation: str | None
    max_age: timedelta | None
    extras: bool

    def request(self, collection_ids: tuple[int, ...] = (), image_ids: tuple[int, ...] = ()) -> Request:
        """Return a request for these collections and images."""
        return Request(
            collection_ids,
            image_ids,
            self.mode,
            self.words,
            kind=self.kind,
            interpolation=self.interpolation,
            max_age=self.max_age,
            extras=self.extras,
        )


def parse_options(
    *,
    mode: object,
    fetch_neurosynth_words: object,
    vectorize_words: object,
    sparse_words: object,
    verbose: object,
    timeout: object,
    max_workers: object,
    dry_run: object = False,
    resample: object = False,
    interpolation: object = None,
    max_age: object = None,
    extras: object = False,
) -> Options:
    """Return the options of a call, as its keywords name them.

    Raises
    ------
    InvalidModeError, InvalidOptionError
        For a mode or a value that cannot be (ValueErrors).
    """
    asked_mode = parse_mode(mode)
    # nilearn's own take anything that is true or false, as they do there.
    check_flags(sparse_words=sparse_words, dry_run=dry_run, extras=extras)
    return Options(
        mode="offline" if is_offline_here() else asked_mode,
        asked_mode=asked_mode,
        words=bool(fetch_neurosynth_words),
        vectorize_words=bool(vectorize_words),
        sparse_words=bool(sparse_words),
        verbose=parse_verbosity(verbose),
        timeout_s=parse_timeout(timeout),
        max_workers=_workers(max_workers),
        dry_run=bool(dry_run),
        kind="resampled" if resample else "original",
        interpolation=parse_interpolation(interpolation),
        max_age=parse_max_age(max_age),
        extras=bool(extras),
    )


def check_flags(**flags: object) -> None:
    """Raise unless each flag is a bool, of Python or numpy: the text ``"no"`` would count as yes.

    Raises
    ------
    InvalidOptionTypeError
        For the first that is something else.

    Examples
    --------
    >>> check_flags(private="no")
    Traceback (most recent call last):
    nvcatalog.errors.InvalidOptionTypeError: private is 'no', a str; give True or False
    """
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise InvalidOptionTypeError(f"{name} is {shown(value)}, a {type(value).__name__}; give True or False")


def parse_max_age(max_age: object, *, name: str = "max_age") -> timedelta | None:
    """Return how old something may be, such as what is known of a collection: a ``timedelta``, or days.

    Raises
    ------
    InvalidOptionError
        When it is neither, or negative.
    """
    if max_age is None:
        return None
    if isinstance(max_age, timedelta) and max_age >= timedelta(0):
        return max_age
    days = real_number(max_age)
    if 0 <= days < timedelta.max.days:
        return timedelta(days=days)
    raise InvalidOptionError(
        f"{name} is {shown(max_age)}; give a timedelta, or a number of days from 0 on, or None"
    )


def option_meant(keyword: str, options: Iterable[str]) -> str | None:
    """Return the option that an unknown keyword was most likely to be, None where it is like none of them.

    Examples
    --------
    >>> option_meant("oder_by", ["order_by", "mode"]), option_meant("modality", ["order_by", "mode"])
    ('order_by', None)
    """
    near = difflib.get_close_matches(keyword.lower(), list(options), n=1, cutoff=_LIKE)
    return near[0] if near else None


def named_values(
    method: Callable[..., Any], where: str | None, params: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return the values for each ``$name`` of a condition, be they in `params` or keywords of a method.

    Raises
    ------
    InvalidOptionTypeError
        When a keyword is no ``$name``: an option misspelt, or a value without a condition.
    QueryError
        When a ``$name`` is an option's name too, and not in `params`; and as
        :func:`nvcatalog.queries.all_params` raises it.
    """
    names = parameter_names(str(where))
    options = {*inspect.signature(method).parameters} - {"kwargs"}
    values = all_params(params, keywords) if params or keywords else params
    check_given(options.intersection(names), params, method.__name__)
    for keyword in keywords:
        if keyword.lower() in names:
            continue
        meant = option_meant(keyword, options)
        if meant or where is None:
            advice = f"did you mean {meant}?" if meant else f"if it is the value of a ${keyword}, give where too"
            raise InvalidOptionTypeError(f"{method.__name__} has no option {keyword}; {advice}")
    return cast("Mapping[str, Any] | None", values)


def check_given(names: Iterable[str], params: Params, function: str) -> None:
    """Raise unless `params` has a value for each ``$name`` that is an option's name too."""
    given = {name.lower() for name in params or () if isinstance(name, str)}
    if missing := sorted({*names} - given):
        raise QueryError(as_option_too(missing[0], function))


def as_option_too(name: str, function: str) -> str:
    """Say that a ``$name`` of a condition is an option of a function too, by which its value cannot be given."""
    return (
        f"${name} is a parameter of the condition and {name} an option of {function}; name the parameter "
        f"otherwise, or give it in params={{{name!r}: …}}"
    )


def is_offline_here() -> bool:
    """Whether ``NVCATALOG_OFFLINE`` keeps every call from the network.

    Raises
    ------
    InvalidOptionError
        When it says neither yes nor no: a word of which nobody knows what it means must not open a socket.
    """
    text = os.environ.get("NVCATALOG_OFFLINE", "").strip().lower()
    if text not in (*_YES, *_NO):
        raise InvalidOptionError(f"NVCATALOG_OFFLINE is {text!r}; give 1 for no network, or 0")
    return text in _YES


def parse_verbosity(verbose: object) -> int:
    """Return how much is said.

    Raises
    ------
    InvalidOptionError
        When that is no number.
    """
    if not isinstance(verbose, Integral):
        raise InvalidOptionError(f"verbose is {shown(verbose)}; give a number from 0 (quiet) to 3")
    return int(verbose)


def parse_timeout(timeout: object) -> float:
    """Return how many seconds to wait for a server.

    Raises
    ------
    InvalidOptionError
        When that is no number above 0, or more than a day.
    """
    seconds = real_number(timeout)
    if 0 < seconds <= LONGEST_TIMEOUT_S:
        return seconds
    raise InvalidOptionError(
        f"timeout is {shown(timeout)}; give seconds above 0 and up to {LONGEST_TIMEOUT_S}, such as 10"
    )


def _workers(max_workers: object) -> int | None:
    if max_workers is None:
        return None
    number = real_number(max_workers) if isinstance(max_workers, Integral) else 0.0
    if 1 <= number <= MOST_WORKERS:
        return int(number)
    raise InvalidOptionError(
        f"max_workers is {shown(max_workers)}; give a number of connections from 1 to {MOST_WORKERS}, or None"
    )
