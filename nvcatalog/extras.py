"""What a collection holds beside its maps: label files of atlases, surfaces of maps, packs of NIDM results."""

from __future__ import annotations

import codecs
import io
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from nvcatalog import _http, client, proving, records, storage
from nvcatalog._xml import XmlError, XmlReader
from nvcatalog.proving import FileProver, NotWholeError, Proof
from nvcatalog.records import Record

Kind = Literal["labels", "surface_left", "surface_right", "nidm_zip", "nidm_ttl"]

#: How many bytes a file of each kind may have: many times what real ones have.
LARGEST: dict[Kind, int] = {
    "labels": 1 << 24,
    "surface_left": 1 << 28,
    "surface_right": 1 << 28,
    "nidm_zip": 1 << 30,
    "nidm_ttl": 1 << 26,
}
_NAMES: dict[Kind, str] = {
    "labels": "image_{}_labels.xml",
    "surface_left": "image_{}_left.gii",
    "surface_right": "image_{}_right.gii",
    "nidm_zip": "nidm_{}.zip",
    "nidm_ttl": "nidm_{}.ttl",
}
_IMAGE_FIELDS: dict[str, Kind] = {
    "label_description_file": "labels",
    "surface_left_file": "surface_left",
    "surface_right_file": "surface_right",
}
_PACK_FIELDS: dict[str, Kind] = {"zip_file": "nidm_zip", "ttl_file": "nidm_ttl"}


@dataclass(frozen=True)
class Extra:
    """One file beside the maps.

    Attributes
    ----------
    kind : str
        'labels', 'surface_left', 'surface_right', 'nidm_zip' or 'nidm_ttl'.
    item_id : int
        The image, or the pack, whose record names it; the two share one number space.
    link : str
        Where the record says that it is.
    path : str
        Where it belongs, relative to the data folder.
    """

    kind: Kind
    item_id: int
    link: str
    path: str


def of_image(record: Record, collection_id: int) -> list[Extra]:
    """Return the extra files that an image's record names.

    Examples
    --------
    >>> link = "https://neurovault.org/media/images/1056/Thalamus.xml"
    >>> [extra.path for extra in of_image({"id": 14227, "label_description_file": link}, 1056)]
    ['collection_1056/image_14227_labels.xml']
    """
    return _named(record, collection_id, _IMAGE_FIELDS)


def of_pack(record: Record, collection_id: int) -> list[Extra]:
    """Return the files of a NIDM pack: its archive, and its Turtle file where it has one."""
    return _named(record, collection_id, _PACK_FIELDS)


def is_of_pack(record: Record) -> bool:
    """Whether an image came in a NIDM pack, as its record says."""
    link = records.null_placeholders({"page": record.get("nidm_results")})["page"]
    return isinstance(link, str)


def _named(record: Record, collection_id: int, fields: Mapping[str, Kind]) -> list[Extra]:
    id_ = records.record_id(record)
    links = records.null_placeholders({name: record.get(name) for name in fields})
    return [
        Extra(kind, id_, link, extra_path(kind, collection_id, id_))
        for name, kind in fields.items()
        if isinstance(link := links[name], str)
    ]


def extra_path(kind: Kind, collection_id: int, item_id: int) -> str:
    """Return where an extra file belongs, relative to the data folder: nilearn looks at no such name."""
    return f"{storage.collection_folder(collection_id)}/{_NAMES[kind].format(item_id)}"


def download(
    service: _http.Service,
    extra: Extra,
    folder: Path,
    *,
    place: str | None = None,
    before: Callable[[], None] | None = None,
) -> Proof:
    """Download an extra file into the data folder; it appears there only when proven whole.

    Parameters
    ----------
    service : Service
        Whom to ask.
    extra : Extra
        Which.
    folder : Path
        The data folder.
    place : str, optional
        Where it is below the service's root; by default where its link leads.
    before : callable, optional
        Called right before the file takes its place.

    Raises
    ------
    RefusedError
        When its link leads elsewhere, when the server has no such file, or serves one as announced that is none
        of its kind.
    TransientError, HostGivenUpError
        When no whole answer could be had.
    NoSpaceError
        When the disk is full.
    """
    path = place or client.below_root(extra.link, service.root)
    new_prover = partial(_prover, extra.kind)
    return storage.download(
        service, path, folder / extra.path, announced_size=None, prover=new_prover, before=before
    )


def prove(path: Path, kind: Kind) -> Proof:
    """Read an extra file that is here to its last byte.

    Raises
    ------
    NotWholeError
        When it is no whole file of its kind.
    OSError
        When it cannot be read.
    """
    return proving.prove(path, _prover(kind))


# Proving


def _prover(kind: Kind) -> FileProver:
    return _PROVERS[kind](largest=LARGEST[kind])


@dataclass
class _XmlProver(FileProver, ABC):
    """Proves XML: well-formed, whole, and without anything to expand."""

    _reader: XmlReader = field(default_factory=XmlReader)
    what: ClassVar[str] = "XML"

    def _look_at(self, chunk: bytes) -> None:
        try:
            self._reader.feed(chunk)
        except XmlError as error:
            raise self._no_such_file(error) from error
        if self._reader.root is not None and not self._may_begin_with(self._reader.root):
            raise NotWholeError(f"no {self.what}: its outermost element is <{self._reader.root[:40]}>")

    @abstractmethod
    def _may_begin_with(self, root: str) -> bool: ...

    def finish(self, *, etag: str | None = None, last_modified: str | None = None) -> Proof:
        proof = super().finish(etag=etag, last_modified=last_modified)
        try:
            self._reader.close()
        except XmlError as error:
            raise self._no_such_file(error) from error
        return proof

    def _no_such_file(self, error: XmlError) -> NotWholeError:
        return NotWholeError(f"no whole {self.what}: {error}")


@dataclass
class _LabelsProver(_XmlProver):
    """Proves a label file; the server looks at none, so there are more forms than FSL's, and a page is none."""

    what: ClassVar[str] = "label file"

    def _may_begin_with(self, root: str) -> bool:
        return root.lower() != "html"


@dataclass
class _GiftiProver(_XmlProver):
    """Proves a surface in GIfTI's XML."""

    what: ClassVar[str] = "GIfTI file"

    def _may_begin_with(self, root: str) -> bool:
        return root == "GIFTI"


# Room for the directory of ten thousand files and more; NIDM packs hold some tens.
_LONGEST_DIRECTORY = 1 << 20


@dataclass
class _ZipProver(FileProver):
    """Proves an archive by its first bytes and its central directory, which is at its end; unpacks nothing."""

    _head: bytes = b""
    _tail: bytearray = field(default_factory=bytearray)

    def _look_at(self, chunk: bytes) -> None:
        self._head += chunk[: 4 - len(self._head)]
        if not b"PK\3\4".startswith(self._head) and not b"PK\5\6".startswith(self._head):
            raise NotWholeError(f"no zip archive (it starts with {self._head!r})")
        self._tail += chunk
        del self._tail[:-_LONGEST_DIRECTORY]

    def finish(self, *, etag: str | None = None, last_modified: str | None = None) -> Proof:
        proof = super().finish(etag=etag, last_modified=last_modified)
        try:
            with zipfile.ZipFile(_End(self._tail, self.size)) as archive:
                first = min((member.header_offset for member in archive.infolist()), default=0)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise NotWholeError(f"no whole zip archive: {error}") from error
        if first < 0:
            raise NotWholeError(f"no whole zip archive: {-first:,} bytes are missing before its directory")
        return proof


class _End(io.BytesIO):
    """The end of a file, to be read as if the whole were there."""

    def __init__(self, tail: bytes | bytearray, size: int) -> None:
        super().__init__(tail)
        self._missing = size - len(tail)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == io.SEEK_SET:
            offset -= self._missing
            if offset < 0:
                raise zipfile.BadZipFile(f"its directory has more than {_LONGEST_DIRECTORY:,} bytes")
        return super().seek(offset, whence) + self._missing

    def tell(self) -> int:
        return super().tell() + self._missing


_LONGEST_HEAD = 64


@dataclass
class _TurtleProver(FileProver):
    """Proves a text in UTF-8 that is no web page."""

    _decoder: Any = field(default_factory=codecs.getincrementaldecoder("utf-8"))
    _head: str = ""

    def _look_at(self, chunk: bytes) -> None:
        text = self._decode(chunk)
        if "\0" in text:
            raise NotWholeError("no text: it has a byte that is zero")
        if len(self._head) < _LONGEST_HEAD:
            self._head = (self._head + text).lstrip("\ufeff \t\r\n")[:_LONGEST_HEAD].lower()
            if self._head.startswith(("<!doctype", "<html>", "<html ")):
                raise NotWholeError("a web page")

    def finish(self, *, etag: str | None = None, last_modified: str | None = None) -> Proof:
        proof = super().finish(etag=etag, last_modified=last_modified)
        self._decode(b"", is_last=True)
        return proof

    def _decode(self, chunk: bytes, *, is_last: bool = False) -> str:
        try:
            text: str = self._decoder.decode(chunk, is_last)
        except UnicodeDecodeError as error:
            raise NotWholeError(f"no text in UTF-8 ({error.reason})") from error
        return text


_PROVERS: dict[Kind, type[FileProver]] = {
    "labels": _LabelsProver,
    "surface_left": _GiftiProver,
    "surface_right": _GiftiProver,
    "nidm_zip": _ZipProver,
    "nidm_ttl": _TurtleProver,
}
