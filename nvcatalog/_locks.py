"""What processes on one folder tell each other: who writes, who may connect, whose turn a file is.

All of it is politeness, and saves work. That nothing is lost or half there rests on atomic renames and on
transactions, so where a folder cannot be locked, or whoever holds a lock has been stopped, one goes on without.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from nvcatalog._progress import logger
from nvcatalog.errors import InvalidOptionError

try:
    import fcntl
except ImportError:  # on Windows
    _CAN_LOOK = False
else:
    _CAN_LOOK = True

#: Where a data folder has its lock files, and moments beside them; never deleted: others may have them open.
FOLDER = ".locks"
#: How long who only asks waits for the catalog before a snapshot answers.
QUESTION_PATIENCE_S = 2.0
_TURNS = 64
_SOFT = ".soft"
# Hundreds of processes may wait, on a folder that is on a network: the longer one does, the less often it looks.
_FIRST_POLL_S, _LONGEST_POLL_S = 0.02, 0.25
# A lock that is held for moments is looked at this often, at first and after long.
_FIRST_LOOK_S, _LEAST_LOOK_S = 0.05, 0.01
# A place that others wait for is handed on after so long; a connection made anew for each request would cost more.
_HELD_S = 0.5
# Who handed a place on lets others look for it first.
_STANDS_BACK_S = 0.3
# A folder on a network is not told of every chunk.
_SIGN_OF_LIFE_S = 2.0

Wait = Callable[[float], None]


def lock_timeout_s() -> float:
    """Return how long to wait for whoever holds the catalog: ``NVCATALOG_LOCK_TIMEOUT``, else 60 s."""
    text = os.environ.get("NVCATALOG_LOCK_TIMEOUT", "").strip() or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise InvalidOptionError(f"NVCATALOG_LOCK_TIMEOUT is {text!r}; give seconds, such as 60")
    return seconds


def file_lock(path: Path) -> BaseFileLock:
    """Return a lock that one process holds at a time, usable by all who may write to the folder.

    ``NVCATALOG_LOCK=soft`` is for file systems without ``flock``: the lock is then that a file exists, and one
    that a killed process left on another host has to be removed by hand.
    """
    kind = os.environ.get("NVCATALOG_LOCK", "").strip().lower()
    if kind not in ("", "soft", "hard"):
        raise InvalidOptionError(f"NVCATALOG_LOCK is {kind!r}; give 'soft', or unset it")
    if kind == "soft":
        path = path.with_name(f"{path.name}{_SOFT}")
    return lock_of(path)


def lock_of(file: Path) -> BaseFileLock:
    """Return the lock that a file is, which another process may have made by other settings than this one's."""
    kind = SoftFileLock if file.name.endswith(_SOFT) else FileLock
    return kind(file, mode=0o666, thread_local=False)


def take(path: Path, timeout_s: float) -> BaseFileLock:
    """Take a lock that many wait for: who has waited longer looks more often, so that nobody waits for ever.

    Raises
    ------
    Timeout
        When somebody else has it all the time.
    OSError
        When the file cannot be locked at all.
    """
    since = time.monotonic()
    while True:
        try:
            return _take_now(path)
        except Timeout:
            waited_s = time.monotonic() - since
            if waited_s >= timeout_s:
                raise
        pause_s = max(_LEAST_LOOK_S, _FIRST_LOOK_S / (1 + waited_s)) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
        time.sleep(min(pause_s, timeout_s - waited_s))


def sign(path: Path) -> None:
    """Write into a lock that this process has who it is, for those who wait in vain."""
    with suppress(OSError):  # a soft lock is another file; and where locks are strict, nobody may write
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        finally:
            os.close(file)


def signed(path: Path) -> str | None:
    """Return who wrote into a lock last, None where nobody is known to have."""
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").strip() or None
    return None


def wait_while_taken(path: Path, at_most_s: float) -> None:
    """Wait while somebody holds a lock, without taking it: even who may write nothing can be polite."""
    deadline, pauses_s = time.monotonic() + at_most_s, _pauses_s()
    while (left_s := deadline - time.monotonic()) > 0 and _is_taken(path):
        time.sleep(min(next(pauses_s), left_s))


def _take_now(path: Path, lock: BaseFileLock | None = None) -> BaseFileLock:
    """Take a lock, or raise Timeout: to look first takes a fraction of the time, and hundreds may be looking."""
    if _is_taken(path):
        raise Timeout(str(path))
    return (lock or file_lock(path)).acquire(blocking=False).lock


def _is_taken(path: Path) -> bool:
    if not _CAN_LOOK:
        return False
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:  # nobody has ever locked it, or this user may not look
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(file)
    return False


def _signal(path: Path) -> None:
    """Leave the present moment as the time of an empty file that anybody may do so with."""
    with suppress(OSError):
        try:
            os.utime(path)
        except FileNotFoundError:
            path.touch()
            path.chmod(0o666)


def _signalled_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _pauses_s() -> Iterator[float]:
    """Yield how long to wait between two looks, without end, and jittered lest all look at once."""
    pause_s = _FIRST_POLL_S
    while True:
        yield pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
        pause_s = min(1.5 * pause_s, _LONGEST_POLL_S)


class Slot:
    """A place for one connection.

    Parameters
    ----------
    slots : Slots
        Where it belongs.
    lock : BaseFileLock or None
        Held; None for one who goes ahead without.
    """

    def __init__(self, slots: Slots, lock: BaseFileLock | None) -> None:
        self._slots, self._lock = slots, lock
        self._path = Path(lock.lock_file) if lock else None
        self._taken = self._signed = time.monotonic()
        self._taken_ns = 0
        if self._path:
            _signal(self._path)
            self._taken_ns = _signalled_ns(self._path)

    def sign(self) -> None:
        """Show that whoever is here is alive."""
        if self._path and time.monotonic() - self._signed >= _SIGN_OF_LIFE_S:
            self._signed = time.monotonic()
            _signal(self._path)

    @property
    def is_due(self) -> bool:
        """Whether others wait, and this has been held for long enough."""
        return time.monotonic() - self._taken >= _HELD_S and self._slots.wanted_since(self._taken_ns)

    def release(self) -> None:
        """Leave the place to others."""
        if self._lock:
            self._lock.release()
            self._slots.stand_back()


class Slots:
    """So many places for connections to one server, shared by all processes on a folder.

    Whoever asks for more places than others do uses more of the same ones, so together they never hold more than
    the largest number that one of them asked for.

    Parameters
    ----------
    folder : Path
        The data folder.
    name : str
        What the connections are for.
    count : int
        How many places there are for this process.
    """

    def __init__(self, folder: Path, name: str, count: int) -> None:
        self._places = [folder / FOLDER / f"{name}-{number}" for number in range(count)]
        self._wanted = folder / FOLDER / f"{name}-wanted"
        self._back_at = 0.0
        self._looking = threading.Lock()

    def take(self, wait: Wait) -> Slot:
        """Return a place as soon as one is free; whoever shows no life for ``lock_timeout`` is passed by.

        Parameters
        ----------
        wait : callable
            Sleeps for so many seconds, or raises.
        """
        with self._looking:  # one thread of a call is enough
            wait(self._back_at - time.monotonic())
            try:
                return Slot(self, self._look(wait))
            except OSError as error:
                logger.info("%s cannot be locked (%s): connections are counted by process", self._wanted, error)
                return Slot(self, None)

    def _look(self, wait: Wait) -> BaseFileLock | None:
        patience_s, since = lock_timeout_s(), time.monotonic()
        pauses_s = _pauses_s()
        while (lock := self._free()) is None:
            _signal(self._wanted)
            if time.monotonic() - since >= patience_s and not self._any_life(patience_s):
                return None
            wait(next(pauses_s))
        return lock

    def _free(self) -> BaseFileLock | None:
        self._wanted.parent.mkdir(exist_ok=True)
        for path in random.sample(self._places, len(self._places)):
            with suppress(Timeout):
                return _take_now(path)
        return None

    def _any_life(self, within_s: float) -> bool:
        return max(map(_signalled_ns, self._places)) / 1e9 > time.time() - within_s

    def wanted_since(self, moment_ns: int) -> bool:
        """Whether somebody has looked for a place in vain since a moment."""
        return _signalled_ns(self._wanted) > moment_ns

    def stand_back(self) -> None:
        """Let others find the place that has just been left."""
        self._back_at = time.monotonic() + _STANDS_BACK_S


class Pause:
    """How long a server wants to be left alone, as whoever was told so tells the others on a folder.

    Parameters
    ----------
    folder : Path
        The data folder.
    name : str
        The server.
    longest_s : float
        No clock and no file can make this longer.
    """

    def __init__(self, folder: Path, name: str, longest_s: float) -> None:
        self._path = folder / FOLDER / f"{name}-pause"
        self._longest_s = longest_s

    def ask(self, seconds: float) -> None:
        """Ask all to wait."""
        with suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            _signal(self._path)
            self._path.write_text(str(time.time() + min(seconds, self._longest_s)))

    @property
    def left_s(self) -> float:
        """How long still."""
        try:
            left_s = float(self._path.read_text()) - time.time()
        except (OSError, ValueError):
            return 0.0
        return left_s if left_s <= self._longest_s else 0.0


class Turns:
    """Whose turn it is to fetch an image: of two processes that want one, the second waits and finds it there.

    Parameters
    ----------
    folder : Path
        The data folder.
    of_what : str
        What of images it is about, where it is not their maps: who waits for those waits for nothing else.
    """

    def __init__(self, folder: Path, of_what: str = "") -> None:
        self._folder = folder / FOLDER
        self._name = f"{of_what}-" if of_what else ""
        self._lock = threading.Lock()
        self._locks: dict[int, BaseFileLock] = {}  # to make one takes longer than to take it
        self._held: dict[int, BaseFileLock | None] = {}
        self._users: Counter[int] = Counter()
        self._taking: dict[int, threading.Lock] = {}

    @contextmanager
    def of(self, image_id: int, wait: Wait) -> Iterator[None]:
        """Hold the turn. Whoever holds it for ``lock_timeout`` is passed by; threads of one call share it."""
        number = image_id % _TURNS
        with self._lock:
            self._users[number] += 1
            taking = self._taking.setdefault(number, threading.Lock())
        try:
            with taking:
                if number not in self._held:
                    self._held[number] = self._take(number, wait)
            yield
        finally:
            self._leave(number)

    def _leave(self, number: int) -> None:
        with self._lock:
            self._users[number] -= 1
            lock = None if self._users[number] else self._held.pop(number, None)
            if lock:
                lock.release()

    def _take(self, number: int, wait: Wait) -> BaseFileLock | None:
        path = self._folder / f"{self._name}{number:02}"
        deadline, pauses_s = time.monotonic() + lock_timeout_s(), _pauses_s()
        while True:
            try:
                if number not in self._locks:
                    path.parent.mkdir(exist_ok=True)
                    self._locks[number] = file_lock(path)
                return _take_now(path, self._locks[number])
            except Timeout:
                if time.monotonic() >= deadline:
                    return None
                wait(next(pauses_s))
            except OSError:
                return None


class Underway:
    """The sign that a call brings files into a folder which have not landed yet.

    Any number of calls may show it, and it goes with its process. Where files cannot be locked there is none.

    Parameters
    ----------
    folder : Path
        The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FOLDER / "underway"
        self._file: int | None = None

    def show(self) -> None:
        """Show the sign, unless that is done already."""
        if self._file is not None or not _CAN_LOOK:
            return
        with suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            _signal(self._path)
            self._file = os.open(self._path, os.O_RDONLY)
            fcntl.flock(self._file, fcntl.LOCK_SH)  # whoever looks for it keeps nobody waiting

    def take_down(self) -> None:
        """Show it no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def is_shown(self) -> bool:
        """Whether anybody shows it now."""
        if not _CAN_LOOK:
            return False
        try:
            file = os.open(self._path, os.O_RDONLY)
        except OSError:  # no call has ever moved anything here
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EACCES)
        finally:
            os.close(file)
        return False
