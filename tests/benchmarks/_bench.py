"""What the benchmarks share: a server of their own, fresh processes with a clock in them, and one table."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

# ru_maxrss is in kilobytes, but in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024

#: What a first call would import on its way; a benchmark that times calls imports it before the clock starts.
CALL_MODULES = ("nvcatalog.fetch", "nvcatalog.catalog", "pyarrow.parquet", "pandas", "scipy.sparse")


@dataclass(frozen=True)
class Measurement:
    """One run of one side.

    Parameters
    ----------
    wall_s, cpu_s
        Seconds on the clock, and of work on any core by the process measured (not by the server).
    peak_mib
        The largest memory the process ever had; 0 where nobody looked.
    facts
        What was checked on the way: how many images came, how many requests went.
    """

    wall_s: float
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class Stopwatch:
    """Times the block it is entered for."""

    def __enter__(self) -> Stopwatch:
        self._started = time.perf_counter(), _cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._started
        self.wall_s, self.cpu_s = time.perf_counter() - wall, _cpu_s() - cpu

    def measurement(self, **facts: Any) -> Measurement:
        """Return what was measured, with this process's peak memory."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 2**20
        return Measurement(self.wall_s, self.cpu_s, peak, facts)


def _cpu_s() -> float:
    """Return the seconds of work so far, of this process and of children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def in_fresh_process(side: Callable[..., Measurement], *args: Any) -> Measurement:
    """Run one side in a process of its own, so that no side profits from what another has warmed up."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(side, *args).result()


def import_all(names: Sequence[str]) -> None:
    """Import these modules now, so that the clock does not see it."""
    for name in names:
        import_module(name)


@contextmanager
def serving(*options: str) -> Iterator[dict[str, str]]:
    """Run the demo server in a process of its own, and yield its two addresses."""
    command = [sys.executable, "-m", "nvcatalog.demo", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def nilearn_at(root: str) -> Any:
    """Import nilearn's fetchers, and let them ask another server than neurovault.org."""
    from nilearn.datasets import neurovault

    neurovault._NEUROVAULT_BASE_URL = f"{root}/api/"
    neurovault._NEUROVAULT_COLLECTIONS_URL = f"{root}/api/collections/"
    neurovault._NEUROVAULT_IMAGES_URL = f"{root}/api/images/"
    return neurovault


def parser(description: str | None, *, repeat: int = 5) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--repeat", type=int, default=repeat, help="runs of each side (default: %(default)s)")
    return made


def table(sides: dict[str, list[Measurement]], *, base: str, what: str = "wall") -> None:
    """Print each side's median, least and most, and how its median compares to the base's."""
    base_s = statistics.median(run.wall_s for run in sides[base])
    print(f"{'':28} {'runs':>4} {'median':>9} {'min':>9} {'max':>9} {'cpu':>9} {'peak':>9}   {what} / {base}")
    for name, runs in sides.items():
        walls = [run.wall_s for run in runs]
        median = statistics.median(walls)
        cpu = statistics.median(run.cpu_s for run in runs)
        peak = statistics.median(run.peak_mib for run in runs)
        memory = f"{peak:5.0f} MiB" if peak else " " * 9
        print(
            f"{name:28} {len(runs):4} {median:7.3f} s {min(walls):7.3f} s {max(walls):7.3f} s {cpu:7.3f} s "
            f"{memory}   {median / base_s:.2f}"
        )


def median_s(runs: Sequence[Measurement]) -> float:
    """Return the median on the clock."""
    return statistics.median(run.wall_s for run in runs)


def verdict(text: str, ratio: float, *, at_least: float | None = None, at_most: float | None = None) -> bool:
    """Print how a ratio stands to its target, and return whether the target is met."""
    met = (at_least is None or ratio >= at_least) and (at_most is None or ratio <= at_most)
    target = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
    print(f"{'met   ' if met else 'MISSED'}  {text}: {ratio:.2f} ({target})")
    return met
