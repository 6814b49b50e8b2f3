"""What is known of the ids of one call: read from the catalog once, then filled as lists and files arrive."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from nvcatalog.records import Record
from nvcatalog.report import Status

#: Which of an image's maps: as the server has it, or on nilearn's 3 mm grid.
MapKind = Literal["original", "resampled"]


@dataclass
class LocalFile:
    """A file's row: where it is, how it was proven, and where it came from."""

    path: str
    size: int
    state: str
    sha256: str | None = None
    origin: str | None = None
    marks: list[Path] = field(default_factory=list)  # of a file that may have taken the place of the row's

    @property
    def is_shared(self) -> bool:
        """Whether it lies in a base folder, where nothing is ever written: its path is absolute then."""
        return os.path.isabs(self.path)  # noqa: PTH117 - it is text


@dataclass
class KnownCollection:
    """A collection's record, and whether its images were ever listed to the end."""

    collection_id: int
    record: Record | None
    complete: bool = False
    listed_count: int | None = None
    listed_at: datetime | None = None
    listed_modify_date: datetime | None = None  # the record's when the list was begun
    fresh: bool = False  # the record was read from the server in this call


@dataclass
class KnownImage:
    """An image's record and its files, if it has any here."""

    image_id: int
    collection_id: int
    source: Record | str
    gone: bool = False
    file: LocalFile | None = None
    fresh: bool = False  # the record was read from the server in this call
    written: Record | None = None  # what this call wrote down beside its file
    resampled: LocalFile | None = None
    fetched_at: datetime | None = None

    def map(self, kind: MapKind) -> LocalFile | None:
        """Return the file of that kind."""
        return self.resampled if kind == "resampled" else self.file

    @property
    def is_here(self) -> bool:
        """Whether any map of it is said to be here."""
        return self.file is not None or self.resampled is not None

    @property
    def is_here_alone(self) -> bool:
        """Whether any map of it is said to be in the data folder itself."""
        return any(file is not None and not file.is_shared for file in (self.file, self.resampled))

    def can_be(self, kind: MapKind) -> bool:
        """Whether a map of that kind is said to be here, or one that it can be made of."""
        return self.file is not None or self.map(kind) is not None

    def put_map(self, kind: MapKind, file: LocalFile | None) -> None:
        """Note a file of that kind, or that there is none."""
        if kind == "resampled":
            self.resampled = file
        else:
            self.file = file

    @property
    def record(self) -> Record:
        """The record, parsed when first asked for: most calls need few of the records they read."""
        if isinstance(self.source, str):
            record: Record = json.loads(self.source)
            self.source = record
        return self.source


@dataclass(frozen=True)
class Refusal:
    """What a server answered for good about an id, when, and for which state of the record."""

    kind: str
    id: int
    status: Status
    reason: str
    modify_date: datetime | None
    seen_at: datetime
    position: int | None = None


@dataclass
class Known:
    """What the catalog, and then the servers, say about the ids of one call."""

    collections: dict[int, KnownCollection] = field(default_factory=dict)
    images: dict[int, KnownImage] = field(default_factory=dict)
    refusals: dict[tuple[str, int], Refusal] = field(default_factory=dict)
    positions: dict[int, list[Refusal]] = field(default_factory=dict)
    with_words: set[int] = field(default_factory=set)
    own_words: dict[int, str] = field(default_factory=dict)  # the set of terms that somebody's own decoder gave
    parents: dict[int, int] = field(default_factory=dict)  # of images that are named with their collection's token
    packs: dict[int, tuple[int, Record]] = field(default_factory=dict)  # collection and record of NIDM packs
    tokens: dict[int, str] = field(default_factory=dict, repr=False)
    server_root: str | None = None

    def images_of(self, collection_id: int) -> list[int]:
        """Return the ids of a collection's images, ascending; deleted ones only while their file is here."""
        return sorted(
            id_ for id_, image in self.images.items() if image.collection_id == collection_id and _held(image)
        )

    def images_by_collection(self) -> dict[int, list[int]]:
        """Return :meth:`images_of` for every collection at once: one walk, however many they are."""
        ids: dict[int, list[int]] = {}
        for id_ in sorted(self.images):
            if _held(self.images[id_]):
                ids.setdefault(self.images[id_].collection_id, []).append(id_)
        return ids


def _held(image: KnownImage) -> bool:
    return not image.gone or image.is_here
