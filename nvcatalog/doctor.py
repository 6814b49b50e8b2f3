"""Look at all that a bug report needs, on one page: versions, folder, catalog, snapshots, servers; no secrets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from nvcatalog import __version__, client, kept, neurosynth, snapshot, storage
from nvcatalog._http import Service
from nvcatalog._locks import QUESTION_PATIENCE_S, lock_timeout_s
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._store import Store
from nvcatalog.base import store_of
from nvcatalog.errors import NVCatalogError
from nvcatalog.migrate import load_migrations
from nvcatalog.options import is_offline_here
from nvcatalog.rebuild import snapshots_newest_first

if TYPE_CHECKING:
    import pandas as pd

_PACKAGES = (
    *("duckdb", "pyarrow", "pandas", "numpy", "scipy", "scikit-learn", "nibabel", "requests", "urllib3"),
    *("filelock", "tqdm", "typer", "rich", "nilearn", "polars"),
)
# What settings hold that are no secret; of all others only that they are set.
_SHOWN = re.compile(r"NVCATALOG_(OFFLINE|LOCK|LOCK_TIMEOUT|BASE|QUERIES)|NILEARN_(SHARED_)?DATA")
_ROOTS = re.compile(r"NVCATALOG_(NEUROVAULT_URL|NEUROSYNTH_URL|MIRROR_OF)")
_SETTINGS = re.compile(r"NVCATALOG_.*|NILEARN_.*|.*_PROXY|REQUESTS_CA_BUNDLE|SSL_CERT_FILE", re.IGNORECASE)
# A synced catalog with its snapshots takes about this much.
_PACKAGES_A_LINE = 5
_LITTLE_SPACE = 2_000_000_000


class Line(NamedTuple):
    """One fact, and whether it is a trouble."""

    section: str
    name: str
    value: str
    is_trouble: bool = False


_Fact = tuple[str, str, bool]


@dataclass(frozen=True)
class Diagnosis:
    """What was found; as text it is a page to paste into a bug report, and it is true when nothing is wrong.

    Attributes
    ----------
    lines : tuple of Line
        The facts, section by section.

    Examples
    --------
    >>> print(Diagnosis((Line("Folder", "free", "12.0 GB"), Line("Folder", "writable", "no", True))))
    Folder
      free      12.0 GB
    ! writable  no
    """

    lines: tuple[Line, ...]

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        """Say how much is wrong."""
        return f"<Diagnosis: {len(self.problems) or 'no'} problems in {len(self.lines)} lines; print it>"

    def __str__(self) -> str:
        """Return the page."""
        width = max((len(line.name) for line in self.lines), default=0)
        page: list[str] = []
        section = None
        for line in self.lines:
            if line.section != section:
                page += [*([""] if page else []), line.section]
                section = line.section
            value = line.value.replace("\n", f"\n  {'':{width}}  ")
            page.append(f"{'!' if line.is_trouble else ' '} {line.name:{width}}  {value}")
        return "\n".join(page)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def problems(self) -> tuple[Line, ...]:
        """What is wrong."""
        return tuple(line for line in self.lines if line.is_trouble)

    def df(self) -> pd.DataFrame:
        """Return a row a fact: ``section``, ``name``, ``value``, ``is_trouble``."""
        import pandas as pd

        return pd.DataFrame(self.lines, columns=list(Line._fields))


def diagnose(store: Store, *, timeout_s: float = 5.0) -> Diagnosis:
    """Look at everything that a bug report needs.

    Nothing is written but an empty file that is removed at once, where the folder can be written: by nothing else
    do some file systems tell what they allow.

    Parameters
    ----------
    store : Store
        The catalog.
    timeout_s : float
        How long to wait for each server.
    """
    sections = {
        "Versions": _versions(),
        "Settings": _settings(),
        "Folder": _folder(store),
        "Catalog": _catalog(store),
        "Snapshots": _snapshots(store),
        "Servers": _servers(timeout_s),
    }
    homes = {str(Path.home()), str(Path.home().resolve())} - {"/"}
    lines = []
    for section, facts in sections.items():
        for name, value, is_trouble in facts:
            for home in homes:
                value = value.replace(home, "~")
            lines.append(Line(section, name, value, is_trouble))
    return Diagnosis(tuple(lines))


def _versions() -> Iterator[_Fact]:
    yield "nvcatalog", __version__, False
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})", False
    yield "system", platform.platform(), False
    found = []
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):  # some are optional
            found.append(f"{name} {importlib.metadata.version(name)}")
    for start in range(0, len(found), _PACKAGES_A_LINE):
        yield "" if start else "packages", ", ".join(found[start : start + _PACKAGES_A_LINE]), False


def _settings() -> Iterator[_Fact]:
    """Yield the settings in the environment; of what may hold a name or a password, only that it is set."""
    for name in sorted(filter(_SETTINGS.fullmatch, os.environ)):
        value = os.environ[name]
        if _ROOTS.fullmatch(name):
            parts = urlsplit(value)
            value = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        elif not _SHOWN.fullmatch(name):
            value = "set" if value else "set, and empty"
        yield name, value, False


# The folder


def _folder(store: Store) -> Iterator[_Fact]:
    folder = store.folder
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    yield "path", str(folder) + ("" if folder.is_dir() else " (not made yet)"), False
    yield "file system", _file_system(nearest.resolve()), False
    yield "mode", f"{nearest.stat().st_mode & 0o7777:04o}{_owner(nearest)}", False
    obstacle = store.what_cannot_be_written()
    yield "writable", "yes" if obstacle is None else f"no: {obstacle}", obstacle is not None
    free = shutil.disk_usage(nearest).free
    yield "free", f"{free / 1e9:,.1f} GB", free < _LITTLE_SPACE
    if obstacle is None and folder.is_dir():
        yield from _tried(folder)
    yield from _base(folder)


def _base(folder: Path) -> Iterator[_Fact]:
    """Say which shared folder the environment names, if any, and whether that can be one."""
    try:
        below = store_of(folder).base
    except NVCatalogError as error:
        yield "base", str(error), True
        return
    if below is not None:
        yield "base", str(below), False


def _owner(place: Path) -> str:
    """Say whose a folder is, without a name."""
    if not hasattr(os, "getuid"):
        return ""
    return ", your own" if place.stat().st_uid == os.getuid() else ", somebody else's"


def _file_system(place: Path) -> str:
    """Return the type of the file system that a place is on, where the system tells."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, UnicodeDecodeError):
        return "unknown"
    around = [(point, kind) for point, kind in mounts if place.is_relative_to(point.replace("\\040", " "))]
    return max(around, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


def _tried(folder: Path) -> Iterator[_Fact]:
    """Write a file, lock it and remove it: what a file system allows, only trying tells."""
    probe = folder / f".doctor.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        storage.write_whole(probe, b"", lasting=True)
        yield "writing", "works", False
        yield ("locks", *_lock_trouble(probe))
    except OSError as error:
        yield "writing", f"fails: {error.strerror or error}", True
    finally:
        with suppress(OSError):  # said already
            probe.unlink(missing_ok=True)


def _lock_trouble(probe: Path) -> tuple[str, bool]:
    """Say whether a file that is locked is locked for others."""
    one, other = FileLock(probe, timeout=0), FileLock(probe, timeout=0)
    try:
        with one:
            try:
                with other:
                    return "are granted twice: several processes may harm each other", True
            except Timeout:
                return "work", False
    except (OSError, NotImplementedError) as error:
        return f"do not work ({error}): several processes may harm each other", True


# The catalog


def _catalog(store: Store) -> Iterator[_Fact]:
    try:
        store.check_not_lost()
        if not store.exists:
            yield "catalog", "there is none yet", False
            return
        started = time.monotonic()
        with store.reading(timeout_s=min(QUESTION_PATIENCE_S, lock_timeout_s())) as connection:
            opened_s = time.monotonic() - started
            schema = connection.execute("SELECT max(version) FROM schema_migrations").fetchall()[0][0]
            counts = connection.execute(_COUNTS).fetchall()
            facts = dict(connection.execute("SELECT key, value FROM catalog_info").fetchall())
            states = connection.execute(_STATES).fetchall()
            calls = connection.execute(_CALLS).fetchall()
    except NVCatalogError as error:
        yield "catalog", str(error), True
        return
    size = store.path.stat().st_size
    yield "catalog", f"{size / 1e6:,.1f} MB, opened in {opened_s * 1e3:.0f} ms", False
    yield "schema", f"{schema} (this version's is {load_migrations()[-1].version})", False
    yield "rows", ", ".join(f"{name} {number:,}" for name, number in counts), False
    yield "files", ", ".join(f"{number:,} {state}" for state, number in states) or "none", False
    for name, value in facts.items():
        yield name, value, False
    for moment, function, version, downloaded, missing in calls:
        yield "call", f"{moment} {function} ({version}): {downloaded} downloaded, {missing} missing", False


_COUNTED = ("collections", "images", "files", "words_status", "refusals", "record_history")
_COUNTS = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in _COUNTED)  # noqa: S608
_STATES = "SELECT state, count(*) FROM files GROUP BY state ORDER BY state"
_CALLS = """
    SELECT strftime(finished_at, '%Y-%m-%d %H:%M'), function, version, downloaded, missing
    FROM fetches
    ORDER BY finished_at DESC
    LIMIT 3
"""


def _snapshots(store: Store) -> Iterator[_Fact]:
    places = snapshots_newest_first(store.folder)
    if not places:
        yield "snapshots", "there are none yet", False
        return
    newest = places[0]
    yield "newest", f"{newest.name} (of {len(places)})", False
    try:
        manifest = kept.read_manifest(newest)
        trouble = _why_not_whole(newest, manifest.get("rows"))
    except NVCatalogError as error:
        trouble = str(error)
    yield "whole", "yes, by its number of rows" if trouble is None else f"no: {trouble}", trouble is not None
    if snapshot.is_behind(store):
        yield "age", "the catalog has changed since; the next fetch, or snapshot(), publishes that", False


def _why_not_whole(place: Path, counted: object) -> str | None:
    """Count a snapshot's rows by what its files say of themselves."""
    import pyarrow as pa
    from pyarrow import parquet

    for table, number in counted.items() if isinstance(counted, dict) else ():
        try:
            found = sum(parquet.read_metadata(file).num_rows for file in (place / table).glob("*.parquet"))
        except (OSError, pa.ArrowException) as error:
            return f"{table} cannot be read: {str(error).splitlines()[0]}"
        if found != number:
            return f"{table} has {found:,} rows, and its manifest counts {number:,}"
    return None


# The servers


def _servers(timeout_s: float) -> Iterator[_Fact]:
    """Ask each server for something small."""
    try:
        if is_offline_here():
            yield "servers", "not asked: NVCATALOG_OFFLINE is set", False
            return
        asked = [("NeuroVault", client.root(), "api/collections/?limit=1"), ("Neurosynth", neurosynth.root(), "")]
    except NVCatalogError as error:
        yield "servers", str(error), True
        return
    lane = Lane(lambda server: [_asked(*server, timeout_s)], asked, len(asked))
    yield from sorted(in_parallel([lane]))


def _asked(name: str, root: str, path: str, timeout_s: float) -> _Fact:
    service = Service(name, root, connections=1, timeout_s=timeout_s)
    started = time.monotonic()
    try:
        with service.get(path) as response:
            status = response.status_code
    except NVCatalogError as error:
        return name, f"{root}: {error}", True
    finally:
        service.close()
    took = f"{root}: HTTP {status} in {time.monotonic() - started:.2f} s"
    return name, took + (" (a firewall?)" if status == 403 else ""), status in (403, 429) or status >= 500
