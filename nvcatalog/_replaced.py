"""Marks on files that take the place of others, until their rows are about them.

A call that is killed after a file has taken another's place, and before its row lands, leaves a row about the
former one. Where both have the same size nothing else would tell: its sha256 would be that of bytes that are gone.
So a mark comes before the file, and goes when the row has landed; a file with a mark is proven anew.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

#: Where a data folder has them; it is there only while there are any.
FOLDER = ".replaced"
_NAME = re.compile(r"([a-z_]+)-([1-9][0-9]*)-[0-9a-f]{8}")
# Whoever left a mark lets the file take its place within moments, or has been killed.
_MOMENTS_S = 60.0


def mark(folder: Path, image_id: int, kind: str) -> Path:
    """Leave a mark for a file that is about to take another's place, and return it; it outlives a power cut."""
    place = folder / FOLDER / f"{kind}-{image_id}-{secrets.token_hex(4)}"
    while True:
        place.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # somebody has just removed the last mark, and the folder with it
            place.touch(exist_ok=False)
            break
    _sync(place.parent)
    return place


def marks_in(folder: Path) -> dict[tuple[int, str], list[Path]]:
    """Return the marks in a data folder, by image, or pack, and kind of file."""
    found: dict[tuple[int, str], list[Path]] = {}
    with suppress(OSError):  # there is none, as a rule
        for name in os.listdir(folder / FOLDER):  # noqa: PTH208 - there may be none of it
            if match := _NAME.fullmatch(name):
                found.setdefault((int(match[2]), match[1]), []).append(folder / FOLDER / name)
    return found


def clear(marks: Iterable[Path]) -> None:
    """Remove marks of files whose rows are about them now."""
    folders = set()
    for each in marks:
        with suppress(OSError):  # then the file is proven once more than it need be
            each.unlink(missing_ok=True)
        folders.add(each.parent)
    for place in folders:
        with suppress(OSError):  # others have marks there
            place.rmdir()


def settled(marks: Iterable[Path]) -> list[Path]:
    """Return those of others' marks whose file has taken its place by now, or never will."""
    latest = time.time() - _MOMENTS_S
    old = []
    for each in marks:
        with suppress(OSError):  # gone meanwhile
            if each.stat().st_mtime < latest:
                old.append(each)
    return old


def _sync(folder: Path) -> None:
    with suppress(OSError):  # some file systems refuse it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
