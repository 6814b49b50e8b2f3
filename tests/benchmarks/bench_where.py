"""Time how long a condition takes to select images in a catalog as large as all of NeuroVault.

The catalog is that of `_catalog.py`: 600,000 images in 16,000 collections, their records and some files. Each
run is a fresh process that has imported what it needs before its clock starts, and opens the catalog itself; the
system has read the file before.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import _bench as bench
import _catalog
from _bench import Measurement

CONDITIONS = {
    "the usual": (
        "stat IN ('t', 'z') AND analysis_level = 'group' AND task = 'stop signal task' AND n_subjects >= $n",
        {"n": 20},
    ),
    "flags and the collection": ("ibma_candidate AND NOT from_neuroscout AND collections.field_strength = 3", {}),
    "words in names": ("contrast ILIKE '%reward%' AND collection_name ILIKE '%decision%'", {}),
    "everything": ("nilearn_default OR true", {}),
}
TARGET_S = 0.3
MODULES = ("nvcatalog.where", "pyarrow", "numpy")


def make(folder: str, images: int, collections: int) -> Measurement:
    """Make the catalog."""
    with bench.Stopwatch() as watch:
        file = _catalog.make(Path(folder), images=images, collections=collections)
    return watch.measurement(mib=file.stat().st_size / 2**20)


def select_side(name: str, folder: str) -> Measurement:
    """Ask one condition."""
    bench.import_all(MODULES)
    from nvcatalog._store import Store
    from nvcatalog.where import Condition, select

    where, params = CONDITIONS[name]
    with bench.Stopwatch() as watch:
        found = select(Store(Path(folder)), Condition(where, params=params, max_images=100))
    return watch.measurement(total=found.total, images=len(found.image_ids))


def open_side(name: str, folder: str) -> Measurement:
    """Open the catalog, and ask nothing."""
    bench.import_all(MODULES)
    from nvcatalog._store import Store

    with bench.Stopwatch() as watch, Store(Path(folder)).reading():
        pass
    return watch.measurement(asked=name)


def main() -> None:
    """Measure and print."""
    parser = bench.parser(__doc__)
    parser.add_argument("--images", type=int, default=600_000)
    parser.add_argument("--collections", type=int, default=16_000)
    options = parser.parse_args()
    sides: dict[str, list[Measurement]] = {name: [] for name in (*CONDITIONS, "opening alone")}
    with tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder:
        made = bench.in_fresh_process(make, folder, options.images, options.collections)
        print(f"a catalog of {options.images} images, {made.facts['mib']:.0f} MiB, made in {made.wall_s:.1f} s")
        for _ in range(options.repeat):
            for name, runs in sides.items():
                side = select_side if name in CONDITIONS else open_side
                runs.append(bench.in_fresh_process(side, name, folder))
    for name in CONDITIONS:
        facts = sides[name][0].facts
        print(f"{name}: {facts['images']} of {facts['total']} that match")
    bench.table(sides, base="the usual")
    for name in CONDITIONS:
        bench.verdict(f"seconds, {name}", bench.median_s(sides[name]), at_most=TARGET_S)


if __name__ == "__main__":
    main()
