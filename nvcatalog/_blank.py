"""The file of a catalog without rows: to make one takes a third of a second, to write it down a moment."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import duckdb

from nvcatalog._background import in_background
from nvcatalog._instances import Instance
from nvcatalog._progress import logger
from nvcatalog.errors import MigrationError
from nvcatalog.migrate import load_migrations, migrate
from nvcatalog.storage import write_whole

_made: dict[tuple[str, ...], bytes] = {}
_making = threading.Lock()


def get_ready() -> None:
    """Begin to make one, for who will write it soon."""
    in_background(_make_somewhere)


def write(path: Path) -> None:
    """Write an empty catalog, whose file must not be there; once this returns it outlives a power cut."""
    with _making:  # one that is being made is there sooner than another would be
        content = _made.get(_schema())
        if content is None:
            _make(path)
            _made[_schema()] = path.read_bytes()
            return
    write_whole(path, content, lasting=True)


def _schema() -> tuple[str, ...]:
    return tuple(migration.checksum for migration in load_migrations())


def _make(path: Path) -> None:
    with Instance() as instance:
        instance.create(path)
        migrate(instance.connection)
        instance.detach()  # which says it where the file could not be completed


def _make_somewhere() -> None:
    """Make one where nobody looks; whoever needs one makes it in its place where that does not work."""
    with _making:
        if _schema() in _made:
            return
        try:
            with tempfile.TemporaryDirectory(prefix="nvcatalog-") as folder:
                path = Path(folder) / "blank.duckdb"
                _make(path)
                _made[_schema()] = path.read_bytes()
        except (OSError, duckdb.Error, MigrationError) as error:
            logger.debug("No catalog was made beforehand: %s", error)
