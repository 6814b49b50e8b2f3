"""Put right what :mod:`nvcatalog.verify` finds: fetch anew, take over, write anew, set aside; delete nothing."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from nvcatalog import client, lookup, neurosynth, sidecars, snapshot, storage
from nvcatalog._batch import Batch
from nvcatalog._progress import summarise
from nvcatalog._store import Store
from nvcatalog.errors import CatalogWarning, DataDirError, IncompleteWarning, SnapshotWarning
from nvcatalog.layout import Place, place_of
from nvcatalog.options import Options, parse_options
from nvcatalog.quarantine import Quarantine
from nvcatalog.restore import LostFile, Restored, restore
from nvcatalog.servers import check_server
from nvcatalog.strays import take_over
from nvcatalog.verify import FileRow, Finding, file_rows, verify

if TYPE_CHECKING:
    import pandas as pd

Action = Literal["restored", "adopted", "rewritten", "quarantined", "forgotten", "left"]


class Step(NamedTuple):
    """What was done about one file.

    Attributes
    ----------
    action : str
        ``restored``: it was fetched, or made, again. ``adopted``: it was whole, and has a row now. ``rewritten``:
        its metadata was written anew. ``quarantined``: it was set aside, for good. ``forgotten``: its row is gone.
        ``left``: it is as it was found, or still lost; the reason says why.
    kind : str
        What had been found, as in :class:`nvcatalog.verify.Finding`.
    image_id : int or None
        The image, or the NIDM pack, that it belongs to.
    path : str
        Where it belongs, relative to the data folder.
    reason : str
        What had been found, and what there is to say of the outcome.
    kept : str or None
        Where the bytes are now that were set aside.
    """

    action: Action
    kind: str
    image_id: int | None
    path: str
    reason: str
    kept: str | None = None


@dataclass(frozen=True)
class Repaired:
    """What a repair did; true when nothing is left to be done.

    Attributes
    ----------
    folder : Path
        The data folder.
    steps : tuple of Step
        What was done about each file.
    """

    folder: Path
    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        """Say how much was done."""
        done = ", ".join(f"{number} {action}" for action, number in self.counts.items())
        return f"<Repaired: {done or 'nothing to do'}>"

    @property
    def ok(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.left

    @property
    def left(self) -> tuple[Step, ...]:
        """What could not be put right, and why."""
        return tuple(step for step in self.steps if step.action == "left")

    @property
    def counts(self) -> dict[str, int]:
        """How many files met with each action, most frequent first."""
        return dict(Counter(step.action for step in self.steps).most_common())

    def df(self) -> pd.DataFrame:
        """Return a row a file: ``action``, ``kind``, ``image_id``, ``path``, ``reason``, ``kept``."""
        import pandas as pd

        return pd.DataFrame(self.steps, columns=list(Step._fields)).astype({"image_id": "Int64"})


def repair(
    store: Store,
    *,
    offline: bool = False,
    deep: bool = True,
    verbose: int = 2,
    timeout: float = 10.0,
    max_workers: int | None = None,
) -> Repaired:
    """Verify, and put right what is wrong.

    Whenever it is interrupted, the next call goes on: a file that was set aside and not fetched again yet is
    missing to its row.

    Parameters
    ----------
    store : Store
        The catalog.
    offline : bool
        Whether lost files are forgotten, rather than fetched again.
    deep : bool
        Whether all files are read to find the corrupt ones.
    verbose, timeout, max_workers
        As in :func:`nvcatalog.fetch_neurovault_ids`.

    Raises
    ------
    DataDirError
        When the folder cannot be written (an OSError).
    WrongServerError
        When files would be fetched from another server than the folder's.
    CatalogLockedError, CatalogCorruptError, CatalogTooNewError
        When the catalog cannot be used.
    """
    options = parse_options(
        mode="offline" if offline else "download_new",
        fetch_neurosynth_words=False,
        vectorize_words=False,
        sparse_words=False,
        verbose=verbose,
        timeout=timeout,
        max_workers=max_workers,
    )
    obstacle = store.what_cannot_be_written()
    if obstacle is not None:
        raise DataDirError(f"{obstacle} cannot be written, so nothing can be repaired; verify() only reads")
    found = verify(store, deep=deep, verbose=min(verbose, 2))
    if found.problems and options.mode != "offline":
        check_server(client.root(), lookup.fact(store, "server_root"), store.folder)
    mender = _Mender(store, options, forget=offline)
    mender.mend(found.problems)
    repaired = Repaired(store.folder, tuple(mender.steps))
    trouble = snapshot.publish(store) if repaired.steps and store.exists else None
    if trouble is not None:
        mender.warnings.append((trouble, SnapshotWarning))
    for text, category in mender.warnings:
        warnings.warn(text, category, stacklevel=3)
    if repaired.left:
        warnings.warn(_left_text(repaired.left), IncompleteWarning, stacklevel=3)
    done = ", ".join(f"{number} {action}" for action, number in repaired.counts.items())
    summarise(f"nvcatalog: {done or 'nothing to repair'}, in {store.folder}", verbose=verbose)
    return repaired


def _left_text(left: tuple[Step, ...]) -> str:
    named = "; ".join(f"{step.path} ({step.reason})" for step in left[:3])
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    return f"{len(left)} files could not be put right: {named}{more}; .left has them all"


# Records are some kilobytes each, and terms some hundred.
_RECORDS_AT_ONCE = 500

# What was lost, and where the bytes are that were in its place.
_Gone = tuple[Finding, str | None]


class _Mender:
    """Puts findings right, kind by kind."""

    def __init__(self, store: Store, options: Options, *, forget: bool) -> None:
        self.steps: list[Step] = []
        self.warnings: list[tuple[str, type[Warning]]] = []
        self._store = store
        self._folder = store.folder
        self._options = options
        self._forget = forget
        self._quarantine = Quarantine(store.folder)
        self._rows: dict[str, FileRow] = {}

    def mend(self, problems: Iterable[Finding]) -> None:
        """Put all of these right."""
        lost: list[Finding] = []
        strays: dict[str, Finding] = {}
        unreadable: list[Finding] = []
        for finding in problems:
            if finding.kind == "stray":
                strays[finding.path] = finding
            elif finding.kind == "sidecar":
                unreadable.append(finding)
            elif finding.kind == "leftover":
                self._set_aside(finding)
            else:
                lost.append(finding)
        self._rewrite(unreadable)
        lost = list(self._without_odd_rows(lost))
        unknown = self._take_over(strays, strays)
        # First the bad bytes go: nobody can take them for the file then, and its row says that it is missing.
        gone = [(finding, kept) for finding in lost for kept in self._vacate(finding)]
        if self._forget:
            self._forget_rows(gone)
        else:
            refused = self._restore(gone, unknown)
            unknown = self._take_over(strays, unknown)
            unknown = [path for path in unknown if not self._set_aside_if_refused(strays[path], refused)]
        for path in unknown:
            self._step("left", strays[path], "nobody here knows whose it is")

    # One file at a time

    def _step(self, action: Action, finding: Finding, more: str | None = None, kept: str | None = None) -> None:
        reason = f"{finding.reason}; {more}" if more else finding.reason
        self.steps.append(Step(action, finding.kind, finding.image_id, finding.path, reason, kept))

    def _set_aside(self, finding: Finding, why: str | None = None) -> None:
        """Move a file into quarantine for good."""
        for kept in self._move_aside(finding, why):
            self._step("quarantined", finding, why, kept)

    def _move_aside(self, finding: Finding, why: str | None = None) -> Iterator[str | None]:
        """Move a file into quarantine and yield where it is; one that cannot be moved is left, and told of."""
        try:
            kept = self._quarantine.take(finding.path, why or finding.reason)
        except OSError as error:
            self._step("left", finding, f"it cannot be set aside: {error.strerror or error}")
        else:
            yield kept

    # What nilearn reads beside the maps

    def _rewrite(self, findings: list[Finding]) -> None:
        """Write metadata anew from the catalog, and keep what was there in its place."""
        for start in range(0, len(findings), _RECORDS_AT_ONCE):
            chunk = findings[start : start + _RECORDS_AT_ONCE]
            content = _Content(self._store, [place_of(finding.path) for finding in chunk])
            for finding in chunk:
                for kept in self._move_aside(finding):
                    self._write_sidecar(finding, content, kept)

    def _write_sidecar(self, finding: Finding, content: _Content, kept: str | None) -> None:
        try:
            written = content.write(self._folder, place_of(finding.path))
        except sidecars.IN_THE_WAY as error:
            self._step("left", finding, f"it cannot be written: {error}", kept)
        else:
            self._step("rewritten" if written else "quarantined", finding, kept=kept)

    # Files without a row

    def _take_over(self, strays: Mapping[str, Finding], paths: Iterable[str]) -> list[str]:
        """Give rows to what is whole, set aside what cannot be right, and return what nobody knows."""
        found = take_over(self._store, paths, verbose=self._options.verbose)
        self.warnings += [(trouble, CatalogWarning) for trouble in found.troubles]
        for path in found.adopted:
            self._step("adopted", strays[path])
        for path, why in found.bad.items():
            self._set_aside(strays[path], why)
        return found.unknown

    def _set_aside_if_refused(self, stray: Finding, refused: Mapping[int, str]) -> bool:
        why = refused.get(stray.image_id or 0)
        if why is not None:
            self._set_aside(stray, f"the server does not know image {stray.image_id}: {why}")
        return why is not None

    # Rows without their file

    def _without_odd_rows(self, lost: list[Finding]) -> Iterator[Finding]:
        """Forget rows that no file of ours can belong to, and yield the others."""
        self._rows = {row.path: row for row in file_rows(self._store, {each.image_id or 0 for each in lost})}
        odd = [each for each in lost if (row := self._rows.get(each.path)) and not row.is_ours]
        self._forget_rows((finding, None) for finding in odd)
        yield from (finding for finding in lost if finding not in odd)

    def _vacate(self, finding: Finding) -> Iterator[str | None]:
        """Yield where the bytes are now that were in a lost file's place; nothing where they stay there."""
        if finding.image_id is None or finding.path not in self._rows:
            self._step("left", finding)  # a folder that cannot be looked into
        elif finding.kind == "missing":
            yield None
        else:
            yield from self._move_aside(finding)

    def _forget_rows(self, gone: Iterable[_Gone]) -> None:
        batch = Batch()
        for finding, kept in gone:
            row = self._rows[finding.path]
            batch.drop_file(row.image_id, row.kind)
            self._step("forgotten", finding, kept=kept)
        if batch:
            self._store.land(batch)

    def _restore(self, gone: list[_Gone], strays: Iterable[str]) -> dict[int, str]:
        """Fetch lost files again, and return what the server says of images that it has not."""
        rows = [self._rows[finding.path] for finding, _ in gone]
        lost = [_lost_file(row) for row in rows]
        places = [place_of(path) for path in strays]
        strangers = {place.id for place in places if place.id and (place.is_map or place.kind == "metadata")}
        restored = restore(self._folder, lost, strangers, self._options)
        self.warnings += restored.warnings
        now = {(row.image_id, row.kind): row for row in file_rows(self._store, {row.image_id for row in rows})}
        for finding, kept in gone:
            row = self._rows[finding.path]
            self._tell_restored(finding, kept, row, now.get((row.image_id, row.kind)), restored)
        return restored.refused

    def _tell_restored(
        self, finding: Finding, kept: str | None, row: FileRow, now: FileRow | None, restored: Restored
    ) -> None:
        is_here = now is not None and storage.why_not_here(self._folder / now.path, now.size or 0) is None
        if now is None or not is_here:
            why = restored.reasons.get((row.image_id, row.kind), "nothing was heard of it")
            self._step("left", finding, why, kept)
            return
        is_another = row.sha256 is not None and now.sha256 != row.sha256
        self._step("restored", finding, "the bytes had again are others" if is_another else None, kept)


class _Content:
    """What belongs into sidecars, as the catalog knows it.

    Terms are written as they are in the catalog: equal to Neurosynth's answer, and not its bytes.
    """

    def __init__(self, store: Store, places: list[Place]) -> None:
        def ids(kind: str) -> set[int]:
            return {place.id or place.collection_id or 0 for place in places if place.kind == kind}

        self._images = lookup.records_of(store, "image", ids("metadata"))
        self._collections = lookup.records_of(store, "collection", ids("collection_metadata"))
        self._words = lookup.words_of(store, ids("words"))

    def write(self, folder: Path, place: Place) -> bool:
        """Write a sidecar where the catalog knows what belongs into it; say whether it does."""
        collection_id, image_id = place.collection_id or 0, place.id or 0
        if place.kind == "words" and image_id in self._words:
            text = neurosynth.write_answer(*self._words[image_id])
            storage.write_whole(folder / storage.words_path(collection_id, image_id), text)
        elif place.kind == "metadata" and image_id in self._images:
            sidecars.write_image(folder, collection_id, image_id, self._images[image_id])
        elif place.kind == "collection_metadata" and collection_id in self._collections:
            sidecars.write_collection(folder, collection_id, self._collections[collection_id])
        else:
            return False
        return True


def _lost_file(row: FileRow) -> LostFile:
    return LostFile(row.image_id, row.kind, place_of(row.path).collection_id or 0, row.origin)
