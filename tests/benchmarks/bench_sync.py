"""Time a sync of a whole server, and count the requests of the sync after it.

A local server in a process of its own answers at once, so that what is measured is this machine's work: reading,
shaping and landing the records, and publishing the snapshot. Each sync runs in a fresh process that has imported
all it needs before its clock starts; the first one starts with an empty folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from pathlib import Path

import _bench as bench
from _bench import Measurement

MODULES = ("nvcatalog.catalog", "nvcatalog.sync", "pyarrow.parquet", "pandas")


def sync(folder: str, root: str, seed: str | None = None) -> Measurement:
    """Sync a folder."""
    os.environ["NVCATALOG_NEUROVAULT_URL"] = root
    bench.import_all(MODULES)
    from nvcatalog import Catalog
    from nvcatalog.errors import IncompleteWarning

    with warnings.catch_warnings(), bench.Stopwatch() as watch:
        warnings.simplefilter("ignore", IncompleteWarning)
        found = Catalog(folder).sync(verbose=0, seed=seed)
    return watch.measurement(
        images=found.new_images,
        collections=found.new_collections,
        requests=found.requests,
        complete=found.complete,
        missing=[outcome.reason for outcome in found.report.missing],
    )


def measure(options: argparse.Namespace, root: str) -> dict[str, list[Measurement]]:
    """Sync a folder twice, and another one from the first one's snapshot, in turns."""
    sides: dict[str, list[Measurement]] = {"first": [], "second": [], "seeded": []}
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder:
            one, other = str(Path(folder) / "one"), str(Path(folder) / "other")
            sides["first"].append(bench.in_fresh_process(sync, one, root))
            sides["second"].append(bench.in_fresh_process(sync, one, root))
            sides["seeded"].append(bench.in_fresh_process(sync, other, root, one))
    return sides


def main() -> None:
    """Measure and print."""
    parser = bench.parser(__doc__, repeat=3)
    parser.add_argument("--collections", type=int, default=2000)
    parser.add_argument("--images", type=int, default=60_000, help="in all of them together")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each first byte")
    parser.add_argument("--quirks", action="store_true", help="broken records, a list in no order, an empty page")
    options = parser.parse_args()
    world = ["--empty", "--many", f"{options.collections}:{options.images}", "--latency", str(options.latency)]
    with bench.serving(*world, *["--quirks"] * options.quirks) as addresses:
        sides = measure(options, addresses["neurovault"])
    bench.table(sides, base="first")
    first = sides["first"][0].facts
    print(f"{first['collections']} collections, {first['images']} images, {first['requests']} requests")
    for reason in first["missing"]:
        print(f"not to be had: {reason}")
    assert all(run.facts["complete"] for runs in sides.values() for run in runs), "a sync was not complete"
    assert options.quirks or first["images"] == options.images, "not all images came"
    rate = statistics.median(run.facts["images"] / run.wall_s for run in sides["first"])
    bench.verdict("images a second", rate, at_least=4000)
    again = max(run.facts["requests"] for run in sides["second"])
    print(f"requests of the second sync: {again}, to the list of collections alone")


if __name__ == "__main__":
    main()
