"""Processes that tests start: forked within milliseconds from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

_context = multiprocessing.get_context("forkserver")
# There is one such server, and one list of what it imports: what another module set would hold for all.
_context.set_forkserver_preload(
    [
        "dying",
        "killing",
        "stopping",
        "test_kill",
        "test_sync",
        "nvcatalog.call",
        "nvcatalog.fetch",
        "nvcatalog.prune",
        "nvcatalog.rebuild",
        "nvcatalog.repair",
        "nvcatalog.sync",
        "pandas",
        "pyarrow.dataset",
        "pyarrow.parquet",
        "sklearn.utils",
        "tqdm.auto",
    ]
)


def pipe() -> tuple[Connection, Connection]:
    """Return an end to receive from, and one to send to."""
    return _context.Pipe(duplex=False)


def start(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a process that works, in an environment as it is here and now."""
    with patch.dict(os.environ, {"PYTHONPATH": _path()}):  # so that the server finds what it is to import
        forkserver.ensure_running()
    process = _context.Process(target=_begin, args=(dict(os.environ), work, arguments))
    process.start()
    return process


def _path() -> str:
    return os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))


def _begin(environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()  # the server's is that of the test that came first
    os.environ.update(environment)
    work(*arguments)
