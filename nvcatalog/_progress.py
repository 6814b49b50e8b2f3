"""Say how a long call is getting on, on stderr, as ``verbose`` asks: by a bar, or now and then a line in a log."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm.std import tqdm

#: The library logs here and installs no handler: nothing above INFO, which Python would write to stderr unasked.
logger = logging.getLogger("nvcatalog")

SUMMARY, BARS, REQUESTS = 1, 2, 3
#: Where no bar is drawn, a line comes so often.
LINE_EVERY_S = 30.0
#: Who waits for longer than this is told what for.
WAIT_TOLD_AFTER_S = 5.0

# What has been imported where a notebook shows stderr, which is no terminal there.
_NOTEBOOKS = ("ipykernel.zmqshell", "IPython.utils._process_emscripten")

# What threads wait for, and since when.
_waits: dict[object, tuple[str, float]] = {}
_telling = threading.Lock()


class Progress:
    """One bar over a known number of things; silent below ``verbose=2``.

    Parameters
    ----------
    what : str
        What is counted, such as "images".
    total : int
        How many are expected; 0 shows no bar.
    verbose : int
        The call's verbosity.
    unit : str
        The unit of the rate.
    """

    def __init__(self, what: str, *, total: int, verbose: int, unit: str = "file") -> None:
        self._bar: tqdm[Any] | None = None
        self._what, self._unit, self._verbose = what, unit, verbose
        self._done, self._told_at = 0, time.monotonic()
        self.expect(total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def expect(self, total: int) -> None:
        """Say how many are expected now: fewer or more than before, or any at all."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()
        elif self._verbose >= BARS and total and _can_draw():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, desc=self._what, unit=self._unit, file=sys.stderr, dynamic_ncols=True)

    def step(self, count: int = 1) -> None:
        """Count ``count`` more as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._verbose >= BARS and self._total and time.monotonic() - self._told_at >= LINE_EVERY_S:
            self._told_at = time.monotonic()
            _write(f"{self._what}: {self._done:,} of {self._total:,} {self._unit}s")


def summarise(text: str, *, verbose: int) -> None:
    """Write one line to stderr, around any bar that is open, from ``verbose=1`` on."""
    logger.info("%s", text)
    if verbose >= SUMMARY:
        _write(text)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Let whoever tells of waits say what this thread waits for here, should that take long."""
    me = object()
    _waits[me] = what, time.monotonic()
    try:
        yield
    finally:
        _waits.pop(me, None)  # nobody waits in a process that was forked meanwhile


@contextmanager
def telling_of_waits(verbose: int) -> Iterator[None]:
    """Say once, from ``verbose=2`` on, what has been waited for for some seconds; one call says it for all."""
    over, mine = threading.Event(), _telling
    if verbose < BARS or not mine.acquire(blocking=False):
        yield
        return
    thread = threading.Thread(target=_tell_of_waits, args=(over,), name="nvcatalog-waits", daemon=True)
    try:
        with suppress(RuntimeError):  # the system may refuse to start it
            thread.start()
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        mine.release()


def _tell_of_waits(over: threading.Event) -> None:
    told: set[str] = set()
    while not over.wait(WAIT_TOLD_AFTER_S / 10):
        late = time.monotonic() - WAIT_TOLD_AFTER_S
        for what in sorted({what for what, since in list(_waits.values()) if since <= late} - told):
            told.add(what)
            _write(f"Waiting for {what}")


def _write(text: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(text, file=sys.stderr)


def _can_draw() -> bool:
    """Whether stderr is shown where a line can be written over: on a terminal, or in a notebook."""
    return any(name in sys.modules for name in _NOTEBOOKS) or (sys.stderr is not None and sys.stderr.isatty())


def _forget_who_was_writing() -> None:
    """Let a forked child write: a thread of its parent's that drew a bar just then is not there to finish."""
    global _telling
    _telling = threading.Lock()
    _waits.clear()
    tqdm = sys.modules.get("tqdm.auto")
    if tqdm is not None:
        tqdm.tqdm.set_lock(threading.RLock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_who_was_writing)
