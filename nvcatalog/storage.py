"""Files on disk: where they belong, and how they get there."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import requests

from nvcatalog import _http
from nvcatalog.errors import (
    DataDirError,
    FolderWarning,
    InvalidOptionError,
    InvalidOptionTypeError,
    NoSpaceError,
    RefusedError,
    TooManyFilesError,
    TransientError,
    shown,
)
from nvcatalog.proving import FileProver, NotWholeError, Proof, Prover, open_file

SUBFOLDER = "neurovault"
_CHUNK = 1 << 18
_PART = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.part")
#: Temporary files older than this were left by a process that was killed.
LEFTOVER_S = 24 * 3600.0
# How much of an answer may have come without having been looked at.
_CHUNKS_AHEAD = 4
_CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Downloaded data; see https://bford.info/cachedir/\n"
)


#: The snapshots in a data folder, and the file there that names the newest.
SNAPSHOTS, CURRENT_SNAPSHOT = "snapshots", "CURRENT"
#: What the system answers when no further file can be opened.
TOO_MANY = (errno.EMFILE, errno.ENFILE)


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
    for number, folder in enumerate(places):
        if folder.is_dir():
            passed_over = next(filter(_could_be_made, places[:number]), None)
            if passed_over and data_dir is None and trouble is None and number == len(places) - 1:
                _tell_of_default(folder, passed_over)
            return folder.resolve()
    for folder in places:
        if _could_be_made(folder):
            return folder.resolve()
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
        check_opens(folder)
        if stat.S_ISDIR(folder.stat().st_mode) and not os.access(folder, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "this user may not look into it")
    except (FileNotFoundError, NotADirectoryError):
        pass  # it may be made
    except (RuntimeError, ValueError, OSError) as error:  # as from "~nobody", a zero byte, too long a name
        reason = getattr(error, "strerror", None) or error
        raise DataDirError(f"{place!r} cannot hold the data: {reason}. Give another data_dir") from error
    return folder


def check_opens(folder: Path) -> None:
    r"""Raise a ValueError where DuckDB opens no database: to it, ``\`` is ``/``, and options follow a ``?``."""
    name = str(folder.resolve())
    name.encode()
    for character in "?\\" if os.sep == "/" else "?":
        if character in name:
            raise ValueError(f"DuckDB opens no database in a folder with {character} in its name")


def _places(data_dir: str | os.PathLike[str] | None) -> list[str]:
    if data_dir is not None:
        # Text would be made of anything at all, and a folder of that name.
        if not isinstance(data_dir, str | os.PathLike):
            raise InvalidOptionTypeError(f"data_dir is {data_dir!r}, a {type(data_dir).__name__}; give a path")
        return str(data_dir).split(os.pathsep)
    variables = (os.environ.get(name) for name in ("NILEARN_SHARED_DATA", "NILEARN_DATA"))
    listed = [place for value in variables if value is not None for place in value.split(os.pathsep)]
    return [*listed, "~/nilearn_data"]


@cache  # said once, however many calls follow
def _tell_of_default(default: Path, named: Path) -> None:
    text = (
        f"{default} is used, as nilearn uses it: it is there, and {named}, which NILEARN_SHARED_DATA or "
        f"NILEARN_DATA names, is not there yet. To use that one, make it, or give data_dir={str(named.parent)!r}"
    )
    warnings.warn(text, FolderWarning, stacklevel=4)


def _could_be_made(folder: Path) -> bool:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def make_folder(folder: Path) -> None:
    """Make the data folder, and tag it as one that backups may skip.

    Raises
    ------
    DataDirError
        When it cannot be made.
    NoSpaceError
        When the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tag = folder / "CACHEDIR.TAG"
        if not tag.exists():
            write_whole(tag, _CACHEDIR_TAG.encode())
            write_whole(folder / "README.md", _README.encode())
    except NoSpaceError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(folder, error) from error
        raise DataDirError(f"{folder} cannot be made: {error.strerror or error}. Give another data_dir") from error


_README = """# Brain maps from NeuroVault

Kept by nvcatalog, readable by nilearn. `collection_<id>/` holds maps and their metadata, `catalog.duckdb` all that
is known about them, `snapshots/` the same as Parquet for dataframe tools (the newest is named in `CURRENT`).
"""


def parse_path(what: str, given: object, *, example: str) -> Path:
    """Return the path at which a caller wants something written.

    Parameters
    ----------
    what : str
        What the caller knows it by, such as "target".
    given : object
        What was typed.
    example : str
        A path that would do.

    Raises
    ------
    InvalidOptionTypeError
        When it is no path.
    InvalidOptionError
        When no file can be of that name: too long, with a zero byte, in the home of nobody.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise InvalidOptionTypeError(
            f"{what} is {shown(given)}, a {type(given).__name__}; give a path, such as {example!r}"
        )
    try:
        path = Path(text).expanduser().absolute()
        str(path.resolve()).encode()  # DuckDB opens no other names
        with scratch(path) as longest:
            longest.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # whoever writes there says so
    except (RuntimeError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise InvalidOptionError(
            f"{what} is {shown(given)}: {reason}; give another path, such as {example!r}"
        ) from error
    return path


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


def identity(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from one that has taken its place since, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_file(path: Path) -> bytes:
    """Return what a file holds; raises an OSError where there is none, or a pipe in its place."""
    with open_file(path) as file:
        return file.read()


def place(folder: Path, relative: str) -> str:
    """Return where a file is, as text: to join paths takes longer than to look, for every image of an answer.

    The path of one in a base folder is absolute already.
    """
    is_whole = os.path.isabs(relative)  # noqa: PTH117 - as above
    return relative if is_whole else f"{folder}{os.sep}{relative}"


def why_not_here(path: Path | str, size: int) -> str | None:
    """Return None when a file is there with its recorded size, else what was found instead."""
    try:
        found = os.stat(path).st_size  # noqa: PTH116 - it may be text
    except OSError as error:
        return f"{path} is gone ({error.strerror})"
    return None if found == size else f"{path} has {found:,} bytes, {size:,} are recorded"


# Writing


def write_whole(
    path: Path, content: bytes, *, lasting: bool = False, before: Callable[[], None] | None = None
) -> None:
    """Write a file so that it appears whole or not at all; a lasting one outlives a power cut once it is there.

    What is to be done right before it appears is done where it appears.
    """
    with _beside(path) as (temporary, file):
        file.write(content)
        if lasting:
            file.flush()
            os.fsync(file.fileno())
        file.close()
        if before is not None:
            before()
        temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that it appears whole or not at all."""
    write_whole(path, json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; where the file system cannot, or must not, copy it."""
    try:
        target.hardlink_to(source)
    except OSError:
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # it may have been the folder that was missing
            target.hardlink_to(source)
            return
        shutil.copyfile(source, target)


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
    latest = time.time() - LEFTOVER_S
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
    before: Callable[[], None] | None = None,
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
    before : callable, optional
        Called right before the file takes its place.

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
        if before is not None:
            before()
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
        self._in_parts = False
        self._waiting: deque[bytes] = deque()

    def run(self) -> Proof:
        """Receive what is missing, and return the proof of the whole."""
        self._waiting.clear()
        try:
            with self._service.get(self._path, headers=self._headers()) as response:
                _judge(response, self._service.name, self._path)
                if response.status_code == 200:
                    self._begin(response)
                else:
                    self._go_on(response)
                # As sent, not unpacked: a .nii.gz that is "Content-Encoding: gzip" is the file itself.
                for chunk in self._service.chunks(response):
                    self._waiting.append(chunk)
                    if len(self._waiting) > _CHUNKS_AHEAD:
                        self._take()
        finally:  # the connection serves the next file while the last bytes of this one are looked at
            while self._waiting:
                self._take()
        self._check_size(is_whole=True)
        try:
            return self._prover.finish(etag=self._etag, last_modified=self._last_modified)
        except NotWholeError as error:
            raise self._unreadable(error) from error

    def _take(self) -> None:
        """Write the bytes that have waited longest, and look at them."""
        chunk = self._waiting.popleft()
        self._prover.feed(chunk)
        if self._prover.trouble is None:  # the rest only shows whether it came as announced, and needs no room
            self._file.write(chunk)
        self._check_size(is_whole=False)

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
        self._in_parts = False
        self._etag = response.headers.get("ETag")
        self._last_modified = response.headers.get("Last-Modified")
        length = _length(response)
        self._has_length = length is not None or "Transfer-Encoding" in response.headers
        if self._announced and length is not None and length != self._announced:
            raise self._misfit(length)
        self._prover.expect(length or self._announced or 0)
        self._check_size(is_whole=False)

    def _go_on(self, response: requests.Response) -> None:
        """Make sure that this answer is the part that was asked for; else ask for the whole next time."""
        part = response.headers.get("Content-Range", "nothing")
        etag = response.headers.get("ETag", self._etag)
        if not part.startswith(f"bytes {self._prover.size}-") or etag != self._etag:
            self._etag = None
            message = f"{self._service.name}: HTTP {response.status_code} with {part} of the file {self._path}"
            raise TransientError(message, status=response.status_code)
        self._in_parts = True

    def _check_size(self, *, is_whole: bool) -> None:
        """Raise where the size is not the record's, and for a file without end that cannot be proven anyway."""
        size = self._prover.size
        if self._announced and (size > self._announced or (is_whole and size != self._announced)):
            raise self._misfit(size)
        largest = self._prover.largest
        is_endless = self._announced is None or (largest is not None and self._announced > largest)
        if is_endless and self._prover.trouble:
            raise self._unreadable(self._prover.error(self._prover.trouble))

    def _misfit(self, size: int) -> _http.UnfitAnswerError:
        self._etag = None
        return _http.UnfitAnswerError(f"its record says {self._announced:,} bytes, the server {size:,}")

    def _unreadable(self, error: NotWholeError) -> RefusedError | TransientError:
        if self._in_parts:  # which may be parts of different files, whatever their ETags say: begin anew
            self._etag = None
            return _http.UnfitAnswerError(f"{self._service.name}: its parts make no file: {error}")
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
