"""How a long call is getting on is shown as it can be: a bar on a terminal and in a notebook, lines in a log."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from fetching import fetch as fetch
from fetching import world as world
from test_store import in_forked_child
from tqdm.auto import tqdm
from waiting import PATIENCE_S, wait_until

from nvcatalog import _progress
from nvcatalog._locks import file_lock
from nvcatalog._progress import Progress, summarise, telling_of_waits, waiting_for
from nvcatalog._store import Store
from nvcatalog.demo.faults import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from fetching import Fetch

    from nvcatalog.demo import DemoServer
    from nvcatalog.demo.wire import Answer

COUNT = """
from nvcatalog._progress import Progress, summarise
with Progress("Fetching", total=3, verbose=2) as progress:
    for _ in range(3):
        progress.step()
summarise("nvcatalog: done", verbose=2)
"""


def count() -> None:
    with Progress("Fetching", total=2000, verbose=2) as progress:
        for _ in range(2):
            progress.step(1000)
    summarise("nvcatalog: done", verbose=2)


def test_on_a_terminal_a_bar_is_drawn() -> None:
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    try:
        subprocess.run([sys.executable, "-c", COUNT], stderr=theirs, check=True)
        said = b""
        while b"nvcatalog: done" not in said:
            said += os.read(terminal, 100_000)
    finally:
        os.close(terminal)
        os.close(theirs)

    assert b"Fetching: 100%" in said


def test_into_a_log_a_short_call_writes_its_summary_alone() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)

    assert done.stderr == "nvcatalog: done\n"
    assert done.stdout == ""


def test_into_a_log_a_long_call_writes_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "LINE_EVERY_S", 0.0)
    count()

    said = capsys.readouterr()
    assert said.err == "Fetching: 1,000 of 2,000 files\nFetching: 2,000 of 2,000 files\nnvcatalog: done\n"
    assert said.out == ""


def test_in_a_notebook_a_bar_is_drawn_although_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", ModuleType("ipykernel.zmqshell"))
    count()

    assert "Fetching: 100%" in capsys.readouterr().err


def test_whoever_asks_for_no_bar_gets_no_line_either(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "LINE_EVERY_S", 0.0)
    with Progress("Fetching", total=2, verbose=1) as progress:
        progress.step()

    assert capsys.readouterr().err == ""


def test_a_process_forked_while_a_bar_is_drawn_can_write_too() -> None:
    summarise("the lock is made with the first line", verbose=1)
    of_threads = tqdm.get_lock().locks[-1]  # type: ignore[no-untyped-call]  # the other one is shared by processes, and so is its end
    drawing, forked = threading.Event(), threading.Event()

    def draw() -> None:
        with of_threads:
            drawing.set()
            forked.wait()

    thread = threading.Thread(target=draw)
    thread.start()
    drawing.wait()
    try:
        assert in_forked_child(lambda: summarise("from the child", verbose=1)) == "fine"
    finally:
        forked.set()
        thread.join()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "WAIT_TOLD_AFTER_S", 0.01)


@pytest.mark.usefixtures("soon")
def test_what_is_waited_for_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = ""

    def has_said(what: str) -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return what in said

    with telling_of_waits(2), telling_of_waits(2):
        with waiting_for("this"), waiting_for("this"):
            wait_until(lambda: has_said("Waiting for this\n"))
        with waiting_for("this"), waiting_for("that"):
            wait_until(lambda: has_said("Waiting for that\n"))
    assert said == "Waiting for this\nWaiting for that\n"
    assert not any(thread.name == "nvcatalog-waits" for thread in threading.enumerate())


@pytest.mark.usefixtures("soon")
def test_whoever_asks_for_no_bar_is_not_told_what_is_waited_for() -> None:
    with telling_of_waits(1), waiting_for("this"):
        assert not any(thread.name == "nvcatalog-waits" for thread in threading.enumerate())


@pytest.mark.usefixtures("soon")
def test_a_process_forked_while_it_is_told_of_waits_can_tell_too() -> None:
    def tell() -> None:
        with telling_of_waits(2):
            assert any(thread.name == "nvcatalog-waits" for thread in threading.enumerate())

    with telling_of_waits(2), waiting_for("this"):
        assert in_forked_child(tell) == "fine"


@pytest.mark.usefixtures("soon")
def test_a_silent_server_is_told_of(fetch: Fetch, server: DemoServer, capsys: pytest.CaptureFixture[str]) -> None:
    go_on = threading.Event()

    def wait(answer: Answer) -> Answer:
        assert go_on.wait(PATIENCE_S)
        return answer

    server.fail("/media/*", Fault("silent", wait), times=1)
    with ThreadPoolExecutor(1) as pool:
        try:
            call = pool.submit(fetch, image_ids=[3], verbose=2)
            line = f"Waiting for {server.neurovault_url} (no answer for 5 s)"
            wait_until(lambda: line in capsys.readouterr().err)
        finally:
            go_on.set()
        call.result()


@pytest.mark.usefixtures("soon")
def test_who_is_writing_the_catalog_is_told_of(
    fetch: Fetch, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(image_ids=[3])
    store = Store(data_dir / "neurovault")

    def write() -> None:
        with telling_of_waits(2), store.writing():
            pass

    with ThreadPoolExecutor(1) as pool, file_lock(store.folder / "catalog.lock"):
        call = pool.submit(write)
        line = f"Waiting for another process, which is writing {store.path}"
        wait_until(lambda: line in capsys.readouterr().err)
    call.result()
