"""Stop each work before every single one of its steps, by a kill and by a full disk, and check what it leaves."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_stopping import WORKS, check_stopped, make_bench

from nvcatalog import snapshot
from nvcatalog.demo import DemoServer, World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("works", nargs="*", default=list(WORKS), help=f"some of {', '.join(WORKS)}")
    parser.add_argument("--every", type=int, default=1, help="try every so many steps only")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    snapshot._age_s = lambda folder: 0.0  # they wait, as they do after each
    failures = sum(_try_all(name, options.every, full=full) for name in options.works for full in (False, True))
    print(f"{failures} failures")
    sys.exit(bool(failures))


def _try_all(name: str, every: int, *, full: bool) -> int:
    """Try all steps until the work comes to its end before the next one, and return how many checks failed."""
    failures, at, how = 0, 1, ""
    with tempfile.TemporaryDirectory() as home, DemoServer(World.empty()) as server:
        os.environ.update(server.environment)
        bench = make_bench(server, Path(home))
        while how != "done" or at < 20:
            try:
                how = check_stopped(bench, name, at, full=full).how
            except AssertionError as error:
                failures += 1
                print(f"{name}, {'disk full from' if full else 'killed before'} step {at}: {error}", flush=True)
            at += every
    print(f"{name}: {at - 1} steps, {'a full disk' if full else 'a kill'} at each {every}", flush=True)
    return failures


if __name__ == "__main__":  # the processes that are stopped import this, too
    main()
