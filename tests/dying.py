"""A process that dies at a chosen step, as if it were killed: nothing of what it had in mind is done any more."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nvcatalog._store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# What changes a folder. Death comes right before the step: the one after it is the one before the next.
_STEPS = ("unlink", "rename", "replace", "link", "rmdir")

# As in the tests of kills: a server that has imported everything forks each process within milliseconds.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["nvcatalog.call", "nvcatalog.repair", "nvcatalog.rebuild", "nvcatalog.prune"])


def dies(at: int, work: Callable[..., object], *arguments: Any, environment: Mapping[str, str]) -> bool:
    """Do work in a process that dies before its step of that number; return whether it came so far."""
    process = _processes.Process(target=_work, args=(at, work, arguments, dict(environment)))
    process.start()
    process.join()
    assert process.exitcode in (0, 9), process.exitcode
    return process.exitcode == 9


def _work(at: int, work: Callable[..., object], arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    left = [at]

    def deadly(step: Callable[..., Any]) -> Callable[..., Any]:
        def step_or_die(*args: Any, **kwargs: Any) -> Any:
            left[0] -= "snapshots" not in str(args[0])  # those are killed elsewhere
            if left[0] == 0:
                os._exit(9)
            return step(*args, **kwargs)

        return step_or_die

    for name in _STEPS:
        setattr(os, name, deadly(getattr(os, name)))
    for name in ("land", "land_one_of_many"):
        setattr(Store, name, deadly(getattr(Store, name)))
    with suppress(UserWarning):
        work(*arguments)
    os._exit(0)  # before anything that waits for the end of a process
