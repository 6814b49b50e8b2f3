"""The snapshots of a folder: which there are, what they say of themselves, and how long they are kept."""

from __future__ import annotations

import difflib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from filelock import BaseFileLock, Timeout

from nvcatalog._locks import file_lock, lock_of, lock_timeout_s
from nvcatalog.errors import InvalidOptionError, SnapshotError, shown
from nvcatalog.parts import is_as_written
from nvcatalog.storage import CURRENT_SNAPSHOT, SNAPSHOTS, is_file, write_whole

FOLDER, CURRENT = SNAPSHOTS, CURRENT_SNAPSHOT
MANIFEST = "manifest.json"
#: A link to the newest, where the platform has such links.
LATEST = "latest"
KEPT = 3

# Where those who read a snapshot say so: it is kept for so long.
_HELD = ".held"
_TIMED = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]+")
_FILE = re.compile(r"[a-z_]+/part-[0-9]{1,20}\.parquet")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?<![.])")
_LONGEST_NAME = 200  # what says who reads it has a longer one
_TAKEN_NAMES = ("current", LATEST, MANIFEST)


def newest(home: Path) -> Path | None:
    """Return the folder of the newest snapshot whose manifest is sound, None where there is none."""
    named = current(home)
    if named is None or _why_damaged(named) is None:
        return named
    older = (place for place in reversed(_complete(home)) if _TIMED.fullmatch(place.name))
    return next((place for place in older if _why_damaged(place) is None), None)


def why_passed_over(home: Path) -> str | None:
    """Return why the snapshot that is named as the newest is not used, None where it is, or there is none."""
    named = current(home)
    return None if named is None else _why_damaged(named)


def current(home: Path) -> Path | None:
    """Return the folder of the snapshot that is named as the newest, sound or not."""
    try:
        place = home / (home / CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return place if place.parent == home and (place / MANIFEST).is_file() else None


def find(home: Path, name: str | os.PathLike[str]) -> Path:
    """Return the folder of a snapshot, given its name, or the folder itself, which may be another catalog's.

    Raises
    ------
    InvalidOptionError
        When there is none; the message lists those that exist.
    """
    is_path = isinstance(name, os.PathLike) or (isinstance(name, str) and os.sep in name)
    path = os.fspath(name) if is_path else None
    place = Path(path) if isinstance(path, str) else home / name if _is_name(name) else None
    if place is not None and is_file(place / MANIFEST):
        return place.resolve()  # "latest" is another one tomorrow
    there = [place.name for place in _complete(home)]
    there += [LATEST] if is_file(home / LATEST / MANIFEST) else []
    close = difflib.get_close_matches(str(name), there, n=3)
    near = f"; did you mean {' or '.join(close)}?" if close else ""
    listed = ", ".join(there) or "none"
    raise InvalidOptionError(
        f"snapshot is {shown(name)}, and {home} has none of that name; there are: {listed}{near}"
    )


def check_is_free(home: Path, name: str) -> None:
    """Refuse a name that cannot be a folder's of its own among the snapshots, or is one's already.

    Raises
    ------
    InvalidOptionError
        With what is wrong with it.
    """
    if not _is_name(name):
        raise InvalidOptionError(
            f"name is {shown(name)}; a snapshot's name is one of letters, digits, '_', '-' and '.', "
            f"{_LONGEST_NAME} at most, such as paper-v1"
        )
    if name.lower() in _TAKEN_NAMES or _TIMED.fullmatch(name):
        raise InvalidOptionError(f"name is {name!r}, which means something else in {home}; give another")
    if (home / name).exists():
        raise InvalidOptionError(f"name is {name!r}, and {home / name} is there already: give another")


def prune(home: Path, *, keep: Path) -> None:
    """Keep the last few, those that have a name, and those that somebody reads."""
    timed = [place for place in _complete(home) if _TIMED.fullmatch(place.name)]
    for place in timed[:-KEPT]:
        if place != keep and not _is_held(place):  # a clock that was set back makes the newest look old
            shutil.rmtree(place, ignore_errors=True)


def order(place: Path) -> tuple[str, int]:
    """Return what snapshots are sorted by: when they were taken, and their number within that second."""
    moment, _, number = place.name.partition("-")
    return moment, int(number) if number.isdigit() else 0


def _is_name(name: object) -> bool:
    return isinstance(name, str) and len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def _complete(home: Path) -> list[Path]:
    """Return the folders of complete snapshots, the oldest first."""
    if not home.is_dir():
        return []
    places = (place for place in home.iterdir() if (place / MANIFEST).is_file() and not place.is_symlink())
    return sorted((place for place in places if place.name != LATEST), key=order)


# What they say of themselves


def read_manifest(place: Path) -> dict[str, Any]:
    """Return what a snapshot says of itself.

    Raises
    ------
    SnapshotError
        When it cannot be read, or is not what a snapshot says.
    """
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        _check_manifest(manifest)
    except (OSError, ValueError, RecursionError) as error:
        raise SnapshotError(f"{place / MANIFEST} cannot be read: {error}") from error
    return cast("dict[str, Any]", manifest)


# An older version did not say as much; a newer one may say more.
_KINDS = {"schema_version": int, "rows": dict, "layouts": dict, "files": dict}
_KINDS_OF_FILE = {"rows": int, "bytes": int, "sha256": str, "key": str}
_KINDS_OF_LAYOUT = {"numbers_a_file": int, "origin": str}


def _check_manifest(manifest: Any) -> None:
    """Raise ValueError where what was read cannot be what a snapshot says of itself."""
    _check_kinds("it", manifest, {})
    _check_kinds("it", manifest, {name: kind for name, kind in _KINDS.items() if name in manifest})
    rows = manifest.get("rows", {})
    _check_kinds("rows", rows, dict.fromkeys(rows, int))
    for path, entry in manifest.get("files", {}).items():
        if not _FILE.fullmatch(path):
            raise ValueError(f"files has {shown(path)}, which is no file of a snapshot")
        _check_kinds(path, entry, _KINDS_OF_FILE)
    for table, layout in manifest.get("layouts", {}).items():
        _check_kinds(f"layouts: {shown(table)}", layout, _KINDS_OF_LAYOUT)


def _check_kinds(what: str, value: Any, kinds: Mapping[str, type]) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {shown(value)}, where names with values belong")
    for name, kind in kinds.items():
        if not isinstance(value.get(name), kind):
            found = shown(value[name]) if name in value else "not there"
            raise ValueError(f"{what}: {name} is {found}, where {_MEANT[kind]} belongs")


_MEANT = {int: "a whole number", str: "a text", dict: "an object"}


def _why_damaged(place: Path) -> str | None:
    try:
        read_manifest(place)
    except SnapshotError as error:
        return str(error)
    return None


def write_manifest(place: Path, manifest: dict[str, Any]) -> None:
    """Write what a snapshot says of itself: last of all, since it is complete then."""
    about = {name: value for name, value in manifest.items() if name != "files"}
    # A line a file: that can be read, and is written ten times as fast as what Python would indent itself.
    files = ",\n".join(f"    {json.dumps(path)}: {json.dumps(entry)}" for path, entry in manifest["files"].items())
    text = f'{json.dumps(about, indent=2)[:-2]},\n  "files": {{\n{files}\n  }}\n}}\n'
    write_whole(place / MANIFEST, text.encode())


def manifest_with_files(place: Path | None) -> dict[str, Any]:
    """Return what a snapshot says of itself; nothing where it is damaged, or older than lists of files."""
    try:
        manifest = {} if place is None else read_manifest(place)
    except SnapshotError:
        return {}
    return manifest if "files" in manifest else {}


def files_of(place: Path) -> dict[str, dict[Path, str | None]]:
    """Return the files of each table of a snapshot, with the SHA-256 of each where the manifest has it.

    Raises
    ------
    SnapshotError
        When the manifest cannot be read, or a file that it names is not there as it was written.
    """
    manifest = read_manifest(place)
    # An older version did not list them. What else lies there, such as a copy of a sync tool's, is no part of it.
    told = manifest.get("files", {path.relative_to(place).as_posix(): {} for path in place.glob("*/*.parquet")})
    files: dict[str, dict[Path, str | None]] = {}
    for path, entry in sorted(told.items()):
        if entry:
            _check_file(place / path, entry)
        files.setdefault((place / path).parent.name, {})[place / path] = entry.get("sha256")
    return files


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    try:
        found = None if is_as_written(path, entry, every_byte=False) else "is not as it was written"
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
    if found:
        raise SnapshotError(f"{path} {found}, so this snapshot is damaged: ask another one, or take one now")


def age(place: Path) -> str:
    """Say how old a snapshot is, such as ``3 hours``."""
    try:
        taken_at = datetime.fromisoformat(read_manifest(place)["created_at"])
        seconds = (datetime.now(UTC) - taken_at).total_seconds()
    except (KeyError, TypeError, ValueError):
        seconds = time.time() - (place / MANIFEST).stat().st_mtime
    for unit, length_s in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds // length_s:.0f} {unit}s"
    return f"{max(0.0, seconds):.0f} seconds"


# Who reads them


def hold(place: Path) -> tuple[Path, Callable[[], None]]:
    """Keep a snapshot from being removed for as long as this process reads it.

    Returns
    -------
    place : Path
        The snapshot's folder; a newer one's, should it have been removed just now.
    let_go : callable
        Ends it. So does the end of the process, however it comes.

    Raises
    ------
    SnapshotError
        When it is gone, and there is no newer one.
    """
    while True:
        lock = _mark_as_held(place)
        let_go = partial(_let_go, lock, os.getpid())
        if (place / MANIFEST).is_file():
            return place, let_go
        let_go()
        newer = newest(place.parent)
        if newer is None or newer == place:
            raise SnapshotError(f"{place} has been removed")
        place = newer


def _mark_as_held(place: Path) -> BaseFileLock | None:
    """Lock a file that says who reads; None where nobody removes snapshots, or nothing can be written."""
    if not (place.parent / CURRENT).is_file():
        return None
    mark = place.parent / _HELD / f"{place.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        mark.parent.mkdir(exist_ok=True)
        return file_lock(mark).acquire(timeout=lock_timeout_s()).lock
    except (OSError, Timeout):
        return None


def _let_go(lock: BaseFileLock | None, holder: int) -> None:
    if lock is not None and os.getpid() == holder:  # a forked child has it too, and its end is not the holder's
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)


def _is_held(place: Path) -> bool:
    """Whether somebody reads a snapshot; the marks of those who ended without a word are cleared away."""
    for mark in (place.parent / _HELD).glob(f"{place.name}.*"):
        lock = lock_of(mark)
        try:
            lock.acquire(timeout=0)
        except (OSError, Timeout):
            if mark.exists():  # not so where one who has ended was cleared away by just this
                return True
        else:
            _let_go(lock, os.getpid())
    return False
