"""Collect what arrives and land it in short writes; keep what cannot land, and say why."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from nvcatalog import _batch, _replaced, storage
from nvcatalog._batch import Batch
from nvcatalog._line import make_line
from nvcatalog._locks import Underway
from nvcatalog._progress import logger
from nvcatalog._store import Store
from nvcatalog.errors import CatalogLockedError

# The first soon, since it may have to make the catalog: best while the first files are waited for.
_FIRST_AFTER_S = 0.1
# One commit costs some 100 ms whatever its size, so few large ones; a kill costs at most this much of lists.
_EVERY_S = 2.0
_EVERY_ROWS = 2000
# Where hundreds of thousands of rows come, and how many may come together while a landing is under way.
_EVERY_ROWS_OF_MANY, _MOST_ROWS_OF_MANY = 10_000, 20_000
_SHORT_PATIENCE_S = 0.2
# With fewer than that transfers may leave none to import modules with.
_FEW_FILES = 128


class _Load(NamedTuple):
    """What is being landed, the folders that it is about, and the marks that go with it."""

    batch: Batch
    folders: set[Path]
    marks: list[Path]


class Lander:
    """Lands a call's rows in its catalog, in a thread of its own: what moves need not wait for the disk.

    Parameters
    ----------
    store : Store
        Where to.
    writable : bool
        Whether the folder can be written; where not, nothing is landed and nothing is said.
    many : bool
        Whether very many rows will come: larger landings that cost less, the last of which puts the file in order;
        whoever brings rows faster than they land waits, so that they do not fill the memory.

    Attributes
    ----------
    batch : Batch
        What comes together; another one after each landing.
    folders : set of Path
        Folders with renames that must last before the rows do.
    marks : list of Path
        Marks on files that these rows are about, which go when the rows have landed.
    server_root : str or None
        Noted with the first record: a server that never answered gives no catalog its name.
    writable : bool
        As given.
    troubles : list of str
        What could not land, and why: for the caller to warn of, at the line of who called it.
    locked : CatalogLockedError or None
        Who kept the last landing out of the catalog.
    """

    def __init__(self, store: Store, *, writable: bool, many: bool = False) -> None:
        self.batch = Batch()
        self.folders: set[Path] = set()
        self.marks: list[Path] = []
        self.server_root: str | None = None
        self.troubles: list[str] = []
        self.landed = False
        self._store = store
        self.writable = writable
        self._many = many
        self._misfits = False
        self._due_at = time.monotonic() + _FIRST_AFTER_S
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nvcatalog-lander")
        self._landing: Future[list[str]] | None = None
        self._taken = _Load(Batch(), set(), [])
        self._underway = Underway(store.folder)
        self.locked: CatalogLockedError | None = None

    def expect_files(self) -> None:
        """Get ready for files that come before their rows land, and show others that they do, to the end.

        What landing needs is imported where transfers could use up all files that this process may open.
        """
        self._underway.show()
        if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < _FEW_FILES:
            _batch.get_ready()  # with many it is done beside the first transfers

    def land_if_due(self) -> None:
        """Begin to land when enough has come together, or waited long enough."""
        rows = 0 if self.locked else len(self.batch)  # somebody who holds it is asked now and then
        due = rows >= (_EVERY_ROWS_OF_MANY if self._many else _EVERY_ROWS) or time.monotonic() >= self._due_at
        idle = self._landing is None or self._landing.done()
        if (due and idle) or (self._many and rows >= _MOST_ROWS_OF_MANY):
            self._begin(is_last=not self._many)

    def land(self) -> None:
        """Land all that has come together; somebody who holds the catalog costs ``lock_timeout``, once."""
        self._begin()
        self._end()

    def finish(self) -> None:
        """Land the rest, or note who keeps it from landing."""
        try:
            self.land()
            if self.landed:
                make_line(self._store.folder)
        finally:
            self._thread.shutdown()
            self._underway.take_down()
        if self.locked is not None:
            self.troubles.append(f"What this call fetched is on disk but not in the catalog yet: {self.locked}")

    def _begin(self, *, is_last: bool = True) -> None:
        self._end()
        if not self.batch or not self.writable:
            return
        self._due_at = time.monotonic() + _EVERY_S
        if self.server_root and "raw_records" in self.batch.tables:
            self.batch.add("catalog_info", {"key": "server_root", "value": self.server_root})
            self.server_root = None
        self.batch.follows_misfits |= self._misfits
        self._taken = _Load(self.batch, self.folders, self.marks)
        self.batch, self.folders, self.marks = Batch(), set(), []
        patience_s = _SHORT_PATIENCE_S if self.locked else None
        land = self._store.land if is_last else self._store.land_one_of_many
        self._landing = self._thread.submit(_land, land, self._taken, patience_s)

    def _end(self) -> None:
        """Wait for a landing under way; what could not land, whatever the reason, goes with the next."""
        if self._landing is None:
            return
        error = self._landing.exception()  # Ctrl-C while this waits leaves the landing to be waited for again
        landing, self._landing = self._landing, None
        if error is not None:
            # What did not land goes with the next or not at all: a list that lands without an earlier page of its
            # images would pass for complete for good.
            self.batch = self._taken.batch.followed_by(self.batch)
            self.folders |= self._taken.folders
            self.marks += self._taken.marks
            if not isinstance(error, CatalogLockedError):
                raise error
            self.locked = error
            return
        self.locked, self.landed = None, True
        self._misfits |= bool(landing.result())
        for culprit in landing.result():
            logger.info("%s", culprit)
            self.troubles.append(culprit)


def _land(land: Callable[..., list[str]], load: _Load, patience_s: float | None) -> list[str]:
    # What a row says of a file must be on the disk before the row is.
    storage.sync_folders(load.folders)
    culprits = land(load.batch, timeout_s=patience_s)
    if not culprits:
        _replaced.clear(load.marks)
    return culprits
