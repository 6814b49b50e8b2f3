"""Let a few at a time look something up: whoever wants to write waits for all who have the catalog open.

Of many readers on a machine each gets little of its processors, and has the catalog open all the longer. In a line
they get as much done, and a writer waits for a few. It is politeness: who has waited for a while goes ahead, and
where nobody has made a line, such as in a folder that nilearn filled, or nothing can be locked, there is none.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nvcatalog._locks import FOLDER

try:
    import fcntl
except ImportError:  # on Windows
    _CAN_LOCK = False
else:
    _CAN_LOCK = True

# Those of one machine: where locks reach further than that, they cannot be had by who may only read.
_PLACES = min(32, 2 * (os.cpu_count() or 1))
_PATIENCE_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.05


def make_line(folder: Path) -> None:
    """Make the places of a data folder, as far as this user may; they stay, since others may have them open."""
    if not _CAN_LOCK:
        return
    with suppress(OSError):
        (folder / FOLDER).mkdir(exist_ok=True)
        for place in _places(folder):
            if not place.exists():
                place.touch()
                place.chmod(0o666)  # for a group, whatever the umask


@contextmanager
def in_line(folder: Path, *, timeout_s: float) -> Iterator[None]:
    """Have a place in the line while something is looked up; a quarter of the time is spent on that at most."""
    until = time.monotonic() + min(_PATIENCE_S, timeout_s / 4)
    places, pause_s = _places(folder) if _CAN_LOCK else [], _FIRST_PAUSE_S
    file = None
    with suppress(OSError):  # there is no line
        while (file := _free(places)) is None and places and time.monotonic() < until:
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
    try:
        yield
    finally:
        if file is not None:
            os.close(file)


def _places(folder: Path) -> list[Path]:
    return [folder / FOLDER / f"reading-{number}" for number in range(_PLACES)]


def _free(places: list[Path]) -> int | None:
    """Take a place that is free, by opening its file; None where there is none, an error where none can be."""
    for place in random.sample(places, len(places)):
        file = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        except OSError:
            os.close(file)
            raise
        else:
            return file
    return None
