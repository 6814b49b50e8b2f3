"""Shape what a call found into the Bunch that nilearn's users know."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvcatalog import neurosynth, records, storage
from nvcatalog._batch import Batch, Words
from nvcatalog._sklearn import bunch_class
from nvcatalog._store import AbsentStore, Store
from nvcatalog.errors import CatalogLockedError, MixedSetsError, WordsWarning
from nvcatalog.known import Known, KnownImage, MapKind
from nvcatalog.matrix import find_words
from nvcatalog.report import Report
from nvcatalog.wish import Wish
from nvcatalog.words import WordMatrix, as_dense

if TYPE_CHECKING:
    from sklearn.utils import Bunch

DESCRIPTION = """NeuroVault statistical maps

Brain maps and their metadata from NeuroVault (https://neurovault.org), a public repository of unthresholded
statistical maps, parcellations and atlases of the human brain; the terms that go with a map come from Neurosynth
(https://neurosynth.org).

NeuroVault's records and public maps are dedicated to the public domain (CC0); please cite the papers of the
collections you use. Neurosynth's values are under the Open Database License (ODbL 1.0): the weight of a term
is the Pearson correlation of the map with the term's meta-analytic map, a similarity and not a probability.

References
----------
Gorgolewski KJ, Varoquaux G, Rivera G, et al. (2015). NeuroVault.org: a web-based repository for collecting and
sharing unthresholded statistical maps of the human brain. Frontiers in Neuroinformatics 9:8.
doi:10.3389/fninf.2015.00008

Yarkoni T, Poldrack RA, Nichols TE, Van Essen DC, Wager TD (2011). Large-scale automated synthesis of human
functional neuroimaging data. Nature Methods 8, 665-670. doi:10.1038/nmeth.1635
"""


def build_bunch(
    folder: Path,
    known: Known,
    image_ids: Sequence[int],
    report: Report,
    kind: MapKind = "original",
    *,
    base: Path | None = None,
) -> Bunch:
    """Return the answer for images that are here: paths, one dict of metadata each, and the report.

    Parameters
    ----------
    folder : Path
        The data folder, absolute.
    known : Known
        Their records and files.
    image_ids : sequence of int
        In request order.
    report : Report
        What happened to every id.
    kind : {'original', 'resampled'}
        Which of their maps ``images`` names.
    base : Path or None
        The folder behind it, whose maps are used where they lie.
    """
    images = [known.images[id_] for id_ in image_ids]
    collections = {
        id_: _collection_meta(folder, base, known, id_) for id_ in {image.collection_id for image in images}
    }
    return bunch_class()(
        images=[storage.place(folder, file.path) for image in images if (file := image.map(kind))],
        images_meta=[_image_meta(folder, base, image) for image in images],
        collections_meta=[dict(collections[image.collection_id]) for image in images],
        description=DESCRIPTION,
        report=report,
    )


def add_words(bunch: Bunch, store: Store, unlanded: Batch, image_ids: Sequence[int], *, sparse: bool) -> None:
    """Add ``word_frequencies`` and ``vocabulary``; None for both, with a warning, when no image has any term.

    Parameters
    ----------
    bunch : Bunch
        The answer; changed.
    store : Store
        The catalog, which holds the terms.
    unlanded : Batch
        Terms that could not land yet.
    image_ids : sequence of int
        The rows.
    sparse : bool
        Whether to leave the matrix sparse.
    """
    waiting = {id_: unlanded.words[id_] for id_ in image_ids if id_ in unlanded.words}
    try:
        words = _words_of_one_set(store, image_ids, waiting)
    except CatalogLockedError as error:
        # Somebody has taken the catalog meanwhile: the answer is in the files too, as it came.
        waiting |= _words_in_files(bunch, set(image_ids) - waiting.keys())
        words = _words_of_one_set(AbsentStore(store.folder, error), image_ids, waiting)
    if not words.frequencies.nnz:
        warnings.warn("No term is known for any of these images", WordsWarning, stacklevel=4)
        bunch["word_frequencies"] = bunch["vocabulary"] = None
        return
    bunch["word_frequencies"] = words.frequencies if sparse else as_dense(words.frequencies)
    bunch["vocabulary"] = words.vocabulary


def _words_of_one_set(store: Store, image_ids: Sequence[int], waiting: Mapping[int, Words]) -> WordMatrix:
    """Return the terms of images; where they are of several reference sets, of that which most are of.

    An error would cost the whole answer, and what nilearn does, weights of one set beside those of another in a
    column, would not be seen.
    """
    wish = Wish(tuple(image_ids))
    try:
        return find_words(store, wish, waiting).words
    except MixedSetsError as error:
        text = f"word_frequencies has rows of zeros for images whose terms are not of the largest set: {error}"
        offer = "Catalog().words takes that, and so has the others"
        warnings.warn(f"{text}. {offer}", WordsWarning, stacklevel=5)
        return find_words(store, replace(wish, reference=error.largest or ""), waiting).words


def _words_in_files(bunch: Bunch, image_ids: set[int]) -> dict[int, Words]:
    words = {}
    for meta in bunch.images_meta:
        if meta["id"] in image_ids and "ns_words_absolute_path" in meta:
            with suppress(OSError, ValueError):  # a file that cannot be read is as good as none
                decoded = neurosynth.read_answer(storage.read_file(Path(meta["ns_words_absolute_path"])))
                words[meta["id"]] = Words(decoded.weights, decoded.reference)
    return words


def _image_meta(folder: Path, base: Path | None, image: KnownImage) -> dict[str, Any]:
    place = image.collection_id, image.image_id
    original = image.file.path if image.file else storage.image_path(*place)
    is_shared = image.file is not None and image.file.is_shared
    paths = {"relative_path": original.removeprefix(f"{base}{os.sep}") if is_shared else original}
    absolute = {"absolute_path": storage.place(folder, original)}
    optional = {"resampled": storage.map_path(*place, "resampled"), "ns_words": storage.words_path(*place)}
    for name, path in optional.items():
        # What the base resampled of a map that is here anew is none of it.
        is_of_another = name == "resampled" and image.file is not None and not is_shared
        homes = (folder,) if base is None or is_of_another else (folder, base)
        found = (where for home in homes if os.path.isfile(where := storage.place(home, path)))  # noqa: PTH113 - text
        for where in found:
            paths[f"{name}_relative_path"], absolute[f"{name}_absolute_path"] = path, where
            break
    return records.null_placeholders(image.record) | paths | absolute


def _collection_meta(folder: Path, base: Path | None, known: Known, collection_id: int) -> dict[str, Any]:
    collection = known.collections.get(collection_id)
    record = collection.record if collection and collection.record else {"id": collection_id}
    path = storage.collection_folder(collection_id)
    home = base if base is not None and not (folder / path).is_dir() and (base / path).is_dir() else folder
    return records.null_placeholders(record) | {"relative_path": path, "absolute_path": str(home / path)}
