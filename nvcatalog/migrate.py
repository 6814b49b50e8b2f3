"""Bring a catalog file up to the schema this version of the package expects."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import duckdb

from nvcatalog._resources import sql_folder
from nvcatalog.errors import CatalogTooNewError, MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.resources.abc import Traversable

logger = logging.getLogger("nvcatalog")


@dataclass(frozen=True)
class Migration:
    """One numbered step of the schema's history, read from ``migrations/``."""

    version: int
    name: str
    sql: str

    @property
    def file(self) -> str:
        """The name of the file it came from."""
        return f"{self.version:04d}_{self.name}.sql"

    @property
    def checksum(self) -> str:
        """The SHA-256 of the text, the same whatever line endings a checkout gave it."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True)
class AppliedMigration:
    """One row of a catalog's ledger: a migration it has been through."""

    version: int
    name: str
    checksum: str
    applied_at: datetime


def load_migrations(folder: Traversable | None = None) -> list[Migration]:
    """Read the migrations, oldest first.

    Parameters
    ----------
    folder
        Where the files are; by default those that ship with the package.

    Raises
    ------
    MigrationError
        If a file is misnamed, a number is taken twice or left out, or there are none at all.
    """
    folder = sql_folder("migrations") if folder is None else folder
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    migrations = sorted((_load(folder, name) for name in names if _MEANT.search(name)), key=lambda m: m.file)
    if not migrations:
        raise MigrationError(f"{folder} holds no migrations; reinstall nvcatalog")
    for expected, migration in enumerate(migrations, start=1):
        if migration.version != expected:
            raise MigrationError(
                f"{migration.file} should be number {expected:04d}: numbers run from 0001, each used once; "
                f"renumber it, or restore the file that is missing"
            )
    return migrations


def applied(con: duckdb.DuckDBPyConnection) -> list[AppliedMigration]:
    """Return the ledger of the catalog ``con`` is connected to, oldest first; it may be read-only.

    Not to be called inside a transaction: in a catalog without a ledger it would be aborted.
    """
    try:
        # As microseconds: a TIMESTAMPTZ comes out of fetchall() only where pytz is installed.
        rows = con.execute(
            "SELECT version, name, checksum, epoch_us(applied_at) FROM schema_migrations ORDER BY version"
        ).fetchall()
    except duckdb.CatalogException:
        # To ask duckdb_tables() first would describe every column: that takes longer than opening the file.
        return []
    return [
        AppliedMigration(version, name, checksum, _EPOCH + timedelta(microseconds=us))
        for version, name, checksum, us in rows
    ]


def pending(con: duckdb.DuckDBPyConnection, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """Return the migrations this catalog still needs, oldest first.

    Raises
    ------
    CatalogTooNewError
        If a newer version of nvcatalog has migrated the catalog.
    MigrationError
        If the catalog has been through a migration that has since been edited or is missing.
    """
    migrations = load_migrations() if migrations is None else migrations
    by_version = {migration.version: migration for migration in migrations}
    ledger = {row.version: row for row in applied(con)}
    for row in ledger.values():
        _check_history(row, by_version)
    todo = [migration for migration in migrations if migration.version not in ledger]
    if todo and ledger and todo[0].version < max(ledger):
        raise MigrationError(
            f"{todo[0].file} was added behind {max(ledger):04d}, which this catalog already has; "
            f"give it the next free number"
        )
    return todo


def migrate(con: duckdb.DuckDBPyConnection, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """Apply what is pending, each migration in a transaction of its own, and return it.

    Raises
    ------
    MigrationError
        If a migration fails. It is rolled back wholly; those before it stay applied.
    """
    todo = pending(con, migrations)
    for migration in todo:
        _apply(con, migration)
        logger.info("Applied migration %s", migration.file)
    return todo


_NAMED = re.compile(r"(?P<version>[0-9]{4})_(?P<name>[a-z][a-z0-9_]*)\.sql")
# What somebody meant as a migration, well named or not: leaving it out in silence would be worse.
_MEANT = re.compile(r"^[0-9]+[_-]|\.sql$", re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEDGER = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version INTEGER PRIMARY KEY,
        name VARCHAR NOT NULL,
        checksum VARCHAR NOT NULL,
        applied_at TIMESTAMPTZ NOT NULL
    );
    COMMENT ON TABLE schema_migrations IS 'One row per migration this catalog has been through.';
    COMMENT ON COLUMN schema_migrations.version IS 'Number of the migration';
    COMMENT ON COLUMN schema_migrations.name IS 'What it does';
    COMMENT ON COLUMN schema_migrations.checksum IS 'SHA-256 of its text, line endings normalised';
    COMMENT ON COLUMN schema_migrations.applied_at IS 'When it was applied';
"""


def _load(folder: Traversable, name: str) -> Migration:
    named = _NAMED.fullmatch(name)
    if named is None:
        raise MigrationError(
            f"{folder / name} is no name for a migration; "
            f"rename it like 0003_add_image_checksums.sql, or move it elsewhere"
        )
    # Read as bytes: whether text mode translates line endings depends on where the package lives.
    text = (folder / name).read_bytes().decode()
    sql = text.replace("\r\n", "\n").replace("\r", "\n")
    return Migration(int(named["version"]), named["name"], sql)


def _check_history(row: AppliedMigration, by_version: dict[int, Migration]) -> None:
    """Raise unless ``row`` is the ledger's entry for a migration as it is today."""
    label = f"{row.version:04d}_{row.name}.sql"
    if row.version > max(by_version, default=0):
        raise CatalogTooNewError(
            f"this catalog has been through {label}, which this version of nvcatalog does not know; "
            f"upgrade nvcatalog (pip install --upgrade nvcatalog)"
        )
    if row.version not in by_version:
        raise MigrationError(f"this catalog has been through {label}, which is missing; restore the file")
    if row.checksum != by_version[row.version].checksum:
        raise MigrationError(
            f"{by_version[row.version].file} was edited after this catalog had been through it; "
            f"restore the file and put the change into a new migration"
        )


def _apply(con: duckdb.DuckDBPyConnection, migration: Migration) -> None:
    try:
        with _transaction(con):
            con.execute(_LEDGER)
            _run(con, migration)
            con.execute(
                "INSERT INTO schema_migrations VALUES ($version, $name, $checksum, now())",
                {"version": migration.version, "name": migration.name, "checksum": migration.checksum},
            )
    except duckdb.Error as error:
        raise MigrationError(
            f"{migration.file} failed and was rolled back, the catalog is as it was before: {error}"
        ) from error


@contextlib.contextmanager
def _transaction(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    con.begin()
    try:
        yield
        con.commit()
    except BaseException:
        # Rolling back fails too where the commit failed, or DuckDB gave the whole file up (a full disk):
        # the first error is the one to tell.
        with contextlib.suppress(duckdb.Error):
            con.rollback()
        raise


def _run(con: duckdb.DuckDBPyConnection, migration: Migration) -> None:
    for statement in con.extract_statements(migration.sql):
        if statement.type == duckdb.StatementType.TRANSACTION:
            raise MigrationError(
                f"{migration.file} says {statement.query.strip()}; remove it: "
                f"each migration is one transaction already"
            )
    # As one script: hundreds of calls would each wait for Python's lock while other threads move files.
    con.execute(migration.sql)
