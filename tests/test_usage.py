"""What takes the room in a folder is counted by collection, kind and age."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from fetching import fetch as fetch
from fetching import no_waiting as no_waiting
from fetching import world as world

from nvcatalog import Catalog
from nvcatalog.errors import InvalidOptionError

if TYPE_CHECKING:
    from pathlib import Path

    from fetching import Fetch

pytestmark = pytest.mark.usefixtures("no_waiting")


def counted(data_dir: Path, *by: str) -> dict[tuple[Any, ...], tuple[int, int]]:
    rows = Catalog(data_dir).usage(by).fetchall()
    return {tuple(key): (files, size) for *key, files, size in rows}


def test_every_byte_is_counted_once_whatever_it_is_counted_by(fetch: Fetch, data_dir: Path) -> None:
    fetch(collection_ids=[3, 1058])
    Catalog(data_dir).snapshot()
    files = [path for path in data_dir.rglob("*") if path.is_file() and not path.is_symlink()]
    links = [path for path in data_dir.rglob("*") if path.is_symlink()]
    total = sum(path.lstat().st_size for path in files + links if path.parent.name != "latest")
    for by in (("collection_id",), ("kind",), ("age",), ("collection_id", "kind", "age")):
        sums = counted(data_dir, *by).values()
        assert sum(size for _, size in sums) == total, by
        assert sum(number for number, _ in sums) == len(files) + len(links), by


def test_collections_kinds_and_ages_are_told_apart(fetch: Fetch, data_dir: Path) -> None:
    fetch(collection_ids=[3, 1058])
    home = data_dir / "neurovault"
    (home / "quarantine").mkdir()
    (home / "quarantine/old.nii.gz").write_bytes(bytes(1000))
    os.utime(home / "quarantine/old.nii.gz", (0, 0))
    month = time.time() - 20 * 24 * 3600
    os.utime(home / "collection_3/image_3.nii.gz", (month, month))

    by_collection = counted(data_dir, "collection_id")
    assert {key for (key,) in by_collection} == {None, 3, 1058}
    assert by_collection[3,][0] == 9
    by_kind = counted(data_dir, "kind")
    assert by_kind["original",][0] == 7
    assert by_kind["metadata",][0] == 7
    assert by_kind["collection_metadata",][0] == 2
    assert by_kind["quarantine",] == (1, 1000)
    assert {"catalog", "house"} <= {key for (key,) in by_kind}
    by_age = counted(data_dir, "age", "kind")
    assert by_age["quarantine", "over a year"] == (1, 1000)
    assert by_age["original", "up to a month"][0] == 1
    assert by_age["original", "up to a day"][0] == 6


def test_the_largest_come_first_and_one_name_does_for_one_column(fetch: Fetch, data_dir: Path) -> None:
    fetch(collection_ids=[3])
    frame = Catalog(data_dir).usage("kind").df()
    assert list(frame.columns) == ["kind", "files", "bytes"]
    assert frame["bytes"].is_monotonic_decreasing
    assert list(Catalog(data_dir).usage().df().columns) == ["collection_id", "kind", "age", "files", "bytes"]


def test_a_catalog_that_cannot_be_read_and_a_folder_that_is_not_there_are_counted_too(
    fetch: Fetch, data_dir: Path, tmp_path: Path
) -> None:
    fetch(collection_ids=[3])
    (data_dir / "neurovault/catalog.duckdb").write_bytes(b"broken")
    assert counted(data_dir, "kind")["catalog",][1] >= 6
    assert len(Catalog(tmp_path / "nowhere").usage()) == 0


@pytest.mark.parametrize("by", ["size", [], ["kind", "size"]])
def test_other_columns_are_refused(data_dir: Path, by: Any) -> None:
    with pytest.raises(InvalidOptionError, match="collection_id, kind, age"):
        Catalog(data_dir).usage(by)
