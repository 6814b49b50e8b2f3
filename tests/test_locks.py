"""Processes on one folder share connections, pauses and downloads, and nobody hangs on who was stopped."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import Timeout
from waiting import PATIENCE_S

from nvcatalog import _locks
from nvcatalog._locks import FOLDER, Pause, Slots, Turns, Underway, file_lock, take, wait_while_taken
from nvcatalog.errors import InvalidOptionError

# Holds a lock from a process of its own until its input ends.
HOLDER = """
import sys
from pathlib import Path
from nvcatalog._locks import file_lock
Path(sys.argv[1]).parent.mkdir(exist_ok=True)
with file_lock(Path(sys.argv[1])).acquire():
    print("held", flush=True)
    sys.stdin.read()
"""


Hold = Callable[[Path], "subprocess.Popen[bytes]"]


@pytest.fixture
def elsewhere() -> Iterator[Hold]:
    """Return what lets another process hold a lock."""
    running = []

    def hold(path: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in running:
        process.communicate()


class StopWaitingError(Exception):
    """Raised instead of waiting on."""


def no_wait(seconds: float) -> None:
    if seconds > 0:
        raise StopWaitingError


def test_no_more_places_are_taken_than_there_are(tmp_path: Path) -> None:
    slots = Slots(tmp_path, "files", 2)
    taken = [slots.take(no_wait), slots.take(no_wait)]
    with pytest.raises(StopWaitingError):
        Slots(tmp_path, "files", 2).take(no_wait)
    taken[0].release()
    Slots(tmp_path, "files", 2).take(no_wait).release()
    taken[1].release()


def test_a_place_is_free_again_when_its_process_dies(tmp_path: Path, elsewhere: Hold) -> None:
    holder = elsewhere(tmp_path / FOLDER / "files-0")
    with pytest.raises(StopWaitingError):
        Slots(tmp_path, "files", 1).take(no_wait)
    holder.kill()
    holder.wait()
    Slots(tmp_path, "files", 1).take(no_wait).release()


def test_places_of_one_kind_are_none_of_another(tmp_path: Path) -> None:
    files = Slots(tmp_path, "files", 1).take(no_wait)
    Slots(tmp_path, "lists", 1).take(no_wait).release()
    files.release()


def test_who_asks_for_more_places_uses_the_same_ones_too(tmp_path: Path) -> None:
    few = [Slots(tmp_path, "files", 2).take(no_wait) for _ in range(2)]
    many = [Slots(tmp_path, "files", 3).take(no_wait)]
    with pytest.raises(StopWaitingError):
        Slots(tmp_path, "files", 3).take(no_wait)
    for slot in few + many:
        slot.release()


def test_a_place_is_due_only_when_others_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_locks, "_HELD_S", 0.0)
    slot = Slots(tmp_path, "files", 1).take(no_wait)
    due_at_first = slot.is_due
    time.sleep(0.05)  # file times are coarser than ours
    with pytest.raises(StopWaitingError):
        Slots(tmp_path, "files", 1).take(no_wait)
    assert (due_at_first, slot.is_due) == (False, True)
    slot.release()


def test_who_leaves_a_place_to_others_stands_back(tmp_path: Path) -> None:
    slots = Slots(tmp_path, "files", 1)
    slots.take(no_wait).release()
    with pytest.raises(StopWaitingError):
        slots.take(no_wait)
    Slots(tmp_path, "files", 1).take(no_wait).release()


def test_holders_without_a_sign_of_life_are_passed_by(
    tmp_path: Path, elsewhere: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.2")
    elsewhere(tmp_path / FOLDER / "files-0")
    slot = Slots(tmp_path, "files", 1).take(lambda seconds: time.sleep(max(0.0, seconds)))
    assert not slot.is_due
    slot.release()


def test_without_a_folder_to_lock_connections_are_counted_by_process(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "missing" / "folder", "files", 1)
    for slot in [slots.take(no_wait), slots.take(no_wait)]:
        slot.release()


def test_a_pause_asked_of_one_is_kept_by_all(tmp_path: Path) -> None:
    told, other = (Pause(tmp_path, "neurovault", 120.0) for _ in range(2))
    assert other.left_s <= 0
    told.ask(50.0)
    assert 0 < other.left_s <= 50
    assert Pause(tmp_path, "neurosynth", 120.0).left_s <= 0


@pytest.mark.parametrize("content", ["", "soon", "nan", "inf", "1e300"])
def test_a_damaged_pause_stops_nobody(tmp_path: Path, content: str) -> None:
    pause = Pause(tmp_path, "neurovault", 120.0)
    pause.ask(1.0)
    (tmp_path / FOLDER / "neurovault-pause").write_text(content)
    assert not pause.left_s > 0


def test_of_two_that_want_an_image_the_second_waits(tmp_path: Path) -> None:
    first, second = Turns(tmp_path), Turns(tmp_path)
    with first.of(7, no_wait):
        with pytest.raises(StopWaitingError), second.of(7, no_wait):
            pass
        with second.of(8, no_wait):
            pass
    with second.of(7, no_wait):
        pass


def test_threads_of_one_call_share_a_turn(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def take() -> None:
        with turns.of(7 + 64 * threading.get_ident(), no_wait):
            both.wait()

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken
    with Turns(tmp_path).of(7, no_wait):
        pass


def test_a_turn_that_never_ends_is_passed_by(
    tmp_path: Path, elsewhere: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK_TIMEOUT", "0.2")
    elsewhere(tmp_path / FOLDER / "07")
    with Turns(tmp_path).of(7, time.sleep):
        pass


def test_a_lock_can_be_waited_for_without_taking_it(tmp_path: Path, elsewhere: Hold) -> None:
    lock = tmp_path / "catalog.lock"
    wait_while_taken(lock, 60)  # there is none, and none is made
    assert list(tmp_path.iterdir()) == []

    holder = elsewhere(lock)
    wait_while_taken(lock, 0.05)
    waiter = threading.Thread(target=wait_while_taken, args=(lock, PATIENCE_S))
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive()
    holder.kill()
    waiter.join(PATIENCE_S / 2)
    assert not waiter.is_alive()


def test_a_lock_that_is_held_too_long_is_given_up(tmp_path: Path, elsewhere: Hold) -> None:
    elsewhere(tmp_path / "catalog.lock")
    with pytest.raises(Timeout):
        take(tmp_path / "catalog.lock", 0.1)


def test_a_soft_lock_is_a_file_that_goes_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK", "soft")
    with file_lock(tmp_path / "catalog.lock").acquire():
        assert [path.name for path in tmp_path.iterdir()] == ["catalog.lock.soft"]
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_of_lock_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCATALOG_LOCK", "fluffy")
    with pytest.raises(InvalidOptionError, match="fluffy"):
        file_lock(tmp_path / "catalog.lock")


def test_a_call_is_underway_until_the_last_one_is_over(tmp_path: Path) -> None:
    one, other = Underway(tmp_path), Underway(tmp_path)
    assert not one.is_shown
    assert not list(tmp_path.iterdir()), "to look leaves nothing"
    one.show()
    one.show()
    other.show()
    assert Underway(tmp_path).is_shown
    one.take_down()
    assert Underway(tmp_path).is_shown
    other.take_down()
    other.take_down()
    assert not Underway(tmp_path).is_shown
