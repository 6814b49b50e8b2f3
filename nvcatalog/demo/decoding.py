"""Decode values as Neurosynth would give them, made up by a rule but for the real ones of one image.

The size of a correlation follows a Weibull distribution whose median is 0.10 and whose 99th percentile is
0.30, half of them are negative, and all depends on the image's id and the term alone. A term that occurs in
what the image says about itself is made positive and raised by 0.2, so that asking for "reward" finds the
maps about reward.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

REFERENCE = "terms_20k"
# Image 308 has real values for its twenty strongest terms. The motor map 10426 borrows them: made up for it.
_TOP_20_IDS = {308, 10426}
_SHAPE, _SCALE = 0.580, 0.1237
_TERM_IN_TEXT_BONUS = 0.2
_BELOW_TOP_20 = 0.6  # keeps all made-up values of those images smaller than their twentieth
_MAX = 2**31


@functools.lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Return the 3,228 terms of Neurosynth's version-7 vocabulary, in its order."""
    text = files("nvcatalog.demo").joinpath("data", "neurosynth", "vocabulary.txt").read_text("utf-8")
    return tuple(text.splitlines())


@functools.lru_cache(maxsize=256)
def decode_values(image_id: int, about: str = "") -> dict[str, float]:
    """Return the correlation of an image with every term; `about` is what its record says in words."""
    terms = vocabulary()
    stream = hashlib.shake_256(f"image {image_id}".encode()).digest(4 * len(terms))
    draws = (int.from_bytes(stream[at : at + 4], "big") for at in range(0, len(stream), 4))
    values = {term: _correlation(draw) for term, draw in zip(terms, draws, strict=True)}
    if image_id in _TOP_20_IDS:
        return {term: round(value * _BELOW_TOP_20, 3) + 0.0 for term, value in values.items()} | _top_20()
    for term in _terms_in(about, terms):
        values[term] = round(abs(values[term]) + _TERM_IN_TEXT_BONUS, 3)
    return values


def _correlation(draw: int) -> float:
    """Turn 32 random bits into a sign and a Weibull-distributed size."""
    size: float = _SCALE * (-math.log1p(-(draw % _MAX) / _MAX)) ** _SHAPE
    return round(size if draw < _MAX else -size, 3) + 0.0  # never -0.0


def _terms_in(text: str, terms: Iterable[str]) -> list[str]:
    words = f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
    return [term for term in terms if f" {term} " in words]


@functools.lru_cache(maxsize=1)
def _top_20() -> dict[str, float]:
    text = files("nvcatalog.demo").joinpath("data", "neurosynth", "image_308_top20.json").read_text("utf-8")
    return dict(json.loads(text)["terms"])
