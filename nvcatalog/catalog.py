"""The catalog of a data folder, as people meet it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvcatalog import adopt, lookup, outdated, queries, shelf, snapshot, storage
from nvcatalog._store import Store
from nvcatalog.errors import CatalogWarning, LabelsError, SnapshotWarning
from nvcatalog.ids import parse_ids
from nvcatalog.labels import read_labels
from nvcatalog.queries import Answer, Params
from nvcatalog.words import words_to_matrix

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_matrix

    from nvcatalog.report import Report


class Catalog:
    """Every collection, image and term that was ever fetched into a folder, as a database.

    Opens nothing until it is asked, and holds nothing open afterwards.

    Parameters
    ----------
    data_dir : path-like or None
        As in :func:`nvcatalog.fetch_neurovault_ids`.

    Examples
    --------
    >>> from nvcatalog import Catalog, fetch_neurovault_ids
    >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
    >>> Catalog().sql("SELECT image_id FROM images WHERE image_id = $id", id=10426).fetchall()
    [(10426,)]
    """

    def __init__(self, data_dir: str | os.PathLike[str] | None = None) -> None:
        self._folder = storage.data_folder(data_dir)
        self._store = Store(self._folder)

    def __repr__(self) -> str:
        """Name the folder."""
        return f"Catalog({str(self._folder.parent)!r})"

    @property
    def folder(self) -> Path:
        """The data folder, ``<data_dir>/neurovault``."""
        return self._folder

    def sql(
        self, query: str, /, params: Params = None, *, tables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Answer:
        """Ask in DuckDB's SQL: read-only, without files, network or settings.

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
        """
        self._warn_if_absent()
        return self._ask(query, queries.all_params(params, kwargs), tables)

    def query(self, name: str, /, params: Mapping[str, Any] | None = None, **kwargs: Any) -> Answer:
        """Run a query by its name: one of those that ship with the package, or one of your own.

        Your own are SELECTs in files ``<name>.sql``, in the folder that ``NVCATALOG_QUERIES`` names or, where it is
        not set, in ``<data_dir>/neurovault/queries``. Comments at their head, as in the package's, give parameters
        kinds and defaults: ``-- $limit: how many rows (count, default 100)``. A name that ships cannot be used
        again.

        Parameters
        ----------
        name : str
            One of :meth:`queries`, such as ``images_by_term``.
        params : mapping, optional
            The parameters' values; those not given have the defaults that :meth:`queries` shows. None stands for
            no restriction.
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

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], fetch_neurosynth_words=True, verbose=0)
        >>> Catalog().query("images_by_term", term="motor", min_weight=-1).df()["image_id"].to_list()
        [10426]
        """
        self._warn_if_absent()
        found = shelf.find(name, shelf.own_folder(self._folder))
        return self._ask(found.text, shelf.arguments(found, queries.all_params(params, kwargs)))

    def queries(self) -> Answer:
        """Return the queries that :meth:`query` runs.

        Returns
        -------
        Answer
            A row a query: ``name``, ``summary``, ``parameters`` (what each means, its kind and its default) and
            ``file`` (where it is, for one of your own; NULL for one that ships).

        Examples
        --------
        >>> from nvcatalog import Catalog
        >>> next(row for row in Catalog().queries().fetchall() if row[0] == "images_by_term")[1]
        "The images most similar to a term's map, strongest first; weight is a correlation, not a probability."
        """
        return Answer(shelf.listing(shelf.own_folder(self._folder)))

    def words(self, image_ids: Iterable[int | str] | int | str) -> tuple[csr_matrix, np.ndarray]:
        """Return the terms of images as a matrix.

        Parameters
        ----------
        image_ids : iterable of int or str
            One a row, in this order, as often as it is given; one without terms here gives a row of zeros.

        Returns
        -------
        frequencies : scipy.sparse.csr_matrix of float64, shape (images, terms)
            Pearson correlations of each map with each term's map: signed, a similarity and not a
            probability.
        vocabulary : numpy.ndarray of str, shape (terms,)
            Sorted.
        """
        ids = parse_ids(image_ids, kind="image", distinct=False)
        self._warn_if_absent()
        return words_to_matrix(ids, self._store.long_words(ids))

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
        (id_,) = parse_ids(image_id, kind="image")
        file = lookup.files_of(self._store, [id_]).get((id_, "labels"))
        if file is None:
            raise LabelsError(
                f"image {id_} has no label file in {self._folder}; if it is an atlas, fetch it with extras=True"
            )
        return read_labels(self._folder / file.path)

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
        return Answer(outdated.outdated(self._store))

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

    def snapshot(self) -> Path:
        """Write the catalog as Parquet now, and return the folder of the snapshot.

        Each table is a folder of Parquet files that pandas, polars, pyarrow and DuckDB read. Rows of private
        collections are left out.

        Raises
        ------
        SnapshotError
            When it cannot be written, or there is no catalog yet.
        CatalogLockedError
            When another process keeps the catalog open.
        """
        return snapshot.take(self._store)

    def _ask(self, query: str, params: Params, tables: Mapping[str, Any] | None = None) -> Answer:
        with self._store.reading() as connection:
            return queries.run(connection, query, params, tables)

    def _warn_if_absent(self) -> None:
        if not self._store.exists:
            warnings.warn(
                f"There is no catalog in {self._folder}: fetch something, or adopt() what is there",
                CatalogWarning,
                stacklevel=3,
            )
