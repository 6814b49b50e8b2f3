"""Publish the catalog as Parquet: a folder that is complete or not there, readable by any dataframe tool."""

from __future__ import annotations

import atexit
import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from filelock import FileLock, Timeout

from nvcatalog import __version__, parts
from nvcatalog._store import Store, lock_timeout_s
from nvcatalog.errors import InvalidOptionError, NVCatalogError, SnapshotError, SnapshotWarning
from nvcatalog.storage import link_or_copy, write_whole

FOLDER = "snapshots"
CURRENT = "CURRENT"
MANIFEST = "manifest.json"
KEPT = 3
EVERY_S = 10.0
# A catalog is kept open for so long and not longer, unless others land faster than a snapshot of it is written.
HELD_S = 0.5
_PATIENCE_S = 60.0

_LICENCES = {
    "records": "CC0-1.0, NeuroVault (https://neurovault.org)",
    "terms, words": "ODbL-1.0, Neurosynth (https://neurosynth.org)",
}

# Where those who read a snapshot say so, that it is kept for so long.
_HELD = ".held"
_TIMED = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?<![.])")
_TAKEN_NAMES = ("current", "latest", MANIFEST)

_waiting: dict[Path, Store] = {}


def publish(store: Store) -> str | None:
    """Publish what has landed; within 10 s of the last snapshot it waits for the process to end.

    Returns
    -------
    str or None
        Why it could not be published, for the caller to warn of: the catalog itself is fine.
    """
    if _age_s(store.folder) < EVERY_S:
        _waiting[store.path] = store
        return None
    return _trouble_with(store)


def is_behind(store: Store) -> bool:
    """Whether something landed after the last snapshot, such as when a process was killed before it published."""
    place = newest(store)
    if place is None:
        return store.exists
    manifest = _own_manifest(place)
    if not store.exists or manifest.get("catalog") == store.state:
        return False
    if not store.is_as_noted:
        return True
    try:
        with store.reading() as connection:
            wanted = parts.View(connection).parts(parts.layouts_of(manifest))
    except NVCatalogError:  # publishing says why
        return True
    files = manifest.get("files", {})
    return {part.path: part.key for part in wanted} != {path: entry.get("key") for path, entry in files.items()}


@atexit.register
def publish_waiting() -> None:
    """Publish what waits; called when the process ends, and before anybody reads a snapshot here."""
    while _waiting:
        store = _waiting.popitem()[1]
        trouble = _trouble_with(store) if store.exists else None  # a temporary folder may be gone by now
        if trouble:
            warnings.warn(trouble, SnapshotWarning, stacklevel=2)


if hasattr(os, "register_at_fork"):  # what waits in the parent, the parent publishes
    os.register_at_fork(after_in_child=_waiting.clear)


def catch_up(store: Store) -> str | None:
    """Publish now what landed since the last snapshot; return why where that fails, as :func:`publish` does."""
    return _trouble_with(store) if store.exists and is_behind(store) else None


# Finding


def newest(store: Store) -> Path | None:
    """Return the folder of the newest snapshot, None where there is none."""
    home = store.folder / FOLDER
    try:
        place = home / (home / CURRENT).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return place if place.parent == home and (place / MANIFEST).is_file() else None


def find(store: Store, name: str) -> Path:
    """Return the folder of the snapshot of a name.

    Raises
    ------
    InvalidOptionError
        When there is none; the message lists those that exist.
    """
    home = store.folder / FOLDER
    if isinstance(name, str) and _NAME.fullmatch(name) and (home / name / MANIFEST).is_file():
        return home / name
    there = ", ".join(place.name for place in _complete(home)) or "none"
    raise InvalidOptionError(
        f"snapshot is {name!r}, and there is no snapshot of that name in {home}; there are: {there}"
    )


def hold(store: Store, place: Path) -> tuple[Path, Callable[[], None]]:
    """Keep a snapshot from being removed for as long as this process reads it.

    Returns
    -------
    place : Path
        The snapshot's folder; a newer one, should it have been removed just now.
    let_go : callable
        Ends it. So does the end of the process, however it comes.
    """
    while True:
        lock = _mark_as_held(place)
        if (place / MANIFEST).is_file():
            return place, partial(_let_go, lock)
        _let_go(lock)
        newer = newest(store)
        if newer is None or newer == place:
            raise SnapshotError(f"{place} has been removed")
        place = newer


def read_manifest(place: Path) -> dict[str, Any]:
    """Return what a snapshot says about itself.

    Raises
    ------
    SnapshotError
        When it cannot be read.
    """
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{place / MANIFEST} cannot be read: {error}") from error
    return manifest if isinstance(manifest, dict) else {}


def _own_manifest(place: Path | None) -> dict[str, Any]:
    """Return what a snapshot says about itself; nothing where it is damaged, or older than lists of files."""
    try:
        manifest = {} if place is None else read_manifest(place)
    except SnapshotError:
        return {}
    return manifest if isinstance(manifest.get("files"), dict) else {}


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


def _mark_as_held(place: Path) -> FileLock | None:
    """Lock a file that says who reads; None where nothing can be written, and so nothing be removed either."""
    mark = place.parent / _HELD / f"{place.name}.{os.getpid()}-{secrets.token_hex(4)}"
    lock = FileLock(mark, timeout=1.0, mode=0o666, thread_local=False)
    try:
        mark.parent.mkdir(exist_ok=True)
        lock.acquire()
    except (OSError, Timeout):
        return None
    return lock


def _let_go(lock: FileLock | None) -> None:
    if lock is not None:
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)


def _is_held(place: Path) -> bool:
    """Whether somebody reads a snapshot; marks of those who ended without a word are cleared away."""
    for mark in (place.parent / _HELD).glob(f"{place.name}.*"):
        lock = FileLock(mark, mode=0o666)
        try:
            lock.acquire(timeout=0)
        except (OSError, Timeout):
            return True
        _let_go(lock)
    return False


# Taking


def _trouble_with(store: Store) -> str | None:
    try:
        take(store)
    except NVCatalogError as error:
        return f"The Parquet snapshot was not published: {error}"
    return None


def take(store: Store, name: str | None = None, *, whole: bool = False) -> Path:
    """Write a snapshot now, and return its folder.

    Parameters
    ----------
    store : Store
        The catalog.
    name : str or None
        A name to keep it by for good; without one it is kept until three newer ones are there.
    whole : bool
        Whether files that have not changed are written anew too.

    Returns
    -------
    Path
        ``<folder>/snapshots/<time>-<n>``, or of that name: ``manifest.json``, and a folder of Parquet a table.

    Raises
    ------
    InvalidOptionError
        When it cannot have this name.
    SnapshotError
        When it cannot be written, or there is no catalog yet.
    CatalogLockedError
        When another process keeps the catalog open.
    """
    if name is not None:
        _check_is_free(store, name)
    if not store.exists:
        raise SnapshotError(f"{store.folder} has no catalog yet: fetch something, or adopt() what is there")
    _waiting.pop(store.path, None)
    home = store.folder / FOLDER
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".lock", timeout=lock_timeout_s(), mode=0o666):
            _sweep(home)
            snapshot = _write(store, home, newest(store), whole=whole)
            _make_current(home, snapshot)
            _prune(home, keep=snapshot)
            return snapshot if name is None else _name_it(home, snapshot, name)
    except (OSError, duckdb.Error) as error:
        raise SnapshotError(f"{home}: {str(error).splitlines()[0]}") from error


def _check_is_free(store: Store, name: str) -> None:
    """Refuse what cannot be a folder of its own among the snapshots, or is one already."""
    home = store.folder / FOLDER
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidOptionError(
            f"name is {name!r}; a snapshot's name is one of letters, digits, '_', '-' and '.', such as paper-v1"
        )
    if name.lower() in _TAKEN_NAMES or _TIMED.fullmatch(name):
        raise InvalidOptionError(f"name is {name!r}, which means something else in {home}; give another")
    if (home / name).exists():
        raise InvalidOptionError(f"name is {name!r}, and {home / name} is there already: give another")


def _age_s(folder: Path) -> float:
    try:
        return time.time() - (folder / FOLDER / CURRENT).stat().st_mtime
    except OSError:
        return float("inf")


def _sweep(home: Path) -> None:
    """Remove what a killed process left: whoever writes holds the lock, so nobody is at it any more."""
    for leftover in home.glob(".*.part"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()


def _write(store: Store, home: Path, former: Path | None, *, whole: bool) -> Path:
    """Write into a hidden folder, and rename it when it is complete."""
    hidden = home / f".{os.getpid()}.part"
    try:
        files = _Files(hidden, None if whole else former)
        files.fill(store)
        write_whole(hidden / MANIFEST, json.dumps(files.manifest(), indent=1).encode())
        return _name(home, hidden)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)  # gone already when all went well


class _Files:
    """The files of a snapshot that is being written; what has not changed are those of the former one."""

    def __init__(self, folder: Path, former: Path | None) -> None:
        self._folder = folder
        self._former = former
        manifest = _own_manifest(former)
        self._theirs: dict[str, dict[str, Any]] = manifest.get("files", {})
        self._layouts = parts.layouts_of(manifest)
        self._done: dict[str, dict[str, Any]] = {}
        self._schema_version = 0
        self._seen = ""

    def fill(self, store: Store) -> None:
        """Write all files, in short reads of the catalog: again, where something landed in between."""
        patient_until = time.monotonic() + _PATIENCE_S
        while True:
            store.heed_others()
            with store.reading() as connection:
                # If others land faster than that, it is read to the end at last.
                release_at = time.monotonic() + (HELD_S if time.monotonic() < patient_until else float("inf"))
                done = self._go_on(parts.View(connection), release_at)
                self._seen = store.state
                if done and (store.is_as_noted or time.monotonic() > patient_until):
                    return
            store.give_way()

    def _go_on(self, view: parts.View, release_at: float) -> bool:
        """Write files until it is time to let others at the catalog, and return whether all is as it is there."""
        wanted = view.parts(self._layouts)
        self._schema_version = view.schema_version
        for path in self._done.keys() - {part.path for part in wanted}:
            self._remove(path)
        for part in wanted:
            if self._done.get(part.path, {}).get("key") == part.key:
                continue
            if time.monotonic() > release_at:
                return False
            self._remove(part.path)
            self._done[part.path] = self._take_over(part) or view.write(part, self._folder)
        return True

    def _remove(self, path: str) -> None:
        # Never written over: it may be the former snapshot's file, by another name.
        (self._folder / path).unlink(missing_ok=True)
        self._done.pop(path, None)

    def _take_over(self, part: parts.Part) -> dict[str, Any] | None:
        """Take the former snapshot's file where it depends on the same, and is there as it was written."""
        entry = self._theirs.get(part.path)
        if self._former is None or entry is None or entry.get("key") != part.key:
            return None
        former = self._former / part.path
        if not former.is_file() or former.stat().st_size != entry["bytes"]:
            return None
        link_or_copy(former, self._folder / part.path)
        return entry

    def manifest(self) -> dict[str, Any]:
        """Return what the snapshot says of itself."""
        rows = dict.fromkeys(parts.TABLES, 0)
        for path, entry in self._done.items():
            rows[path.split("/")[0]] += entry["rows"]
        return {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": f"nvcatalog {__version__}",
            "schema_version": self._schema_version,
            "rows": rows,
            "licences": _LICENCES,
            "catalog": self._seen,
            "layouts": {table: layout.as_told(table) for table, layout in self._layouts.items()},
            "files": dict(sorted(self._done.items())),
        }


def _name(home: Path, hidden: Path) -> Path:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    taken = (_order(place)[1] for place in home.glob(f"{moment}-*"))
    return hidden.rename(home / f"{moment}-{max(taken, default=0) + 1}")


def _name_it(home: Path, snapshot: Path, name: str) -> Path:
    """Give a snapshot a second name, by which it stays."""
    hidden = home / f".{os.getpid()}.part"
    manifest = read_manifest(snapshot)
    try:
        for path in manifest["files"]:
            link_or_copy(snapshot / path, hidden / path)
        write_whole(hidden / MANIFEST, json.dumps({"name": name} | manifest, indent=1).encode())
        return hidden.rename(home / name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _make_current(home: Path, snapshot: Path) -> None:
    write_whole(home / CURRENT, f"{snapshot.name}\n".encode())
    latest = home / ".latest.part"
    with suppress(OSError, NotImplementedError):  # a convenience, where the platform has symbolic links
        latest.symlink_to(snapshot.name)
        latest.replace(home / "latest")


def _prune(home: Path, *, keep: Path) -> None:
    """Keep the last few, and those that are held."""
    timed = [place for place in _complete(home) if _TIMED.fullmatch(place.name)]
    for place in timed[:-KEPT]:
        if place != keep and not _is_held(place):  # a clock that was set back makes the newest look old
            shutil.rmtree(place, ignore_errors=True)


def _complete(home: Path) -> list[Path]:
    """Return the folders of complete snapshots, the oldest first."""
    if not home.is_dir():
        return []
    places = (place for place in home.iterdir() if (place / MANIFEST).is_file() and not place.is_symlink())
    return sorted(places, key=_order)


def _order(place: Path) -> tuple[str, int]:
    moment, _, number = place.name.partition("-")
    return moment, int(number) if number.isdigit() else 0
