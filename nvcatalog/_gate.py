"""One gate per file within a process: many readers share one open resource, or one writer has it alone.

DuckDB refuses a second configuration of a file that is open, and a connection that is open while the
process forks loses rows in silence; so every open of a catalog goes through its gate, and a fork waits
until every gate is clear.
"""

from __future__ import annotations

# Before a fork, handlers run in reverse order. Those of the thread pools and of filelock take locks that a thread
# may need to get out of a gate, and who gets out leaves a database to be closed in the background: registered
# before ours, they run when ours has waited for the gates.
import concurrent.futures.thread  # noqa: F401
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import filelock  # noqa: F401 - as above

import nvcatalog._background  # noqa: F401 - as above


class _Closable(Protocol):
    def close(self) -> None: ...


Resource = TypeVar("Resource", bound=_Closable)

# A fork that waits for ever would be a new way to hang; after this long it goes ahead.
_FORK_PATIENCE_S = 10.0


class ForkedOpenError(RuntimeError):
    """Raised in a child process that was forked while the file was open in its parent."""


class Gate(Generic[Resource]):
    """Let many readers in over one shared resource, or one writer."""

    def __init__(self) -> None:
        self._shared: Resource | None = None
        self._spoiled = False
        self._clear()

    def _clear(self) -> None:
        self._condition = threading.Condition()
        self._opening = threading.Lock()
        self._readers: Counter[int] = Counter()  # thread id -> depth
        self._writer: int | None = None
        self._waiting_writers = 0
        self._closed_for_fork = False

    @contextmanager
    def reading(self, open_resource: Callable[[float], Resource], *, timeout_s: float) -> Iterator[Resource]:
        """Enter as a reader; the first one in opens the resource, the last one out closes it.

        ``open_resource`` is told how many seconds are left.
        """
        me = threading.get_ident()
        deadline = time.monotonic() + timeout_s
        with self._condition:
            self._wait(
                lambda: self._writer is None and (self._readers[me] or not self._waiting_writers), timeout_s
            )
            self._readers[me] += 1
        try:
            with self._opening:
                if self._shared is None:
                    self._shared = open_resource(max(0.0, deadline - time.monotonic()))
                resource = self._shared
            yield resource
        finally:
            self._leave(me)

    def _leave(self, reader: int) -> None:
        with self._condition:
            self._readers[reader] -= 1
            self._readers += Counter()  # drops threads that read no more
            try:
                if not self._readers and self._shared is not None:
                    unused, self._shared = self._shared, None
                    unused.close()
            finally:
                self._condition.notify_all()

    @contextmanager
    def writing(self, *, timeout_s: float) -> Iterator[None]:
        """Enter alone. Waiting writers go before new readers, or steady reading would starve them."""
        self._enter_alone(timeout_s)
        try:
            yield
        finally:
            self._leave_alone()

    def _enter_alone(self, timeout_s: float) -> None:
        me = threading.get_ident()
        with self._condition:
            if self._has_open(me):
                raise RuntimeError("a thread that has the catalog open cannot open it again for writing")
            self._waiting_writers += 1
            try:
                self._wait(lambda: self._writer is None and not self._readers, timeout_s)
                self._writer = me
            finally:
                self._waiting_writers -= 1
                self._condition.notify_all()

    def _leave_alone(self) -> None:
        with self._condition:
            self._writer = None
            self._condition.notify_all()

    def _has_open(self, thread: int) -> bool:
        return thread in self._readers or thread == self._writer

    def _wait(self, ready: Callable[[], object], timeout_s: float) -> None:
        if self._spoiled:
            raise ForkedOpenError(
                "this process was forked while its parent had the file open, and must not touch it; "
                "start processes with multiprocessing's 'spawn' or 'forkserver'"
            )
        deadline = time.monotonic() + timeout_s
        while not ready():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"another thread of this process has had it open for {timeout_s:g} s")
            self._condition.wait(remaining)

    # Around a fork

    def close_for_fork(self) -> None:
        """Wait until nothing is open, and keep it so. A thread that forks while it has it open is let through."""
        if not self._has_open(threading.get_ident()):
            with suppress(TimeoutError, ForkedOpenError):
                self._enter_alone(_FORK_PATIENCE_S)
                self._closed_for_fork = True
        self._condition.acquire()

    def reopen_in_parent(self) -> None:
        """Let readers and writers in again."""
        self._condition.release()
        if self._closed_for_fork:
            self._closed_for_fork = False
            self._leave_alone()

    def reopen_in_child(self) -> None:
        """Start afresh, without the threads that were waiting; but never beside what the parent had open.

        DuckDB would hand out the parent's own instance again, whose threads do not exist here.
        """
        self._spoiled = self._spoiled or not self._closed_for_fork
        self._clear()


_gates: dict[Path, Gate[_Closable]] = {}
_gates_lock = threading.Lock()


def gate_of(path: Path) -> Gate[_Closable]:
    """Return the one gate of a file in this process, whatever way its path is written."""
    try:
        place = path.resolve()
    except RuntimeError:  # symbolic links in a circle, which whoever opens the file complains of
        place = path.absolute()
    with _gates_lock:
        return _gates.setdefault(place, Gate())


def _before_fork() -> None:
    _gates_lock.acquire()
    # A gate of two files is younger than theirs, and who is in it may still have to go through them.
    for gate in reversed(_gates.values()):
        gate.close_for_fork()


def _after_fork_in_parent() -> None:
    for gate in _gates.values():
        gate.reopen_in_parent()
    _gates_lock.release()


def _after_fork_in_child() -> None:
    global _gates_lock
    for gate in _gates.values():
        gate.reopen_in_child()
    _gates_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
