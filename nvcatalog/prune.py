"""Remove the files of images that a condition selects, and their rows; what is known of them stays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nvcatalog import snapshot, storage
from nvcatalog import where as conditions
from nvcatalog._batch import Batch
from nvcatalog._parallel import Lane, in_parallel
from nvcatalog._progress import Progress, summarise
from nvcatalog._store import Store
from nvcatalog.errors import DataDirError, InvalidOptionError, SnapshotWarning
from nvcatalog.ids import LARGEST, parse_ids
from nvcatalog.layout import MAPS, place_of
from nvcatalog.options import parse_max_age
from nvcatalog.verify import FileRow
from nvcatalog.where import Condition

if TYPE_CHECKING:
    import pandas as pd

# Removing a file is mostly waiting for the disk, on a network's above all.
_REMOVERS = 4
# So many images' rows go in one write, right after their files: a kill leaves at most these rows without files.
_ITEMS_AT_ONCE = 500


class PrunedFile(NamedTuple):
    """A file that was removed, or would be; ``trouble`` says what kept it, if anything did.

    Metadata files beside a map have the kinds ``metadata``, ``words`` and ``collection_metadata``.
    """

    image_id: int | None
    collection_id: int | None
    kind: str
    path: str
    bytes: int
    trouble: str | None = None


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be.

    Attributes
    ----------
    folder : Path
        The data folder.
    dry_run : bool
        Whether nothing was removed yet.
    removed : tuple of PrunedFile
        The files.
    kept : tuple of PrunedFile
        Those that could not be removed, each with its ``trouble``; their rows are there too.
    """

    folder: Path
    dry_run: bool
    removed: tuple[PrunedFile, ...] = ()
    kept: tuple[PrunedFile, ...] = ()

    def __repr__(self) -> str:
        """Say how much it is."""
        return f"<Pruned: {self.summary}>"

    @property
    def images(self) -> int:
        """How many images it is about."""
        return len({file.image_id for file in self.removed if file.kind in MAPS})

    @property
    def bytes(self) -> int:
        """How many bytes they take."""
        return sum(file.bytes for file in self.removed)

    @property
    def summary(self) -> str:
        """How much it is, in a line."""
        would = "would remove" if self.dry_run else "removed"
        kept = f"; {len(self.kept)} files could not be removed" if self.kept else ""
        size = f"{self.bytes / 1e6:,.1f} MB"
        return f"{would} {len(self.removed):,} files of {self.images:,} images ({size}){kept}"

    def df(self) -> pd.DataFrame:
        """Return a row a file: ``image_id``, ``collection_id``, ``kind``, ``path``, ``bytes``, ``trouble``."""
        import pandas as pd

        frame = pd.DataFrame([*self.removed, *self.kept], columns=list(PrunedFile._fields))
        return frame.astype({"image_id": "Int64", "collection_id": "Int64", "bytes": "int64"})


def prune(
    store: Store,
    *,
    where: str | None = None,
    image_ids: object = None,
    collection_ids: object = None,
    older_than: object = None,
    params: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    verbose: int = 2,
) -> Pruned:
    """Remove the files of the images that all of these select.

    Parameters
    ----------
    store : Store
        The catalog.
    where, params
        A condition over ``stat_maps``, and values for each ``$name`` in it.
    image_ids, collection_ids
        Ids, as the fetchers take them.
    older_than : timedelta, number of days or None
        Images whose files all came longer ago.
    dry_run : bool
        Whether to say only what would be removed.
    verbose : int
        0 says nothing, 1 a summary, 2 shows a progress bar too.

    Raises
    ------
    InvalidOptionError
        When nothing selects; and for options that cannot be.
    QueryError
        When the condition cannot be asked.
    DataDirError
        When the folder cannot be written.
    CatalogLockedError
        When somebody keeps the catalog: files that are removed by then are missing to their rows, which the next
        call removes.
    """
    selection = _Selection(where, params, image_ids, collection_ids, older_than)
    obstacle = None if dry_run else store.what_cannot_be_written()
    if obstacle is not None:
        raise DataDirError(f"{obstacle} cannot be written, so nothing can be removed; dry_run=True only looks")
    pruner = _Pruner(store, dry_run=dry_run, verbose=verbose)
    pruner.run(selection.items(store))
    pruned = Pruned(store.folder, dry_run, tuple(pruner.removed), tuple(pruner.kept))
    trouble = snapshot.publish(store) if pruned.removed and not dry_run else None
    if trouble is not None:
        warnings.warn(trouble, SnapshotWarning, stacklevel=3)
    summarise(f"nvcatalog: {pruned.summary}, in {store.folder}", verbose=verbose)
    return pruned


# What is chosen


class _Item(NamedTuple):
    """An image, or a NIDM pack, and the rows of its files."""

    item_id: int
    collection_id: int | None
    rows: list[FileRow]


class _Selection:
    """What selects images, read from what the caller gave."""

    def __init__(
        self,
        where: str | None,
        params: Mapping[str, Any] | None,
        image_ids: object,
        collection_ids: object,
        older_than: object,
    ) -> None:
        if where is None and image_ids is None and collection_ids is None and older_than is None:
            raise InvalidOptionError(
                "nothing says what to prune, and everything is never meant; give where, image_ids, collection_ids "
                "or older_than"
            )
        if params and where is None:
            raise InvalidOptionError("params are values for the $names of a condition; give where (--where)")
        self._condition = None if where is None else Condition(where, params=params or {})
        self._images = None if image_ids is None else list(parse_ids(image_ids, kind="image"))
        self._collections = None if collection_ids is None else list(parse_ids(collection_ids, kind="collection"))
        age = parse_max_age(older_than, name="older_than")
        self._before = None if age is None else datetime.now(UTC) - age

    def items(self, store: Store) -> list[_Item]:
        """Return the images and packs that are selected, with the rows of their files."""
        if not store.exists:
            return []
        selected = self._condition and list(conditions.select(store, self._condition).image_ids)
        params = {"selected": selected, "images": self._images, "collections": self._collections}
        with store.reading() as connection:
            rows = connection.execute(_SELECTED, params | {"before": self._before}).fetchall()
        items: dict[int, _Item] = {}
        for collection_id, *row in rows:
            file = FileRow._make(row)
            items.setdefault(file.image_id, _Item(file.image_id, collection_id, [])).rows.append(file)
        return list(items.values())


# A pack goes with the last of its maps that are here, or by itself where neither a condition nor ids name images.
_SELECTED = """
    WITH packs AS (SELECT DISTINCT pack_id, collection_id FROM nidm_packs),
    items AS (
        SELECT f.image_id, bool_or(starts_with(f.kind, 'nidm_')) AS is_pack, max(f.downloaded_at) AS came_at,
               any_value(coalesce(i.collection_id, p.collection_id)) AS collection_id
        FROM files AS f
        LEFT JOIN images AS i ON i.image_id = f.image_id
        LEFT JOIN packs AS p ON p.pack_id = f.image_id
        GROUP BY f.image_id
    ),
    fitting AS (
        FROM items
        WHERE ($collections::INTEGER[] IS NULL OR collection_id IN (SELECT unnest($collections::INTEGER[])))
          AND ($before::TIMESTAMPTZ IS NULL OR came_at < $before::TIMESTAMPTZ)
          AND ($images::INTEGER[] IS NULL OR image_id IN (SELECT unnest($images::INTEGER[])))
          AND ($selected::INTEGER[] IS NULL OR image_id IN (SELECT unnest($selected::INTEGER[])))
    ),
    chosen AS (SELECT image_id FROM fitting WHERE NOT is_pack),
    chosen_packs AS (
        SELECT image_id
        FROM items
        WHERE is_pack
          AND (image_id IN (SELECT image_id FROM fitting)
               OR image_id IN (SELECT pack_id FROM nidm_packs WHERE image_id IN (SELECT image_id FROM chosen)))
          AND image_id NOT IN (
              SELECT pack_id FROM nidm_packs JOIN items USING (image_id)
              WHERE image_id NOT IN (SELECT image_id FROM chosen))
    )
    SELECT items.collection_id, f.image_id, f.kind, f.path, f.size, f.sha256, f.origin
    FROM files AS f
    JOIN items USING (image_id)
    WHERE image_id IN (FROM chosen UNION ALL FROM chosen_packs)
    ORDER BY items.collection_id, f.image_id, f.kind
"""


# Removing


class _Pruner:
    """Removes files, then their rows; or only looks at them."""

    def __init__(self, store: Store, *, dry_run: bool, verbose: int) -> None:
        self.removed: list[PrunedFile] = []
        self.kept: list[PrunedFile] = []
        self._store = store
        self._folder = store.folder
        self._dry_run = dry_run
        self._verbose = verbose
        self._gone: set[str] = set()

    def run(self, items: list[_Item]) -> None:
        """Remove the files of these, each one's rows right after its files.

        Were it the other way round, a kill in between would leave files that nobody selects any more, and that a
        later call takes over. A row without its file is noticed by whoever looks, and selected again.
        """
        with Progress("Pruning", total=len(items), verbose=self._verbose, unit="image") as progress:
            for start in range(0, len(items), _ITEMS_AT_ONCE):
                chunk = items[start : start + _ITEMS_AT_ONCE]
                batch = Batch()
                lane = Lane(self._remove_item, chunk, min(_REMOVERS, len(chunk)))
                for item, files in in_parallel([lane]):
                    self._note(item, files, batch)
                    progress.step()
                self._clear_folders(chunk)
                if not self._dry_run:
                    self._store.land(batch)
        for files in (self.removed, self.kept):
            files.sort(key=lambda file: (file.collection_id or 0, file.image_id or LARGEST, file.path))

    def _remove_item(self, item: _Item) -> list[tuple[_Item, list[PrunedFile]]]:
        """Remove an image's files; those that nilearn reads beside them go last, and stay with what stays."""
        files = [file for row in item.rows if row.is_ours for file in self._remove(row.path, item.item_id)]
        if not any(file.trouble for file in files):
            for folder in {place.collection_id or 0 for row in item.rows if (place := place_of(row.path)).is_map}:
                for path in (storage.sidecar_path(folder, item.item_id), storage.words_path(folder, item.item_id)):
                    files += self._remove(path, item.item_id)
        return [(item, files)]

    def _remove(self, path: str, item_id: int | None) -> Iterator[PrunedFile]:
        """Remove a file, if it is there, and yield what it was."""
        place = place_of(path)
        size, trouble = 0, None
        try:
            size = (self._folder / path).stat().st_size
            if not self._dry_run:
                (self._folder / path).unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            trouble = error.strerror or str(error)
        yield PrunedFile(item_id, place.collection_id, place.kind, path, size, trouble)

    def _note(self, item: _Item, files: list[PrunedFile], batch: Batch) -> None:
        """Note what became of an image's files, and which rows go."""
        kept = {file.path for file in files if file.trouble}
        for row in item.rows:
            if row.path not in kept:
                batch.drop_file(row.image_id, row.kind)
        for file in files:
            (self.kept if file.trouble else self.removed).append(file)
        self._gone |= {file.path for file in files if not file.trouble}

    def _clear_folders(self, items: list[_Item]) -> None:
        folders = {place_of(row.path).collection_id or 0 for item in items for row in item.rows if row.is_ours}
        for collection_id in sorted(folders):
            self._clear(collection_id)

    def _clear(self, collection_id: int) -> None:
        """Remove a collection's record and folder once no image is left: nilearn takes such a folder for whole."""
        name = storage.collection_folder(collection_id)
        try:
            left = {f"{name}/{entry.name}" for entry in (self._folder / name).iterdir()} - self._gone
        except OSError:
            return
        if any(place.id and place.kind != "words" for place in map(place_of, left)):
            return
        for file in self._remove(storage.collection_sidecar_path(collection_id), None):
            (self.kept if file.trouble else self.removed).append(file)
        if not self._dry_run:
            with suppress(OSError):  # it holds something else
                (self._folder / name).rmdir()
