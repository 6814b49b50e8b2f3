"""Take over what is on disk already: what nilearn left, and what a killed call had fetched but not landed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from nvcatalog import _replaced, neurosynth, proving, records, sidecars, storage
from nvcatalog._batch import Batch, Words
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress, logger, summarise
from nvcatalog._store import Store
from nvcatalog.client import DEFAULT_ROOT
from nvcatalog.errors import CatalogWarning, DataDirError
from nvcatalog.ids import LARGEST
from nvcatalog.known import Known, KnownCollection, KnownImage, LocalFile, MapKind
from nvcatalog.landing import Lander
from nvcatalog.records import Record
from nvcatalog.report import Kind, Outcome, Report

# Unpacking and hashing leave Python's lock, so more than one core is of use.
_PROVERS = min(4, os.cpu_count() or 1)

# So many names are looked for one by one in each folder; for more it is cheaper to read what the folder holds.
_FEW = 10
# A large cache holds thousands of collections: to ask the catalog about each by itself would take minutes.
_COLLECTIONS_AT_ONCE = 500

MAP_KINDS: tuple[MapKind, ...] = get_args(MapKind)

_NAMED_FOR_ID = re.compile(r"(?:collection_|image_)([1-9][0-9]{0,9})(?:_metadata\.json)?")


class Adopter:
    """Reads sidecars and files of single collections or images into ``known`` and the catalog.

    Parameters
    ----------
    folder : Path
        The data folder.
    known : Known
        What the call knows; filled. Nothing in it is overwritten: the server's word goes before a sidecar's.
    lander : Lander
        Where rows go.
    land_as_it_goes : bool
        Whether to land while a large folder is read, rather than leave that to the caller.
    """

    def __init__(self, folder: Path, known: Known, lander: Lander, *, land_as_it_goes: bool = False) -> None:
        self.adopted: set[int] = set()
        self.adopted_words: set[int] = set()
        self.troubles: list[Outcome] = []
        self._folder = folder
        self._known = known
        self._lander = lander
        self._land_as_it_goes = land_as_it_goes

    def collections_here(self) -> list[int]:
        """Return the ids that collections' folders here are named for."""
        return [id_ for _, id_ in collection_folders(self._folder)] if self._folder.is_dir() else []

    def take_collection(self, collection_id: int) -> None:
        """Take over a collection's folder: its record, and each image that has a sidecar."""
        place = self._folder / storage.collection_folder(collection_id)
        if not place.is_dir():
            return
        self._take_collection_record(collection_id)
        for sidecar in sorted(place.glob("image_*_metadata.json")):
            self._take_sidecar(sidecar, collection_id)
            if self._land_as_it_goes:
                self._lander.land_if_due()

    def take_images(self, image_ids: Iterable[int]) -> None:
        """Take over single images, in whatever collection's folder they are."""
        wanted = {f"image_{id_}_metadata.json" for id_ in image_ids}
        if not wanted or not self._folder.is_dir():
            return
        for place, collection_id in collection_folders(self._folder):
            found = sorted(_names_in(place, wanted))
            if found:
                self._take_collection_record(collection_id)
            for name in found:
                self._take_sidecar(place / name, collection_id)

    def _take_collection_record(self, collection_id: int) -> None:
        known = self._known.collections.get(collection_id)
        if known is not None and known.record is not None:
            return
        record = self._read(
            "collection", collection_id, self._folder / storage.collection_sidecar_path(collection_id)
        )
        if record is None:
            return
        self._known.collections[collection_id] = KnownCollection(collection_id, record)
        self._note_root(record)
        self._lander.batch.add_record("collection", record, source="sidecar")

    def _take_sidecar(self, sidecar: Path, collection_id: int) -> None:
        image_id = _id_in(sidecar.name)
        if image_id is None:
            return
        image = self._known.images.get(image_id)
        if image is None:
            record = self._read("image", image_id, sidecar)
            if record is None:
                return
            image = KnownImage(image_id, collection_id, {**record, "collection_id": collection_id})
            self._known.images[image_id] = image
            self._note_root(record)
            self._lander.batch.add_record("image", image.record, source="sidecar")
        if image.file is None and image.collection_id == collection_id:
            self._take_files(image)
        if image_id not in self._known.with_words:
            self.take_words(image)

    def _take_files(self, image: KnownImage) -> None:
        """Register an image's files by their size; they are proven when they are first part of an answer."""
        for kind in MAP_KINDS:
            name = storage.map_path(image.collection_id, image.image_id, kind)
            found = _stat(self._folder / name)
            if found is None:
                continue
            size = found.st_size
            image.put_map(kind, LocalFile(name, size, "unverified", origin="nilearn"))
            self.adopted.add(image.image_id)
            row = {
                "image_id": image.image_id,
                "kind": kind,
                "path": name,
                "size": size,
                "state": "unverified",
            }
            self._lander.batch.add("files", row | {"origin": "nilearn", "downloaded_at": _time_of(found)})

    def take_words(self, image: KnownImage) -> bool:
        """Take over Neurosynth's answer for an image, if there is a good one; a bad one is as good as none."""
        path = self._folder / storage.words_path(image.collection_id, image.image_id)
        try:
            decoded = neurosynth.read_answer(storage.read_file(path))
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            self._complain("words", image.image_id, path, error)
            return False
        self._known.with_words.add(image.image_id)
        self.adopted_words.add(image.image_id)
        self._lander.batch.words[image.image_id] = Words(decoded.weights, decoded.reference)
        return True

    def _read(self, kind: Kind, id_: int, path: Path) -> Record | None:
        """Read a sidecar as the record it was; one bad file costs at most its own image."""
        try:
            return sidecars.read(path, id_)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._complain(kind, id_, path, error)
            return None

    def _complain(self, kind: Kind, id_: int, path: Path, error: Exception) -> None:
        reason = f"{path} cannot be taken over: {error}"
        if isinstance(error, ValueError):
            whose = f"the terms of image {id_}" if kind == "words" else f"{kind} {id_}"
            reason += f". Fetching {whose} online writes it anew"
        self.troubles.append(Outcome(kind, id_, "failed", reason))
        logger.info("%s", self.troubles[-1].reason)

    def _note_root(self, record: Record) -> None:
        """Remember which server a folder came from: the one its records' links name."""
        if self._known.server_root is None and (root := root_of(record)):
            self._known.server_root = root
            self._lander.batch.add("catalog_info", {"key": "server_root", "value": root})


def prove_files(
    folder: Path,
    known: Known,
    image_ids: Iterable[int],
    lander: Lander,
    *,
    kind: MapKind = "original",
    verbose: int,
    in_base: Batch | None = None,
) -> tuple[set[int], dict[int, str]]:
    """Prove the files of an answer that nothing has proven yet, and those that are there without a row.

    Parameters
    ----------
    folder : Path
        The data folder.
    known : Known
        What the call knows; a file that proves good is entered, one that does not is taken out.
    image_ids : iterable of int
        The images of the answer.
    lander : Lander
        Where rows go.
    kind : {'original', 'resampled'}
        Which of their maps.
    verbose : int
        The call's verbosity.
    in_base : Batch or None
        Where rows of files in a base folder go, for whoever can keep them.

    Returns
    -------
    found : set of int
        Images whose file was there without a row.
    bad : dict of int to str
        Images whose file is no whole map, and why.
    """
    image_ids = tuple(image_ids)
    unproven = [id_ for id_ in image_ids if id_ in known.images and _needs_proof(folder, known.images[id_], kind)]
    found, bad = set(), {}

    def proven(id_: int) -> list[tuple[int, proving.Proof | None, str]]:
        return [(id_, *_prove(folder, known.images[id_], kind))]

    lane = Lane(proven, unproven, min(_PROVERS, len(unproven)))
    with Progress("Checking", total=len(unproven), verbose=verbose) as progress:
        for image_id, proof, trouble in in_parallel([lane]):
            image = known.images[image_id]
            progress.step()
            if proof is None:
                bad[image_id] = trouble
                image.put_map(kind, None)
                continue
            file = image.map(kind)
            if file is None or file.state == "present":
                found.add(image_id)
            origin = "found" if image_id in found else "nilearn"
            if file is not None and file.state == "replaced":
                origin = file.origin or origin
                if _settle_replaced(file, proof, lander):
                    file.state = "present"
                    continue
            path = _path(image, kind)
            image.put_map(kind, LocalFile(path, proof.size, "present", proof.sha256, origin))
            stat = _stat(folder / path)
            came_at = _time_of(stat) if stat else None
            batch = in_base if file is not None and file.is_shared else lander.batch
            if batch is not None:
                batch.add_file(image_id, path, proof, origin=origin, kind=kind, came_at=came_at)
            lander.land_if_due()
    return found, bad


def _settle_replaced(file: LocalFile, proof: proving.Proof, lander: Lander) -> bool:
    """Whether a file that may have been replaced is its row's; its marks go, after the row that it may need."""
    marks = _replaced.settled(file.marks)
    is_same = (file.size, file.sha256) == (proof.size, proof.sha256)
    if not is_same:
        lander.marks += marks
    elif lander.writable:
        _replaced.clear(marks)
    return is_same


def mend_sidecars(folder: Path, known: Known, image_ids: Iterable[int], lander: Lander) -> None:
    """Write anew what lies beside these images' files and is not what the server said of them last in this call.

    It may be missing or unreadable, or the record has come again since.
    """
    images = [image for id_ in image_ids if (image := known.images.get(id_))]
    try:
        for image in images:
            if not image.fresh or image.written is image.record:
                continue
            path = folder / storage.sidecar_path(image.collection_id, image.image_id)
            lies_here = image.is_here_alone or storage.is_file(path)
            if lies_here and not sidecars.holds(path, image.record):
                sidecars.write_image(folder, image.collection_id, image.image_id, image.record)
        for id_ in {image.collection_id for image in images if image.is_here_alone} & known.collections.keys():
            record = known.collections[id_].record if known.collections[id_].fresh else None
            if record and not sidecars.holds(folder / storage.collection_sidecar_path(id_), record):
                sidecars.write_collection(folder, id_, record)
    except sidecars.IN_THE_WAY as error:
        # The answer does not depend on them.
        lander.troubles.append(f"nilearn will not find a record in this folder that could not be written: {error}")


def _needs_proof(folder: Path, image: KnownImage, kind: MapKind) -> bool:
    file = image.map(kind)
    if file is None:
        return storage.is_file(folder / storage.map_path(image.collection_id, image.image_id, kind))
    why_not = storage.why_not_here(storage.place(folder, file.path), file.size)
    return file.state != "present" if why_not is None else storage.is_file(folder / file.path)


def _path(image: KnownImage, kind: MapKind) -> str:
    """Return where an image's map is looked for: in its place in the folder, unless the base folder has it."""
    file = image.map(kind)
    in_place = storage.map_path(image.collection_id, image.image_id, kind)
    return file.path if file is not None and file.is_shared else in_place


def _prove(folder: Path, image: KnownImage, kind: MapKind) -> tuple[proving.Proof | None, str]:
    path = folder / _path(image, kind)
    try:
        proof = proving.prove(path)
    except (proving.NotAMapError, OSError) as error:
        return None, f"{path} is no whole map: {error}"
    trouble = _why_not_the_servers(folder, image, proof) if kind == "original" else None
    return (None, f"{path} {trouble}") if trouble else (proof, "")


def _why_not_the_servers(folder: Path, image: KnownImage, proof: proving.Proof) -> str | None:
    """Say what tells that a whole map is not the one its record is about."""
    file = image.file
    if file is not None and file.state != "present":
        return None  # nilearn left it, and it may be older than its record
    announced = records.file_size_of(image.record)
    if announced is not None:
        expected, whose = announced, "its record says"
    elif file is not None:
        expected, whose = file.size, "it had"
    else:
        return None
    if proof.size in (expected, _size_told_beside(folder, image)):
        return None
    return f"has {proof.size:,} bytes, {whose} {expected:,}"


def _size_told_beside(folder: Path, image: KnownImage) -> int | None:
    """Return the size that the record beside a file says, where that one is of a later day than the catalog's.

    A call that was killed, or found no room for its rows, has left both.
    """
    path = folder / storage.sidecar_path(image.collection_id, image.image_id)
    with suppress(OSError, ValueError):  # then nothing but the catalog tells
        record = sidecars.read(path, image.image_id)
        date, known_date = records.modify_date_of(record), records.modify_date_of(image.record)
        if date is not None and (known_date is None or date > known_date):
            return records.file_size_of(record)
    return None


def root_of(record: Record) -> str | None:
    """Return the root of the server that a record's links name, neurovault.org under its https name."""
    parts = urlsplit(str(record.get("url") or ""))
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return None
    root = f"{parts.scheme}://{parts.netloc}"
    return DEFAULT_ROOT if urlsplit(DEFAULT_ROOT).netloc == parts.netloc else root


def root_of_folder(folder: Path) -> str | None:
    """Return the root of the server that a folder came from, by the first collection's record that names it."""
    for _, id_ in collection_folders(folder):
        with suppress(OSError, ValueError):  # the next one may tell
            if root := root_of(sidecars.read(folder / storage.collection_sidecar_path(id_), id_)):
                return root
    return None


def collection_folders(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield each collection's folder with its id, by id."""
    named = ((place, _id_in(place.name)) for place in folder.glob("collection_*") if place.is_dir())
    yield from sorted(((place, id_) for place, id_ in named if id_), key=lambda pair: pair[1])


def sidecar_ids(folder: Path, collection_id: int) -> list[int]:
    """Return which images have a sidecar in a collection's folder, by their names alone."""
    sidecars_here = (folder / storage.collection_folder(collection_id)).glob("image_*_metadata.json")
    return [id_ for path in sidecars_here if (id_ := _id_in(path.name)) is not None]


def adopt_folder(store: Store, *, folder: Path | None = None, verbose: int = 2) -> Report:
    """Register everything in a data folder that the catalog does not know yet.

    Parameters
    ----------
    store : Store
        The folder's catalog; made when there is none.
    folder : Path or None
        The folder, where its catalog is kept elsewhere.
    verbose : int
        0 says nothing, 1 a summary, 2 shows a progress bar too.

    Returns
    -------
    Report
        An outcome for each image taken over, and for each file that could not be.

    Raises
    ------
    DataDirError
        When there is no such folder.
    """
    folder = folder or store.folder
    if not folder.parent.is_dir():
        raise DataDirError(
            f"{folder.parent} does not exist: nothing to take over. Give the data_dir of what is there"
        )
    ids = [id_ for _, id_ in collection_folders(folder)] if folder.is_dir() else []
    lander = Lander(store, writable=True)
    outcomes: list[Outcome] = []
    root: str | None = None
    with Progress("Adopting", total=len(ids), verbose=verbose, unit="collection") as progress:
        for start in range(0, len(ids), _COLLECTIONS_AT_ONCE):
            chunk = ids[start : start + _COLLECTIONS_AT_ONCE]
            # By id too: a copy in the wrong folder must not pass for an image that the catalog has elsewhere.
            known = store.known(
                chunk, [id_ for collection_id in chunk for id_ in sidecar_ids(folder, collection_id)]
            )
            known.server_root = known.server_root or root
            for collection_id in chunk:
                adopter = Adopter(folder, known, lander, land_as_it_goes=True)
                adopter.take_collection(collection_id)
                outcomes += [Outcome("image", id_, "adopted") for id_ in sorted(adopter.adopted)]
                outcomes += adopter.troubles
                progress.step()
            root = known.server_root
            lander.land_if_due()
    lander.finish()
    for trouble in lander.troubles:
        warnings.warn(trouble, CatalogWarning, stacklevel=3)
    report = Report(outcomes)
    summarise(f"nvcatalog: {_adopted_text(report, folder, len(ids))}", verbose=verbose)
    return report


def _adopted_text(report: Report, folder: Path, collections: int) -> str:
    """Say what was taken over, and from where; or what is lacking where there was nothing to."""
    if not folder.is_dir():
        return f"nothing to take over: {folder.parent} has no folder {folder.name}"
    if not collections:
        return f"nothing to take over: {folder} has no folder of a collection, such as collection_555"
    bad = f"; {len(report.missing)} files could not be read" if report.missing else ""
    return f"took over {report.counts.get('adopted', 0)} images of {collections} collections in {folder}{bad}"


def _names_in(place: Path, wanted: set[str]) -> set[str]:
    """Return which of these files a folder holds."""
    if len(wanted) > _FEW:
        with suppress(OSError):  # a folder that cannot be listed costs its own images alone
            return wanted.intersection(path.name for path in place.iterdir())
    return {name for name in wanted if storage.is_file(place / name)}


def _id_in(name: str) -> int | None:
    """Return the id that a folder or a sidecar is named for, None for a name that nilearn would not give."""
    match = _NAMED_FOR_ID.fullmatch(name)
    return int(match[1]) if match and int(match[1]) <= LARGEST else None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _time_of(stat: os.stat_result) -> datetime:
    """Return when a file came, as far as the file itself tells."""
    return datetime.fromtimestamp(stat.st_mtime, UTC)
