"""SQL first and Python after find what Python alone finds, in a real catalog of real and of odd records."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvcatalog import filter_sql, filters, records
from nvcatalog._batch import Batch
from nvcatalog._store import Store
from nvcatalog.filter_sql import to_sql
from nvcatalog.filters import (
    Contains,
    GreaterOrEqual,
    GreaterThan,
    IsIn,
    IsNull,
    LessOrEqual,
    LessThan,
    NotContains,
    NotEqual,
    NotIn,
    NotNull,
    Pattern,
    ResultFilter,
    basic_collection_terms,
    basic_image_terms,
    keeps,
)
from nvcatalog.records import COLLECTION_FIELDS, IMAGE_FIELDS, Record

if TYPE_CHECKING:
    import duckdb

DATA = Path(__file__).parent / "data"

# Values for fields of each type that no column can hold, or that a column holds otherwise than the record.
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 33, 20, 20.0, 20.9, -20.9, -0.0, 0.0, 2**53, 2**53 + 1, -(2**53) - 1),
    *(2**31, 2**63, 10**30, 1e300, 5e-324, 0.1 + 0.2),
    *(
        "",
        " ",
        "\u00a0",
        "a",
        "A",
        "0",
        "20",
        "33",
        "None",
        "null",
        "N/A",
        "NA",
        "None / Other",
        "\u2003none\u2003",
    ),
    *(
        "None > all",
        "nul",
        "Nonemotional > emotional",
        "é",
        "e\u0301",
        "\U0001f600",
        "a\0b",
        "a\nb",
        "%",
        "'",
        "$p0",
    ),
    *("True", "2024-05-01T00:00:00Z", "2024-05-01", "http://neurovault.org/collections/33/"),
    *([], ["a"], [1], {}, {"a": 1}),
]


def read(name: str) -> list[Record]:
    content = (DATA / name).read_bytes()
    if name.endswith(".jsonl"):
        return [records.parse_json(line) for line in content.splitlines()]
    body: Record = records.parse_json(content)
    results: list[Record] = body.get("results", [body])
    return results


def odd_records(fields: list[str]) -> Iterator[Record]:
    """Give records that have in each field one odd value after another."""
    for place, value in enumerate(ODD_VALUES):
        link = "http://neurovault.org/collections/33/"
        odd = {field: ODD_VALUES[(place + shift) % len(ODD_VALUES)] for shift, field in enumerate(fields)}
        yield {"collection": link} | odd | {"id": 900_000 + place}
        yield {"id": str(910_000 + place), "collection": link, "collection_id": value, "DOI": value, "sex": value}
        yield {"id": float(920_000 + place), "gender": value, "extra": value, "doi": value, "image_id": value}


class Table(NamedTuple):
    """A landed table, beside the records its rows were made of."""

    name: str
    key: str
    columns: dict[str, str]
    records: dict[int, Record]


def fields_of(found: list[Record]) -> list[str]:
    return sorted({field for record in found for field in record} - {"id"})


REAL_IMAGES = [
    *read("images.jsonl"),
    *read("images_oddities.json"),
    *read("images_of_atlas_collection.json"),
    *read("images_of_nidm_collection.json"),
]
REAL_COLLECTIONS = [
    *read("collections.jsonl"),
    *read("collection_nidm.json"),
    *read("collection_unicode.json"),
]


def by_id(found: list[Record]) -> dict[int, Record]:
    return {records.record_id(record): record for record in [*found, *odd_records(fields_of(found))]}


TABLES = [
    Table("images", "image_id", IMAGE_FIELDS, by_id(REAL_IMAGES)),
    Table("collections", "collection_id", COLLECTION_FIELDS, by_id(REAL_COLLECTIONS)),
]
SEEN = {
    table.name: {id_: records.null_placeholders(record) for id_, record in table.records.items()}
    for table in TABLES
}


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Return a reader's connection to a catalog of all the records."""
    store = Store(tmp_path_factory.mktemp("neurovault"))
    batch = Batch()
    for table in TABLES:
        for record in table.records.values():
            batch.add_record(table.key.removesuffix("_id"), record)
    assert store.land(batch) == []
    with store.reading() as connection:
        yield connection


def narrow(con: duckdb.DuckDBPyConnection, table: Table, terms: dict[str, Any]) -> tuple[set[int], set[int]]:
    """Return the ids of which SQL is certain, and those that Python must judge."""
    sql = to_sql(terms, table.columns, extra="extra")
    query = f"SELECT {table.key}, {sql.certain} FROM {table.name} WHERE {sql.where}"
    rows = con.execute(query, sql.params).fetchall()
    return {id_ for id_, certain in rows if certain is True}, {id_ for id_, certain in rows if certain is not True}


def kept_by_python(table: Table, terms: dict[str, Any]) -> set[int]:
    wanted = ResultFilter(terms)
    return {id_ for id_, record in SEEN[table.name].items() if wanted(record)}


def check(con: duckdb.DuckDBPyConnection, table: Table, terms: dict[str, Any]) -> None:
    """Hold SQL, with Python as the judge of the rest, against Python alone."""
    kept = kept_by_python(table, terms)
    certain, to_judge = narrow(con, table, terms)
    assert certain <= kept, f"SQL is certain of {certain - kept}, which Python does not keep"
    assert kept <= certain | to_judge, f"SQL dropped {kept - certain - to_judge}, which Python keeps"


# Strategies: a field, and constants that it has somewhere, or that are odd


def plain(value: Any) -> Any:
    return value


OF_ONE: list[Callable[[Any], Any]] = [
    plain,
    NotEqual,
    GreaterOrEqual,
    GreaterThan,
    LessOrEqual,
    LessThan,
    lambda value: Pattern(re.escape(str(value))),
]
OF_SEVERAL: list[Callable[..., Any]] = [IsIn, NotIn, Contains, NotContains]
OF_NONE = [IsNull(), NotNull(), IsIn(), NotIn(), Contains(), NotContains()]


@st.composite
def one_term(draw: st.DrawFn, table: Table) -> tuple[str, Any]:
    field = draw(
        st.sampled_from([*fields_of(list(table.records.values())), "id", "no_such_field", *table.columns])
    )
    present = [*(record.get(field) for record in SEEN[table.name].values()), *ODD_VALUES]
    places = draw(st.lists(st.integers(0, len(present) - 1), max_size=3))
    constants = [present[place] for place in places]
    if not constants:
        return field, draw(st.sampled_from(OF_NONE))
    if draw(st.booleans()):
        constants = [value[1:4] if isinstance(value, str) else value for value in constants]
    if len(constants) == 1:
        return field, draw(st.sampled_from([*OF_ONE, *OF_SEVERAL]))(constants[0])
    return field, draw(st.sampled_from(OF_SEVERAL))(*constants)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@settings(max_examples=300)
@given(data=st.data())
def test_sql_and_then_python_find_what_python_alone_finds(
    con: duckdb.DuckDBPyConnection, table: Table, data: st.DataObject
) -> None:
    terms = dict(data.draw(st.lists(one_term(table), min_size=1, max_size=3)))
    check(con, table, terms)
    certain, to_judge = narrow(con, table, terms)
    judged = {id_ for id_ in to_judge if keeps(ResultFilter(terms), table.records[id_])}
    assert certain | judged == kept_by_python(table, terms)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_no_odd_constant_makes_sql_differ(con: duckdb.DuckDBPyConnection, table: Table, value: Any) -> None:
    fields = {"id", "DOI", "collection_id", "modality", "name", "data"}
    # A field of each kind of column.
    fields |= {column for column, _ in {kind: (column, kind) for column, kind in table.columns.items()}.values()}
    for field in sorted(fields):
        made = [make(value) for make in OF_ONE] + [make(value) for make in OF_SEVERAL]
        for term in (*made, IsIn("T map", value), NotIn(20, value, 33)):
            terms = {field: term}
            if not to_sql(terms, table.columns).leftover:
                check(con, table, terms)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("value", [IsNull(), NotNull()], ids=repr)
def test_null_means_the_same_in_sql(con: duckdb.DuckDBPyConnection, table: Table, value: Any) -> None:
    for field in (*table.columns, "id", "DOI", "no_such_field"):
        check(con, table, {field: value})


def test_the_default_terms_leave_only_the_records_to_python_whose_columns_are_empty(
    con: duckdb.DuckDBPyConnection,
) -> None:
    images, collections = TABLES
    for table, terms in ((images, basic_image_terms()), (collections, basic_collection_terms())):
        check(con, table, terms)
        assert to_sql(terms, table.columns).leftover == {}
        certain, to_judge = narrow(con, table, terms)
        real = set(by_id(REAL_IMAGES if table is images else REAL_COLLECTIONS)) - set(range(900_000, 1_000_000))
        typed = {
            id_ for id_ in real if all(type(table.records[id_].get(f)) in (bool, int) for f in list(terms)[:2])
        }
        assert certain & typed == kept_by_python(table, terms) & typed
        assert not to_judge & typed
        assert len(certain) > 20


@pytest.mark.parametrize(
    "terms",
    [
        {"modality": "fMRI-BOLD"},
        {"modality": IsIn("fMRI-BOLD", "MEG")},
        {"modality": NotEqual("fMRI-BOLD")},
        {"map_type": NotIn("T map", "Z map", "nothing like it")},
        {"image_type": "statistic_map", "modality": NotIn("MEG", "Other")},
    ],
    ids=repr,
)
def test_terms_on_texts_leave_nothing_to_python(con: duckdb.DuckDBPyConnection, terms: dict[str, Any]) -> None:
    images = TABLES[0]
    certain, to_judge = narrow(con, images, terms)
    assert (certain, to_judge) == (kept_by_python(images, terms), set())
    assert 0 < len(certain) < len(images.records)


@pytest.mark.parametrize(
    "terms",
    [
        {"brain_coverage": GreaterThan(50)},
        {"brain_coverage": LessOrEqual(99.5)},
        {"file_size": GreaterOrEqual(100_000)},
        {"is_thresholded": True},
        {"is_thresholded": IsNull()},
        {"name": Contains("a", "e")},
        {"name": NotContains("a", "e")},
        {"name": NotNull()},
        {"id": IsIn(*range(2, 30_000))},
        {"collection_id": NotIn(*range(2, 300))},
    ],
    ids=lambda terms: repr(terms)[:40],
)
def test_sql_leaves_less_to_python(con: duckdb.DuckDBPyConnection, terms: dict[str, Any]) -> None:
    images = TABLES[0]
    check(con, images, terms)
    certain, to_judge = narrow(con, images, terms)
    assert to_sql(terms, images.columns).leftover == {}
    assert len(to_judge) < len(images.records)
    assert certain or len(certain | to_judge) < len(images.records)


@pytest.mark.parametrize(
    "term",
    [
        {"name": Pattern("face")},
        {"modality": "None / Other"},
        {"modality": None},
        {"modality": IsIn("MEG", None)},
        {"modality": 5},
        {"modality": "\ud800"},
        {"number_of_subjects": True},
        {"number_of_subjects": GreaterThan("20")},
        {"brain_coverage": float("nan")},
        {"brain_coverage": 2**53},
        {"modify_date": GreaterThan("2024-01-01")},
        {"data": NotNull()},
        {"image_id": 4},
        {"doi_raw": "10.1/a"},
        {"sex": "M"},
        {"Modality": "MEG"},
        {"no_such_field": 1},
        {"modality": ResultFilter()},
        {"modality": datetime(2024, 1, 1, tzinfo=UTC)},
    ],
    ids=repr,
)
def test_terms_whose_meaning_columns_lack_are_left_over(
    con: duckdb.DuckDBPyConnection, term: dict[str, Any]
) -> None:
    images = TABLES[0]
    sql = to_sql({"is_valid": True} | term, images.columns)
    assert (list(sql.leftover), sql.certain) == (list(term), "FALSE")
    assert sql.where == to_sql({"is_valid": True}, images.columns).where
    check(con, images, {"is_valid": True} | term)


NEED_A_VALUE: list[Any] = [
    *("a", 1, 0, False, ["a"], {}, NotNull(), IsIn("a", 2), IsIn(), Pattern("a")),
    *(GreaterThan(1), LessOrEqual(2.5), Contains("a"), NotContains("a"), Contains()),
]
NEED_NONE: list[Any] = [
    *(None, IsNull(), NotEqual("a"), NotIn("a"), NotEqual(None), IsIn("a", None)),
    *(GreaterThan("a"), ResultFilter(), datetime(2024, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(
    ("value", "narrows"), [*((v, True) for v in NEED_A_VALUE), *((v, False) for v in NEED_NONE)], ids=repr
)
def test_a_free_form_field_narrows_to_the_rows_that_have_it_where_none_will_not_do(
    con: duckdb.DuckDBPyConnection, value: Any, narrows: bool
) -> None:
    for table in TABLES:
        free_form = [*(set(fields_of(list(table.records.values()))) - {*table.columns, "DOI", "preprint_DOI"})]
        for field in (*free_form, "no_such_field"):
            check(con, table, {field: value})
            certain, to_judge = narrow(con, table, {field: value})
            assert not certain
            having = {id_ for id_, record in table.records.items() if field in record}
            assert to_judge == (having if narrows and field != "gender" else set(table.records))


@pytest.mark.parametrize(
    "name", ["Task Name", "clé", 'a"b', "a'b", "a\\b", "$p0", "$.x", "\u2028", "a\nb", "", " ", "😀"]
)
def test_a_free_form_field_may_have_any_name(tmp_path: Path, name: str) -> None:
    with Store(tmp_path).reading() as empty:
        empty.execute("CREATE TEMP TABLE odd (image_id INTEGER, extra JSON)")
        for image_id, record in enumerate([{name: 1}, {"other": 1}, {}]):
            row = records.image_row({"id": 1, "collection_id": 1, **record})
            empty.execute("INSERT INTO odd VALUES (?, ?)", [image_id, row["extra"]])
        sql = to_sql({name: 1}, IMAGE_FIELDS, extra="extra")
        rows = empty.execute(f"SELECT image_id FROM odd WHERE {sql.where}", sql.params).fetchall()
        assert rows in ([(0,)], [(0,), (1,), (2,)])
        assert rows == [(0,)] or not name.isprintable()


def test_a_class_derived_from_a_special_value_is_left_over() -> None:
    class AnyCase(IsIn):
        def accepts(self, value: object) -> bool:
            return isinstance(value, str) and value.lower() in self.values_

    terms = {"modality": AnyCase("meg")}
    assert to_sql(terms, IMAGE_FIELDS).leftover == terms


def test_no_terms_keep_every_row(con: duckdb.DuckDBPyConnection) -> None:
    for table in TABLES:
        assert narrow(con, table, {}) == (set(table.records), set())


def test_the_terms_of_two_tables_go_into_one_query(con: duckdb.DuckDBPyConnection) -> None:
    image_terms, collection_terms = (
        {"modality": "fMRI-BOLD"},
        {"number_of_images": GreaterThan(1), "id": NotEqual(2)},
    )
    images = to_sql(image_terms, IMAGE_FIELDS, prefix="image")
    collections = to_sql(collection_terms, COLLECTION_FIELDS, prefix="collection")
    assert not images.params.keys() & collections.params.keys()
    rows = con.execute(
        f"SELECT image_id FROM images WHERE {images.where} "
        f"AND collection_id IN (SELECT collection_id FROM collections WHERE {collections.where})",
        images.params | collections.params,
    ).fetchall()
    parents = kept_by_python(TABLES[1], collection_terms)
    found = kept_by_python(TABLES[0], image_terms)
    assert {id_ for (id_,) in rows} >= {
        id_ for id_ in found if TABLES[0].records[id_].get("collection_id") in parents
    }
    assert {id_ for (id_,) in rows} <= found


def test_constants_reach_sql_as_parameters_only() -> None:
    hostile = "'); DROP TABLE images; --"
    sql = to_sql({"name": Contains(hostile), "modality": IsIn(hostile, "a"), "map_type": hostile}, IMAGE_FIELDS)
    assert "DROP" not in sql.where + sql.certain
    assert list(sql.params.values()) == [hostile, [hostile, "a"], hostile]
    assert to_sql({hostile: 1, '"': 1}, IMAGE_FIELDS).where == "TRUE"


def test_every_special_value_is_said_in_sql_or_left_over_on_purpose() -> None:
    said = {kind for kind in filter_sql._TRANSLATIONS if issubclass(kind, filters.SpecialValue)}
    every = {
        kind
        for name, kind in vars(filters).items()
        if isinstance(kind, type) and issubclass(kind, filters.SpecialValue) and not name.startswith("_")
    }
    # Python's regular expressions are not DuckDB's.
    assert every - said == {filters.SpecialValue, Pattern}


def test_the_examples_in_the_docstrings_run() -> None:
    failed, attempted = doctest.testmod(filter_sql)
    assert not failed
    assert attempted > 3
