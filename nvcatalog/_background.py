"""Do what takes a moment while nobody waits for it; no process forks meanwhile."""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

# A fork waits no longer for what is done beside it.
_FORK_PATIENCE_S = 10.0

_jobs: deque[Callable[[], object]] = deque()
_at_work = threading.Lock()
_is_held = False  # while this process forks
_on_stop: list[Callable[[], None]] = []


def in_background(job: Callable[[], object]) -> bool:
    """Do something after all such things before it; False where there can be no more threads."""
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


def on_stop(clear: Callable[[], None]) -> Callable[[], None]:
    """Have a function called whenever nothing is begun any more: before a fork, and at the end of the process."""
    _on_stop.append(clear)
    return clear


def _work() -> None:
    while _jobs and _at_work.acquire(blocking=False):
        try:
            _do_all()
        finally:
            _at_work.release()


def _do_all() -> None:
    while _jobs:
        _jobs.popleft()()  # by whoever is at work, and nobody else


@atexit.register
def _finish() -> None:
    """Begin nothing any more: a thread that is in DuckDB while Python ends would take the process down with it."""
    _at_work.acquire()
    _clear()


def _clear() -> None:
    _do_all()
    for clear in _on_stop:
        clear()


def _before_fork() -> None:
    global _is_held
    _is_held = _at_work.acquire(timeout=_FORK_PATIENCE_S)
    if _is_held:
        _clear()


def _after_fork_in_parent() -> None:
    if _is_held:
        _at_work.release()


def _after_fork_in_child() -> None:
    global _at_work
    _at_work = threading.Lock()
    _jobs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
