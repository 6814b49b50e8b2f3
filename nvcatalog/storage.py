"""Files on disk: where they belong, how they get there, and what proves that they are whole."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import secrets
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import requests
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from nvcatalog import _http
from nvcatalog.errors import (
    DataDirError,
    InvalidOptionTypeError,
    NoSpaceError,
    NVCatalogError,
    RefusedError,
    TooManyFilesError,
    TransientError,
)

SUBFOLDER = "neurovault"
_CHUNK = 1 << 18
_UNPACKED = 1 << 18  # larger pieces cost more than they save: fresh pages of memory for each
_HEADER = 540  # the bytes of a NIfTI-2 header, the larger of the two
# Some maps hold more than their header declares, and nibabel reads them all the same. A bomb holds far more.
_MOST_BEHIND_VOXELS = 1 << 26
_PART = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.part")
_LEFTOVER_S = 24 * 3600.0
_CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Downloaded data; see https://bford.info/cachedir/\n"
)


#: What the system answers when no further file can be opened.
TOO_MANY = (errno.EMFILE, errno.ENFILE)


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


# Where things belong


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return ``<data_dir>/neurovault`` by nilearn's rules, without making it.

    The places are the argument, else each of ``NILEARN_SHARED_DATA``, ``NILEARN_DATA`` and
    ``~/nilearn_data``; each may be a list of folders. The first that exists wins, else the first that can
    be made.

    Raises
    ------
    DataDirError
        When a file is in the way, or no folder can be of that name.
    InvalidOptionTypeError
        When what was given is no path.
    """
    places: list[Path] = []
    trouble: DataDirError | None = None
    for place in _places(data_dir):
        try:
            places.append(_folder_in(place))
        except DataDirError as error:
            trouble = trouble or error
    for folder in places:
        if folder.is_dir():
            return folder.resolve()
    for folder in places:
        if _could_be_made(folder):
            return folder.absolute()
    if trouble is not None:
        raise trouble
    first = places[0]
    obstacle = next((parent for parent in (first, *first.parents) if parent.exists()), first)
    found = "is a file" if obstacle.is_file() else "cannot be written"
    raise DataDirError(f"{first} cannot be made: {obstacle} {found}. Give another data_dir")


def _folder_in(place: str) -> Path:
    """Return the data folder in a place, whether it is there or not, unless it can never be used."""
    try:
        folder = Path(place).expanduser() / SUBFOLDER
        str(folder.resolve()).encode()  # DuckDB opens no other names
        if stat.S_ISDIR(folder.stat().st_mode) and not os.access(folder, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "this user may not look into it")
    except (FileNotFoundError, NotADirectoryError):
        pass  # it may be made
    except (RuntimeError, ValueError, OSError) as error:  # as from "~nobody", a zero byte, too long a name
        reason = getattr(error, "strerror", None) or error
        raise DataDirError(f"{place!r} cannot hold the data: {reason}. Give another data_dir") from error
    return folder


def _places(data_dir: str | os.PathLike[str] | None) -> list[str]:
    if data_dir is not None:
        # Text would be made of anything at all, and a folder of that name.
        if not isinstance(data_dir, str | os.PathLike):
            raise InvalidOptionTypeError(f"data_dir is {data_dir!r}, a {type(data_dir).__name__}; give a path")
        return str(data_dir).split(os.pathsep)
    variables = (os.environ.get(name) for name in ("NILEARN_SHARED_DATA", "NILEARN_DATA"))
    listed = [place for value in variables if value is not None for place in value.split(os.pathsep)]
    return [*listed, "~/nilearn_data"]


def _could_be_made(folder: Path) -> bool:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def make_folder(folder: Path) -> None:
    """Make the data folder, and tag it as one that backups may skip.

    Raises
    ------
    DataDirError
        When it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tag = folder / "CACHEDIR.TAG"
        if not tag.exists():
            write_whole(tag, _CACHEDIR_TAG.encode())
            write_whole(folder / "README.md", _README.encode())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(folder, error) from error
        raise DataDirError(f"{folder} cannot be made: {error.strerror or error}. Give another data_dir") from error


_README = """# Brain maps from NeuroVault

Kept by nvcatalog, readable by nilearn. `collection_<id>/` holds maps and their metadata, `catalog.duckdb` all that
is known about them, `snapshots/` the same as Parquet for dataframe tools (the newest is named in `CURRENT`).
"""


def collection_folder(collection_id: int) -> str:
    """Return a collection's folder, relative to the data folder."""
    return f"collection_{collection_id}"


def image_path(collection_id: int, image_id: int) -> str:
    """Return where an image's file belongs, relative to the data folder."""
    return f"{collection_folder(collection_id)}/image_{image_id}.nii.gz"


def sidecar_path(collection_id: int, image_id: int) -> str:
    """Return where an image's record belongs, relative to the data folder."""
    return f"{collection_folder(collection_id)}/image_{image_id}_metadata.json"


def collection_sidecar_path(collection_id: int) -> str:
    """Return where a collection's record belongs, relative to the data folder."""
    return f"{collection_folder(collection_id)}/collection_metadata.json"


def words_path(collection_id: int, image_id: int) -> str:
    """Return where Neurosynth's answer for an image belongs, relative to the data folder."""
    return f"{collection_folder(collection_id)}/neurosynth_words_for_image_{image_id}.json"


def map_path(collection_id: int, image_id: int, kind: str) -> str:
    """Return where an image's map of that kind belongs, relative to the data folder."""
    path = image_path(collection_id, image_id)
    return path if kind == "original" else path.replace(".nii.gz", f"_{kind}.nii.gz")


def image_paths(collection_id: int, image_id: int) -> dict[str, str]:
    """Return the path entries of an image's metadata, as nilearn names them."""
    return {
        "relative_path": map_path(collection_id, image_id, "original"),
        "resampled_relative_path": map_path(collection_id, image_id, "resampled"),
    }


def is_file(path: Path) -> bool:
    """Whether a file is there, as far as this user may look: a folder that is closed to them holds none."""
    try:
        return path.is_file()
    except OSError:
        return False


def why_not_here(path: Path, size: int) -> str | None:
    """Return None when a file is there with its recorded size, else what was found instead."""
    try:
        found = path.stat().st_size
    except OSError as error:
        return f"{path} is gone ({error.strerror})"
    return None if found == size else f"{path} has {found:,} bytes, {size:,} are recorded"


# Writing


def write_whole(path: Path, content: bytes, *, lasting: bool = False) -> None:
    """Write a file so that it appears whole or not at all; a lasting one outlives a power cut once it is there."""
    with _beside(path) as (temporary, file):
        file.write(content)
        if lasting:
            file.flush()
            os.fsync(file.fileno())
        file.close()
        temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that it appears whole or not at all."""
    write_whole(path, json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a temporary file in the target's folder, and leave nothing of it behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        with temporary.open("xb") as file:
            yield temporary, file
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(path, error) from error
        if error.errno in TOO_MANY:
            text = "this process has too many files open; let it open more (ulimit -n), or give fewer max_workers"
            raise TooManyFilesError(f"{path} could not be written: {text}") from error
        raise
    finally:
        with suppress(OSError):  # a full disk must not hide behind a failing clean-up
            temporary.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of this file."""
    for leftover in _old_parts(path.parent):
        if leftover.name.startswith(f".{path.name}."):
            with suppress(OSError):  # gone meanwhile, or not ours to remove
                leftover.unlink(missing_ok=True)


@cache  # reading a large folder again for each file in it would take long
def _old_parts(folder: Path) -> tuple[Path, ...]:
    """Return the temporary files in a folder that are too old to be written to still."""
    latest = time.time() - _LEFTOVER_S
    found = []
    with suppress(OSError):  # a folder that cannot be listed can be written all the same
        for entry in folder.iterdir():
            with suppress(OSError):  # gone meanwhile
                if _PART.fullmatch(entry.name) and entry.stat().st_mtime < latest:
                    found.append(entry)
    return tuple(found)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Name a place beside a file for something that is needed for a moment only, and clear it afterwards."""
    place = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        yield place
    finally:
        with suppress(OSError):  # as in _beside
            place.unlink(missing_ok=True)


def sync_folders(folders: set[Path]) -> None:
    """Make renames in these folders last, where the platform can."""
    for folder in folders:
        with suppress(OSError):  # some file systems refuse to sync a folder; the renames are done all the same
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _no_space(path: Path, error: OSError) -> NoSpaceError:
    return NoSpaceError(
        f"{path} could not be written: {error.strerror}. Free some space and call again: what is here stays"
    )


# Downloading


def download(
    service: _http.Service,
    path: str,
    target: Path,
    *,
    announced_size: int | None,
    prover: Callable[[], FileProver] | None = None,
) -> Proof:
    """Download a file to ``target``; it appears there only when proven whole.

    Parameters
    ----------
    service : Service
        Whom to ask.
    path : str
        What to ask for, below the service's root.
    target : Path
        Where the file belongs.
    announced_size : int or None
        The record's ``file_size`` in bytes; 0 and None say nothing.
    prover : callable, optional
        Makes what proves the file; by default what proves an image.

    Raises
    ------
    RefusedError
        When the server has no such file, or serves one as announced that cannot be proven.
    TransientError, HostGivenUpError
        When no whole answer could be had.
    NoSpaceError
        When the disk is full.
    """
    with _beside(target) as (temporary, file):
        transfer = _Transfer(service, path, file, announced_size, prover or Prover)
        for attempt in service.attempts():
            with attempt:
                proof = transfer.run()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        temporary.replace(target)
    return proof


class _Transfer:
    """One file on its way, over as many connections as it takes; proven while it streams."""

    def __init__(
        self,
        service: _http.Service,
        path: str,
        file: BinaryIO,
        announced_size: int | None,
        new_prover: Callable[[], FileProver],
    ) -> None:
        self._service = service
        self._path = path
        self._file = file
        self._announced = announced_size if announced_size and announced_size > 0 else None
        self._new_prover = new_prover
        self._prover = new_prover()
        self._etag: str | None = None
        self._last_modified: str | None = None
        self._has_length = False

    def run(self) -> Proof:
        """Receive what is missing, and return the proof of the whole."""
        with self._service.get(self._path, headers=self._headers()) as response:
            _judge(response, self._service.name, self._path)
            if response.status_code == 200:
                self._begin(response)
            else:
                self._go_on(response)
            # As sent, not unpacked: a server that calls a .nii.gz "Content-Encoding: gzip" means the file itself.
            for chunk in self._service.chunks(response):
                self._file.write(chunk)
                self._prover.feed(chunk)
                self._check_size(is_whole=False)
        self._check_size(is_whole=True)
        try:
            return self._prover.finish(etag=self._etag, last_modified=self._last_modified)
        except NotWholeError as error:
            raise self._unreadable(error) from error

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        # Only a strong ETag says that the rest belongs to the bytes we have.
        if self._prover.size and self._etag and self._etag.startswith('"'):
            headers |= {"Range": f"bytes={self._prover.size}-", "If-Range": self._etag}
        return headers

    def _begin(self, response: requests.Response) -> None:
        """Forget what came before: this answer begins with the first byte."""
        self._file.seek(0)
        self._file.truncate()
        self._prover = self._new_prover()
        self._etag = response.headers.get("ETag")
        self._last_modified = response.headers.get("Last-Modified")
        length = _length(response)
        self._has_length = length is not None or "Transfer-Encoding" in response.headers
        if self._announced and length is not None and length != self._announced:
            raise self._misfit(length)
        self._prover.expect(length or 0)
        self._check_size(is_whole=False)

    def _go_on(self, response: requests.Response) -> None:
        """Make sure that this answer is the part that was asked for; else ask for the whole next time."""
        part = response.headers.get("Content-Range", "nothing")
        etag = response.headers.get("ETag", self._etag)
        if not part.startswith(f"bytes {self._prover.size}-") or etag != self._etag:
            self._etag = None
            message = f"{self._service.name}: HTTP {response.status_code} with {part} of the file {self._path}"
            raise TransientError(message, status=response.status_code)

    def _check_size(self, *, is_whole: bool) -> None:
        """Raise where the size is not the record's, and for a file without end that cannot be proven anyway."""
        size = self._prover.size
        if self._announced and (size > self._announced or (is_whole and size != self._announced)):
            raise self._misfit(size)
        if self._announced is None and self._prover.trouble:
            raise self._unreadable(self._prover.error(self._prover.trouble))

    def _misfit(self, size: int) -> _http.UnfitAnswerError:
        self._etag = None
        return _http.UnfitAnswerError(f"its record says {self._announced:,} bytes, the server {size:,}")

    def _unreadable(self, error: NotWholeError) -> RefusedError:
        # Without any length, a file that the server has and one that was cut off on its way look the same.
        lasting = self._announced is not None or self._has_length
        return RefusedError(
            f"served as announced and unreadable: {error}", status="corrupt_on_server", lasting=lasting
        )


def _length(response: requests.Response) -> int | None:
    """Return the length an answer announces, None where it announces none that can be true."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _judge(response: requests.Response, name: str, path: str) -> None:
    """Raise unless the answer can be a file, or a part of one."""
    _http.raise_if_transient(response, name)
    status = response.status_code
    if status in (404, 410):
        raise RefusedError(f"HTTP {status} for the file {path}", status="not_found")
    if status not in (200, 206, 416):
        raise RefusedError(f"HTTP {status} for the file {path}", status="failed", lasting=False)
    if status == 200 and response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise TransientError(f"{name}: an HTML page came instead of the file {path}", status=status)


# Proving


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
    with path.open("rb") as file:
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
    further, so a bomb costs little more than the map it pretends to be.
    """

    _gzip: Any = field(default_factory=lambda: zlib.decompressobj(wbits=31))
    _head: bytearray = field(default_factory=bytearray)
    _unpacked: int = 0
    _facts: _Facts | None = None
    error: ClassVar[type[NotWholeError]] = NotAMapError

    def _look_at(self, chunk: bytes) -> None:
        try:
            self._unpack(chunk)
        except zlib.error as error:
            raise NotAMapError(f"not a whole gzip file ({error})") from error

    def _unpack(self, chunk: bytes) -> None:
        while chunk:
            if self._gzip.eof:
                chunk = chunk.lstrip(b"\0")  # padding after the end is harmless, and Python's gzip skips it too
                if not chunk:
                    return
                self._gzip = zlib.decompressobj(wbits=31)
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
    return _Facts(shape, tuple(float(zoom) for zoom in zooms), str(dtype), end)
