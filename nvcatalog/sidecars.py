"""Write the metadata files that nilearn keeps beside its maps, and read those that it left."""

from __future__ import annotations

from pathlib import Path

from nvcatalog import records, storage
from nvcatalog.errors import TooManyFilesError
from nvcatalog.records import Record

# What nilearn adds to a record when it writes it down. Its paths may be another machine's: never read.
_PATH_KEYS = frozenset(
    prefix + kind + "_path" for prefix in ("", "resampled_", "ns_words_") for kind in ("relative", "absolute")
)


#: What the system answers where something else is in a file's place, where its folder belongs to somebody else or
#: has just been removed, and where no further file can be opened for now.
IN_THE_WAY = (
    PermissionError,
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    TooManyFilesError,
)


def write_image(folder: Path, collection_id: int, image_id: int, record: Record) -> None:
    """Write an image's record where nilearn looks for it, with the paths that nilearn's offline reads need."""
    paths = storage.image_paths(collection_id, image_id)
    path = folder / storage.sidecar_path(collection_id, image_id)
    storage.write_json(path, records.null_placeholders(record) | paths)


def write_collection(folder: Path, collection_id: int, record: Record) -> None:
    """Write a collection's record where nilearn looks for it."""
    paths = {"relative_path": storage.collection_folder(collection_id)}
    path = folder / storage.collection_sidecar_path(collection_id)
    storage.write_json(path, records.null_placeholders(record) | paths)


def read(path: Path, id_: int) -> Record:
    """Return a sidecar as the record it was.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError, OSError
        When it cannot be read, or is not the record of ``id_``.
    """
    try:
        record = records.parse_json(storage.read_file(path))
    except ValueError as error:
        raise ValueError(f"it is no whole JSON (cut off?): {error}") from error
    if not isinstance(record, dict) or records.record_id(record) != id_:
        raise ValueError(f"it is not the record of {id_}")
    return {key: value for key, value in record.items() if key not in _PATH_KEYS}


def holds(path: Path, record: Record) -> bool:
    """Whether a sidecar is there and is this record."""
    try:
        written = records.null_placeholders(read(path, records.record_id(record)))
        return written == records.null_placeholders(record)
    except (OSError, ValueError):
        return False
