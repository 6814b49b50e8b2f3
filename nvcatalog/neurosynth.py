"""Ask Neurosynth which terms go with a map, and tell a real answer from what only looks like one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import requests

from nvcatalog import _http, records
from nvcatalog.errors import RefusedError, TransientError
from nvcatalog.records import Record

DEFAULT_ROOT = "https://neurosynth.org"
CONNECTIONS = 2
LIMITS = _http.Limits(transient_in_a_row=5)
#: The first decode of a map takes many seconds: a worker fetches it from NeuroVault.
SHORTEST_TIMEOUT_S = 60.0
#: Neurosynth refuses maps above this, after having fetched them.
LARGEST_FILE = 4_000_000
# Twenty thousand terms are less than a megabyte.
_LARGEST_ANSWER = 2 * 1024 * 1024

_LICENCE = f"ODbL-1.0, Neurosynth ({DEFAULT_ROOT})"
_LICENCE_OF_OTHERS = "its decoder's, which this catalog was not told"
_REFUSALS = {
    404: "has no such image",
    413: "decodes no file over 4,000,000 bytes",
    415: "decodes only NIfTI files",
}


def root() -> str:
    """Return Neurosynth's root: ``NVCATALOG_NEUROSYNTH_URL``, else https://neurosynth.org."""
    return _http.root_from_environment("NVCATALOG_NEUROSYNTH_URL", DEFAULT_ROOT)


def is_its_own(reference: str | None) -> bool:
    """Return whether a reference set is Neurosynth's: it calls them ``terms_20k`` or so, older answers not at all.

    Examples
    --------
    >>> is_its_own("terms_20k"), is_its_own(None), is_its_own("gclda")
    (True, True, False)
    """
    return not reference or re.fullmatch(r"terms_[0-9]+k", reference) is not None


def licences(references: Iterable[str | None]) -> dict[str, str]:
    """Return the licences of the terms of reference sets, for a file that says what it holds.

    Examples
    --------
    >>> licences(["gclda", "terms_20k"])["terms, words of gclda"]
    "its decoder's, which this catalog was not told"
    """
    sets = set(references)
    ours = {"terms, words": _LICENCE} if any(map(is_its_own, sets)) else {}
    others = sorted(reference for reference in sets if reference and not is_its_own(reference))
    return ours | {f"terms, words of {reference}": _LICENCE_OF_OTHERS for reference in others}


@dataclass(frozen=True)
class Decoded:
    """An answer: each term's weight, the reference set behind it, and the text as it came.

    The weight is the Pearson correlation of the map with the term's map, signed: similarity, not probability.
    """

    weights: dict[str, float]
    reference: str | None
    text: bytes


def why_not_asked(record: Record) -> str | None:
    """Return why Neurosynth need not be asked about an image: each first decode costs it a download."""
    if record.get("image_type") == "atlas":
        return "Neurosynth decodes no atlases"
    if record.get("data_origin") == "surface":
        return "Neurosynth decodes no surface maps"
    size = records.file_size_of(record)
    if size is not None and size > LARGEST_FILE:
        return f"Neurosynth {_REFUSALS[413]}; this one has {size:,}"
    return None


class Neurosynth:
    """Neurosynth's decoder over one :class:`~nvcatalog._http.Service`."""

    def __init__(self, service: _http.Service) -> None:
        self._service = service

    def decode(self, image_id: int) -> Decoded:
        """Return the terms of a NeuroVault image.

        Raises
        ------
        RefusedError
            When Neurosynth will not have them for this file, now or later.
        TransientError, HostGivenUpError
            When no answer could be had, for now or for this call.
        """
        for attempt in self._service.attempts():
            with attempt, self._service.get("api/decode/", params={"neurovault": image_id}) as response:
                return _decoded(self._service, response)
        raise AssertionError("the last attempt returns or raises")


def read_answer(text: bytes) -> Decoded:
    """Return the terms in an answer's text, the older form without a reference set included.

    Raises
    ------
    ValueError
        When it is no JSON, holds no terms, or weights that are no numbers.
    """
    answer = records.parse_json(text)
    data = answer.get("data") if isinstance(answer, dict) else None
    values = data.get("values") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(values, dict) or not values:
        raise ValueError("the answer holds no terms")
    reference = data.get("reference")
    weights = {term: _weight(term, value) for term, value in values.items()}
    return Decoded(weights, reference if isinstance(reference, str) else None, text)


def write_answer(weights: dict[str, float], reference: str | None) -> bytes:
    """Return terms as :func:`read_answer`, and nilearn, read them.

    Examples
    --------
    >>> read_answer(write_answer({"pain": 0.25}, "terms_20k")).weights
    {'pain': 0.25}
    """
    answer = {"data": {"reference": reference, "values": weights}}
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")


def _decoded(service: _http.Service, response: requests.Response) -> Decoded:
    body, status = service.json_body(response, largest=_LARGEST_ANSWER), response.status_code
    if status in _REFUSALS:
        raise RefusedError(f"Neurosynth {_REFUSALS[status]} (HTTP {status})", status="not_found")
    if status != 200:
        message = f"{service.name}: HTTP {status}, which is no answer of the decoder: {body[:200]!r}"
        raise TransientError(message, status=status)
    try:
        return read_answer(body)
    except ValueError as error:
        if _has_no_values(body):
            raise RefusedError("Neurosynth has no terms for it", status="not_found") from error
        raise TransientError(f"{service.name}: {error}") from error


def _has_no_values(body: bytes) -> bool:
    """Whether this is Neurosynth's way to say that it knows nothing: whole JSON, and no values in it."""
    try:
        answer = records.parse_json(body)
    except ValueError:
        return False
    data = answer.get("data") if isinstance(answer, dict) else None
    return isinstance(data, dict) and not data.get("values") and "error" not in data


def _weight(term: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"the weight of {term[:50]!r} is no number: {value!r:.50}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"the weight of {term[:50]!r} is no correlation: {error}") from error
