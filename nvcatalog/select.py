"""Fetch what a condition in SQL selects, or the collections of a paper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from nvcatalog import lookup, records, storage
from nvcatalog import where as conditions
from nvcatalog._progress import summarise
from nvcatalog._store import Store
from nvcatalog.base import LayeredStore, store_of
from nvcatalog.call import Call
from nvcatalog.client import NeuroVault, root
from nvcatalog.errors import InvalidOptionError, QueryError, SelectionWarning, ServerError
from nvcatalog.fetch import DEFAULT_MAX_IMAGES
from nvcatalog.options import Options, check_flags, check_given, option_meant, parse_max_age, parse_options
from nvcatalog.queries import all_params
from nvcatalog.report import Outcome
from nvcatalog.servers import Servers
from nvcatalog.sync import sync_catalog
from nvcatalog.where import Condition, Selection

if TYPE_CHECKING:
    from sklearn.utils import Bunch


def fetch_where(
    where: str | None = None,
    /,
    params: Mapping[str, Any] | None = None,
    *,
    query: str | None = None,
    tables: Mapping[str, Any] | None = None,
    order_by: str | None = None,
    max_images: float | None = DEFAULT_MAX_IMAGES,
    mode: str = "download_new",
    data_dir: str | os.PathLike[str] | None = None,
    fetch_neurosynth_words: bool = False,
    vectorize_words: bool = True,
    verbose: int = 3,
    timeout: float = 10.0,
    max_workers: int | None = None,
    sparse_words: bool = False,
    resample: bool = False,
    interpolation: str | None = None,
    dry_run: bool = False,
    max_age: timedelta | float | None = None,
    extras: bool = False,
    base: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> Bunch:
    """Fetch the images that a condition in SQL selects among all that the catalog knows.

    The catalog knows what was ever fetched or listed; :meth:`nvcatalog.Catalog.sync` lets it know all of
    NeuroVault. No list is read here.

    Parameters
    ----------
    where : str or None
        One expression of DuckDB's SQL over the columns of ``stat_maps``, such as ``"stat = 't' AND n_subjects >
        20"``. ``collections.name`` and the like reach the collection; a name that both have is the image's.
        At most 2,000 parts joined by AND.
    params : mapping, optional
        Values for each ``$name``.
    query : str or None
        In the place of `where`: a SELECT that gives a column ``image_id``, in the order wanted.
    tables : mapping of str to dataframe, optional
        Tables of your own (pandas, polars, pyarrow) to ask beside the catalog's, by names it does not use.
    order_by : str or None
        What the images are ordered by, as in ``ORDER BY``: ``"n_subjects DESC"``; ties by collection and image.
    max_images : int or None
        How many images at most; None, a negative number and infinity mean all. More that match are warned of.
    mode, data_dir, fetch_neurosynth_words, vectorize_words, verbose
        As in :func:`nvcatalog.fetch_neurovault_ids`.
    timeout, max_workers, sparse_words, resample, dry_run, extras, base
        As there. What the base's catalog knows is selected from too.
    interpolation : {'continuous', 'linear', 'nearest'} or None
        As in :func:`nvcatalog.fetch_neurovault`.
    max_age : timedelta, float or None
        How old, in days where it is a number, what is known of a selected image's collection may be; older ones
        are listed again before the selection is made anew.
    **kwargs
        Values for each ``$name``, by keyword. A name that is an option of this function too goes into `params`.

    Returns
    -------
    sklearn.utils.Bunch
        As :func:`nvcatalog.fetch_neurovault_ids` gives it. ``report.notes`` says, where nothing matched or values
        were NULL, how many rows each part of the condition keeps alone.

    Raises
    ------
    QueryError
        When the condition cannot be asked: bad SQL, an unknown column, a parameter missing or unused (a
        ValueError).
    InvalidOptionError
        For an option that cannot be (a ValueError).
    NVCatalogError
        As :func:`nvcatalog.fetch_neurovault_ids` raises them.

    Warns
    -----
    SelectionWarning
        When nothing matches, or more than `max_images` do.

    Examples
    --------
    >>> from nvcatalog import fetch_neurovault_ids, fetch_where
    >>> maps = fetch_neurovault_ids(collection_ids=[555], verbose=0)
    >>> maps = fetch_where("stat = 'p' AND name ILIKE $name", name="%obesity", max_images=2, verbose=0)
    >>> [meta["id"] for meta in maps.images_meta]
    [9034, 9037]
    """
    check_flags(fetch_neurosynth_words=fetch_neurosynth_words, vectorize_words=vectorize_words, resample=resample)
    store = store_of(storage.data_folder(data_dir), base)
    values = all_params(params, kwargs)
    condition = Condition(where, query, cast("Mapping[str, Any]", values), tables, order_by, max_images)
    _check_names(store, condition, params, kwargs)
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
        extras=extras,
    )
    selection = _select(store, condition, options, parse_max_age(max_age))
    call = Call(
        options.request(image_ids=selection.image_ids),
        options,
        store.folder,
        function="fetch_where",
        parameters={"where": where, "query": query, "order_by": order_by, "params": values},
        reads=store,
    )
    _tell(selection, call, options)
    return call.answer()


def fetch_collection(
    *,
    doi: str,
    mode: str = "download_new",
    data_dir: str | os.PathLike[str] | None = None,
    fetch_neurosynth_words: bool = False,
    vectorize_words: bool = True,
    verbose: int = 3,
    timeout: float = 10.0,
    max_workers: int | None = None,
    sparse_words: bool = False,
    resample: bool = False,
    dry_run: bool = False,
    max_age: timedelta | float | None = None,
    extras: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> Bunch:
    """Fetch the collections of a paper, by its DOI.

    Parameters
    ----------
    doi : str
        The paper's or its preprint's, however it is written: ``10.1234/abc``, ``https://doi.org/10.1234/ABC``.
    mode, data_dir, fetch_neurosynth_words, vectorize_words, verbose
        As in :func:`nvcatalog.fetch_neurovault_ids`.
    timeout, max_workers, sparse_words, resample, dry_run, max_age, extras, base
        As there.

    Returns
    -------
    sklearn.utils.Bunch
        As :func:`nvcatalog.fetch_neurovault_ids` gives it, with all collections of that DOI; ``report.notes``
        names them where they are several.

    Raises
    ------
    InvalidOptionError
        When it is no DOI (a ValueError).
    NVCatalogError
        As :func:`nvcatalog.fetch_neurovault_ids` raises them.

    Examples
    --------
    >>> from nvcatalog import fetch_collection
    >>> plan = fetch_collection(doi="https://doi.org/10.1111/obr.12221", dry_run=True, verbose=0)
    >>> len(plan.images)
    20
    """
    check_flags(fetch_neurosynth_words=fetch_neurosynth_words, vectorize_words=vectorize_words, resample=resample)
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
    wanted = records.normal_doi(doi) if isinstance(doi, str) else None
    if wanted is None or not wanted.startswith("10."):
        raise InvalidOptionError(f"doi is {doi!r}; give a DOI, such as 10.1111/obr.12221")
    store = store_of(storage.data_folder(data_dir), base)
    titles, trouble = lookup.collections_of_doi(store, wanted), None
    asks = not titles or options.mode == "overwrite" or options.max_age is not None
    if asks:
        titles, trouble = _ask_for_collections(wanted, doi, titles, options)
    call = Call(
        options.request(tuple(titles)),
        options,
        store.folder,
        function="fetch_collection",
        parameters={"doi": wanted},
        reads=store,
    )
    call.lost += [trouble] if trouble else []
    if not asks and lookup.fact(store, "synced_at") is None:
        call.notes.append(f"Of {wanted} there may be more on the server: sync, or mode='overwrite', asks for them")
    if len(titles) > 1:
        named = "; ".join(f"{id_} ({title})" for id_, title in titles.items())
        call.notes.append(f"{wanted} is the DOI of {len(titles)} collections: {named}")
    return call.answer()


# By a condition

# What a keyword of fetch_where means, unless a condition has a parameter of that name too.
_OPTIONS = frozenset(name for name in fetch_where.__kwdefaults__ or ())


def _check_names(
    store: Store, condition: Condition, params: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> None:
    """Refuse a keyword that may mean an option: as a ``$name`` of the same name, or misspelt and no ``$name``."""
    names = conditions.parameter_names(store, condition)
    for keyword in keywords:
        if keyword.lower() not in names and (option := option_meant(keyword, {*_OPTIONS, "params"})):
            raise QueryError(
                f"the condition has no parameter ${keyword}, and fetch_where no option {keyword}; "
                f"did you mean {option}?"
            )
    check_given(names & _OPTIONS, params, "fetch_where")


def _select(store: Store, condition: Condition, options: Options, max_age: timedelta | None) -> Selection:
    selection = conditions.select(store, condition)
    if max_age is None or options.mode == "offline" or store.what_cannot_be_written():
        return selection
    if isinstance(store, LayeredStore):
        store.check_server(root())
    before, listed = datetime.now(UTC) - max_age, set[int]()
    while True:  # what is selected anew may be in other collections
        found = lookup.collections_listed_before(store, before, selection.image_ids)
        if not (old := [id_ for id_ in found if id_ not in listed]):
            return selection
        listed.update(old)
        own = Store(store.folder)
        sync_catalog(own, collection_ids=old, verbose=min(options.verbose, 1), timeout_s=options.timeout_s)
        selection = conditions.select(store, condition)


def _tell(selection: Selection, call: Call, options: Options) -> None:
    """Say how many match and of when the metadata is; warn when nothing does, or more than are fetched."""
    date = selection.synced_at[:10] if selection.synced_at else None
    known = f"NeuroVault's metadata of {date}" if date else "what was fetched or listed here (sync never ran)"
    if owners := lookup.excluded_owners(call.reads):
        known += f", without the images of {len(owners)} owners that sync left out ({', '.join(map(str, owners))})"
    summarise(f"nvcatalog: {selection.total:,} images match in {known}", verbose=options.verbose)
    call.notes += conditions.explain(selection)
    for what, ids in (
        ("unknown to the catalog", selection.unknown_ids),
        ("gone from the server", selection.gone_ids),
    ):
        if ids:
            named = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
            call.notes.append(f"{len(ids):,} images of the query are {what} and left out: {named}")
            call.warn(call.notes[-1], SelectionWarning)
    if selection.nulls:
        call.notes.append(f"{selection.nulls:,} rows of the query have no image_id and are left out")
    if not selection.total:
        offer = "" if date else " Catalog().sync() (nvcatalog sync) lets the catalog know all of NeuroVault."
        call.warn("\n".join([f"No image matches in {known}.{offer}", *call.notes]), SelectionWarning)
    elif (more := selection.total - len(selection.image_ids)) > 0:
        unknown = f" and {selection.unknown_sizes:,} of unknown size" if selection.unknown_sizes else ""
        size = f"{selection.bytes / 1e6:,.1f} MB in all{unknown}"
        text = f"{selection.total:,} images match ({size}), and {more:,} of them are left out"
        call.warn(f"{text}; max_images=None (or -1) takes all", SelectionWarning)


# By a DOI


def _ask_for_collections(
    wanted: str, typed: str, known: dict[int, str], options: Options
) -> tuple[dict[int, str], Outcome | None]:
    """Return the collections of a DOI with their titles, the server's beside those known; or why none."""
    if options.mode == "offline":
        trouble = Outcome("collection", None, "missing_offline", f"no collection here has the DOI {wanted}")
        return known, None if known else trouble
    with Servers(timeout_s=options.timeout_s, verbose=options.verbose) as servers:
        try:
            titles = known | _collections_on_server(wanted, typed, servers.neurovault)
        except ServerError as error:
            return known, Outcome("collection", None, "failed", f"the list of collections: {error}")
    trouble = Outcome("collection", None, "not_found", f"no collection has the DOI {wanted}")
    return titles, None if titles else trouble


def _collections_on_server(wanted: str, typed: str, vault: NeuroVault) -> dict[int, str]:
    """Ask for a DOI as people may have typed it, else for all collections: a preprint's cannot be asked for.

    A server that ignores the question gives all there are at once.
    """
    titles: dict[int, str] = {}
    for spelling in dict.fromkeys((typed.strip(), wanted, wanted.upper(), f"https://doi.org/{wanted}")):
        found, others = _of_doi(wanted, vault, {"DOI": spelling})
        titles |= found
        if others:
            return dict(sorted(titles.items()))
    return dict(sorted((titles or _of_doi(wanted, vault, {})[0]).items()))


def _of_doi(wanted: str, vault: NeuroVault, filters: Mapping[str, str]) -> tuple[dict[int, str], int]:
    """Return the titles of a list's collections with a DOI, and how many others it has."""
    titles: dict[int, str] = {}
    others = 0
    for page, _ in vault.collections(filters):
        for record in page:
            named = {records.normal_doi(_text(record.get(name))) for name in ("DOI", "preprint_DOI")}
            others += wanted not in named
            if wanted in named:
                titles[records.record_id(record)] = str(record.get("name"))
    return titles, others


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
