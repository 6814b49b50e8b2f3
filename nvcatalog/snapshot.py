"""Publish the catalog as Parquet: a folder that is complete or not there, readable by any dataframe tool."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from filelock import Timeout

from nvcatalog import __version__, kept, neurosynth, parts
from nvcatalog._locks import QUESTION_PATIENCE_S, lock_timeout_s
from nvcatalog._locks import take as take_lock
from nvcatalog._progress import logger
from nvcatalog._store import Store
from nvcatalog.errors import NVCatalogError, SnapshotError, SnapshotWarning
from nvcatalog.storage import link_or_copy, write_whole

EVERY_S = 10.0
# A catalog is kept open for so long and not longer, unless others land faster than a snapshot of it is written. To
# open it again for a few files would hold up everybody for longer than to write them.
HELD_S = 0.5
FILES_AT_LEAST = 10
_PATIENCE_S = 60.0

_LICENCES = {"records": "CC0-1.0, NeuroVault (https://neurovault.org)"}

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
    try:
        return _is_behind(store)
    except NVCatalogError:  # publishing says why
        return True


def _is_behind(store: Store) -> bool:
    home = store.folder / kept.FOLDER
    place = kept.newest(home)
    if place is None or place != kept.current(home):
        return store.exists
    manifest = kept.manifest_with_files(place)
    if not store.exists or manifest.get("catalog") == store.state:
        return False
    with store.reading(timeout_s=min(QUESTION_PATIENCE_S, lock_timeout_s()), fenced=False) as connection:
        if not store.is_as_noted:
            return True
        wanted = parts.View(connection).parts(parts.layouts_of(manifest))
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
    """Publish now what landed since the last snapshot; return why where that fails, as :func:`publish` does.

    Who keeps the catalog is not waited for where there is a snapshot that can be read as it is.
    """
    try:
        is_behind = store.exists and _is_behind(store)
    except NVCatalogError as error:  # to publish would be to wait as long once more
        return _told(error)
    return _trouble_with(store) if is_behind else None


# Taking


def _trouble_with(store: Store) -> str | None:
    try:
        with _alone(store.folder / kept.FOLDER):
            if is_behind(store):  # else another process has published all of it while this one waited
                _take(store, None, whole=False)
    except NVCatalogError as error:
        return _told(error)
    return None


def _told(error: NVCatalogError) -> str:
    return f"The Parquet snapshot was not published: {error}"


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

    Warns
    -----
    SnapshotWarning
        When the former one was damaged, and this one has taken its place.
    """
    if name is not None:
        kept.check_is_free(store.folder / kept.FOLDER, name)
    if not store.exists:
        store.check_not_lost()
        raise SnapshotError(f"{store.folder} has no catalog yet: fetch something, or adopt() what is there")
    with _alone(store.folder / kept.FOLDER):
        return _take(store, name, whole=whole)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Keep all others from writing snapshots."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = take_lock(home / ".lock", lock_timeout_s())
        try:
            yield
        finally:
            lock.release()
    except (OSError, duckdb.Error) as error:
        raise SnapshotError(_why_not(home, error)) from error


def _why_not(home: Path, error: Exception) -> str:
    """Say why no snapshot can be written, and what to do."""
    if isinstance(error, Timeout):
        return f"{home}: another process is writing a snapshot; call again when it is there"
    if not isinstance(error, OSError) or error.errno is None:
        return f"{home}: {str(error).splitlines()[0]}"
    found = f"{home} cannot be written: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{found}. Let somebody call who may write there; what was published can be read all the same"
    return f"{found}. Mend that and call again: the catalog itself is fine"


def _take(store: Store, name: str | None, *, whole: bool) -> Path:
    home = store.folder / kept.FOLDER
    _waiting.pop(store.path, None)
    _sweep(home)
    passed_over = kept.why_passed_over(home)
    snapshot = _write(store, home, kept.newest(home), whole=whole, for_good=name is not None)
    _make_current(home, snapshot)
    kept.prune(home, keep=snapshot)
    if name is not None:
        snapshot = _name_it(home, snapshot, name)
    if passed_over is not None:
        warnings.warn(f"{passed_over}. A new snapshot, {snapshot.name}, is there", SnapshotWarning, stacklevel=4)
    return snapshot


def _age_s(folder: Path) -> float:
    try:
        return time.time() - (folder / kept.FOLDER / kept.CURRENT).stat().st_mtime
    except OSError:
        return float("inf")


def _sweep(home: Path) -> None:
    """Remove what a killed process left: whoever writes holds the lock, so nobody is at it any more."""
    for leftover in home.glob(".*.part"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()


def _write(store: Store, home: Path, former: Path | None, *, whole: bool, for_good: bool) -> Path:
    """Write into a hidden folder, and rename it when it is complete."""
    hidden = home / f".{os.getpid()}.part"
    try:
        if former is None:
            store.heed_others(begins=True)
        files = _Files(hidden, None if whole else former, for_good=for_good)
        files.fill(store)
        kept.write_manifest(hidden, files.manifest())
        return _name(home, hidden)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)  # gone already when all went well


class _Files:
    """The files of a snapshot that is being written; what has not changed are those of the former one.

    One that is kept for good takes over none of them unread.
    """

    def __init__(self, folder: Path, former: Path | None, *, for_good: bool) -> None:
        self._folder = folder
        self._former = former
        self._for_good = for_good
        manifest = kept.manifest_with_files(former)
        self._theirs: dict[str, dict[str, Any]] = manifest.get("files", {})
        self._layouts = parts.layouts_of(manifest)
        self._done: dict[str, dict[str, Any]] = {}
        self._schema_version = 0
        self._references: set[str | None] = set()
        self._seen = ""

    def fill(self, store: Store) -> None:
        """Write all files, in short reads of the catalog: again, where something landed in between."""
        patient_until = time.monotonic() + _PATIENCE_S
        often_enough = 3
        while True:
            store.heed_others()
            with store.reading(fenced=False) as connection:
                # If others land faster than that, it is read to the end at last.
                release_at = time.monotonic() + (HELD_S if time.monotonic() < patient_until else float("inf"))
                done = self._go_on(parts.View(connection), release_at)
                self._seen = store.state
                often_enough -= done
                if done and (store.is_as_noted or not often_enough):
                    return
            store.give_way()

    def _go_on(self, view: parts.View, release_at: float) -> bool:
        """Write files until it is time to let others at the catalog, and return whether all is as it is there."""
        wanted = view.parts(self._layouts)
        self._schema_version = view.schema_version
        self._references = view.references()
        for path in self._done.keys() - {part.path for part in wanted}:
            self._remove(path)
        to_write = []
        for part in wanted:
            if self._done.get(part.path, {}).get("key") != part.key:
                self._remove(part.path)
                if not self._take_over(part):
                    to_write.append(part)
        for number, part in enumerate(to_write, start=1):
            self._done[part.path] = view.write(part, self._folder)
            if FILES_AT_LEAST <= number < len(to_write) and time.monotonic() > release_at:
                return False
        return True

    def _remove(self, path: str) -> None:
        # Never written over: it may be the former snapshot's file, by another name.
        (self._folder / path).unlink(missing_ok=True)
        self._done.pop(path, None)

    def _take_over(self, part: parts.Part) -> bool:
        """Take the former snapshot's file where it depends on the same, and is there as it was written."""
        entry = self._theirs.get(part.path)
        if self._former is None or entry is None or entry.get("key") != part.key:
            return False
        former, ours = self._former / part.path, self._folder / part.path
        try:
            if not parts.is_as_written(former, entry, every_byte=self._for_good):
                logger.info("%s is not as it was written: the next snapshot has it anew", former)
                return False
            link_or_copy(former, ours)
            self._done[part.path] = entry | {"mtime_ns": ours.stat().st_mtime_ns}  # a copy has its own
        except OSError:
            self._remove(part.path)
            return False
        return True

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
            "licences": _LICENCES | neurosynth.licences(self._references),
            "catalog": self._seen,
            "layouts": {table: layout.as_told(table) for table, layout in self._layouts.items()},
            "files": dict(sorted(self._done.items())),
        }


def _name(home: Path, hidden: Path) -> Path:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    taken = (kept.order(place)[1] for place in home.glob(f"{moment}-*"))
    return hidden.rename(home / f"{moment}-{max(taken, default=0) + 1}")


def _name_it(home: Path, snapshot: Path, name: str) -> Path:
    """Give a snapshot a second name, by which it stays."""
    hidden = home / f".{os.getpid()}.part"
    manifest = kept.read_manifest(snapshot)
    try:
        for path in manifest["files"]:
            link_or_copy(snapshot / path, hidden / path)
        kept.write_manifest(hidden, {"name": name} | manifest)
        return hidden.rename(home / name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _make_current(home: Path, snapshot: Path) -> None:
    write_whole(home / kept.CURRENT, f"{snapshot.name}\n".encode())
    latest, link = home / kept.LATEST, home / ".latest.part"
    if latest.is_dir() and not latest.is_symlink():  # who copied the folder followed the link: it is an old one
        shutil.rmtree(latest.rename(home / ".former.part"), ignore_errors=True)
    with suppress(OSError, NotImplementedError):  # a convenience, where the platform has symbolic links
        link.symlink_to(snapshot.name)
        link.replace(latest)
