"""What the catalog knows of the whole server: which lists it has, as of when; and what a sync has changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nvcatalog._store import Store
from nvcatalog.known import Refusal

if TYPE_CHECKING:
    import duckdb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = ("collection", "image")


@dataclass(frozen=True)
class SyncedCollection:
    """A collection's row, and what tells its record from another; not the record, for there are thousands."""

    digest: str | None
    complete: bool
    listed_modify_date: datetime | None
    gone: bool
    private: bool


@dataclass
class Synced:
    """What the catalog knows before a sync.

    Attributes
    ----------
    collections : dict of int to SyncedCollection
        Every collection that was ever here.
    refusals : dict of int to Refusal
        What the server refused of collections, by id.
    positions : dict of int to list of Refusal
        Records that the server cannot render, by the collection in whose list they are; 0 is the list of
        collections.
    refused_images : frozenset of int
        Images whose records the server refused.
    live : dict of str to int
        How many collections and images are here and not gone.
    server_root : str or None
        The server whose records these are.
    excluded_owners : frozenset of int
        User ids whose collections' images were left out.
    """

    collections: dict[int, SyncedCollection] = field(default_factory=dict)
    refusals: dict[int, Refusal] = field(default_factory=dict)
    positions: dict[int, list[Refusal]] = field(default_factory=dict)
    refused_images: frozenset[int] = frozenset()
    live: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    server_root: str | None = None
    excluded_owners: frozenset[int] = frozenset()


def digest(text: str) -> str:
    """Return what tells one record's text from another."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()  # as DuckDB's md5() gives it


def read_synced(store: Store) -> Synced:
    """Return what the catalog knows before a sync."""
    synced = Synced()
    if not store.exists:
        return synced
    with store.reading() as connection:
        info = dict(connection.execute("SELECT key, value FROM catalog_info").fetchall())
        synced.server_root = info.get("server_root")
        synced.excluded_owners = frozenset(json.loads(info.get("sync_excluded_owners") or "[]"))
        synced.live = {kind: _live(connection, kind) for kind in _KINDS}
        _read_collections(connection, synced)
        _read_refusals(connection, synced)
    return synced


def count_changes(store: Store, before: Synced, *, since: datetime) -> dict[str, int]:
    """Return how many collections and images are new, changed and gone, as ``new_images`` and so on."""
    changes: dict[str, int] = {}
    with store.reading() as connection:
        for kind in _KINDS:
            gone = _number(
                connection,
                f"SELECT count(*) FROM {kind}s WHERE gone_at >= to_timestamp($since)",  # noqa: S608 - our own names
                since=since.timestamp(),
            )
            changed = _number(
                connection,
                "SELECT count(DISTINCT id) FROM record_history "
                "WHERE kind = $kind AND replaced_at >= to_timestamp($since)",
                kind=kind,
                since=since.timestamp(),
            )
            changes[f"new_{kind}s"] = _live(connection, kind) - before.live[kind] + gone
            changes[f"changed_{kind}s"], changes[f"gone_{kind}s"] = changed, gone
    return changes


def _live(connection: duckdb.DuckDBPyConnection, kind: str) -> int:
    return _number(connection, f"SELECT count(*) FROM {kind}s WHERE gone_at IS NULL")  # noqa: S608 - our own names


def _number(connection: duckdb.DuckDBPyConnection, query: str, **params: object) -> int:
    [(number,)] = connection.execute(query, params).fetchall()
    return int(number)


def _read_collections(connection: duckdb.DuckDBPyConnection, synced: Synced) -> None:
    rows = connection.execute("""
        SELECT c.collection_id, md5(r.raw::VARCHAR), coalesce(c.complete, false), epoch_us(c.listed_modify_date),
               c.gone_at IS NOT NULL, coalesce(c.private, false) OR a.collection_id IS NOT NULL
        FROM collections AS c
        LEFT JOIN raw_records AS r ON r.kind = 'collection' AND r.id = c.collection_id AND r.source = 'api'
        LEFT JOIN access AS a ON a.collection_id = c.collection_id
        ORDER BY c.collection_id
    """).fetchall()
    for id_, text_digest, complete, modified, gone, private in rows:
        synced.collections[id_] = SyncedCollection(text_digest, complete, _time(modified), gone, private)


def _read_refusals(connection: duckdb.DuckDBPyConnection, synced: Synced) -> None:
    rows = connection.execute("""
        SELECT kind, id, status, reason, epoch_us(modify_date), epoch_us(seen_at), position
        FROM refusals
        WHERE kind IN ('collection', 'position')
        ORDER BY kind, id, position
    """).fetchall()
    for kind, id_, status, reason, modified, seen, position in rows:
        refusal = Refusal(kind, id_, status, reason, _time(modified), _time(seen) or _EPOCH, position)
        if kind == "position":
            synced.positions.setdefault(id_, []).append(refusal)
        else:
            synced.refusals[id_] = refusal
    # With a date it was about the image's file, of which a list says nothing.
    images = connection.execute("SELECT id FROM refusals WHERE kind = 'image' AND modify_date IS NULL").fetchall()
    synced.refused_images = frozenset(id_ for (id_,) in images)


def _time(epoch_us: int | None) -> datetime | None:
    return None if epoch_us is None else _EPOCH + timedelta(microseconds=epoch_us)
