"""DuckDB's databases in memory, to which files are attached: the next one is made while nobody waits for it.

To make one takes DuckDB some 20 ms and to close it 10, most of what a small question takes; to attach a file to
one that is there takes 5. None is used twice, since what a fence has closed stays closed.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import duckdb

from nvcatalog._progress import logger
from nvcatalog.queries import quoted

# No extension of DuckDB is needed, and looking for one on the network would take seconds. Nothing is spilled
# unless who has one says where to: a folder to spill into would be one that a query can write to.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "",
}
_NAME = "catalog"
# A fork waits no longer for what is done beside it: that takes a moment.
_FORK_PATIENCE_S = 10.0


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


def get_ready() -> None:
    """Begin to make one, for who will need it soon."""
    global _asks_often
    _asks_often = True
    in_background(_make_one)


def in_background(job: Callable[[], object]) -> bool:
    """Do something that takes a moment after all such things before it; False where there can be no more threads.

    No process forks meanwhile: it would leave threads of DuckDB's in the parent that the child waits for.
    """
    _jobs.append(job)
    if _at_work.locked():
        return True  # whoever is at work looks once more before it ends
    try:
        threading.Thread(target=_work, name="nvcatalog-background").start()
    except RuntimeError:  # such as while Python ends
        with suppress(ValueError):  # somebody who was at work has done it
            _jobs.remove(job)
            return False
    return True


_ready: deque[duckdb.DuckDBPyConnection] = deque()
_asks_often = False
_jobs: deque[Callable[[], object]] = deque()
_at_work, _making = threading.Lock(), threading.Lock()
_is_held = False  # while this process forks


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
    # DuckDB would print how far a statement is, in notebooks and terminals, after 2 s.
    connection = duckdb.connect(config=CONFIG)
    return connection.execute("SET enable_progress_bar = false")


def _make_one() -> None:
    with _making, suppress(duckdb.Error):  # who needs one will meet the same, and tell
        if not _ready:
            _ready.append(_new())


def _work() -> None:
    while _jobs and _at_work.acquire(blocking=False):
        try:
            _do_all()
        finally:
            _at_work.release()


def _do_all() -> None:
    while _jobs:
        _jobs.popleft()()  # by whoever is at work, and nobody else


# Around a fork


def _before_fork() -> None:
    global _is_held
    _is_held = _at_work.acquire(timeout=_FORK_PATIENCE_S)
    if _is_held:
        _do_all()
        with _making:
            while _ready:
                _ready.pop().close()


def _after_fork_in_parent() -> None:
    if _is_held:
        _at_work.release()


def _after_fork_in_child() -> None:
    global _at_work, _making
    _at_work, _making = threading.Lock(), threading.Lock()
    _jobs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
