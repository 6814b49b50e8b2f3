"""The only code that opens ``catalog.duckdb``: read it, land rows in it, bring it up to date."""

from __future__ import annotations

import json
import os
import random
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import duckdb
from filelock import Timeout

from nvcatalog import _batch, _blank, _marks, _replaced, records
from nvcatalog._batch import Batch
from nvcatalog._gate import ForkedOpenError, gate_of
from nvcatalog._instances import Instance, get_ready
from nvcatalog._line import in_line
from nvcatalog._locks import lock_timeout_s, sign, signed, take, wait_while_taken
from nvcatalog._progress import waiting_for
from nvcatalog._troubles import (
    NO_LOCKS,
    REFUSALS,
    absent,
    corrupt,
    folder_error,
    holder_in,
    locked_message,
    lost,
    troubles_told,
    unreadable,
)
from nvcatalog.errors import (
    CatalogLockedError,
)
from nvcatalog.known import Known, KnownCollection, KnownImage, LocalFile, Refusal
from nvcatalog.migrate import migrate, pending
from nvcatalog.queries import quoted
from nvcatalog.storage import CURRENT_SNAPSHOT, SNAPSHOTS

if TYPE_CHECKING:
    import pyarrow as pa

Opened = TypeVar("Opened")

FILE_NAME = "catalog.duckdb"
LOCK_NAME = "catalog.lock"

# So long a reader lets writers go first, and no longer than half its patience: somebody may keep them waiting.
_POLITE_S = 5.0
# Each opening reads the log whole: beyond this it takes longer than what it saves.
_LARGEST_LOG = 64 * 1024 * 1024


class Store:
    """A folder's catalog.

    Opening costs milliseconds, and nothing stays open between calls: whoever else wants the file gets it.
    """

    base: Path | None = None  #: The folder whose catalog is read too, behind this one's.

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        self._gate = gate_of(self.path)

    @property
    def exists(self) -> bool:
        """Whether there is a catalog in the folder; raises as reading does where it is something else."""
        try:
            mode = self.path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise unreadable(self.path, error) from error
        if not stat.S_ISREG(mode):
            raise corrupt(self.path, "it is no file")
        return True

    @property
    def is_lost(self) -> bool:
        """Whether the catalog is gone while snapshots of it are there: a new one would take their place."""
        return not self.exists and (self.folder / SNAPSHOTS / CURRENT_SNAPSHOT).exists()

    def check_not_lost(self) -> None:
        """Raise CatalogCorruptError where the catalog is lost."""
        if self.is_lost:
            raise lost(self.path, self.folder / SNAPSHOTS)

    @property
    def absence(self) -> str:
        """What to tell who asks a catalog that is not there."""
        return str(lost(self.path, self.folder / SNAPSHOTS)) if self.is_lost else absent(self.folder)

    @property
    def state(self) -> str:
        """What tells whether anything was written to the catalog: size and time of its file and its log."""
        return _marks.state_of(self.path)

    @property
    def is_as_noted(self) -> bool:
        """Whether all that was written to the catalog has left marks."""
        return _marks.is_as_noted(self.path)

    def what_cannot_be_written(self) -> Path | None:
        """Return the folder or the file of the catalog that this user may not write, None when all is well."""
        nearest = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        places = (nearest, self.path, self.folder / LOCK_NAME)
        return next((place for place in places if place.exists() and not os.access(place, os.W_OK)), None)

    # Opening

    @contextmanager
    def reading(
        self, *, timeout_s: float | None = None, fenced: bool = True, brief: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the catalog read-only, beside any other readers; an empty one where there is none.

        It is fenced unless told otherwise, by who asks nothing that a user has written. Who is ``brief`` and does
        what many do at a time stands in line for it.
        """
        if not self.exists:
            with empty_catalog() as connection:
                yield connection
            return
        patience_s = lock_timeout_s() if timeout_s is None else timeout_s
        with ExitStack() as stack:
            stack.enter_context(troubles_told(self.path))
            open_it = partial(self._open_to_read, brief=brief)
            try:
                shared = stack.enter_context(self._gate.reading(open_it, timeout_s=patience_s))
            except (TimeoutError, ForkedOpenError) as error:
                raise CatalogLockedError(f"{self.path}: {error}") from error
            instance = cast("Instance", shared)
            if fenced:
                instance.fence()
            cursor = instance.cursor()
            stack.callback(cursor.close)
            yield cursor

    @contextmanager
    def writing(
        self, *, timeout_s: float | None = None, one_of_many: bool = False, marked: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the catalog alone and writable, made or migrated first where that is due.

        What is written when more will follow (``one_of_many``) stays in DuckDB's log until that is large: to move
        it into the file costs the same seconds for one row as for a hundred thousand. Nothing is lost by that.
        Who leaves a mark on all that is changed says so (``marked``): after others the next snapshot is written
        whole.
        """
        patience_s = lock_timeout_s() if timeout_s is None else timeout_s
        deadline = time.monotonic() + patience_s
        with ExitStack() as stack:
            stack.enter_context(troubles_told(self.path))
            try:
                stack.enter_context(self._gate.writing(timeout_s=patience_s))
                stack.enter_context(self._file_lock(deadline))
            except (TimeoutError, ForkedOpenError) as error:
                raise CatalogLockedError(f"{self.path}: {error}") from error
            is_as_noted = self.is_as_noted
            if not self.exists:
                self.check_not_lost()
                self._create()
            if marked:
                stack.callback(_marks.note_state, self.path)
            instance = self._open_to_write(stack, deadline)
            connection = instance.cursor()  # with which goes what is made for it alone
            stack.callback(connection.close)
            if one_of_many and self._log_size() < _LARGEST_LOG:
                instance.put_off_checkpoints()
            if not is_as_noted:
                _marks.mark_everything(connection)
            yield connection

    @contextmanager
    def alone(self, *, timeout_s: float) -> Iterator[None]:
        """Keep the rest of this process from the file while another database of ours has it attached."""
        # The system forgets all locks of a process on a file as soon as the process closes that file once.
        try:
            with self._gate.writing(timeout_s=timeout_s):
                yield
        except (TimeoutError, ForkedOpenError) as error:
            raise CatalogLockedError(f"{self.path}: {error}") from error

    def get_ready(self) -> None:
        """Begin to make what takes a moment, for who will land something soon."""
        get_ready()
        if not self.exists:
            _blank.get_ready()

    def attach(self, connection: duckdb.DuckDBPyConnection, name: str, *, timeout_s: float) -> None:
        """Attach the catalog, read-only, to a database of ours that reads several."""
        self._let_writers_go_first(timeout_s)
        statement = f"ATTACH {quoted(self.path)} AS {name} (READ_ONLY)"
        self._patiently(time.monotonic() + timeout_s, lambda: connection.execute(statement))

    def heed_others(self, *, begins: bool = False) -> None:
        """Mark everything as changed where something else than a landing may have written.

        Where marks begin to count with what is read next, it is enough to note the present state.
        """
        if not self.exists or self.is_as_noted:
            return
        if begins:
            _marks.note_state(self.path)
        else:
            with self.writing(marked=True):
                pass

    def give_way(self) -> None:
        """Let those write who wait for it: between two reads of one that has many to make."""
        with self._file_lock(time.monotonic() + lock_timeout_s()):
            pass

    def _let_writers_go_first(self, timeout_s: float) -> None:
        # Who holds the lock waits until nobody reads, which many readers would see to that it never is.
        wait_while_taken(self.folder / LOCK_NAME, min(_POLITE_S, timeout_s / 2))

    def _log_size(self) -> int:
        try:
            return _log_of(self.path).stat().st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def _file_lock(self, deadline: float) -> Iterator[None]:
        """Keep every other nvcatalog from writing, whatever DuckDB's own lock is worth on this file system."""
        try:
            with waiting_for(f"another process, which is writing {self.path}"):
                lock = take(self.folder / LOCK_NAME, _left_s(deadline))
        except Timeout as error:
            raise CatalogLockedError(locked_message(self.path, self._holder())) from error
        except OSError as error:
            raise folder_error(self.folder, error) from error
        sign(self.folder / LOCK_NAME)
        try:
            yield
        finally:
            lock.release()

    def _holder(self) -> str:
        """Say who has the file open: DuckDB does when it is asked in vain."""
        try:
            if self.exists:
                with Instance() as instance:
                    instance.attach(self.path, read_only=True)
        except duckdb.Error as error:
            return self._who(error)
        who = signed(self.folder / LOCK_NAME)
        return "another call of nvcatalog that waits itself" + (f", {who}" if who else "")

    def _who(self, error: duckdb.Error) -> str:
        return holder_in(error, signed(self.folder / LOCK_NAME))

    def _open_to_read(self, timeout_s: float, *, brief: bool) -> Instance:
        deadline = time.monotonic() + timeout_s
        instance = Instance()  # before the file is opened: whoever wants to write waits for all who have it open
        try:
            if brief:
                instance.afterwards.enter_context(in_line(self.folder, timeout_s=timeout_s))
            self._let_writers_go_first(timeout_s)
            self._attach(instance, deadline, read_only=True)
            if pending(instance.connection):
                instance.detach()
                self._attach_older(instance, deadline)
        except BaseException:
            instance.close()
            raise
        return instance

    def _open_to_write(self, stack: ExitStack, deadline: float) -> Instance:
        """Open the catalog until the stack is left, migrated where that is due."""
        instance = stack.enter_context(Instance())
        self._attach(instance, deadline, read_only=False)
        instance.spill_to(self.path.with_name(f"{self.path.name}.tmp"))
        migrate(instance.connection)
        return instance

    def _attach_older(self, instance: Instance, deadline: float) -> None:
        """Open a catalog that an older version made: migrated where we may write, else through a private copy."""
        if self.what_cannot_be_written() is None:
            with self._file_lock(deadline), ExitStack() as stack:
                self._open_to_write(stack, deadline)
            self._attach(instance, deadline, read_only=True)
            return
        with tempfile.TemporaryDirectory(prefix="nvcatalog-") as private:
            copy = Path(private) / FILE_NAME
            instance.create(copy)
            self.attach(instance.connection, "older", timeout_s=_left_s(deadline))
            instance.connection.execute("COPY FROM DATABASE older TO catalog")
            instance.connection.execute("DETACH older")
            migrate(instance.connection)
            instance.detach()
            instance.attach(copy, read_only=True)  # an open file outlives its folder

    def _attach(self, instance: Instance, deadline: float, *, read_only: bool) -> None:
        self._patiently(
            deadline,
            lambda: instance.attach(self.path, read_only=read_only),
            0.25 if read_only else 0.03,  # of writers there is one at a time, for whom all the others wait
        )

    def _patiently(
        self, deadline: float, open_file: Callable[[], Opened], longest_pause_s: float = 0.25
    ) -> Opened:
        """Open the file, trying again while somebody else has it: DuckDB itself refuses at once."""
        pause_s = 0.005
        with waiting_for(f"whoever has {self.path} open"):
            while True:
                try:
                    return open_file()
                except duckdb.Error as error:
                    if not any(refusal in str(error) for refusal in REFUSALS):
                        raise unreadable(self.path, error) from error
                    if time.monotonic() >= deadline or NO_LOCKS in str(error):
                        raise CatalogLockedError(locked_message(self.path, self._who(error))) from error
                time.sleep(min(pause_s * random.uniform(0.5, 1.5), _left_s(deadline)))  # noqa: S311 - jitter, no secret
                pause_s = min(pause_s * 1.5, longest_pause_s)

    def _create(self) -> None:
        """Make a new catalog beside its place and move it there whole."""
        # Always of one name: whoever creates holds the lock, so what is there was left by a call that was killed.
        new = self.path.with_name(f".{self.path.name}.new")
        for leftover in (new, _log_of(new)):
            leftover.unlink(missing_ok=True)
        # DuckDB would replay the log of a catalog that has been moved away or deleted into the new one.
        if _log_of(self.path).exists():
            _log_of(self.path).replace(f"{_log_of(self.path)}.orphaned")
        try:
            _blank.write(new)
            with Instance() as instance:
                instance.attach(new, read_only=False)
                created_at = datetime.now(UTC).isoformat(timespec="seconds")
                with instance.cursor() as connection:
                    _batch.upsert(connection, "catalog_info", [{"key": "created_at", "value": created_at}])
                instance.detach()  # which says it where the file could not be completed
        except BaseException:  # on a full disk above all, nothing may be left that takes room
            for leftover in (new, _log_of(new)):
                leftover.unlink(missing_ok=True)
            raise
        new.replace(self.path)

    # Reading

    def known(self, collection_ids: Iterable[int], image_ids: Iterable[int]) -> Known:
        """Return all that the catalog knows of these collections, their images, and these images."""
        known = Known()
        if not self.exists:
            return known
        with self.reading(fenced=False, brief=True) as connection:
            connection.execute(
                "CREATE TEMP TABLE wanted AS SELECT 'collection' AS kind, unnest($collections::INTEGER[]) AS id "
                "UNION ALL SELECT 'image', unnest($images::INTEGER[])",
                {"collections": list(collection_ids), "images": list(image_ids)},
            )
            known.server_root = _read_info(connection, "server_root")
            _read_images(connection, known)
            _read_collections(connection, known)
            _read_refusals(connection, known)
            known.tokens = dict(connection.execute("SELECT collection_id, token FROM access").fetchall())
        self._check_records(known)
        self._note_replaced(known)
        return known

    def _note_replaced(self, known: Known) -> None:
        """Note of which files the rows may be about others, which a call that was killed has replaced."""
        for (image_id, kind), marks in _replaced.marks_in(self.folder).items():
            image = known.images.get(image_id)
            file = {"original": image.file, "resampled": image.resampled}.get(kind) if image else None
            if file is not None and not file.is_shared:
                file.state, file.marks = "replaced", marks

    def _check_records(self, known: Known) -> None:
        """Make sure that what stands for a record is one: an object, or the text of one."""
        for image in known.images.values():
            if not str(image.source).lstrip().startswith("{"):
                raise corrupt(self.path, f"the record of image {image.image_id} is {image.source!r:.40}")
        for id_, collection in known.collections.items():
            record: object = collection.record
            if not isinstance(record, dict | None):
                raise corrupt(self.path, f"the record of collection {id_} is {record!r:.40}")

    def long_words(self, image_ids: Iterable[int]) -> pa.Table:
        """Return ``image_id``, ``term``, ``weight`` of these images, zeros included."""
        with self.reading() as connection:
            return connection.sql(
                "SELECT image_id, term, weight FROM words JOIN terms USING (term_id) "
                "WHERE image_id IN (SELECT unnest($ids::INTEGER[]))",
                params={"ids": list(image_ids)},
            ).to_arrow_table()

    # Landing

    def land(self, batch: Batch, *, timeout_s: float | None = None) -> list[str]:
        """Land a batch in one transaction; where a row does not fit, land all others and return a line for it."""
        if not batch:
            return []
        _batch.get_ready()
        with self.writing(timeout_s=timeout_s, marked=True) as connection:
            return _batch.land(connection, batch)

    def land_one_of_many(self, batch: Batch, *, timeout_s: float | None = None) -> list[str]:
        """Land a batch that others follow soon, the last of them by :meth:`land`."""
        _batch.get_ready()
        with self.writing(timeout_s=timeout_s, one_of_many=True, marked=True) as connection:
            return _batch.land(connection, batch)


class AbsentStore(Store):
    """A folder's catalog for a call that has to do without it: it knows nothing, and nothing is written to it.

    Parameters
    ----------
    folder : Path
        The data folder.
    error : CatalogLockedError
        Why the catalog cannot be had.
    """

    def __init__(self, folder: Path, error: CatalogLockedError) -> None:
        super().__init__(folder)
        self._error = error

    @property
    def exists(self) -> bool:
        """Not for this call."""
        return False

    @property
    def is_lost(self) -> bool:
        """Not for this call: somebody holds it."""
        return False

    def writing(
        self, *, timeout_s: float | None = None, one_of_many: bool = False, marked: bool = False
    ) -> NoReturn:
        """Refuse: a new catalog must not take the place of the one that somebody holds."""
        raise self._error


# Opening, in detail


@contextmanager
def empty_catalog() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a catalog without rows, in memory, fenced like any other."""
    with Instance() as instance:
        migrate(instance.connection)
        instance.fence()
        yield instance.connection


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _left_s(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


# Reading, in detail


def _read_info(connection: duckdb.DuckDBPyConnection, key: str) -> str | None:
    rows = connection.execute("SELECT value FROM catalog_info WHERE key = $key", {"key": key}).fetchall()
    return rows[0][0] if rows else None


def _read_images(connection: duckdb.DuckDBPyConnection, known: Known) -> None:
    own = set(json.loads(_read_info(connection, "own_references") or "[]"))
    # The ids first, by themselves: else DuckDB unpacks the texts of all records to find the few asked for.
    rows = connection.execute("""
        WITH asked AS MATERIALIZED (
            SELECT image_id, collection_id, gone_at IS NOT NULL AS gone
            FROM images
            WHERE collection_id IN (SELECT id FROM wanted WHERE kind = 'collection')
               OR image_id IN (SELECT id FROM wanted WHERE kind = 'image')
        )
        SELECT i.image_id, i.collection_id, i.gone, r.raw, epoch_us(r.fetched_at),
               {'path': f.path, 'size': f.size, 'state': f.state, 'sha256': f.sha256, 'origin': f.origin},
               {'path': s.path, 'size': s.size, 'state': s.state, 'sha256': s.sha256, 'origin': s.origin},
               w.image_id IS NOT NULL, w.reference
        FROM asked AS i
        JOIN raw_records AS r ON r.kind = 'image' AND r.id = i.image_id
        LEFT JOIN files AS f ON f.image_id = i.image_id AND f.kind = 'original'
        LEFT JOIN files AS s ON s.image_id = i.image_id AND s.kind = 'resampled'
        LEFT JOIN words_status AS w ON w.image_id = i.image_id AND w.status = 'present'
    """).fetchall()
    for image_id, collection_id, gone, raw, fetched, original, resampled, has_words, reference in rows:
        known.images[image_id] = KnownImage(
            image_id,
            collection_id,
            raw,
            gone,
            _local_file(original),
            resampled=_local_file(resampled),
            fetched_at=moment(fetched),
        )
        if has_words:
            known.with_words.add(image_id)
        if reference in own:
            known.own_words[image_id] = reference


def _local_file(columns: dict[str, Any]) -> LocalFile | None:
    return None if columns["path"] is None else LocalFile(**columns)


def _read_collections(connection: duckdb.DuckDBPyConnection, known: Known) -> None:
    rows = connection.execute("""
        SELECT c.collection_id, r.raw, coalesce(c.complete, false), c.listed_count,
               epoch_us(c.listed_at), epoch_us(c.listed_modify_date)
        FROM collections AS c
        LEFT JOIN raw_records AS r ON r.kind = 'collection' AND r.id = c.collection_id
        WHERE c.collection_id IN (SELECT id FROM wanted WHERE kind = 'collection')
           OR c.collection_id IN (
               SELECT collection_id FROM images WHERE image_id IN (SELECT id FROM wanted WHERE kind = 'image'))
    """).fetchall()
    for collection_id, raw, complete, count, listed, modified in rows:
        record = None if raw is None else records.parse_json(raw)
        known.collections[collection_id] = KnownCollection(
            collection_id, record, complete, count, moment(listed), moment(modified)
        )


def _read_refusals(connection: duckdb.DuckDBPyConnection, known: Known) -> None:
    rows = connection.execute(
        """
        SELECT kind, id, position, status, reason, epoch_us(modify_date), epoch_us(seen_at)
        FROM refusals
        WHERE (kind IN ('collection', 'position') AND id IN (SELECT id FROM wanted WHERE kind = 'collection'))
           OR (kind = 'collection' AND id IN (SELECT unnest($parents::INTEGER[])))
           OR (kind IN ('image', 'words')
               AND (id IN (SELECT id FROM wanted WHERE kind = 'image') OR id IN (SELECT unnest($ids::INTEGER[]))))
        ORDER BY kind, id, position
    """,
        {"ids": list(known.images), "parents": list({image.collection_id for image in known.images.values()})},
    ).fetchall()
    for kind, id_, position, status, reason, modified, seen in rows:
        refusal = Refusal(kind, id_, status, reason, moment(modified), moment(seen) or datetime.now(UTC), position)
        if kind == "position":
            known.positions.setdefault(id_, []).append(refusal)
        else:
            known.refusals[kind, id_] = refusal


def moment(epoch_us: int | None) -> datetime | None:
    """Return a time that DuckDB gave in microseconds: as a time it would need another library."""
    return None if epoch_us is None else datetime.fromtimestamp(epoch_us / 1e6, UTC)
