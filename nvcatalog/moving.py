"""Move files and terms here, in parallel and checked; no database is open meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from nvcatalog import _replaced, neurosynth, proving, records, resample, sidecars, storage
from nvcatalog._batch import Words
from nvcatalog._http import Health
from nvcatalog._locks import Turns
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress, logger
from nvcatalog.errors import HostGivenUpError, RefusedError, ResampleError, TransientError
from nvcatalog.known import Known, KnownCollection, KnownImage, LocalFile, MapKind, Refusal
from nvcatalog.landing import Lander
from nvcatalog.plan import RESAMPLED, Plan, Request
from nvcatalog.records import Record
from nvcatalog.report import Kind, Outcome, Status, outcome_of
from nvcatalog.servers import Servers

# The pool of connections holds the limit; a few more workers keep it busy while others sync a file to the disk.
_SPARE = 4
# What ends one request and no more; a full disk is not among them.
_TROUBLES = (RefusedError, TransientError, HostGivenUpError, ResampleError, *sidecars.IN_THE_WAY)
_BY_ANOTHER = "fetched by another process meanwhile"
# Resampling is work for a core, and holds Python's lock for some of it.
_RESAMPLERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class _Arrival:
    """How many bytes came, what is here now, and why it could not be resampled."""

    size: int
    proofs: dict[MapKind, proving.Proof]
    trouble: ResampleError | None = None


class Mover:
    """Downloads files, resamples them, and asks for terms; writes what nilearn would have written beside them.

    Parameters
    ----------
    request : Request
        What the call asks for.
    folder : Path
        The data folder.
    known : Known
        What the call knows; filled.
    lander : Lander
        Where rows go.
    servers : Servers
        Whom to ask.
    verbose : int
        The call's verbosity.
    """

    def __init__(
        self, request: Request, folder: Path, known: Known, lander: Lander, servers: Servers, *, verbose: int
    ) -> None:
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self.bytes = 0
        self._request = request
        self._folder = folder
        self._known = known
        self._lander = lander
        self._servers = servers
        self._verbose = verbose
        self._turns = Turns(folder)
        self._turns_of_words = Turns(folder, "words")
        self._before: dict[int, tuple[int, int, int] | None] = {}
        self._words_before: dict[int, tuple[int, int, int] | None] = {}
        self._marks: dict[int, list[Path]] = {}  # left on files that have replaced others, by image

    def run(self, plan: Plan) -> dict[tuple[str, int], Outcome]:
        """Fetch the files and terms that a plan says are missing, and return an outcome for each."""
        images, here = plan.to_fetch, plan.to_resample
        words = [id_ for id_ in plan.images if id_ in plan.words_to_fetch]
        self._before = {id_: self._doubted(self._known.images[id_]) for id_ in images}
        self._words_before = {id_: storage.identity(self._words_path(self._known.images[id_])) for id_ in words}
        if images or words or here:
            self._lander.expect_files()
        self._write_collections({self._known.images[id_].collection_id for id_ in (*images, *words, *here)})
        lanes = [
            Lane(self._move_file, images, workers=min(self._servers.max_workers + _SPARE, len(images))),
            Lane(self._move_words, words, workers=min(neurosynth.CONNECTIONS, len(words))),
            Lane(self._resample_here, here, workers=min(_RESAMPLERS, len(here))),
        ]
        total = len(images) + len(words) + len(here)
        with Progress("Fetching", total=total, verbose=self._verbose) as progress:
            for put in in_parallel(lanes, stop=self._servers.stop):
                put()
                progress.step(put.func not in (self._put_record, self._put_parent, self._put_parent_trouble))
                self._lander.land_if_due()
        return self.outcomes

    def _write_collections(self, collection_ids: Iterable[int]) -> None:
        """Write the collections' sidecars where they are missing or their records have been read anew."""
        for id_ in collection_ids:
            collection = self._known.collections.get(id_)
            path = self._folder / storage.collection_sidecar_path(id_)
            if collection and collection.record and (collection.fresh or not storage.is_file(path)):
                try:
                    sidecars.write_collection(self._folder, id_, collection.record)
                except sidecars.IN_THE_WAY as error:
                    logger.info("%s", error)  # its images will meet the same, and have outcomes to say so

    # In the workers: fetch, and yield what the main thread shall do with it.

    def _move_file(self, image_id: int) -> Iterator[partial[None]]:
        return self._in_turn(self._turns, "image", image_id, self._servers.neurovault_health, self._file)

    def _move_words(self, image_id: int) -> Iterator[partial[None]]:
        return self._in_turn(self._turns_of_words, "words", image_id, self._servers.neurosynth_health, self._words)

    def _in_turn(
        self,
        turns: Turns,
        kind: Kind,
        image_id: int,
        health: Health,
        move: Callable[[KnownImage], Iterator[partial[None]]],
    ) -> Iterator[partial[None]]:
        image = self._known.images[image_id]
        try:
            with turns.of(image_id, health.pause):
                yield from move(image)
        except HostGivenUpError as error:  # while another process was waited for
            yield partial(self._put_trouble, kind, image, error)

    def _file(self, image: KnownImage) -> Iterator[partial[None]]:
        proof = self._put_here_meanwhile(image)
        if proof is None:
            yield from self._fetch_file(image)
        else:
            yield partial(self._put_taken, image, proof)

    def _target(self, image: KnownImage) -> Path:
        return self._folder / storage.map_path(image.collection_id, image.image_id, self._request.kind)

    def _doubted(self, image: KnownImage) -> tuple[int, int, int] | None:
        """Return what stands for the file that will not do, where one may be in this image's place."""
        will_do = (
            self._request.mode != "overwrite"
            and image.map(self._request.kind) is None
            and records.file_size_of(image.record)
        )
        return None if will_do else storage.identity(self._target(image))

    def _put_here_meanwhile(self, image: KnownImage) -> proving.Proof | None:
        """Prove the file that another process has put in its place since this call looked."""
        path = self._target(image)
        if storage.identity(path) in (None, self._before[image.image_id]):
            return None
        try:
            proof = proving.prove(path)
        except (proving.NotWholeError, OSError) as error:
            logger.info("%s is downloaded all the same: %s", path, error)
            return None
        announced = records.file_size_of(image.record)
        is_another = self._request.kind == "original" and announced not in (None, proof.size)
        return None if is_another else proof

    def _fetch_file(self, image: KnownImage) -> Iterator[partial[None]]:
        try:
            try:
                arrival = self._arrive(image, image.record)
            except (RefusedError, TransientError):
                if image.fresh:
                    raise
                # The record is of an earlier day: a replaced file has a new link, and the old one is gone.
                record = self._servers.neurovault.image(image.image_id, image.collection_id)
                is_another = _names_another_file(record, image.record)
                there = replace(image, source=record, collection_id=records.collection_id_of(record))
                yield from self._ask_for_parent(there.collection_id)
                yield partial(self._put_record, image, record)
                if not is_another:
                    raise
                arrival = self._arrive(there, record)
                image.written = record
        except _TROUBLES as error:
            yield partial(self._put_trouble, "image", image, error)
        else:
            yield partial(self._put_download, image, arrival)

    def _ask_for_parent(self, collection_id: int) -> Iterator[partial[None]]:
        """Read the record of the collection that an image has moved to, where it is not known."""
        known = self._known.collections.get(collection_id)
        if known is not None:
            return
        try:
            record = self._servers.neurovault.collection(collection_id)
        except (RefusedError, TransientError, HostGivenUpError) as error:
            yield partial(self._put_parent_trouble, collection_id, error)
        else:
            yield partial(self._put_parent, record)

    def _arrive(self, image: KnownImage, record: Record) -> _Arrival:
        """Download an image's file, and resample it where that is asked for: it stays then only where one was."""
        target = self._folder / storage.image_path(image.collection_id, image.image_id)
        if self._request.kind == "original":
            original = self._download(image, record, target)
            return _Arrival(original.size, {"original": original})
        with storage.scratch(target) as passing:
            original = self._download(image, record, passing)
            try:
                arrival = _Arrival(original.size, {"resampled": self._resample(image, record, passing)})
            except ResampleError as error:
                arrival = _Arrival(original.size, {}, error)
            # One that cannot be resampled stays: else every call would download it again to find out.
            if arrival.trouble or self._has_map(image, "original"):
                passing.replace(target)
                arrival.proofs["original"] = original
            return arrival

    def _resample(self, image: KnownImage, record: Record, source: Path) -> proving.Proof:
        target = self._folder / storage.map_path(image.collection_id, image.image_id, "resampled")
        chosen = resample.interpolation_of(record, self._request.interpolation)
        return self._resampled(image, source, target, chosen)

    def _resampled(self, image: KnownImage, source: Path, target: Path, chosen: str) -> proving.Proof:
        before = partial(self._mark_replaced, image, "resampled")
        return resample.resample_map(source, target, interpolation=chosen, before=before)

    def _mark_replaced(self, image: KnownImage, kind: MapKind) -> None:
        """Leave a mark where a file is about to take the place of another, or of one that has a row."""
        path = self._folder / storage.map_path(image.collection_id, image.image_id, kind)
        if ((file := image.map(kind)) and not file.is_shared) or storage.is_file(path):
            mark = _replaced.mark(self._folder, image.image_id, kind)
            self._marks.setdefault(image.image_id, []).append(mark)

    def _resample_here(self, image_id: int) -> Iterator[partial[None]]:
        image = self._known.images[image_id]
        original = image.file.path if image.file else storage.image_path(image.collection_id, image_id)
        source = self._folder / original
        try:
            if image.file and image.file.is_shared:  # the record beside it is the base's
                sidecars.write_image(self._folder, image.collection_id, image_id, image.record)
            proof = self._resample(image, image.record, source)
        except _TROUBLES as error:
            yield partial(self._put_trouble, "image", image, error)
        else:
            yield partial(self._put_resampled, image, proof)

    def _download(self, image: KnownImage, record: Record, target: Path) -> proving.Proof:
        url = self._servers.neurovault.file_url(record)
        # The sidecar goes first: nilearn may then find a record without its file, never a file without its record.
        sidecars.write_image(self._folder, image.collection_id, image.image_id, record)
        image.written = record
        size, before = records.file_size_of(record), partial(self._mark_replaced, image, "original")
        return storage.download(self._servers.files, url, target, announced_size=size, before=before)

    def _words(self, image: KnownImage) -> Iterator[partial[None]]:
        decoded = self._words_here_meanwhile(image)
        if decoded is None:
            yield self._fetch_words(image)
        else:
            yield partial(self._put_words, image, decoded, "cached", _BY_ANOTHER)

    def _words_path(self, image: KnownImage) -> Path:
        return self._folder / storage.words_path(image.collection_id, image.image_id)

    def _words_here_meanwhile(self, image: KnownImage) -> neurosynth.Decoded | None:
        """Read the answer that another process has put in its place since this call looked."""
        path = self._words_path(image)
        if storage.identity(path) in (None, self._words_before[image.image_id]):
            return None
        try:
            return neurosynth.read_answer(storage.read_file(path))
        except (ValueError, OSError) as error:
            logger.info("%s is asked for all the same: %s", path, error)
            return None

    def _fetch_words(self, image: KnownImage) -> partial[None]:
        try:
            decoded = self._servers.neurosynth.decode(image.image_id)
            storage.write_whole(self._words_path(image), decoded.text)
        except _TROUBLES as error:
            return partial(self._put_trouble, "words", image, error)
        return partial(self._put_words, image, decoded, "downloaded")

    # In the main thread

    def _put_record(self, image: KnownImage, record: Record) -> None:
        former, image.collection_id = image.collection_id, records.collection_id_of(record)
        image.source, image.fresh = record, True
        self._lander.batch.add_record("image", record)
        if former != image.collection_id:
            self._move_sidecars(image, former)

    def _move_sidecars(self, image: KnownImage, former: int) -> None:
        """Take what is known of an image along to its new collection's folder: nobody shall find it in both."""
        place = image.collection_id, image.image_id
        try:
            sidecars.write_image(self._folder, *place, image.record)
            self._remove(storage.sidecar_path(former, image.image_id))
            words = self._folder / storage.words_path(former, image.image_id)
            words.replace(self._folder / storage.words_path(*place))
        except FileNotFoundError:
            pass  # it has no terms here
        except sidecars.IN_THE_WAY as error:
            logger.info("%s", error)  # its file will meet the same, and have an outcome to say so

    def _put_parent(self, record: Record) -> None:
        id_ = records.record_id(record)
        self._known.collections[id_] = KnownCollection(id_, record, fresh=True)
        self._heal("collection", id_)
        self._lander.batch.add_record("collection", record)
        self._write_collections([id_])

    def _put_parent_trouble(self, id_: int, error: Exception) -> None:
        self.outcomes["collection", id_] = outcome_of("collection", id_, error)

    def _put_download(self, image: KnownImage, arrival: _Arrival) -> None:
        former = image.file
        for kind, proof in arrival.proofs.items():
            self._put_map(image, kind, proof)
        self.bytes += arrival.size
        # Of what it was made nobody knows where no original was here before, and to overwrite is to doubt it.
        original = arrival.proofs.get("original")
        if original is not None and "resampled" not in arrival.proofs:
            is_other = former.sha256 != original.sha256 if former else self._request.mode == "overwrite"
            if is_other:
                self._drop_resampled(image)
        self._heal("image", image.image_id)
        self.outcomes["image", image.image_id] = Outcome("image", image.image_id, "downloaded")
        if arrival.trouble:
            self._put_trouble("image", image, arrival.trouble)

    def _put_taken(self, image: KnownImage, proof: proving.Proof) -> None:
        self._put_map(image, self._request.kind, proof)
        self._heal("image", image.image_id)
        self.outcomes["image", image.image_id] = Outcome("image", image.image_id, "cached", _BY_ANOTHER)

    def _put_resampled(self, image: KnownImage, proof: proving.Proof) -> None:
        self._put_map(image, "resampled", proof)
        self.outcomes["image", image.image_id] = Outcome("image", image.image_id, "cached", "resampled here")

    def _put_map(self, image: KnownImage, kind: MapKind, proof: proving.Proof) -> None:
        origin = "neurovault"
        if kind == "resampled":
            origin = f"{RESAMPLED}{resample.interpolation_of(image.record, self._request.interpolation)}"
        path = storage.map_path(image.collection_id, image.image_id, kind)
        if (former := image.map(kind)) and former.path != path:
            self._remove(former.path)  # where it was before the image moved to another collection
        image.put_map(kind, LocalFile(path, proof.size, "present", proof.sha256, origin))
        self._lander.batch.add_file(image.image_id, path, proof, origin=origin, kind=kind)
        self._lander.marks += self._marks.pop(image.image_id, [])
        self._lander.folders.add((self._folder / path).parent)

    def _drop_resampled(self, image: KnownImage) -> None:
        """Remove what was made of a map that another has replaced."""
        if image.resampled is not None:
            self._remove(image.resampled.path)
            image.resampled = None
            self._lander.batch.drop_file(image.image_id, "resampled")

    def _remove(self, path: str) -> None:
        if Path(path).is_absolute():
            return  # it is the base folder's
        with suppress(OSError):  # somebody else's: its row goes all the same, so it is no part of an answer
            (self._folder / path).unlink(missing_ok=True)

    def _put_words(
        self, image: KnownImage, decoded: neurosynth.Decoded, status: Status, how: str | None = None
    ) -> None:
        self.bytes += len(decoded.text) if status == "downloaded" else 0
        self._heal("words", image.image_id)
        own = self._known.own_words.get(image.image_id)
        if own not in (None, decoded.reference):  # nobody else could give them again
            reason = (
                f"its terms are {own!r}, of add_words, which alone replaces them; Neurosynth's are in their file"
            )
            self.outcomes["words", image.image_id] = Outcome("words", image.image_id, "kept_old", reason)
            return
        self._lander.batch.words[image.image_id] = Words(decoded.weights, decoded.reference)
        self._known.with_words.add(image.image_id)
        self.outcomes["words", image.image_id] = Outcome("words", image.image_id, status, how)

    def _heal(self, kind: Kind, id_: int) -> None:
        if self._known.refusals.pop((kind, id_), None):
            self._lander.batch.heal(kind, id_)

    def _put_trouble(self, kind: Kind, image: KnownImage, error: Exception) -> None:
        id_ = image.image_id
        if kind == "image":
            _replaced.clear(self._marks.pop(id_, []))  # what was to be replaced is not
        outcome = outcome_of(kind, id_, error)
        if isinstance(error, RefusedError) and error.lasting:
            modified = records.modify_date_of(image.record)
            refusal = Refusal(kind, id_, outcome.status, str(error), modified, datetime.now(UTC))
            self._known.refusals[kind, id_] = refusal
            self._lander.batch.add_refusal(refusal)
        is_here = self._has_map(image, self._request.kind) if kind == "image" else id_ in self._known.with_words
        self.outcomes[kind, id_] = outcome._replace(status="kept_old") if is_here else outcome

    def _has_map(self, image: KnownImage, kind: MapKind) -> bool:
        file = image.map(kind)
        return file is not None and storage.why_not_here(self._folder / file.path, file.size) is None


def _names_another_file(new: Record, old: Record) -> bool:
    return any(new.get(name) != old.get(name) for name in ("file", "file_size"))
