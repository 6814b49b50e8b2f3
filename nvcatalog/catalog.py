"""The catalog of a data folder, as people meet it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvcatalog import adopt, comparing, connecting, lookup, matrix, outdated, queries, snapshot, storage
from nvcatalog._store import Store
from nvcatalog.errors import CatalogWarning, LabelsError, SnapshotWarning
from nvcatalog.ids import parse_ids
from nvcatalog.labels import read_labels
from nvcatalog.meant import images_meant
from nvcatalog.options import parse_timeout
from nvcatalog.queries import Answer, Params
from nvcatalog.wish import parse_wish
from nvcatalog.words import WordMatrix

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import DTypeLike
    from sklearn.utils import Bunch

    from nvcatalog.cite import Citations
    from nvcatalog.known import MapKind
    from nvcatalog.report import Report
    from nvcatalog.sync import SyncReport
    from nvcatalog.wish import Missing


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
        """Run one of the queries that ship with the package, such as ``images_by_term``.

        Parameters
        ----------
        name : str
            The name of a file in ``queries/``, without ``.sql``.
        params : mapping, optional
            The parameters' values.
        **kwargs
            Parameters by name.

        Returns
        -------
        Answer
            As :meth:`sql` gives it.

        Raises
        ------
        QueryError
            When there is no such query, or a parameter is missing (a ValueError).
        """
        self._warn_if_absent()
        return self._ask(queries.named_query(name), queries.all_params(params, kwargs))

    def words(
        self,
        image_ids: Iterable[int | str] | int | str | None = None,
        *,
        where: str | None = None,
        params: Mapping[str, Any] | None = None,
        terms: Iterable[str] | str | None = None,
        min_abs_weight: float | None = None,
        missing: Missing = "zero",
        dtype: DTypeLike = float,
        reference: str | None = None,
        private: bool = False,
    ) -> WordMatrix:
        """Return the terms of images as a sparse matrix and its vocabulary, or as a table.

        The matrix is made in memory little larger than its own, of 12 bytes a weight. For more than 2,000 images a
        snapshot is read, after publishing what landed since: nobody waits who wants to write.

        Parameters
        ----------
        image_ids : iterable of int or str, int, str or None
            One a row, in this order, as often as it is given.
        where : str or None
            A condition over ``stat_maps`` chooses the images, as in :func:`nvcatalog.fetch_where`. Where neither
            does, all are meant whose terms are here, but for those that are gone and have no file here.
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
            Whether images of private collections are meant, where ``image_ids`` does not name them.

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
            When no image matches, or private ones are left out.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], fetch_neurosynth_words=True, verbose=0)
        >>> frequencies, vocabulary = Catalog().words([10426])
        >>> Catalog().words([10426], terms=["motor", "reward"]).pivot().round(2).values.tolist()
        [[0.4, 0.07]]
        """
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
        )
        self._warn_if_absent()
        return matrix.chosen_words(self._store, wish)

    def add_words(self, df: Any, *, reference: str, replace: bool = False) -> int:
        """Add terms that a decoder of your own gave for images; they are then served wherever terms are.

        All of the table lands, or nothing. All terms of its images are replaced: an image has those of one set.

        Parameters
        ----------
        df : dataframe of pandas, polars or Arrow
            The long table: ``image_id``, ``term`` and ``weight``, one row an (image, term). A weight is any finite
            number; what the decoder did not compute has no row.
        reference : str
            The name of the set of terms, say of the decoder and what it was trained on. No matrix mixes two.
        replace : bool
            Whether images may lose terms of another reference set, such as Neurosynth's.

        Returns
        -------
        int
            How many images it was.

        Raises
        ------
        WordsError
            When it is no such table, when the catalog knows nothing of an image, and when one has terms of another
            set (a ValueError); the message names them.
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

        count = decoders.add_words(self._store, df, reference=reference, replace=replace)
        trouble = snapshot.publish(self._store) if count else None
        if trouble:
            warnings.warn(trouble, SnapshotWarning, stacklevel=2)
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
        file = lookup.files_of(self._store, [id_]).get((id_, "labels"))
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

    def freeze(
        self,
        path: str | os.PathLike[str],
        *,
        where: str | None = None,
        bunch: Bunch | None = None,
        image_ids: Iterable[int | str] | int | str | None = None,
        params: Mapping[str, Any] | None = None,
        resample: bool = False,
        private: bool = False,
        verbose: int = 2,
    ) -> Path:
        """Write a lock file from which :func:`nvcatalog.fetch_frozen` brings back exactly these maps.

        It is JSON, with each image on a line of its own: its id, the sha256 and size of its file, and when its
        record had last changed. Every file is read for it. Terms are not frozen.

        Parameters
        ----------
        path : path-like
            Where it is to be, such as ``maps.lock.json``; it appears whole or not at all.
        where : str or None
            A condition over ``stat_maps`` chooses the images, as in :func:`nvcatalog.fetch_where`.
        bunch : Bunch or None
            What a fetcher returned chooses them.
        image_ids : iterable of int or str, int, str or None
            Their ids do. Where nothing chooses, all that are here are meant.
        params : mapping, optional
            Values for each ``$name`` of the condition.
        resample : bool
            Whether their maps on the 3 mm grid are meant; those of an answer are told by their paths.
        private : bool
            Whether images of private collections are frozen too; their tokens never are.
        verbose : int
            0 says nothing, 1 gives a summary, 2 shows a progress bar too.

        Returns
        -------
        Path
            Where it is.

        Raises
        ------
        FreezeError
            When there is no image, and when the file of one is not here, not proven, or no longer what was
            proven; the message names them all.
        InvalidOptionError, QueryError
            For options that cannot be, and a condition that cannot be asked (ValueErrors).

        Warns
        -----
        SelectionWarning
            When images of private collections are left out.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> path = Catalog().freeze(Catalog().folder / "maps.lock.json", where="image_id = 10426", verbose=0)
        >>> path.name
        'maps.lock.json'
        """
        from nvcatalog import freeze

        self._warn_if_absent()
        kind: MapKind = "resampled" if resample else "original"
        meant = images_meant(self._store, where=where, bunch=bunch, image_ids=image_ids, params=params, kind=kind)
        return freeze.freeze(self._store, path, meant, resampled=resample, private=private, verbose=verbose)

    def cite(
        self,
        *,
        where: str | None = None,
        bunch: Bunch | None = None,
        image_ids: Iterable[int | str] | int | str | None = None,
        params: Mapping[str, Any] | None = None,
        private: bool = False,
    ) -> Citations:
        """Return how to cite the collections behind images, NeuroVault, and Neurosynth where terms were used.

        Parameters
        ----------
        where : str or None
            A condition over ``stat_maps`` chooses the images, as in :func:`nvcatalog.fetch_where`.
        bunch : Bunch or None
            What a fetcher returned chooses them, and says whether terms were used. Without it, Neurosynth is cited
            where terms of any of the images are here.
        image_ids : iterable of int or str, int, str or None
            Their ids do. Where nothing chooses, all that are here are meant.
        params : mapping, optional
            Values for each ``$name`` of the condition.
        private : bool
            Whether private collections are cited too.

        Returns
        -------
        Citations
            With ``.bibtex()`` and ``.text()``.

        Raises
        ------
        InvalidOptionError, QueryError
            For options that cannot be, and a condition that cannot be asked (ValueErrors).

        Warns
        -----
        SelectionWarning
            When there is nothing to cite, and when something is left out: private collections, and images that
            the catalog does not know.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[9034, 9035], verbose=0)
        >>> Catalog().cite(bunch=maps)
        <Citations: 1 collection; .bibtex() and .text() write them>
        """
        from nvcatalog.cite import cite

        self._warn_if_absent()
        meant = images_meant(self._store, where=where, bunch=bunch, image_ids=image_ids, params=params)
        return cite(self._store, meant, private=private)

    def snapshot(self, name: str | None = None, *, whole: bool = False) -> Path:
        """Write the catalog as Parquet now, and return the folder of the snapshot.

        Each table is a folder of Parquet files that pandas, polars, pyarrow and DuckDB read. Rows of private
        collections are left out. Files in which nothing changed are the former snapshot's (hard links), so that
        little is written where little has changed.

        Parameters
        ----------
        name : str or None
            A name to keep it by for good, such as ``paper-v1``; others go when three newer ones are there.
        whole : bool
            Whether files in which nothing changed are written anew too.

        Returns
        -------
        Path
            The folder of the snapshot; in its ``manifest.json`` is what it holds.

        Raises
        ------
        InvalidOptionError
            When it cannot have this name (a ValueError).
        SnapshotError
            When it cannot be written, or there is no catalog yet.
        CatalogLockedError
            When another process keeps the catalog open.
        """
        return snapshot.take(self._store, name, whole=whole)

    def connect(self, snapshot: str | os.PathLike[str] | None = None) -> duckdb.DuckDBPyConnection:
        """Open a snapshot as a DuckDB database of your own, for as long as you like: it is in nobody's way.

        It has the catalog's tables and views, such as ``stat_maps``, without rows of private collections, and you
        may do with it as you like: read and write files, make tables, load extensions.

        Parameters
        ----------
        snapshot : str, path-like or None
            The name of a folder in ``snapshots/``, or that folder. None means the newest, after publishing what
            landed since.

        Returns
        -------
        duckdb.DuckDBPyConnection
            To a database in memory. The snapshot stays on disk until the connection is closed or forgotten.

        Raises
        ------
        InvalidOptionError
            When there is no snapshot of that name (a ValueError).
        SnapshotError
            When there is none at all and none can be published, or it cannot be read.

        Warns
        -----
        SnapshotWarning
            When what landed since cannot be published; it says how old the snapshot is.
        CatalogWarning
            When there is no catalog: all tables are empty then.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> with Catalog().connect() as connection:
        ...     connection.execute("SELECT image_id FROM stat_maps WHERE image_id = 10426").fetchall()
        [(10426,)]
        """
        return connecting.connect(self._store, snapshot)

    def diff(self, a: str | os.PathLike[str], b: str | os.PathLike[str] | None = None) -> Answer:
        """Return what came, went and changed from one snapshot to another.

        Files that both have are not read, so that this is quick where little has changed. A row that is the same
        but for when it was asked for has not changed.

        Parameters
        ----------
        a : str or path-like
            The former snapshot: its name, such as ``paper-v1``, or its folder, which may be another catalog's.
        b : str, path-like or None
            The later one. None means the newest, after publishing what landed since.

        Returns
        -------
        Answer
            A row for each id: ``table_name`` (collections, images, files, words, nidm_packs or refusals),
            ``change`` (came, went or changed), ``kind`` and ``id``.

        Raises
        ------
        InvalidOptionError
            When there is no such snapshot (a ValueError).
        SnapshotError
            When one cannot be read.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> before = Catalog().snapshot()
        >>> maps = fetch_neurovault_ids(image_ids=[32980], verbose=0)
        >>> Catalog().diff(before).df().query("table_name == 'files'")[["change", "id"]].values.tolist()
        [['came', 32980]]
        """
        return Answer(comparing.compare(self._store, a, b))

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
