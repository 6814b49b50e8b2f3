"""A catalog of any released level opens with all its rows, whoever opens it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from older import LEVELS, all_rows, columns_of, make_catalog, opened, rows_about
from test_records import COLLECTIONS, IMAGES, RECORDED_COLLECTIONS, RECORDED_IMAGES, mutated

from nvcatalog import Catalog
from nvcatalog._store import Store

if TYPE_CHECKING:
    from nvcatalog.records import Record

SOME_IMAGES = st.lists(mutated(IMAGES + RECORDED_IMAGES), max_size=3)
SOME_COLLECTIONS = st.lists(mutated(COLLECTIONS + RECORDED_COLLECTIONS), max_size=2)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=2)  # the simplest, and another one
@given(images=SOME_IMAGES, collections=SOME_COLLECTIONS)
def test_a_catalog_of_each_level_opens_with_all_its_rows(
    level: int, images: list[Record], collections: list[Record]
) -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "neurovault"
        folder.mkdir()
        make_catalog(folder / "catalog.duckdb", level, rows_about(images, collections))
        with opened(folder / "catalog.duckdb") as connection:
            columns = columns_of(connection)
            before = all_rows(connection, columns)
        shutil.copytree(folder, Path(home) / "read/neurovault")

        # Who may not write reads all of it, too, and leaves it as it is.
        content = (folder / "catalog.duckdb").read_bytes()
        store = Store(folder)
        with patch.object(Store, "what_cannot_be_written", lambda _: folder), store.reading() as connection:
            assert all_rows(connection, columns) == before
        assert (folder / "catalog.duckdb").read_bytes() == content

        reader = Store(Path(home) / "read/neurovault")
        for opening, path in ((store.writing, store.path), (reader.reading, reader.path)):
            with opening() as connection:
                assert all_rows(connection, columns) == before
            with opened(path) as connection:
                assert all_rows(connection, columns) == before
                newest = connection.execute("SELECT max(version) FROM schema_migrations").fetchall()
                assert newest == [(max(LEVELS),)]
        assert Catalog(home).sql("SELECT count(*) FROM stat_maps").fetchall()[0][0] <= len(before["images"])
