"""Fetch what belongs beside the maps of an answer: label files, surfaces, packs of NIDM results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from nvcatalog import extras, lookup, proving, records, sidecars, storage
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

    Attributes
    ----------
    bytes : int
        How many came.
    """

    def __init__(self, request: Request, store: Store, known: Known, lander: Lander, servers: Servers) -> None:
        self.bytes = 0
        self._request = request
        self._store = store
        self._known = known
        self._lander = lander
        self._servers = servers
        self._asked: list[tuple[int, Extra]] = []
        self._here: dict[tuple[int, str], LocalFile] = {}
        self._modified: dict[int, datetime | None] = {}
        self._outcomes: dict[tuple[str, int], Outcome] = {}

    @property
    def _folder(self) -> Path:
        return self._store.folder

    def plan(self, image_ids: Iterable[int]) -> list[tuple[int, Extra]]:
        """Return which files are to be fetched, with their collections; of the others, note what they are."""
        self._asked = list(self._wanted(list(image_ids)))
        self._here = lookup.files_of(self._store, {extra.item_id for _, extra in self._asked})
        refused = lookup.refused_extras(self._store, {extra.item_id for _, extra in self._asked})
        return [each for each in self._asked if not self._settled(*each, refused)]

    def run(self, image_ids: Iterable[int], *, verbose: int) -> list[Outcome]:
        """Fetch what the records of these images, and the packs they are in, name; return an outcome for each."""
        to_fetch = self.plan(image_ids)
        lane = Lane(self._move, to_fetch, workers=min(self._servers.max_workers, len(to_fetch)))
        with Progress("Fetching extras", total=len(to_fetch), verbose=verbose) as progress:
            for put in in_parallel([lane], stop=self._servers.stop):
                put()
                progress.step()
                self._lander.land_if_due()
        return [self._outcomes[extra.kind, extra.item_id] for _, extra in self._asked]

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
            proof = extras.download(self._servers.files, extra, self._folder, place=place)
        except _TROUBLES as error:
            yield partial(self._put_trouble, extra, error)
        else:
            yield partial(self._put, extra, proof)

    # In the main thread

    def _put(self, extra: Extra, proof: proving.Proof) -> None:
        self._lander.batch.add_file(extra.item_id, extra.path, proof, origin="neurovault", kind=extra.kind)
        self._lander.batch.heal(extra.kind, extra.item_id)
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
