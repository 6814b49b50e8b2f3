"""The part of a catalog's face that keeps its folder in order; no logic of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nvcatalog._store import Store
from nvcatalog.errors import CatalogWarning
from nvcatalog.options import check_flags, named_values, parse_timeout
from nvcatalog.queries import Answer

if TYPE_CHECKING:
    from nvcatalog.doctor import Diagnosis
    from nvcatalog.prune import Pruned
    from nvcatalog.rebuild import Rebuilt
    from nvcatalog.repair import Repaired
    from nvcatalog.verify import Verification


class Upkeep:
    """What :class:`nvcatalog.Catalog` can do to keep its folder in order.

    Parameters
    ----------
    store : Store
        The catalog.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.folder

    def verify(self, *, deep: bool = False, verbose: int = 2) -> Verification:
        """Compare each file with what the catalog says of it, and find what belongs to nothing; only reads.

        Parameters
        ----------
        deep : bool
            Whether every file is read to its last byte: sha256, gzip, NIfTI, and the metadata that nilearn reads.
            Otherwise it is there with its size, or it is not.
        verbose : int
            0 says nothing, 1 gives a summary, 2 shows progress bars too.

        Returns
        -------
        Verification
            True when nothing is wrong. ``problems`` says what is, ``df()`` all that was found. Files of several
            images that have the same bytes are no problem; ``duplicates`` names them.

        Raises
        ------
        CatalogLockedError, CatalogCorruptError, CatalogTooNewError
            When the catalog cannot be read.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> bool(Catalog().verify(deep=True, verbose=0))
        True
        """
        from nvcatalog.verify import verify

        check_flags(deep=deep)
        self._warn_if_none_here()
        return verify(self._store, deep=deep, verbose=verbose)

    def repair(
        self,
        *,
        offline: bool = False,
        deep: bool = True,
        verbose: int = 2,
        timeout: float = 10.0,
        max_workers: int | None = None,
    ) -> Repaired:
        """Put right what :meth:`verify` finds; nothing is deleted.

        Corrupt and missing files are fetched again. Files that the catalog does not know are taken over where they
        are whole and a record names them. What nilearn reads beside the maps is written anew. Corrupt files, and
        all that nobody can vouch for, go to ``quarantine/`` in the data folder.

        Parameters
        ----------
        offline : bool
            Whether corrupt and missing files are forgotten, rather than fetched again.
        deep : bool
            Whether every file is read to find the corrupt ones, or only its size is looked at.
        verbose : int
            0 is quiet, 1 gives a one-line summary, 2 progress bars too, 3 also logs every request.
        timeout : float
            Seconds to wait for a connection, and for the next byte of an answer.
        max_workers : int or None
            Parallel downloads; None is the polite default.

        Returns
        -------
        Repaired
            True when nothing is left to be done. ``steps`` says what was done about each file, ``left`` what could
            not be.

        Raises
        ------
        DataDirError
            When the folder cannot be written (an OSError).
        WrongServerError
            When the folder was filled from another server.
        CatalogLockedError, CatalogCorruptError, CatalogTooNewError
            When the catalog cannot be used.

        Warns
        -----
        IncompleteWarning
            When anything could not be put right.

        Examples
        --------
        >>> from pathlib import Path
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> written = Path(maps.images[0]).write_bytes(b"not a map")
        >>> Catalog().repair(verbose=0).counts
        {'restored': 1}
        """
        from nvcatalog.repair import repair

        check_flags(offline=offline, deep=deep)
        return repair(
            self._store, offline=offline, deep=deep, verbose=verbose, timeout=timeout, max_workers=max_workers
        )

    def rebuild(self, *, force: bool = False, verbose: int = 2) -> Rebuilt:
        """Make a lost or damaged catalog again, from the newest intact snapshot and what is in the folder since.

        The former ``catalog.duckdb`` is kept under another name. Nothing is downloaded.

        Parameters
        ----------
        force : bool
            Whether to do so although the catalog can be read: it loses what is in no snapshot then.
        verbose : int
            0 says nothing, 1 gives a summary and what could not be restored, 2 shows progress bars too.

        Returns
        -------
        Rebuilt
            What it was made of; ``lost`` says what could not be restored.

        Raises
        ------
        CatalogError
            When the catalog can be read whole, and `force` is not given.
        DataDirError
            When there is no such folder, or it cannot be written (an OSError).
        CatalogLockedError
            When another process keeps the catalog open.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> (Catalog().folder / "catalog.duckdb").unlink()
        >>> Catalog().rebuild(verbose=0).why
        'there was none'
        >>> Catalog().sql("SELECT image_id FROM local_images").fetchall()
        [(10426,)]
        """
        from nvcatalog.rebuild import rebuild

        check_flags(force=force)
        return rebuild(self._store, force=force, verbose=verbose)

    def prune(
        self,
        where: str | None = None,
        *,
        image_ids: Iterable[int | str] | int | str | None = None,
        collection_ids: Iterable[int | str] | int | str | None = None,
        older_than: timedelta | float | None = None,
        params: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        verbose: int = 2,
        **kwargs: Any,
    ) -> Pruned:
        """Remove the files of images that all conditions select: maps, files beside them, nilearn's metadata.

        Records and terms stay in the catalog, and a later fetch brings the files back.

        Parameters
        ----------
        where : str or None
            A condition over ``stat_maps``, as in :func:`nvcatalog.fetch_where`.
        image_ids : iterable of int or str, int, str or None
            Those images.
        collection_ids : iterable of int or str, int, str or None
            Those of these collections.
        older_than : timedelta, number of days or None
            Those whose files all came longer ago.
        params : mapping, optional
            Values for each ``$name`` of the condition.
        dry_run : bool
            Whether to say only what would be removed.
        verbose : int
            0 says nothing, 1 gives a summary, 2 shows a progress bar too.
        **kwargs
            Values for each ``$name``, by keyword; one that is an option's name too goes into `params`.

        Returns
        -------
        Pruned
            ``removed`` names the files, ``bytes`` how much room they took.

        Raises
        ------
        InvalidOptionError, InvalidIdError, InvalidIdTypeError, QueryError
            When nothing selects, and for what cannot be asked.
        DataDirError
            When the folder cannot be written (an OSError).
        CatalogLockedError, CatalogCorruptError, CatalogTooNewError
            When the catalog cannot be used.

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> Catalog().prune("stat = 'z'", dry_run=True, verbose=0).images
        1
        """
        from nvcatalog.prune import prune

        check_flags(dry_run=dry_run)
        params = named_values(self.prune, where, params, kwargs)
        self._warn_if_none_here()
        return prune(
            self._store,
            where=where,
            image_ids=image_ids,
            collection_ids=collection_ids,
            older_than=older_than,
            params=params,
            dry_run=dry_run,
            verbose=verbose,
        )

    def usage(self, by: str | Iterable[str] = ("collection_id", "kind", "age")) -> Answer:
        """Return what takes the room in the folder; the catalog need not be readable for it.

        Parameters
        ----------
        by : str or iterable of str
            What files are counted by, some of: ``collection_id`` (NULL for what belongs to none), ``kind``
            (``original``, ``resampled``, ``metadata``, ``snapshots``, ``quarantine``, …), and ``age`` (since the
            file was written).

        Returns
        -------
        Answer
            A row a group, largest first: those columns, ``files``, ``bytes``.

        Raises
        ------
        InvalidOptionError
            When `by` names something else (a ValueError).

        Examples
        --------
        >>> from nvcatalog import Catalog, fetch_neurovault_ids
        >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
        >>> usage = Catalog().usage("kind").df().set_index("kind")
        >>> int(usage.loc["original", "files"])
        1
        """
        from nvcatalog.usage import usage

        return Answer(usage(self._folder, by))

    def doctor(self, *, timeout: float = 5.0) -> Diagnosis:
        """Look at all that a bug report needs: versions, settings, folder, locks, catalog, snapshots, servers.

        Parameters
        ----------
        timeout : float
            Seconds to wait for each server.

        Returns
        -------
        Diagnosis
            True when nothing is wrong. Printed it is a page to paste into a report: no tokens and no passwords are
            in it, and ``~`` stands for your home.

        Examples
        --------
        >>> from nvcatalog import Catalog
        >>> print(Catalog().doctor())  # doctest: +ELLIPSIS
        Versions
          nvcatalog ...
        """
        from nvcatalog.doctor import diagnose

        return diagnose(self._store, timeout_s=parse_timeout(timeout))

    def _warn_if_none_here(self) -> None:
        if not self._store.exists:
            warnings.warn(self._store.absence, CatalogWarning, stacklevel=3)
