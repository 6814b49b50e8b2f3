"""Where an export takes its place: whole or not at all, and over nothing but an earlier export."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from nvcatalog._instances import in_memory
from nvcatalog.errors import ExportError, InvalidOptionError
from nvcatalog.queries import quoted

#: What an export says about itself; also what tells one from a folder of somebody's own.
MANIFEST = "nvcatalog-export.json"
#: The same in a DuckDB file: a table with a row for each fact.
INFO = "nvcatalog_export"

# No manifest leads to anything else, or anywhere else.
_FILE = re.compile(r"\w+\.(parquet|csv|arrow|ndjson)")
_MOST_NAMED = 3


class FolderPlace:
    """A folder of files.

    Parameters
    ----------
    target : Path
        Where the folder is to be.
    overwrite : bool
        Whether an earlier export there is replaced.

    Raises
    ------
    InvalidOptionError
        When something else is there.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self._target = target
        self._former = _former_files(target, overwrite=overwrite)

    @contextmanager
    def appearing(self) -> Iterator[Path]:
        """Give a folder to make and fill beside the target, which takes its place at the end, or is removed."""
        with _made_beside(self._target) as part:
            yield part
            self._put(part)

    def _put(self, part: Path) -> None:
        if self._former is None:
            part.replace(self._target)
            return
        aside = _beside(self._target, "old")
        self._target.rename(aside)
        try:
            part.rename(self._target)
        except BaseException:
            aside.rename(self._target)
            raise
        for name, size in self._former.items():
            if _is_as_written(aside / name, size):
                (aside / name).unlink()
        try:
            aside.rmdir()
        except OSError as error:
            raise ExportError(
                f"{self._target} is complete; what was put beside the former one is in {aside}"
            ) from error


def _former_files(target: Path, *, overwrite: bool) -> dict[str, int | None] | None:
    """Return the files of the export that is there, and how long they are; None where nothing is."""
    if not target.exists():
        return None
    if not target.is_dir():
        raise InvalidOptionError(
            f"{target} is a file; give a folder, or one that ends in .duckdb for a DuckDB file"
        )
    if target.samefile(Path.cwd()):
        raise InvalidOptionError(
            f"{target} is the folder you are in; give one of its own, such as {target / 'export'}"
        )
    names = sorted(entry.name for entry in target.iterdir())
    if not names:
        return None
    if not overwrite:
        raise InvalidOptionError(
            f"{target} is not empty ({_some(names)}); give another folder, or overwrite=True (--overwrite) to "
            "replace an export"
        )
    files = _listed(target / MANIFEST)
    if files is None:
        raise InvalidOptionError(f"{target} is no export ({_some(names)}), and nothing else is ever replaced")
    if others := [name for name in names if name not in files or not _is_as_written(target / name, files[name])]:
        raise InvalidOptionError(
            f"{target} holds more than an export ({_some(others)}), or not what it wrote; move that away first"
        )
    return files


def _listed(manifest: Path) -> dict[str, int | None] | None:
    """Return the files of an export by name, and how long they are; None where a manifest is none."""
    try:
        tables = json.loads(manifest.read_text(encoding="utf-8"))["tables"]
        sizes = {table["file"]: int(table["bytes"]) for table in tables.values()}
        return sizes | {manifest.name: None} if all(map(_FILE.fullmatch, sizes)) else None
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _is_as_written(path: Path, size: int | None) -> bool:
    """Whether a file of an export is there, itself and no link to another, and as long as it was."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and size in (None, found.st_size)


class OneFilePlace:
    """One file of a table; parameters and errors are those of :class:`FolderPlace`, but any file is replaced."""

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self._target = target
        if target.is_dir():
            raise InvalidOptionError(
                f"{target} is a folder; give a file, such as {target / f'table{target.suffix}'}"
            )
        if target.exists() and not (overwrite and target.is_file()):
            raise InvalidOptionError(
                f"{target} exists; give another file, or overwrite=True (--overwrite) to replace it"
            )

    @contextmanager
    def appearing(self) -> Iterator[Path]:
        """Give a folder to make and fill beside the target, of which the file takes its place at the end."""
        with _made_beside(self._target) as part:
            yield part
            (file,) = (each for each in part.iterdir() if each.name != MANIFEST)
            file.replace(self._target)


class FilePlace:
    """One DuckDB file; parameters and errors are those of :class:`FolderPlace`."""

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self._target = target
        log = target.with_name(f"{target.name}.wal")
        if log.exists():
            raise InvalidOptionError(
                f"{target} is open elsewhere, or {log.name} was left of it; close or remove it"
            )
        if target.is_dir():
            raise InvalidOptionError(f"{target} is a folder; give a file, such as {target / 'maps.duckdb'}")
        if target.exists():
            _check_is_export(target, overwrite=overwrite)

    @contextmanager
    def appearing(self) -> Iterator[Path]:
        """Give a file to make in a folder beside the target, which takes its place at the end, or is removed."""
        with _made_beside(self._target) as part:
            part.mkdir()
            yield part / self._target.name
            (part / self._target.name).replace(self._target)


def _check_is_export(target: Path, *, overwrite: bool) -> None:
    if not overwrite:
        raise InvalidOptionError(
            f"{target} exists; give another file, or overwrite=True (--overwrite) to replace an export"
        )
    try:
        with in_memory() as connection:
            connection.execute(f"ATTACH {quoted(target)} AS former (READ_ONLY)")
            names = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'former'"
            there = {name for (name,) in connection.execute(names).fetchall()}
            ours = _listed_tables(connection) if INFO in there else set()
    except duckdb.Error as error:
        text = str(error).splitlines()[0]
        raise InvalidOptionError(f"{target} cannot be looked at, so it is not replaced: {text}") from error
    if not ours:
        raise InvalidOptionError(f"{target} is no export, and nothing else is ever replaced")
    if others := sorted(there - ours):
        raise InvalidOptionError(f"{target} holds more than an export ({_some(others)}); move it away first")


def _listed_tables(connection: duckdb.DuckDBPyConnection) -> set[str]:
    query = f"SELECT value FROM former.{INFO} WHERE key = 'tables'"  # noqa: S608 - a constant
    return {INFO} | {name for (text,) in connection.execute(query).fetchall() for name in json.loads(text)}


@contextmanager
def _made_beside(target: Path) -> Iterator[Path]:
    """Name a folder to make beside a target; nothing of it stays there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(target, "part")
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone already where it has taken the target's place


def _beside(target: Path, ending: str) -> Path:
    return target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.{ending}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
