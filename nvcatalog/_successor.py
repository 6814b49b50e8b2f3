"""A catalog that is made apart from the one that is there, and takes its place when it is whole."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from nvcatalog._gate import ForkedOpenError, gate_of
from nvcatalog._locks import lock_timeout_s
from nvcatalog._store import FILE_NAME, Store
from nvcatalog.errors import CatalogLockedError


class Successor(Store):
    """A folder's catalog to be.

    Until it takes its place it is a hidden temporary file, and nothing of what is there is touched.

    Parameters
    ----------
    folder : Path
        The data folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._place = self.path
        self._found = _trace(self._place)
        self.path = folder / f".{FILE_NAME}.{os.getpid()}-{secrets.token_hex(4)}.part"
        self._gate = gate_of(self.path)

    @contextmanager
    def _file_lock(self, deadline: float) -> Iterator[None]:
        """Keep nobody out: nobody else knows its name."""
        yield

    def check_not_lost(self) -> None:
        """Be made in any case: of the snapshots."""

    def discard(self) -> None:
        """Remove it, as far as it was made."""
        for path in (self.path, _log_of(self.path)):
            path.unlink(missing_ok=True)

    def take_place(self) -> Path | None:
        """Become the folder's catalog, and return where the former one is kept, its log beside it.

        Raises
        ------
        CatalogLockedError
            When somebody keeps that one open, or has put another there since this was begun.
        """
        patience_s = lock_timeout_s()
        deadline = time.monotonic() + patience_s
        aside = self._place.with_name(f"{FILE_NAME}.broken-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        try:
            with gate_of(self._place).writing(timeout_s=patience_s), super()._file_lock(deadline):
                if _trace(self._place) != self._found:
                    raise CatalogLockedError(f"{self._place} was changed by somebody else meanwhile, and stays")
                self._replace_former(aside)
        except (TimeoutError, ForkedOpenError) as error:
            raise CatalogLockedError(f"{self._place}: {error}") from error
        return aside if self._found else None

    def _replace_former(self, aside: Path) -> None:
        """Take the place in one step, so that no call finds it empty and makes a new catalog there."""
        if self._found:
            try:
                os.link(self._place, aside, follow_symlinks=False)
            except OSError:  # what is there is a folder, or the file system has no such links
                self._place.replace(aside)
        # DuckDB would replay the former one's log into this one.
        log = _log_of(self._place)
        if log.exists():
            log.replace(_log_of(aside))
        self.path.replace(self._place)


def _trace(path: Path) -> tuple[int, int, int] | None:
    """Return what tells whether a file is still the one that it was; None where there is none."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")
