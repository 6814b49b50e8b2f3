"""Tell from its name and its place what a file in the data folder is."""

from __future__ import annotations

import re
from typing import NamedTuple, cast, get_args

from nvcatalog import _replaced, extras, storage
from nvcatalog.ids import LARGEST
from nvcatalog.known import MapKind

#: Where files go that nobody can vouch for; nothing is ever deleted there.
QUARANTINE = "quarantine"

#: The kinds of files that have a row in the catalog.
MAPS: tuple[MapKind, ...] = get_args(MapKind)
WITH_ROW = frozenset({*MAPS, *extras.LARGEST})
#: What nilearn reads beside the maps.
SIDECARS = frozenset({"metadata", "collection_metadata", "words"})

_COLLECTION = re.compile(r"collection_([1-9][0-9]{0,9})")
_ID = "([1-9][0-9]{0,9})"
# Ours end in .part; of its own, nilearn resamples what it has downloaded under a name of its own.
_TEMPORARY = re.compile(r"\..+\.part(\.\w+)*|tmp_[0-9a-f-]{36}\.nii\.gz|\.catalog\.duckdb\.new(\.wal)?")
_REPLACED = re.compile(rf"image_{_ID}(?:_resampled)?_replaced-[0-9a-f]{{12}}\.nii\.gz")
_CATALOG = re.compile(r"catalog\.duckdb(\.wal)?|catalog\.lock")
_SET_ASIDE = re.compile(r"catalog\.duckdb\..+")
_HOUSE = frozenset({"README.md", "CACHEDIR.TAG"})
_HOUSE_FOLDERS = frozenset({".locks", _replaced.FOLDER, "queries"})


def _names() -> dict[str, re.Pattern[str]]:
    """Return how files in a collection's folder are named, by their kind."""
    number = 4_815_162_342  # stands for an id in the names that are made of it
    names: dict[str, str] = {kind: storage.map_path(1, number, kind) for kind in MAPS}
    names |= {kind: extras.extra_path(kind, 1, number) for kind in extras.LARGEST}
    names |= {"metadata": storage.sidecar_path(1, number), "words": storage.words_path(1, number)}
    names = {kind: path.rpartition("/")[2] for kind, path in names.items()}
    return {kind: re.compile(re.escape(name).replace(str(number), _ID)) for kind, name in names.items()}


_NAMES = _names()
_COLLECTION_SIDECAR = storage.collection_sidecar_path(1).rpartition("/")[2]


class Place(NamedTuple):
    """What a file is.

    Attributes
    ----------
    kind : str
        A kind of the ``files`` table, ``metadata``, ``collection_metadata`` or ``words``; else ``temporary``,
        ``replaced`` (kept by :func:`nvcatalog.fetch_frozen`), ``catalog``, ``set_aside`` (a former catalog),
        ``snapshots``, ``quarantine``, ``house`` (notes to people and tools, locks) or ``other``.
    id : int or None
        The image or the pack it belongs to.
    collection_id : int or None
        The collection whose folder it is in.
    """

    kind: str
    id: int | None = None
    collection_id: int | None = None

    @property
    def has_row(self) -> bool:
        """Whether such a file has a row in the catalog."""
        return self.kind in WITH_ROW

    @property
    def is_map(self) -> bool:
        """Whether it is a map, original or resampled."""
        return self.kind in MAPS

    @property
    def map_kind(self) -> MapKind:
        """The kind of a map."""
        return cast("MapKind", self.kind)

    @property
    def extra_kind(self) -> extras.Kind:
        """The kind of a file beside the maps."""
        return cast("extras.Kind", self.kind)


def place_of(path: str) -> Place:
    """Return what a file is, given its path relative to the data folder.

    Examples
    --------
    >>> place_of("collection_555/image_9034_resampled.nii.gz")
    Place(kind='resampled', id=9034, collection_id=555)
    >>> place_of("collection_555/notes.txt").kind
    'other'
    """
    first, _, rest = path.partition("/")
    collection_id = collection_of(first)
    if collection_id is None:
        return Place(_kind_outside(first, rest))
    if "/" in rest:
        return Place("other", None, collection_id)
    return Place(*_in_collection(rest), collection_id)


def collection_of(name: str) -> int | None:
    """Return the id that a collection's folder is named for, None for any other name."""
    return _id(_COLLECTION.fullmatch(name))


def _in_collection(name: str) -> tuple[str, int | None]:
    if name == _COLLECTION_SIDECAR:
        return "collection_metadata", None
    for kind, pattern in _NAMES.items():
        if id_ := _id(pattern.fullmatch(name)):
            return kind, id_
    if id_ := _id(_REPLACED.fullmatch(name)):
        return "replaced", id_
    return ("temporary" if _TEMPORARY.fullmatch(name) else "other"), None


def _kind_outside(first: str, rest: str) -> str:
    if first in ("snapshots", QUARANTINE):
        return first
    if first in _HOUSE_FOLDERS or (first in _HOUSE and not rest):
        return "house"
    for pattern, kind in ((_TEMPORARY, "temporary"), (_CATALOG, "catalog"), (_SET_ASIDE, "set_aside")):
        if pattern.fullmatch(first):
            return kind
    return "other"


def _id(match: re.Match[str] | None) -> int | None:
    return int(match[1]) if match and int(match[1]) <= LARGEST else None
