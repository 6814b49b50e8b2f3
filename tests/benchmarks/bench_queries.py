"""Time every query that ships, on a catalog as large as all of NeuroVault: 600,000 images and 32 million words.

Each run is a fresh process that has imported what it needs and asked for something small before its clock starts.
It asks each query once; each opens the catalog itself, and the system has read the file before. The clock stops
when the rows are in memory. What is asked restricts little, so that there is much to do. `work` is what both cores
did: where the time on the clock is far longer, the machine was busy otherwise.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import _bench as bench
import _catalog
from _bench import Measurement

METADATA_S, SLOW_S, WORDS_S = 0.3, 3.0, 1.0
SLOW = ("extra_fields", "metadata_completeness", "image_search")
#: Those of each query that have no default, and some that make its work harder.
ASKED: dict[str, dict[str, Any]] = {
    "changed_since": {"date": "2024-01-01"},
    "collection_search": {"text": "memory study"},
    "contrasts_of_task": {"task": "stop signal task"},
    "image_search": {"text": "reward session"},
    "images_by_term": {"term": "pain"},
    "levels_of_collection": {"collection_id": 7},
    "maps_of_task": {"task": "stop signal task"},
    "metadata_completeness": {"by": "collection"},
    "similar_by_terms": {"image_id": 5000},
    "subjects_of_contrast": {"collection_id": 8},
    "terms_between": {"a": list(range(1, 1000, 2)), "b": list(range(2, 1001, 2))},
    "terms_of_selection": {"image_ids": list(range(1, 1001))},
    "top_terms": {"image_id": 5000},
}
WORDS = ("images_by_term", "similar_by_terms", "terms_between", "terms_of_selection", "top_terms")


def target_s(name: str) -> float:
    """Return the seconds within which a query must answer."""
    return WORDS_S if name in WORDS else SLOW_S if name in SLOW else METADATA_S


def make(folder: str, images: int, collections: int, words_images: int) -> Measurement:
    """Make the catalog."""
    with bench.Stopwatch() as watch:
        file = _catalog.make(Path(folder), images=images, collections=collections, words_images=words_images)
    return watch.measurement(mib=file.stat().st_size / 2**20)


def all_queries(data_dir: str, names: list[str], collection_ids: list[int] | None) -> Measurement:
    """Ask each query once."""
    bench.import_all(bench.CALL_MODULES)
    from nvcatalog import Catalog, shelf

    catalog = Catalog(data_dir)
    catalog.query("fetch_history", limit=1)
    measured = {}
    with bench.Stopwatch() as whole:
        for name in names:
            params = dict(ASKED.get(name, {}))
            if collection_ids and any(each.name == "collection_ids" for each in shelf.find(name).parameters):
                params["collection_ids"] = collection_ids
            with bench.Stopwatch() as watch:
                rows = len(catalog.query(name, params))
            measured[name] = watch.measurement(rows=rows)
    return whole.measurement(queries=measured)


def show(name: str, runs: list[Measurement]) -> bool:
    """Print a query's figures, and return whether its median meets the target."""
    met = bench.verdict(f"seconds, {name}", bench.median_s(runs), at_most=target_s(name))
    least, work = min(run.wall_s for run in runs), statistics.median(run.cpu_s for run in runs)
    print(f"        least {least:.3f} s, work {work:.3f} s, {runs[0].facts['rows']} rows")
    return met


def main() -> None:
    """Measure and print."""
    from nvcatalog import shelf

    parser = bench.parser(__doc__)
    parser.add_argument("--images", type=int, default=_catalog.IMAGES)
    parser.add_argument("--collections", type=int, default=_catalog.COLLECTIONS)
    parser.add_argument("--words", type=int, default=_catalog.WORDS_IMAGES, help="how many images have words")
    parser.add_argument("--within", type=int, metavar="N", help="ask about N collections alone")
    parser.add_argument("--data-dir", help="a catalog that is there already, with its neurovault/")
    parser.add_argument("queries", nargs="*", help="these alone")
    options = parser.parse_args()
    names = options.queries or shelf.listing().column("name").to_pylist()
    within = list(range(1, options.within + 1)) if options.within else None
    with tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder:
        data_dir = options.data_dir or folder
        if not options.data_dir:
            place = str(Path(folder) / "neurovault")
            made = bench.in_fresh_process(make, place, options.images, options.collections, options.words)
            print(f"{options.images} images, {made.facts['mib']:.0f} MiB, made in {made.wall_s:.1f} s")
        runs = [bench.in_fresh_process(all_queries, data_dir, names, within) for _ in range(options.repeat)]
    met = [show(name, [run.facts["queries"][name] for run in runs]) for name in names]
    print(f"{sum(met)} of {len(met)} queries meet their target")


if __name__ == "__main__":
    main()
