"""Tell which files here are of an earlier state of their record: what changed on the server since they came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nvcatalog import records
from nvcatalog._store import Store
from nvcatalog.records import Record

if TYPE_CHECKING:
    import pyarrow as pa

# The first former text after a file came is what the record said when it came. A map that was resampled here is as
# old as the one that it was made of, unless that one came again later.
_CANDIDATES = """
    WITH here AS (
        SELECT image_id, kind, path, downloaded_at
        FROM files
        WHERE kind IN ('original', 'resampled') AND state IN ('present', 'unverified')
    ),
    maps AS (
        SELECT h.image_id, h.kind, h.path, least(h.downloaded_at, o.downloaded_at) AS downloaded_at
        FROM here AS h
        LEFT JOIN here AS o ON o.image_id = h.image_id AND o.kind = 'original'
    ),
    former AS (
        SELECT m.image_id, m.kind, arg_min(h.raw, h.replaced_at) AS raw
        FROM maps AS m
        JOIN record_history AS h ON h.kind = 'image' AND h.id = m.image_id AND h.replaced_at > m.downloaded_at
        GROUP BY m.image_id, m.kind
    )
    SELECT m.image_id, i.collection_id, m.path, epoch_us(m.downloaded_at), epoch_us(i.modify_date),
           i.gone_at IS NOT NULL, former.raw, now.raw
    FROM maps AS m
    JOIN images AS i USING (image_id)
    JOIN raw_records AS now ON now.kind = 'image' AND now.id = m.image_id
    LEFT JOIN former ON former.image_id = m.image_id AND former.kind = m.kind
    WHERE former.raw IS NOT NULL OR i.gone_at IS NOT NULL
    ORDER BY i.collection_id, m.image_id, m.kind
"""
# When these differ the voxels do, most likely; any edit of a record moves the others.
_OF_THE_FILE = ("file", "file_size")


def outdated(store: Store) -> pa.Table:
    """Return a row for each local map whose record changed since it was downloaded, or is gone from the server.

    What is compared is what the catalog knows: sync first to hear what is new.

    Parameters
    ----------
    store : Store
        The catalog.

    Returns
    -------
    pyarrow.Table
        ``image_id``, ``collection_id``, ``path``, ``downloaded_at`` (of a resampled map, when what it was made of
        came), ``modify_date``, ``gone`` (the server has it no more), ``file_changed`` (the record names another
        file), ``changed`` (the fields that differ).
    """
    import pyarrow as pa

    with store.reading() as connection:
        found = connection.execute(_CANDIDATES).fetchall()
    rows = [(*about, gone, *_difference(former, now)) for *about, gone, former, now in found]
    rows = [row for row in rows if row[5] or row[7]]
    time = pa.timestamp("us", tz="UTC")
    types = {"image_id": pa.int32(), "collection_id": pa.int32(), "path": pa.string()}
    types |= {"downloaded_at": time, "modify_date": time, "gone": pa.bool_(), "file_changed": pa.bool_()}
    types |= {"changed": pa.list_(pa.string())}
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    return pa.table({name: pa.array(column, types[name]) for name, column in zip(types, columns, strict=True)})


def _difference(former: str | None, now: str) -> tuple[bool, list[str]]:
    """Return whether the record names another file, and which of its fields differ."""
    if former is None:
        return False, []
    old, new = _as_people_see_it(former), _as_people_see_it(now)
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return any(name in changed for name in _OF_THE_FILE), changed


def _as_people_see_it(raw: str) -> Record:
    record: Any = records.parse_json(raw)
    return records.null_placeholders(record)
