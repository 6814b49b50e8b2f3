"""Fetch what belongs beside the maps of an answer: label files, surfaces, packs of NIDM results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from nvcatalog import _replaced, extras, lookup, proving, records, sidecars, storage
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress
from nvcatalog._store import Store
from nvcatalog.errors import HostGivenUpError, RefusedError, TransientError
from nvcatalog.extras import Extra
from nvcatalog.known import Known, LocalFile, Refusal
from nvcatalog.landing import Lander
from nvcatalog.plan import Request, refusal_holds
from nvcatalog.report import Outcome, Status, outcome_of
from nvcatalog.servers import Servers

# The kind of extra file that an image lacks whose pack is unknown.
_PACK: extras.Kind = "nidm_zip"
_TROUBLES = (RefusedError, TransientError, HostGivenUpError, *sidecars.IN_THE_WAY)


class Besides:
    """Plans, moves and lands the extra files of one call.

    Parameters
    ----------
    request : Request
        What the call asks for.
    store : Store
        The catalog, which knows what is here and what was refused.
    known : Known
        The records of the images.
    lander : Lander
        Where rows go.
    servers : Servers
        Whom to ask.
    listed : mapping
        What went wrong with lists in this call, by kind and id.

    Attributes
    ----------
    bytes : int
        How many came.
    """

    def __init__(
        self,
        request: Request,
        store: Store,
        known: Known,
        lander: Lander,
        servers: Servers,
        listed: Mapping[tuple[str, int], Outcome],
    ) -> None:
        self.bytes = 0
        self._request = request
        self._store = store
        self._known = known
        self._lander = lander
        self._servers = servers
        self._listed = listed
        self._packless: list[Outcome] = []
        self._asked: list[tuple[int, Extra]] = []
        self._here: dict[tuple[int, str], LocalFile] = {}
        self._marks: dict[tuple[int, str], Path] = {}  # left on files that have replaced others
        self._modified: dict[int, datetime | None] = {}
        self._outcomes: dict[tuple[str, int], Outcome] = {}

    @property
    def _folder(self) -> Path:
        return self._store.folder

    def packs_to_list(self, image_ids: Iterable[int]) -> tuple[int, ...]:
        """Return the collections of images that came in NIDM packs which nobody has listed here."""
        if self._request.mode == "offline":
            return ()
        unknown = (id_ for id_, refusal in self._without_pack(image_ids) if refusal is None)
        ids = {self._known.images[id_].collection_id for id_ in unknown}
        return tuple(sorted(id_ for id_ in ids if ("collection", id_) not in self._listed))

    def plan(self, image_ids: Iterable[int]) -> list[tuple[int, Extra]]:
        """Return which files are to be fetched, with their collections; of the others, note what they are."""
        ids = list(image_ids)
        self._asked = list(self._wanted(ids))
        self._packless = [self._judge_packless(*each) for each in self._without_pack(ids)]
        self._here = lookup.files_of(self._store, {extra.item_id for _, extra in self._asked})
        refused = lookup.refused_extras(self._store, {extra.item_id for _, extra in self._asked})
        return [each for each in self._asked if not self._settled(*each, refused)]

    def run(self, image_ids: Iterable[int], *, verbose: int) -> list[Outcome]:
        """Fetch what the records of these images, and the packs they are in, name; return an outcome for each."""
        to_fetch = self.plan(image_ids)
        if to_fetch:
            self._lander.expect_files()
        lane = Lane(self._move, to_fetch, workers=min(self._servers.max_workers, len(to_fetch)))
        with Progress("Fetching extras", total=len(to_fetch), verbose=verbose) as progress:
            for put in in_parallel([lane], stop=self._servers.stop):
                put()
                progress.step()
                self._lander.land_if_due()
        return [self._outcomes[extra.kind, extra.item_id] for _, extra in self._asked] + self._packless

    def _without_pack(self, image_ids: Iterable[int]) -> list[tuple[int, Refusal | None]]:
        """Return the images that came in a NIDM pack which is unknown here, with what is remembered of that."""
        records_of = {id_: self._known.images[id_].record for id_ in image_ids}
        ids = [id_ for id_, record in records_of.items() if extras.is_of_pack(record)]
        packs = lookup.packs(self._store, ids, ()) | self._known.packs if ids else {}
        packed = {row["image_id"] for id_, pack in packs.values() for row in records.pack_rows(pack, id_)}
        lacking = [id_ for id_ in ids if id_ not in packed]
        refused = lookup.refused_extras(self._store, lacking) if lacking else {}
        found = {id_: refused.get((_PACK, id_)) for id_ in lacking}
        now, mode = datetime.now(UTC), self._request.mode
        return [
            (
                id_,
                each if refusal_holds(each, records.modify_date_of(records_of[id_]), mode=mode, now=now) else None,
            )
            for id_, each in found.items()
        ]

    def _judge_packless(self, image_id: int, refusal: Refusal | None) -> Outcome:
        """Say why an image's NIDM pack does not come; that its collection lists none is remembered."""
        image = self._known.images[image_id]
        trouble = self._listed.get(("collection", image.collection_id))
        status: Status = "failed"
        if refusal is not None:
            status, reason = refusal.status, refusal.reason
        elif self._request.mode == "offline":
            status, reason = "missing_offline", "its NIDM pack was never listed"
        elif trouble is not None:
            reason = trouble.reason or trouble.status
        else:
            status, reason = "not_found", f"collection {image.collection_id} lists no NIDM pack with this image"
            modified = records.modify_date_of(image.record)
            self._lander.batch.add_refusal(Refusal(_PACK, image_id, status, reason, modified, datetime.now(UTC)))
        return Outcome("extra", image_id, status, f"{_PACK}: {reason}")

    def _wanted(self, image_ids: list[int]) -> Iterator[tuple[int, Extra]]:
        """Yield the extra files with their collections."""
        for id_ in image_ids:
            image = self._known.images[id_]
            self._modified[id_] = records.modify_date_of(image.record)
            for extra in extras.of_image(image.record, image.collection_id):
                yield image.collection_id, extra
        packs = lookup.packs(self._store, image_ids, self._request.collection_ids) | self._known.packs
        images = set(image_ids)
        for collection_id, record in packs.values():
            held = {row["image_id"] for row in records.pack_rows(record, collection_id)}
            if collection_id not in self._request.collection_ids and not held & images:
                continue
            self._modified[records.record_id(record)] = records.modify_date_of(record)
            for extra in extras.of_pack(record, collection_id):
                yield collection_id, extra

    def _settled(
        self,
        collection_id: int,
        extra: Extra,
        refused: dict[tuple[str, int], Refusal],
    ) -> bool:
        """Note what need not or cannot be asked for, and say so."""
        is_here = self._is_here(extra)
        refusal = refused.get((extra.kind, extra.item_id))
        if is_here and self._request.mode != "overwrite":
            self._note(extra, "cached")
        elif refusal is not None and self._holds(refusal, extra):
            self._note(extra, refusal.status, refusal.reason)
        elif self._request.mode == "offline":
            self._note(extra, "missing_offline", "not here")
        else:
            return False
        return True

    def _is_here(self, extra: Extra) -> bool:
        file = self._here.get((extra.item_id, extra.kind))
        return file is not None and storage.why_not_here(self._folder / file.path, file.size) is None

    def _holds(self, refusal: Refusal, extra: Extra) -> bool:
        return refusal_holds(
            refusal, self._modified.get(extra.item_id), mode=self._request.mode, now=datetime.now(UTC)
        )

    def _note(self, extra: Extra, status: Status, reason: str | None = None) -> None:
        about = f"{extra.kind}: {reason}" if reason else extra.kind
        self._outcomes[extra.kind, extra.item_id] = Outcome("extra", extra.item_id, status, about)

    # In the workers

    def _move(self, wanted: tuple[int, Extra]) -> Iterator[partial[None]]:
        collection_id, extra = wanted
        try:
            place = self._servers.neurovault.place_of(extra.link, collection_id)
            before = partial(self._mark_replaced, extra)
            proof = extras.download(self._servers.files, extra, self._folder, place=place, before=before)
        except _TROUBLES as error:
            yield partial(self._put_trouble, extra, error)
        else:
            yield partial(self._put, extra, proof)

    def _mark_replaced(self, extra: Extra) -> None:
        """Leave a mark where a file is about to take the place of another, or of one that has a row."""
        key = extra.item_id, extra.kind
        if key in self._here or storage.is_file(self._folder / extra.path):
            self._marks[key] = _replaced.mark(self._folder, *key)

    # In the main thread

    def _put(self, extra: Extra, proof: proving.Proof) -> None:
        self._lander.batch.add_file(extra.item_id, extra.path, proof, origin="neurovault", kind=extra.kind)
        self._lander.batch.heal(extra.kind, extra.item_id)
        if mark := self._marks.pop((extra.item_id, extra.kind), None):
            self._lander.marks.append(mark)
        self._lander.folders.add((self._folder / extra.path).parent)
        self.bytes += proof.size
        self._note(extra, "downloaded")

    def _put_trouble(self, extra: Extra, error: Exception) -> None:
        outcome = outcome_of("extra", extra.item_id, error)
        if isinstance(error, RefusedError) and error.lasting:
            modified = self._modified.get(extra.item_id)
            refusal = Refusal(extra.kind, extra.item_id, outcome.status, str(error), modified, datetime.now(UTC))
            self._lander.batch.add_refusal(refusal)
        self._note(extra, "kept_old" if self._is_here(extra) else outcome.status, outcome.reason)
