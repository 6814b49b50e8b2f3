"""Write tables of the catalog as files that other tools read: all that was asked for, or nothing."""

from __future__ import annotations

import difflib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

import duckdb

from nvcatalog import __version__, layout, neurosynth, storage
from nvcatalog._formats import WRITERS, Column, Format, Relation, place_of, plain
from nvcatalog._progress import Progress, summarise
from nvcatalog._store import Store
from nvcatalog.connecting import as_in, one_state, read_at, relations_here
from nvcatalog.errors import ExportError, InvalidOptionError, InvalidOptionTypeError, SelectionWarning, shown
from nvcatalog.meant import Meant

#: What is exported when nothing is named: the metadata, without the servers' own texts and without terms.
DEFAULT = ("collections", "images", "stat_maps", "files", "nidm_packs")
# Tables in files that are not written here: a folder of such a name is none that anybody meant.
_OTHER_FILES = frozenset(
    ("json", "jsonl", "tsv", "tab", "txt", "xls", "xlsx", "ods", "feather", "ipc", "pq", "parq", "orc")
) | {"h5", "hdf", "hdf5", "pkl", "pickle", "db", "sqlite", "sqlite3", "gz", "zip", "zst"}
# Whatever else is asked for: it holds the tokens of private collections.
_NEVER = ("access",)
# Of calls, which are no rows of images; a base has its own.
_OF_ONE_FOLDER = ("fetches", "outcomes")


@dataclass(frozen=True)
class Order:
    """What is to be exported.

    Attributes
    ----------
    format : {'parquet', 'csv', 'arrow', 'ndjson', 'duckdb'}
        As what.
    what : tuple of str
        Tables and views.
    chosen : Meant or None
        The images to which, with what belongs to them, the rows are restricted; None means all.
    private, gone : bool
        Whether rows of private collections, and of what the server no longer has, are part of it.
    one_file : bool
        Whether the target is a file, of all that is asked for.
    """

    format: Format = "parquet"
    what: tuple[str, ...] = DEFAULT
    chosen: Meant | None = None
    private: bool = False
    gone: bool = False
    one_file: bool = False

    @property
    def takes_gone(self) -> bool:
        """Whether what the server no longer has is part of it: where asked for, and where each image is named."""
        return self.gone or (self.chosen is not None and self.chosen.named)


def parse_target(target: object) -> Path:
    """Return where an export is to be.

    Raises
    ------
    InvalidOptionError, InvalidOptionTypeError
        When it is no path, or none that can be.
    """
    return storage.parse_path("target", target, example="out").resolve()


def parse_order(target: Path, what: object, format: object, *, private: bool, gone: bool) -> Order:  # noqa: A002 - as callers say
    """Return what is to be exported, as the caller typed it.

    Raises
    ------
    InvalidOptionError, InvalidOptionTypeError
        For a format that there is none of, what cannot be names, and a target that is named as another thing.
    """
    ending = target.suffix.lower().removeprefix(".")
    one_file = ending in get_args(Format)
    wanted = format or (ending if one_file else "parquet")
    if wanted not in get_args(Format):
        raise InvalidOptionError(f"format is {shown(format)}; give one of {', '.join(get_args(Format))}")
    names = [what] if isinstance(what, str) else DEFAULT if what is None else what
    listed = list(names) if isinstance(names, Iterable) else []
    tables = tuple(name.lower() for name in listed if isinstance(name, str))  # DuckDB ignores case, too
    if not tables or len(tables) < len(listed):
        raise InvalidOptionTypeError(f"what is {shown(what)}; give names of tables, such as {list(DEFAULT[:2])}")
    if ending in _OTHER_FILES and not target.exists():
        raise InvalidOptionError(
            f"target is {target.name!r}, and no .{ending} is written; give a file that ends in "
            f"{', '.join(f'.{each}' for each in get_args(Format))}, or a folder"
        )
    order = Order(cast("Format", wanted), tuple(dict.fromkeys(tables)), None, bool(private), bool(gone), one_file)
    if one_file and ending != wanted:
        raise InvalidOptionError(
            f"target is {target.name!r}, and format is {str(wanted)!r}; "
            f"give a target that ends in .{wanted}, or a folder"
        )
    if one_file and ending != "duckdb" and len(order.what) != 1:
        raise InvalidOptionError(
            f"target is {target.name!r}, a file, and {len(order.what)} tables are asked for "
            f"({', '.join(order.what)}); name one, as in what='images' (--what images), or give a folder"
        )
    return order


def export(
    store: Store,
    target: Path,
    order: Order,
    choose: Callable[[Store], Meant] | None = None,
    *,
    overwrite: bool = False,
    verbose: int = 2,
) -> Path:
    """Write an export, and return where it is.

    Parameters
    ----------
    store : Store
        The catalog. Its snapshot is read, so that nobody is held up; with private rows, or those of a base, it is
        read itself.
    target : Path
        A folder or, as `order` has it, a file.
    order : Order
        What is to be in it.
    choose : callable or None
        Chooses the images, given the catalog in the state that is exported.
    overwrite : bool
        Whether an earlier export that is there is replaced, or the file of that name.
    verbose : int
        0 says nothing, 1 gives a summary, 2 shows a progress bar too.

    Raises
    ------
    InvalidOptionError
        For a table that there is none of, and a target that something else is in, or that is the catalog's own.
    ExportError
        When it cannot be written, or there is no catalog yet.

    Warns
    -----
    SelectionWarning
        When images that were chosen are not part of it.
    """
    if not store.exists:
        raise ExportError(f"{store.folder} has no catalog yet: fetch something, or adopt() what is there")
    _check_is_not_of(store.folder, target)
    if store.base and target.is_relative_to(store.base):
        raise InvalidOptionError(f"{target} is in {store.base}, a base folder, to which nothing is written")
    place = place_of(order.format, one_file=order.one_file)(target, overwrite=overwrite)
    try:
        with ExitStack() as stack:
            connection, order = stack.enter_context(_reading(store, order, choose))
            relations = _relations(connection, order.what, has_base=store.base is not None)
            sense = _mark(connection, order)
            part = stack.enter_context(place.appearing())
            writer = stack.enter_context(WRITERS[order.format](part))
            progress = stack.enter_context(
                Progress("Exporting", total=len(relations), verbose=verbose, unit="table")
            )
            pool = stack.enter_context(_worker())
            counts = {}
            for relation in relations:
                query = _query(relation, sense, order.format)
                rows = pool.submit(writer.write, relation, query, connection)
                counts[relation.name] = _result(rows, connection)
                progress.step()
            writer.finish(_manifest(order, relations, counts, _references(connection, order, sense)))
            left_out = _left_out(connection, order)
    except (OSError, duckdb.Error) as error:
        raise ExportError(f"{target} cannot be written: {str(error).splitlines()[0]}") from error
    if left_out:
        warnings.warn(left_out, SelectionWarning, stacklevel=3)
    tables = f"{len(counts)} table{'' if len(counts) == 1 else 's'}"
    summarise(f"nvcatalog: exported {sum(counts.values()):,} rows of {tables} to {target}", verbose=verbose)
    return target


# Where


def _check_is_not_of(folder: Path, target: Path) -> None:
    """Refuse what is the catalog's own: a snapshot that somebody reads, and the folders of collections."""
    folder = folder.resolve()
    own = [entry for entry in folder.glob("*") if _is_own(entry.name)]  # a base's may be all there is
    first = target.relative_to(folder).parts[:1] if target.is_relative_to(folder) else ()
    linked = [entry.resolve() for entry in own if entry.is_symlink()]
    if any(map(_is_own, first)) or any(map(target.is_relative_to, linked)):
        raise InvalidOptionError(
            f"{target} is in {folder}, among the catalog's own snapshots and collections, which no export "
            "replaces; give a place elsewhere"
        )


def _is_own(name: str) -> bool:
    return name == "snapshots" or layout.collection_of(name) is not None


# What there is


@contextmanager
def _reading(
    store: Store, order: Order, choose: Callable[[Store], Meant] | None
) -> Iterator[tuple[duckdb.DuckDBPyConnection, Order]]:
    """Open what is to be read: a snapshot has neither private rows nor a base's, for which it is the catalog.

    Images are chosen in the same state of it.
    """
    if order.private or store.base is not None:
        with one_state(store) as reads, reads.reading() as connection:
            yield connection, order if choose is None else replace(order, chosen=choose(reads))
        return
    catalog = Store(store.folder)
    with read_at(catalog) as (place, connection):
        if choose is not None and place is not None:
            with as_in(catalog, place) as reads:
                order = replace(order, chosen=choose(reads))
        # A sort that needs more than this goes on on the disk; each thread needs some of it.
        connection.execute(f"SET memory_limit = '1 GB'; SET threads = {min(4, os.cpu_count() or 1)}")
        yield connection, order


_NAMES = """
    SELECT table_name FROM duckdb_tables() WHERE NOT temporary AND database_name = current_database()
    UNION
    SELECT view_name FROM duckdb_views() WHERE NOT internal AND NOT temporary
"""


def _relations(connection: duckdb.DuckDBPyConnection, what: Sequence[str], *, has_base: bool) -> list[Relation]:
    there = {name for (name,) in connection.execute(_NAMES).fetchall()} - {*_NEVER}
    if has_base:  # what the two are laid over each other by has names too
        there &= {each.name for each in relations_here()} - {*_OF_ONE_FOLDER}
    for name in what:
        if name not in there:
            raise InvalidOptionError(_no_such_table(name, there))
    comments = {(each.name, None): each.comment for each in relations_here()} | {
        (each.name, column.name): column.comment for each in relations_here() for column in each.columns
    }
    found = []
    for name in what:
        columns = connection.execute(f'DESCRIBE "{name}"').fetchall()
        described = (Column(column, kind, comments.get((name, column))) for column, kind, *_ in columns)
        found.append(Relation(name, comments.get((name, None)), tuple(described)))
    return found


def _no_such_table(name: str, there: Iterable[str]) -> str:
    if name in _NEVER:
        return f"what has {name!r}: it holds the tokens of private collections, and is never exported"
    if name in _OF_ONE_FOLDER:
        return f"what has {name!r}, which says what was asked of one folder; export it without a base"
    close = difflib.get_close_matches(name, there, n=3)
    near = f"; did you mean {' or '.join(close)}?" if close else ""
    return (
        f"what has {shown(name)}, and there is no table of that name; there are {', '.join(sorted(there))}{near}"
    )


@contextmanager
def _worker() -> Iterator[ThreadPoolExecutor]:
    """Start a thread to write in beside this one: DuckDB itself hears of Ctrl-C only now and then."""
    with ThreadPoolExecutor(1, thread_name_prefix="nvcatalog-export") as pool:
        pool.submit(int).result()  # a thread that Ctrl-C surprises at its start is not waited for
        yield pool


def _result(rows: Future[int], connection: duckdb.DuckDBPyConnection) -> int:
    try:
        return rows.result()
    except KeyboardInterrupt:
        while not rows.done():
            connection.interrupt()
            time.sleep(0.01)
        raise


# Which rows

# A pack shares the images' numbers, so its id stands among theirs.
_KEPT = """
    CREATE TEMP TABLE nvcatalog_marked AS
    WITH kept AS (
        SELECT image_id, i.collection_id
        FROM images AS i
        LEFT JOIN collections AS c ON c.collection_id = i.collection_id
        WHERE image_id IN (SELECT image_id FROM chosen)
          AND ($gone OR (i.gone_at IS NULL AND c.gone_at IS NULL))
          AND ($private OR image_id NOT IN (SELECT image_id FROM private_images))
    )
    SELECT 'image' AS kind, image_id AS id FROM kept
    UNION ALL
    SELECT 'image', pack_id FROM nidm_packs WHERE image_id IN (SELECT image_id FROM kept)
    UNION ALL
    SELECT 'collection', collection_id FROM kept
"""
_LEFT_OUT = """
    CREATE TEMP TABLE nvcatalog_marked AS
    WITH gone_collections AS (SELECT collection_id FROM collections WHERE gone_at IS NOT NULL),
    gone_images AS (
        SELECT image_id
        FROM images
        WHERE gone_at IS NOT NULL OR collection_id IN (SELECT collection_id FROM gone_collections)
    )
    SELECT 'image' AS kind, image_id AS id FROM gone_images WHERE NOT $gone
    UNION ALL
    SELECT 'image', pack_id
    FROM nidm_packs
    WHERE NOT $gone
    GROUP BY pack_id
    HAVING bool_and(image_id IN (SELECT image_id FROM gone_images))
    UNION ALL
    SELECT 'collection', collection_id FROM gone_collections WHERE NOT $gone
    UNION ALL
    SELECT 'image', image_id FROM private_images WHERE NOT $private
    UNION ALL
    SELECT 'image', pack_id
    FROM nidm_packs
    WHERE NOT $private AND collection_id IN (SELECT collection_id FROM private_collections) AND pack_id IS NOT NULL
    UNION ALL
    SELECT 'collection', collection_id FROM private_collections WHERE NOT $private
"""


def _mark(connection: duckdb.DuckDBPyConnection, order: Order) -> Literal["IN", "NOT IN"]:
    """Note what is kept, where images were chosen, or else what is not; return which."""
    import pyarrow as pa

    if order.chosen is None:
        connection.execute(_LEFT_OUT, {"gone": order.gone, "private": order.private})
        return "NOT IN"
    ids = pa.array(order.chosen.image_ids, pa.int32())
    connection.register("chosen", pa.table({"image_id": ids}))
    connection.execute(_KEPT, {"gone": order.takes_gone, "private": order.private})
    connection.unregister("chosen")
    return "IN"


def _query(relation: Relation, sense: str, format_: Format) -> str:
    columns = ", ".join(f'{plain(column, format_)} AS "{column.name}"' for column in relation.columns)
    # What names nothing, such as a record known by its place only, goes with the whole catalog.
    where = f"coalesce({_restriction(relation, sense)}, {'false' if sense == 'IN' else 'true'})"
    return f'SELECT {columns} FROM "{relation.name}" WHERE {where} {_order(relation)}'  # noqa: S608 - names of ours


def _restriction(relation: Relation, sense: str) -> str:
    """Say in SQL which rows belong to what is kept, by what the columns are called."""
    marked = f"{sense} (SELECT id FROM nvcatalog_marked WHERE kind = "  # noqa: S608 - a constant
    if relation.name == "nidm_packs" and sense == "NOT IN":  # it may name images of which there is no record
        return f"image_id {marked}'image') AND collection_id {marked}'collection')"
    if relation.has("image_id"):
        return f"image_id {marked}'image')"
    if relation.has("collection_id"):
        return f"collection_id {marked}'collection')"
    if relation.has("kind", "id"):
        of_collection = f"id {marked}'collection')"
        return f"CASE WHEN kind IN ('collection', 'position') THEN {of_collection} ELSE id {marked}'image') END"
    return "true"


# What lies together already; to sort it would cost minutes.
_LARGE = ("words", "image_words", "raw_records", "record_history", "outcomes")
_SORTED_BY = ("collection_id", "image_id", "pack_id", "term_id", "kind", "id", "position", "key", "version")


def _order(relation: Relation) -> str:
    keys = [name for name in _SORTED_BY if relation.has(name)]
    return "" if relation.name in _LARGE or not keys else f"ORDER BY {', '.join(keys)}"


_N_KEPT = """
    SELECT count(*), count(gone_at)
    FROM images
    WHERE image_id IN (SELECT id FROM nvcatalog_marked WHERE kind = 'image')
"""


def _left_out(connection: duckdb.DuckDBPyConnection, order: Order) -> str | None:
    """Say how many of the images that were chosen are not part of it, and what is gone."""
    if order.chosen is None:
        return None
    [(kept, gone)] = connection.execute(_N_KEPT).fetchall()
    missing, total = len(order.chosen.image_ids) - kept, len(order.chosen.image_ids)
    reasons = [
        "unknown to this catalog",
        *([] if order.private else ["of private collections (private=True takes those too)"]),
        *([] if order.takes_gone else ["gone from the server (gone=True)"]),
    ]
    told = []
    if not total:
        told.append("No image was chosen: the tables of images have no rows")
    if missing:
        told.append(f"{missing} of {total} images that were chosen are not exported: {', or '.join(reasons)}")
    if gone and not order.gone:
        told.append(f"{gone:,} images are gone from the server, and exported as they are here")
    if n := order.chosen.n_gone:
        told.append(
            f"{n:,} images that match are gone from the server without a file here, and not exported; "
            "image_ids (--images) takes those that it names"
        )
    return ". ".join(told) or None


_LICENCES = {"records": "CC0-1.0, NeuroVault (https://neurovault.org)"}
_OF_TERMS = {"terms", "words", "image_words"}


def _references(connection: duckdb.DuckDBPyConnection, order: Order, sense: str) -> set[str | None]:
    """Return the reference sets of the terms in an export."""
    if _OF_TERMS.isdisjoint(order.what):
        return set()
    marked = "(SELECT id FROM nvcatalog_marked WHERE kind = 'image')"
    query = f"SELECT DISTINCT reference FROM words_status WHERE image_id {sense} {marked}"  # noqa: S608 - constants
    return {reference for (reference,) in connection.execute(query).fetchall()}


def _manifest(
    order: Order, relations: Sequence[Relation], counts: dict[str, int], references: set[str | None]
) -> dict[str, Any]:
    """Return what an export says about itself, the meaning of its columns included."""
    tables = {
        relation.name: {
            "rows": counts[relation.name],
            "comment": relation.comment,
            "columns": {name: {"type": kind, "comment": comment} for name, kind, comment in relation.columns},
        }
        for relation in relations
    }
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": f"nvcatalog {__version__}",
        "chosen": order.chosen.about if order.chosen else {"all": "the whole catalog"},
        "private": order.private,
        "gone": order.gone,
        "licences": _LICENCES | neurosynth.licences(references),
        "tables": tables,
    }
