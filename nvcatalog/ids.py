"""Read the ids people type: integers, digit strings, links from the browser, tokens of private collections."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nvcatalog.errors import InvalidIdError, InvalidIdTypeError, shown

Kind = Literal["collection", "image"]

# A link to another server's page is fine: which server is asked is the catalog's business.
_LINKS = {
    kind: re.compile(
        rf"(?:https?://)?[^/\s]+/(?:api/)?{kind}s/([0-9]{{1,20}})/?(?:[?#].*)?"
        rf"|(?:(?:https?://)?identifiers\.org/)?neurovault\.{kind}:([0-9]{{1,20}})"
    )
    for kind in ("collection", "image")
}
_TOKENS = {
    "collection": re.compile(r"(?:.*/collections/)?([A-Z]{8})(?:/.*)?()"),
    "image": re.compile(r"(?:.*/collections/)?([A-Z]{8})(?:-|/images/)([0-9]{1,10})/?(?:[?#].*)?"),
}
#: The largest id that a column of the catalog holds.
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Token:
    """What opens a private collection, and the image wanted of it, if it is one.

    Attributes
    ----------
    text : str
        Eight capital letters; in no representation of this.
    image_id : int or None
        The image.
    """

    text: str
    image_id: int | None = None

    def __repr__(self) -> str:
        """Keep the secret."""
        return "{token}" if self.image_id is None else f"{{token}}-{self.image_id}"


def parse_ids_and_tokens(ids: object, *, kind: Kind) -> tuple[int | Token, ...]:
    """Return what was given for ``collection_ids`` or ``image_ids`` as :func:`parse_ids` does, tokens included.

    A private collection is named by its token or its link, an image of it as ``ABCDEFGH-243`` or by its link.

    Raises
    ------
    InvalidIdTypeError, InvalidIdError
        As :func:`parse_ids` does.
    """
    return tuple(dict.fromkeys(_as_token(value, kind) or _parse_id(value, kind) for value in _each(ids, kind)))


def parse_ids(ids: object, *, kind: Kind, distinct: bool = True) -> tuple[int, ...]:
    """Return what was given for ``collection_ids`` or ``image_ids`` as integers in their order.

    Parameters
    ----------
    ids : iterable of int or str, int, str or None
        Integers (numpy's too), digit strings or links; a single one stands for itself, None for no ids.
    kind : {'collection', 'image'}
        What the ids name, for links and messages.
    distinct : bool
        Whether an id that is given again is left out.

    Returns
    -------
    tuple of int
        Positive, in the order given.

    Raises
    ------
    InvalidIdTypeError
        For something that cannot be an id: a bool, a float, None inside a container.
    InvalidIdError
        For a number or text that is none: zero, a negative, a word, a private collection's token.
    """
    parsed = [_parse_id(value, kind) for value in _each(ids, kind)]
    return tuple(dict.fromkeys(parsed) if distinct else parsed)


def _each(ids: object, kind: Kind) -> Iterable[object]:
    if ids is None:
        return ()
    if isinstance(ids, np.ndarray) and ids.ndim == 0:
        ids = ids[()]  # an array that holds one id has no length to iterate over
    if isinstance(ids, (str, bytes, int, float, np.generic)):
        return (ids,)
    if not isinstance(ids, Iterable):
        raise InvalidIdTypeError(
            f"{kind}_ids: {shown(ids)} is no id and no container of ids; give a list of integers"
        )
    return ids


def _as_token(value: object, kind: Kind) -> Token | None:
    found = _TOKENS[kind].fullmatch(value.strip()) if isinstance(value, str) else None
    return Token(found[1], int(found[2]) if found[2] else None) if found else None


def _parse_id(value: object, kind: Kind) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer, str)):
        raise InvalidIdTypeError(
            f"{kind}_ids: {shown(value)} is a {type(value).__name__}, not the id of a{'n' * (kind == 'image')} "
            f"{kind}; give integers, such as 555"
        )
    number = _from_text(value.strip(), kind) if isinstance(value, str) else int(value)
    if not 0 < number <= LARGEST:
        raise InvalidIdError(f"{kind}_ids: {shown(value)} cannot be an id; give a number from 1 to {LARGEST}")
    return number


def _from_text(text: str, kind: Kind) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        return int(text)
    match = _LINKS[kind].fullmatch(text)
    if match:
        return int(next(group for group in match.groups() if group))
    if any(pattern.fullmatch(text) for pattern in _TOKENS.values()):
        asked = "an image's id behind it, as in ABCDEFGH-243" if kind == "image" else "the collection's number"
        raise InvalidIdError(f"{kind}_ids: the token of a private collection does not fit here; give {asked}")
    raise InvalidIdError(
        f"{kind}_ids: {shown(text)} is no id; give integers, such as 555, or a link to the {kind}'s page"
    )
