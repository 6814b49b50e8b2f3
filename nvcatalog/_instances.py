"""DuckDB's databases in memory, to which files are attached: the next one is made while nobody waits for it.

To make one takes DuckDB some 20 ms and to close it 10, most of what a small question takes; to attach a file to
one that is there takes 5. None is used twice, since what a fence has closed stays closed.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import duckdb

from nvcatalog._background import before_fork, in_background
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
    """

    def __init__(self) -> None:
        self.connection = _take()

    def attach(self, path: Path, *, read_only: bool) -> None:
        """Open a file."""
        options = " (READ_ONLY)" if read_only else ""
        self.connection.execute(f"ATTACH {quoted(path)} AS {_NAME}{options}")
        self.connection.execute(f"USE {_NAME}")

    def create(self, path: Path) -> None:
        """Make a file that is not there, and open it."""
        # An older storage version, so that older DuckDB tools open the file too.
        self.connection.execute(f"ATTACH {quoted(path)} AS {_NAME} (STORAGE_VERSION 'v1.0.0')")
        self.connection.execute(f"USE {_NAME}")

    def detach(self) -> None:
        """Close the file; what was written goes from its log into it, unless that was forbidden."""
        self.connection.execute("USE memory")
        self.connection.execute(f"DETACH {_NAME}")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return one more connection, for a thread of its own."""
        return self.connection.cursor().execute(f"USE {_NAME}")

    def close(self) -> None:
        """Close the file, whatever has become of it; nobody waits until the database has gone too."""
        try:
            self.detach()
        except duckdb.Error as error:  # what was committed is in the log, as after a kill
            logger.debug("A file was not closed in order: %s", error)
            self.connection.close()
            return
        if not in_background(self.connection.close):
            self.connection.close()


def in_memory(*, for_user: bool = False) -> duckdb.DuckDBPyConnection:
    """Open a database that is no catalog's and has no fence: its owner may do with it as they like."""
    connection = duckdb.connect()
    return connection if for_user else _quiet(connection)


def get_ready() -> None:
    """Begin to make one, for who will need it soon."""
    global _asks_often
    _asks_often = True
    in_background(_make_one)


_ready: list[duckdb.DuckDBPyConnection] = []
_making = threading.Lock()
_asks_often = False


def _take() -> duckdb.DuckDBPyConnection:
    """Return one that nobody else has; who takes a second one is likely to want a third."""
    global _asks_often
    with _making:  # one that is being made is there sooner than another would be
        connection = _ready.pop() if _ready else None
    connection = connection or _new()
    if _asks_often:
        in_background(_make_one)
    _asks_often = True
    return connection


def _new() -> duckdb.DuckDBPyConnection:
    return _quiet(duckdb.connect(config=_CONFIG))


def _quiet(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Keep DuckDB from printing how far a statement is, as it does in notebooks and terminals after 2 s."""
    return connection.execute("SET enable_progress_bar = false")


def _make_one() -> None:
    with _making, suppress(duckdb.Error):  # who needs one will meet the same, and tell
        if not _ready:
            _ready.append(_new())


@before_fork
def _close_ready() -> None:
    # The child would have it without its threads.
    while _ready:
        _ready.pop().close()
