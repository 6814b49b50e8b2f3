"""Migrations bring any older catalog to the present schema, or change nothing and say what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import pytest

from nvcatalog.errors import CatalogTooNewError, MigrationError
from nvcatalog.migrate import Migration, applied, load_migrations, migrate, pending

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = "-- Maps need a place.\nCREATE TABLE maps (map_id INTEGER PRIMARY KEY, name VARCHAR);\n"
SECOND = "-- Maps have sizes.\nALTER TABLE maps ADD COLUMN size BIGINT;\nINSERT INTO maps VALUES (1, 'a;b', 2);\n"


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_create_maps.sql").write_text(FIRST)
    (tmp_path / "0002_add_size.sql").write_text(SECOND)
    return tmp_path


def tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    return [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall()]


def test_an_empty_catalog_goes_through_every_migration_in_order(
    con: duckdb.DuckDBPyConnection, folder: Path
) -> None:
    before = datetime.now(UTC)
    done = migrate(con, load_migrations(folder))

    assert [migration.file for migration in done] == ["0001_create_maps.sql", "0002_add_size.sql"]
    assert con.execute("SELECT * FROM maps").fetchall() == [(1, "a;b", 2)]
    ledger = applied(con)
    assert [(row.version, row.name) for row in ledger] == [(1, "create_maps"), (2, "add_size")]
    assert [row.checksum for row in ledger] == [migration.checksum for migration in done]
    assert all(before <= row.applied_at <= datetime.now(UTC) for row in ledger)


def test_a_second_run_does_nothing(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    migrations = load_migrations(folder)
    migrate(con, migrations)
    ledger = applied(con)

    assert pending(con, migrations) == []
    assert migrate(con, migrations) == []
    assert applied(con) == ledger


def test_only_what_is_new_is_applied(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    migrations = load_migrations(folder)
    migrate(con, migrations[:1])

    assert pending(con, migrations) == migrations[1:]
    assert migrate(con, migrations) == migrations[1:]


def test_looking_at_an_empty_catalog_creates_nothing(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    assert applied(con) == []
    assert len(pending(con, load_migrations(folder))) == 2
    assert tables(con) == []


def test_a_failing_migration_is_rolled_back_wholly_and_named(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    third = folder / "0003_break.sql"
    third.write_text("CREATE TABLE halfway (x INTEGER);\nUPDATE maps SET size = 3;\nSELECT * FROM nowhere;\n")
    with pytest.raises(
        MigrationError, match=r"0003_break\.sql failed and was rolled back(?s:.)*nowhere"
    ) as caught:
        migrate(con, load_migrations(folder))
    assert isinstance(caught.value.__cause__, duckdb.CatalogException)
    assert tables(con) == ["maps", "schema_migrations"]
    assert con.execute("SELECT size FROM maps").fetchall() == [(2,)]
    assert [row.version for row in applied(con)] == [1, 2]

    third.write_text("CREATE TABLE halfway (x INTEGER);\n")
    assert [migration.version for migration in migrate(con, load_migrations(folder))] == [3]


@pytest.mark.parametrize("broken", ["SELECT * FROM nowhere;", "CREATE TABEL maps (x INTEGER);"])
def test_a_failing_first_migration_leaves_not_even_a_ledger(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, broken: str
) -> None:
    (tmp_path / "0001_create_maps.sql").write_text(FIRST + broken)
    with pytest.raises(MigrationError, match="0001_create_maps"):
        migrate(con, load_migrations(tmp_path))
    assert tables(con) == []
    assert con.execute("SELECT 42").fetchall() == [(42,)]


def test_a_migration_whose_commit_fails_is_rolled_back_and_says_why(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    con.execute("CREATE TABLE maps (map_id INTEGER PRIMARY KEY)")
    other = con.cursor()
    other.begin()
    other.execute("INSERT INTO maps VALUES (7)")

    def commit_the_other(x: int) -> int:
        other.commit()
        return x

    # Called from inside the migration, so that its own insert is fine until it commits.
    con.create_function("commit_the_other", commit_the_other, ["INTEGER"], "INTEGER")
    (tmp_path / "0001_add_map.sql").write_text("INSERT INTO maps VALUES (7);\nSELECT commit_the_other(1);\n")

    with pytest.raises(
        MigrationError, match=r"0001_add_map\.sql failed and was rolled back(?s:.)*Failed to commit"
    ):
        migrate(con, load_migrations(tmp_path))
    assert tables(con) == ["maps"]
    assert con.execute("SELECT map_id FROM maps").fetchall() == [(7,)]


def test_an_edited_migration_is_refused(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    migrate(con, load_migrations(folder))
    (folder / "0001_create_maps.sql").write_text(FIRST.replace("name", "title"))

    with pytest.raises(MigrationError, match=r"0001_create_maps\.sql was edited.*restore the file"):
        migrate(con, load_migrations(folder))


def test_a_migration_that_vanished_is_refused(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    first, second = load_migrations(folder)
    migrate(con, [first, second])

    with pytest.raises(MigrationError, match=r"0001_create_maps\.sql, which is missing; restore"):
        migrate(con, [second])


def test_a_migration_added_behind_the_newest_is_refused(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    first, second = load_migrations(folder)
    third = Migration(3, "index_nothing", "SELECT 1;")
    migrate(con, [first, third])

    with pytest.raises(MigrationError, match=r"0002_add_size\.sql was added behind 0003.*next free number"):
        migrate(con, [first, second, third])


def test_a_catalog_of_a_newer_version_asks_for_an_upgrade(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    migrations = load_migrations(folder)
    migrate(con, migrations)

    with pytest.raises(CatalogTooNewError, match=r"0002_add_size\.sql.*upgrade nvcatalog"):
        migrate(con, migrations[:1])
    assert [row.version for row in applied(con)] == [1, 2]


@pytest.mark.parametrize(
    "name",
    [
        "3_add.sql",
        "0003-add.sql",
        "0003_Add.sql",
        "0003_.sql",
        "add.sql",
        "0003_add.SQL",
        "0003_add.sql.txt",
        "0003_add",
    ],
)
def test_a_misnamed_migration_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("SELECT 1;\n")
    with pytest.raises(MigrationError, match="is no name for a migration; rename it like"):
        load_migrations(folder)


def test_other_files_beside_the_migrations_are_left_alone(folder: Path) -> None:
    (folder / "README.md").write_text("Never edit a merged migration.\n")
    (folder / ".DS_Store").write_bytes(b"\x00")
    assert [migration.version for migration in load_migrations(folder)] == [1, 2]


@pytest.mark.parametrize("name", ["0002_add_colour.sql", "0004_add_colour.sql"])
def test_a_number_taken_twice_or_left_out_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("SELECT 1;\n")
    with pytest.raises(MigrationError, match=r"should be number 0003.*renumber it"):
        load_migrations(folder)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_migrations_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MigrationError, match="holds no migrations; reinstall"):
        load_migrations(tmp_path / name)


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_endings_change_neither_the_checksum_nor_what_is_stored(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, ending: str
) -> None:
    text = "CREATE TABLE notes (note VARCHAR);\nINSERT INTO notes VALUES ('two\nlines');\n"
    (tmp_path / "0001_create_notes.sql").write_bytes(text.encode())
    (unix,) = load_migrations(tmp_path)
    (tmp_path / "0001_create_notes.sql").write_bytes(text.replace("\n", ending).encode())
    (other,) = load_migrations(tmp_path)

    assert other.checksum == unix.checksum
    migrate(con, [other])
    assert con.execute("SELECT note FROM notes").fetchall() == [("two\nlines",)]
    assert pending(con, [unix]) == []


@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK", "BEGIN"])
def test_a_migration_may_not_end_its_own_transaction(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, word: str
) -> None:
    (tmp_path / "0001_create_maps.sql").write_text(f"{FIRST}{word};\nSELECT * FROM nowhere;\n")
    with pytest.raises(MigrationError, match=rf"0001_create_maps\.sql says {word};.*remove it"):
        migrate(con, load_migrations(tmp_path))
    assert tables(con) == []


def test_a_reader_may_ask_what_is_pending(tmp_path: Path, folder: Path) -> None:
    migrations = load_migrations(folder)
    with duckdb.connect(tmp_path / "catalog.duckdb") as con:
        migrate(con, migrations[:1])
    with duckdb.connect(tmp_path / "catalog.duckdb", read_only=True) as con:
        assert pending(con, migrations) == migrations[1:]


# The migrations that ship with the package


def test_the_shipped_schema_opens_in_a_fenced_reader_and_in_old_storage(tmp_path: Path) -> None:
    path = tmp_path / "catalog.duckdb"
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{path}' AS catalog (STORAGE_VERSION 'v1.0.0')")
        con.execute("USE catalog")
        migrate(con)
        con.execute("INSERT INTO images (image_id, name, extra) VALUES (10426, 'a map', '{\"n\": 1}')")
    with duckdb.connect(
        path, read_only=True, config={"enable_external_access": False, "lock_configuration": True}
    ) as con:
        assert pending(con) == []
        assert con.execute("SELECT image_id, name, extra->>'n' FROM images").fetchall() == [(10426, "a map", "1")]
        assert "v1.0.0" in str(
            con.execute("SELECT tags FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()
        )


def test_every_table_view_and_column_says_what_it_means(con: duckdb.DuckDBPyConnection) -> None:
    migrate(con)
    silent = con.execute(
        """
        SELECT table_name, NULL FROM duckdb_tables() WHERE comment IS NULL
        UNION ALL
        SELECT view_name, NULL FROM duckdb_views() WHERE comment IS NULL AND NOT internal
        UNION ALL
        SELECT table_name, column_name FROM duckdb_columns() WHERE comment IS NULL AND NOT internal
        """
    ).fetchall()
    assert silent == []


@pytest.mark.parametrize("view", ["local_images", "stat_maps"])
def test_a_views_columns_mean_what_they_mean_in_the_table(con: duckdb.DuckDBPyConnection, view: str) -> None:
    migrate(con)
    query = "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = $name ORDER BY column_index"
    images, shown = (dict(con.execute(query, {"name": name}).fetchall()) for name in ("images", view))
    assert {name: shown[name] for name in images} == images


def test_a_migration_that_adds_a_column_can_comment_on_it_in_the_views_too(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "catalog.duckdb") as con:
        migrate(con)
    add = """
        ALTER TABLE images ADD COLUMN mood VARCHAR;
        SELECT * FROM local_images LIMIT 0;
        COMMENT ON COLUMN local_images.mood IS 'The mood, as typed by uploaders';
    """
    shipped = load_migrations()
    with duckdb.connect(tmp_path / "catalog.duckdb") as con:
        migrate(con, [*shipped, Migration(len(shipped) + 1, "add_mood", add)])
    with duckdb.connect(tmp_path / "catalog.duckdb", read_only=True) as con:
        comments = con.execute(
            "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'local_images'"
        ).fetchall()
    assert comments[-3:] == [
        ("mood", "The mood, as typed by uploaders"),
        ("collection_name", "Title of the collection"),
        ("path", "Where the file is, relative to the catalog's folder"),
    ]


def test_a_catalog_of_an_earlier_schema_gets_the_comments_on_its_views(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "catalog.duckdb") as con:
        migrate(con, load_migrations()[:3])
    with duckdb.connect(tmp_path / "catalog.duckdb") as con:
        migrate(con)
        assert con.execute(
            "SELECT count(*) FROM duckdb_columns() WHERE comment IS NULL AND NOT internal"
        ).fetchall() == [(0,)]


def test_no_two_columns_of_a_relation_differ_in_case_alone(con: duckdb.DuckDBPyConnection) -> None:
    migrate(con)
    clashes = con.execute(
        """
        SELECT table_name, lower(column_name) AS folded
        FROM duckdb_columns()
        WHERE NOT internal
        GROUP BY ALL
        HAVING count(*) > 1
        """
    ).fetchall()
    assert clashes == []


def test_no_foreign_key_or_secondary_index_blocks_an_upsert(con: duckdb.DuckDBPyConnection) -> None:
    migrate(con)
    kinds = con.execute("SELECT DISTINCT constraint_type FROM duckdb_constraints()").fetchall()
    assert {kind for (kind,) in kinds} == {"PRIMARY KEY", "NOT NULL"}
    assert con.execute("SELECT index_name FROM duckdb_indexes()").fetchall() == []


def test_local_images_are_those_whose_original_is_here_and_proven(con: duckdb.DuckDBPyConnection) -> None:
    migrate(con)
    con.execute("INSERT INTO collections (collection_id, name) VALUES (555, 'obesity')")
    con.execute("INSERT INTO images (image_id, collection_id) VALUES (1, 555), (2, 555), (3, 556), (4, 555)")
    con.execute(
        """
        INSERT INTO files (image_id, kind, path, state)
        VALUES (1, 'original', 'a', 'present'), (2, 'original', 'b', 'unverified'),
               (3, 'original', 'c', 'present'), (4, 'resampled', 'd', 'present')
        """
    )
    rows = con.execute("SELECT image_id, collection_name, path FROM local_images ORDER BY ALL").fetchall()
    assert rows == [(1, "obesity", "a"), (3, None, "c")]


def test_local_images_shows_columns_that_came_later(con: duckdb.DuckDBPyConnection) -> None:
    migrate(con)
    con.execute("ALTER TABLE images ADD COLUMN mood VARCHAR")
    assert con.execute("SELECT mood, path FROM local_images").fetchall() == []


def test_image_words_is_the_long_table_zeros_included(con: duckdb.DuckDBPyConnection) -> None:
    migrate(con)
    con.execute("INSERT INTO terms VALUES (1, 'pain'), (2, '001')")
    con.execute("INSERT INTO words VALUES (10426, 1, -0.25), (10426, 2, 0.0)")
    rows = con.execute("SELECT image_id, term, weight FROM image_words ORDER BY term").fetchall()
    assert rows == [(10426, "001", 0.0), (10426, "pain", -0.25)]
