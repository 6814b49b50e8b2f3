"""Say what takes the room in a data folder: by collection, by kind of file, and by age."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING

from nvcatalog._parallel import Lane, in_parallel
from nvcatalog.errors import InvalidOptionError, shown
from nvcatalog.layout import place_of

if TYPE_CHECKING:
    import pyarrow as pa

#: What the bytes can be counted by.
COLUMNS = ("collection_id", "kind", "age")

# Each asks the disk and waits for it.
_LOOKERS = 4
_DAY_S = 24 * 3600.0
_AGES = ((1, "up to a day"), (7, "up to a week"), (30, "up to a month"), (365, "up to a year"))
_OLDEST = "over a year"

# What a file is counted as -> how many there are, and their bytes.
_Sums = dict[tuple[object, ...], tuple[int, int]]


def usage(folder: Path, by: str | Iterable[str] = COLUMNS) -> pa.Table:
    """Count the files in a data folder and their bytes; the catalog need not be readable.

    Parameters
    ----------
    folder : Path
        The data folder.
    by : str or iterable of str
        Some of ``collection_id``, ``kind`` and ``age``.

    Returns
    -------
    pyarrow.Table
        A row a group, largest first: those columns, ``files``, ``bytes``.

    Raises
    ------
    InvalidOptionError
        When `by` names something else, or nothing.
    """
    columns = _parse_columns(by)
    names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
    sums: _Sums = {}
    for part in in_parallel([Lane(lambda name: [_count(folder, name)], names, min(_LOOKERS, len(names)))]):
        for key, (files, size) in part.items():
            group = tuple(value for name, value in zip(COLUMNS, key, strict=True) if name in columns)
            had = sums.get(group, (0, 0))
            sums[group] = had[0] + files, had[1] + size
    return _as_table([name for name in COLUMNS if name in columns], sums)


def _parse_columns(by: str | Iterable[str]) -> set[str]:
    columns = {by} if isinstance(by, str) else set(by)
    if not columns or not columns <= set(COLUMNS):
        raise InvalidOptionError(f"by is {shown(by)}; give some of {', '.join(COLUMNS)}")
    return columns


def _count(folder: Path, name: str) -> _Sums:
    """Count what is in an entry of the data folder."""
    sums: _Sums = {}
    now = time.time()
    for path, stat in _files(folder, name):
        place = place_of(path)
        key = (place.collection_id, place.kind, _age(now - stat.st_mtime))
        had = sums.get(key, (0, 0))
        sums[key] = had[0] + 1, had[1] + stat.st_size
    return sums


def _files(folder: Path, path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield a file, or all that are in a folder; links are not followed, what cannot be looked at is left out."""
    waiting = [path]
    while waiting:
        path = waiting.pop()
        try:
            stat = os.lstat(folder / path)
            if not S_ISDIR(stat.st_mode):
                yield path, stat
                continue
            with os.scandir(folder / path) as entries:
                waiting += [f"{path}/{entry.name}" for entry in entries]
        except OSError:
            continue


def _age(seconds: float) -> str:
    return next((name for days, name in _AGES if seconds <= days * _DAY_S), _OLDEST)


def _as_table(columns: list[str], sums: _Sums) -> pa.Table:
    import pyarrow as pa

    groups = sorted(sums.items(), key=lambda item: (-item[1][1], tuple(map(str, item[0]))))
    arrays = {
        name: pa.array([key[number] for key, _ in groups], pa.int32() if name == "collection_id" else pa.string())
        for number, name in enumerate(columns)
    }
    arrays["files"] = pa.array([files for _, (files, _) in groups], pa.int64())
    arrays["bytes"] = pa.array([size for _, (_, size) in groups], pa.int64())
    return pa.table(arrays)
