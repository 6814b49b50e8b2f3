"""The catalog of a data folder, as people meet it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvcatalog import adopt, connecting, lookup, matrix, outdated, queries, shelf, snapshot, storage
from nvcatalog._store import Store
from nvcatalog.base import LayeredStore, store_of
from nvcatalog.errors import (
    DataDirError,
    InvalidOptionError,
    LabelsError,
    NVCatalogError,
    SelectionWarning,
    SnapshotWarning,
)
from nvcatalog.ids import parse_ids
from nvcatalog.labels import read_labels
from nvcatalog.meant import images_meant
from nvcatalog.options import check_flags, check_given, named_values, parse_timeout
from nvcatalog.outward import Outward
from nvcatalog.queries import Answer, Params
from nvcatalog.upkeep import Upkeep
from nvcatalog.wish import parse_wish
from nvcatalog.words import WordMatrix

if TYPE_CHECKING:
    from numpy.typing import DTypeLike
    from sklearn.utils import Bunch

    from nvcatalog.report import Report
    from nvcatalog.sync import SyncReport
    from nvcatalog.wish import Missing


class Catalog(Outward, Upkeep):
    """Every collection, image and term that was ever fetched into a folder, as a database.

    Opens nothing until it is asked, and holds nothing open afterwards.

    Parameters
    ----------
    data_dir : path-like or None
        As in :func:`nvcatalog.fetch_neurovault_ids`.
    base : path-like or None
        The `data_dir` of a shared folder, as there. :meth:`sql`, :meth:`query`, :meth:`words`, :meth:`labels`,
        :meth:`cite`, :meth:`export`, :meth:`freeze`, :meth:`to_nimads`, :meth:`to_nimare` and :meth:`outdated`
        then read both catalogs as one, in which the rows of `data_dir` go before those of the base; the ``path``
        of a file in the base is absolute. All else is about `data_dir` alone.

    Notes
    -----
    Where somebody keeps the catalog for more than 2 s, or files cannot be locked, all of these are answered by the
    newest snapshot, with a :class:`~nvcatalog.errors.CatalogWarning` that says how old it is. Private rows are in
    no snapshot: ``private=True`` waits for the catalog.

    Examples
    --------
    >>> from nvcatalog import Catalog, fetch_neurovault_ids
    >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
    >>> Catalog().sql("SELECT image_id FROM images WHERE image_id = $id", id=10426).fetchall()
    [(10426,)]
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        base: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(Store(storage.data_folder(data_dir)))
        self._base: Path | None = None
        self._no_base: NVCatalogError | None = None
        try:
            self._base = store_of(self._folder, base).base
        except (DataDirError, InvalidOptionError) as error:
            if base is not None:
                raise
            self._no_base = error  # the environment names it, for much that needs none

    def _asked(self, *, private: bool = False) -> Store:
        if self.base is not None:
            return LayeredStore(self._folder, self.base, asks=True, whole=private)
        return self._store if private else connecting.AskedStore(self._store)

    def __repr__(self) -> str:
        """Name the folder, and the base behind it."""
        base = f", base={str(self._base.parent)!r}" if self._base else ""
        return f"Catalog({str(self._folder.parent)!r}{base})"

    @property
    def folder(self) -> Path:
        """The data folder, ``<data_dir>/neurovault``."""
        return self._folder

    @property
    def base(self) -> Path | None:
        """The base's ``neurovault`` folder, by its real path; None where there is no base.

        Raises
        ------
        DataDirError, InvalidOptionError
            When ``NVCATALOG_BASE`` names what cannot be one; what is about `data_dir` alone does without.
        """
        if self._no_base is not None:
            raise self._no_base
        return self._base

    def sql(
        self, query: str, /, params: Params = None, *, tables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Answer:
        """Ask in DuckDB's SQL: read-only, without files, network or settings.

        What columns mean, ``SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'images'`` tells;
        DuckDB's own ``DESCRIBE images`` knows names and types only.

        Parameters
        ----------
        query : str
            A SELECT; ``$name`` or ``?`` stand for parameters.
        params : mapping or sequence, optional
            The parameters' values; a list may be any container, such as a set or a column of a dataframe.
        tables : mapping of str to dataframe, optional
            Tables of your own (pandas, polars, pyarrow) to ask beside the catalog's, by names it does not use.
        **kwargs
            Parameters by name.

        Returns
        -------
        Answer
            With ``.df()``, ``.arrow()``, ``.pl()`` and ``.fetchall()``.

        Raises
        ------
        QueryError
            When DuckDB refuses the query (a ValueError).
        CatalogLockedError, CatalogCorruptError, CatalogTooNewError
            When the catalog cannot be read.

        Warns
        -----
        CatalogWarning
            When somebody keeps the catalog for more than 2 s and the newest snapshot answers in its place.
        """
        if isinstance(query, str) and (both := {"params", "tables"}.intersection(queries.parameter_names(query))):
            check_given(both, params, "sql")
        self._warn_if_absent()
        return _ask(self._asked(), query, queries.all_params(params, kwargs), tables)

    def query(self, name: str, /, params: Mapping[str, Any] | None = None, **kwargs: Any) -> Answer:
        """Run a query by its name: one of those that ship with the package, or one of your own.

        Your own are SELECTs in files ``<name>.sql``, in the folder that ``NVCATALOG_QUERIES`` names or, where it
        is not set, in ``<data_dir>/neurovault/queries``. Comments at their head, as in the package's, give
        parameters kinds and defaults: ``-- $limit: how many rows (count, default 100)``. A name that ships cannot
        be used again.

        What is gone from the server and what is private is left out, unless ``gone=True`` or ``private=True`` asks
        for it, or a parameter names the collection or the image.

        Parameters
        ----------
        name : str
            One of :meth:`queries`, such as ``images_by_term``.
        params : mapping, optional
            The parameters' values; those not given have the defaults that :meth:`queries` shows. None, the default
            of most, restricts nothing.
        **kwargs
            Parameters by name.

        Returns
        -------
        Answer
            As :meth:`sql` gives it.

        Raises
        ------
        QueryError
            When there is no such query or parameter, or a value is missing or of a wrong type (a ValueError).

        Warns
        -----
        SelectionWarning
            When there is no row, and it is known why: a value that no record has, and what there is like it.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], fetch_neurosynth_words=True, verbose=0)
        >>> Catalog().query("images_by_term", term="motor", min_weight=-1).df()["image_id"].to_list()
        [10426]
        """
        found = shelf.find(name, shelf.own_folder(self._folder))
        given = shelf.arguments(found, queries.all_params(params, kwargs))
        self._warn_if_absent()
        reads = self._asked(private=bool(given.get("private")))
        answer = _ask(reads, found.text, given, fenced=found.file is not None)
        if not answer and reads.exists:
            why = shelf.why_nothing(found, given, lambda text, values: _ask(reads, text, values).fetchall())
            if why:
                text = ". ".join([shelf.found_nothing(found, given), *why])
                warnings.warn(text, SelectionWarning, stacklevel=2)
        return answer

    def queries(self) -> Answer:
        """Return the queries that :meth:`query` runs.

        Returns
        -------
        Answer
            A row a query: ``name``, ``summary``, ``parameters`` (a line each: what it means, its kind and its
            default) and ``file`` (where it is, for one of your own; NULL for one that ships).

        Examples
        --------
        >>> from nvcatalog import Catalog
        >>> next(row for row in Catalog().queries().fetchall() if row[0] == "images_by_term")[1]
        "The images most similar to a term's map, strongest first; weight is a correlation, not a probability."
        """
        return Answer(shelf.listing(shelf.own_folder(self._folder)))

    def words(
        self,
        image_ids: Iterable[int | str] | int | str | None = None,
        *,
        where: str | None = None,
        bunch: Bunch | None = None,
        params: Mapping[str, Any] | None = None,
        terms: Iterable[str] | str | None = None,
        min_abs_weight: float | None = None,
        missing: Missing = "zero",
        dtype: DTypeLike = float,
        reference: str | None = None,
        private: bool = False,
        gone: bool = False,
        **kwargs: Any,
    ) -> WordMatrix:
        """Return the terms of images as a sparse matrix and its vocabulary, or as a table.

        The matrix is made in memory little larger than its own, of 12 bytes a weight. For more than 2,000 images a
        snapshot is read, after publishing what landed since: nobody waits who wants to write.

        Parameters
        ----------
        image_ids : iterable of int or str, int, str or None
            One a row, in this order, as often as it is given.
        where : str or None
            A condition over ``stat_maps`` chooses the images, as in :func:`nvcatalog.fetch_where`. Where nothing
            does, all are meant whose terms are here.
        bunch : Bunch or None
            What a fetcher returned chooses them: one a row, in its order.
        params : mapping, optional
            Values for each ``$name`` of the condition.
        terms : iterable of str, str or None
            The columns, in this order; None means all terms that any of the images has, sorted.
        min_abs_weight : float or None
            Leave out weights nearer to zero than this; no column is left out for it.
        missing : {'zero', 'nan', 'drop'}
            What becomes of images whose terms are not here, as Neurosynth was never asked or has none: rows of
            zeros, of which nothing is stored; of not-a-number, all stored like weights; or none.
        dtype : numpy.dtype
            Of the weights: ``float64`` or ``float32``.
        reference : str or None
            The reference set: terms of others count as not here. The empty text stands for older answers of
            Neurosynth, which name none; None takes the one there is.
        private : bool
            Whether images of private collections are meant, where no id and no answer names them.
        gone : bool
            Whether those are that the server no longer has, where no id and no answer names them; named ones are
            taken with a warning. Of a condition, where their files are here.
        **kwargs
            Values for each ``$name``, by keyword; one that is an option's name too goes into `params`.

        Returns
        -------
        WordMatrix
            Two values, ``frequencies`` (a ``scipy.sparse.csr_matrix``) and ``vocabulary`` (an array of str); with
            ``.df()``, ``.arrow()``, ``.pl()``, ``.pivot()``, ``.image_ids`` and ``.missing``. A weight is
            Neurosynth's Pearson correlation of the map with the term's meta-analytic map, signed: a similarity, no
            probability, no reverse inference.

        Raises
        ------
        MixedSetsError
            When the images were compared with several reference sets; it names them (a ValueError). Answers that
            name none go with a set of the same terms.
        InvalidOptionError, QueryError, InvalidIdError, InvalidIdTypeError
            For options, a condition and ids that cannot be, and for terms and reference sets that are not here.

        Warns
        -----
        WordsWarning
            When rows or columns are zeros because nothing is here, and when images are unknown to the catalog.
        SelectionWarning
            When no image matches, or private ones are left out; and of what the server no longer has.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], fetch_neurosynth_words=True, verbose=0)
        >>> frequencies, vocabulary = Catalog().words([10426])
        >>> Catalog().words([10426], terms=["motor", "reward"]).pivot().round(2).values.tolist()
        [[0.4, 0.07]]
        """
        check_flags(private=private, gone=gone)
        params = named_values(self.words, where, params, kwargs)
        reads = self._asked(private=bool(private))
        if bunch is not None:
            image_ids = images_meant(reads, where=where, bunch=bunch, image_ids=image_ids).image_ids
        wish = parse_wish(
            image_ids,
            where=where,
            params=params,
            terms=terms,
            min_abs_weight=min_abs_weight,
            missing=missing,
            dtype=dtype,
            reference=reference,
            private=private,
            gone=gone,
        )
        self._warn_if_absent()
        return matrix.chosen_words(reads, wish)

    def add_words(self, df: Any, *, reference: str, replace: bool = False) -> int:
        """Add terms that a decoder of your own gave for images; they are then served wherever terms are.

        All of the table lands, or nothing. All terms of its images are replaced: an image has those of one set.

        Parameters
        ----------
        df : dataframe of pandas, polars or Arrow
            The long table: ``image_id``, ``term`` and ``weight``, one row an (image, term). A weight is any finite
            number; what the decoder did not compute has no row.
        reference : str
            The name of the set of terms, say of the decoder and what it was trained on. No matrix mixes two. A
            name of Neurosynth's, such as ``terms_20k``, says that these are its own answers: a fetch may replace
            them.
        replace : bool
            Whether images may lose terms of another reference set, and of Neurosynth's. Those added here no fetch
            replaces: with ``mode='overwrite'`` they are ``kept_old``, and Neurosynth's answer is beside the map.
            The way back is :meth:`forget_words`.

        Returns
        -------
        int
            How many images it was.

        Raises
        ------
        WordsError
            When it is no such table, when the catalog knows nothing of an image, and when one has Neurosynth's
            terms or another set's (a ValueError); the message names them.
        InvalidOptionError
            When `reference` is no name.

        Examples
        --------
        >>> import pandas as pd
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[9034], verbose=0)
        >>> df = pd.DataFrame({"image_id": [9034, 9034], "term": ["pain", "reward"], "weight": [0.1, -0.2]})
        >>> Catalog().add_words(df, reference="mine")
        1
        """
        from nvcatalog import decoders

        check_flags(replace=replace)
        return self._published(decoders.add_words(self._store, df, reference=reference, replace=replace))

    def forget_words(
        self, image_ids: Iterable[int | str] | int | str | None = None, *, reference: str | None = None
    ) -> int:
        """Forget terms that :meth:`add_words` landed: the way back to Neurosynth's.

        The images have no terms then, and the next fetch of them with ``fetch_neurosynth_words=True`` takes
        Neurosynth's answer that is beside the map, or asks for one. All other sets stay as they are.

        Parameters
        ----------
        image_ids : iterable of int or str, int, str or None
            Of which images; None means all that have terms of the set.
        reference : str
            The name of the set, as given to :meth:`add_words`; it must be given. A set of Neurosynth's can be
            named too, together with images, whose terms the next fetch brings anew.

        Returns
        -------
        int
            How many images it was.

        Raises
        ------
        WordsError
            When there is no such set of somebody's own; the message names those there are (a ValueError).
        InvalidOptionTypeError, InvalidIdError, InvalidIdTypeError
            When no set is named; when an id is none.

        Examples
        --------
        >>> import pandas as pd
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[9034], verbose=0)
        >>> df = pd.DataFrame({"image_id": [9034], "term": ["pain"], "weight": [0.1]})
        >>> Catalog().add_words(df, reference="theirs", replace=True)
        1
        >>> Catalog().forget_words(reference="theirs")
        1
        """
        from nvcatalog import decoders

        return self._published(decoders.forget_words(self._store, image_ids, reference=reference))

    def _published(self, count: int) -> int:
        trouble = snapshot.publish(self._store) if count else None
        if trouble:
            warnings.warn(trouble, SnapshotWarning, stacklevel=3)
        return count

    def labels(self, image_id: int | str) -> list[tuple[int, str]]:
        """Return index and name of each region of an atlas, from the label file that came with it.

        Fetch the atlas with ``extras=True`` first. In FSL's own atlases the voxels of a region hold its index + 1,
        in most others its index: what an uploader meant only the atlas itself can tell.

        Parameters
        ----------
        image_id : int or str
            The atlas.

        Returns
        -------
        list of (int, str)
            In the order and the words of the file.

        Raises
        ------
        LabelsError
            When the atlas's label file is not here, or is none.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[14227], extras=True, verbose=0)
        >>> Catalog().labels(14227)[:2]
        [(0, 'Primary motor cortex'), (1, 'Sensory cortex')]
        """
        id_ = parse_ids([image_id], kind="image")[0]
        file = lookup.files_of(self._asked(), [id_]).get((id_, "labels"))
        if file is None:
            raise LabelsError(
                f"image {id_} has no label file in {self._folder}; if it is an atlas, fetch it with extras=True"
            )
        try:
            return read_labels(self._folder / file.path)
        except OSError as error:
            raise LabelsError(
                f"{self._folder / file.path} cannot be read ({error.strerror}); fetch image {id_} with extras=True"
            ) from error

    def outdated(self) -> Answer:
        """Return the local files whose record changed on the server since they came, and what changed.

        The catalog is compared with itself: :meth:`sync` first to hear what is new. To renew a file, fetch it with
        ``mode='overwrite'``.

        Returns
        -------
        Answer
            A row a file: ``image_id``, ``collection_id``, ``path``, ``downloaded_at``, ``modify_date``, ``gone``
            (the server has it no more), ``file_changed`` (the record names another file), ``changed`` (the fields
            that differ).

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> len(Catalog().outdated())
        0
        """
        self._warn_if_absent()
        return Answer(outdated.outdated(self._asked()))

    def adopt(self, *, verbose: int = 2) -> Report:
        """Register everything in the folder that the catalog does not know yet, such as what nilearn left.

        Nothing is downloaded. Files are registered by their size, and proven when first part of an answer.

        Parameters
        ----------
        verbose : int
            0 says nothing, 1 gives a summary, 2 shows a progress bar too.

        Returns
        -------
        Report
            An outcome for each image taken over, and each file that could not be.

        Raises
        ------
        DataDirError
            When there is no such folder (an OSError).
        """
        report = adopt.adopt_folder(self._store, verbose=verbose)
        trouble = snapshot.publish(self._store) if self._store.exists else None
        if trouble:
            warnings.warn(trouble, SnapshotWarning, stacklevel=2)
        return report

    def sync(
        self,
        *,
        collection_ids: Iterable[int | str] | int | str | None = None,
        exclude_owners: Iterable[int] | int = (),
        seed: str | os.PathLike[str] | None = None,
        verbose: int = 2,
        timeout: float = 10.0,
    ) -> SyncReport:
        """Bring in the metadata of all public collections and images of NeuroVault; no files.

        What is here is not read again: a sync that was interrupted goes on where it was, and a later one asks for
        what has changed since. Says first how many requests it will be and about how long they will take.

        Parameters
        ----------
        collection_ids : iterable of int or str, int, str or None
            Read just these anew, whatever the catalog knows of them; None means all.
        exclude_owners : iterable of int
            User ids whose collections' images are left out, such as 5761: Neuroscout's robot has half of all.
            The catalog remembers that it is partial, until a sync without this.
        seed : path-like or None
            Start from a snapshot of another catalog: its folder, or a data folder that holds one.
        verbose : int
            0 is quiet, 1 gives a one-line summary, 2 progress bars too, 3 also logs every request.
        timeout : float
            Seconds to wait for a connection, and for the next byte of an answer.

        Returns
        -------
        SyncReport
            How many collections and images are new, changed and gone; ``report`` has what could not be had.

        Raises
        ------
        InvalidOptionError, InvalidIdError, InvalidIdTypeError
            For options that cannot be, and where ``NVCATALOG_OFFLINE`` is set.
        DataDirError
            When the folder cannot be written (an OSError).
        WrongServerError
            When the folder, or the seed, was filled from another server.
        CatalogLockedError, CatalogCorruptError, CatalogTooNewError
            When the catalog cannot be used; each says what to do.

        Warns
        -----
        IncompleteWarning
            When anything could not be had.

        Examples
        --------
        >>> from nvcatalog import Catalog
        >>> found = Catalog().sync(collection_ids=[555], verbose=0)
        >>> found.complete, Catalog().sql("SELECT count(*) FROM images WHERE collection_id = 555").fetchall()
        (True, [(20,)])
        """
        from nvcatalog.sync import sync_catalog

        return sync_catalog(
            self._store,
            collection_ids=collection_ids,
            exclude_owners=exclude_owners,
            seed=seed,
            verbose=verbose,
            timeout_s=parse_timeout(timeout),
        )


def _ask(
    reads: Store, query: str, params: Params, tables: Mapping[str, Any] | None = None, *, fenced: bool = True
) -> Answer:
    with reads.reading(fenced=fenced) as connection:
        return queries.run(connection, query, params, tables)
