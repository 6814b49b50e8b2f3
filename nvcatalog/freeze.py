"""Freeze a set of maps as a small lock file, and bring back exactly those maps, or say of each what differs."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvcatalog import __version__, client, lockfile, lookup, records, resample, storage
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress, summarise
from nvcatalog._store import Store
from nvcatalog.base import store_of
from nvcatalog.call import Call
from nvcatalog.errors import (
    CatalogLockedError,
    FreezeError,
    FrozenWarning,
    NoSpaceError,
    RefusedError,
    ResampleError,
    SelectionWarning,
    WrongServerError,
)
from nvcatalog.known import KnownImage, LocalFile, MapKind
from nvcatalog.lockfile import FrozenCollection, FrozenImage, LockFile
from nvcatalog.lookup import MapRow
from nvcatalog.meant import Meant, without_gone
from nvcatalog.moving import Mover
from nvcatalog.options import Options, check_flags, parse_options
from nvcatalog.plan import RESAMPLED, Plan, Request, refusal_holds
from nvcatalog.proving import Proof
from nvcatalog.records import Record
from nvcatalog.report import Outcome, Report, Status
from nvcatalog.servers import Servers, check_server

if TYPE_CHECKING:
    from sklearn.utils import Bunch

_HASHERS = min(4, os.cpu_count() or 1)


def fetch_frozen(
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    data_dir: str | os.PathLike[str] | None = None,
    mode: str = "download_new",
    verbose: int = 3,
    timeout: float = 10.0,
    max_workers: int | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Bunch:
    """Bring back the maps of a lock file, byte for byte, or say of each what differs.

    Files that are here count when their bytes are the frozen ones: each is read for it. All others are asked of
    the server, and compared before they take their place.

    Parameters
    ----------
    path : path-like
        What :meth:`nvcatalog.Catalog.freeze` wrote.
    strict : bool
        Whether only the frozen bytes will do. With False the server's version is taken where it is another, and
        the report says so.
    mode : {'download_new', 'overwrite', 'offline'}
        When the server is asked: for the maps that are not here as they were frozen, unless what is here is known
        to be a later version; for all of those, and for each image's record, so that the report knows of every
        change; never.
    data_dir, verbose, timeout, max_workers, base
        As in :func:`nvcatalog.fetch_neurovault_ids`. Of a map in the base that has other bytes the frozen ones
        are fetched into `data_dir`.

    Returns
    -------
    sklearn.utils.Bunch
        As :func:`nvcatalog.fetch_neurovault_ids` gives it, in the order of the file. ``report`` says for each
        image whether its bytes, its record or the DOI of its collection differ, or the server has it no more. An
        image of which only other bytes can be had is, with `strict`, no part of the answer, and a file of it that
        is here stays as it is. Where the frozen bytes replace another file, that is kept beside them, and the
        report names it.

    Raises
    ------
    LockFileError
        When the lock file is damaged, or of a newer version; the message names the line (a ValueError).
    WrongServerError
        When it was made from another server (a ValueError).
    NVCatalogError
        As :func:`nvcatalog.fetch_neurovault_ids` raises them.

    Warns
    -----
    FrozenWarning
        When anything differs.
    IncompleteWarning
        When anything is missing.

    Examples
    --------
    >>> from nvcatalog import Catalog, fetch_frozen, fetch_neurovault_ids
    >>> maps = fetch_neurovault_ids(image_ids=[10426], verbose=0)
    >>> path = Catalog().freeze(Catalog().folder / "maps.lock.json", bunch=maps, verbose=0)
    >>> fetch_frozen(path, verbose=0).report.counts
    {'cached': 1}
    """
    check_flags(strict=strict)
    lock = lockfile.read(path)
    options = parse_options(
        mode=mode,
        fetch_neurosynth_words=False,
        vectorize_words=False,
        sparse_words=False,
        verbose=verbose,
        timeout=timeout,
        max_workers=max_workers,
        resample=lock.kind == "resampled",
        interpolation=lock.interpolation,
    )
    folder = storage.data_folder(data_dir)
    if options.mode != "offline" and lock.server is not None:
        _check_server(lock.server, folder, path)
    parameters = {"path": os.fspath(path), "strict": bool(strict)}
    reads = store_of(folder, base)
    return _FrozenCall(lock, options, folder, reads, strict=bool(strict), parameters=parameters).answer()


@dataclass(frozen=True)
class Found:
    """What is to be frozen, as the catalog knows it.

    Attributes
    ----------
    folder : Path
        The data folder.
    meant : Meant
        The images.
    kind : {'original', 'resampled'}
        Which of their maps.
    rows : list of MapRow
        What is known of each.
    collections : tuple of FrozenCollection
        Those they belong to.
    server : str or None
        The root of the server they are of.
    notes : tuple of str
        What is left out, for a warning.
    """

    folder: Path
    meant: Meant
    kind: MapKind
    rows: list[MapRow]
    collections: tuple[FrozenCollection, ...]
    server: str | None
    notes: tuple[str, ...]


def look_up(
    store: Store, meant: Meant, *, resampled: bool = False, private: bool = False, gone: bool = False
) -> Found:
    """Ask the catalog for all that is to be known of images that are to be frozen.

    Parameters
    ----------
    store : Store
        The catalog.
    meant : Meant
        The images.
    resampled : bool
        Whether it is their resampled maps that are meant, whatever else says so.
    private : bool
        Whether those of private collections are frozen too.
    gone : bool
        Whether those are that the server no longer has, where they are not named.

    Raises
    ------
    FreezeError
        When there is none.
    """
    kind: MapKind = "resampled" if resampled or meant.kind == "resampled" else "original"
    meant, about_gone = without_gone(store, meant, gone=gone)
    rows = lookup.maps_of(store, meant.image_ids, kind)
    chosen = [row for row in rows if private or not row.private]
    if not chosen:
        hidden = " (private ones are left out unless private=True)" if rows else ""
        hidden = f" ({about_gone})" if about_gone and not rows else hidden
        raise FreezeError(f"There is no image to freeze{hidden}; fetch some, or choose others")
    n_hidden = len(rows) - len(chosen)
    about_private = f"{n_hidden} images of private collections are left out; private=True takes them too"
    return Found(
        store.folder,
        meant,
        kind,
        chosen,
        _collections(store, {row.collection_id or 0: row.private for row in chosen}),
        lookup.fact(store, "server_root"),
        notes=(about_private,) * bool(n_hidden) + ((about_gone,) if about_gone else ()),
    )


def freeze(found: Found, target: Path, *, verbose: int = 2) -> Path:
    """Write a lock file of images that are here, and return its path.

    Parameters
    ----------
    found : Found
        The images.
    target : Path
        Where it is to be; it appears whole or not at all.
    verbose : int
        0 says nothing, 1 gives a summary, 2 shows a progress bar too.

    Raises
    ------
    FreezeError
        When a file is not here, not proven, or no longer what was proven.
    """
    rows, kind = found.rows, found.kind
    _check(found.folder, rows, found.meant, kind, verbose=verbose)
    lock = LockFile(
        images=tuple(
            FrozenImage(row.image_id, row.collection_id or 0, row.sha256 or "", row.size or 0, row.modify_date)
            for row in rows
        ),
        collections=found.collections,
        kind=kind,
        interpolation=_interpolation(rows) if kind == "resampled" else None,
        server=found.server,
        selection=found.meant.about,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        created_by=f"nvcatalog {__version__}",
    )
    try:
        lockfile.write(lock, target)
    except NoSpaceError:
        raise
    except OSError as error:
        raise FreezeError(f"{target} cannot be written: {error.strerror or error}") from error
    for note in found.notes:
        warnings.warn(note, SelectionWarning, stacklevel=3)
    size = sum(image.size for image in lock.images) / 1e6
    summarise(f"nvcatalog: froze {len(rows):,} images ({size:,.1f} MB) in {target}", verbose=verbose)
    return target


# Freezing


_COLLECTIONS = """
    SELECT collection_id, name, doi, preprint_doi
    FROM collections
    WHERE collection_id IN (SELECT unnest($ids::INTEGER[]))
"""


def _collections(store: Store, wanted: Mapping[int, bool]) -> tuple[FrozenCollection, ...]:
    """Return the collections of frozen images, given whether each is private."""
    with store.reading() as connection:
        found = connection.execute(_COLLECTIONS, {"ids": list(wanted)}).fetchall()
    named = {id_: FrozenCollection(id_, name, doi, preprint, wanted[id_]) for id_, name, doi, preprint in found}
    return tuple(named.get(id_) or FrozenCollection(id_, private=wanted[id_]) for id_ in sorted(wanted))


def _check(folder: Path, rows: list[MapRow], meant: Meant, kind: MapKind, *, verbose: int) -> None:
    """Raise unless each file is here, proven, and still what was proven: a lock file promises its bytes."""
    troubles = {row.image_id: why for row in rows if (why := _why_not_frozen(folder, row, meant.paths))}
    paths = {row.image_id: row.path for row in rows if row.path and row.image_id not in troubles}
    digests = _digests(folder, paths, verbose=verbose)
    for row in rows:
        if row.image_id in digests and digests[row.image_id] != row.sha256:
            troubles[row.image_id] = "no longer the file that was proven"
    if troubles:
        reasons: dict[str, list[int]] = {}
        for id_, why in troubles.items():
            reasons.setdefault(why, []).append(id_)
        named = "; ".join(f"{why}: {', '.join(map(str, ids))}" for why, ids in reasons.items())
        again = "with resample=True " if kind == "resampled" else ""
        raise FreezeError(
            f"{len(troubles)} of {len(rows)} images cannot be frozen ({named}). Fetch them {again}first, or "
            "choose only what is here: in a condition by path IS NOT NULL"
        )


def _why_not_frozen(folder: Path, row: MapRow, paths: Mapping[int, str]) -> str | None:
    if row.collection_id is None:
        return "unknown to this catalog"
    if row.path is None or row.size is None or storage.why_not_here(folder / row.path, row.size) is not None:
        return "no file here"
    if row.state != "present" or row.sha256 is None:
        return "never proven"
    path = paths.get(row.image_id)
    if path is not None and path != str(folder / row.path) and not _is_same_file(Path(path), folder / row.path):
        return f"of another folder than {folder}"
    return None


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _interpolation(rows: list[MapRow]) -> str | None:
    """Return how maps were resampled, None where each was by its default."""
    made, by_default = set[str](), True
    for row in rows:
        if how := (row.origin or "").partition(RESAMPLED)[2]:  # of nilearn's nobody knows how
            about = {"image_type": row.image_type, "map_type": row.map_type}
            by_default &= how == resample.interpolation_of(about, None)
            made.add(how)
    if by_default:
        return None
    if len(made) == 1:
        return made.pop()
    raise FreezeError(
        f"The images were resampled in different ways ({', '.join(sorted(made))}), which one lock file cannot "
        "bring back; freeze them apart"
    )


def _digests(folder: Path, paths: Mapping[int, str], *, verbose: int) -> dict[int, str | None]:
    """Return the sha256 of each file as it is now, None for one that cannot be read."""

    def digest(id_: int) -> list[tuple[int, str | None]]:
        with suppress(OSError), (folder / paths[id_]).open("rb") as file:
            return [(id_, hashlib.file_digest(file, "sha256").hexdigest())]
        return [(id_, None)]

    found = {}
    with Progress("Comparing", total=len(paths), verbose=verbose) as progress:
        for id_, sha256 in in_parallel([Lane(digest, list(paths), min(_HASHERS, len(paths)))]):
            found[id_] = sha256
            progress.step()
    return found


# Bringing back


def _check_server(root: str, folder: Path, path: str | os.PathLike[str]) -> None:
    """Raise when an id would mean something else than where it was frozen."""
    try:
        check_server(client.root(), root, folder)
    except WrongServerError as error:
        raise WrongServerError(
            f"{os.fspath(path)} was frozen from {root}, and this call would fetch from {client.root()}, where the "
            f"same ids may be other images. If that is a mirror, set NVCATALOG_MIRROR_OF={root}"
        ) from error


class _FrozenCall(Call):
    """A call for exactly the bytes of a lock file."""

    def __init__(
        self,
        lock: LockFile,
        options: Options,
        folder: Path,
        reads: Store,
        *,
        strict: bool,
        parameters: dict[str, Any],
    ) -> None:
        self._frozen = {image.image_id: image for image in lock.images}
        self._strict = strict
        self._collections = {each.collection_id: each for each in lock.collections}
        self._other = dict[int, Proof]()  # what the server has instead
        self._kept = dict[int, str]()  # where a file is now that the frozen bytes have replaced
        self._later = set[int]()  # of which what is here is known to be a later version
        self._differ = Counter[str]()
        super().__init__(
            options.request(image_ids=tuple(self._frozen)),
            options,
            folder,
            function="fetch_frozen",
            parameters=parameters,
            reads=reads,
        )
        for image in lock.images:
            if image.collection_id in self.known.tokens:
                self.known.parents[image.image_id] = image.collection_id

    # What is here

    def _prove(self, request: Request) -> None:
        super()._prove(request)
        files = {id_: file for id_ in self._frozen if (file := self._file_of(id_))}
        paths = {id_: file.path for id_, file in files.items()}
        digests = _digests(self.folder, paths, verbose=self.options.verbose)
        others = [id_ for id_, sha256 in digests.items() if sha256 != self._frozen[id_].sha256]
        whole = [id_ for id_ in others if digests[id_] == files[id_].sha256]
        self._later = self._later_versions(whole) if request.mode != "overwrite" else set()
        for id_, sha256 in digests.items():
            files[id_].sha256 = sha256  # of the bytes as they are now, whatever was once proven

    def _later_versions(self, image_ids: list[int]) -> set[int]:
        """Return of which images the file here came after a change of the record that the frozen one has not.

        Then it is the server's own version, as far as is known here: to ask again would bring the same. Of a
        record that has not changed it may be what a server in trouble gave for a while.
        """
        if not image_ids:
            return set()
        try:
            came = lookup.came_at(self.reads, image_ids, self.request.kind)
        except CatalogLockedError:  # somebody has taken the catalog meanwhile: to ask again is no harm
            return set()
        later = set()
        for id_, came_at in came.items():
            modified = records.modify_date_of(self.known.images[id_].record)
            frozen = self._frozen[id_].modify_date
            if modified and frozen and frozen < modified < (came_at or modified):
                later.add(id_)
        return later

    def _file_of(self, image_id: int) -> LocalFile | None:
        image = self.known.images.get(image_id)
        return image.map(self.request.kind) if image else None

    def _is_as_frozen(self, image_id: int) -> bool:
        file = self._file_of(image_id)
        return file is not None and file.sha256 == self._frozen[image_id].sha256

    def _without_unread(self, plan: Plan) -> Plan:
        """Leave alone what is here as it was frozen, and ask for what is here otherwise."""
        right = {id_ for id_ in plan.here if self._is_as_frozen(id_)}
        again = [id_ for id_ in plan.here if id_ not in right and self._can_be_asked_for(id_)]
        # A resampled map is made anew of the map that is here, where one is: to fetch that again would replace it.
        made = [] if self.request.mode == "overwrite" else [id_ for id_ in again if self._has_original(id_)]
        fetched = dict.fromkeys(id_ for id_ in (*plan.to_fetch, *again) if id_ not in right and id_ not in made)
        to_resample = tuple(dict.fromkeys((*plan.to_resample, *made)))
        return super()._without_unread(replace(plan, to_fetch=tuple(fetched), to_resample=to_resample))

    def _can_be_asked_for(self, image_id: int) -> bool:
        if self.request.mode == "offline" or image_id in self._later:
            return False
        refusal = self.known.refusals.get(("image", image_id))
        modified = records.modify_date_of(self.known.images[image_id].record)
        return not refusal_holds(refusal, modified, mode=self.request.mode, now=datetime.now(UTC))

    def _has_original(self, image_id: int) -> bool:
        return self.request.kind == "resampled" and self._has_map(image_id, "original")

    def _mover(self, request: Request, servers: Servers) -> Mover:
        return _FrozenMover(self, request, servers)

    # What came

    def admit(self, image: KnownImage, proof: Proof, arrived: Path, target: Path) -> Proof:
        """Let a file take its place, unless it is another than was frozen; called by the movers' threads.

        Raises
        ------
        RefusedError
            When only the frozen bytes will do, these are others, and there is a file that they would replace.
        """
        frozen = self._frozen[image.image_id]
        if proof.sha256 != frozen.sha256:
            self._other[image.image_id] = proof
            if self._strict and self._file_of(image.image_id) is not None:
                raise RefusedError(_other_bytes("what came has", proof, frozen), status="failed", lasting=False)
        else:
            self._other.pop(image.image_id, None)
            if self._strict:
                self._keep_former(image)
        arrived.replace(target)
        return proof

    def _keep_former(self, image: KnownImage) -> None:
        """Move a file aside that the frozen bytes replace: they may be all there is of another version."""
        file = self._file_of(image.image_id)
        if file is None or file.sha256 is None or file.is_shared:
            return
        ending = ".nii.gz"
        aside = f"{file.path.removesuffix(ending)}_replaced-{file.sha256[:12]}{ending}"
        with suppress(FileNotFoundError):
            (self.folder / file.path).replace(self.folder / aside)
            self._kept[image.image_id] = aside

    # What differs

    def _settle(self, *, asked: bool) -> None:
        super()._settle(asked=asked)
        outcomes = [self._judged(outcome) for outcome in self.report]
        self.report = Report(outcomes, self.notes)
        here = {outcome.id for outcome in outcomes if outcome.kind == "image" and outcome.here}
        self.image_ids = [id_ for id_ in self.image_ids if id_ in here]
        if self._differ:
            said = ", ".join(f"{number} {what}" for what, number in self._differ.items())
            text = (
                f"Of {len(self._frozen)} frozen images not all are as they were: {said}; .report says what differs"
            )
            self.warn(text, FrozenWarning)

    def _judged(self, outcome: Outcome) -> Outcome:
        """Say of an image what differs from when it was frozen."""
        if outcome.kind != "image" or outcome.id not in self._frozen:
            return outcome
        frozen = self._frozen[outcome.id]
        differences = list(self._differences(outcome, frozen))
        self._differ.update(list(dict.fromkeys(what for what, _ in differences)))
        said = [text for _, text in differences]
        if outcome.reason and frozen.image_id not in self._other:
            said.append(outcome.reason)
        if frozen.image_id in self._kept:
            said.append(f"the file that was here had other bytes, and is kept as {self._kept[frozen.image_id]}")
        is_lost = self._strict and outcome.here and not self._is_as_frozen(frozen.image_id)
        status = self._status_of_lost(frozen.image_id) if is_lost else outcome.status
        return outcome._replace(status=status, reason="; ".join(said) or None)

    def _status_of_lost(self, image_id: int) -> Status:
        if self.request.mode == "offline":
            return "missing_offline"
        return "not_found" if self._is_gone(image_id) else "failed"

    def _differences(self, outcome: Outcome, frozen: FrozenImage) -> Iterator[tuple[str, str]]:
        """Yield what differs, in a few words to count by and in a sentence."""
        image, file = self.known.images.get(frozen.image_id), self._file_of(frozen.image_id)
        right = [frozen.sha256]
        if other := self._other.get(frozen.image_id):
            right.append(other.sha256)
            taken = "" if self._strict else ", and is taken"
            yield "with other bytes", _other_bytes("the server's version has", other, frozen) + taken
        if outcome.here and file and file.sha256 not in right:
            cure = "; a later version, as far as is known: mode='overwrite' asks the server for it again"
            text = _other_bytes("the file here has", file, frozen)
            yield "with other bytes", text + (cure if frozen.image_id in self._later else "")
        elif outcome.here and file and file.sha256 == frozen.sha256 and file.size != frozen.size:
            text = f"it is as frozen by its sha256, and of {file.size:,} bytes; the lock file says {frozen.size:,}"
            yield "of another size than the lock file says", text
        if image is not None and image.collection_id != frozen.collection_id:
            text = f"it is in collection {image.collection_id}; the lock file says {frozen.collection_id}"
            yield "of another collection than the lock file says", text
        if self._collections[frozen.collection_id].private and outcome.status in ("private", "not_found"):
            yield "of private collections", f"collection {frozen.collection_id} is private: fetch it by its token"
        elif outcome.status == "not_found" or self._is_gone(frozen.image_id):
            yield "gone from the server", "gone from the server"
        if image is not None and (modified := records.modify_date_of(image.record)) != frozen.modify_date:
            text = f"its record has changed: modify_date {_day(modified)}, frozen {_day(frozen.modify_date)}"
            yield "with a changed record", text
        collection = self.known.collections.get(frozen.collection_id)
        if collection is not None and collection.record is not None:
            for text in self._collections[frozen.collection_id].changed_dois(collection.record):
                yield "with another DOI", text

    def _is_gone(self, image_id: int) -> bool:
        image, refusal = self.known.images.get(image_id), self.known.refusals.get(("image", image_id))
        return (image is not None and image.gone) or (refusal is not None and refusal.status == "not_found")


class _FrozenMover(Mover):
    """A mover that lets nothing take its place before the call has compared it with what was frozen."""

    def __init__(self, call: _FrozenCall, request: Request, servers: Servers) -> None:
        super().__init__(request, call.folder, call.known, call.lander, servers, verbose=call.options.verbose)
        self._call = call

    def _download(self, image: KnownImage, record: Record, target: Path) -> Proof:
        if self._request.kind != "original":
            return super()._download(image, record, target)
        with storage.scratch(target) as arrived:
            return self._call.admit(image, super()._download(image, record, arrived), arrived, target)

    def _resample(self, image: KnownImage, record: Record, source: Path) -> Proof:
        target = self._folder / storage.map_path(image.collection_id, image.image_id, "resampled")
        chosen = resample.interpolation_of(record, self._request.interpolation)
        with storage.scratch(target) as made:
            try:
                proof = self._resampled(image, source, made, chosen)
            except ResampleError as error:
                raise ResampleError(str(error).replace(str(made), str(target))) from error
            return self._call.admit(image, proof, made, target)


def _other_bytes(who: str, now: Proof | LocalFile, frozen: FrozenImage) -> str:
    found = f"sha256 {now.sha256[:12]}…" if now.sha256 else "unreadable"
    return f"{who} other bytes: {found}, {now.size:,} bytes; frozen {frozen.sha256[:12]}…, {frozen.size:,} bytes"


def _day(moment_: datetime | None) -> str:
    return moment_.isoformat(timespec="seconds") if moment_ else "unknown"
