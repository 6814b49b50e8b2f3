"""How tests wait: for what must happen, however long a slow machine takes, and never for a length of time."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from nvcatalog._gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nvcatalog._http import Service
    from nvcatalog.demo import DemoServer
    from nvcatalog.demo.faults import Fault
    from nvcatalog.demo.wire import Answer, Request

# What has not happened by then never will: a machine that is merely slow is not to be blamed.
PATIENCE_S = 300.0


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let nobody wait longer for who keeps the catalog; a call still waits for its own threads, however slow."""
    wait = Gate._wait

    def wait_for_own(gate: Gate[Any], ready: Callable[[], object], timeout_s: float) -> None:
        wait(gate, ready, PATIENCE_S)

    with (
        patch.dict(os.environ, {"NVCATALOG_LOCK_TIMEOUT": str(seconds)}),
        patch.object(Gate, "_wait", wait_for_own),
    ):
        yield


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process that does not outlive a test that fails, whatever it was doing."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def hold_until_together(server: DemoServer, pattern: str, number: int) -> None:
    """Hold the answers to requests whose path matches until so many are under way at once, and then no more.

    So all who may come together do, however slowly threads start; one too many has a moment to come too.
    """
    answer, arrivals, together = server.answer, itertools.count(1), threading.Event()

    def held(service: str, request: Request) -> Answer:
        given = answer(service, request)
        if fnmatchcase(request.path, pattern) and not together.is_set():
            if next(arrivals) == number:
                time.sleep(0.1)
                together.set()
            together.wait(PATIENCE_S)
        return given

    setattr(server, "answer", held)  # noqa: B010 - a method of this one server


def then_patient(service: Service, fault: Fault) -> Fault:
    """Return a fault after which the service has all the time in the world: only what it strikes times out."""

    def change(answer: Answer) -> Answer:
        service._timeout_s = PATIENCE_S
        return fault.change(answer)

    return type(fault)(fault.name, change)
