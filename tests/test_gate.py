"""A file is open once in a process: for many readers, or for one writer; and for nobody while it forks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from waiting import PATIENCE_S, wait_until

from nvcatalog._gate import ForkedOpenError, Gate, gate_of

if TYPE_CHECKING:
    from pathlib import Path


class Opened:
    """Something that is open until it is closed."""

    def __init__(self) -> None:
        self._closed = False

    def is_open(self) -> bool:
        return not self._closed

    def close(self) -> None:
        self._closed = True


class Opener:
    """Opens, and remembers what it opened and how long it was given."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.left_s: list[float] = []

    def __call__(self, left_s: float) -> Opened:
        self.left_s.append(left_s)
        self.opened.append(Opened())
        return self.opened[-1]


@pytest.fixture
def gate() -> Gate[Opened]:
    return Gate()


@pytest.fixture
def opener() -> Opener:
    return Opener()


def test_readers_share_what_the_first_one_opened_and_the_last_one_closes_it(
    gate: Gate[Opened], opener: Opener
) -> None:
    with gate.reading(opener, timeout_s=1) as first:
        with gate.reading(opener, timeout_s=1) as second:
            assert second is first
        assert first.is_open()
    assert not first.is_open()

    with gate.reading(opener, timeout_s=1) as third:
        assert third is not first
        assert third.is_open()


def test_readers_of_many_threads_are_in_together(gate: Gate[Opened], opener: Opener) -> None:
    everybody = threading.Barrier(6)

    def read() -> Opened:
        with gate.reading(opener, timeout_s=PATIENCE_S) as opened:
            everybody.wait(PATIENCE_S)  # breaks unless all six are in at once
            return opened

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(read) for _ in range(6)]
        assert {future.result() for future in futures} == set(opener.opened)

    assert len(opener.opened) == 1


def test_a_writer_is_alone(gate: Gate[Opened], opener: Opener) -> None:
    inside = 0
    most = 0

    def write() -> None:
        nonlocal inside, most
        for _ in range(20):
            with gate.writing(timeout_s=PATIENCE_S):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                assert not any(opened.is_open() for opened in opener.opened)
                inside -= 1

    def read() -> None:
        for _ in range(20):
            with gate.reading(opener, timeout_s=PATIENCE_S):
                assert inside == 0

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work) for work in (write, read) * 3]:
            future.result()

    assert most == 1


def test_a_waiting_writer_goes_before_new_readers_but_not_before_nested_ones(
    gate: Gate[Opened], opener: Opener
) -> None:
    order: list[str] = []

    def write() -> None:
        with gate.writing(timeout_s=PATIENCE_S):
            order.append("writer")

    def read() -> None:
        with gate.reading(opener, timeout_s=PATIENCE_S):
            order.append("new reader")

    with ExitStack() as stack:
        stack.enter_context(gate.reading(opener, timeout_s=1))
        writer, reader = threading.Thread(target=write), threading.Thread(target=read)
        writer.start()
        wait_until(lambda: gate._waiting_writers)
        reader.start()
        with gate.reading(opener, timeout_s=PATIENCE_S):
            order.append("nested reader")
    writer.join()
    reader.join()

    assert order == ["nested reader", "writer", "new reader"]


def test_who_waits_too_long_gives_up_and_leaves_the_way_free(gate: Gate[Opened], opener: Opener) -> None:
    inside, leave = threading.Event(), threading.Event()

    def read() -> None:
        with gate.reading(opener, timeout_s=1):
            inside.set()
            leave.wait(PATIENCE_S)

    reader = threading.Thread(target=read)
    reader.start()
    inside.wait(PATIENCE_S)
    with pytest.raises(TimeoutError, match="another thread of this process"), gate.writing(timeout_s=0.05):
        pytest.fail("a writer beside a reader")

    with gate.reading(opener, timeout_s=1):  # the writer that gave up keeps nobody out
        pass
    leave.set()
    reader.join()
    with gate.writing(timeout_s=1):
        pass


def test_a_thread_that_is_in_cannot_come_in_again_to_write(gate: Gate[Opened], opener: Opener) -> None:
    with (
        gate.reading(opener, timeout_s=1),
        pytest.raises(RuntimeError, match="cannot open it again for writing"),
        gate.writing(timeout_s=1),
    ):
        pytest.fail("it would wait for itself")
    with (
        gate.writing(timeout_s=1),
        pytest.raises(RuntimeError, match="cannot open it again for writing"),
        gate.writing(timeout_s=1),
    ):
        pytest.fail("it would wait for itself")


def test_what_cannot_be_opened_keeps_nobody_out(gate: Gate[Opened], opener: Opener) -> None:
    def fail(left_s: float) -> Opened:
        raise FileNotFoundError(f"after {left_s}")

    with pytest.raises(FileNotFoundError), gate.reading(fail, timeout_s=1):
        pytest.fail("nothing was opened")

    with gate.reading(opener, timeout_s=0.1), gate.reading(opener, timeout_s=0.1):
        pass
    with gate.writing(timeout_s=0.1):
        pass


def test_what_cannot_be_closed_keeps_nobody_out(gate: Gate[Opened], opener: Opener) -> None:
    class Stuck(Opened):
        def close(self) -> None:
            raise OSError("stuck")

    with pytest.raises(OSError, match="stuck"), gate.reading(lambda _: Stuck(), timeout_s=1):
        pass

    with gate.writing(timeout_s=0.1):
        pass
    with gate.reading(opener, timeout_s=0.1) as opened:
        assert not isinstance(opened, Stuck)


def test_readers_that_queue_behind_one_that_cannot_open_do_not_wait_longer_than_they_said(
    gate: Gate[Opened], opener: Opener
) -> None:
    opening, give_up = threading.Event(), threading.Event()

    def open_in_vain(left_s: float) -> Opened:
        opening.set()
        give_up.wait(PATIENCE_S)
        raise FileNotFoundError(f"after {left_s}")

    def read_in_vain() -> None:
        with pytest.raises(FileNotFoundError), gate.reading(open_in_vain, timeout_s=PATIENCE_S):
            pass

    def read() -> None:
        with gate.reading(opener, timeout_s=0.05):
            pass

    first, second = threading.Thread(target=read_in_vain), threading.Thread(target=read)
    first.start()
    opening.wait(PATIENCE_S)
    second.start()
    wait_until(lambda: len(gate._readers) == 2)
    time.sleep(0.1)
    give_up.set()
    first.join()
    second.join()

    assert opener.left_s == [0.0]


def test_a_file_has_one_gate_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    path = tmp_path / "catalog.duckdb"

    gate = gate_of(path)

    assert gate_of(tmp_path / "link" / "catalog.duckdb") is gate
    assert gate_of(path.relative_to(tmp_path)) is gate
    assert gate_of(tmp_path / "x" / ".." / "catalog.duckdb") is gate
    assert gate_of(tmp_path / "other.duckdb") is not gate


def test_a_fork_waits_for_writers_and_lets_nobody_in_meanwhile(gate: Gate[Opened], opener: Opener) -> None:
    inside, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def write() -> None:
        with gate.writing(timeout_s=1):
            inside.set()
            leave.wait(PATIENCE_S)
            order.append("writer left")

    def read() -> None:
        with gate.reading(opener, timeout_s=PATIENCE_S):
            order.append("reader in")

    writer = threading.Thread(target=write)
    writer.start()
    inside.wait(PATIENCE_S)
    threading.Timer(0.1, leave.set).start()
    gate.close_for_fork()
    order.append("forked")
    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.05)
    gate.reopen_in_parent()
    reader.join()
    writer.join()

    assert order == ["writer left", "forked", "reader in"]


def test_a_child_starts_with_an_open_gate_unless_something_was_open(gate: Gate[Opened], opener: Opener) -> None:
    gate.close_for_fork()
    gate.reopen_in_child()
    with gate.writing(timeout_s=0.1):
        pass

    with gate.reading(opener, timeout_s=0.1):
        gate.close_for_fork()
        gate.reopen_in_child()
        with pytest.raises(ForkedOpenError, match="'spawn' or 'forkserver'"), gate.writing(timeout_s=0.1):
            pytest.fail("beside what the parent has open")
        with pytest.raises(ForkedOpenError), gate.reading(opener, timeout_s=0.1):
            pytest.fail("beside what the parent has open")
    assert gate_is_spoiled_for_grandchildren_too(gate)


def gate_is_spoiled_for_grandchildren_too(gate: Gate[Opened]) -> bool:
    gate.close_for_fork()
    gate.reopen_in_child()
    with pytest.raises(ForkedOpenError), gate.writing(timeout_s=0.1):
        pass
    return True


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 advises against it
def test_every_gate_of_the_process_is_closed_around_a_fork(tmp_path: Path) -> None:
    gates = [gate_of(tmp_path / name) for name in ("one", "two")]
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            for gate in gates:
                with gate.writing(timeout_s=0):
                    os.write(writing, b"in ")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "in in "
    os.waitpid(child, 0)

    for gate in gates:
        with gate.writing(timeout_s=0):
            pass


FORK_BESIDE_QUERIES = """
import os, sys, threading
from pathlib import Path
from nvcatalog import Catalog, landing
from nvcatalog._store import Store

folder = Path(sys.argv[1])
(folder / "neurovault").mkdir()
with Store(folder / "neurovault").writing():
    pass
asked, over = threading.Semaphore(0), threading.Event()

def ask():
    while not over.is_set():
        Catalog(folder).sql("SELECT count(*) FROM images").fetchall()
        asked.release()

thread = threading.Thread(target=ask)
thread.start()
failed = 0
for _ in range(15):
    asked.acquire()
    child = os.fork()
    if child == 0:
        try:
            Catalog(folder).sql("SELECT 1").fetchall()
        except BaseException as error:
            print(error, flush=True)
            os._exit(1)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
over.set()
thread.join()
print(failed, "of 15 children failed")
"""


def test_a_process_forks_while_another_of_its_threads_queries_and_the_children_query_too(tmp_path: Path) -> None:
    # In a process of its own: what is imported when decides which of the handlers around a fork runs first.
    command = [sys.executable, "-W", "ignore", "-c", FORK_BESIDE_QUERIES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)

    assert done.stdout == "0 of 15 children failed\n"
