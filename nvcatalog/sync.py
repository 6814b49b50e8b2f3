"""Bring the catalog up to what NeuroVault knows: metadata of all public collections and their images, no files."""

from __future__ import annotations

import json
import os
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

from nvcatalog import __version__, lookup, records, snapshot, storage
from nvcatalog._batch import Batch, Listing
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import BARS, Progress, summarise
from nvcatalog._store import Store
from nvcatalog.adopt import root_of_folder
from nvcatalog.client import FIRST_PAGE, LARGEST_PAGE, LIST_CONNECTIONS, CollectionList, ImageList, NeuroVault
from nvcatalog.errors import (
    BlockedWarning,
    CatalogWarning,
    DataDirError,
    HostGivenUpError,
    IncompleteWarning,
    InvalidOptionError,
    RefusedError,
    ServerError,
    SnapshotWarning,
    TransientError,
)
from nvcatalog.ids import parse_ids
from nvcatalog.known import Refusal
from nvcatalog.landing import Lander
from nvcatalog.listing import as_listed, shortfall
from nvcatalog.options import is_offline_here
from nvcatalog.plan import refusal_holds
from nvcatalog.records import Record
from nvcatalog.report import Outcome, Report, missing_text, outcome_of
from nvcatalog.seed import Seed
from nvcatalog.servers import Servers, check_server
from nvcatalog.synced import Synced, count_changes, digest, read_synced

# Pages that wait to be landed: each is up to a thousand records.
_PAGES_WAITING = 4
# The refusal of a broken record in the list of collections, which has no collection of its own.
_OF_NO_COLLECTION = 0


@dataclass(frozen=True)
class SyncReport:
    """What a sync found.

    Attributes
    ----------
    new_collections, new_images : int
        Here now and not before, those that came back included.
    changed_collections, changed_images : int
        Whose record the server has changed; the former one is in ``record_history``.
    gone_collections, gone_images : int
        No longer on the server; they stay in the catalog, with ``gone_at``.
    complete : bool
        Whether all that was to be read could be read, but for records that the server itself cannot render.
    requests : int
        How many requests it took.
    seconds : float
        How long it took.
    report : Report
        An outcome for all that could not be had.
    """

    new_collections: int
    changed_collections: int
    gone_collections: int
    new_images: int
    changed_images: int
    gone_images: int
    complete: bool
    requests: int
    seconds: float
    report: Report

    def __repr__(self) -> str:
        """Say the figures in one line."""
        figures = "; ".join(
            f"{kind} {new} new, {changed} changed, {gone} gone" for kind, new, changed, gone in self.counts
        )
        lacks = "" if self.complete else f"; incomplete, {len(self.report.missing)} could not be had"
        return f"<SyncReport: {figures}{lacks}>"

    @property
    def counts(self) -> tuple[tuple[str, int, int, int], ...]:
        """How many collections and images are new, changed and gone."""
        return (
            ("collections", self.new_collections, self.changed_collections, self.gone_collections),
            ("images", self.new_images, self.changed_images, self.gone_images),
        )


def sync_catalog(
    store: Store,
    *,
    collection_ids: Iterable[int | str] | int | str | None = None,
    exclude_owners: Iterable[int] | int = (),
    seed: str | os.PathLike[str] | None = None,
    verbose: int = 2,
    timeout_s: float = 10.0,
) -> SyncReport:
    """Read what the catalog does not know yet, or not as it is now, of all public collections and their images.

    What has landed is not read again: a sync that was interrupted goes on where it was, and a later one reads the
    lists of those collections alone whose ``modify_date`` has moved.

    Parameters
    ----------
    store : Store
        The folder's catalog; made when there is none.
    collection_ids : iterable of int or str, int, str or None
        Read just these anew; None means all.
    exclude_owners : iterable of int
        User ids: the images of their collections are left out.
    seed : path-like or None
        A snapshot of another catalog to start from.
    verbose : int
        0 is quiet, 1 gives a one-line summary, 2 progress bars too, 3 also logs every request.
    timeout_s : float
        Seconds to wait for a connection, and for the next byte of an answer.

    Returns
    -------
    SyncReport
        What is new, changed and gone, and what could not be had.

    Raises
    ------
    InvalidOptionError
        For options that do not go together, and where ``NVCATALOG_OFFLINE`` is set.
    DataDirError
        When the folder cannot be written.
    WrongServerError
        When the folder, or the seed, was filled from another server.
    CatalogLockedError
        When another process keeps the catalog open.
    """
    asked = None if collection_ids is None else parse_ids(collection_ids, kind="collection")
    owners = _parse_owners(exclude_owners)
    if asked is not None and owners:
        raise InvalidOptionError(
            "give either collection_ids or exclude_owners: the former are read whoever owns them"
        )
    if is_offline_here():
        raise InvalidOptionError("NVCATALOG_OFFLINE is set, and a sync has nothing to do offline: unset it")
    store.check_not_lost()
    obstacle = store.what_cannot_be_written()
    if obstacle:
        raise DataDirError(
            f"{obstacle} cannot be written, and a sync has nothing else to do. Give another data_dir"
        )
    with Servers(timeout_s=timeout_s, verbose=verbose, folder=store.folder) as servers:
        sync = _Sync(store, servers, asked, owners, verbose=verbose)
        return sync.run(None if seed is None else Seed(seed))


def _parse_owners(owners: Iterable[int] | int) -> frozenset[int]:
    given: list[Any] = list(owners) if isinstance(owners, Iterable) else [owners]
    for owner in given:
        if isinstance(owner, bool) or not isinstance(owner, Integral) or owner <= 0:
            raise InvalidOptionError(f"exclude_owners: {owner!r} is no user id; give numbers, such as 5761")
    return frozenset(int(owner) for owner in given)


class _ToRead(NamedTuple):
    """A collection whose list is to be read, or whose record is to be asked for first."""

    collection_id: int
    modify_date: datetime | None = None
    n_images: int = 0
    ask: bool = False


@dataclass
class _Notes:
    """What is known of the server so far."""

    whole: CollectionList = field(default_factory=CollectionList)
    seen: set[int] = field(default_factory=set)
    to_read: list[_ToRead] = field(default_factory=list)
    listed: set[int] = field(default_factory=set)
    identified: int = 0  # broken collections that are known by their ids
    images: int = 0
    outcomes: list[Outcome] = field(default_factory=list)


class _Sync:
    """One sync on its way through the steps."""

    def __init__(
        self,
        store: Store,
        servers: Servers,
        asked: tuple[int, ...] | None,
        owners: frozenset[int],
        *,
        verbose: int,
    ) -> None:
        self._store = store
        self._servers = servers
        self._vault: NeuroVault = servers.neurovault
        self._asked = asked
        self._owners = owners
        self._verbose = verbose
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._lander = Lander(store, writable=True, many=True)
        self._synced = Synced()
        self._notes = _Notes()
        self._seeded: str | None = None

    def run(self, seed: Seed | None) -> SyncReport:
        """Read and land; what has arrived is landed however this ends, on Ctrl-C too."""
        self._begin(seed)
        try:
            if self._asked is None:
                self._read_collections()
                self._look_for_missing()
            else:
                self._notes.to_read = [_ToRead(id_, ask=True) for id_ in self._asked]
            self._read_lists()
            self._account()
            self._end()
        finally:
            self._lander.finish()
        if self._lander.locked is not None:
            raise self._lander.locked
        trouble = snapshot.publish(self._store)
        report = self._report()
        self._tell(report, trouble)
        return report

    def _begin(self, seed: Seed | None) -> None:
        self._synced = read_synced(self._store)
        ours = self._synced.server_root or root_of_folder(self._store.folder)
        root = check_server(self._servers.neurovault_root, ours, self._store.folder)
        storage.make_folder(self._store.folder)
        if seed is not None:
            seed.land(self._store, root, verbose=self._verbose)
            self._seeded = seed.name
            self._synced = read_synced(self._store)
        if self._synced.server_root is None:
            self._lander.server_root = root
        if self._servers.is_mirror_of(root):
            self._vault.stand_for(lookup.root_in_links(self._store, root))
        for id_, token in lookup.tokens(self._store).items():
            self._vault.open_with(id_, token)
        if self._asked is None:
            self._note("sync_started_at", self._started_at.isoformat(timespec="seconds"))
        if self._asked is None and self._owners:
            # Said before it is so, and taken back when it is no longer: the catalog never looks fuller than it is.
            self._note_excluded(self._owners | self._synced.excluded_owners)

    def _note(self, key: str, value: str) -> None:
        self._lander.batch.add("catalog_info", {"key": key, "value": value})

    def _note_excluded(self, owners: Iterable[int]) -> None:
        self._note("sync_excluded_owners", json.dumps(sorted(owners)))

    # The list of collections

    def _read_collections(self) -> None:
        with Progress("Collections", total=0, verbose=self._verbose, unit="collection") as progress:
            started = time.monotonic()
            try:
                for page, whole in self._vault.collections():
                    for record in page:
                        self._put_collection(record)
                        self._plan(record)
                    if not self._notes.whole.counts:
                        self._announce(page, whole.count, time.monotonic() - started)
                    self._notes.whole = whole
                    self._land()
                    progress.expect(whole.count)
                    progress.step(len(page))
            except (RefusedError, TransientError, HostGivenUpError) as error:
                reason = f"the list of collections was not read to its end: {error}"
                self._notes.outcomes.append(Outcome("collection", None, "failed", reason))
                return
        self._put_broken_collections()

    def _put_collection(self, record: Record) -> None:
        """Land a collection's record, unless it is here just so."""
        id_ = records.record_id(record)
        self._notes.seen.add(id_)
        self._forget_refusal("collection", id_)
        known = self._synced.collections.get(id_)
        if known is None or known.gone or known.digest != digest(records.raw_text(record)):
            self._lander.batch.add_record("collection", record)

    def _plan(self, record: Record) -> None:
        """Note that a collection's list is to be read, where the catalog does not have it as it is now."""
        id_, modified = records.record_id(record), records.modify_date_of(record)
        if self._is_excluded(record) or not self._is_out_of_date(id_, modified):
            return
        if record.get("number_of_images") == 0:
            self._put_list(id_, modified, ImageList(counts={0}))
        else:
            self._notes.to_read.append(_ToRead(id_, modified, _number_of_images(record)))

    def _is_excluded(self, record: Record) -> bool:
        owner = record.get("owner")
        return isinstance(owner, int) and owner in self._owners

    def _is_out_of_date(self, id_: int, modified: datetime | None) -> bool:
        known = self._synced.collections.get(id_)
        if known is None or known.gone or not known.complete or known.listed_modify_date != modified:
            return True
        return not all(self._holds(place) for place in self._synced.positions.get(id_, ()))

    def _holds(self, refusal: Refusal | None) -> bool:
        return refusal_holds(refusal, None, mode="download_new", now=self._started_at)

    def _put_broken_collections(self) -> None:
        """Remember the places of collections that the server cannot render, and forget the former ones."""
        self._forget_positions(_OF_NO_COLLECTION)
        now = datetime.now(UTC)
        for place in self._notes.whole.broken:
            reason = f"record {place} of the list of collections"
            self._lander.batch.add_refusal(
                Refusal("position", _OF_NO_COLLECTION, "broken_on_server", reason, None, now, place)
            )
        if not self._notes.whole.complete:
            count, seen = self._notes.whole.count, len(self._notes.seen) + len(self._notes.whole.broken)
            reason = f"NeuroVault counts {count} collections and listed {seen}; call again"
            self._notes.outcomes.append(Outcome("collection", None, "failed", reason))

    def _look_for_missing(self) -> None:
        """Ask for each collection that is missing from a whole list: only a 404 says that it is gone.

        It may be private by now, or one of those that the list names by their places alone.
        """
        if not self._notes.whole.complete:
            return
        for id_, known in self._synced.collections.items():
            if id_ in self._notes.seen or known.gone or known.private:
                continue
            refusal = self._synced.refusals.get(id_)
            if not self._holds(refusal) or refusal is None:
                self._notes.to_read.append(_ToRead(id_, ask=True))
            elif refusal.status == "not_found":
                self._lander.batch.bury(id_)
            else:
                self._put_refused(Outcome("collection", id_, refusal.status, refusal.reason))

    # The lists of images

    def _read_lists(self) -> None:
        to_read = self._notes.to_read
        if self._asked is not None:
            self._say_how_long(2 * len(to_read), None)
        lane = Lane(self._ask, tuple(to_read), workers=min(LIST_CONNECTIONS, len(to_read)))
        expected = sum(each.n_images for each in to_read)
        with Progress("Images", total=expected, verbose=self._verbose, unit="image") as progress:
            for put in in_parallel([lane], stop=self._vault.stop, waiting=_PAGES_WAITING):
                before = self._notes.images
                put()
                self._land()
                progress.step(self._notes.images - before)

    def _land(self) -> None:
        self._lander.land_if_due()
        if self._lander.locked is not None:
            raise self._lander.locked

    # In the workers: ask, and yield what the main thread shall do with the answer.

    def _ask(self, to_read: _ToRead) -> Iterator[partial[None]]:
        id_, modified, number, ask = to_read
        try:
            if ask:
                record = self._vault.collection(id_)
                modified, number = records.modify_date_of(record), _number_of_images(record)
                yield partial(self._put_collection, record)
                if self._is_excluded(record):
                    return
        except (RefusedError, TransientError, HostGivenUpError) as error:
            yield partial(self._put_trouble, id_, error)
            return
        try:
            last = ImageList()
            for page, listing in self._vault.images_of(id_):
                yield partial(self._put_page, _shaped(id_, page))
                last = listing
            # Before the list counts as read: packs that could not be had are then asked for with it again.
            yield partial(self._forget_packs, id_)
            if last.complete and number > last.count:  # it counts NIDM packs too
                for page, _ in self._vault.packs_of(id_):
                    yield partial(self._put_packs, id_, page)
            yield partial(self._put_list, id_, modified, last)
        except (RefusedError, TransientError, HostGivenUpError) as error:
            yield partial(self._notes.outcomes.append, outcome_of("collection", id_, error))

    # In the main thread

    def _put_page(self, page: Batch) -> None:
        ids = [row["image_id"] for row in page.tables.get("images", ())]
        self._notes.images += len(ids)
        self._lander.batch.extend(page)
        for id_ in self._synced.refused_images.intersection(ids):
            self._lander.batch.heal("image", id_)  # it was about the record, which is here now

    def _forget_packs(self, collection_id: int) -> None:
        self._lander.batch.forget_packs(collection_id)

    def _put_packs(self, collection_id: int, page: list[Record]) -> None:
        for record in page:
            self._lander.batch.add_pack(record, collection_id)

    def _put_list(self, collection_id: int, modified: datetime | None, listing: ImageList) -> None:
        """Note that a list was read to the end, and the places of records that the server cannot render."""
        now = datetime.now(UTC)
        self._notes.listed.add(collection_id)
        # An image that the server cannot render is in the list by its place only: any missing one may be it.
        names_all = not listing.broken
        ids = frozenset(listing.ids)
        self._lander.batch.listings.append(
            Listing(collection_id, now, listing.count, listing.complete, ids, names_all, modified)
        )
        self._forget_positions(collection_id)
        for place in listing.broken:
            reason = f"record {place} of collection {collection_id}"
            refusal = Refusal("position", collection_id, "broken_on_server", reason, modified, now, place)
            self._lander.batch.add_refusal(refusal)
            self._notes.outcomes.append(Outcome("image", None, "broken_on_server", reason))
        if not listing.complete:
            reason = shortfall(listing)
            self._notes.outcomes.append(Outcome("collection", collection_id, "failed", reason))

    def _put_trouble(self, collection_id: int, error: ServerError) -> None:
        """Note why a collection's own record could not be had."""
        outcome = outcome_of("collection", collection_id, error)
        if isinstance(error, RefusedError) and error.lasting:
            self._lander.batch.add_refusal(
                Refusal("collection", collection_id, outcome.status, str(error), None, datetime.now(UTC))
            )
        if outcome.status == "not_found" and collection_id in self._synced.collections:
            self._lander.batch.bury(collection_id)
        self._put_refused(outcome)

    def _put_refused(self, outcome: Outcome) -> None:
        """Report what is refused; that a public collection is gone, or private by now, is no gap of a sync."""
        self._notes.identified += outcome.status == "broken_on_server"
        if self._asked is not None or outcome.status not in ("not_found", "private"):
            self._notes.outcomes.append(outcome)

    def _forget_refusal(self, kind: str, id_: int) -> None:
        if id_ in self._synced.refusals:
            self._lander.batch.heal(kind, id_)

    def _forget_positions(self, id_: int) -> None:
        if id_ in self._synced.positions:
            self._lander.batch.heal("position", id_)

    # Afterwards

    def _account(self) -> None:
        """Report what is broken on the server, as far as this sync had no reason to look again."""
        places = self._notes.whole.broken
        if len(places) > self._notes.identified:
            reasons = [f"record {place} of the list of collections" for place in places]
            self._notes.outcomes += [Outcome("collection", None, "broken_on_server", text) for text in reasons]
        for id_, refusals in self._synced.positions.items():
            if id_ in self._notes.seen and id_ not in self._notes.listed:
                self._notes.outcomes += [Outcome("image", None, place.status, place.reason) for place in refusals]

    def _end(self) -> None:
        """Land the rest, and only then note that the catalog is as the server is."""
        for id_ in self._vault.made_public:
            self._lander.batch.forget_token(id_)
        self._lander.land()
        if self._is_complete() and self._asked is None:
            self._note("synced_at", self._started_at.isoformat(timespec="seconds"))
            if self._owners != self._synced.excluded_owners or self._owners:
                self._note_excluded(self._owners)
        self._record_call()

    def _is_complete(self) -> bool:
        failed = any(outcome.status == "failed" for outcome in self._notes.outcomes)
        return not failed and not self._lander.troubles and self._lander.locked is None

    def _record_call(self) -> None:
        fetch_id = str(uuid.uuid4())
        parameters = {
            "collection_ids": self._asked,
            "exclude_owners": sorted(self._owners),
            "seed": self._seeded,
        }
        row = {
            "fetch_id": fetch_id,
            "started_at": self._started_at,
            "finished_at": datetime.now(UTC),
            "function": "sync",
            "parameters": json.dumps(parameters),
            "server": self._servers.neurovault_root,
            "version": __version__,
            "returned": self._notes.images,
            "downloaded": 0,
            "missing": len(self._notes.outcomes),
            "bytes": 0,
        }
        self._lander.batch.add("fetches", row)
        for outcome in self._notes.outcomes:
            self._lander.batch.add("outcomes", {"fetch_id": fetch_id, **outcome._asdict()})

    def _report(self) -> SyncReport:
        changes = count_changes(self._store, self._synced, since=self._started_at)
        return SyncReport(
            **changes,
            complete=self._is_complete(),
            requests=self._servers.neurovault_health.requests,
            seconds=time.monotonic() - self._started,
            report=Report(self._notes.outcomes),
        )

    # What is said

    def _announce(self, page: list[Record], count: int, page_s: float) -> None:
        """Say how many requests it will be and about how long, from what the first page shows."""
        share = len(self._notes.to_read) / len(page) if page else 1.0
        lists = round(share * count)
        pages = 1 + max(0, count - FIRST_PAGE) // LARGEST_PAGE
        seconds = page_s * (count / max(1, len(page)) + lists / LIST_CONNECTIONS)
        self._say_how_long(pages + lists, seconds, f"{count:,} collections, about {lists:,} of them to be read: ")

    def _say_how_long(self, requests: int, seconds: float | None, what: str = "") -> None:
        if self._verbose >= BARS:
            how_long = "" if seconds is None else f", {_about(seconds)}"
            text = f"nvcatalog: {what}about {requests:,} requests{how_long}. What arrives is kept if you stop it"
            summarise(text, verbose=self._verbose)

    def _tell(self, report: SyncReport, snapshot_trouble: str | None) -> None:
        """Say in one line how it went, and warn of what is missing whatever the verbosity."""
        summarise(f"nvcatalog: {_summary(report)}, in {self._store.folder}", verbose=self._verbose)
        health = self._servers.neurovault_health
        texts: list[tuple[str, type[Warning]]] = [(text, CatalogWarning) for text in self._lander.troubles]
        if snapshot_trouble is not None:
            texts.append((snapshot_trouble, SnapshotWarning))
        if health.blocked:
            texts.append((f"Blocked: {health.given_up}", BlockedWarning))
        if report.report.missing:
            what = "Not all of NeuroVault's metadata could be had"
            texts.append((missing_text(report.report.missing, what, [health.given_up]), IncompleteWarning))
        for text, category in texts:
            warnings.warn(text, category, stacklevel=5)


def _number_of_images(record: Record) -> int:
    number = record.get("number_of_images")
    return number if isinstance(number, int) else 0


def _shaped(collection_id: int, page: list[Record]) -> Batch:
    """Return a page's rows: made where it was read, so that its records need not be kept any longer."""
    batch = Batch()
    for record in page:
        batch.add_record("image", as_listed(record, collection_id))
    return batch


def _about(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    return f"about {minutes} minute{'s' * (minutes > 1)}" if minutes < 90 else f"about {seconds / 3600:.0f} hours"


def _summary(report: SyncReport) -> str:
    kinds = (
        ("collections", report.new_collections, report.changed_collections, report.gone_collections),
        ("images", report.new_images, report.changed_images, report.gone_images),
    )
    counts = "; ".join(
        f"{kind}: {new:,} new, {changed:,} changed, {gone:,} gone" for kind, new, changed, gone in kinds
    )
    return f"{counts}; {report.requests:,} requests in {report.seconds:.1f} s"
