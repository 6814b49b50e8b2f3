"""The fetchers that nilearn's users know: by ids, and by filters on the metadata."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterable, Mapping
from datetime import timedelta
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

from nvcatalog import lookup, records, storage
from nvcatalog._progress import logger
from nvcatalog._store import Store
from nvcatalog.base import store_of
from nvcatalog.call import Call
from nvcatalog.choosing import Wanted
from nvcatalog.errors import FilterWarning, InvalidOptionError, shown
from nvcatalog.filters import Filter, basic_collection_terms, basic_image_terms, keep_all
from nvcatalog.ids import parse_ids_and_tokens
from nvcatalog.options import option_meant, parse_options
from nvcatalog.private import Opener
from nvcatalog.where import parse_max_images

if TYPE_CHECKING:
    from sklearn.utils import Bunch

DEFAULT_MAX_IMAGES = 100


def fetch_neurovault_ids(
    collection_ids: Iterable[int | str] | int | str | None = (),
    image_ids: Iterable[int | str] | int | str | None = (),
    mode: str = "download_new",
    data_dir: str | os.PathLike[str] | None = None,
    fetch_neurosynth_words: bool = False,  # noqa: FBT001, FBT002 - nilearn's signature
    vectorize_words: bool = True,  # noqa: FBT001, FBT002 - nilearn's signature
    verbose: int = 3,
    *,
    timeout: float = 10.0,
    max_workers: int | None = None,
    sparse_words: bool = False,
    resample: bool = False,
    dry_run: bool = False,
    max_age: timedelta | float | None = None,
    extras: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> Bunch:
    """Fetch whole collections and single images from NeuroVault, complete or plainly told otherwise.

    A drop-in for the function of the same name in nilearn: what is on disk already is not downloaded
    again, nilearn's own downloads included, and everything that is fetched can be asked in SQL through
    :class:`nvcatalog.Catalog`.

    Parameters
    ----------
    collection_ids : iterable of int or str, int, str or None
        The collections wanted whole: ids, links to their pages, or the eight-letter tokens of private ones.
    image_ids : iterable of int or str, int, str or None
        The single images wanted: ids, links to their pages, or, in a private collection, ``"ABCDEFGH-243"``.
    mode : {'download_new', 'overwrite', 'offline'}
        When the servers are asked: for exactly what is missing; for everything again; never.
        ``NVCATALOG_OFFLINE=1`` makes every call offline.
    data_dir : path-like or None
        Where ``neurovault/`` is or will be. None means, of ``NILEARN_SHARED_DATA``, ``NILEARN_DATA`` and
        ``~/nilearn_data``, the first that has such a folder, else the first where it can be made.
    fetch_neurosynth_words : bool
        Whether to fetch the terms that Neurosynth associates with each image.
    vectorize_words : bool
        Whether to add the terms as a matrix.
    verbose : int
        0 is quiet, 1 gives a one-line summary, 2 progress bars too, 3 also logs every request to the
        logger ``nvcatalog`` at level INFO. Warnings come at any level.
    timeout : float
        Seconds to wait for a connection, and for the next byte of an answer. Neurosynth, which computes
        while one waits, gets at least 60.
    max_workers : int or None
        Parallel downloads, up to 32; None means 6, as a browser does.
    sparse_words : bool
        Whether ``word_frequencies`` is left sparse.
    resample : bool
        Whether to bring the maps to nilearn's 3 mm grid: ``images`` are then the resampled files, and of what is
        downloaded nothing else is kept, unless it cannot be resampled. Maps of labels keep their numbers.
        Needs ``pip install 'nvcatalog[resample]'``.
    dry_run : bool
        Whether to return only what would be done, as a :class:`~nvcatalog.plan.Plan`: lists may be read for it,
        no file is fetched.
    max_age : timedelta, float or None
        How old, in days where it is a number, what is known of a collection or image may be before its record is
        asked for again; None for any age.
    extras : bool
        Whether to fetch what lies beside the maps, too: an atlas's label file (read by
        :meth:`nvcatalog.Catalog.labels`), a map's surfaces, the archives of NIDM packs, which stay packed.
    base : path-like or None
        The `data_dir` of a shared folder, filled by nvcatalog or by nilearn: its maps are returned where they lie
        there, its records and terms are used, and only what it lacks is fetched, into `data_dir`. Nothing is ever
        written to it. None means ``NVCATALOG_BASE``, and where that is not set, that there is none. For a folder
        that nilearn filled a catalog is kept in the user's cache folder (``$XDG_CACHE_HOME/nvcatalog``, else
        ``~/.cache/nvcatalog``).

    Returns
    -------
    sklearn.utils.Bunch
        With the attributes

        - ``images``: list of str, the absolute path of each image's ``.nii.gz``; collections in the order
          given and images by id inside, then ``image_ids`` in the order given, none twice;
        - ``images_meta``: list of dict, each image's record (placeholders such as "None / Other" as None)
          with its paths;
        - ``collections_meta``: list of dict, for each image the record of its collection;
        - ``description``: str, what the data is and how to cite it;
        - ``report``: :class:`~nvcatalog.report.Report`, what happened to every id;

        and, with ``fetch_neurosynth_words`` and ``vectorize_words``,

        - ``word_frequencies``: float64 array of shape (images, terms), or a ``scipy.sparse.csr_matrix``;
          a weight is the Pearson correlation of the image with the term's meta-analytic map: signed, a
          similarity and not a probability. An image without terms has a row of zeros;
        - ``vocabulary``: array of str of shape (terms,), sorted.

        Both are None, with a warning, when no term is known for any image.

    Raises
    ------
    InvalidIdError, InvalidIdTypeError
        For ids that are none (a ValueError and a TypeError).
    InvalidModeError, InvalidOptionError
        For a mode or an option that cannot be (ValueErrors).
    DataDirError
        When the folder is a file or cannot be made, or the base is not there (an OSError).
    NoSpaceError
        When the disk is full, or has not the room for what is to be fetched (an OSError); what has arrived is
        kept.
    MissingExtraError
        When maps are to be resampled and nilearn is not installed (an ImportError).
    WrongServerError
        When the folder was filled from another server.
    CatalogLockedError, CatalogCorruptError, CatalogTooNewError
        When the catalog cannot be used; each says what to do.

    Warns
    -----
    IncompleteWarning
        When anything that was asked for is missing; the report says what and why.

    References
    ----------
    Gorgolewski et al. (2015), doi:10.3389/fninf.2015.00008; Yarkoni et al. (2011), doi:10.1038/nmeth.1635.

    Examples
    --------
    >>> from nvcatalog import fetch_neurovault_ids
    >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
    >>> maps.images_meta[0]["id"], maps.report.counts
    (10426, {'downloaded': 1})
    """
    options = parse_options(
        mode=mode,
        fetch_neurosynth_words=fetch_neurosynth_words,
        vectorize_words=vectorize_words,
        sparse_words=sparse_words,
        verbose=verbose,
        timeout=timeout,
        max_workers=max_workers,
        dry_run=dry_run,
        resample=resample,
        max_age=max_age,
        extras=extras,
    )
    collections = parse_ids_and_tokens(collection_ids, kind="collection")
    images = parse_ids_and_tokens(image_ids, kind="image")
    folder = storage.data_folder(data_dir)
    reads = store_of(folder, base)
    call = Call(
        options.request(),
        options,
        folder,
        function="fetch_neurovault_ids",
        parameters={"collection_ids": collections, "image_ids": images},
        opener=Opener(collections, images, reads),
        reads=reads,
    )
    return call.answer()


def fetch_neurovault(
    max_images: float | None = DEFAULT_MAX_IMAGES,
    collection_terms: Mapping[str, Any] | None = None,
    collection_filter: Filter = keep_all,
    image_terms: Mapping[str, Any] | None = None,
    image_filter: Filter = keep_all,
    mode: str = "download_new",
    data_dir: str | os.PathLike[str] | None = None,
    fetch_neurosynth_words: bool = False,  # noqa: FBT001, FBT002 - nilearn's signature
    vectorize_words: bool = True,  # noqa: FBT001, FBT002 - nilearn's signature
    verbose: int = 3,
    *,
    timeout: float = 10.0,
    max_workers: int | None = None,
    sparse_words: bool = False,
    resample: bool = False,
    interpolation: str | None = None,
    dry_run: bool = False,
    max_age: timedelta | float | None = None,
    extras: bool = False,
    base: str | os.PathLike[str] | None = None,
    **kwarg_image_filters: Any,
) -> Bunch:
    """Fetch images from NeuroVault whose metadata meet some criteria, complete or plainly told otherwise.

    A drop-in for the function of the same name in nilearn. Images that are here and meet the criteria come first,
    then those that the catalog knows, then what the server lists, until there are enough. The server is asked only
    for what the catalog cannot answer; where it knows enough images, for nothing.

    Parameters
    ----------
    max_images : int or None
        How many images at most; None, a negative number and infinity mean all.
    collection_terms : mapping or None
        Field of a collection's record -> the value it must have, or a special value of :mod:`nvcatalog.filters`.
        None means :func:`~nvcatalog.filters.basic_collection_terms`: collections that are not empty.
    collection_filter : callable
        Called with the record of a collection that meets the terms; gives something true for one that is wanted.
    image_terms : mapping or None
        The same for images. None means :func:`~nvcatalog.filters.basic_image_terms`: unthresholded maps in MNI
        space.
    image_filter : callable
        The same for images. One that raises costs only the image it raised for, which the report names.
    mode, data_dir, fetch_neurosynth_words, vectorize_words, verbose
        As in :func:`fetch_neurovault_ids`.
    timeout, max_workers, sparse_words, resample, dry_run, max_age, extras, base
        As there.
    interpolation : {'continuous', 'linear', 'nearest'} or None
        How maps are resampled. None means 'continuous', and 'nearest' for maps of labels; what has been resampled
        before is then taken as it is. A choice makes maps again that were made otherwise.
    **kwarg_image_filters
        More image terms: ``modality="fMRI-BOLD"``, ``collection_id=555``.

    Returns
    -------
    sklearn.utils.Bunch
        As :func:`fetch_neurovault_ids` gives it: first the images that were here, then those fetched now, both by
        collection and id.

    Raises
    ------
    InvalidOptionError
        For a value that cannot be (a ValueError).
    NVCatalogError
        As :func:`fetch_neurovault_ids` raises them.

    Warns
    -----
    FilterWarning
        When default terms still apply beside a function, when two collections' ids contradict each other, and for
        a field that no image has.
    SelectionWarning
        When no image matches: how many each term keeps alone, and which values there are.
    IncompleteWarning
        When an image that is wanted could not be had; the report says which and why.

    Examples
    --------
    >>> from nvcatalog import fetch_neurovault
    >>> from nvcatalog.filters import IsIn
    >>> maps = fetch_neurovault(max_images=3, modality=IsIn("fMRI-BOLD", "MEG"), collection_id=555, verbose=0)
    >>> [meta["id"] for meta in maps.images_meta]
    [9034, 9035, 9036]
    """
    options = parse_options(
        mode=mode,
        fetch_neurosynth_words=fetch_neurosynth_words,
        vectorize_words=vectorize_words,
        sparse_words=sparse_words,
        verbose=verbose,
        timeout=timeout,
        max_workers=max_workers,
        dry_run=dry_run,
        resample=resample,
        interpolation=interpolation,
        max_age=max_age,
        extras=extras,
    )
    limit = parse_max_images(max_images)
    if limit == DEFAULT_MAX_IMAGES:
        logger.info("At most %d images, the default; max_images=None gives all", DEFAULT_MAX_IMAGES)
    collection_terms = _terms(collection_terms, basic_collection_terms(), collection_filter, "collection")
    image_terms = _terms(image_terms, basic_image_terms(), image_filter, "image") | kwarg_image_filters
    _move_collection_id(image_terms, collection_terms)
    folder = storage.data_folder(data_dir)
    reads = store_of(folder, base)
    _warn_of_options(kwarg_image_filters, reads)
    wanted = Wanted(collection_terms, collection_filter, image_terms, image_filter)
    call = Call(
        options.request(),
        options,
        folder,
        function="fetch_neurovault",
        parameters={"max_images": limit, **wanted.described()},
        wanted=wanted,
        max_images=limit,
        reads=reads,
    )
    return call.answer()


def _terms(
    terms: Mapping[str, Any] | None,
    default: dict[str, Any],
    function: Filter,
    kind: Literal["collection", "image"],
) -> dict[str, Any]:
    """Return the terms that apply, and say when the default's do beside a function, which few expect."""
    if terms is not None and not isinstance(terms, Mapping):
        raise InvalidOptionError(f"{kind}_terms is {shown(terms)}; give a mapping of fields to values")
    if not callable(function):
        raise InvalidOptionError(
            f"{kind}_filter is {shown(function)}; give a function that is called with a record"
        )
    given = default if terms is None else dict(terms)
    if odd := [name for name in given if not isinstance(name, str)]:
        raise InvalidOptionError(f"{kind}_terms has {odd[0]!r}, which is no field's name; give text")
    if function is not keep_all and given == default:
        text = (
            f"{kind}_filter was given, and the default {kind}_terms still apply: {default}. "
            f"For the function alone, give {kind}_terms={{}}"
        )
        warnings.warn(text, FilterWarning, stacklevel=3)
    return given


def _warn_of_options(keywords: Mapping[str, Any], store: Store) -> None:
    """Warn of fields that look like options and that no image here has, before all images are looked through."""
    known = {*records.IMAGE_FIELDS, "id", "gender"}
    options = inspect.signature(fetch_neurovault).parameters
    for name in keywords.keys() - known:
        option = option_meant(name, options)
        if option is not None and not lookup.has_extra_field(store, name, "images"):
            text = f"{name} is no option of fetch_neurovault, and so a field that images are to have"
            warnings.warn(f"{text}; did you mean the option {option}?", FilterWarning, stacklevel=3)


def _move_collection_id(image_terms: dict[str, Any], collection_terms: dict[str, Any]) -> None:
    """Make an image's ``collection_id`` the ``id`` of the collections looked through, as nilearn does."""
    if "collection_id" in image_terms:
        wanted = image_terms["collection_id"]
        if "id" in collection_terms and not _means(collection_terms["id"], wanted):
            ids = f"collection_id={shown(wanted)} contradicts the collections' id={shown(collection_terms['id'])}"
            text = f"The images' {ids}"
            warnings.warn(f"{text}: no image may have both", FilterWarning, stacklevel=3)
            return
        collection_terms["id"] = image_terms.pop("collection_id")
    id_ = collection_terms.get("id")
    if isinstance(id_, Integral) or (isinstance(id_, str) and id_.isascii() and id_.isdigit()):
        collection_terms["id"] = int(id_)  # numpy's numbers too


def _means(term: Any, value: Any) -> bool:
    """Whether a term, a special value maybe, is equal to a value; one that cannot be compared is not."""
    try:
        return bool(term == value)
    except Exception:  # noqa: BLE001 - a class of the caller's own; its records will say so each
        return False
