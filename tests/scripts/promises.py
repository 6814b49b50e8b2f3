"""Do the promises hold? Histories of edits, damage and kills, other ones each time, for so many minutes."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hypothesis import Phase
from test_promises import keep_promises

from nvcatalog import snapshot

EXAMPLES, STEPS = 20, 15
# To look for the shortest history that fails would take an hour.
QUICK = [Phase.generate]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    minutes = parser.parse_args().minutes
    snapshot._age_s = lambda folder: 0.0  # they wait, as they do after each
    rounds, until = 0, time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        with tempfile.TemporaryDirectory() as home:
            keep_promises(
                Path(home),
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                phases=QUICK,
                report_multiple_bugs=False,
            )
        rounds += 1
        print(f"{rounds * EXAMPLES} histories of up to {STEPS} steps, and every promise was kept", flush=True)


if __name__ == "__main__":  # the processes that are killed import this, too
    main()
