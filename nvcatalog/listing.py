"""Read the server's records and lists into the catalog, for the ids that it cannot answer for yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal

from nvcatalog import records
from nvcatalog._batch import Listing
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress
from nvcatalog.client import LIST_CONNECTIONS, ImageList, NeuroVault
from nvcatalog.errors import HostGivenUpError, RefusedError, ServerError, TransientError
from nvcatalog.known import Known, KnownCollection, KnownImage, Refusal
from nvcatalog.landing import Lander
from nvcatalog.plan import ToList, refusal_holds
from nvcatalog.records import Record
from nvcatalog.report import Kind, Outcome, outcome_of

_What = Literal["collection", "images", "image", "packs"]
_Step = tuple[_What, int]
# By how much the server's clock and ours may differ: who has the hour wrong has no connection to a site by https.
_CLOCKS_AGREE = timedelta(days=1)


@dataclass(frozen=True)
class _Begun:
    """What was known of a collection when its list was begun: when that was, and the record's date."""

    at: datetime
    modify_date: datetime | None

    def state_of(self, collection: KnownCollection) -> datetime | None:
        """Return which state of a collection its list shows, by the ``modify_date`` of that state.

        The record that came with the list may be newer than the list's first page, unless nothing has changed
        since long before.
        """
        came = records.modify_date_of(collection.record or {}) if collection.fresh else None
        return came if came is not None and came < self.at - _CLOCKS_AGREE else self.modify_date


class Lister:
    """Reads lists and records over a few connections, fills ``known``, and lands them as they come.

    Parameters
    ----------
    vault : NeuroVault
        Whom to ask.
    known : Known
        What the call knows; filled.
    lander : Lander
        Where rows go.
    verbose : int
        The call's verbosity.
    """

    def __init__(self, vault: NeuroVault, known: Known, lander: Lander, *, verbose: int) -> None:
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self._vault = vault
        self._known = known
        self._lander = lander
        self._verbose = verbose
        # Lists that wait for their collection's record.
        self._read: dict[int, tuple[ImageList, _Begun]] = {}
        # Lists that wait for the NIDM packs beside them: whoever is killed in between reads both again.
        self._without_packs: dict[int, tuple[ImageList, _Begun]] = {}
        # Collections whose own record is broken, and those whose list was not read to the end, with the reason.
        self._broken: dict[int, Refusal] = {}
        self._unlisted: dict[int, str] = {}

    def run(self, to_list: ToList, *, refresh_parents: bool = False) -> dict[tuple[str, int], Outcome]:
        """List, and return an outcome for each id that gave nothing.

        Parameters
        ----------
        to_list : ToList
            Which collections to list, and which images' records to read.
        refresh_parents : bool
            Whether to read the collections of single images again where their records are known.
        """
        # A collection's record and its list are independent requests: asking for both at once halves the wait.
        steps: list[_Step] = [("images", id_) for id_ in to_list.list_ids]
        for id_ in to_list.collection_ids:
            steps += [("collection", id_), ("images", id_)]
        self._take([*steps, *(("image", id_) for id_ in to_list.image_ids)])
        self._take([("packs", id_) for id_ in dict.fromkeys((*self._without_packs, *to_list.pack_ids))])
        parents = {self._known.images[id_].collection_id for id_ in to_list.image_ids if id_ in self._known.images}
        unknown = [id_ for id_ in sorted(parents) if refresh_parents or self._lacks_record(id_)]
        self._take([("collection", id_) for id_ in unknown])
        self._settle_recordless()
        return self.outcomes

    def _lacks_record(self, collection_id: int) -> bool:
        """Whether a collection's record is not here, and the server has not refused it lately."""
        collection = self._known.collections.get(collection_id)
        if collection is not None and collection.record is not None:
            return False
        refusal = self._known.refusals.get(("collection", collection_id))
        return not refusal_holds(refusal, None, mode="download_new", now=datetime.now(UTC))

    def _take(self, steps: list[_Step]) -> None:
        lane = Lane(self._ask, steps, workers=min(LIST_CONNECTIONS, len(steps)))
        with Progress("Listing", total=len(steps), verbose=self._verbose, unit="list") as progress:
            for put in in_parallel([lane], stop=self._vault.stop):
                put()
                self._lander.land_if_due()
                progress.step(put.func not in (self._put_page, self._forget_packs, self._put_packs))

    # In the workers: ask, and yield what the main thread shall do with the answer.

    def _ask(self, step: _Step) -> Iterator[partial[None]]:
        what, id_ = step
        try:
            if what == "images":
                yield from self._ask_for_list(id_)
            elif what == "packs":
                yield partial(self._forget_packs, id_)
                for page, _ in self._vault.packs_of(id_):
                    yield partial(self._put_packs, id_, page)
                yield partial(self._put_list_with_packs, id_)
            elif what == "collection":
                yield partial(self._put_collection, self._vault.collection(id_))
            else:
                image = self._known.images.get(id_)
                collection_id = image.collection_id if image else self._known.parents.get(id_)
                yield partial(self._put_image, self._vault.image(id_, collection_id))
        except (RefusedError, TransientError, HostGivenUpError) as error:
            yield partial(self._put_trouble, what, id_, error)

    def _ask_for_list(self, collection_id: int) -> Iterator[partial[None]]:
        begun = _Begun(datetime.now(UTC), self._modify_date("collection", collection_id))
        last = ImageList()
        for page, listing in self._vault.images_of(collection_id):
            yield partial(self._put_page, collection_id, page)
            last = listing
        yield partial(self._put_list, collection_id, last, begun)

    # In the main thread

    def _put_collection(self, record: Record) -> None:
        id_ = records.record_id(record)
        former = self._known.collections.get(id_) or KnownCollection(id_, None)
        self._known.collections[id_] = replace(former, record=record, fresh=True)
        self._forget_refusal("collection", id_)
        self._lander.batch.add_record("collection", record)
        if id_ in self._read:
            self._put_list(id_, *self._read.pop(id_))

    def _put_page(self, collection_id: int, page: Iterable[Record]) -> None:
        for record in page:
            self._put_image(as_listed(record, collection_id))

    def _put_image(self, record: Record) -> None:
        id_, collection_id = records.record_id(record), records.collection_id_of(record)
        image = self._known.images.setdefault(id_, KnownImage(id_, collection_id, record))
        image.collection_id, image.source, image.fetched_at = collection_id, record, datetime.now(UTC)
        image.gone, image.fresh = False, True
        refusal = self._known.refusals.get(("image", id_))
        if refusal is not None and refusal.modify_date is None:
            self._forget_refusal("image", id_)  # it was about the record, which is here now
        self.outcomes.pop(("image", id_), None)  # without a token it may be refused
        self._lander.batch.add_record("image", record)

    def _forget_packs(self, collection_id: int) -> None:
        self._lander.batch.forget_packs(collection_id)

    def _put_no_packs(self, id_: int, error: ServerError) -> None:
        """Have a list read again whose packs could not be had; what it says of images holds."""
        if id_ in self._without_packs:
            self._put_list_with_packs(id_)
            collection = self._known.collections[id_]
            collection.complete = False
            count = collection.listed_count or 0
            unread = Listing(id_, datetime.now(UTC), count, complete=False, image_ids=frozenset(), names_all=False)
            self._lander.batch.listings.append(unread)
        self.outcomes["collection", id_] = Outcome("collection", id_, "failed", f"its NIDM packs: {error}")

    def _put_packs(self, collection_id: int, page: Iterable[Record]) -> None:
        for record in page:
            self._known.packs[records.record_id(record)] = collection_id, record
            self._lander.batch.add_pack(record, collection_id)

    def _put_list_with_packs(self, collection_id: int) -> None:
        if collection_id in self._without_packs:
            self._put_whole_list(self._known.collections[collection_id], *self._without_packs.pop(collection_id))

    def _put_list(self, collection_id: int, listing: ImageList, begun: _Begun) -> None:
        """Note that a list was read to the end, once the collection's own record is there to note it in."""
        collection = self._known.collections.get(collection_id)
        if collection is None or collection.record is None:
            self._read[collection_id] = listing, begun
        elif _holds_packs(collection.record, listing):
            self._without_packs[collection_id] = listing, begun
        else:
            self._put_whole_list(collection, listing, begun)

    def _put_whole_list(self, collection: KnownCollection, listing: ImageList, begun: _Begun) -> None:
        collection_id, modified = collection.collection_id, begun.state_of(collection)
        now = datetime.now(UTC)
        collection.complete, collection.listed_count = listing.complete, listing.count
        collection.listed_at, collection.listed_modify_date = now, modified
        # An image that the server cannot render is in the list by its place only: any missing one may be it.
        names_all = not listing.broken
        ids = frozenset(listing.ids)
        self._lander.batch.listings.append(
            Listing(collection_id, now, listing.count, listing.complete, ids, names_all, modified)
        )
        self._put_broken(collection, listing, now)
        if listing.complete and names_all:
            self._mark_gone(collection_id, listing)
        if not listing.complete:
            trouble = Outcome("collection", collection_id, "failed", shortfall(listing))
            self.outcomes.setdefault(("collection", collection_id), trouble)  # the record's trouble says more

    def _put_broken(self, collection: KnownCollection, listing: ImageList, now: datetime) -> None:
        """Remember the places of records that the server cannot render, and forget the former ones."""
        id_ = collection.collection_id
        modified = records.modify_date_of(collection.record or {})
        self._forget_refusal("position", id_)
        self._known.positions[id_] = [
            Refusal(
                "position",
                id_,
                "broken_on_server",
                f"record {place} of collection {id_}",
                modified,
                now,
                place,
            )
            for place in listing.broken
        ]
        for refusal in self._known.positions[id_]:
            self._lander.batch.add_refusal(refusal)

    def _settle_recordless(self) -> None:
        """Decide about collections whose own record did not come, now that their lists have come or failed.

        That a record is broken is remembered, so that the collection is left alone for a while: not before its
        images are known.
        """
        for id_, (listing, _) in self._read.items():
            self._put_broken(KnownCollection(id_, None), listing, datetime.now(UTC))
            if not listing.complete:
                self._unlisted[id_] = shortfall(listing)
        for id_, refusal in self._broken.items():
            if id_ in self._unlisted:
                self._forget_refusal("collection", id_)
                reason = f"its list: {self._unlisted[id_]}; its record: {refusal.reason}"
                self.outcomes["collection", id_] = Outcome("collection", id_, "failed", reason)
            else:
                self._put_refusal(refusal)

    def _mark_gone(self, collection_id: int, listing: ImageList) -> None:
        for image in self._known.images.values():
            if image.collection_id == collection_id and image.image_id not in listing.ids:
                image.gone = True

    def _forget_refusal(self, kind: str, id_: int) -> None:
        known = (
            self._known.positions.pop(id_, None)
            if kind == "position"
            else self._known.refusals.pop((kind, id_), None)
        )
        if known:
            self._lander.batch.heal(kind, id_)

    def _put_trouble(self, what: _What, id_: int, error: ServerError) -> None:
        kind: Kind = "image" if what == "image" else "collection"
        lasting = isinstance(error, RefusedError) and error.lasting
        if what == "images" and not lasting:
            self._unlisted[id_] = str(error)
        if what == "packs":
            self._put_no_packs(id_, error)
            return
        if what == "images" and (kind, id_) in self.outcomes:
            return  # of a collection's two requests the record's own says best what is wrong, first or last
        if what == "image" and (image := self._known.images.get(id_)) and image.fresh:
            return  # its collection's list has it
        outcome = outcome_of(kind, id_, error)
        if lasting:
            modified = self._modify_date(kind, id_)
            refusal = Refusal(kind, id_, outcome.status, str(error), modified, datetime.now(UTC))
            if what == "collection" and outcome.status == "broken_on_server":
                self._broken[id_] = refusal
            else:
                self._put_refusal(refusal)
        self.outcomes[kind, id_] = outcome

    def _put_refusal(self, refusal: Refusal) -> None:
        self._known.refusals[refusal.kind, refusal.id] = refusal
        self._lander.batch.add_refusal(refusal)

    def _modify_date(self, kind: str, id_: int) -> datetime | None:
        known = self._known.images.get(id_) if kind == "image" else self._known.collections.get(id_)
        return records.modify_date_of(known.record) if known and known.record else None


def _holds_packs(collection: Record, listing: ImageList) -> bool:
    """Whether a collection counts more than its images: it counts NIDM packs too."""
    number = collection.get("number_of_images")
    return listing.complete and isinstance(number, int) and number > listing.count


def as_listed(record: Record, collection_id: int) -> Record:
    """Return a record that belongs to the collection whose list it came from, whatever it says itself."""
    try:
        named = records.collection_id_of(record)
    except ValueError:
        named = None
    return record if named == collection_id else {**record, "collection_id": collection_id}


def shortfall(listing: ImageList) -> str:
    """Say what a list lacks that is not complete."""
    listed = len(listing.ids) + len(listing.broken)
    if not listing.steady:
        return f"it changed while it was listed, {listed} images seen; call again"
    return f"the server counts {listing.count} images and listed {listed}; call again"
