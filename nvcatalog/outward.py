"""The part of a catalog's face by which it goes to others: snapshots, exports, lock files, citations."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvcatalog import comparing, connecting, snapshot
from nvcatalog._store import Store
from nvcatalog.connecting import one_state
from nvcatalog.errors import CatalogWarning
from nvcatalog.meant import ids_given, images_meant
from nvcatalog.options import check_flags, named_values, parse_verbosity
from nvcatalog.queries import Answer

if TYPE_CHECKING:
    import duckdb
    from sklearn.utils import Bunch

    from nvcatalog.cite import Citations
    from nvcatalog.known import MapKind
    from nvcatalog.nimads import Nimads, SampleSizes


class Outward:
    """What :class:`nvcatalog.Catalog` can do for other tools, other people, and papers."""

    _folder: Path
    _store: Store

    def _asked(self, *, private: bool = False) -> Store:
        """Return what one call reads: a base too, and a snapshot where somebody keeps the catalog.

        What is private is in no snapshot.
        """
        return self._store

    def export(
        self,
        target: str | os.PathLike[str],
        what: Iterable[str] | str | None = None,
        *,
        where: str | None = None,
        bunch: Bunch | None = None,
        image_ids: Iterable[int | str] | int | str | None = None,
        params: Mapping[str, Any] | None = None,
        format: str | None = None,  # noqa: A002 - what every exporter calls it
        overwrite: bool = False,
        private: bool = False,
        gone: bool = False,
        verbose: int = 2,
        **kwargs: Any,
    ) -> Path:
        """Write tables as files that other tools read: Parquet, CSV, Arrow, JSON lines, or one DuckDB file.

        The newest snapshot is read, so that nobody is held up. JSON comes as text, in every format. In CSV and
        JSON lines, times are text in ISO 8601, in UTC. In CSV, lists are JSON, an empty text is ``""`` and NULL is
        nothing at all. JSON has no NaN and no infinity: in JSON lines they are null. JSON lines of no rows are an
        empty file, which pandas and DuckDB read as such, polars given a schema, and pyarrow not at all.

        Parameters
        ----------
        target : path-like
            A folder. For one table it may be a file, such as ``images.csv``; for 'duckdb' it is one. It appears
            whole or not at all.
        what : iterable of str, str or None
            Tables and views, such as ``images`` or ``image_words``. None means the metadata: ``collections``,
            ``images``, ``stat_maps``, ``files`` and ``nidm_packs``.
        where : str or None
            A condition over ``stat_maps`` chooses images, as in :func:`nvcatalog.fetch_where`: of each table come
            the rows that belong to them, and to their collections.
        bunch : Bunch or None
            What a fetcher returned chooses them.
        image_ids : iterable of int or str, int, str or None
            Their ids do. Where nothing chooses, all rows are meant.
        params : mapping, optional
            Values for each ``$name`` of the condition.
        format : {'parquet', 'csv', 'arrow', 'ndjson', 'duckdb'} or None
            None means what a file's name ends in, and 'parquet' for a folder.
        overwrite : bool
            Whether an earlier export is replaced, once the new one is whole. Nothing but an export ever is, where
            the target is no file of one table.
        private : bool
            Whether rows of private collections are part of it; tokens never are. The catalog itself is read then,
            and whoever writes to it waits; so it is with a base.
        gone : bool
            Whether what the server no longer has is part of it, where no id and no answer names it; named ones
            are taken with a warning. Of a condition, where its file is here.
        verbose : int
            0 says nothing, 1 gives a summary, 2 shows a progress bar too.
        **kwargs
            Values for each ``$name``, by keyword; one that is an option's name too goes into `params`.

        Returns
        -------
        Path
            Where it is. In a folder, ``nvcatalog-export.json`` says what its files hold and what their columns
            mean; in a DuckDB file, comments and the table ``nvcatalog_export`` do.

        Raises
        ------
        ExportError
            When it cannot be written, or there is no catalog yet.
        InvalidOptionError, QueryError
            For a folder that is not empty, a table that does not exist, and the like (ValueErrors).
        SnapshotError, CatalogLockedError
            When there is no snapshot and none can be published; when another process keeps the catalog open.

        Warns
        -----
        SelectionWarning
            When images that were chosen are not part of it.
        SnapshotWarning
            When what landed since the last snapshot cannot be published; it says how old that is.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> place = Catalog().export(Catalog().folder / "out", "images", where="stat = 'z'", verbose=0)
        >>> sorted(file.name for file in place.iterdir())
        ['images.parquet', 'nvcatalog-export.json']
        >>> Catalog().export(place.parent / "maps.csv", "images", verbose=0).read_text().split(",")[0]
        'image_id'
        """
        from nvcatalog.export import export, parse_order, parse_target

        check_flags(overwrite=overwrite, private=private, gone=gone)
        params = named_values(self.export, where, params, kwargs)
        image_ids = ids_given(image_ids)
        place = parse_target(target)
        order = parse_order(place, what, format, private=private, gone=gone)
        chooses = any(each is not None for each in (where, bunch, image_ids, params))
        choose = partial(images_meant, where=where, bunch=bunch, image_ids=image_ids, params=params)
        reads = self._asked(private=private)
        return export(
            reads, place, order, choose if chooses else None, overwrite=overwrite, verbose=parse_verbosity(verbose)
        )

    def to_nimads(
        self,
        *,
        where: str | None = None,
        bunch: Bunch | None = None,
        image_ids: Iterable[int | str] | int | str | None = None,
        params: Mapping[str, Any] | None = None,
        study: str = "collection_id",
        analysis: str = "image_id",
        sample_sizes: SampleSizes = None,
        resample: bool = False,
        without_files: bool = False,
        private: bool = False,
        gone: bool = False,
        **kwargs: Any,
    ) -> Nimads:
        """Describe maps as a NIMADS studyset, the dictionary that meta-analysis tools such as NiMARE read.

        T maps become ``t``, Z maps ``z``, univariate-beta maps ``beta``, P maps given the null hypothesis ``p``.
        Variance maps become ``varcope``: that they hold squared standard errors is assumed, the records do not
        say. All others are left out.

        Parameters
        ----------
        where : str or None
            A condition over ``stat_maps`` chooses the images, as in :func:`nvcatalog.fetch_where`.
        bunch : Bunch or None
            What a fetcher returned chooses them.
        image_ids : iterable of int or str, int, str or None
            Their ids do. Where nothing chooses, all that are here are meant.
        params : mapping, optional
            Values for each ``$name`` of the condition.
        study : str
            What makes a study: ``collection_id``, ``doi`` (of the paper, else the preprint, else the collection),
            or any other column of ``stat_maps``.
        analysis : str
            What makes an analysis in a study: ``image_id``, or ``pack_id`` or a column of ``stat_maps`` such as
            ``contrast_definition``, to have a beta and its varcope in one. Maps of one kind are never in one,
            nor are maps of several levels of analysis or subjects.
        sample_sizes : int, mapping or None
            How many subjects are behind each map: a number for all, or one by image or study. Else
            ``number_of_subjects`` says it where it is above 0. Otherwise there is none: none is guessed.
        resample : bool
            Whether their maps on the 3 mm grid are meant.
        without_files : bool
            Whether maps that are not here are part of it too, by their links.
        private : bool
            Whether images of private collections are part of it.
        gone : bool
            Whether those are that the server no longer has, where no id and no answer names them; named ones are
            taken with a warning. Of a condition, where their files are here.
        **kwargs
            Values for each ``$name``, by keyword; one that is an option's name too goes into `params`.

        Returns
        -------
        Nimads
            A dictionary, which JSON can hold. Its ``report`` says what is left out and why, which maps are not
            here, which studies contribute several analyses (those are not independent), which maps have no
            sample size, are thresholded, or not in MNI space, and which of `sample_sizes` are of none of them.
            ``report.df()`` is a dataframe of it.

        Raises
        ------
        InvalidOptionError, QueryError
            For options that cannot be, and a condition that cannot be asked (ValueErrors).

        Warns
        -----
        SelectionWarning
            When there is anything in the report.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> studyset = Catalog().to_nimads(bunch=maps)
        >>> [(study["id"], len(study["analyses"])) for study in studyset["studies"]]
        [('658', 1)]
        """
        from nvcatalog import nimads

        check_flags(resample=resample, without_files=without_files, private=private, gone=gone)
        params = named_values(self.to_nimads, where, params, kwargs)
        image_ids = ids_given(image_ids)
        self._warn_if_absent()
        kind: MapKind = "resampled" if resample else "original"
        with one_state(self._asked(private=private)) as reads:
            meant = images_meant(reads, where=where, bunch=bunch, image_ids=image_ids, params=params, kind=kind)
            found = nimads.look_up(reads, meant, study=study, analysis=analysis, resampled=resample)
        return nimads.to_nimads(
            found, sample_sizes=sample_sizes, without_files=without_files, private=private, gone=gone
        )

    def to_nimare(
        self,
        *,
        where: str | None = None,
        bunch: Bunch | None = None,
        image_ids: Iterable[int | str] | int | str | None = None,
        params: Mapping[str, Any] | None = None,
        study: str = "collection_id",
        analysis: str = "image_id",
        sample_sizes: SampleSizes = None,
        resample: bool = False,
        private: bool = False,
        gone: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return maps that are here as a NiMARE ``Studyset``, ready for an image-based meta-analysis.

        Needs ``pip install 'nvcatalog[nimare]'``. What is to be known of it, the warning says and the ``report``
        of :meth:`to_nimads` with the same arguments. NiMARE's transformers write what they make beside the maps
        they read.

        Parameters
        ----------
        where : str or None
            As in :meth:`to_nimads`, as are all others.
        bunch : Bunch or None
            What a fetcher returned.
        image_ids : iterable of int or str, int, str or None
            Their ids.
        params : mapping, optional
            Values for each ``$name`` of the condition.
        study : str
            What makes a study.
        analysis : str
            What makes an analysis in a study.
        sample_sizes : int, mapping or None
            How many subjects are behind each map.
        resample : bool
            Whether their maps on the 3 mm grid are meant.
        private : bool
            Whether images of private collections are part of it.
        gone : bool
            Whether those are that the server no longer has.
        **kwargs
            Values for each ``$name``, by keyword; one that is an option's name too goes into `params`.

        Returns
        -------
        nimare.nimads.Studyset
            An analysis for each map, unless `analysis` says otherwise.

        Raises
        ------
        MissingExtraError
            When NiMARE is not installed, or does not work beside what is (an ImportError).
        InvalidOptionError, QueryError
            As in :meth:`to_nimads`.

        Warns
        -----
        SelectionWarning
            As in :meth:`to_nimads`.
        """
        from nvcatalog import nimads

        check_flags(resample=resample, private=private, gone=gone)
        params = named_values(self.to_nimare, where, params, kwargs)
        image_ids = ids_given(image_ids)
        nimare = nimads.nimare()  # before anything is read
        self._warn_if_absent()
        kind: MapKind = "resampled" if resample else "original"
        with one_state(self._asked(private=private)) as reads:
            meant = images_meant(reads, where=where, bunch=bunch, image_ids=image_ids, params=params, kind=kind)
            found = nimads.look_up(reads, meant, study=study, analysis=analysis, resampled=resample)
        studyset = nimads.to_nimads(found, sample_sizes=sample_sizes, private=private, gone=gone)
        return nimare.Studyset(studyset)

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
        gone: bool = False,
        overwrite: bool = False,
        verbose: int = 2,
        **kwargs: Any,
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
        gone : bool
            Whether those are that the server no longer has, where no id and no answer names them; named ones are
            taken with a warning. Of a condition, where their files are here.
        overwrite : bool
            Whether it may take the place of an earlier lock file; nothing else is ever replaced.
        verbose : int
            0 says nothing, 1 gives a summary, 2 shows a progress bar too.
        **kwargs
            Values for each ``$name``, by keyword; one that is an option's name too goes into `params`.

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
            For options that cannot be, a path that is taken, and a condition that cannot be asked (ValueErrors).
        LockFileError
            When `overwrite` meets a file that is no lock file (a ValueError).

        Warns
        -----
        SelectionWarning
            When images of private collections are left out, and of what the server no longer has.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> path = Catalog().freeze(Catalog().folder / "maps.lock.json", where="image_id = 10426", verbose=0)
        >>> path.name
        'maps.lock.json'
        """
        from nvcatalog import freeze, lockfile

        check_flags(resample=resample, private=private, gone=gone, overwrite=overwrite)
        params = named_values(self.freeze, where, params, kwargs)
        image_ids = ids_given(image_ids)
        self._warn_if_absent()
        kind: MapKind = "resampled" if resample else "original"
        target = lockfile.parse_target(path, overwrite=overwrite)
        with one_state(self._asked(private=private)) as reads:
            meant = images_meant(reads, where=where, bunch=bunch, image_ids=image_ids, params=params, kind=kind)
            found = freeze.look_up(reads, meant, resampled=resample, private=private, gone=gone)
        return freeze.freeze(found, target, verbose=parse_verbosity(verbose))

    def cite(
        self,
        *,
        where: str | None = None,
        bunch: Bunch | None = None,
        image_ids: Iterable[int | str] | int | str | None = None,
        params: Mapping[str, Any] | None = None,
        private: bool = False,
        gone: bool = False,
        **kwargs: Any,
    ) -> Citations:
        """Return how to cite the collections behind images, NeuroVault, and Neurosynth where terms were used.

        Parameters
        ----------
        where : str or None
            A condition over ``stat_maps`` chooses the images, as in :func:`nvcatalog.fetch_where`.
        bunch : Bunch or None
            What a fetcher returned chooses them, and says whether terms were used. Without it, Neurosynth is cited
            where its terms of any of the images are here; other decoders are yours to cite.
        image_ids : iterable of int or str, int, str or None
            Their ids do. Where nothing chooses, all that are here are meant.
        params : mapping, optional
            Values for each ``$name`` of the condition.
        private : bool
            Whether private collections are cited too.
        gone : bool
            Whether images count that the server no longer has, where no id and no answer names them; named ones
            are taken with a warning. Of a condition, where their files are here.
        **kwargs
            Values for each ``$name``, by keyword; one that is an option's name too goes into `params`.

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
            When there is nothing to cite, and when something is left out: private collections, images that the
            catalog does not know, and what the server no longer has.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[9034, 9035], verbose=0)
        >>> Catalog().cite(bunch=maps)
        <Citations: 1 collection; .bibtex() and .text() write them>
        """
        from nvcatalog.cite import cite

        check_flags(private=private, gone=gone)
        params = named_values(self.cite, where, params, kwargs)
        image_ids = ids_given(image_ids)
        self._warn_if_absent()
        with one_state(self._asked(private=private)) as reads:
            meant = images_meant(reads, where=where, bunch=bunch, image_ids=image_ids, params=params)
            return cite(reads, meant, private=private, gone=gone)

    def snapshot(self, name: str | None = None, *, whole: bool = False) -> Path:
        """Write the catalog as Parquet now, and return the folder of the snapshot; what a base has is not in it.

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
        check_flags(whole=whole)
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
            To a database in memory. The snapshot stays on disk until the connection is closed or forgotten;
            ``SELECT nvcatalog_snapshot()`` tells which one it is.

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

    def _warn_if_absent(self) -> None:
        asked = self._asked()
        if not asked.exists:
            warnings.warn(asked.absence, CatalogWarning, stacklevel=3)
