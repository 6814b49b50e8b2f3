"""Rows that land in the catalog together: gather them in a :class:`Batch`, then :func:`land` it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb

from nvcatalog import records
from nvcatalog._marks import Marks
from nvcatalog.known import Refusal
from nvcatalog.proving import Proof

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

# What tells a table's rows apart. A row that lands replaces the one with its key; without a key it is added.
_KEYS = {
    "collections": ("collection_id",),
    "images": ("image_id",),
    "raw_records": ("kind", "id"),
    "files": ("image_id", "kind"),
    "refusals": ("kind", "id", "position"),
    "nidm_packs": ("pack_id", "image_id"),
    "access": ("collection_id",),
    "words_status": ("image_id",),
    "fetches": ("fetch_id",),
    "outcomes": (),
    "catalog_info": ("key",),
}

# A value that its column does not take, as DuckDB and as Arrow say it. A full disk is none of these.
_MISFITS = (duckdb.DataError, duckdb.IntegrityError, duckdb.ProgrammingError, ValueError, TypeError, OverflowError)


@dataclass(frozen=True)
class Words:
    """What Neurosynth answered for one image: each term's weight, and the reference set it was made with."""

    weights: dict[str, float]
    reference: str | None


@dataclass(frozen=True)
class Listing:
    """That a collection's images were listed: how many the server counted, and whether all were seen.

    Where some records are broken on the server, the list does not name all images (``names_all``): one that it
    lacks may be one of those, and is not gone. ``modify_date`` is the collection's as it was known before the
    list was begun: while it stays, the list need not be read again.
    """

    collection_id: int
    listed_at: datetime
    listed_count: int
    complete: bool
    image_ids: frozenset[int]
    names_all: bool = True
    modify_date: datetime | None = None


@dataclass
class Batch:
    """Rows that land together, by table; words, listings; what is gone, and refusals that no longer hold.

    What was merely found in the folder is kept apart in ``found``: sidecars' records, which never replace the
    server's, and files nobody has proven, which replace none.
    """

    tables: dict[str, list[Row]] = field(default_factory=dict)
    found: dict[str, list[Row]] = field(default_factory=dict)
    words: dict[int, Words] = field(default_factory=dict)
    listings: list[Listing] = field(default_factory=list)
    gone: dict[int, datetime] = field(default_factory=dict)
    healed: set[tuple[str, int]] = field(default_factory=set)
    dropped: set[tuple[int, str]] = field(default_factory=set)
    packless: set[int] = field(default_factory=set)  # collections whose NIDM packs are listed anew
    made_public: set[int] = field(default_factory=set)  # collections that are opened by no token any more
    follows_misfits: bool = False  # an earlier landing had to leave rows out, maybe of a list that this one ends

    def add(self, table: str, row: Row) -> None:
        """Add a row; of several with one key the last wins."""
        unproven = table == "files" and row.get("state") == "unverified"
        (self.found if unproven else self.tables).setdefault(table, []).append(row)

    def add_record(
        self, kind: str, record: dict[str, Any], *, source: str = "api", came_at: datetime | None = None
    ) -> None:
        """Add a collection's or an image's record, typed row and text; it came now unless another time is said."""
        now = came_at or datetime.now(UTC)
        row = records.collection_row(record) if kind == "collection" else records.image_row(record)
        raw = {"kind": kind, "id": row[f"{kind}_id"], "raw": records.raw_text(record), "source": source}
        tables = self.found if source == "sidecar" else self.tables
        row["fetched_at"] = raw["fetched_at"] = now
        tables.setdefault(f"{kind}s", []).append(row)
        tables.setdefault("raw_records", []).append(raw)

    def add_pack(self, record: dict[str, Any], collection_id: int) -> None:
        """Add a NIDM pack: which images are in it, and its text."""
        for row in records.pack_rows(record, collection_id):
            self.add("nidm_packs", row)
        raw = {"kind": "pack", "id": records.record_id(record), "raw": records.raw_text(record), "source": "api"}
        self.add("raw_records", raw | {"fetched_at": datetime.now(UTC)})

    def add_file(
        self,
        image_id: int,
        path: str,
        proof: Proof,
        *,
        origin: str,
        kind: str = "original",
        came_at: datetime | None = None,
    ) -> None:
        """Add a file that has been proven; it came now unless another time is said."""
        row = {
            "image_id": image_id,
            "kind": kind,
            "path": path,
            "size": proof.size,
            "sha256": proof.sha256,
            "shape": list(proof.shape) or None,
            "voxel_size_mm": list(proof.voxel_size_mm) or None,
            "dtype": proof.dtype,
            "etag": proof.etag,
            "last_modified": proof.last_modified,
            "downloaded_at": came_at or datetime.now(UTC),
            "origin": origin,
            "state": "present",
        }
        self.add("files", row)

    def forget_packs(self, collection_id: int) -> None:
        """Forget which NIDM packs a collection has, in the catalog and in this batch so far."""
        self.packless.add(collection_id)
        if "nidm_packs" in self.tables:
            rows = self.tables["nidm_packs"]
            self.tables["nidm_packs"] = [row for row in rows if row["collection_id"] != collection_id]

    def forget_token(self, collection_id: int) -> None:
        """Forget the token of a collection that has become public."""
        self.made_public.add(collection_id)
        if "access" in self.tables:
            rows = self.tables["access"]
            self.tables["access"] = [row for row in rows if row["collection_id"] != collection_id]

    def drop_file(self, image_id: int, kind: str) -> None:
        """Forget a file that has been removed."""
        self.dropped.add((image_id, kind))

    def add_refusal(self, refusal: Refusal) -> None:
        """Add what a server answered for good."""
        self.add("refusals", {name: getattr(refusal, name) for name in records.TABLES["refusals"]})

    def heal(self, kind: str, id_: int) -> None:
        """Forget what was refused of an id, in the catalog and in this batch so far."""
        self.healed.add((kind, id_))
        # Healing comes first when a batch lands, so what was refused before it must not be added after it.
        if "refusals" in self.tables:
            self.tables["refusals"] = [
                row for row in self.tables["refusals"] if (row["kind"], row["id"]) != (kind, id_)
            ]

    def bury(self, collection_id: int) -> None:
        """Note that a collection is no longer on the server, and its images with it."""
        self.gone[collection_id] = datetime.now(UTC)

    def extend(self, rows: Batch) -> None:
        """Add another batch's rows."""
        for table, more in rows.tables.items():
            self.tables.setdefault(table, []).extend(more)

    def followed_by(self, later: Batch) -> Batch:
        """Return both as one batch that leaves what landing one after the other would have left."""
        merged = Batch(
            words=self.words | later.words,
            listings=self.listings + later.listings,
            gone=self.gone | later.gone,
            follows_misfits=self.follows_misfits or later.follows_misfits,
        )
        merged.tables = {table: list(rows) for table, rows in self.tables.items()}
        merged.healed = set(self.healed)
        merged.dropped = self.dropped | later.dropped
        merged.packless = set(self.packless)
        for kind, id_ in later.healed:
            merged.heal(kind, id_)
        merged.made_public = set(self.made_public)
        for id_ in later.packless:
            merged.forget_packs(id_)
        for id_ in later.made_public:
            merged.forget_token(id_)
        for table, rows in later.tables.items():
            merged.tables.setdefault(table, []).extend(rows)
        for table, rows in (*self.found.items(), *later.found.items()):
            merged.found.setdefault(table, []).extend(rows)
        return merged

    def __len__(self) -> int:
        rows = sum(map(len, (*self.tables.values(), *self.found.values())))
        rest = (self.words, self.listings, self.gone, self.healed, self.dropped, self.packless, self.made_public)
        return rows + sum(map(len, rest))


def get_ready() -> None:
    """Import what landing needs: that takes longer than to land, and nobody should wait for it."""
    import pyarrow as pa

    pa.array([None])  # with pandas, which it looks for now


def land(connection: duckdb.DuckDBPyConnection, batch: Batch) -> list[str]:
    """Land a batch in one transaction; where a row does not fit its table, land all others.

    Returns
    -------
    list of str
        A line for each row that could not land.
    """
    try:
        _land_whole(connection, batch)
    except duckdb.CatalogException:  # a table is missing, which is no row's fault
        raise
    except _MISFITS:
        return _land_what_fits(connection, batch)
    return []


def long_table(words: dict[int, Words]) -> pa.Table:
    """Return ``image_id``, ``term``, ``weight``, one row an (image, term), each image's rows together."""
    import pyarrow as pa

    sizes = [len(answer.weights) for answer in words.values()]
    image_ids = [image_id for image_id, size in zip(words, sizes, strict=True) for _ in range(size)]
    return pa.table(
        {
            "image_id": pa.array(image_ids, pa.int32()),
            "term": pa.array([term for answer in words.values() for term in answer.weights], pa.string()),
            "weight": pa.array([r for answer in words.values() for r in answer.weights.values()], pa.float64()),
        }
    )


def _land_whole(connection: duckdb.DuckDBPyConnection, batch: Batch, *, end: str = "COMMIT") -> None:
    connection.execute("BEGIN")
    try:
        marks = Marks(connection)
        _heal(marks, batch.healed)
        _drop(marks, batch)
        for table, rows in batch.found.items():
            _upsert(marks, table, _not_better_known(connection, table, rows))
        for table, rows in batch.tables.items():
            _upsert(marks, table, rows)
        _land_words(marks, batch.words)
        # Pages land before the list does.
        listings = _as_they_landed(connection, batch.listings) if batch.follows_misfits else batch.listings
        _land_listings(marks, listings)
        _bury(marks, batch.gone)
        marks.leave()
        connection.execute(end)
    except BaseException:
        with suppress(duckdb.Error):  # a failed COMMIT has rolled back already
            connection.execute("ROLLBACK")
        raise


def _land_what_fits(connection: duckdb.DuckDBPyConnection, batch: Batch) -> list[str]:
    """Try table by table which rows fit, land those in one transaction, and return a line for each other one."""
    culprits: list[str] = []
    fitting = replace(batch, tables={}, found={}, words={})
    for table, rows in batch.found.items():
        fitting.found[table] = _fitting_rows(connection, table, rows, culprits, found=True)
    for table, rows in batch.tables.items():
        fitting.tables[table] = _fitting_rows(connection, table, rows, culprits)
    for image_id, words in batch.words.items():
        try:
            _land_whole(connection, Batch(words={image_id: words}), end="ROLLBACK")
            fitting.words[image_id] = words
        except _MISFITS as error:
            culprits.append(_culprit("words", {"image_id": image_id}, error))
    # A list that is missing a record must be read again: only then may it count as complete.
    fitting.listings = [replace(each, complete=each.complete and not culprits) for each in batch.listings]
    _land_whole(connection, fitting)
    return culprits


def _fitting_rows(
    connection: duckdb.DuckDBPyConnection, table: str, rows: list[Row], culprits: list[str], *, found: bool = False
) -> list[Row]:
    """Return the rows that fit a table, halved again and again until those that do not stand alone."""
    try:
        tried = Batch(found={table: rows}) if found else Batch({table: rows})
        _land_whole(connection, tried, end="ROLLBACK")
    except _MISFITS as error:
        if len(rows) == 1:
            key = {name: rows[0].get(name) for name in _KEYS[table]}
            culprits.append(_culprit(table, key or rows[0], error))
            return []
        half = len(rows) // 2
        halves = (rows[:half], rows[half:])
        return [row for each in halves for row in _fitting_rows(connection, table, each, culprits, found=found)]
    return rows


def _culprit(table: str, key: Row, error: Exception) -> str:
    named = ", ".join(f"{name} {value}" for name, value in key.items())
    return f"{table}: {named} could not land: {str(error).splitlines()[0]}"


def upsert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[Row]) -> None:
    """Replace rows by key, within a transaction of the caller's."""
    marks = Marks(connection)
    _upsert(marks, table, rows)
    marks.leave()


def replace_words(connection: duckdb.DuckDBPyConnection, words: pa.Table, status: list[Row]) -> None:
    """Replace the words of images, within a transaction of the caller's.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        To the catalog, writable.
    words : pyarrow.Table
        ``image_id``, ``term`` and ``weight``, one row an (image, term).
    status : list of dict
        The row of ``words_status`` of each of these images.
    """
    marks = Marks(connection)
    _replace_words(marks, words, status)
    marks.leave()


def forget_words(connection: duckdb.DuckDBPyConnection, image_ids: list[int]) -> None:
    """Delete the words of images, within a transaction of the caller's: then they count as never asked for.

    Terms that no other image has go with them.
    """
    marks = Marks(connection)
    where, ids = "image_id IN (SELECT unnest($ids::INTEGER[]))", {"ids": image_ids}
    theirs = "SELECT DISTINCT term_id FROM words WHERE "
    terms = {term for (term,) in connection.execute(theirs + where, ids).fetchall()}
    marks.note_words(image_ids)
    connection.execute(f"DELETE FROM words WHERE {where}", ids)  # noqa: S608 - our own names
    marks.delete("words_status", where, ids)
    which = "term_id IN (SELECT unnest($terms::INTEGER[]))"
    terms -= {term for (term,) in connection.execute(theirs + which, {"terms": list(terms)}).fetchall()}
    marks.delete("terms", which, {"terms": list(terms)})
    marks.leave()


def _upsert(marks: Marks, table: str, rows: list[Row]) -> None:
    """Replace rows by key: delete, then insert (an upsert clause would rewrite wide columns whole)."""
    if not rows:
        return
    key, connection = _KEYS[table], marks.connection
    if key:
        rows = list({tuple(row.get(name) for name in key): row for row in rows}.values())
    # Never unregistered: after a failed statement that fails too, and hides why. The next one takes its place.
    connection.register("incoming", _incoming(table, rows))
    if table == "raw_records":
        keep_history(marks, "incoming")
    if table == "collections":
        _keep_listings(connection)
    if key:
        same = " AND ".join(f"{table}.{name} IS NOT DISTINCT FROM incoming.{name}" for name in key)
        # The rows that go have the keys of those that come, and are in the same blocks.
        connection.execute(f"DELETE FROM {table} USING incoming WHERE {same}")  # noqa: S608 - our own names
    source = "incoming LEFT JOIN kept_listings USING (collection_id)" if table == "collections" else "incoming"
    marks.change(table, f"INSERT INTO {table} BY NAME SELECT * FROM {source}")  # noqa: S608 - our own names


def _not_better_known(connection: duckdb.DuckDBPyConnection, table: str, rows: list[Row]) -> list[Row]:
    """Return what was found in the folder, without what the catalog knows better."""
    if table == "files":
        first = {(row["image_id"], row["kind"]): row for row in reversed(rows)}
        ids = {"ids": [image_id for image_id, _ in first]}
        same = "SELECT image_id, kind FROM files WHERE image_id IN (SELECT unnest($ids::INTEGER[]))"
        taken = set(connection.execute(same, ids).fetchall())
        return [row for key, row in first.items() if key not in taken]
    ids = {"ids": [_record_of(table, row)[1] for row in rows]}
    same = "SELECT kind, id FROM raw_records WHERE source = 'api' AND id IN (SELECT unnest($ids::INTEGER[]))"
    from_server = set(connection.execute(same, ids).fetchall())
    return [row for row in rows if _record_of(table, row) not in from_server]


def _record_of(table: str, row: Row) -> tuple[str, int]:
    """Return the kind and the id of the record that a row was made of."""
    if table == "raw_records":
        return row["kind"], row["id"]
    kind = table.removesuffix("s")
    return kind, row[f"{kind}_id"]


def _incoming(table: str, rows: list[Row]) -> pa.Table:
    """Return rows as Arrow: the key, and each column that any of them has."""
    given = set(_KEYS[table]).union(*rows)
    return records.to_arrow(rows, {name: kind for name, kind in records.TABLES[table].items() if name in given})


def keep_history(marks: Marks, newer: str) -> None:
    """Keep the former text of each record that the server has changed, before the rows of `newer` replace it.

    A sidecar's is the server's word of an earlier day, its placeholders nulled: it counts when its date differs.
    """
    marks.change(
        "record_history",
        f"""
        INSERT INTO record_history BY NAME
        SELECT old.kind, old.id, old.raw, old.fetched_at, incoming.fetched_at AS replaced_at
        FROM raw_records AS old
        JOIN {newer} AS incoming ON old.kind = incoming.kind AND old.id = incoming.id
        WHERE incoming.source = 'api'
          AND CASE old.source
                WHEN 'api' THEN old.raw::VARCHAR <> incoming.raw::VARCHAR
                ELSE old.raw->>'modify_date' <> incoming.raw->>'modify_date'
              END
    """,  # noqa: S608 - our own names
    )


def _keep_listings(connection: duckdb.DuckDBPyConnection) -> None:
    """Set aside what is known of the collections' lists: a fresh record says nothing about them."""
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE kept_listings AS
        SELECT collection_id, listed_at, listed_count, listed_modify_date, complete
        FROM collections
        WHERE collection_id IN (SELECT collection_id FROM incoming)
    """)


def _land_listings(marks: Marks, listings: list[Listing]) -> None:
    """Note what was read of lists, and which images a whole list lacks: they are gone."""
    if not listings:
        return
    marks.connection.register("listings", _as_table(listings))
    marks.connection.register("named", _named_in(listings))
    marks.change(
        "collections",
        """
        UPDATE collections
        SET listed_at = listed.listed_at, listed_count = listed.listed_count, complete = listed.complete,
            listed_modify_date = listed.modify_date
        FROM (
            FROM listings QUALIFY row_number() OVER (PARTITION BY collection_id ORDER BY number DESC) = 1
        ) AS listed
        WHERE collections.collection_id = listed.collection_id
    """,
    )
    # What was read after the list, by its own address, is not gone.
    marks.change(
        "images",
        """
        UPDATE images
        SET gone_at = missing.listed_at
        FROM (
            SELECT i.image_id, max(l.listed_at) AS listed_at
            FROM images AS i
            JOIN listings AS l USING (collection_id)
            WHERE l.complete AND l.names_all AND i.gone_at IS NULL AND i.fetched_at <= l.listed_at
              AND NOT EXISTS (FROM named AS n WHERE n.number = l.number AND n.image_id = i.image_id)
            GROUP BY i.image_id
        ) AS missing
        WHERE images.image_id = missing.image_id
    """,
    )


def _as_they_landed(connection: duckdb.DuckDBPyConnection, listings: list[Listing]) -> list[Listing]:
    """Return lists that are complete only where all records that they name are here: the others are read again."""
    here = """
        SELECT id
        FROM images
        JOIN raw_records ON kind = 'image' AND id = image_id AND source = 'api'
        WHERE id IN (SELECT unnest($ids::INTEGER[]))
    """
    named = {"ids": [id_ for listing in listings for id_ in listing.image_ids]}
    landed = {id_ for (id_,) in connection.execute(here, named).fetchall()}
    return [replace(each, complete=each.complete and landed.issuperset(each.image_ids)) for each in listings]


def _as_table(listings: list[Listing]) -> pa.Table:
    kinds = {"number": "int", "collection_id": "int", "listed_at": "time", "listed_count": "int"}
    kinds |= {"complete": "bool", "names_all": "bool", "modify_date": "time"}
    rows = [vars(listing) | {"number": number} for number, listing in enumerate(listings)]
    return records.to_arrow([{name: row[name] for name in kinds} for row in rows], kinds)


def _named_in(listings: list[Listing]) -> pa.Table:
    """Return ``number`` and ``image_id``: which images each list names, by its number."""
    rows = [
        {"number": number, "image_id": image_id}
        for number, listing in enumerate(listings)
        for image_id in listing.image_ids
    ]
    return records.to_arrow(rows, {"number": "int", "image_id": "int"})


def _bury(marks: Marks, gone: dict[int, datetime]) -> None:
    """Note which collections are gone, and their images; a record read later shows that one is back."""
    if not gone:
        return
    kinds = {"collection_id": "int", "gone_at": "time"}
    rows = [{"collection_id": collection_id, "gone_at": gone_at} for collection_id, gone_at in gone.items()]
    marks.connection.register("incoming", records.to_arrow(rows, kinds))
    # Its list is to be read again should it come back.
    marks.change(
        "collections",
        """
        UPDATE collections
        SET gone_at = incoming.gone_at, complete = false, listed_modify_date = NULL
        FROM incoming
        WHERE collections.collection_id = incoming.collection_id AND collections.fetched_at <= incoming.gone_at
    """,
    )
    marks.change(
        "images",
        """
        UPDATE images
        SET gone_at = incoming.gone_at
        FROM incoming
        WHERE images.collection_id = incoming.collection_id AND images.gone_at IS NULL
          AND images.fetched_at <= incoming.gone_at
    """,
    )


def _heal(marks: Marks, healed: set[tuple[str, int]]) -> None:
    """Forget refusals that no longer hold."""
    for kind in {kind for kind, _ in healed}:
        ids = [id_ for healed_kind, id_ in healed if healed_kind == kind]
        where = "kind = $kind AND id IN (SELECT unnest($ids::INTEGER[]))"
        marks.delete("refusals", where, {"kind": kind, "ids": ids})


def _drop(marks: Marks, batch: Batch) -> None:
    """Forget files that have been removed, packs that are listed anew, and tokens of what has become public."""
    if batch.made_public:
        marks.connection.execute(
            "DELETE FROM access WHERE collection_id IN (SELECT unnest($ids::INTEGER[]))",
            {"ids": list(batch.made_public)},
        )
    if batch.packless:
        where = "collection_id IN (SELECT unnest($ids::INTEGER[]))"
        marks.delete("nidm_packs", where, {"ids": list(batch.packless)})
    for image_id, kind in batch.dropped:
        marks.delete("files", "image_id = $id AND kind = $kind", {"id": image_id, "kind": kind})


def _land_words(marks: Marks, words: dict[int, Words]) -> None:
    if not words:
        return
    now = datetime.now(UTC)
    status = [
        {"image_id": image_id, "status": "present", "reference": answer.reference, "fetched_at": now}
        for image_id, answer in words.items()
    ]
    _replace_words(marks, long_table(words), status)


def _replace_words(marks: Marks, words: pa.Table, status: list[Row]) -> None:
    """Replace the words of these images; each image's rows stay together, which keeps the file small."""
    connection, image_ids = marks.connection, [row["image_id"] for row in status]
    connection.register("incoming", words)
    marks.change(
        "terms",
        """
        INSERT INTO terms BY NAME
        SELECT (SELECT coalesce(max(term_id), 0) FROM terms) + row_number() OVER (ORDER BY term) AS term_id, term
        FROM (SELECT DISTINCT term FROM incoming WHERE term NOT IN (SELECT term FROM terms))
    """,
    )
    marks.note_words(image_ids)
    connection.execute("DELETE FROM words WHERE image_id IN (SELECT unnest($ids::INTEGER[]))", {"ids": image_ids})
    connection.execute("""
        INSERT INTO words BY NAME
        SELECT image_id, term_id, weight
        FROM incoming
        JOIN terms USING (term)
        ORDER BY image_id, term_id
    """)
    _upsert(marks, "words_status", status)
