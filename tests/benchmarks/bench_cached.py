"""Time a call for images that are all here already: nvcatalog and nilearn, on the same folder.

The folder is filled once by nvcatalog from a local server; nilearn reads the same files and the metadata
beside them. Each run is a fresh process that has imported all it needs before its clock starts, and counts
the connections that were tried meanwhile: there must be none.
"""

from __future__ import annotations

import io
import os
import random
import sys
import tempfile
from contextlib import redirect_stdout

import _bench as bench
from _bench import Measurement

FIRST_IMAGE = 1


def nvcatalog_side(image_ids: list[int], root: str, folder: str) -> Measurement:
    """Ask nvcatalog."""
    os.environ["NVCATALOG_NEUROVAULT_URL"] = root
    bench.import_all(["nvcatalog.fetch"])  # all that such a call needs
    from nvcatalog import fetch_neurovault_ids

    connections = count_connections()
    with bench.Stopwatch() as watch:
        maps = fetch_neurovault_ids(image_ids=image_ids, data_dir=folder, verbose=0)
    return watch.measurement(images=len(maps.images), connections=len(connections))


def nilearn_side(image_ids: list[int], root: str, folder: str) -> Measurement:
    """Ask nilearn."""
    neurovault = bench.nilearn_at(root)
    connections = count_connections()
    with bench.Stopwatch() as watch, redirect_stdout(io.StringIO()):
        maps = neurovault.fetch_neurovault_ids(image_ids=image_ids, data_dir=folder, verbose=0)
    return watch.measurement(images=len(maps.images), connections=len(connections))


def count_connections() -> list[object]:
    """Return a list that grows with every connection this process tries from now on."""
    tried: list[object] = []
    sys.addaudithook(lambda event, args: tried.append(args[1]) if event == "socket.connect" else None)
    return tried


def fill(collections: int, root: str, folder: str) -> Measurement:
    """Fetch everything once."""
    os.environ["NVCATALOG_NEUROVAULT_URL"] = root
    from nvcatalog import fetch_neurovault_ids

    with bench.Stopwatch() as watch:
        maps = fetch_neurovault_ids(range(1, collections + 1), data_dir=folder, max_workers=8, verbose=0)
    return watch.measurement(images=len(maps.images))


def main() -> None:
    """Measure and print."""
    parser = bench.parser(__doc__)
    parser.add_argument("--collections", type=int, default=20)
    parser.add_argument("--images", type=int, default=500, help="in each collection")
    parser.add_argument("--wanted", type=int, default=850, help="images asked for, drawn over all collections")
    options = parser.parse_args()
    total = options.collections * options.images
    world = [f"--synthetic={number}:{options.images}" for number in range(1, options.collections + 1)]
    wanted = random.Random(0).sample(range(FIRST_IMAGE, FIRST_IMAGE + total), options.wanted)
    runs_of = {"nvcatalog": nvcatalog_side, "nilearn": nilearn_side}
    sides: dict[str, list[Measurement]] = {name: [] for name in runs_of}
    with (
        tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder,
        bench.serving("--empty", "--file-bytes", "2000", *world) as addresses,
    ):
        root = addresses["neurovault"]
        filled = bench.in_fresh_process(fill, options.collections, root, folder)
        print(f"filled with {filled.facts['images']} images in {filled.wall_s:.1f} s")
        for _ in range(options.repeat):
            for name, side in runs_of.items():
                sides[name].append(bench.in_fresh_process(side, wanted, root, folder))
    for name, runs in sides.items():
        images, connections = ({run.facts[what] for run in runs} for what in ("images", "connections"))
        print(f"{name}: {images} images, {connections} connections")
    bench.table(sides, base="nvcatalog")
    ratio = bench.median_s(sides["nilearn"]) / bench.median_s(sides["nvcatalog"])
    bench.verdict("times faster than nilearn", ratio, at_least=10)


if __name__ == "__main__":
    main()
