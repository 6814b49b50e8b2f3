"""One call on its way: ask, list, plan, move, land, publish, answer. The only module that knows this order."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nvcatalog import __version__, lookup, records, resample, snapshot, storage
from nvcatalog._batch import Batch
from nvcatalog._progress import summarise
from nvcatalog._store import AbsentStore, Store
from nvcatalog.accounts import Notes, settle
from nvcatalog.adopt import Adopter, mend_sidecars, prove_files, root_of_folder, sidecar_ids
from nvcatalog.base import LayeredStore
from nvcatalog.beside import Besides
from nvcatalog.bunch import add_words, build_bunch
from nvcatalog.choosing import Chooser, Wanted
from nvcatalog.errors import (
    BlockedWarning,
    CatalogLockedError,
    CatalogWarning,
    FilterWarning,
    FolderWarning,
    IncompleteWarning,
    NoSpaceError,
    SelectionWarning,
    SnapshotWarning,
    WordsWarning,
    shown,
)
from nvcatalog.known import Known, MapKind, Refusal
from nvcatalog.landing import Lander
from nvcatalog.listing import Lister
from nvcatalog.moving import Mover
from nvcatalog.options import Options
from nvcatalog.plan import Cost, Plan, Request, ToList, cost_of, make_plan, wanted_images, what_to_list
from nvcatalog.private import Opener
from nvcatalog.report import Outcome, Report, counts_text, missing_text
from nvcatalog.servers import Servers, check_server

if TYPE_CHECKING:
    from sklearn.utils import Bunch


class Call:
    """One call on its way through the steps.

    Parameters
    ----------
    request : Request
        What is asked for by id.
    options : Options
        How the call goes.
    folder : Path
        The data folder.
    function : str
        Who was called, for the catalog's own record.
    parameters : dict
        What it was called with, likewise.
    opener : Opener or None
        What is asked for by tokens of private collections, among ids.
    wanted : Wanted or None
        What is asked for by filters.
    max_images : int or None
        How many of those at most; None for all.
    reads : Store or None
        What the call reads, where that is more than the folder's own catalog: with a base behind it.

    Attributes
    ----------
    plan : Plan
        What was decided, once :meth:`run` is done.
    image_ids : list of int
        The images of the answer.
    report : Report
        What happened to every id.
    lost : list of Outcome
        What was lost before the call began, for the report.
    notes : list of str
        What else the report is to say.
    """

    def __init__(
        self,
        request: Request,
        options: Options,
        folder: Path,
        *,
        function: str,
        parameters: dict[str, Any],
        opener: Opener | None = None,
        wanted: Wanted | None = None,
        max_images: int | None = None,
        reads: Store | None = None,
    ) -> None:
        self.folder = folder
        self.store = Store(folder)
        self.reads = reads or self.store
        self.plan = Plan()
        self.image_ids: list[int] = []
        self.report = Report()
        self.options = options
        self._function, self._parameters = function, parameters
        self._wanted, self._max_images = wanted, max_images
        self._started_at = datetime.now(UTC)
        self.lost: list[Outcome] = []
        self.notes: list[str] = []
        self._warnings: list[tuple[str, type[Warning]]] = []  # issued last: where they are errors, rows are safe
        obstacle = self.store.what_cannot_be_written()
        if request.mode != "offline" and obstacle:
            text = f"{obstacle} cannot be written, so this call works offline: only what is there is returned"
            self._warnings.append((text, FolderWarning))
            request = replace(request, mode="offline")
        if request.kind == "resampled":
            resample.require()
        self.request = request
        self._can_write = obstacle is None
        self.lander = Lander(self.store, writable=self._can_write)
        self._opener = opener
        self.known = self._look(request)
        self._chooser: Chooser | None = None
        self._had: set[int] = set()  # of what was chosen, the images that the catalog had files of
        self._notes = Notes()
        self._extras: list[Outcome] = []
        self._bytes = 0

    def warn(self, text: str | None, category: type[Warning]) -> None:
        """Warn of something when the call is over."""
        if text is not None:
            self._warnings.append((text, category))

    def answer(self) -> Bunch | Plan:
        """Go all the way, and return what the user gets: the answer, or the plan where only that was wanted."""
        options = self.options
        with Servers(
            timeout_s=options.timeout_s,
            max_workers=options.max_workers,
            verbose=options.verbose,
            folder=self.folder if self._can_write else None,
        ) as servers:
            self.run(servers)
        if options.dry_run:
            return self.plan
        bunch = build_bunch(
            self.folder, self.known, self.image_ids, self.report, self.request.kind, base=self._base
        )
        if self.request.words and options.vectorize_words:
            add_words(bunch, self.reads, self.lander.batch, self.image_ids, sparse=options.sparse_words)
        return bunch

    def run(self, servers: Servers) -> None:
        """List, plan, move, land and publish; what has arrived is landed however this ends, on Ctrl-C too."""
        online = self.request.mode != "offline"
        if self.lander.writable:
            self.store.check_not_lost()
        try:
            self._take_over()
            if online:
                if self.lander.writable and not self.options.dry_run:
                    self.store.get_ready()  # while the server is waited for
                # Of what nilearn left, this call may have taken nothing over.
                ours = self.known.server_root or root_of_folder(self.folder)
                root = check_server(servers.neurovault_root, ours, self.folder)
                if isinstance(self.reads, LayeredStore):
                    self.reads.check_server(servers.neurovault_root)
                self.lander.server_root = None if self.known.server_root else root
                if servers.is_mirror_of(root):
                    servers.neurovault.stand_for(lookup.root_in_links(self.reads, root))
                if self._asks_for_anything:
                    storage.make_folder(self.folder)
            self._open(servers)
            for request in self._rounds(servers):
                self._one_round(request, servers)
            self._finish_plan()
            if online and not self.options.dry_run:
                mend_sidecars(self.folder, self.known, self.plan.images, self.lander)
            self._fetch_extras(servers)
            for id_ in servers.neurovault.made_public:
                self.lander.batch.forget_token(id_)
            self._settle(asked=servers.asked)
            if servers.asked:
                self._record_call(servers)
        finally:
            self.lander.finish()
        if self.lander.landed or (servers.asked and self.store.exists and snapshot.is_behind(self.store)):
            self.warn(snapshot.publish(self.store), SnapshotWarning)
        self._tell(servers)

    @property
    def _asks_for_anything(self) -> bool:
        """Whether anything may come of this call; a condition may have left no image."""
        return bool(self.request.collection_ids or self.request.image_ids or self._wanted or self._opener)

    def _look(self, request: Request) -> Known:
        """Read what the catalog knows of the ids asked for."""
        self.request = self._opener.request(request) if self._opener else request
        try:
            known = self.reads.known(self.request.collection_ids, self.request.image_ids)
        except CatalogLockedError as error:
            if self._wanted is not None:
                raise  # filters ask the catalog
            known = self._do_without_catalog(error)
        return self._opener.tell(known) if self._opener else known

    def _do_without_catalog(self, error: CatalogLockedError) -> Known:
        """Go on with what nilearn's layout tells while somebody keeps the catalog; the next call takes it over."""
        self.store = AbsentStore(self.folder, error)
        if isinstance(self.reads, LayeredStore):
            self.reads.do_without_front(error)
        else:
            self.reads = self.store
        self.lander.writable = False
        self.warn(f"This call does without the catalog, and with the files in its folder: {error}", CatalogWarning)
        known = self.reads.known(self.request.collection_ids, self.request.image_ids)
        known.server_root = root_of_folder(self.folder)
        return known

    def _open(self, servers: Servers) -> None:
        """Use the tokens of private collections, those given and those used before."""
        vault = servers.neurovault
        for id_, token in self.known.tokens.items():
            vault.open_with(id_, token)
        opened = (
            self._opener.open(None if self.request.mode == "offline" else vault, self.lander)
            if self._opener
            else set()
        )
        if opened:
            former, self.known = self.known, self._look(self.request)
            self.known.images |= former.images
            self.known.collections |= former.collections
            self.known.server_root = former.server_root
        named = {("collection", id_) for id_ in opened} | {
            ("image", i) for i, c in self.known.parents.items() if c in opened
        }
        named |= {("image", i.image_id) for i in self.known.images.values() if i.collection_id in opened}
        for kind, id_ in named & self.known.refusals.keys():  # without the token it was refused
            del self.known.refusals[kind, id_]
            self.lander.batch.heal(kind, id_)

    # The steps

    def _take_over(self) -> None:
        """Look, for what the catalog does not know, where nilearn would have put it."""
        adopter = Adopter(self.folder, self.known, self.lander)
        if self._wanted is not None:
            incomplete = self._folders_with_strangers(adopter)
        else:
            collections = self.known.collections
            incomplete = [
                id_
                for id_ in self.request.collection_ids
                if id_ not in collections or not collections[id_].complete
            ]
        self._look_up(stray for id_ in incomplete for stray in sidecar_ids(self.folder, id_))
        for id_ in incomplete:
            adopter.take_collection(id_)
        adopter.take_images(id_ for id_ in self.request.image_ids if id_ not in self.known.images)
        self._note_adopted(adopter)

    def _folders_with_strangers(self, adopter: Adopter) -> list[int]:
        """Return the collections whose folders hold images that the catalog has never heard of."""
        complete = lookup.complete_collections(self.reads)
        found = {id_: sidecar_ids(self.folder, id_) for id_ in adopter.collections_here() if id_ not in complete}
        known = lookup.images_with_record(self.reads, (id_ for ids in found.values() for id_ in ids))
        return [id_ for id_, images in found.items() if not known.issuperset(images)]

    def _look_up(self, image_ids: Iterable[int]) -> None:
        """Read what the catalog knows of these: a copy in the wrong folder must not pass for the image itself."""
        unknown = [id_ for id_ in image_ids if id_ not in self.known.images]
        if unknown:
            elsewhere = self.reads.known([], unknown)
            self.known.images |= elsewhere.images
            self.known.with_words |= elsewhere.with_words
            self.known.own_words |= elsewhere.own_words

    def _note_adopted(self, adopter: Adopter) -> None:
        """Note what was taken over, and what could not be read."""
        self._notes.taken_over |= adopter.adopted
        self._notes.words_taken_over |= adopter.adopted_words
        for outcome in adopter.troubles:
            if outcome.kind != "words" or self.request.words:
                self._notes.unreadable[outcome.kind, outcome.id] = outcome

    def _rounds(self, servers: Servers) -> Iterator[Request]:
        """List what must be listed, and yield what is to be planned and moved, piece by piece."""
        if self._wanted is None:
            if self.request.mode != "offline":
                self._list(servers)
            yield self.request
            return
        if self.lander.writable:
            self.lander.land()  # what was taken over is chosen from the catalog, too
        vault = servers.neurovault
        chooser = Chooser(self._wanted, self.request, self.reads, self.known, self.lander, vault)
        self._chooser = chooser
        with closing(chooser.choose(verbose=self.options.verbose)) as chosen:
            while (want := self._still_wanted()) != 0 and (ids := tuple(islice(chosen, want))):
                had = [id_ for id_ in ids if self.known.images[id_].can_be(self.request.kind)]
                if servers.neurovault_health.given_up and not had:
                    break  # none that follows is here either, and nothing comes from there any more
                self._had.update(had)
                yield replace(self.request, image_ids=ids)
        self._notes.outcomes |= chooser.outcomes

    def _still_wanted(self) -> int | None:
        """Return how many images of the answer are to be chosen yet; None for as many as there are."""
        if self._max_images is None:
            return None
        moved = {id_ for (kind, id_), outcome in self._notes.outcomes.items() if kind == "image" and outcome.here}
        here = {*self.plan.here, *moved} if not self.options.dry_run else range(self.plan.offered)
        return min(max(0, self._max_images - len(here)), sys.maxsize)

    def _list(self, servers: Servers) -> None:
        to_list = what_to_list(self.request, self.known, now=self._started_at)
        if to_list:
            lister = Lister(servers.neurovault, self.known, self.lander, verbose=self.options.verbose)
            self._notes.outcomes |= lister.run(to_list, refresh_parents=self.request.mode == "overwrite")

    def _one_round(self, request: Request, servers: Servers) -> None:
        self._prove(request)
        plan = self._without_unread(make_plan(request, self.known, self.folder))
        self.plan = self.plan.followed_by(plan)
        if self.options.dry_run:
            return
        self._check_space(plan)
        if plan.to_fetch or plan.words_to_fetch or plan.to_resample:
            self._move(request, plan, servers)

    def _without_unread(self, plan: Plan) -> Plan:
        """Leave out images whose record was asked for in vain: nobody answers for what its old link leads to."""
        outcomes = {id_: self._notes.outcomes.get(("image", id_)) for id_ in plan.to_fetch}
        unread = {id_: o for id_, o in outcomes.items() if o and not o.here and not self.known.images[id_].fresh}
        lost = unread.keys() - plan.here.keys()
        return replace(
            plan,
            to_fetch=tuple(id_ for id_ in plan.to_fetch if id_ not in unread),
            words_to_fetch=plan.words_to_fetch - lost,
            settled={**plan.settled, **{("image", id_): unread[id_] for id_ in sorted(lost)}},
        )

    def _finish_plan(self) -> None:
        """Put what was chosen into the order of the answer, and say what it takes where only that is wanted."""
        if self._chooser is not None:
            unwanted = self._chooser.no_longer_kept(self.plan.images)
            self.plan = replace(self.plan, images=tuple(id_ for id_ in self.plan.images if id_ not in unwanted))
        if self._wanted is not None:
            # What was here comes first, in an order that does not depend on how it came here.
            here = set() if self.request.mode == "overwrite" else {*self.plan.here, *self._had}
            place = {id_: (id_ not in here, self.known.images[id_].collection_id, id_) for id_ in self.plan.images}
            self.plan = replace(self.plan, images=tuple(sorted(self.plan.images, key=place.__getitem__)))
        self._note_absurd_sizes()
        if self.options.dry_run:
            self.plan = replace(self.plan, cost=self._cost(self.plan, lookup.bytes_per_s(self.reads)))

    def _note_absurd_sizes(self) -> None:
        absurd = [id_ for id_ in self.plan.to_fetch if records.has_absurd_size(self.known.images[id_].record)]
        if absurd:
            named = ", ".join(map(str, absurd[:5])) + (", …" if len(absurd) > 5 else "")
            most = f"{records.LARGEST_FILE / 1e9:.0f} GB"
            self.notes.append(
                f"A size of more than {most} in a record is taken for an unknown one: images {named}"
            )

    def _check_space(self, plan: Plan) -> None:
        if plan.to_fetch and not (cost := self._cost(plan, None)).fits:
            free, needed = (f"{n / 1e6:,.1f} MB" for n in (cost.free_bytes, cost.bytes_more))
            raise NoSpaceError(
                f"{self.folder} has {free} free, and the {len(plan.to_fetch)} files to fetch need {needed}. "
                "None of them was fetched: free some space, ask for less, or give another data_dir"
            )

    def _cost(self, plan: Plan, bytes_per_s: float | None) -> Cost:
        place = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        free = shutil.disk_usage(place).free
        return cost_of(plan, self.known, kind=self.request.kind, free_bytes=free, bytes_per_s=bytes_per_s)

    @property
    def _base(self) -> Path | None:
        """The base folder, where there is one."""
        return self.reads.base if isinstance(self.reads, LayeredStore) else None

    def _prove(self, request: Request) -> None:
        wanted = wanted_images(request, self.known)
        in_base = Batch()
        for kind in dict.fromkeys((request.kind, "original")):
            missing = [id_ for id_ in wanted if kind == request.kind or not self._has_map(id_, request.kind)]
            found, bad = prove_files(
                self.folder,
                self.known,
                missing,
                self.lander,
                kind=kind,
                verbose=self.options.verbose,
                in_base=in_base,
            )
            self._notes.taken_over |= found
            self._notes.bad_files |= bad
        if isinstance(self.reads, LayeredStore):
            self.reads.keep_proofs(in_base)
        if request.words and request.mode != "overwrite":
            adopter = Adopter(self.folder, self.known, self.lander)
            for id_ in wanted:
                if id_ in self.known.images and id_ not in self.known.with_words:
                    adopter.take_words(self.known.images[id_])
            self._note_adopted(adopter)

    def _has_map(self, image_id: int, kind: MapKind) -> bool:
        image = self.known.images.get(image_id)
        return image is not None and image.map(kind) is not None

    def _move(self, request: Request, plan: Plan, servers: Servers) -> None:
        mover = self._mover(request, servers)
        self._bring_records(plan)
        try:
            mover.run(plan)
        finally:
            self._notes.outcomes |= mover.outcomes
            self._bytes += mover.bytes

    def _bring_records(self, plan: Plan) -> None:
        """Land the records that only a base has, of images of which files or terms will come into this folder."""
        if not isinstance(self.reads, LayeredStore):
            return
        moving = {*plan.to_fetch, *plan.to_resample, *plan.words_to_fetch}
        if not moving:
            return
        self.lander.batch = self.reads.only_in_base(self.known, moving).followed_by(self.lander.batch)
        if root := self.lander.server_root:  # what comes is the server's, although no record of it came now
            self.lander.batch.add("catalog_info", {"key": "server_root", "value": root})

    def _mover(self, request: Request, servers: Servers) -> Mover:
        """Return who moves what a request asks for."""
        return Mover(request, self.folder, self.known, self.lander, servers, verbose=self.options.verbose)

    def _fetch_extras(self, servers: Servers) -> None:
        """Fetch what lies beside the maps; a failure of these is their own."""
        if not self.request.extras:
            return
        outcomes = self._notes.outcomes
        besides = Besides(self.request, self.reads, self.known, self.lander, servers, outcomes)
        known = [id_ for id_ in self.plan.images if id_ in self.known.images]
        if packs := besides.packs_to_list(known):
            lister = Lister(servers.neurovault, self.known, self.lander, verbose=self.options.verbose)
            outcomes |= lister.run(ToList(pack_ids=packs))
        if self.options.dry_run:
            self.plan = replace(self.plan, extras_to_fetch=len(besides.plan(known)))
            return
        self._extras = besides.run(known, verbose=self.options.verbose)
        self._bytes += besides.bytes

    def _settle(self, *, asked: bool) -> None:
        """Account for every id, and learn which images have no terms."""
        request = self.request
        if self._chooser is not None:
            request = replace(request, collection_ids=self._chooser.troubled, image_ids=self.plan.images)
        outcomes = settle(request, self.plan, self.known, self._notes)
        outcomes += [*self._extras, *self.lost]
        outcomes += [*(self._opener.lost if self._opener else []), *(self._chooser.lost if self._chooser else [])]
        if self.options.dry_run:
            moving = {*self.plan.to_fetch, *self.plan.to_resample}
            outcomes = [
                o for o in outcomes if o.kind == "collection" or (o.kind == "image" and o.id not in moving)
            ]
        if self.options.asked_mode == "overwrite" and request.mode == "offline":
            outcomes = [_not_renewed(outcome) for outcome in outcomes]
        self.report = Report(outcomes, self.notes)
        if self.options.dry_run:
            self.plan = replace(self.plan, report=self.report)
        here = {outcome.id for outcome in self.report if outcome.kind == "image" and outcome.here}
        self.image_ids = [id_ for id_ in self.plan.images if id_ in here]
        if request.words and not self.options.dry_run:
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
        self.warn(f"{text}They are rows of zeros", WordsWarning)

    def _knew_refusal(self, outcome: Outcome) -> bool:
        refusal = self.known.refusals.get((outcome.kind, cast("int", outcome.id)))
        return refusal is not None and refusal.seen_at < self._started_at

    # Afterwards

    def _record_call(self, servers: Servers) -> None:
        """Keep a record of a call that used the network, and of each id in it that was not simply here."""
        fetch_id = str(uuid.uuid4())
        counts = Counter(o.status for o in self.report if o.kind == "image")
        how = {"words": self.request.words, "dry_run": self.options.dry_run}
        self.lander.batch.add(
            "fetches",
            {
                "fetch_id": fetch_id,
                "started_at": self._started_at,
                "finished_at": datetime.now(UTC),
                "function": self._function,
                "parameters": json.dumps(self._parameters | how, default=shown),
                "mode": self.request.mode,
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
        """Say in one line how it went, and warn of what is not as asked for whatever the verbosity."""
        seconds = (datetime.now(UTC) - self._started_at).total_seconds()
        if self.options.dry_run:
            text = f"nvcatalog: {self.plan!r} (nothing fetched)"
        else:
            size = f", {self._bytes / 1e6:.1f} MB fetched" if self._bytes else ""
            counts = "; ".join(
                filter(None, (counts_text(self.report, k) for k in ("image", "words", "extra", "collection")))
            )
            nothing = "nothing asked for" if self._chooser is None else "no image matches"
            text = f"nvcatalog: {counts or nothing}{size} in {seconds:.1f} s, in {self.folder}"
        warned = {line for warning, _ in self._warnings for line in warning.splitlines()}
        for line in (text, *(note for note in self.notes if note not in warned)):  # nothing is said twice
            summarise(line, verbose=self.options.verbose)
        self._note_warnings(servers)
        for text, category in self._warnings:
            warnings.warn(text, category, stacklevel=5)

    def _note_warnings(self, servers: Servers) -> None:
        healths = (servers.neurovault_health, servers.neurosynth_health)
        notes = self.reads.notes if isinstance(self.reads, LayeredStore) else []
        self._warnings += [(text, CatalogWarning) for text in (*notes, *self.lander.troubles)]
        self._warnings += [(text, FilterWarning) for text in (self._chooser.warnings() if self._chooser else [])]
        if self._chooser and not (self.plan.images or self.report.missing or self._max_images == 0):
            none = "No image here matches." if self.request.mode == "offline" else "No image matches."
            self.warn("\n".join([none, *self._chooser.why_none()]), SelectionWarning)
        self._warnings += [(f"Blocked: {h.given_up}", BlockedWarning) for h in healths if h.blocked]
        if missing := self.report.missing:
            self.warn(missing_text(missing, given_up=[h.given_up for h in healths]), IncompleteWarning)


def _not_renewed(outcome: Outcome) -> Outcome:
    """Say of what is here that it was to be overwritten, and could not be."""
    if outcome.status not in ("cached", "adopted"):
        return outcome
    return outcome._replace(status="kept_old", reason="to be overwritten, but this call works offline")
