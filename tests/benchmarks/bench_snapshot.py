"""Time what it takes to publish one image that has landed in a catalog as large as all of NeuroVault.

The catalog has 600,000 images in 16,000 collections, and 32 million words. One side lands an image with its
terms, and publishes what has changed; the other publishes all of it, as the first snapshot is. Each run is a fresh
process that has imported what it needs before its clock starts, and opens the catalog itself; only publishing is
timed.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import _bench as bench
import _catalog
from _bench import Measurement

TARGET_S = 0.5
TARGET_MIB = 1024
MODULES = ("nvcatalog.snapshot", "nvcatalog.comparing", "pyarrow.parquet")


def whole_side(folder: str, _: int) -> Measurement:
    """Publish everything."""
    bench.import_all(MODULES)
    from nvcatalog import snapshot
    from nvcatalog._store import Store

    with bench.Stopwatch() as watch:
        place = snapshot.take(Store(Path(folder)), whole=True)
    files = list(place.glob("*/*.parquet"))
    return watch.measurement(files=len(files), mib=sum(file.stat().st_size for file in files) / 2**20)


def one_image_side(folder: str, number: int) -> Measurement:
    """Land an image with its terms, which is not timed; then publish what has changed."""
    bench.import_all(MODULES)
    from nvcatalog import snapshot
    from nvcatalog._store import Store
    from nvcatalog.demo.decoding import vocabulary

    store = Store(Path(folder))
    store.land(one_image(number, vocabulary()[: _catalog.TERMS]))
    with bench.Stopwatch() as watch:
        place = snapshot.take(store)
    written = [file for file in place.glob("*/*.parquet") if file.stat().st_nlink == 1]
    return watch.measurement(files=len(written), mib=sum(file.stat().st_size for file in written) / 2**20)


def one_image(number: int, terms: tuple[str, ...] | list[str]):  # type: ignore[no-untyped-def]  # imported late
    """Return what lands with an image: its record and that of its collection, its file, its terms, the call."""
    from nvcatalog._batch import Batch, Words

    id_ = 1 + number * 37
    batch = Batch(words={id_: Words({term: place % 100 / 100 for place, term in enumerate(terms)}, "terms_20k")})
    batch.add_record("collection", {"id": 1 + id_ % _catalog.COLLECTIONS, "name": f"study {number}"})
    record = {"id": id_, "collection_id": 1 + id_ % _catalog.COLLECTIONS, "name": f"map {number}"}
    batch.add_record("image", record)
    batch.add("files", {"image_id": id_, "kind": "original", "path": "map.nii.gz", "size": 1, "state": "present"})
    batch.add("fetches", {"fetch_id": f"run {number}", "parameters": "{}", "returned": 1})
    batch.add("outcomes", {"fetch_id": f"run {number}", "kind": "image", "id": id_, "status": "downloaded"})
    return batch


def connect_side(folder: str, _: int) -> Measurement:
    """Open a snapshot to which nothing has landed since, and ask it for one image."""
    bench.import_all(MODULES)
    from nvcatalog import connecting
    from nvcatalog._store import Store

    with bench.Stopwatch() as watch, connecting.connected(Store(Path(folder))) as connection:
        rows = connection.execute("SELECT name FROM images WHERE image_id = 38").fetchall()
    return watch.measurement(rows=len(rows))


def diff_side(folder: str, _: int) -> Measurement:
    """Compare the last two snapshots."""
    bench.import_all(MODULES)
    from nvcatalog import comparing
    from nvcatalog._store import Store

    names = sorted(path.parent.name for path in Path(folder).glob("snapshots/2*/manifest.json"))
    with bench.Stopwatch() as watch:
        found = comparing.compare(Store(Path(folder)), *names[-2:])
    return watch.measurement(rows=found.num_rows)


SIDES = {
    "everything": whole_side,
    "one image": one_image_side,
    "connect, nothing new": connect_side,
    "diff of the last two": diff_side,
}


def make(folder: str, words_images: int) -> Measurement:
    """Make the catalog."""
    with bench.Stopwatch() as watch:
        _catalog.make(Path(folder), words_images=words_images)
    return watch.measurement()


def main() -> None:
    """Measure and print."""
    parser = bench.parser(__doc__, repeat=3)
    parser.add_argument("--catalog", type=Path, help="a catalog.duckdb to copy, instead of making one")
    parser.add_argument("--words", type=int, default=_catalog.WORDS_IMAGES, metavar="N", help="images with words")
    options = parser.parse_args()
    sides: dict[str, list[Measurement]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder:
        if options.catalog:
            shutil.copyfile(options.catalog, Path(folder, "catalog.duckdb"))
        else:
            print(f"a catalog made in {bench.in_fresh_process(make, folder, options.words).wall_s:.1f} s")
        for number in range(options.repeat):
            for name, runs in sides.items():
                runs.append(bench.in_fresh_process(SIDES[name], folder, number))
    for name in ("everything", "one image"):
        facts = sides[name][0].facts
        print(f"{name}: {facts['files']} files written, {facts['mib']:.1f} MiB")
    bench.table(sides, base="one image")
    bench.verdict("seconds to publish one image", bench.median_s(sides["one image"]), at_most=TARGET_S)
    peak = max(run.peak_mib for run in sides["everything"])
    bench.verdict("MiB of memory to publish everything", peak, at_most=TARGET_MIB)


if __name__ == "__main__":
    main()
