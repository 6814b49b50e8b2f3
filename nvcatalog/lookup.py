"""Look things up in the catalog, each in one short read; a folder without a catalog knows nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import urlsplit

from nvcatalog import records
from nvcatalog._http import same_host
from nvcatalog._store import Store, moment
from nvcatalog.errors import storable
from nvcatalog.filter_sql import TermsInSQL
from nvcatalog.known import LocalFile, MapKind, Refusal
from nvcatalog.records import Record


class CollectionState(NamedTuple):
    """How a collection's list was read: whether to the end, when, and of which state of the collection."""

    complete: bool
    modify_date: datetime | None
    listed_at: datetime | None
    listed_modify_date: datetime | None
    broken_at: datetime | None = None  # when records of it were first seen that the server cannot render


class ImageRow(NamedTuple):
    """An image of the catalog that terms may keep, and whether they do for certain."""

    image_id: int
    collection_id: int
    certain: bool


def fact(store: Store, key: str) -> str | None:
    """Return what the catalog notes of itself under a name, such as ``synced_at``; None for nothing."""
    if not store.exists:
        return None
    with store.reading() as connection:
        rows = connection.execute("SELECT value FROM catalog_info WHERE key = $key", {"key": key}).fetchall()
    return rows[0][0] if rows else None


def root_in_links(store: Store, root: str) -> str:
    """Return a server's root as the links of its records here write it: they say http:// on an https site."""
    if not store.exists:
        return root
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT DISTINCT regexp_extract(url, '^https?://[^/]+') FROM collections"
        ).fetchall()
    named = (start + urlsplit(root).path for (start,) in rows if start and same_host(start, root))
    return next(named, root)


def excluded_owners(store: Store) -> list[int]:
    """Return the users whose images the last sync of everything left out."""
    return sorted(json.loads(fact(store, "sync_excluded_owners") or "[]"))


def tokens(store: Store) -> dict[int, str]:
    """Return the tokens of private collections that were opened before, by collection."""
    if not store.exists:
        return {}
    with store.reading() as connection:
        return dict(connection.execute("SELECT collection_id, token FROM access").fetchall())


def collections_of_tokens(store: Store, given: Iterable[str]) -> dict[str, int]:
    """Return which private collections these tokens opened before."""
    wanted = list(given)
    if not wanted or not store.exists:
        return {}
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT token, collection_id FROM access WHERE token IN (SELECT unnest($tokens))",
            {"tokens": wanted},
        ).fetchall()
    return dict(rows)


def collection_states(store: Store) -> dict[int, CollectionState]:
    """Return, for each collection that has a record here, how its list was read."""
    if not store.exists:
        return {}
    with store.reading() as connection:
        rows = connection.execute("""
            SELECT collection_id, coalesce(complete, false), epoch_us(modify_date), epoch_us(listed_at),
                   epoch_us(listed_modify_date), epoch_us(broken_at)
            FROM collections
            LEFT JOIN (SELECT id, min(seen_at) AS broken_at FROM refusals WHERE kind = 'position' GROUP BY id)
                ON id = collection_id
        """).fetchall()
    return {id_: CollectionState(complete, *map(moment, moments)) for id_, complete, *moments in rows}


def images_here_that(
    store: Store, images: TermsInSQL, collections: TermsInSQL, *, kind: MapKind
) -> list[ImageRow]:
    """Return the images that terms may keep and of which a map is here, by collection and id.

    Those come first whose map is of that kind; of the others it can be made.
    """
    query = f"""
        WITH f AS (SELECT image_id, bool_or(kind = $kind) AS as_wanted FROM files
                   WHERE kind IN ('original', $kind) GROUP BY image_id),
        {_candidates(images, collections)}
        SELECT image_id, collection_id, certain
        FROM candidates JOIN f USING (image_id)
        ORDER BY as_wanted DESC, collection_id, image_id
    """  # noqa: S608 - expressions of our own, values as parameters
    return _image_rows(store, query, {"kind": kind, **images.params, **collections.params})


def other_images_that(
    store: Store, images: TermsInSQL, collections: TermsInSQL, *, kind: MapKind, after: ImageRow, limit: int
) -> list[ImageRow]:
    """Return some of the images that terms may keep, that are on the server and not here, by collection and id."""
    query = f"""
        WITH {_candidates(images, collections)}
        SELECT image_id, collection_id, certain
        FROM candidates
        WHERE gone_at IS NULL AND (collection_id, image_id) > ($collection_id, $image_id)
          AND image_id NOT IN (SELECT image_id FROM files WHERE kind IN ('original', $kind))
        ORDER BY collection_id, image_id
        LIMIT $limit
    """  # noqa: S608 - as above
    parameters = {"kind": kind, "limit": limit, "collection_id": after.collection_id, "image_id": after.image_id}
    return _image_rows(store, query, {**parameters, **images.params, **collections.params})


def _candidates(images: TermsInSQL, collections: TermsInSQL) -> str:
    return f"""
        i AS (SELECT image_id, collection_id, gone_at, {images.certain} AS certain FROM images
              WHERE {images.where}),
        c AS (SELECT collection_id, {collections.certain} AS certain FROM collections
              WHERE {collections.where}),
        candidates AS (SELECT image_id, collection_id, gone_at, coalesce(i.certain AND c.certain, false) AS certain
                       FROM i JOIN c USING (collection_id))
    """  # noqa: S608 - as above


def _image_rows(store: Store, query: str, parameters: dict[str, object]) -> list[ImageRow]:
    if not store.exists:
        return []
    with store.reading() as connection:
        return list(map(ImageRow._make, connection.execute(query, parameters).fetchall()))


def images_with_record(store: Store, image_ids: Iterable[int]) -> set[int]:
    """Return which of these images the catalog knows."""
    if not store.exists:
        return set()
    with store.reading() as connection:
        query = "SELECT image_id FROM images WHERE image_id IN (SELECT unnest($ids::INTEGER[]))"
        return {id_ for (id_,) in connection.execute(query, {"ids": list(image_ids)}).fetchall()}


def collection_of_images(store: Store, image_ids: Iterable[int]) -> dict[int, int]:
    """Return, for those of these images that the catalog knows, the collection they are in."""
    return dict(_of_ids(store, "SELECT image_id, collection_id FROM images WHERE image_id IN", image_ids))


def images_with_words(store: Store, image_ids: Iterable[int]) -> set[int]:
    """Return which of these images the catalog has terms of."""
    query = "SELECT image_id FROM words_status WHERE status = 'present' AND image_id IN"
    return {id_ for (id_,) in _of_ids(store, query, image_ids)}


def words_of(store: Store, image_ids: Iterable[int]) -> dict[int, tuple[dict[str, float], str | None]]:
    """Return the terms of these images with their weights, and the set they were compared with."""
    query = "SELECT image_id, reference FROM words_status WHERE status = 'present' AND image_id IN"
    found: dict[int, tuple[dict[str, float], str | None]]
    found = {id_: ({}, reference) for id_, reference in _of_ids(store, query, image_ids)}
    words = store.long_words(found).to_pydict() if found else {}
    for id_, term, weight in zip(*words.values(), strict=True):
        found[id_][0][term] = weight
    return found


def records_of(
    store: Store, kind: Literal["collection", "image", "pack"], ids: Iterable[int]
) -> dict[int, Record]:
    """Return the records of these collections, images or packs."""
    query = "SELECT id, raw FROM raw_records WHERE kind = $kind AND id IN"
    return {id_: records.parse_json(raw) for id_, raw in _of_ids(store, query, ids, kind=kind)}


def recorded(store: Store, kind: Literal["collection", "image"], ids: Iterable[int]) -> set[int]:
    """Return which of these collections or images the catalog has a record of."""
    query = "SELECT id FROM raw_records WHERE kind = $kind AND id IN"
    return {id_ for (id_,) in _of_ids(store, query, ids, kind=kind)}


def _of_ids(store: Store, query: str, ids: Iterable[int], **params: str) -> list[tuple[Any, ...]]:
    wanted = list(ids)
    if not wanted or not store.exists:
        return []
    with store.reading() as connection:
        return connection.execute(
            f"{query} (SELECT unnest($ids::INTEGER[]))", {"ids": wanted, **params}
        ).fetchall()


def collections_of_doi(store: Store, doi: str) -> dict[int, str]:
    """Return the collections whose paper or preprint has this DOI, with their titles."""
    if not store.exists:
        return {}
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT collection_id, name FROM collections "
            "WHERE $doi IN (doi, preprint_doi) AND gone_at IS NULL ORDER BY collection_id",
            {"doi": doi},
        ).fetchall()
    return dict(rows)


def collections_listed_before(store: Store, before: datetime, image_ids: Iterable[int]) -> list[int]:
    """Return the collections of these images whose lists were read before a moment, or never."""
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT DISTINCT collection_id
            FROM images
            LEFT JOIN collections USING (collection_id)
            WHERE image_id IN (SELECT unnest($ids::INTEGER[])) AND coalesce(listed_at < $before, true)
            ORDER BY collection_id
            """,
            {"ids": list(image_ids), "before": before},
        ).fetchall()
    return [id_ for (id_,) in rows]


def packs(store: Store, image_ids: Iterable[int], collection_ids: Iterable[int]) -> dict[int, tuple[int, Record]]:
    """Return collection and record of the NIDM packs with these images, and of those in these collections."""
    if not store.exists:
        return {}
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT DISTINCT pack_id, collection_id, raw
            FROM nidm_packs
            JOIN raw_records ON kind = 'pack' AND id = pack_id
            WHERE image_id IN (SELECT unnest($images::INTEGER[]))
               OR collection_id IN (SELECT unnest($collections::INTEGER[]))
            ORDER BY pack_id
            """,
            {"images": list(image_ids), "collections": list(collection_ids)},
        ).fetchall()
    return {pack_id: (collection_id, records.parse_json(raw)) for pack_id, collection_id, raw in rows}


def files_of(store: Store, ids: Iterable[int]) -> dict[tuple[int, str], LocalFile]:
    """Return all files of these images and packs, by id and kind."""
    if not store.exists:
        return {}
    with store.reading() as connection:
        rows = connection.execute(
            "SELECT image_id, kind, path, size, state, sha256, origin FROM files "
            "WHERE image_id IN (SELECT unnest($ids::INTEGER[]))",
            {"ids": list(ids)},
        ).fetchall()
    return {(id_, kind): LocalFile(*file) for id_, kind, *file in rows}


def refused_extras(store: Store, ids: Iterable[int]) -> dict[tuple[str, int], Refusal]:
    """Return what was refused of the files beside these images' maps and in these packs."""
    if not store.exists:
        return {}
    with store.reading() as connection:
        rows = connection.execute(
            """
            SELECT kind, id, status, reason, epoch_us(modify_date), epoch_us(seen_at)
            FROM refusals
            WHERE id IN (SELECT unnest($ids::INTEGER[]))
              AND kind NOT IN ('collection', 'image', 'position', 'words')
            """,
            {"ids": list(ids)},
        ).fetchall()
    return {
        (kind, id_): Refusal(kind, id_, status, reason, moment(modified), moment(seen) or datetime.now(UTC))
        for kind, id_, status, reason, modified, seen in rows
    }


def has_extra_field(store: Store, name: str, table: Literal["images", "collections"]) -> bool:
    """Whether any record here has a free-form field of that name."""
    if not store.exists or name != storable(name):
        return False
    with store.reading() as connection:
        query = f"SELECT count(*) FROM {table} WHERE list_contains(json_keys(extra), $name)"  # noqa: S608 - one of two
        return bool(connection.execute(query, {"name": name}).fetchall()[0][0])


def complete_collections(store: Store) -> set[int]:
    """Return the ids of the collections whose images are all known."""
    if not store.exists:
        return set()
    with store.reading() as connection:
        rows = connection.execute("SELECT collection_id FROM collections WHERE complete").fetchall()
    return {id_ for (id_,) in rows}


def bytes_per_s(store: Store) -> float | None:
    """Return the speed of the last fetches that brought files, None when there were none."""
    with store.reading() as connection:
        rows = connection.execute("""
            SELECT median(bytes / greatest(epoch(finished_at - started_at), 0.001))
            FROM (SELECT * FROM fetches WHERE downloaded > 0 AND bytes > 0 ORDER BY finished_at DESC LIMIT 20)
        """).fetchall()
        return cast("float | None", rows[0][0])


class MapRow(NamedTuple):
    """What the catalog knows of an image and of one of its maps."""

    image_id: int
    collection_id: int | None
    modify_date: datetime | None
    image_type: str | None
    map_type: str | None
    path: str | None
    size: int | None
    sha256: str | None
    state: str | None
    origin: str | None
    private: bool


_MAPS = """
    SELECT w.image_id, i.collection_id, epoch_us(i.modify_date), i.image_type, i.map_type,
           f.path, f.size, f.sha256, f.state, f.origin,
           w.image_id IN (SELECT image_id FROM private_images)
    FROM (SELECT unnest($ids::INTEGER[]) AS image_id) AS w
    LEFT JOIN images AS i ON i.image_id = w.image_id
    LEFT JOIN files AS f ON f.image_id = w.image_id AND f.kind = $kind
    ORDER BY i.collection_id, w.image_id
"""
_CAME_AT = """
    SELECT image_id, epoch_us(downloaded_at)
    FROM files
    WHERE kind = $kind AND image_id IN (SELECT unnest($ids::INTEGER[]))
"""


def maps_of(store: Store, image_ids: Iterable[int], kind: MapKind) -> list[MapRow]:
    """Return a row for each image, known or not, by collection and id."""
    with store.reading() as connection:
        found = connection.execute(_MAPS, {"ids": list(image_ids), "kind": kind}).fetchall()
    return [MapRow(id_, collection_id, moment(modified), *more) for id_, collection_id, modified, *more in found]


def came_at(store: Store, image_ids: Iterable[int], kind: MapKind) -> dict[int, datetime | None]:
    """Return when the maps of images came, where they are here."""
    with store.reading() as connection:
        found = connection.execute(_CAME_AT, {"ids": list(image_ids), "kind": kind}).fetchall()
    return {id_: moment(came) for id_, came in found}
