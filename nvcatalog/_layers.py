"""How a table of two catalogs is read as one: the rows of the folder in front, and the base's behind them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nvcatalog.queries import quoted

# What is added to the number of a term that only the base knows: the two catalogs number terms each by itself.
_APART = 1_000_000_000


def layered(table: str, places: Mapping[str, str], base: Path) -> str:
    """Return all rows of the folder's table, and those of the base's that these do not stand for."""
    text = _OWN.get(table, f"FROM front_{table}")
    if table in _BEHIND:
        text += f" UNION ALL {_BEHIND[table]}"
    for name, place in places.items():
        text = text.replace(name, place)
    return text.replace("{base}", quoted(f"{base}{os.sep}"))


# A list that was read to the end stands for the base's, and the other way round.
_OWN = {
    "collections": """
        FROM front_collections AS f
        WHERE coalesce(f.complete, false)
           OR NOT EXISTS (FROM base_collections AS b WHERE b.collection_id = f.collection_id AND b.complete)
    """
}
# Calls, and what landings left for snapshots, are each folder's own.
_BEHIND = {
    "collections": """
        FROM base_collections AS b
        WHERE NOT EXISTS (
            FROM front_collections AS f
            WHERE f.collection_id = b.collection_id
              AND (coalesce(f.complete, false) OR NOT coalesce(b.complete, false)))
    """,
    # What a later list of the folder's own does not name has gone from the server since.
    "images": """
        SELECT b.* REPLACE (coalesce(b.gone_at, later.listed_at) AS gone_at)
        FROM base_images AS b
        LEFT JOIN (
            SELECT f.collection_id, f.listed_at
            FROM front_collections AS f
            LEFT JOIN base_collections AS c USING (collection_id)
            WHERE f.complete AND f.listed_at > coalesce(c.listed_at, TIMESTAMPTZ '-infinity')
              AND NOT EXISTS (FROM front_refusals AS r WHERE r.kind = 'position' AND r.id = f.collection_id)
        ) AS later ON later.collection_id = b.collection_id
        WHERE NOT EXISTS (FROM front_images AS f WHERE f.image_id = b.image_id)
    """,
    "raw_records": """
        FROM base_raw_records AS b
        WHERE NOT EXISTS (FROM front_raw_records AS f WHERE f.kind = b.kind AND f.id = b.id)
    """,
    "record_history": "FROM base_record_history",
    # What was resampled of an earlier map is none of the map that is here now.
    "files": """
        SELECT b.* REPLACE ({base} || b.path AS path)
        FROM base_files AS b
        WHERE NOT EXISTS (
            FROM front_files AS f
            WHERE f.image_id = b.image_id
              AND (f.kind = b.kind OR (f.kind = 'original' AND b.kind = 'resampled')))
    """,
    "refusals": """
        FROM base_refusals AS b
        WHERE NOT EXISTS (
            FROM front_refusals AS f
            WHERE f.kind = b.kind AND f.id = b.id AND f.position IS NOT DISTINCT FROM b.position)
          AND NOT EXISTS (
            FROM front_collections AS f
            WHERE b.kind = 'position' AND f.collection_id = b.id AND f.complete)
          AND NOT EXISTS (
            FROM front_raw_records AS f
            WHERE f.id = b.id AND f.fetched_at > b.seen_at
              AND f.kind = CASE b.kind WHEN 'position' THEN NULL WHEN 'collection' THEN b.kind ELSE 'image' END)
    """,
    "access": """
        FROM base_access AS b
        WHERE NOT EXISTS (FROM front_access AS f WHERE f.collection_id = b.collection_id)
    """,
    "nidm_packs": """
        FROM base_nidm_packs AS b
        WHERE NOT EXISTS (FROM front_nidm_packs AS f WHERE f.pack_id = b.pack_id)
          AND NOT EXISTS (FROM front_collections AS f WHERE f.collection_id = b.collection_id AND f.complete)
    """,
    "terms": f"""
        SELECT b.term_id + {_APART}, b.term
        FROM base_terms AS b
        WHERE NOT EXISTS (FROM front_terms AS f WHERE f.term = b.term)
    """,  # noqa: S608 - a number of ours
    "words": f"""
        SELECT b.image_id, coalesce(f.term_id, b.term_id + {_APART}), b.weight
        FROM base_words AS b
        JOIN base_terms AS t ON t.term_id = b.term_id
        LEFT JOIN front_terms AS f ON f.term = t.term
        WHERE NOT EXISTS (FROM front_words_status AS s WHERE s.image_id = b.image_id)
    """,  # noqa: S608 - as above
    "words_status": """
        FROM base_words_status AS b
        WHERE NOT EXISTS (FROM front_words_status AS f WHERE f.image_id = b.image_id)
    """,
    # The folder's server is its own, and is noted there once records of it come.
    "catalog_info": """
        FROM base_catalog_info AS b
        WHERE b.key NOT IN ('server_root', 'created_at')
          AND NOT EXISTS (FROM front_catalog_info AS f WHERE f.key = b.key)
    """,
}
