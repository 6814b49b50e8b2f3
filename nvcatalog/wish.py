"""Read what is wanted of the terms of images: which images, which terms, and what of those that are not here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from nvcatalog.errors import InvalidOptionError, shown
from nvcatalog.ids import parse_ids
from nvcatalog.where import Condition, real_number

Missing = Literal["zero", "nan", "drop"]


@dataclass(frozen=True)
class Wish:
    """What is wanted of the terms of images.

    Attributes
    ----------
    image_ids : tuple of int or None
        One a row, as often as it is named; None for all of which terms are here.
    condition : Condition or None
        Chooses the images where they are not named.
    with_private : bool
        Whether they may be of private collections.
    with_gone : bool
        Whether those that the server no longer has are asked for, whether or not they are named.
    terms : tuple of str or None
        The columns; None for all terms of the images.
    min_abs_weight : float
        Weights nearer to zero than this are left out.
    missing : {'zero', 'nan', 'drop'}
        What becomes of the rows of images without terms.
    dtype : type
        Of the weights.
    reference : str or None
        The reference set; the empty text stands for answers that name none, None for whatever is the only one.
    """

    image_ids: tuple[int, ...] | None = None
    condition: Condition | None = None
    with_private: bool = True
    with_gone: bool = False
    terms: tuple[str, ...] | None = None
    min_abs_weight: float = 0.0
    missing: Missing = "zero"
    dtype: type[np.floating[Any]] = np.float64
    reference: str | None = None

    @property
    def named(self) -> bool:
        """Whether each image is named, and not found by what is true for it."""
        return self.image_ids is not None and self.condition is None


def parse_wish(
    image_ids: Iterable[int | str] | int | str | None,
    *,
    where: str | None,
    params: Mapping[str, Any] | None,
    terms: object,
    min_abs_weight: object,
    missing: object,
    dtype: object,
    reference: object,
    private: object,
    gone: object,
) -> Wish:
    """Return what is wanted, as the keywords of :meth:`nvcatalog.Catalog.words` say it.

    Raises
    ------
    InvalidIdError, InvalidIdTypeError, InvalidOptionError
        For what cannot be (ValueErrors and a TypeError).
    """
    if image_ids is not None and where is not None:
        raise InvalidOptionError("give one of image_ids and where; got both")
    if params and where is None:
        raise InvalidOptionError("params are values for the $names of a condition; give where")
    if missing not in get_args(Missing):
        raise InvalidOptionError(f"missing is {shown(missing)}; give 'zero', 'nan' or 'drop'")
    if not isinstance(reference, str | None):
        raise InvalidOptionError(f"reference is {shown(reference)}; give the name of a reference set, or None")
    return Wish(
        image_ids=None if image_ids is None else parse_ids(image_ids, kind="image", distinct=False),
        condition=None if where is None else Condition(where, params=params or {}),
        with_private=image_ids is not None or bool(private),  # whoever names an image asks for it
        with_gone=bool(gone),
        terms=_parse_terms(terms),
        min_abs_weight=_parse_weight(min_abs_weight),
        missing=cast("Missing", missing),
        dtype=_parse_dtype(dtype),
        reference=reference,
    )


def _parse_terms(terms: object) -> tuple[str, ...] | None:
    if terms is None:
        return None
    listed = (terms,) if isinstance(terms, str) else tuple(terms) if isinstance(terms, Iterable) else (terms,)
    if wrong := [term for term in listed if not isinstance(term, str)]:
        raise InvalidOptionError(f"terms: {shown(wrong[0])} is no term; give text, such as ['pain', 'reward']")
    named = tuple(map(str, listed))  # numpy's are texts of their own kind
    if twice := [term for term, count in Counter(named).items() if count > 1]:
        raise InvalidOptionError(f"terms has {twice[0]!r} more than once; give each column once")
    return named


def _parse_weight(min_abs_weight: object) -> float:
    if min_abs_weight is None:
        return 0.0
    weight = real_number(min_abs_weight)
    if not 0 <= weight < float("inf"):
        raise InvalidOptionError(
            f"min_abs_weight is {shown(min_abs_weight)}; give a number from 0 on, such as 0.1"
        )
    return weight


def _parse_dtype(dtype: object) -> type[np.floating[Any]]:
    try:
        kind = np.dtype(dtype).type  # type: ignore[call-overload]  # whatever it is
    except TypeError:
        kind = None
    if kind not in (np.float64, np.float32):
        raise InvalidOptionError(f"dtype is {shown(dtype)}; give float64 or float32: weights are fractions")
    found: type[np.floating[Any]] = kind
    return found
