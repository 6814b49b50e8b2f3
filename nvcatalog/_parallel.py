"""Do many things at once in threads, and hand the results over in the order they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that wait for the consumer; workers pause beyond, so that memory stays bounded.
_WAITING = 256
# How soon workers that do not end are asked to once more.
_STOPPED_AGAIN_S = 0.25


@dataclass(frozen=True)
class Lane(Generic[Item, Result]):
    """Items, what to do with each (yielding any number of results), and how many workers do it."""

    work: Callable[[Item], Iterable[Result]]
    items: Iterable[Item]
    workers: int


@dataclass(frozen=True)
class _Crash:
    error: BaseException


class _LaneOver:
    pass


@dataclass
class _Run:
    results: queue.Queue[Any]
    stopping: threading.Event = field(default_factory=threading.Event)

    def put(self, result: object) -> None:
        while not self.stopping.is_set():
            try:
                self.results.put(result, timeout=0.1)
            except queue.Full:
                continue
            return

    def serve(self, lane: Lane[Any, Any], items: Iterator[Any], lock: threading.Lock) -> None:
        try:
            while not self.stopping.is_set():
                with lock:
                    item = next(items, _LaneOver)
                if item is _LaneOver:
                    break
                for result in lane.work(item):
                    self.put(result)
                    if self.stopping.is_set():
                        return
        except BaseException as error:  # noqa: BLE001 - nothing is swallowed: the consumer raises it
            self.put(_Crash(error))
        self.put(_LaneOver)


def in_parallel(
    lanes: Sequence[Lane[Any, Result]], *, stop: Callable[[], None] = lambda: None, waiting: int | None = None
) -> Iterator[Result]:
    """Yield what the lanes' work yields, as it comes.

    An exception in a worker is raised here. However this ends, no worker is left running.

    Parameters
    ----------
    lanes : sequence of Lane
        What to do; each lane's workers share its items.
    stop : callable, optional
        Called when this ends before the work does, to wake workers that wait; again and again while one has not
        ended, which may have begun to wait after the call.
    waiting : int or None
        How many results may wait for the consumer; fewer where each is large.
    """
    run = _Run(queue.Queue(waiting or _WAITING))
    threads: list[threading.Thread] = []
    for lane in lanes:
        items, lock = iter(lane.items), threading.Lock()
        threads += [
            threading.Thread(target=run.serve, args=(lane, items, lock), name="nvcatalog-worker", daemon=True)
            for _ in range(lane.workers)
        ]
    over = 0
    finished = False
    try:
        for thread in threads:
            thread.start()
        while over < len(threads):
            result = run.results.get()
            if result is _LaneOver:
                over += 1
            elif isinstance(result, _Crash):
                raise result.error
            else:
                yield result
        finished = True
    finally:
        run.stopping.set()
        running = [thread for thread in threads if thread.ident is not None]  # the system may have refused some
        while running:
            if not finished:
                stop()
            for thread in running:
                thread.join(None if finished else _STOPPED_AGAIN_S / len(running))
            running = [thread for thread in running if thread.is_alive()]
