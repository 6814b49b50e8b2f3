"""Time the words of many images as a matrix: from the catalog, and as nilearn makes it from JSON files.

Both start from the same answers over the 3,228 terms of the real vocabulary: on one side they have landed in a
catalog, on the other they lie in the files that nilearn keeps. Each run is a fresh process that
has imported all it needs before its clock starts; the peak includes what those imports take, shown as `imports`.
The matrices are compared, value by value, once.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import _bench as bench
from _bench import Measurement


def catalog_side(folder: str, n_images: int) -> Measurement:
    """Ask the catalog, and make the matrix dense as nilearn's is."""
    bench.import_all(bench.CALL_MODULES)
    from nvcatalog import Catalog

    with bench.Stopwatch() as watch:
        frequencies, vocabulary = Catalog(folder).words(range(1, n_images + 1))
        dense = frequencies.toarray()
    return watch.measurement(shape=dense.shape, terms=len(vocabulary), total=float(dense.sum()))


def catalog_sparse_side(folder: str, n_images: int) -> Measurement:
    """Ask the catalog, and leave the matrix sparse."""
    bench.import_all(bench.CALL_MODULES)
    from nvcatalog import Catalog

    with bench.Stopwatch() as watch:
        frequencies, vocabulary = Catalog(folder).words(range(1, n_images + 1))
    return watch.measurement(shape=frequencies.shape, terms=len(vocabulary), total=float(frequencies.sum()))


def nilearn_side(folder: str, n_images: int) -> Measurement:
    """Let nilearn read its files."""
    from nilearn.datasets import neurovault

    files = [words_file(folder, image_id) for image_id in range(1, n_images + 1)]
    with bench.Stopwatch() as watch:
        frequencies, vocabulary = neurovault.neurosynth_words_vectorized(files, verbose=0)
    return watch.measurement(shape=frequencies.shape, terms=len(vocabulary), total=float(frequencies.sum()))


def imports_side(folder: str, n_images: int) -> Measurement:
    """Import what the catalog's side imports, and do nothing."""
    bench.import_all(bench.CALL_MODULES)
    with bench.Stopwatch() as watch:
        pass
    return watch.measurement(folder=folder, images=n_images)


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


def main() -> None:
    """Measure and print."""
    parser = bench.parser(__doc__)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    functions = {
        "nvcatalog, dense": catalog_side,
        "nvcatalog, sparse": catalog_sparse_side,
        "nilearn": nilearn_side,
        "imports": imports_side,
    }
    sides: dict[str, list[Measurement]] = {name: [] for name in functions}
    with tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder:
        adopting = bench.in_fresh_process(prepare, folder, options.images)
        for _ in range(options.repeat):
            for name, function in functions.items():
                sides[name].append(bench.in_fresh_process(function, folder, options.images))
        same = bench.in_fresh_process(same_matrix, folder, options.images).facts["same"]
    rows, columns = sides["nilearn"][0].facts["shape"]
    print(f"{rows} images x {columns} terms; adopting them took {adopting.wall_s:.2f} s once")
    print(f"the matrices are {'the same' if same else 'NOT THE SAME'}")
    bench.table(sides, base="nvcatalog, dense")


if __name__ == "__main__":
    main()
