"""A process that is stopped at any of its steps: killed there, or with a disk that is full from there on."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from children import pipe, start

from nvcatalog import Catalog, fetch_neurovault_ids, snapshot
from nvcatalog._store import Store
from nvcatalog.errors import NoSpaceError, SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from types import FrameType

    from nvcatalog.demo import DemoServer, Hit

# What asks servers, and changes a folder or a catalog. The process stops right before such a step: right after it
# is before the next one.
_ASKS = ("connect", "sendall")
_LANDS = ("begin", "execute", "commit")
_CHANGES = ("open", "write", "fsync", "close", "mkdir", "replace", "rename", "link", "symlink", "unlink", "rmdir")
_STEPS = frozenset((*_ASKS, *_LANDS, *_CHANGES))
# How processes that are stopped sign their requests: the last of them may be answered when they are gone.
_SIGNATURES = (f"stopped-{number}-" for number in itertools.count())
#: No process has so many steps.
NEVER = 1 << 30


class Stopped(NamedTuple):
    """How a process ended (``killed``, ``full`` or ``done``), before which step, what it said, how it signed."""

    how: str
    steps: int
    said: str = ""
    signature: str = ""


def stopped(at: int, work: str, data_dir: Path, *, full: bool = False, **options: Any) -> Stopped:
    """Work in a process that is killed before that step, or that has no room on its disk from there on."""
    from_child, to_parent = pipe()
    signature = next(_SIGNATURES)
    process = start(_work, at, full, signature, work, data_dir, options, to_parent)
    to_parent.close()
    try:
        found = Stopped(*from_child.recv())
    except EOFError:
        found = Stopped("killed", at)
    process.join()
    assert process.exitcode == (-signal.SIGKILL if found.how == "killed" else 0), process.exitcode
    assert found.how != "failed", found.said
    return found._replace(signature=signature)


def hits_of(server: DemoServer, pattern: str, end: Stopped | None = None) -> list[Hit]:
    """Return the requests of a process that was stopped, or of those that nobody stops."""
    signed = [(hit, hit.headers.get("user-agent", "")) for hit in server.hits(pattern)]
    return [hit for hit, by in signed if (end.signature in by if end else "stopped-" not in by)]


def _work(
    at: int,
    full: bool,
    signature: str,
    work: str,
    data_dir: Path,
    options: dict[str, Any],
    to_parent: Connection,
) -> None:
    os.environ["NVCATALOG_CONTACT"] = signature
    warnings.simplefilter("ignore")
    steps = itertools.count(1)
    _watch(steps, at, _fill_disk if full else _die)
    how, said = "done", ""
    try:
        WORKS[work](data_dir, **options)
    except (NoSpaceError, SnapshotError) as error:
        how, said = "full", str(error)
    except BaseException as error:  # noqa: BLE001 - told to the parent, for which it is a failure
        how, said = "failed", f"{type(error).__name__} at step {at} of {work}: {error}"
    sys.setprofile(None)
    to_parent.send((how, next(steps) - 1, said))
    os._exit(0)  # before anything that waits for the end of a process


def _watch(steps: itertools.count[int], at: int, stop: Callable[[], None]) -> None:
    """Count the steps of all threads, and stop before one of them."""

    def look(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in _STEPS and next(steps) == at:
            stop()

    threading.setprofile(look)
    sys.setprofile(look)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_disk() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))


# What can be stopped


def _fetch(data_dir: Path, *, publish: bool = False, **options: Any) -> None:
    if not publish:
        snapshot._age_s = lambda folder: 0.0  # it waits, as it does after each
    fetch_neurovault_ids(data_dir=data_dir, verbose=0, **options)


def _sync(data_dir: Path, **options: Any) -> None:
    snapshot._age_s = lambda folder: 0.0
    Catalog(data_dir).sync(verbose=0, **options)


def _publish(data_dir: Path, **options: Any) -> None:
    snapshot.take(Store(data_dir / "neurovault"), **options)


def _migrate(data_dir: Path) -> None:
    with Store(data_dir / "neurovault").writing():
        pass


def _repair(data_dir: Path, **options: Any) -> None:
    snapshot._age_s = lambda folder: 0.0
    Catalog(data_dir).repair(verbose=0, **options)


def _prune(data_dir: Path, **options: Any) -> None:
    snapshot._age_s = lambda folder: 0.0
    Catalog(data_dir).prune(verbose=0, **options)


WORKS: dict[str, Callable[..., None]] = {
    "fetch": _fetch,
    "sync": _sync,
    "publish": _publish,
    "migrate": _migrate,
    "repair": _repair,
    "prune": _prune,
}
