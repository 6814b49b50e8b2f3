"""Few look something up at a time, so that whoever writes waits for few; and nobody is kept out by that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from waiting import wait_until

from nvcatalog import _line
from nvcatalog._line import in_line, make_line
from nvcatalog._store import Store

pytestmark = pytest.mark.skipif(not _line._CAN_LOCK, reason="there is no flock here")

STANDS = """
import sys, time
from pathlib import Path
from nvcatalog import _line
from nvcatalog._line import in_line
_line._PLACES = 1
with in_line(Path(sys.argv[1]), timeout_s=60):
    print("in line", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a line of one place."""
    monkeypatch.setattr(_line, "_PLACES", 1)
    make_line(tmp_path)
    return tmp_path


def is_taken(folder: Path) -> bool:
    """Whether nobody else can have the place."""
    file = _line._free(_line._places(folder))
    if file is not None:
        os.close(file)
    return file is None


def test_who_is_in_line_has_the_place_and_gives_it_back(folder: Path) -> None:
    with in_line(folder, timeout_s=60):
        assert is_taken(folder)
    assert not is_taken(folder)


def test_the_next_one_waits(folder: Path) -> None:
    came = threading.Event()

    def come() -> None:
        with in_line(folder, timeout_s=8e9):
            came.set()

    with ExitStack() as first:
        first.enter_context(in_line(folder, timeout_s=60))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_line, "_PATIENCE_S", 300.0)
            thread = threading.Thread(target=come)
            thread.start()
            assert not came.wait(0.1)
            first.close()
            thread.join()
    assert came.is_set()


def test_who_has_waited_for_long_enough_goes_ahead(folder: Path) -> None:
    with in_line(folder, timeout_s=60), in_line(folder, timeout_s=0.1):
        assert is_taken(folder)


def test_a_place_of_a_killed_process_is_free(folder: Path) -> None:
    command = [
        sys.executable,
        "-c",
        STANDS.replace("with", "from nvcatalog import _line; _line._PLACES = 1\nwith", 1),
    ]
    with subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in line\n"
        assert is_taken(folder)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_taken(folder))


def test_where_there_is_no_line_nobody_waits_and_nothing_is_made(tmp_path: Path) -> None:
    with in_line(tmp_path, timeout_s=60), in_line(tmp_path, timeout_s=60):
        assert list(tmp_path.iterdir()) == []


def test_who_may_not_lock_goes_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    with in_line(folder, timeout_s=60), in_line(folder, timeout_s=60):
        pass
    assert not files or len(list(Path("/proc/self/fd").iterdir())) == files


def test_it_is_the_catalog_that_is_stood_in_line_for(folder: Path) -> None:
    store = Store(folder)
    with store.writing():
        pass
    with store.reading(brief=True):
        assert is_taken(folder)
    assert not is_taken(folder)
    with store.reading():
        assert not is_taken(folder)
