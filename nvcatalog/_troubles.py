"""What DuckDB and the system say of a catalog that cannot be opened, read or written, as errors that help."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from nvcatalog.errors import (
    CatalogCorruptError,
    CatalogLockedError,
    CatalogTooNewError,
    DataDirError,
    MigrationError,
    NoSpaceError,
    NVCatalogError,
    QueryError,
)
from nvcatalog.storage import TOO_MANY

_OPEN_HERE = "Unique file handle conflict"
#: What DuckDB says when a file is open elsewhere: in another process, or in this one by somebody else.
REFUSALS = ("Could not set lock on file", _OPEN_HERE, "Conflicting lock is held")
_HOLDER = re.compile(r"lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")

#: What it passes on of the system where a file system has no locks, and nobody could be waited for.
NO_LOCKS = "No locks available"
# What it says of a file that somebody or something has damaged.
_DAMAGES = ("Corrupt database file", "Could not read enough bytes")
# What it says when a disk is full or a quota used up; the whole database is given up then, until reopened.
_DISK_TROUBLES = ("No space left", "File too large", "quota exceeded", "Could not write", "has been invalidated")

_NO_FILE_LEFT = "Too many open files"
# What DuckDB makes of Ctrl-C during a statement.
_INTERRUPTED = "Query interrupted"


def locked_message(path: Path, holder: str) -> str:
    """Say who keeps a catalog open, and what to do."""
    if NO_LOCKS in holder:
        return f"{path} is on a file system where files cannot be locked ({NO_LOCKS})"
    return f"{path} is kept open by {holder}. Close it there and call again: no file is lost"


def holder_in(error: duckdb.Error, signed: str | None = None) -> str:
    """Say who holds a file, from DuckDB's refusal to open it; it names no process of another host."""
    if _OPEN_HERE in str(error):
        return "this Python process itself, through a connection of its own"
    found = _HOLDER.search(str(error))
    if found:
        return f"process {found['pid']} ({found['program']}) on {socket.gethostname()}"
    said = f"someone ({str(error).splitlines()[0]})"
    return said if NO_LOCKS in said or not signed else signed


def unreadable(path: Path, error: Exception) -> NVCatalogError:
    """Return the error that says why a catalog cannot be opened or read, and what to do."""
    text = str(error).splitlines()[0]
    if _NO_FILE_LEFT in text:
        return _no_file_left(path)
    if _is_disk_trouble(error) and not _is_damage(error):
        return _no_space(path, error)
    if "ermission denied" in text or "Read-only file system" in text:
        return DataDirError(f"{path} cannot be opened: {text}")
    if "version number" in text:
        return CatalogTooNewError(f"{path} was written by a newer DuckDB ({text}): pip install --upgrade duckdb")
    return corrupt(path, text)


def corrupt(path: Path, found: str) -> CatalogCorruptError:
    """Return the error that says that a catalog is damaged, and how it is made again."""
    return CatalogCorruptError(
        f"{path} cannot be read as a catalog ({found}). The maps beside it are fine. Rebuild it from the newest "
        f"snapshot and what is in the folder: nvcatalog rebuild --data-dir '{path.parent.parent}', or "
        "Catalog.rebuild() in Python. It is kept under another name"
    )


def absent(folder: Path) -> str:
    """Say that a folder has no catalog, and what to do."""
    return f"There is no catalog in {folder}: fetch something, or adopt() what is there"


def lost(path: Path, snapshots: Path) -> CatalogCorruptError:
    """Return the error that says that a catalog is gone and its snapshots are not, and how it is made again."""
    return CatalogCorruptError(
        f"{path} is gone, and snapshots of it are there. Make it again from the newest one and what is in the "
        f"folder: nvcatalog rebuild --data-dir '{path.parent.parent}', or Catalog.rebuild() in Python. A new one "
        f"would not have what they have; to begin with one all the same, move {snapshots} away"
    )


def folder_error(folder: Path, error: OSError) -> NVCatalogError:
    """Return the error that says why a catalog's lock cannot be taken, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_space(folder, error)
    if error.errno in TOO_MANY:
        return _no_file_left(folder)
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
        return DataDirError(f"{folder} cannot be locked ({error.strerror}). Set NVCATALOG_LOCK=soft")
    return DataDirError(f"{folder} cannot be written: {error.strerror}. Give another data_dir")


def _no_file_left(path: Path) -> CatalogLockedError:
    # Passing, as when somebody else holds the catalog: once some downloads are done it can be opened.
    return CatalogLockedError(f"{path} cannot be opened now: this process has too many files open (ulimit -n)")


@contextmanager
def troubles_told(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file or a full disk makes of a statement into an error that says what to do."""
    try:
        yield
    except (duckdb.Error, MigrationError, QueryError) as error:
        full = not isinstance(error, QueryError) and (_is_disk_trouble(error) or _NO_FILE_LEFT in str(error))
        # Our own statements know their tables, unless somebody has dropped one; a user's would be a QueryError.
        if full or _is_damage(error) or isinstance(error, duckdb.CatalogException):
            raise unreadable(path, error) from error
        raise
    except OSError as error:
        if error.errno in TOO_MANY:
            raise _no_file_left(path) from error
        raise
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:
            raise KeyboardInterrupt from error
        raise


def _is_damage(error: Exception) -> bool:
    return any(damage in str(error) for damage in _DAMAGES)


def _is_disk_trouble(error: Exception) -> bool:
    return any(trouble in str(error) for trouble in _DISK_TROUBLES)


def _no_space(path: Path, error: Exception) -> NoSpaceError:
    return NoSpaceError(
        f"{path} could not be written ({str(error).splitlines()[0]}). Free some space and call again: "
        "what had landed is there, and files already here are taken over"
    )
