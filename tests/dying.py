"""A process that dies at a chosen step, as if it were killed: nothing of what it had in mind is done any more."""

from __future__ import annotations

import itertools
import os
import random
import warnings
from typing import TYPE_CHECKING, Any

from children import start

from nvcatalog import Catalog, snapshot
from nvcatalog._store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# What changes a folder. Death comes right before the step: the one after it is the one before the next.
_STEPS = ("unlink", "rename", "replace", "link", "rmdir")


def some_steps(every: int) -> Iterator[int]:
    """Yield one step of so many, others in every run: neighbours mostly leave the same behind."""
    return itertools.count(1 + random.SystemRandom().randrange(every), every)


def dies(at: int, method: str, data_dir: Path, **options: Any) -> bool:
    """Call a method of a catalog in a process that dies before that step; return whether it came so far."""
    process = start(_work, at, method, data_dir, options)
    process.join()
    assert process.exitcode in (0, 9), process.exitcode
    return process.exitcode == 9


def _work(at: int, method: str, data_dir: Path, options: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")
    left = [at]

    def deadly(step: Callable[..., Any]) -> Callable[..., Any]:
        def step_or_die(*args: Any, **kwargs: Any) -> Any:
            left[0] -= "snapshots" not in str(args[0])  # those are killed elsewhere
            if left[0] == 0:
                os._exit(9)
            return step(*args, **kwargs)

        return step_or_die

    snapshot._age_s = lambda folder: 0.0  # they wait, as they do after each
    for name in _STEPS:
        setattr(os, name, deadly(getattr(os, name)))
    for name in ("land", "land_one_of_many"):
        setattr(Store, name, deadly(getattr(Store, name)))
    getattr(Catalog(data_dir), method)(verbose=0, **options)
    os._exit(0)  # before anything that waits for the end of a process
