"""Choose images by filters: first those that are here, then those the catalog knows, then the server's."""

from __future__ import annotations

import difflib
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import Any

from nvcatalog import lookup, records, storage, unmatched
from nvcatalog._progress import Progress
from nvcatalog._store import Store
from nvcatalog.client import FILTERS, CollectionList, NeuroVault
from nvcatalog.errors import CatalogLockedError, HostGivenUpError, RefusedError, TransientError, shown, storable
from nvcatalog.filter_sql import TermsInSQL, to_sql
from nvcatalog.filters import Filter, ResultFilter, keep_all, keeps
from nvcatalog.known import Known, KnownCollection, KnownImage, MapKind
from nvcatalog.landing import Lander
from nvcatalog.listing import Lister
from nvcatalog.lookup import CollectionState, ImageRow
from nvcatalog.plan import REFUSAL_LASTS, Request, ToList, is_old, refusal_holds, what_to_list
from nvcatalog.records import Record
from nvcatalog.report import Outcome

# Records read from the catalog at once, more and more of them: the first may be all that is wanted. Few where
# their collections may have to be listed again first.
_FIRST_AT_ONCE, _MOST_AT_ONCE, _FEW_AT_ONCE = 500, 8000, 25
# Rows of images that are not here read from the catalog at once: the first may be all that is wanted.
_FIRST_ROWS, _MOST_ROWS = 2000, 200_000
# Collections listed at once: few at first, since the first may hold all that is wanted.
_FIRST_GROUP, _LARGEST_GROUP = 2, 64


@dataclass(frozen=True)
class Wanted:
    """What is asked for: terms and a function for collections, terms and a function for images."""

    collection_terms: Mapping[str, Any]
    collection_filter: Filter
    image_terms: Mapping[str, Any]
    image_filter: Filter

    def __post_init__(self) -> None:
        """Make the filters, so that terms that cannot be are refused before anything is done."""
        _ = self.collections, self.images

    @cached_property
    def collections(self) -> ResultFilter:
        """The filter of collections."""
        return ResultFilter(self.collection_terms, self.collection_filter)

    @cached_property
    def images(self) -> ResultFilter:
        """The filter of images."""
        return ResultFilter(self.image_terms, self.image_filter)

    @property
    def collection_id(self) -> int | None:
        """The one collection that is asked for by its id, if it is."""
        id_ = self.collection_terms.get("id")
        return id_ if type(id_) is int and 0 < id_ < 2**31 else None

    @property
    def server_filters(self) -> dict[str, str | int]:
        """What the server can be asked to look for: plain values, under names that it may know."""
        terms: dict[str, Any] = {name: self.collection_terms.get(name) for name in FILTERS}
        return {name: value for name, value in terms.items() if _can_be_sent(value)}

    def described(self) -> dict[str, Any]:
        """Return it in words, for the catalog's own record."""
        terms = {"collection_terms": self.collection_terms, "image_terms": self.image_terms}
        texts: dict[str, Any] = {
            name: {storable(key): shown(value) for key, value in given.items()} for name, given in terms.items()
        }
        functions = {"collection_filter": self.collection_filter, "image_filter": self.image_filter}
        return texts | {name: shown(each) for name, each in functions.items() if each is not keep_all}


def _can_be_sent(value: object) -> bool:
    """Whether a term's value fits into a request: text that is any, and whole numbers that a server may know."""
    if type(value) is str:
        return value != "" and value == storable(value)
    return type(value) is int and abs(value) < 2**63


class Chooser:
    """Chooses images for one call.

    Parameters
    ----------
    wanted : Wanted
        What is asked for.
    request : Request
        How: its mode, and which maps count as here.
    store : Store
        The catalog.
    known : Known
        What the call knows; the images chosen are entered.
    lander : Lander
        Where records go that the server gives.
    vault : NeuroVault
        Whom to ask.

    Attributes
    ----------
    outcomes : dict
        What listing says of collections, as :class:`~nvcatalog.listing.Lister` gives it.
    troubled : tuple of int
        Collections that could not be looked through to the end.
    """

    def __init__(
        self, wanted: Wanted, request: Request, store: Store, known: Known, lander: Lander, vault: NeuroVault
    ) -> None:
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self.troubled: tuple[int, ...] = ()
        self._wanted = wanted
        self._request = request
        self._store = store
        self._known = known
        self._lander = lander
        self._vault = vault
        self._now = datetime.now(UTC)
        self._lost: dict[Outcome, None] = {}
        self._tried: set[int] = set()
        self._listed_now: set[int] = set()
        self._collections: dict[int, bool] = {}  # whether the filter keeps it

    def choose(self, *, verbose: int) -> Generator[int]:
        """Yield the ids of images that the filters keep, none twice; what is yielded is in ``known``."""
        overwrite = self._request.mode == "overwrite"
        if not overwrite:
            yield from self._from_catalog()
        if self._request.mode != "offline":
            yield from self._from_server(verbose)
        if overwrite:
            yield from self._from_catalog()  # what the server has no more is returned as it was

    @property
    def lost(self) -> list[Outcome]:
        """What could not be looked at: records that a filter fails on, places in the list of collections."""
        return list(self._lost)

    def no_longer_kept(self, image_ids: Iterable[int]) -> set[int]:
        """Return which of these have been given another record since they were chosen, one that is not kept."""
        renewed = (self._known.images[id_] for id_ in image_ids if self._known.images[id_].fresh)
        return {i.image_id for i in renewed if not self._judge(self._wanted.images, "image", i.image_id, i.record)}

    def warnings(self) -> list[str]:
        """Return a line for each field asked for that no record has."""
        images = {*records.IMAGE_FIELDS, "id", "gender"} - {"image_id"}
        collections = {*records.COLLECTION_FIELDS, "id", "DOI", "preprint_DOI"} - {
            "collection_id",
            "doi",
            "doi_raw",
        }
        lines = []
        for name in self._wanted.image_terms.keys() - images:
            seen = any(name in image.record for image in self._known.images.values())
            if not seen and not lookup.has_extra_field(self._store, name, "images"):
                lines.append(f"No image here has a field {name!r}{_nearest(name, images)}")
        strange = [
            name
            for name in self._wanted.collection_terms.keys() - collections
            if not lookup.has_extra_field(self._store, name, "collections")
        ]
        return lines + [f"No collection here has a field {n!r}{_nearest(n, collections)}" for n in strange]

    def why_none(self) -> list[str]:
        """Say in lines what each term keeps alone, where no image was chosen."""
        wanted = self._wanted
        given = {"collection_filter": wanted.collection_filter, "image_filter": wanted.image_filter}
        functions = [name for name, function in given.items() if function is not keep_all]
        try:
            return unmatched.explain(self._store, wanted.image_terms, wanted.collection_terms, functions)
        except CatalogLockedError:  # the answer needs no more of the catalog, and so waits for nobody who has it
            return []

    # From the catalog

    def _from_catalog(self) -> Iterator[int]:
        """Yield what the catalog knows, images here first."""
        if self._lander.batch:  # what was taken over could not land: it is not in the catalog
            yield from self._kept(_by_place(self._known.images.values()), self._known)
        rows, at_once = chain.from_iterable(self._rows()), _FIRST_AT_ONCE
        while batch := list(islice(rows, at_once if self._request.max_age is None else _FEW_AT_ONCE)):
            at_once = min(2 * at_once, _MOST_AT_ONCE)
            known = self._store.known([], [row.image_id for row in batch])
            yield from self._from_old_collections(known)
            certain = {row.image_id for row in batch if row.certain}
            found = [known.images[row.image_id] for row in batch if row.image_id in known.images]
            yield from self._kept(found, known, certain)

    def _rows(self) -> Iterator[Iterable[ImageRow]]:
        """Yield images that the terms may keep: those here, then the others in ever larger pieces."""
        images = to_sql(self._wanted.image_terms, records.IMAGE_FIELDS, prefix="i", extra="extra")
        collections = to_sql(self._wanted.collection_terms, records.COLLECTION_FIELDS, prefix="c", extra="extra")
        terms = (
            _as_far_as_known(images, self._wanted.image_filter),
            _as_far_as_known(collections, self._wanted.collection_filter),
        )
        kind = self._request.kind
        yield lookup.images_here_that(self._store, *terms, kind=kind)
        size, rows = _FIRST_ROWS, [ImageRow(0, 0, certain=False)]
        while rows and self._request.mode != "overwrite":
            rows = lookup.other_images_that(self._store, *terms, kind=kind, after=rows[-1], limit=size)
            size = min(4 * size, _MOST_ROWS)
            yield rows if self._request.mode == "download_new" else self._lying_here(rows)

    def _lying_here(self, rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
        """Yield those whose files are in their places without a row: a killed call left them there, or nilearn."""
        for collection_id, images in groupby(rows, key=attrgetter("collection_id")):
            folder = self._store.folder / storage.collection_folder(collection_id)
            try:
                names = {path.name for path in folder.iterdir()}
            except OSError:
                continue
            for row in images:
                kinds: tuple[MapKind, ...] = ("original", self._request.kind)
                places = (storage.map_path(collection_id, row.image_id, kind) for kind in kinds)
                if not names.isdisjoint(place.rpartition("/")[2] for place in places):
                    yield row

    def _from_old_collections(self, known: Known) -> Iterator[int]:
        """List again the collections that were listed longer ago than the caller allows."""
        if self._request.mode == "offline":
            return
        collections = [c for id_, c in known.collections.items() if id_ not in self._listed_now]
        old = [c.collection_id for c in collections if is_old(c, self._request, self._now)]
        if old:
            yield from self._listed(ToList(collection_ids=tuple(old)), old)

    # From the server

    def _from_server(self, verbose: int) -> Iterator[int]:
        if self._wanted.collection_id is not None:
            yield from self._from_one_collection(self._wanted.collection_id)
            return
        states = lookup.collection_states(self._store)
        with Progress("Looking through", total=1, verbose=verbose, unit="collection") as progress:
            group: list[Record] = []
            size = _FIRST_GROUP
            for record in self._collections_wanted(states, progress):
                if self._must_list(record, states):
                    group.append(record)
                else:
                    self._note_broken(records.record_id(record), states)
                if len(group) >= size:
                    yield from self._from_group(group)
                    group, size = [], min(2 * size, _LARGEST_GROUP)
            yield from self._from_group(group)

    def _from_one_collection(self, id_: int) -> Iterator[int]:
        known = self._store.known([id_], [])
        request = replace(self._request, collection_ids=(id_,), image_ids=())
        to_list = what_to_list(request, known, now=self._now)
        if to_list and id_ not in self._listed_now:
            yield from self._listed(to_list, [id_])
        elif ("collection", id_) in known.refusals or id_ in known.positions:
            self._note_troubles(known, [id_])

    def _collections_wanted(self, states: Mapping[int, CollectionState], progress: Progress) -> Iterator[Record]:
        """Yield the records of collections that the filter keeps, page by page as they come."""
        whole = CollectionList()
        try:
            for page, whole in self._vault.collections(self._wanted.server_filters):
                progress.expect(whole.count)
                for record in page:
                    self._land(record, states)
                    progress.step()
                    if self._keeps_collection(records.record_id(record), record, again=True):
                        yield record
                self._lander.land_if_due()
        except RefusedError as error:
            if error.http_status != 400:  # that is how the server says that it knows no such owner
                self._lose_list(str(error))
        except (TransientError, HostGivenUpError) as error:
            self._lose_list(str(error))
        for place in whole.broken:
            reason = f"record {place} of the list of collections"
            self._lose(Outcome("collection", None, "broken_on_server", reason))
        if whole.counts and not whole.complete:
            seen = len(whole.ids) + len(whole.broken)
            self._lose_list(f"the server counts {whole.count} and listed {seen}; call again")

    def _lose_list(self, reason: str) -> None:
        self._lose(Outcome("collection", None, "failed", f"the list of collections: {reason}"))

    def _land(self, record: Record, states: Mapping[int, CollectionState]) -> None:
        state = states.get(records.record_id(record))
        if (
            state is None
            or state.modify_date != records.modify_date_of(record)
            or self._request.mode == "overwrite"
        ):
            self._lander.batch.add_record("collection", record)

    def _must_list(self, record: Record, states: Mapping[int, CollectionState]) -> bool:
        """Whether the catalog cannot answer for a collection's images as the server has them now."""
        id_ = records.record_id(record)
        if record.get("number_of_images") == 0 or id_ in self._listed_now:
            return False
        state = states.get(id_)
        if self._request.mode == "overwrite" or state is None or not state.complete:
            return True
        max_age = self._request.max_age
        too_old = max_age is not None and (state.listed_at is None or state.listed_at < self._now - max_age)
        # A list that lacks broken records is read again in time: they may be whole by now.
        too_old |= state.broken_at is not None and state.broken_at <= self._now - REFUSAL_LASTS
        return too_old or state.listed_modify_date != records.modify_date_of(record)

    def _note_broken(self, id_: int, states: Mapping[int, CollectionState]) -> None:
        """Note the records that a collection's list lacks since the server cannot render them."""
        if id_ in states and states[id_].broken_at is not None and id_ not in self._listed_now:
            self._note_troubles(self._store.known([id_], []), [id_])

    def _from_group(self, group: Iterable[Record]) -> Iterator[int]:
        ids = [records.record_id(record) for record in group]
        if ids:
            yield from self._listed(ToList(list_ids=tuple(ids)), ids, {records.record_id(r): r for r in group})

    def _listed(
        self, to_list: ToList, collection_ids: list[int], fresh: Mapping[int, Record] | None = None
    ) -> Iterator[int]:
        """List collections, and yield the images in them that the filters keep."""
        self._listed_now.update(collection_ids)
        known = self._store.known(collection_ids, [])
        for id_, new in (fresh or {}).items():
            former = known.collections.get(id_) or KnownCollection(id_, None)
            known.collections[id_] = replace(former, record=new, fresh=True)
        refused = [id_ for id_ in collection_ids if self._is_refused(known, id_)]
        asked = replace(to_list, list_ids=tuple(id_ for id_ in to_list.list_ids if id_ not in refused))
        outcomes = Lister(self._vault, known, self._lander, verbose=0).run(asked)
        self.outcomes |= outcomes
        self._known.packs |= known.packs
        broken = [id_ for id_, places in known.positions.items() if places]
        self._note_troubles(known, [*refused, *(id_ for _, id_ in outcomes), *broken])
        # What was chosen by an earlier record has a newer one now, by which it is judged again at the end.
        for id_ in known.images.keys() & self._known.images.keys():
            if known.images[id_].fresh:
                self._known.images[id_].source, self._known.images[id_].fresh = known.images[id_].source, True
        for id_ in known.collections.keys() & self._known.collections.keys() & set(collection_ids):
            self._known.collections[id_] = known.collections[id_]
        # What the catalog still had of it before, this call need not ask for.
        self._tried.update(id_ for id_, image in known.images.items() if image.gone and not image.is_here)
        for id_ in collection_ids:
            collection = known.collections.get(id_)
            record = collection.record if collection else None
            if record is not None and self._keeps_collection(id_, record, again=not fresh):
                yield from self._kept([known.images[image_id] for image_id in known.images_of(id_)], known)

    def _is_refused(self, known: Known, collection_id: int) -> bool:
        refusal = known.refusals.get(("collection", collection_id))
        return refusal_holds(refusal, None, mode=self._request.mode, now=self._now)

    def _note_troubles(self, known: Known, ids: Iterable[int]) -> None:
        self.troubled = tuple(dict.fromkeys((*self.troubled, *ids)))
        for id_ in ids:
            self._take_collection(known, id_)

    # Judging

    def _kept(self, images: Iterable[KnownImage], known: Known, certain: Iterable[int] = ()) -> Iterator[int]:
        for image in images:
            if image.image_id in self._tried:
                continue
            is_certain = image.image_id in certain and self._collections.get(image.collection_id, True)
            is_kept = is_certain or self._keeps(image, known)
            if is_kept or image.fresh:
                self._tried.add(image.image_id)  # an older record is judged again when it is renewed
            if is_kept:
                self._take(image, known)
                yield image.image_id

    def _keeps(self, image: KnownImage, known: Known) -> bool:
        collection = known.collections.get(image.collection_id)
        if collection is None or collection.record is None:
            return False
        if not self._keeps_collection(image.collection_id, collection.record):
            return False
        return self._judge(self._wanted.images, "image", image.image_id, image.record)

    def _keeps_collection(self, id_: int, record: Record, *, again: bool = False) -> bool:
        if again or id_ not in self._collections:
            self._collections[id_] = self._judge(self._wanted.collections, "collection", id_, record)
        return self._collections[id_]

    def _judge(self, wanted: ResultFilter, kind: Any, id_: int, record: Record) -> bool:
        try:
            return keeps(wanted, record)
        except Exception as error:  # noqa: BLE001 - a function of the caller's may raise anything; the rest goes on
            self._lose(Outcome(kind, id_, "failed", f"the filter raised {shown(error)} for its record"))
            return False

    def _lose(self, outcome: Outcome) -> None:
        self._lost[outcome] = None

    def _take(self, image: KnownImage, known: Known) -> None:
        """Enter a chosen image, and what is known about it, into what the call knows."""
        id_ = image.image_id
        self._known.images[id_] = image
        if id_ in known.with_words:
            self._known.with_words.add(id_)
        if id_ in known.own_words:
            self._known.own_words[id_] = known.own_words[id_]
        for kind in ("image", "words"):
            if refusal := known.refusals.get((kind, id_)):
                self._known.refusals[kind, id_] = refusal
        self._take_collection(known, image.collection_id)

    def _take_collection(self, known: Known, id_: int) -> None:
        if id_ in known.collections:
            self._known.collections[id_] = known.collections[id_]
        if id_ in known.positions:
            self._known.positions[id_] = known.positions[id_]
        if refusal := known.refusals.get(("collection", id_)):
            self._known.refusals["collection", id_] = refusal


def _by_place(images: Iterable[KnownImage]) -> list[KnownImage]:
    """Return the images that are here, by collection and id."""
    return sorted((i for i in images if i.is_here), key=lambda image: (image.collection_id, image.image_id))


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _as_far_as_known(terms: TermsInSQL, function: Filter) -> TermsInSQL:
    """Return terms of which SQL knows no row for certain where a function, too, must be asked."""
    return terms if function is keep_all else terms._replace(certain="FALSE")
