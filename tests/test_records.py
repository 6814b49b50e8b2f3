"""Records become rows of the catalog, and nothing a server can say is lost on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvcatalog import records
from nvcatalog._batch import Batch
from nvcatalog._store import Store
from nvcatalog.migrate import migrate
from nvcatalog.records import Record, Row, collection_row, image_row, parse_json, raw_text

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parent / "data"
IMAGES: list[Record] = [parse_json(line) for line in (DATA / "images.jsonl").read_bytes().splitlines()]
COLLECTIONS: list[Record] = [parse_json(line) for line in (DATA / "collections.jsonl").read_bytes().splitlines()]


def recorded(name: str) -> list[Record]:
    body: Record = parse_json((DATA / f"{name}.json").read_bytes())
    results: list[Record] = body.get("results", [body])
    return results


RECORDED_IMAGES = [
    *recorded("images_oddities"),
    *recorded("images_of_atlas_collection"),
    *recorded("images_of_nidm_collection"),
]
RECORDED_COLLECTIONS = [*recorded("collection_nidm"), *recorded("collection_unicode")]


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        migrate(connection)
        yield connection


def land(con: duckdb.DuckDBPyConnection, table: str, rows: list[Row], key: str) -> None:
    """Land rows as the catalog does: delete, then insert from Arrow, in one transaction."""
    con.begin()
    con.register("incoming", records.to_arrow(rows, records.TABLES[table]))
    con.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM incoming)")
    con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    con.commit()


def fetch(con: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = con.sql(query).to_arrow_table().to_pylist()
    return rows


def as_documented(value: object, sql_type: str) -> object:
    """Say what a column of this type must hold for a field of a record, in other words than the code."""
    is_number = type(value) in {int, float}
    match sql_type:
        case "INTEGER" | "BIGINT":
            return value if type(value) is int or (is_number and value == int(value)) else None  # type: ignore[call-overload]
        case "DOUBLE":
            return value if is_number else None
        case "BOOLEAN":
            return value if value is True or value is False else None
        case "TIMESTAMP WITH TIME ZONE":
            return datetime.fromisoformat(value) if isinstance(value, str) else None
        case "JSON":
            return value
    return value if isinstance(value, str) else None


# Real records


@pytest.mark.parametrize(
    ("table", "key", "shape", "real"),
    [
        ("images", "image_id", image_row, IMAGES),
        ("images", "image_id", image_row, RECORDED_IMAGES),
        ("collections", "collection_id", collection_row, COLLECTIONS),
        ("collections", "collection_id", collection_row, RECORDED_COLLECTIONS),
    ],
    ids=["images", "recorded images", "collections", "recorded collections"],
)
def test_real_records_land_with_their_values(
    con: duckdb.DuckDBPyConnection, table: str, key: str, shape: Any, real: list[Record]
) -> None:
    land(con, table, [shape(record) for record in real], key)
    types: dict[str, str] = dict(
        con.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = $table", {"table": table}
        ).fetchall()
    )
    landed = {row[key]: row for row in fetch(con, f"FROM {table}")}
    for record in real:
        row = landed[record["id"]]
        fields = types.keys() - {key, "collection_id", "sex", "doi", "preprint_doi", "extra"}
        for field in fields:
            value = json.loads(row[field]) if types[field] == "JSON" and row[field] else row[field]
            given_as = {"doi_raw": "DOI", "preprint_doi_raw": "preprint_DOI"}.get(field, field)
            assert value == as_documented(record.get(given_as), types[field]), field
        extra = json.loads(row["extra"] or "{}")
        assert extra.items() <= record.items()
        assert extra.keys().isdisjoint(fields)
        renamed = {"id", "DOI", "preprint_DOI", "collection_id", "sex", "gender"}
        assert record.keys() <= extra.keys() | fields | renamed


def test_the_api_has_no_field_without_a_column() -> None:
    plain = [record for record in RECORDED_IMAGES if "nested" not in record]
    assert len(plain) == 22
    assert [image_row(record)["extra"] for record in plain] == [None] * 22
    assert [collection_row(record)["extra"] for record in RECORDED_COLLECTIONS] == [None, None]


def test_free_form_fields_are_kept_in_extra() -> None:
    (record,) = (record for record in RECORDED_IMAGES if record["id"] == 261)
    extra = json.loads(image_row(record)["extra"])
    assert extra["nested"] == {"a": 1}
    assert extra["study_n"] == 12
    assert len(extra) == 9


def test_a_free_form_field_named_like_a_column_does_not_pass_for_it() -> None:
    row = image_row({"id": 1, "image_id": 7, "extra": "mine", "gone_at": "2024-01-01T00:00:00Z", "bmi": 3})
    assert row["image_id"] == 1
    assert row["BMI"] is None
    assert json.loads(row["extra"]) == {
        "image_id": 7,
        "extra": "mine",
        "gone_at": "2024-01-01T00:00:00Z",
        "bmi": 3,
    }
    row = collection_row({"id": 1, "doi": "10.1/x", "doi_raw": "10.1/y", "collection_id": 9})
    assert (row["collection_id"], row["doi"], row["doi_raw"]) == (1, None, None)


def test_an_atlas_listed_without_its_type_is_a_row_too() -> None:
    rows = [image_row(record) for record in recorded("atlases_without_image_type")]
    assert [row["image_id"] for row in rows] == [253, 254]
    assert [row["image_type"] for row in rows] == [None, None]


def test_gender_until_2024_is_sex() -> None:
    assert image_row({"id": 1, "gender": "F"}) | {"extra": None} == image_row({"id": 1, "sex": "F"})
    assert image_row({"id": 1, "gender": "F"})["extra"] is None


def test_a_free_form_gender_beside_sex_is_extra() -> None:
    row = image_row({"id": 1, "sex": None, "gender": "all"})
    assert (row["sex"], row["extra"]) == (None, '{"gender": "all"}')


@pytest.mark.parametrize(
    ("given_doi", "doi"),
    [
        ("10.1016/J.NeuroImage.2012.12.012", "10.1016/j.neuroimage.2012.12.012"),
        ("10.3389/fnins.2014.00308 ", "10.3389/fnins.2014.00308"),
        ("https://doi.org/10.1234/X", "10.1234/x"),
        ("http://dx.doi.org/10.1234/X", "10.1234/x"),
        ("HTTPS://WWW.DOI.ORG/10.1234/X", "10.1234/x"),
        ("doi.org/10.1234/x", "10.1234/x"),
        ("doi: 10.1234/x", "10.1234/x"),
        ("DOI:https://doi.org/10.1234/x", "10.1234/x"),
        ("10.1234/doi:odd", "10.1234/doi:odd"),
        ("", None),
        ("  ", None),
        ("doi:", None),
        ("None", None),
        (None, None),
        (12, None),
    ],
)
def test_equal_dois_compare_equal_however_they_were_typed(given_doi: object, doi: str | None) -> None:
    row = collection_row({"id": 1, "DOI": given_doi, "preprint_DOI": given_doi})
    assert (row["doi"], row["preprint_doi"]) == (doi, doi)
    as_given = given_doi if isinstance(given_doi, str) else None
    assert (row["doi_raw"], row["preprint_doi_raw"]) == (as_given, as_given)


# Values that do not fit


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        ("number_of_subjects", 20, 20),
        ("number_of_subjects", 20.0, 20),
        ("number_of_subjects", 20.5, None),
        ("number_of_subjects", "20", None),
        ("number_of_subjects", True, None),
        ("number_of_subjects", 2**31 - 1, 2**31 - 1),
        ("number_of_subjects", 2**31, None),
        ("number_of_subjects", -(2**31), -(2**31)),
        ("number_of_subjects", 1e300, None),
        ("number_of_subjects", float("inf"), None),
        ("number_of_subjects", float("nan"), None),
        ("file_size", 2**31, 2**31),
        ("file_size", 2**63, None),
        ("file_size", float(2**63), None),
        ("age", 30, 30.0),
        ("age", 10**400, None),
        ("age", False, None),
        ("age", "30", None),
        ("age", float("nan"), None),
        ("is_valid", True, True),
        ("is_valid", 1, None),
        ("is_valid", "True", None),
        ("name", "", ""),
        ("name", "None", "None"),
        ("name", 12, None),
        ("name", ["a"], None),
        ("modify_date", "2026-07-22T12:48:45.787242+02:00", datetime(2026, 7, 22, 10, 48, 45, 787242, UTC)),
        ("modify_date", "2016-01-21T17:22:25Z", datetime(2016, 1, 21, 17, 22, 25, tzinfo=UTC)),
        ("modify_date", "2016-01-21T17:22:25", None),
        ("modify_date", "2016-01-21", None),
        ("modify_date", "0001-01-01T00:00:00+14:00", None),
        ("modify_date", "yesterday", None),
        ("modify_date", 1453396945, None),
        ("data", {"ü": [1, None]}, '{"ü": [1, null]}'),
        ("data", "text", '"text"'),
        ("data", None, None),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_null_there(field: str, value: object, stored: object) -> None:
    row = image_row({"id": 1, field: value})
    assert row[field] == stored
    assert type(row[field]) is type(stored)
    assert row["extra"] is None


def test_the_modify_date_is_read_in_utc_or_not_at_all() -> None:
    assert records.modify_date_of({"modify_date": "2026-01-01T01:00:00+01:00"}) == datetime(2026, 1, 1, tzinfo=UTC)
    assert records.modify_date_of({"modify_date": "soon"}) is None
    assert records.modify_date_of({}) is None


@pytest.mark.parametrize(("given_id", "number"), [(10426, 10426), ("10426", 10426), (10426.0, 10426)])
def test_an_id_may_come_as_digits(given_id: object, number: int) -> None:
    assert records.record_id({"id": given_id}) == number
    assert image_row({"id": given_id})["image_id"] == number
    assert collection_row({"id": given_id})["collection_id"] == number


@pytest.mark.parametrize("given_id", [None, True, 0, -1, 1.5, "", "x", "²", "1" * 5000, 2**31, [1]])
def test_a_record_without_a_usable_id_is_refused(given_id: object) -> None:
    with pytest.raises(ValueError, match="record without a usable id"):
        records.record_id({"id": given_id})
    with pytest.raises(ValueError, match="record without a usable id"):
        image_row({"id": given_id})
    with pytest.raises(ValueError, match="record without a usable id"):
        collection_row({"id": given_id})


@pytest.mark.parametrize(
    "record",
    [
        {"collection_id": 555},
        {"collection_id": "555"},
        {"collection": "http://neurovault.org/collections/555/"},
        {"collection": "https://neurovault.org/collections/555", "collection_id": None},
    ],
)
def test_the_collection_of_an_image_comes_from_its_field_or_link(record: Record) -> None:
    assert records.collection_id_of(record) == 555
    assert image_row(record | {"id": 1})["collection_id"] == 555


@pytest.mark.parametrize(
    "record", [{}, {"collection": 555}, {"collection": "http://neurovault.org/collections/ABCDEFGH/"}]
)
def test_an_image_that_names_no_collection_says_so(record: Record) -> None:
    with pytest.raises(ValueError, match="record of image 1 names no collection"):
        records.collection_id_of(record | {"id": 1})
    assert image_row(record | {"id": 1})["collection_id"] is None


# JSON, in and out


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        '{"a": [Infinity]}',
        "-Infinity",
        "1e999",
        '{"a": 1',
        "",
        "{'a': 1}",
        "[1,]",
        "<html></html>",
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        "[" * 100_000,
        "1" * 5000,
    ],
)
def test_what_is_not_strict_json_is_a_value_error(text: bytes | str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each of json's, Unicode's and our messages will do
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83e\udde0"', "🧠"),
        (r'{"a\ud800": ["\uDFFFb", {"c": "\ud83e"}]}', {"a\ufffd": ["\ufffdb", {"c": "\ufffd"}]}),
        ('"\ud800"', "\ufffd"),
        (r'"\\ud800"', r"\ud800"),
        ('{"é": 1.5, "b": [null, true, 12]}'.encode(), {"é": 1.5, "b": [None, True, 12]}),
    ],
)
def test_lone_surrogates_are_replaced_and_all_else_is_kept(text: bytes | str, value: object) -> None:
    assert parse_json(text) == value


def test_raw_text_keeps_the_order_of_keys_and_stays_readable() -> None:
    text = '{"z": "Müller 李四", "a": {"y": 1, "b": null}}'
    assert raw_text(parse_json(text)) == text


def test_raw_text_is_never_anything_but_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        raw_text({"a": float("nan")})


@pytest.mark.parametrize(
    "value",
    ["", "  ", "None", "none", "None / Other", "NONE/OTHER", "null", "n/a", "N/A", "NA", "na", " NA\n"],
)
def test_placeholders_become_none(value: str) -> None:
    assert records.null_placeholders({"a": value, "b": 1}) == {"a": None, "b": 1}


@pytest.mark.parametrize(
    "value",
    ["Nonemotional > emotional faces", "none of these", "nullius", "nan", "N/A (rest)", "0", 0, False, []],
)
def test_only_whole_placeholders_become_none(value: object) -> None:
    record = {"a": value}
    assert records.null_placeholders(record) == record


# Arrow, and the schema


def test_the_kinds_of_fields_are_the_types_of_the_schema(con: duckdb.DuckDBPyConnection) -> None:
    sql_types = {
        "int": "INTEGER",
        "bigint": "BIGINT",
        "float": "DOUBLE",
        "bool": "BOOLEAN",
        "text": "VARCHAR",
        "time": "TIMESTAMP WITH TIME ZONE",
        "json": "JSON",
        "int[]": "INTEGER[]",
        "float[]": "DOUBLE[]",
    }
    schema: dict[str, dict[str, str]] = {}
    for table, column, sql_type in con.execute(
        """
        SELECT table_name, column_name, data_type
        FROM duckdb_columns() JOIN duckdb_tables() USING (table_name)
        WHERE table_name NOT IN ('schema_migrations', 'marks')
        """
    ).fetchall():
        schema.setdefault(table, {})[column] = sql_type
    assert schema == {
        table: {column: sql_types[kind] for column, kind in fields.items()}
        for table, fields in records.TABLES.items()
    }


@pytest.mark.parametrize("table", records.TABLES)
def test_an_empty_batch_of_any_table_lands(con: duckdb.DuckDBPyConnection, table: str) -> None:
    before = con.execute(f"SELECT count(*) FROM {table}").fetchall()
    land(con, table, [], next(iter(records.TABLES[table])))
    assert con.execute(f"SELECT count(*) FROM {table}").fetchall() == before


def test_rows_with_lists_and_missing_keys_land(con: duckdb.DuckDBPyConnection) -> None:
    row = {
        "image_id": 1,
        "kind": "original",
        "size": 2**40,
        "shape": [91, 109, 91],
        "voxel_size_mm": [2.0, 2, 2],
    }
    land(con, "files", [row, {"image_id": 2, "kind": "original"}], "image_id")
    first, second = fetch(con, "FROM files ORDER BY image_id")
    assert {key: first[key] for key in row} == row
    assert second["shape"] is None


def test_a_key_that_is_no_column_is_refused() -> None:
    with pytest.raises(ValueError, match="no such columns: colour, mood"):
        records.to_arrow([{"term": "pain"}, {"mood": 1, "colour": 2}], records.TABLES["terms"])


def test_shaping_records_needs_neither_duckdb_nor_arrow() -> None:
    code = """
import sys
from nvcatalog.records import image_row
image_row({"id": 1})
sys.exit(bool({"duckdb", "pyarrow", "pandas", "numpy"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Any record

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**400, -0.0, 1e308, 5e-324])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None))
    | st.sampled_from(["", "None", "12", "2024-02-30T00:00:00Z", "9999-12-31T23:59:59-12:00", "\x00", "\ud800"])
    | st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ODD_KEYS = st.text(st.characters(codec=None), max_size=5) | st.sampled_from(
    ["extra", "doi", "DOI", "sex", "gender", "image_id", "fetched_at", "bmi", "data", "raw", "", "\x00"]
)


@st.composite
def mutated(draw: st.DrawFn, real: list[Record]) -> Record:
    """Take a real record and leave out, change or add what the server might."""
    record = dict(draw(st.sampled_from(real)))
    for key in draw(st.lists(st.sampled_from(sorted(record)), max_size=5)):
        record.pop(key, None)
    keys = st.sampled_from(sorted(records.IMAGE_FIELDS | records.COLLECTION_FIELDS)) | ODD_KEYS
    record |= draw(st.dictionaries(keys, ANY_JSON, max_size=8))
    record["id"] = draw(st.integers(1, 2**31 - 1))
    received: Record = parse_json(json.dumps(record, ensure_ascii=draw(st.booleans())))
    return received


def check_lands(con: duckdb.DuckDBPyConnection, table: str, key: str, row: Row, record: Record) -> None:
    kind = table.removesuffix("s")
    raw = {"kind": kind, "id": row[key], "raw": raw_text(record), "source": "api"}
    land(con, table, [row], key)
    land(con, "raw_records", [raw], "id")

    (landed,) = fetch(con, f"FROM {table} WHERE {key} = {row[key]}")
    assert {column: landed[column] for column in row} == row
    (kept,) = fetch(con, f"SELECT CAST(raw AS VARCHAR) AS raw FROM raw_records WHERE id = {row[key]}")
    assert parse_json(kept["raw"]) == record
    assert list(parse_json(kept["raw"])) == list(record)


@given(record=mutated(IMAGES + RECORDED_IMAGES))
def test_any_image_record_lands_and_is_kept_whole(con: duckdb.DuckDBPyConnection, record: Record) -> None:
    check_lands(con, "images", "image_id", image_row(record), record)


@given(record=mutated(COLLECTIONS + RECORDED_COLLECTIONS))
def test_any_collection_record_lands_and_is_kept_whole(con: duckdb.DuckDBPyConnection, record: Record) -> None:
    check_lands(con, "collections", "collection_id", collection_row(record), record)


@settings(max_examples=10)
@given(images=st.lists(mutated(IMAGES), max_size=6), collections=st.lists(mutated(COLLECTIONS), max_size=3))
def test_any_records_that_come_together_are_kept_whole(
    new_catalog: Path, images: list[Record], collections: list[Record]
) -> None:
    batch = Batch()
    with tempfile.TemporaryDirectory() as home:
        store = Store(Path(shutil.copy(new_catalog, Path(home) / "catalog.duckdb")).parent)
        for kind, records_of_kind in (("image", images), ("collection", collections)):
            for record in records_of_kind:
                batch.add_record(kind, record)
        assert store.land(batch) == []
        with store.reading() as connection:
            raw = connection.execute("SELECT kind, id, raw::VARCHAR FROM raw_records").fetchall()
            rows = [("image", id_) for (id_,) in connection.execute("SELECT image_id FROM images").fetchall()]
            ids = connection.execute("SELECT collection_id FROM collections").fetchall()
    rows += [("collection", id_) for (id_,) in ids]
    last = {("image", each["id"]): each for each in images}
    last |= {("collection", each["id"]): each for each in collections}
    assert {(kind, id_): parse_json(text) for kind, id_, text in raw} == last
    assert sorted(rows) == sorted(last)


@pytest.mark.parametrize(
    ("statmaps", "expected"),
    [
        ([{"id": 8}, {"id": "9"}, {"id": 8}], [8, 9]),
        ([None, 7, {"name": "no id"}, {"id": 0}, {"id": True}, {"id": 2**40}, {"id": 8}], [8]),
        ([], []),
        (None, []),
        ({"id": 8}, []),
        ("8", []),
    ],
)
def test_a_pack_gives_one_row_for_each_image_it_holds(statmaps: object, expected: list[int]) -> None:
    rows = records.pack_rows({"id": 7, "statmaps": statmaps, "collection": 99}, 5)
    assert [row["image_id"] for row in rows] == expected
    assert {(row["pack_id"], row["collection_id"]) for row in rows} <= {(7, 5)}
    assert records.to_arrow(rows, records.TABLES["nidm_packs"]).num_rows == len(expected)


def test_a_pack_without_an_id_has_no_rows() -> None:
    with pytest.raises(ValueError, match="without a usable id"):
        records.pack_rows({"id": None, "statmaps": [{"id": 8}]}, 5)
