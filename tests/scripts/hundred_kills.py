"""Kill a hundred processes at random moments of fetch, sync, migrate and publish, and say what it cost."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from killing import kill_often


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        tally = kill_often(options.kills, Path(home), options.seed)
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s; {tally}")
    for line in (*tally.lost, *tally.corrupt, *tally.again):
        print(line)
    sys.exit(not tally.is_clean)


if __name__ == "__main__":  # the processes that are killed import this, too
    main()
