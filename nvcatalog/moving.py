"""Move files and terms here, in parallel and checked; no database is open meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from nvcatalog import neurosynth, records, sidecars, storage
from nvcatalog._batch import Words
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress, logger
from nvcatalog.errors import HostGivenUpError, RefusedError, TransientError
from nvcatalog.known import Known, KnownImage, LocalFile, Refusal
from nvcatalog.landing import Lander
from nvcatalog.records import Record
from nvcatalog.report import Kind, Outcome, outcome_of
from nvcatalog.servers import Servers

# The pool of connections holds the limit; a few more workers keep it busy while others sync a file to the disk.
_SPARE = 4
# What ends one request and no more; a full disk is not among them.
_TROUBLES = (RefusedError, TransientError, HostGivenUpError, *sidecars.IN_THE_WAY)


class Mover:
    """Downloads files and asks for terms; writes what nilearn would have written beside them.

    Parameters
    ----------
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

    def __init__(self, folder: Path, known: Known, lander: Lander, servers: Servers, *, verbose: int) -> None:
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self.bytes = 0
        self._folder = folder
        self._known = known
        self._lander = lander
        self._servers = servers
        self._verbose = verbose

    def run(self, images: Iterable[int], words: Iterable[int]) -> dict[tuple[str, int], Outcome]:
        """Fetch these images' files and these images' terms, and return an outcome for each."""
        images, words = list(images), list(words)
        self._write_collections({self._known.images[id_].collection_id for id_ in (*images, *words)})
        lanes = [
            Lane(self._move_file, images, workers=min(self._servers.max_workers + _SPARE, len(images))),
            Lane(self._move_words, words, workers=min(neurosynth.CONNECTIONS, len(words))),
        ]
        total = len(images) + len(words)
        with Progress("Fetching", total=total, verbose=self._verbose) as progress:
            for put in in_parallel(lanes, stop=self._servers.stop):
                put()
                progress.step(put.func != self._put_record)
                self._lander.land_if_due()
        return self.outcomes

    def _write_collections(self, collection_ids: Iterable[int]) -> None:
        """Write the collections' sidecars where they are missing or their records have been read anew."""
        for id_ in collection_ids:
            collection = self._known.collections.get(id_)
            path = self._folder / storage.collection_sidecar_path(id_)
            if collection and collection.record and (collection.fresh or not path.exists()):
                try:
                    sidecars.write_collection(self._folder, id_, collection.record)
                except sidecars.IN_THE_WAY as error:
                    logger.warning("%s", error)  # its images will meet the same, and have outcomes to say so

    # In the workers: fetch, and yield what the main thread shall do with it.

    def _move_file(self, image_id: int) -> Iterator[partial[None]]:
        image = self._known.images[image_id]
        try:
            try:
                proof = self._download(image, image.record)
            except (RefusedError, TransientError):
                if image.fresh:
                    raise
                # The record is of an earlier day: a replaced file has a new link, and the old one is gone.
                record = self._servers.neurovault.image(image_id)
                yield partial(self._put_record, image, record)
                if not _names_another_file(record, image.record):
                    raise
                proof = self._download(image, record)
        except _TROUBLES as error:
            yield partial(self._put_trouble, "image", image, error)
        else:
            yield partial(self._put_file, image, proof)

    def _download(self, image: KnownImage, record: Record) -> storage.Proof:
        url = self._servers.neurovault.file_url(record)
        target = self._folder / storage.image_path(image.collection_id, image.image_id)
        # The sidecar goes first: nilearn may then find a record without its file, never a file without its record.
        sidecars.write_image(self._folder, image.collection_id, image.image_id, record)
        size = record.get("file_size")
        return storage.download(
            self._servers.files, url, target, announced_size=size if isinstance(size, int) else None
        )

    def _move_words(self, image_id: int) -> Iterator[partial[None]]:
        image = self._known.images[image_id]
        try:
            decoded = self._servers.neurosynth.decode(image_id)
            storage.write_whole(self._folder / storage.words_path(image.collection_id, image_id), decoded.text)
        except _TROUBLES as error:
            yield partial(self._put_trouble, "words", image, error)
        else:
            yield partial(self._put_words, image, decoded)

    # In the main thread

    def _put_record(self, image: KnownImage, record: Record) -> None:
        image.source, image.fresh = record, True
        self._lander.batch.add_record("image", record)

    def _put_file(self, image: KnownImage, proof: storage.Proof) -> None:
        path = storage.image_path(image.collection_id, image.image_id)
        image.file = LocalFile(path, proof.size, "present", proof.sha256)
        self._lander.batch.add_file(image.image_id, path, proof, origin="neurovault")
        self._lander.folders.add((self._folder / path).parent)
        self._heal("image", image.image_id)
        self.bytes += proof.size
        self.outcomes["image", image.image_id] = Outcome("image", image.image_id, "downloaded")

    def _put_words(self, image: KnownImage, decoded: neurosynth.Decoded) -> None:
        self._lander.batch.words[image.image_id] = Words(decoded.weights, decoded.reference)
        self._known.with_words.add(image.image_id)
        self._heal("words", image.image_id)
        self.bytes += len(decoded.text)
        self.outcomes["words", image.image_id] = Outcome("words", image.image_id, "downloaded")

    def _heal(self, kind: Kind, id_: int) -> None:
        if self._known.refusals.pop((kind, id_), None):
            self._lander.batch.heal(kind, id_)

    def _put_trouble(self, kind: Kind, image: KnownImage, error: Exception) -> None:
        id_ = image.image_id
        outcome = outcome_of(kind, id_, error)
        if isinstance(error, RefusedError) and error.lasting:
            modified = records.modify_date_of(image.record)
            refusal = Refusal(kind, id_, outcome.status, str(error), modified, datetime.now(UTC))
            self._known.refusals[kind, id_] = refusal
            self._lander.batch.add_refusal(refusal)
        is_here = self._has_file(image) if kind == "image" else id_ in self._known.with_words
        self.outcomes[kind, id_] = outcome._replace(status="kept_old") if is_here else outcome

    def _has_file(self, image: KnownImage) -> bool:
        file = image.file
        return file is not None and storage.why_not_here(self._folder / file.path, file.size) is None


def _names_another_file(new: Record, old: Record) -> bool:
    return any(new.get(name) != old.get(name) for name in ("file", "file_size"))
