"""Compare the files of a data folder with the catalog's rows, to the last byte where that is asked for."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nvcatalog import _replaced, extras, kept, layout, lookup, neurosynth, parts, proving, sidecars, storage
from nvcatalog._locks import Underway
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress, summarise
from nvcatalog._store import Store
from nvcatalog.layout import Place, place_of

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal[
    "missing",
    "corrupt",
    "unreadable",
    "stray",
    "sidecar",
    "snapshot",
    "leftover",
    "duplicate",
    "replaced",
    "foreign",
    "unlanded",
]

# Unpacking and hashing leave Python's lock, so more than one core is of use.
_PROVERS = min(4, os.cpu_count() or 1)
# Each asks the disk and waits for it.
_LOOKERS = 4
# What there is to say of, and nothing is wrong with.
_NOTES = frozenset({"duplicate", "replaced", "foreign", "unlanded"})
_FOREIGN = "no file of nvcatalog's or nilearn's"
_RUNNING = "a running call may land it yet"


class Finding(NamedTuple):
    """What was found about one file.

    Attributes
    ----------
    kind : str
        ``missing``: it has a row and is not there. ``corrupt``: it is not what its row says, or no whole
        file. ``unreadable``: this user cannot read it. ``stray``: it has no row. ``sidecar``: metadata that
        nilearn reads beside a map, missing or unreadable. ``snapshot``: a file of the newest snapshot that is not
        what was written. ``leftover``: what a killed process left.
        No problems are ``duplicate`` (the same bytes as another image's file), ``replaced`` (kept aside by
        :func:`nvcatalog.fetch_frozen`), ``foreign`` (no file of nvcatalog's or nilearn's) and ``unlanded`` (the
        catalog has nothing of it yet: a call that is running may land it, or the next fetch with terms takes it).
    image_id : int or None
        The image, or the NIDM pack, that it belongs to.
    path : str
        Where it is, relative to the data folder.
    reason : str
        What was found, in words.
    """

    kind: Kind
    image_id: int | None
    path: str
    reason: str

    @property
    def is_problem(self) -> bool:
        """Whether something is wrong."""
        return self.kind not in _NOTES


@dataclass(frozen=True)
class Verification:
    """What a look at a data folder found; true when nothing is wrong.

    Attributes
    ----------
    folder : Path
        The data folder.
    deep : bool
        Whether files were read to their last byte.
    files, bytes : int
        How many files have a row, and what they are to take.
    findings : tuple of Finding
        All that was found, problems first.

    Examples
    --------
    >>> found = Verification(Path("neurovault"), False, 2, 10, (Finding("missing", 3, "collection_1/a", "gone"),))
    >>> bool(found), found.counts
    (False, {'missing': 1})
    """

    folder: Path
    deep: bool
    files: int
    bytes: int
    findings: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        """Say what was looked at and how much is wrong."""
        return f"<Verification: {self.summary}>"

    @property
    def summary(self) -> str:
        """What was looked at and how much is wrong, in a line."""
        wrong = ", ".join(f"{number} {kind}" for kind, number in self.counts.items()) or "all is well"
        how = "read" if self.deep else "looked at"
        running = sum(finding.reason.endswith(_RUNNING) for finding in self.findings)
        more = f"; {running:,} of a call that is running" if running else ""
        return f"{self.files:,} files {how} ({self.bytes / 1e6:,.1f} MB): {wrong}{more}"

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(finding for finding in self.findings if finding.is_problem)

    @property
    def duplicates(self) -> tuple[Finding, ...]:
        """The files that have the same bytes as another image's: no problem, uploaders do that."""
        return tuple(finding for finding in self.findings if finding.kind == "duplicate")

    @property
    def counts(self) -> dict[str, int]:
        """How many problems there are of each kind, most frequent first."""
        return dict(Counter(finding.kind for finding in self.problems).most_common())

    def df(self) -> pd.DataFrame:
        """Return a row a finding: ``kind``, ``image_id``, ``path``, ``reason``, and whether it is a problem."""
        import pandas as pd

        rows = [(*finding, finding.is_problem) for finding in self.findings]
        frame = pd.DataFrame(rows, columns=["kind", "image_id", "path", "reason", "problem"])
        return frame.astype({"image_id": "Int64", "problem": bool})


class FileRow(NamedTuple):
    """A file's row, as far as the file can be compared with it."""

    image_id: int
    kind: str
    path: str
    size: int | None
    sha256: str | None
    origin: str | None

    @property
    def is_ours(self) -> bool:
        """Whether its path is the one of such a file: nothing else is ever read, moved or deleted for a row."""
        place = place_of(self.path)
        return place.has_row and (place.kind, place.id) == (self.kind, self.image_id)


def verify(store: Store, *, deep: bool = False, verbose: int = 2) -> Verification:
    """Compare each file with its row, and find what belongs to none; nothing is written.

    Parameters
    ----------
    store : Store
        The catalog.
    deep : bool
        Whether each file is read to its last byte.
    verbose : int
        0 says nothing, 1 a summary, 2 shows a progress bar too.

    Raises
    ------
    CatalogLockedError, CatalogCorruptError, CatalogTooNewError
        When the catalog cannot be read.
    """
    rows = file_rows(store)
    look = _look_at(store.folder, rows, verbose=verbose)
    # Before the catalog is asked: whatever of this a call has brought that is over then, has landed.
    underway = Underway(store.folder).is_shown
    findings = [*look.findings, *_strangers(store, look)]
    if deep:
        findings += _read(store.folder, look, verbose=verbose)
        findings += _damages_of_newest(store.folder)
    findings = list(_confirmed(store, findings, {row.path: row for row in rows}, deep=deep))
    findings = list(_with_replaced(store.folder, findings, {row.path: row for row in rows}))
    if underway:
        findings = [_unlanded(store.folder, finding) for finding in findings]
    findings = _once_each(findings)
    findings += _duplicates(rows, {finding.path for finding in findings if finding.is_problem})
    findings.sort(key=lambda finding: (not finding.is_problem, _order(finding.path)))
    size = sum(row.size or 0 for row in rows)
    found = Verification(store.folder, deep, len(rows), size, tuple(findings))
    summarise(f"nvcatalog: {found.summary}, in {store.folder}", verbose=verbose)
    return found


def file_rows(store: Store, image_ids: Iterable[int] | None = None) -> list[FileRow]:
    """Return the rows of all files, or of these images' and packs'."""
    if not store.exists:
        return []
    ids = None if image_ids is None else list(image_ids)
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT image_id, kind, path, size, sha256, origin
            FROM files
            WHERE $ids::INTEGER[] IS NULL OR image_id IN (SELECT unnest($ids::INTEGER[]))
            """,
            {"ids": ids},
        ).fetchall()
    return list(map(FileRow._make, rows))


def why_not_whole(folder: Path, row: FileRow) -> str | None:
    """Read a file to its last byte and return why it is not what its row says; None when it is.

    Raises
    ------
    OSError
        When it cannot be read.
    """
    place = place_of(row.path)
    path = folder / row.path
    try:
        proof = proving.prove(path) if place.is_map else extras.prove(path, place.extra_kind)
    except proving.NotWholeError as error:
        return f"no whole file: {error}"
    if row.size is not None and proof.size != row.size:
        return _other_size(proof.size, row.size)
    if row.sha256 is not None and proof.sha256 != row.sha256:
        return f"not the bytes that were proven: sha256 {proof.sha256[:12]}…, recorded {row.sha256[:12]}…"
    return None


# Looking at the folder


@dataclass
class _Look:
    """What a look at the names and sizes in a folder gave."""

    findings: list[Finding] = field(default_factory=list)
    files: list[FileRow] = field(default_factory=list)  # those that are there with their size
    sidecars: list[str] = field(default_factory=list)  # those beside a map that has a row
    strangers: list[str] = field(default_factory=list)  # others, which the catalog may know
    without: list[str] = field(default_factory=list)  # sidecars that a map lacks

    def add(self, other: _Look) -> None:
        for name in ("findings", "files", "sidecars", "strangers", "without"):
            getattr(self, name).extend(getattr(other, name))

    def find(self, kind: Kind, image_id: int | None, path: str, reason: str) -> None:
        self.findings.append(Finding(kind, image_id, path, reason))


def _look_at(folder: Path, rows: list[FileRow], *, verbose: int) -> _Look:
    """Look at what is in the data folder, each collection's folder in one go."""
    look = _Look()
    by_folder: dict[str, dict[str, FileRow]] = {}
    for row in rows:
        if row.is_ours:
            by_folder.setdefault(row.path.partition("/")[0], {})[row.path] = row
        else:
            look.find("missing", row.image_id, row.path, "its row names a place where no file of ours can be")
    names = sorted({*by_folder, *_look_outside(folder, look)}, key=_order)
    lane = Lane(lambda name: [_look_into(folder, name, by_folder.get(name, {}))], names, min(_LOOKERS, len(names)))
    with Progress("Looking", total=len(names), verbose=verbose, unit="collection") as progress:
        for part in in_parallel([lane]):
            look.add(part)
            progress.step()
    return look


def _look_outside(folder: Path, look: _Look) -> list[str]:
    """Look at what lies beside the collections' folders, and return those."""
    collections = []
    for name, stat in _entries(folder, look, "."):
        kind = place_of(name).kind
        if layout.collection_of(name) and (folder / name).is_dir():
            collections.append(name)
        elif kind == "temporary":
            _note_leftover(look, name, stat)
        elif kind in ("set_aside", "other"):
            look.find(
                "foreign", None, name, "a former catalog" if kind == "set_aside" else "nothing of nvcatalog's"
            )
    return collections


def _look_into(folder: Path, name: str, rows: Mapping[str, FileRow]) -> _Look:
    """Compare a collection's folder with the rows of the files in it."""
    look = _Look()
    sizes: dict[str, int] = {}
    for entry, stat in _entries(folder / name, look, name):
        path = f"{name}/{entry}"
        sizes[path] = stat.st_size
        if path not in rows:
            _look_at_rowless(look, path, stat, {row.image_id for row in rows.values()})
    for path, row in rows.items():
        if path in sizes and sizes[path] == row.size:
            look.files.append(row)
        elif path in sizes:
            look.find("corrupt", row.image_id, path, _other_size(sizes[path], row.size))
        elif not any(finding.kind == "unreadable" and finding.path == name for finding in look.findings):
            look.find("missing", row.image_id, path, _not_there())
    _look_for_sidecars(look, name, sizes)
    return look


def _entries(place: Path, look: _Look, name: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what is in a folder; what vanishes while it is looked at, and links to nowhere, are not there."""
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                try:
                    yield entry.name, entry.stat()
                except OSError:
                    continue
    except FileNotFoundError:
        return
    except OSError as error:
        look.find("unreadable", None, name, f"the folder cannot be listed: {error.strerror}")


def _look_at_rowless(look: _Look, path: str, stat: os.stat_result, image_ids: set[int]) -> None:
    """Say what a file without a row is, or leave it to be asked about."""
    place = place_of(path)
    if place.has_row:
        look.find("stray", place.id, path, "it has no row in the catalog")
    elif place.kind in layout.SIDECARS:
        beside_map = place.kind != "words" and (place.id in image_ids or (place.id is None and image_ids))
        (look.sidecars if beside_map else look.strangers).append(path)
    elif place.kind == "temporary":
        _note_leftover(look, path, stat)
    elif place.kind == "replaced":
        look.find("replaced", place.id, path, "kept when frozen bytes took its place")
    else:
        look.find("foreign", None, path, _FOREIGN)


def _note_leftover(look: _Look, path: str, stat: os.stat_result) -> None:
    """Note a temporary file, unless somebody may be writing to it still."""
    if stat.st_mtime < time.time() - storage.LEFTOVER_S:
        look.find("leftover", None, path, "a temporary file that a killed process left")


def _look_for_sidecars(look: _Look, name: str, sizes: Mapping[str, int]) -> None:
    """Note which sidecars the maps that are here lack."""
    collection_id = layout.collection_of(name) or 0
    here = {place.id for path in sizes if (place := place_of(path)).is_map and place.id}
    wanted = {storage.sidecar_path(collection_id, id_) for id_ in here}
    if here:
        wanted.add(storage.collection_sidecar_path(collection_id))
    look.without += sorted(wanted - sizes.keys())


def _not_there(error: OSError | None = None) -> str:
    why = f" ({error.strerror})" if error and not isinstance(error, FileNotFoundError) else ""
    return f"it has a row, and is not there{why}"


def _other_size(found: int, recorded: int | None) -> str:
    return f"it has {found:,} bytes, and {'none' if recorded is None else format(recorded, ',')} are recorded"


# Asking the catalog about what has no row


def _strangers(store: Store, look: _Look) -> Iterator[Finding]:
    """Yield the sidecars that the catalog knows nothing of, and the missing ones that it could write."""
    places = {path: place_of(path) for path in look.strangers}
    lacking = {path: place_of(path) for path in look.without}
    known = KnownSidecars(store, [*places.values(), *lacking.values()])
    for path, place in places.items():
        if known(place):
            look.sidecars.append(path)
        elif known.of_image_here(place):
            look.sidecars.append(path)
            yield Finding("unlanded", place.id, path, "the next fetch with terms takes them from here")
        else:
            yield Finding("stray", place.id, path, "metadata that the catalog does not have")
    for path, place in lacking.items():
        if known.has_record(place):
            yield Finding("sidecar", place.id, path, "nilearn finds no map without this file, and it is not there")


class KnownSidecars:
    """What the catalog knows of what sidecars are about.

    Parameters
    ----------
    store : Store
        The catalog.
    places : iterable of Place
        The sidecars.
    """

    def __init__(self, store: Store, places: Iterable[Place]) -> None:
        places = list(places)
        images = {place.id for place in places if place.id}
        collections = {place.collection_id or 0 for place in places if place.kind == "collection_metadata"}
        self._collection_of = lookup.collection_of_images(store, images)
        self._records = lookup.recorded(store, "image", images), lookup.recorded(store, "collection", collections)
        self._with_words = lookup.images_with_words(store, images)

    def __call__(self, place: Place) -> bool:
        """Whether the catalog knows what a sidecar says, and has it in the same collection."""
        if place.kind == "words":
            return place.id in self._with_words
        if place.kind == "metadata":
            return self._collection_of.get(place.id or 0) == place.collection_id
        return self.has_record(place)

    def of_image_here(self, place: Place) -> bool:
        """Whether these are terms of an image that the catalog has: unknown terms were forgotten."""
        return place.kind == "words" and self._collection_of.get(place.id or 0) == place.collection_id

    def has_record(self, place: Place) -> bool:
        """Whether the catalog has the record that belongs into a sidecar."""
        images, collections = self._records
        return place.id in images if place.kind == "metadata" else place.collection_id in collections


# Reading


def _read(folder: Path, look: _Look, *, verbose: int) -> list[Finding]:
    """Read all that is here to its last byte, and return what is not whole."""
    total = len(look.files) + len(look.sidecars)
    lanes: list[Lane[Any, Finding | None]] = [
        Lane(partial(_read_file, folder), look.files, min(_PROVERS, len(look.files))),
        Lane(partial(_read_sidecar, folder), look.sidecars, min(_PROVERS, len(look.sidecars))),
    ]
    found: list[Finding] = []
    with Progress("Reading", total=total, verbose=verbose) as progress:
        for finding in in_parallel(lanes):
            found += [finding] if finding else []
            progress.step()
    return found


def _read_file(folder: Path, row: FileRow) -> list[Finding | None]:
    try:
        trouble = why_not_whole(folder, row)
    except FileNotFoundError:
        return [Finding("missing", row.image_id, row.path, _not_there())]
    except OSError as error:
        return [Finding("unreadable", row.image_id, row.path, f"it cannot be read: {error.strerror or error}")]
    return [Finding("corrupt", row.image_id, row.path, trouble) if trouble else None]


def _read_sidecar(folder: Path, path: str) -> list[Finding | None]:
    place = place_of(path)
    trouble = why_no_sidecar(folder, path)
    return [Finding("sidecar", place.id, path, trouble) if trouble else None]


def why_no_sidecar(folder: Path, path: str) -> str | None:
    """Read a metadata file and return what is wrong with it; None for nothing."""
    place = place_of(path)
    try:
        if place.kind == "words":
            neurosynth.read_answer(storage.read_file(folder / path))
        else:
            sidecars.read(folder / path, place.id or place.collection_id or 0)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except ValueError as error:
        return str(error)
    return None


def damages_of_snapshot(place: Path) -> Iterator[str]:
    """Read a snapshot's files and yield which are not what was written; an older version did not note that."""
    told = kept.manifest_with_files(place).get("files", {})
    for path in told:
        try:
            is_as_written = parts.sha256_of(place / path) == told[path].get("sha256")
        except OSError as error:
            yield f"{place / path} cannot be read: {error.strerror or error}"
        else:
            if not is_as_written:
                yield f"{place / path} has other bytes than were written"


def _damages_of_newest(folder: Path) -> Iterator[Finding]:
    """Yield what is wrong with the newest snapshot: what does not change is the next one's file too."""
    place = kept.current(folder / kept.FOLDER)
    if place is None:
        return
    unreadable = kept.why_passed_over(folder / kept.FOLDER)
    for damage in [unreadable] if unreadable else damages_of_snapshot(place):
        yield Finding("snapshot", None, place.relative_to(folder).as_posix(), damage)


# Once more


def _confirmed(
    store: Store, findings: list[Finding], rows: Mapping[str, FileRow], *, deep: bool
) -> Iterator[Finding]:
    """Yield what is still so: another process may have fetched or pruned while this one looked."""
    suspects = {each.path for each in findings if each.image_id and _may_have_changed(each, rows)}
    ids = {finding.image_id for finding in findings if finding.path in suspects and finding.image_id}
    now = {row.path: row for row in file_rows(store, ids)} if ids else {}
    for finding in findings:
        path = finding.path
        if path not in suspects:
            yield finding
        elif finding.kind != "stray":
            yield from _judged(store.folder, now[path], deep=deep) if path in now else ()
        elif path not in now and storage.is_file(store.folder / path):
            yield finding


def _may_have_changed(finding: Finding, rows: Mapping[str, FileRow]) -> bool:
    row = rows.get(finding.path)
    return place_of(finding.path).has_row and (row is None or row.is_ours)


def _judged(folder: Path, row: FileRow, *, deep: bool) -> Iterator[Finding]:
    """Yield what is wrong with one file."""
    try:
        size = (folder / row.path).stat().st_size
    except OSError as error:
        yield Finding("missing", row.image_id, row.path, _not_there(error))
        return
    if size != row.size:
        yield Finding("corrupt", row.image_id, row.path, _other_size(size, row.size))
    elif deep:
        yield from (each for each in _read_file(folder, row) if each)


def _with_replaced(folder: Path, findings: list[Finding], rows: Mapping[str, FileRow]) -> Iterator[Finding]:
    """Yield what was found; a whole file that took another's place, and whose row did not follow, is a stray."""
    marks = _replaced.marks_in(folder) if any(finding.kind == "corrupt" for finding in findings) else {}
    for finding in findings:
        row = rows.get(finding.path) if finding.kind == "corrupt" else None
        if row is None or (row.image_id, row.kind) not in marks:
            yield finding
        else:
            with suppress(OSError):
                if why_not_whole(folder, row._replace(size=None, sha256=None)) is None:
                    finding = finding._replace(kind="stray", reason="its row is still about the file it replaced")
            yield finding


def _unlanded(folder: Path, finding: Finding) -> Finding:
    """Return a note for a stray that is so new that a call which is running may have brought it."""
    if finding.kind == "stray":
        with suppress(OSError):
            if (folder / finding.path).stat().st_mtime >= time.time() - storage.LEFTOVER_S:
                return finding._replace(kind="unlanded", reason=f"{finding.reason}; {_RUNNING}")
    return finding


def _once_each(findings: Iterable[Finding]) -> list[Finding]:
    """Leave out what is unlanded and wrong besides."""
    findings = list(findings)
    wrong = {finding.path for finding in findings if finding.is_problem}
    return [finding for finding in findings if finding.kind != "unlanded" or finding.path not in wrong]


def _duplicates(rows: Iterable[FileRow], wrong: set[str]) -> Iterator[Finding]:
    """Yield the originals that have the same bytes as another image's."""
    by_digest: dict[str, list[FileRow]] = {}
    for row in rows:
        if row.kind == "original" and row.sha256 and row.path not in wrong:
            by_digest.setdefault(row.sha256, []).append(row)
    for group in by_digest.values():
        if len(group) > 1:
            first, *others = sorted(group, key=lambda row: row.image_id)
            more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
            text = f"the same bytes as image {others[0].image_id}{more}"
            yield Finding("duplicate", first.image_id, first.path, text)
            for row in others:
                yield Finding("duplicate", row.image_id, row.path, f"the same bytes as image {first.image_id}")


def _order(path: str) -> tuple[int, int, str]:
    """Return what sorts paths as people count: collection 7 before collection 10."""
    place = place_of(path)
    return place.collection_id or layout.collection_of(path) or 0, place.id or 0, path
