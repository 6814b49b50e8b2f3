"""DuckDB's databases in memory, to which files are attached: one is ready before somebody waits for it.

To make one takes DuckDB some 20 ms and to close it 10, most of what a small question takes; to attach a file to
one that is there takes 5. So one is used again and again, but for those that a fence has closed: they stay closed.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import duckdb

from nvcatalog._background import in_background, on_stop
from nvcatalog._progress import logger
from nvcatalog.queries import quoted

# No extension of DuckDB is needed, and looking for one on the network would take seconds. Nothing is spilled
# unless who has one says where to: a folder to spill into would be one that a query can write to.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "",
}
_NAME = "catalog"


class Instance:
    """A database in memory and the one file attached to it, which is what everything is about.

    Attributes
    ----------
    connection : duckdb.DuckDBPyConnection
        To both.
    afterwards : contextlib.ExitStack
        What is to be done once the file is closed.
    """

    def __init__(self) -> None:
        self.connection = _take()
        self.afterwards = ExitStack()
        self._is_attached = False
        self._fencing = threading.Lock()
        self._is_fenced = False
        self._spills = False
        self._is_as_new = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # there may be a transaction that is not over
            with self.afterwards:
                self.connection.close()

    def attach(self, path: Path, *, read_only: bool) -> None:
        """Open a file."""
        self._attach(path, " (READ_ONLY)" if read_only else "")

    def create(self, path: Path) -> None:
        """Make a file that is not there, and open it."""
        # An older storage version, so that older DuckDB tools open the file too.
        self._attach(path, " (STORAGE_VERSION 'v1.0.0')")

    def _attach(self, path: Path, options: str) -> None:
        self.connection.execute(f"ATTACH {quoted(path)} AS {_NAME}{options}")
        self._is_attached = True
        self.connection.execute(f"USE {_NAME}")

    def detach(self) -> None:
        """Close the file; what was written goes from its log into it, unless that was forbidden."""
        self.connection.execute("USE memory")
        self.connection.execute(f"DETACH {_NAME}")
        self._is_attached = False

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return one more connection, for a thread of its own."""
        return self.connection.cursor().execute(f"USE {_NAME}")

    def spill_to(self, folder: Path) -> None:
        """Let what does not fit into the memory go into a folder."""
        self._spills = True
        self.connection.execute(f"SET temp_directory = {quoted(folder)}")

    def put_off_checkpoints(self) -> None:
        """Leave what is written in the log, however large that gets."""
        self._is_as_new = False
        self.connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        self.connection.execute("SET checkpoint_threshold = '1 TB'")

    def fence(self) -> None:
        """Leave a query nothing but the file, here and on all its cursors."""
        with self._fencing:
            if not self._is_fenced:
                self._is_as_new, self._is_fenced = False, True
                fence(self.connection)

    def close(self) -> None:
        """Close the file, whatever has become of it; nobody waits until the database has gone too."""
        with self.afterwards:
            self._close()

    def _close(self) -> None:
        try:
            if self._is_attached:
                self.detach()
            if self._spills:  # which DuckDB refuses where it has happened
                self.connection.execute("SET temp_directory = ''")
        except duckdb.Error as error:  # what was committed is in the log, as after a kill
            logger.debug("A file was not closed in order: %s", error)
            self.connection.close()
            return
        _give_back(self.connection, is_as_new=self._is_as_new)


def fence(connection: duckdb.DuckDBPyConnection) -> None:
    """Leave nothing in a query's reach but what is in the catalog.

    Without external access DuckDB still lets a query read and overwrite the file it is on, its log, and the
    folder it spills into: one COPY would put an end to the catalog. So no file is opened any more at all;
    the one that is open stays so.
    """
    connection.execute("SET enable_external_access = false")
    connection.execute("SET GLOBAL TimeZone = 'UTC'")  # for every cursor; a plain SET is this one's alone
    connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
    connection.execute("SET lock_configuration = true")


def in_memory(*, for_user: bool = False) -> duckdb.DuckDBPyConnection:
    """Open a database that is no catalog's and has no fence: its owner may do with it as they like."""
    connection = duckdb.connect()
    return connection if for_user else _quiet(connection)


def get_ready() -> None:
    """Begin to make one, for who will need it soon."""
    in_background(_make_one)


_ready: list[duckdb.DuckDBPyConnection] = []
_making = threading.Lock()
_was_asked = False


def _take() -> duckdb.DuckDBPyConnection:
    """Return one that nobody else has."""
    with _making:  # one that is being made is there sooner than another would be
        if _ready:
            return _ready.pop()
    return _new()


def _give_back(connection: duckdb.DuckDBPyConnection, *, is_as_new: bool) -> None:
    """Keep one for the next who asks, or another in its place where somebody has asked before."""
    global _was_asked
    if is_as_new and not _ready:
        _ready.append(connection)
    elif not in_background(connection.close):
        connection.close()
    elif _was_asked:
        in_background(_make_one)
    _was_asked = True


def _make_one() -> None:
    with _making, suppress(duckdb.Error):  # who needs one will meet the same, and tell
        if not _ready:
            _ready.append(_new())


@on_stop
def _close_ready() -> None:
    # The child would have it without its threads.
    while _ready:
        _ready.pop().close()


def _new() -> duckdb.DuckDBPyConnection:
    connection = _quiet(duckdb.connect(config=_CONFIG))
    return connection.execute("SET GLOBAL TimeZone = 'UTC'")  # for every cursor; a plain SET is this one's alone


def _quiet(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Keep DuckDB from printing how far a statement is, as it does in notebooks and terminals after 2 s."""
    return connection.execute("SET enable_progress_bar = false")


def _begin_anew() -> None:
    # Another thread may have held it while this one forked.
    global _making
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
