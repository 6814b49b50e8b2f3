"""Time the words of many images as a matrix: from the catalog, and as nilearn makes it from JSON files.

Both start from the same answers over the 3,228 terms of the real vocabulary: on one side they have landed in a
catalog, on the other they lie in the files that nilearn keeps. Each run is a fresh process that has imported all
it needs before its clock starts; `added` is what its memory grew by at most from then on. The matrices are
compared, value by value, once.

Then the same catalog grows to many images, to show that the memory is bounded: it is hardly more than the matrix's
own, and neither rows of a query nor a table of all words are ever held.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
from pathlib import Path

import _bench as bench
from _bench import Measurement

#: What a first read of words would import on its way.
MODULES = (*bench.CALL_MODULES, "nvcatalog.matrix", "pandas", "pyarrow.pandas_compat")


class Memory:
    """Tells by how much this process has grown at most since this was made."""

    def __init__(self) -> None:
        self._status = Path("/proc/self/status")
        if self._status.exists():
            Path("/proc/self/clear_refs").write_text("5")  # lets the peak begin anew
        self._before = self._mib("VmRSS")

    def added_mib(self) -> float:
        """Return the largest growth so far."""
        return self._mib("VmHWM") - self._before

    def _mib(self, name: str) -> float:
        if not self._status.exists():  # the peak before is then taken for what there was
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bench.RSS_UNIT / 2**20
        lines = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
        return int(lines[name].split()[0]) / 1024


def catalog_side(folder: str, n_images: int) -> Measurement:
    """Ask the catalog, and leave the matrix sparse."""
    bench.import_all(MODULES)
    from nvcatalog import Catalog

    memory = Memory()
    with bench.Stopwatch() as watch:
        frequencies, vocabulary = Catalog(folder).words(range(1, n_images + 1))
    added = memory.added_mib()
    own = sum(part.nbytes for part in (frequencies.data, frequencies.indices, frequencies.indptr)) / 2**20
    return watch.measurement(shape=frequencies.shape, terms=len(vocabulary), added=added, own=own)


def catalog_dense_side(folder: str, n_images: int) -> Measurement:
    """Ask the catalog, and make the matrix dense as nilearn's is: what the fetchers do with it."""
    bench.import_all(MODULES)
    from nvcatalog import Catalog
    from nvcatalog.words import as_dense

    memory = Memory()
    with bench.Stopwatch() as watch:
        frequencies, vocabulary = Catalog(folder).words(range(1, n_images + 1))
        dense = as_dense(frequencies)
    return watch.measurement(shape=dense.shape, terms=len(vocabulary), added=memory.added_mib())


def nilearn_side(folder: str, n_images: int) -> Measurement:
    """Let nilearn read its files."""
    from nilearn.datasets import neurovault

    files = [words_file(folder, image_id) for image_id in range(1, n_images + 1)]
    memory = Memory()
    with bench.Stopwatch() as watch:
        frequencies, vocabulary = neurovault.neurosynth_words_vectorized(files, verbose=0)
    return watch.measurement(shape=frequencies.shape, terms=len(vocabulary), added=memory.added_mib())


def words_file(folder: str, image_id: int) -> Path:
    """Return where nilearn keeps an image's words."""
    return Path(folder) / "neurovault" / "collection_1" / f"neurosynth_words_for_image_{image_id}.json"


def prepare(folder: str, n_images: int) -> Measurement:
    """Make the answers, write nilearn's files, and let the catalog adopt them."""
    from nvcatalog import Catalog
    from nvcatalog.demo.decoding import REFERENCE, decode_values

    words_file(folder, 1).parent.mkdir(parents=True)
    for image_id in range(1, n_images + 1):
        file = words_file(folder, image_id)
        answer = {"values": decode_values(image_id), "reference": REFERENCE}
        file.write_text(json.dumps({"data": answer}))
        file.with_name(f"image_{image_id}_metadata.json").write_text(json.dumps({"id": image_id}))
    with bench.Stopwatch() as watch:
        Catalog(folder).adopt(verbose=0)
    return watch.measurement()


def grow(folder: str, n_images: int, n_wanted: int) -> Measurement:
    """Give the catalog as many images as wanted, each with the words of one of those that are there."""
    from nvcatalog import Catalog
    from nvcatalog._store import Store

    catalog = Catalog(folder)
    with bench.Stopwatch() as watch:
        with Store(catalog.folder).writing() as connection:
            for more in range(n_images, n_wanted, n_images):
                for table in ("images", "words_status", "words"):
                    connection.execute(
                        f"INSERT INTO {table} SELECT * REPLACE (image_id + $more AS image_id) FROM {table} "
                        "WHERE image_id BETWEEN 1 AND least($n, $wanted - $more)",
                        {"more": more, "n": n_images, "wanted": n_wanted},
                    )
        catalog.snapshot()
    return watch.measurement()


def same_matrix(folder: str, n_images: int) -> Measurement:
    """Compare both sides' matrices, value by value."""
    import numpy as np
    from nilearn.datasets import neurovault

    from nvcatalog import Catalog

    files = [words_file(folder, image_id) for image_id in range(1, n_images + 1)]
    with bench.Stopwatch() as watch:
        theirs, their_terms = neurovault.neurosynth_words_vectorized(files, verbose=0)
        ours, our_terms = Catalog(folder).words(range(1, n_images + 1))
    same = list(their_terms) == list(our_terms) and np.array_equal(ours.toarray(), theirs)
    return watch.measurement(same=bool(same))


def compare(folder: str, n_images: int, repeat: int) -> None:
    """Run all sides in turns, and print how they compare."""
    functions = {
        "nvcatalog, sparse": catalog_side,
        "nvcatalog, dense": catalog_dense_side,
        "nilearn": nilearn_side,
    }
    sides: dict[str, list[Measurement]] = {name: [] for name in functions}
    for _ in range(repeat):
        for name, function in functions.items():
            sides[name].append(bench.in_fresh_process(function, folder, n_images))
    same = bench.in_fresh_process(same_matrix, folder, n_images).facts["same"]
    rows, columns = sides["nilearn"][0].facts["shape"]
    print(f"{rows} images x {columns} terms; the matrices are {'the same' if same else 'NOT THE SAME'}")
    bench.table(sides, base="nvcatalog, sparse")
    added = {name: statistics.median(run.facts["added"] for run in runs) for name, runs in sides.items()}
    print("added memory: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in added.items()))
    for name in list(functions)[:-1]:
        speed = bench.median_s(sides["nilearn"]) / bench.median_s(sides[name])
        bench.verdict(f"{name}: times faster than nilearn", speed, at_least=15)
        bench.verdict(f"{name}: added memory, of nilearn's", added[name] / added["nilearn"], at_most=0.25)


def show_bounds(folder: str, n_images: int, sizes: list[int]) -> None:
    """Print time and memory of ever more images."""
    growing = bench.in_fresh_process(grow, folder, n_images, max(sizes))
    print(f"\ngrown to {max(sizes):,} images and published in {growing.wall_s:.0f} s")
    print(f"{'images':>10} {'wall':>9} {'matrix':>11} {'added':>11}   added / matrix")
    for size in sizes:
        run = bench.in_fresh_process(catalog_side, folder, size)
        own, added = run.facts["own"], run.facts["added"]
        print(f"{size:10,} {run.wall_s:7.2f} s {own:7.0f} MiB {added:7.0f} MiB   {added / own:.2f}")
    bench.verdict(f"{size:,} images: added memory, of the matrix's own", added / own, at_most=1.25)


def main() -> None:
    """Measure and print."""
    parser = bench.parser(__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--grow", type=int, nargs="*", default=[2500, 5000, 10_000, 20_000], metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder:
        adopting = bench.in_fresh_process(prepare, folder, options.images)
        print(f"adopting {options.images:,} answers took {adopting.wall_s:.2f} s, once")
        compare(folder, options.images, options.repeat)
        if options.grow:
            show_bounds(folder, options.images, sorted(options.grow))


if __name__ == "__main__":
    main()
