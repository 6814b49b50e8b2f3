"""Many things at once in threads: every result comes, every error surfaces, no thread stays behind."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE_S

from nvcatalog import _parallel
from nvcatalog._parallel import Lane, in_parallel

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Check that every worker has ended by the time a test has."""
    yield
    assert workers() == []


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "nvcatalog-worker"]


lanes_of_sizes = st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4)), max_size=4)


@settings(max_examples=50)
@given(lanes_of_sizes)
def test_every_result_of_every_item_of_every_lane_comes_once(sizes: list[tuple[list[int], int]]) -> None:
    lanes = [
        Lane(lambda size, lane=number: ((lane, size, n) for n in range(size)), items, workers)  # type: ignore[misc]  # a lambda with a default
        for number, (items, workers) in enumerate(sizes)
    ]

    got = Counter(in_parallel(lanes))

    assert got == Counter(
        (lane, size, n) for lane, (items, _) in enumerate(sizes) for size in items for n in range(size)
    )
    assert workers() == []


def test_nothing_to_do_gives_nothing() -> None:
    assert list(in_parallel([])) == []
    assert list(in_parallel([Lane(lambda item: [item], [], workers=0)])) == []
    assert list(in_parallel([Lane(lambda item: [item], [], workers=3)])) == []


def test_the_workers_of_a_lane_work_at_once() -> None:
    together = threading.Barrier(4)

    def work(item: int) -> list[int]:
        together.wait(PATIENCE_S)  # breaks unless four are at it at once
        return [item]

    assert sorted(in_parallel([Lane(work, range(8), workers=4)])) == list(range(8))


def test_results_come_while_others_are_still_at_work() -> None:
    got_first = threading.Event()

    def work(item: str) -> list[str]:
        if item == "slow":
            assert got_first.wait(PATIENCE_S), "the quick result had to wait for the slow one"
        return [item]

    results = in_parallel([Lane(work, ["slow", "quick"], workers=2)])
    assert next(results) == "quick"
    got_first.set()
    assert list(results) == ["slow"]


def test_items_are_taken_only_as_workers_come_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parallel, "_WAITING", 1)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = in_parallel([Lane(lambda item: [item], items(), workers=2)])
    next(results)
    time.sleep(0.1)

    assert len(taken) <= 1 + 1 + 2  # one that came, one that waits, and one in each worker's hand
    assert len(list(results)) == 99


def test_who_takes_large_results_can_let_fewer_wait() -> None:
    made: list[int] = []

    def work(item: int) -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield item

    results = in_parallel([Lane(work, [0], workers=1)], waiting=2)
    next(results)
    time.sleep(0.1)

    assert len(made) <= 1 + 2 + 1
    assert len(list(results)) == 99


def test_results_that_nobody_takes_make_workers_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parallel, "_WAITING", 3)
    made: list[int] = []

    def work(item: int) -> Iterator[int]:
        for n in range(1000):
            made.append(n)
            yield item

    results = in_parallel([Lane(work, [0], workers=1)])
    next(results)
    time.sleep(0.3)
    assert len(made) <= 1 + 3 + 1  # taken, waiting, and the one in hand
    assert len(list(results)) == 999


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_in_a_worker_is_raised_to_who_consumes_and_stops_the_others(error: BaseException) -> None:
    stopped = threading.Event()
    started: list[int] = []

    def work(item: int) -> list[int]:
        started.append(item)
        if item == 3:
            raise error
        if item > 3:
            assert stopped.wait(PATIENCE_S), "nobody told the worker to stop"
        return [item]

    with pytest.raises(type(error)) as caught:
        list(in_parallel([Lane(work, range(1000), workers=3)], stop=stopped.set))

    assert caught.value is error
    assert len(started) < 10
    assert workers() == []


def test_an_error_while_the_items_are_made_is_raised_too() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(in_parallel([Lane(lambda item: [item], items(), workers=2)]))


def test_an_error_halfway_through_an_item_comes_after_its_results() -> None:
    def work(item: int) -> Iterator[int]:
        yield item
        raise LookupError("half")

    results = in_parallel([Lane(work, [5], workers=1)])

    assert next(results) == 5
    with pytest.raises(LookupError, match="half"):
        next(results)


def test_a_consumer_who_leaves_early_stops_the_workers() -> None:
    stopped = threading.Event()
    done: list[int] = []
    let_go: list[int] = []

    def work(item: int) -> Iterator[int]:
        try:
            for n in range(1000):
                done.append(n)
                yield item
                if n > 2:
                    stopped.wait(PATIENCE_S)
        finally:
            let_go.append(item)

    for _ in in_parallel([Lane(work, range(50), workers=3)], stop=stopped.set):
        break

    assert stopped.is_set()
    assert workers() == []
    assert len(done) < 50
    assert sorted(let_go) == sorted(set(let_go)), "an item was begun twice"
    assert len(let_go) <= 3


def test_stop_is_not_called_when_the_work_is_done() -> None:
    calls: list[str] = []

    assert list(in_parallel([Lane(lambda item: [item], [1], workers=1)], stop=lambda: calls.append("stop"))) == [1]

    assert calls == []


def test_a_thread_the_system_refuses_leaves_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    start = threading.Thread.start

    def refuse_the_third(thread: threading.Thread) -> None:
        if len(workers()) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    def work(item: int) -> list[int]:
        stopped.wait(PATIENCE_S)
        return [item]

    monkeypatch.setattr(threading.Thread, "start", refuse_the_third)

    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(in_parallel([Lane(work, range(9), workers=4)], stop=stopped.set))
    assert workers() == []


def test_nothing_starts_before_the_first_result_is_asked_for() -> None:
    begun: list[int] = []

    results = in_parallel([Lane(lambda item: begun.append(item) or [item], [1, 2], workers=2)])  # type: ignore[func-returns-value]  # for its effect
    assert begun == []
    assert workers() == []
    assert sorted(results) == [1, 2]
