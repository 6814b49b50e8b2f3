"""The lock file of a frozen set: which images, with which bytes, as text that people read and compare."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args
from urllib.parse import urlsplit

from nvcatalog import records, storage
from nvcatalog.errors import InvalidOptionError, LockFileError, shown
from nvcatalog.ids import LARGEST
from nvcatalog.known import MapKind
from nvcatalog.records import Record
from nvcatalog.resample import INTERPOLATIONS

FORMAT = "nvcatalog lock file"
#: The newest version of the format that is read here, and the one that is written.
VERSION = 1

Entry = TypeVar("Entry")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FrozenImage:
    """One image of a frozen set.

    Attributes
    ----------
    image_id, collection_id : int
        Which image, and where it was.
    sha256 : str
        Of the file's bytes, in hexadecimal.
    size : int
        How many they are.
    modify_date : datetime or None
        When its record had last changed on the server.
    """

    image_id: int
    collection_id: int
    sha256: str
    size: int
    modify_date: datetime | None


@dataclass(frozen=True)
class FrozenCollection:
    """A collection of a frozen set: its title, the DOIs of its paper and preprint, and whether it is private."""

    collection_id: int
    name: str | None = None
    doi: str | None = None
    preprint_doi: str | None = None
    private: bool = False

    def changed_dois(self, record: Record) -> Iterator[str]:
        """Yield in a sentence which of its DOIs is another one by now, given what its record says."""
        now = records.collection_row(record)
        for name, called in (("doi", "DOI"), ("preprint_doi", "preprint's DOI")):
            frozen = records.normal_doi(getattr(self, name))
            if now[name] != frozen:
                told = f"frozen {frozen or 'without one'}, now {now[name] or 'none'}"
                yield f"the {called} of collection {self.collection_id} has changed: {told}"


@dataclass(frozen=True)
class LockFile:
    """What a lock file says.

    Attributes
    ----------
    images : tuple of FrozenImage
        By collection and id.
    collections : tuple of FrozenCollection
        Those they belong to.
    kind : {'original', 'resampled'}
        Which of their maps were frozen.
    interpolation : str or None
        How those were resampled, where it was not by default.
    server : str or None
        The root of the server that the ids are of.
    selection : mapping
        What the images were chosen by.
    created_at, created_by : str
        When, in ISO format, and by which version of nvcatalog.
    """

    images: tuple[FrozenImage, ...]
    collections: tuple[FrozenCollection, ...] = ()
    kind: MapKind = "original"
    interpolation: str | None = None
    server: str | None = None
    selection: Mapping[str, Any] = field(default_factory=dict)
    created_at: str = ""
    created_by: str = ""


def parse_target(path: object, *, overwrite: bool) -> Path:
    """Return where a lock file is to be, given whether it may take the place of an earlier one.

    Raises
    ------
    InvalidOptionError, InvalidOptionTypeError, LockFileError
        When it is no path, when something is there, and when that is no lock file.
    """
    target = storage.parse_path("path", path, example="maps.lock.json")
    if target.is_dir():
        raise InvalidOptionError(f"{target} is a folder; give the path of a file, such as maps.lock.json")
    if target.exists():
        if not overwrite:
            text = "give another path, or overwrite=True (--overwrite) if it is a lock file to be replaced"
            raise InvalidOptionError(f"{target} is there already: {text}")
        read(target)  # nothing else is replaced
    return target


def write(lock: LockFile, path: Path) -> None:
    """Write a lock file; it appears whole or not at all."""
    storage.write_whole(path, text_of(lock).encode("utf-8", "replace"), lasting=True)


def text_of(lock: LockFile) -> str:
    """Return a lock file's text: JSON each image on a line of its own, so that two can be compared."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "created_at": lock.created_at,
        "created_by": lock.created_by,
        "server": lock.server,
        "selection": lock.selection,
        "kind": lock.kind,
        "interpolation": lock.interpolation,
    }
    parts = [f"  {_json(key)}: {_json(value)}" for key, value in head.items()]
    parts.append(_lines("collections", map(vars, lock.collections)))
    parts.append(_lines("images", map(vars, lock.images)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(name: str, entries: Iterable[Mapping[str, Any]]) -> str:
    lines = ",\n".join(f"    {_json(entry)}" for entry in entries)
    return f"  {_json(name)}: [\n{lines}\n  ]" if lines else f"  {_json(name)}: []"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_iso)


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()


def read(path: str | os.PathLike[str]) -> LockFile:
    """Read a lock file, however its JSON is laid out.

    Raises
    ------
    LockFileError
        When there is none, when it is damaged, and when a newer nvcatalog wrote it; the message names the line.
    """
    try:
        content = Path(path).expanduser().read_bytes()
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LockFileError(
            f"{shown(path)} cannot be read: {reason}. Catalog.freeze writes such a file"
        ) from error
    return _Reader(str(path), content).lock()


class _WrongEntryError(Exception):
    """Says what is wrong with an entry, to be told together with its line."""


class _Reader:
    """Reads one lock file, and knows on which line what is wrong stands."""

    def __init__(self, path: str, content: bytes) -> None:
        self._path = path
        self._text = self._decoded(content)
        self._top = self._parsed()

    def lock(self) -> LockFile:
        """Return what it says."""
        self._check_version()
        kind: Any
        kind, interpolation, server = (self._top.get(name) for name in ("kind", "interpolation", "server"))
        if kind not in get_args(MapKind):
            self._fail(
                f'"kind" is {shown(kind)}, none of {" and ".join(get_args(MapKind))}', self._line_of("kind")
            )
        if interpolation not in (None, *INTERPOLATIONS):
            self._fail(f'"interpolation" is {shown(interpolation)}', self._line_of("interpolation"))
        if server is not None and not _is_root(server):
            self._fail(f'"server" is {shown(server)}, no root of a server', self._line_of("server"))
        images = self._entries("images", _image, lambda image: image.image_id)
        if not images:
            self._fail('"images" is empty, and there is none without an image', self._line_of("images"))
        collections = self._entries("collections", _collection, lambda collection: collection.collection_id)
        self._check_collections(images, collections)
        selection = self._top.get("selection")
        if not isinstance(selection, dict | None):
            self._fail(f'"selection" is {shown(selection)}, no object', self._line_of("selection"))
        return LockFile(
            images,
            collections,
            kind,
            interpolation,
            server,
            selection or {},
            str(self._top.get("created_at", "")),
            str(self._top.get("created_by", "")),
        )

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._fail("it is not UTF-8", content.count(b"\n", 0, error.start) + 1, error)

    def _parsed(self) -> dict[str, Any]:
        try:
            top = _DECODER.decode(self._text)
        except json.JSONDecodeError as error:
            self._fail(f"it is no whole JSON ({error.msg})", error.lineno, error)
        except RecursionError as error:
            self._fail("it is nested too deeply", 1, error)
        except _TwiceError as error:
            name, offset = next(_repeated(self._text))
            self._fail(f"{name} is there twice in one object", self._line_at(offset), error)
        if not isinstance(top, dict) or top.get("format") != FORMAT:
            self._fail(f'it is no lock file: its "format" is not "{FORMAT}"', 1)
        return top

    def _check_version(self) -> None:
        version: Any = self._top.get("version")
        if not _is_number(version):
            self._fail(f'"version" is {shown(version)}, no version', self._line_of("version"))
        if version > VERSION:
            self._fail(
                f"it is of version {shown(version)}, and this nvcatalog reads up to {VERSION}: "
                "pip install --upgrade nvcatalog",
                self._line_of("version"),
            )

    def _entries(
        self, name: str, shape: Callable[[Any], Entry], id_of: Callable[[Entry], int]
    ) -> tuple[Entry, ...]:
        listed = self._top.get(name)
        if not isinstance(listed, list):
            what = f'"{name}" is {shown(listed)}, no list' if name in self._top else f'it has no "{name}"'
            self._fail(what, self._line_of(name))
        entries: dict[int, Entry] = {}
        for place, value in enumerate(listed):
            try:
                entry = shape(value)
                if id_of(entry) in entries:
                    raise _WrongEntryError(f"{id_of(entry)} is there twice")
            except _WrongEntryError as error:
                self._fail(f'"{name}": {error}', self._line_of_entry(name, place), error)
            entries[id_of(entry)] = entry
        return tuple(entries.values())

    def _check_collections(self, images: Sequence[FrozenImage], collections: Sequence[FrozenCollection]) -> None:
        named = {collection.collection_id for collection in collections}
        for place, image in enumerate(images):
            if image.collection_id not in named:
                reason = f'collection_id is {image.collection_id}, which "collections" has not'
                self._fail(f'"images": {reason}', self._line_of_entry("images", place))

    def _line_of(self, name: str) -> int:
        if name not in self._top:
            return 1
        found = re.search(rf'^\s*"{name}"\s*:', self._text, re.MULTILINE) or re.search(rf'"{name}"', self._text)
        return self._line_at(self._text.index('"', found.start())) if found else 1  # escaped, letter by letter

    def _line_of_entry(self, name: str, place: int) -> int:
        """Walk through the list once more: Python's own reader does not tell where it found what."""
        for found in re.finditer(rf'"{name}"\s*:\s*(?=\[)', self._text):
            starts = _starts(self._text, found.end())
            if len(starts) == len(self._top[name]):
                return self._line_at(starts[place])
        return self._line_of(name)

    def _line_at(self, offset: int) -> int:
        return self._text.count("\n", 0, offset) + 1

    def _fail(self, reason: str, line: int, cause: Exception | None = None) -> NoReturn:
        raise LockFileError(f"{self._path}, line {line}: {reason}") from cause


def _starts(text: str, start: int) -> list[int]:
    """Return where each entry of a list of JSON begins."""
    return list(_each_start(text, start + 1))


def _each_start(text: str, place: int) -> Iterator[int]:
    between = re.compile(r"[\s,]*")
    while (found := between.match(text, place)) and text[found.end()] != "]":
        yield found.end()
        _, place = _DECODER.raw_decode(text, found.end())


class _TwiceError(Exception):
    """Says that an object of JSON has a name twice: one of the two values would be lost."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise _TwiceError
    return entries


def _repeated(text: str) -> Iterator[tuple[str, int]]:
    """Yield the names that an object of JSON has had before, and where they stand."""
    names: list[set[str]] = []
    for found in re.finditer(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}]', text):
        if found[0] == "{":
            names.append(set())
        elif found[0] == "}":
            names.pop()
        elif found[2]:
            name = json.loads(found[1])
            if name in names[-1]:
                yield found[1], found.start()
            names[-1].add(name)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


# What is no JSON, such as NaN, and what no column could hold become values that no field may have.
_DECODER = json.JSONDecoder(parse_constant=str, parse_int=_whole, object_pairs_hook=_each_once)


def _image(value: Any) -> FrozenImage:
    entry = _object(value)
    sha256: Any = entry.get("sha256")
    size: Any = entry.get("size")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise _WrongEntryError(f"sha256 is {shown(sha256)}, not 64 hexadecimal digits")
    if not _is_number(size):
        raise _WrongEntryError(f"size is {shown(size)}, no number of bytes")
    return FrozenImage(_id(entry, "image_id"), _id(entry, "collection_id"), sha256, size, _moment(entry))


def _collection(value: Any) -> FrozenCollection:
    entry = _object(value)
    name, doi, preprint_doi = texts = [entry.get(key) for key in ("name", "doi", "preprint_doi")]
    if wrong := [text for text in texts if not isinstance(text, str | None)]:
        raise _WrongEntryError(f"{shown(wrong[0])} is no text")
    private = entry.get("private", False)
    if not isinstance(private, bool):
        raise _WrongEntryError(f"private is {shown(private)}, neither true nor false")
    return FrozenCollection(_id(entry, "collection_id"), name, doi, preprint_doi, private)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongEntryError(f"{shown(value)} is no object")
    return value


def _id(entry: Mapping[str, Any], name: str) -> int:
    value: Any = entry.get(name)
    if not _is_number(value) or value > LARGEST:
        raise _WrongEntryError(f"{name} is {shown(value)}, no id")
    return int(value)


def _moment(entry: Mapping[str, Any]) -> datetime | None:
    value: Any = entry.get("modify_date")
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _WrongEntryError(f"modify_date is {shown(value)}, no time with its offset")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_root(value: Any) -> bool:
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
    except ValueError:
        return False
    return parts is not None and parts.scheme in ("http", "https") and bool(parts.netloc)
