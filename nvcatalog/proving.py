"""Prove that bytes are the whole file that they should be: a gzipped NIfTI image above all."""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from zlib_ng import zlib_ng

from nvcatalog.errors import NVCatalogError

_GzipError = cast("type[Exception]", zlib_ng.error)
_CHUNK = 1 << 18
_UNPACKED = 1 << 18  # larger pieces cost more than they save: fresh pages of memory for each
_HEADER = 540  # the bytes of a NIfTI-2 header, the larger of the two
#: A map with more bytes, packed or not, is none: it would fill a disk, and no computer opens it.
LARGEST = 1 << 34
# Some maps hold more than their header declares, and nibabel reads them all the same. A bomb holds far more.
_MOST_BEHIND_VOXELS = 1 << 26


class NotWholeError(NVCatalogError):
    """Raised when bytes are not the whole file that they should be; the message says what they are."""


class NotAMapError(NotWholeError):
    """Raised when bytes are not a whole gzipped NIfTI image."""


@dataclass(frozen=True)
class Proof:
    """What was found while reading a file to its last byte; one that is no map has no shape, voxels or dtype."""

    size: int
    sha256: str
    shape: tuple[int, ...] = ()
    voxel_size_mm: tuple[float, ...] = ()
    dtype: str | None = None
    etag: str | None = None
    last_modified: str | None = None


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read it.

    Raises
    ------
    OSError
        When it cannot be opened, or is a pipe or a device: for the first byte of these one may wait for ever.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "a pipe or a device", str(path))
        yield file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def prove(path: Path, prover: FileProver | None = None) -> Proof:
    """Read a file that is here to its last byte; by default it must be an image.

    Raises
    ------
    NotWholeError
        When it is not what it should be: ``NotAMapError`` when it is no whole gzipped NIfTI image.
    OSError
        When it cannot be read.
    """
    prover = prover or Prover()
    with open_file(path) as file:
        while chunk := file.read(_CHUNK):
            prover.feed(chunk)
    return prover.finish()


@dataclass
class FileProver:
    """Proves a file chunk by chunk: its size and sha256. What else it must be, each kind of it says.

    Attributes
    ----------
    largest : int or None
        How many bytes such a file may have.
    size : int
        The bytes so far.
    trouble : str or None
        Why this will not be such a file, whatever follows.
    """

    largest: int | None = None
    size: int = 0
    trouble: str | None = None
    _sha256: Any = field(default_factory=hashlib.sha256)
    error: ClassVar[type[NotWholeError]] = NotWholeError

    def expect(self, size: int) -> None:
        """Take note that this many bytes will come."""
        if self.largest is not None and size > self.largest:
            self.trouble = f"more than the {self.largest:,} bytes that are taken of such a file"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the file."""
        self.size += len(chunk)
        self._sha256.update(chunk)
        self.expect(self.size)
        if self.trouble is None:
            try:
                self._look_at(chunk)
            except NotWholeError as error:
                self.trouble = str(error)

    def _look_at(self, chunk: bytes) -> None:
        """Raise when the next bytes cannot be part of such a file."""

    def finish(self, *, etag: str | None = None, last_modified: str | None = None) -> Proof:
        """Return the proof.

        Raises
        ------
        NotWholeError
            When the bytes are no whole file of this kind.
        """
        if self.trouble:
            raise self.error(self.trouble)
        if not self.size:
            raise self.error("an empty file")
        return Proof(self.size, self._sha256.hexdigest(), etag=etag, last_modified=last_modified)


@dataclass
class Prover(FileProver):
    """Proves a gzipped NIfTI image: gzip to the last byte, header, voxels.

    Nothing is kept but the header. A file that unpacks to far more than its header declares is not unpacked
    further, so a bomb costs little more than the map it pretends to be. Nor may one unpack to far less than
    it is: empty pieces, and padding, can be sent without end.
    """

    largest: int | None = LARGEST
    _gzip: Any = field(default_factory=lambda: zlib_ng.decompressobj(wbits=31))
    _head: bytearray = field(default_factory=bytearray)
    _unpacked: int = 0
    _facts: _Facts | None = None
    error: ClassVar[type[NotWholeError]] = NotAMapError

    def _look_at(self, chunk: bytes) -> None:
        try:
            self._unpack(chunk)
        except _GzipError as error:
            raise NotAMapError(f"not a whole gzip file ({error})") from error
        if self.size > self._unpacked + _MOST_BEHIND_VOXELS:
            raise NotAMapError(f"{self.size:,} bytes that unpack to {self._unpacked:,}")

    def _unpack(self, chunk: bytes) -> None:
        while chunk:
            if self._gzip.eof:
                chunk = chunk.lstrip(b"\0")  # padding after the end is harmless, and Python's gzip skips it too
                if not chunk:
                    return
                self._gzip = zlib_ng.decompressobj(wbits=31)
            self._take(self._gzip.decompress(chunk, _UNPACKED))
            chunk = self._gzip.unused_data if self._gzip.eof else self._gzip.unconsumed_tail

    def _take(self, unpacked: bytes) -> None:
        self._unpacked += len(unpacked)
        if self._facts is None:
            self._head += unpacked[: _HEADER - len(self._head)]
            if len(self._head) < _HEADER:
                return
            self._facts = _read_header(bytes(self._head))
        if self._unpacked > self._facts.end + _MOST_BEHIND_VOXELS:
            raise NotAMapError(f"unpacks to far more than the {self._facts.end:,} bytes that its header declares")

    def finish(self, *, etag: str | None = None, last_modified: str | None = None) -> Proof:
        """Return the proof; raises ``NotAMapError``."""
        proof = super().finish(etag=etag, last_modified=last_modified)
        if not self._gzip.eof:
            raise NotAMapError("cut off: the gzip stream does not end")
        facts = self._facts or _read_header(bytes(self._head))
        if self._unpacked < facts.end:
            raise NotAMapError(f"cut off: {self._unpacked:,} bytes of {facts.end:,} that its header declares")
        return replace(proof, shape=facts.shape, voxel_size_mm=facts.voxel_size_mm, dtype=facts.dtype)


@dataclass(frozen=True)
class _Facts:
    """What a NIfTI header says; ``end`` is where the voxels end."""

    shape: tuple[int, ...]
    voxel_size_mm: tuple[float, ...]
    dtype: str
    end: int


# nibabel's own logger writes every oddity of a header to stderr.
_NOWHERE = logging.Logger("nvcatalog.headers", level=logging.CRITICAL + 1)
_MAGIC = ((Nifti2Header, slice(4, 8), b"n+2\0"), (Nifti1Header, slice(344, 348), b"n+1\0"))


def _read_header(head: bytes) -> _Facts:
    """Read the header of a single-file NIfTI-1 or NIfTI-2 image; what nibabel would refuse is refused.

    Extensions are not looked at: they may be longer than what is kept of the file.
    """
    for kind, place, magic in _MAGIC:
        if len(head) >= kind.sizeof_hdr and head[place] == magic:
            try:
                return _facts(kind, head)
            except (HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
                raise NotAMapError(f"a NIfTI header that cannot be read ({error})") from error
    raise NotAMapError(f"no NIfTI header (it starts with {head[:16]!r})")


def _facts(kind: type[Nifti1Header], head: bytes) -> _Facts:
    header: Any = kind(head[: kind.sizeof_hdr], check=False)  # nibabel's classes are untyped
    header.check_fix(logger=_NOWHERE, error_level=40)
    shape = tuple(int(n) for n in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise NotAMapError(f"a NIfTI header that declares the shape {shape}")
    dtype = header.get_data_dtype()
    zooms = header.get_zooms()[:3]
    end = int(header.get_data_offset()) + math.prod(shape) * dtype.itemsize
    if end > LARGEST:
        raise NotAMapError(f"{end:,} bytes that its header declares, and {LARGEST:,} are the most that is taken")
    return _Facts(shape, tuple(float(zoom) for zoom in zooms), str(dtype), end)
