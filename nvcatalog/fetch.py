"""Fetch: ask, list, plan, move, land, publish, answer. The only module that knows this order."""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nvcatalog import __version__, records, snapshot, storage
from nvcatalog._http import root_from_environment, same_host
from nvcatalog._progress import REQUESTS, summarise
from nvcatalog._store import Store
from nvcatalog.accounts import Notes, settle
from nvcatalog.adopt import Adopter, prove_files, sidecar_ids
from nvcatalog.bunch import add_words, build_bunch
from nvcatalog.errors import (
    BlockedWarning,
    CatalogWarning,
    FolderWarning,
    IncompleteWarning,
    InvalidOptionError,
    SnapshotWarning,
    WordsWarning,
    WrongServerError,
)
from nvcatalog.ids import parse_ids
from nvcatalog.known import Refusal
from nvcatalog.landing import Lander
from nvcatalog.listing import Lister
from nvcatalog.moving import Mover
from nvcatalog.plan import Mode, Plan, Request, make_plan, parse_mode, wanted_images, what_to_list
from nvcatalog.report import Outcome, Report
from nvcatalog.servers import Servers

if TYPE_CHECKING:
    from sklearn.utils import Bunch


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
) -> Bunch:
    """Fetch whole collections and single images from NeuroVault, complete or plainly told otherwise.

    A drop-in for the function of the same name in nilearn: what is on disk already is not downloaded
    again, nilearn's own downloads included, and everything that is fetched can be asked in SQL through
    :class:`nvcatalog.Catalog`.

    Parameters
    ----------
    collection_ids : iterable of int or str, int, str or None
        The collections wanted whole: ids, or links to their pages.
    image_ids : iterable of int or str, int, str or None
        The single images wanted: ids, or links to their pages.
    mode : {'download_new', 'overwrite', 'offline'}
        When the servers are asked: for exactly what is missing; for everything again; never.
        ``NVCATALOG_OFFLINE=1`` makes every call offline.
    data_dir : path-like or None
        Where ``neurovault/`` is or will be. None means ``NILEARN_SHARED_DATA``, else ``NILEARN_DATA``,
        else ``~/nilearn_data``.
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
        Parallel downloads; None means 6, as a browser does.
    sparse_words : bool
        Whether ``word_frequencies`` is left sparse.

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
        When the folder is a file or cannot be made (an OSError).
    NoSpaceError
        When the disk is full (an OSError); what has arrived is kept.
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
    request = Request(
        collection_ids=parse_ids(collection_ids, kind="collection"),
        image_ids=parse_ids(image_ids, kind="image"),
        mode=_mode_here(parse_mode(mode)),
        words=bool(fetch_neurosynth_words),
    )
    verbose = _verbosity(verbose)
    call = _Call(request, storage.data_folder(data_dir), verbose=verbose)
    with Servers(
        timeout_s=_timeout_s(timeout), max_workers=_workers(max_workers), log_requests=verbose >= REQUESTS
    ) as servers:
        call.run(servers)
    bunch = build_bunch(call.folder, call.known, call.image_ids, call.report)
    if request.words and vectorize_words:
        add_words(bunch, call.store, call.lander.batch, call.image_ids, sparse=sparse_words)
    return bunch


def _mode_here(mode: Mode) -> Mode:
    """Return the mode, or 'offline' where ``NVCATALOG_OFFLINE`` allows nothing else."""
    forced = os.environ.get("NVCATALOG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")
    return "offline" if forced else mode


def _verbosity(verbose: object) -> int:
    if not isinstance(verbose, Integral):
        raise InvalidOptionError(f"verbose is {verbose!r}; give a number from 0 (quiet) to 3")
    return int(verbose)


def _timeout_s(timeout: object) -> float:
    seconds = -1.0 if isinstance(timeout, bool) or not isinstance(timeout, Real) else float(timeout)
    if not 0 < seconds < float("inf"):
        raise InvalidOptionError(f"timeout is {timeout!r}; give seconds above 0, such as 10")
    return seconds


def _workers(max_workers: object) -> int | None:
    if max_workers is None:
        return None
    number = 0 if isinstance(max_workers, bool) or not isinstance(max_workers, Integral) else int(max_workers)
    if number < 1:
        raise InvalidOptionError(
            f"max_workers is {max_workers!r}; give a number of connections from 1 on, or None"
        )
    return number


class _Call:
    """One call on its way through the steps.

    Attributes
    ----------
    image_ids : list of int
        The images of the answer, once :meth:`run` is done.
    report : Report
        What happened to every id.
    """

    def __init__(self, request: Request, folder: Path, *, verbose: int) -> None:
        self.folder = folder
        self.store = Store(folder)
        self.image_ids: list[int] = []
        self.report = Report()
        self._verbose = verbose
        self._started_at = datetime.now(UTC)
        obstacle = self.store.what_cannot_be_written()
        if request.mode != "offline" and obstacle:
            warnings.warn(
                f"{obstacle} cannot be written, so this call works offline: only what is there is returned",
                FolderWarning,
                stacklevel=3,
            )
            request = replace(request, mode="offline")
        self.request = request
        self.lander = Lander(self.store, writable=obstacle is None)
        self.known = self.store.known(request.collection_ids, request.image_ids)
        self._notes = Notes()
        self._bytes = 0
        self._warnings: list[tuple[str, type[Warning]]] = []  # issued last: where they are errors, rows are safe

    def run(self, servers: Servers) -> None:
        """List, plan, move, land and publish; what has arrived is landed however this ends, on Ctrl-C too."""
        online = self.request.mode != "offline"
        self._take_over()
        if online:
            self._check_server(servers)
            storage.make_folder(self.folder)
        try:
            if online:
                self._list(servers)
            self._prove()
            plan = make_plan(self.request, self.known, self.folder)
            if online and (plan.to_fetch or plan.words_to_fetch):
                self._move(plan, servers)
            self._settle(plan, asked=servers.asked)
            if servers.asked:
                self._record_call(servers)
        finally:
            self.lander.finish()
        if self.lander.landed or (servers.asked and snapshot.is_behind(self.store)):
            self._note(snapshot.publish(self.store), SnapshotWarning)
        self._tell(servers)

    def _note(self, text: str | None, category: type[Warning]) -> None:
        if text is not None:
            self._warnings.append((text, category))

    # The steps

    def _take_over(self) -> None:
        """Look, for ids the catalog does not know, where nilearn would have put just those."""
        adopter = Adopter(self.folder, self.known, self.lander)
        known = self.known.collections
        incomplete = [id_ for id_ in self.request.collection_ids if id_ not in known or not known[id_].complete]
        self._look_up(stray for id_ in incomplete for stray in sidecar_ids(self.folder, id_))
        for id_ in incomplete:
            adopter.take_collection(id_)
        adopter.take_images(id_ for id_ in self.request.image_ids if id_ not in self.known.images)
        self._notes.taken_over |= adopter.adopted
        self._note_unreadable(adopter)

    def _look_up(self, image_ids: Iterable[int]) -> None:
        """Read what the catalog knows of these: a copy in the wrong folder must not pass for the image itself."""
        unknown = [id_ for id_ in image_ids if id_ not in self.known.images]
        if unknown:
            elsewhere = self.store.known([], unknown)
            self.known.images |= elsewhere.images
            self.known.with_words |= elsewhere.with_words

    def _note_unreadable(self, adopter: Adopter) -> None:
        for outcome in adopter.troubles:
            if outcome.kind != "words" or self.request.words:
                self._notes.unreadable[outcome.kind, outcome.id] = outcome

    def _check_server(self, servers: Servers) -> None:
        """Refuse to mix two servers' records in one folder, unless one is declared a mirror of the other."""
        root, ours = servers.neurovault_root, self.known.server_root
        mirrored = os.environ.get("NVCATALOG_MIRROR_OF", "").strip()
        if mirrored:
            mirrored = root_from_environment("NVCATALOG_MIRROR_OF", mirrored)
        if ours is None:
            self.lander.server_root = mirrored or root
        elif not same_host(root, ours) and not (mirrored and same_host(mirrored, ours)):
            raise WrongServerError(
                f"{self.folder} was filled from {ours}, and this call would fetch from {root}. "
                f"Give another data_dir, or, if {root} is a mirror of {ours}, set NVCATALOG_MIRROR_OF={ours}"
            )

    def _list(self, servers: Servers) -> None:
        to_list = what_to_list(self.request, self.known, now=self._started_at)
        if to_list:
            lister = Lister(servers.neurovault, self.known, self.lander, verbose=self._verbose)
            self._notes.outcomes |= lister.run(to_list, refresh_parents=self.request.mode == "overwrite")

    def _prove(self) -> None:
        wanted = wanted_images(self.request, self.known)
        found, bad = prove_files(self.folder, self.known, wanted, self.lander, verbose=self._verbose)
        self._notes.taken_over |= found
        self._notes.bad_files = bad
        if self.request.words and self.request.mode != "overwrite":
            adopter = Adopter(self.folder, self.known, self.lander)
            for id_ in wanted:
                if id_ in self.known.images and id_ not in self.known.with_words:
                    adopter.take_words(self.known.images[id_])
            self._note_unreadable(adopter)

    def _move(self, plan: Plan, servers: Servers) -> None:
        mover = Mover(self.folder, self.known, self.lander, servers, verbose=self._verbose)
        try:
            mover.run(plan.to_fetch, [id_ for id_ in plan.images if id_ in plan.words_to_fetch])
        finally:
            self._notes.outcomes |= mover.outcomes
            self._bytes = mover.bytes

    def _settle(self, plan: Plan, *, asked: bool) -> None:
        """Account for every id, and learn which images have no terms."""
        self.report = Report(settle(self.request, plan, self.known, self._notes))
        here = {outcome.id for outcome in self.report if outcome.kind == "image" and outcome.here}
        self.image_ids = [id_ for id_ in plan.images if id_ in here]
        if self.request.words:
            self._learn_words_refusals(store=asked)

    def _learn_words_refusals(self, *, store: bool) -> None:
        """Warn once of images that Neurosynth has no terms for; remembered if the call leaves a record at all."""
        lasting = [outcome for outcome in self.report if (outcome.kind, outcome.status) == ("words", "not_found")]
        new = [outcome for outcome in lasting if not self._knew_refusal(outcome)]
        if not new or not store:
            return  # learnt when a call leaves a record; until then the report alone says so
        for outcome in new:
            image = self.known.images[cast("int", outcome.id)]
            modified = records.modify_date_of(image.record)
            self.lander.batch.add_refusal(
                Refusal("words", image.image_id, "not_found", outcome.reason or "", modified, self._started_at)
            )
        reasons = "; ".join(f"{n} x {reason}" for reason, n in Counter(o.reason for o in new).most_common(3))
        text = f"No terms for {len(new)} of {len(self.image_ids)} images, now or later: {reasons}. "
        self._warnings.append((f"{text}They are rows of zeros", WordsWarning))

    def _knew_refusal(self, outcome: Outcome) -> bool:
        refusal = self.known.refusals.get((outcome.kind, cast("int", outcome.id)))
        return refusal is not None and refusal.seen_at < self._started_at

    # Afterwards

    def _record_call(self, servers: Servers) -> None:
        """Keep a record of a call that used the network, and of each id in it that was not simply here."""
        fetch_id = str(uuid.uuid4())
        counts = Counter(o.status for o in self.report if o.kind == "image")
        request = self.request
        parameters = {
            "collection_ids": request.collection_ids,
            "image_ids": request.image_ids,
            "words": request.words,
        }
        self.lander.batch.add(
            "fetches",
            {
                "fetch_id": fetch_id,
                "started_at": self._started_at,
                "finished_at": datetime.now(UTC),
                "function": "fetch_neurovault_ids",
                "parameters": json.dumps(parameters),
                "mode": request.mode,
                "server": servers.neurovault_root,
                "version": __version__,
                "requested": sum(o.kind == "image" for o in self.report),
                "returned": len(self.image_ids),
                "downloaded": counts["downloaded"],
                "missing": len(self.report.missing),
                "bytes": self._bytes,
            },
        )
        for outcome in self.report:
            if outcome.status != "cached":
                self.lander.batch.add("outcomes", {"fetch_id": fetch_id, **outcome._asdict()})

    def _tell(self, servers: Servers) -> None:
        """Say in one line how it went, and warn of what is missing whatever the verbosity."""
        seconds = (datetime.now(UTC) - self._started_at).total_seconds()
        size = f", {self._bytes / 1e6:.1f} MB fetched" if self._bytes else ""
        counts = "; ".join(filter(None, (_counts_text(self.report, k) for k in ("image", "words", "collection"))))
        text = f"nvcatalog: {counts or 'nothing asked for'}{size} in {seconds:.1f} s, in {self.folder}"
        summarise(text, verbose=self._verbose)
        healths = (servers.neurovault_health, servers.neurosynth_health)
        self._warnings += [(text, CatalogWarning) for text in self.lander.troubles]
        self._warnings += [(f"Blocked: {h.given_up}", BlockedWarning) for h in healths if h.blocked]
        if missing := self.report.missing:
            given_up = "".join(f" Stopped early: {h.given_up}." for h in healths if h.given_up)
            self._warnings.append((_missing_text(missing) + given_up, IncompleteWarning))
        for text, category in self._warnings:
            warnings.warn(text, category, stacklevel=4)


def _counts_text(report: Report, kind: str) -> str:
    counts = Counter(outcome.status for outcome in report if outcome.kind == kind)
    named = {"image": "images", "words": "terms", "collection": "collections"}[kind]
    return f"{named}: " + ", ".join(f"{n} {status}" for status, n in counts.most_common()) if counts else ""


def _missing_text(missing: tuple[Outcome, ...]) -> str:
    """Say how much is missing, and name the first few."""
    counts = ", ".join(f"{n} {status}" for status, n in Counter(o.status for o in missing).most_common())
    named = [f"{o.kind}{'' if o.id is None else f' {o.id}'} {o.status} ({o.reason})" for o in missing[:3]]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"Not all that was asked for is here: {counts}. {'; '.join(named)}{more}; .report has them all."
