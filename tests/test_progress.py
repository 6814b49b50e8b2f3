"""How a long call is getting on is shown as it can be: a bar on a terminal and in a notebook, lines in a log."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import threading
from types import ModuleType

import pytest
from test_store import in_forked_child
from tqdm.auto import tqdm

from nvcatalog import _progress
from nvcatalog._progress import Progress, summarise

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
