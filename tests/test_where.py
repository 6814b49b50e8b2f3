"""A condition in SQL selects images, stays in its place, and says what is wrong with it or why nothing matches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvcatalog import _expressions
from nvcatalog._batch import Batch, Words
from nvcatalog._store import Store
from nvcatalog.errors import InvalidOptionError, QueryError, shown
from nvcatalog.where import Condition, Part, Selection, explain, parameter_names, parse_max_images, select

SECRET = "nobody may read this"
TOKEN = "SECRETTK"
GONE = datetime(2024, 1, 1, tzinfo=UTC)

COLLECTIONS: list[dict[str, Any]] = [
    {
        "id": 7,
        "name": "stopping",
        "repetition_time": 2000,
        "field_strength": 3,
        "DOI": "10.1/x",
        "description": "a",
    },
    {"id": 8, "name": "nothing known", "description": "b"},
]
IMAGES: list[dict[str, Any]] = [
    {"id": 1, "collection_id": 8, "name": "one", "map_type": "T map", "number_of_subjects": 30, "file_size": 100},
    {"id": 2, "collection_id": 7, "name": "two", "map_type": "T map", "number_of_subjects": 10, "file_size": 200},
    {"id": 3, "collection_id": 7, "name": "three", "map_type": "Z map", "number_of_subjects": 30, "file_size": 0},
    {"id": 4, "collection_id": 7, "name": "four", "map_type": "F map", "number_of_subjects": 0, "file_size": 400},
    {"id": 5, "collection_id": 9, "name": "five", "map_type": "Other"},  # its collection is unknown here
    {"id": 6, "collection_id": 7, "name": "an atlas", "image_type": "atlas", "file_size": 600},
    {"id": 11, "collection_id": 7, "name": "gone", "map_type": "T map", "number_of_subjects": 99},
    {"id": 12, "collection_id": 7, "name": "gone, file here", "map_type": "T map", "number_of_subjects": 99},
    {"id": 13, "collection_id": 7, "name": "gone, file not yet proven", "map_type": "T map"},
]
ALL = (2, 3, 4, 12, 13, 1, 5)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with a small catalog; conditions change nothing, so all tests share it, open."""
    folder = tmp_path_factory.mktemp("data") / "neurovault"
    folder.mkdir()
    batch = Batch(words={n: Words({"pain": n / 10}, None) for n in (1, 2, 3)})
    for record in COLLECTIONS:
        batch.add_record("collection", record)
    for record in IMAGES:
        batch.add_record("image", {"image_type": "statistic_map", **record})
    for image_id, state in ((2, "present"), (12, "present"), (13, "unverified")):
        path = f"collection_7/image_{image_id}.nii.gz"
        batch.add("files", {"image_id": image_id, "kind": "original", "path": path, "size": 1, "state": state})
    store = Store(folder)
    assert store.land(batch) == []
    with store.writing() as connection:
        connection.execute("INSERT INTO access VALUES (8, $token)", {"token": TOKEN})
        connection.execute("UPDATE images SET gone_at = $gone WHERE image_id > 10", {"gone": GONE})
    with store.reading():  # what is open need not be opened again by each test
        yield folder


@pytest.fixture
def store(filled: Path) -> Store:
    return Store(filled)


def ids(store: Store, where: str, **options: Any) -> tuple[int, ...]:
    return select(store, Condition(where, **options)).image_ids


# Which images


def test_a_condition_selects_the_images_it_is_true_for_by_collection_and_id(store: Store) -> None:
    assert ids(store, "true") == ALL
    assert ids(store, "stat IN ('t', 'z') AND n_subjects >= $n", params={"n": 20}) == (3, 12, 1)
    assert ids(store, "false") == ids(store, "NULL") == ()


def test_rows_gone_from_the_server_are_left_out_unless_their_file_is_here(store: Store) -> None:
    assert ids(store, "name LIKE 'gone%'") == (12, 13)
    assert ids(store, "gone_at IS NOT NULL") == (12, 13)


def test_a_name_that_image_and_collection_have_is_the_images(store: Store) -> None:
    assert ids(store, "name = 'two'") == ids(store, "stat_maps.name = 'two'") == (2,)
    assert ids(store, "name = 'stopping'") == ()
    assert ids(store, "description IS NOT NULL") == ()


def test_the_collection_is_reached_by_its_name_and_without_where_only_it_has_the_column(store: Store) -> None:
    assert ids(store, "collections.name = 'stopping'") == (2, 3, 4, 12, 13)
    assert ids(store, "COLLECTIONS.Name = 'stopping' AND stat_maps.collections.doi = '10.1/x'") == (
        2,
        3,
        4,
        12,
        13,
    )
    assert ids(store, "repetition_time = 2000 AND stat = 'z'") == (3,)
    assert ids(store, "collections['field_strength'] = 3 AND stat = 'z'") == (3,)
    assert ids(store, "collections.collection_id IS NULL") == (5,)
    assert ids(store, "stat = 't'", order_by="collections.name DESC, image_id DESC") == (13, 12, 2, 1)


def test_subqueries_over_the_catalog_are_fine(store: Store) -> None:
    assert ids(store, "n_subjects = (SELECT max(n_subjects) FROM stat_maps)") == (12,)
    assert ids(store, "collection_id IN (SELECT collection_id FROM collections WHERE name = 'stopping')") == (
        *(2, 3, 4),
        *(12, 13),
    )
    pain = "EXISTS (SELECT * FROM image_words AS w WHERE w.image_id = stat_maps.image_id AND w.weight > $low)"
    assert ids(store, pain, params={"low": 0.15}) == (2, 3)
    assert ids(store, "image_id IN (SELECT unnest($ids))", params={"ids": np.array([1, 3]).tolist()}) == (3, 1)
    assert ids(store, "image_id IN $ids", params={"ids": [1, 3]}) == (3, 1)


@pytest.mark.parametrize(
    "text",
    [
        "stat = 't' -- and no more",
        "-- first\nstat = 't'\n",
        "stat = /* ) */ 't'",
        "\n\tstat\n=\n't'\n\n",
        "(stat = 't')",
        "stat = 't' AND name <> '-- ; ) DROP TABLE images'",
    ],
)
def test_line_breaks_and_comments_do_no_harm(store: Store, text: str) -> None:
    assert ids(store, text) == (2, 12, 13, 1)
    assert ids(store, text, order_by="image_id DESC -- )") == (13, 12, 2, 1)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (None, (2, 3, 4, 12, 13, 1, 5)),
        ("n_subjects DESC", (12, 3, 1, 2, 4, 13, 5)),
        ("n_subjects DESC NULLS FIRST, image_id DESC", (13, 5, 4, 12, 3, 1, 2)),
        ("image_id = $first DESC, -image_id", (3, 13, 12, 5, 4, 2, 1)),
        ("count(*) OVER (PARTITION BY collection_id), image_id", (1, 5, 2, 3, 4, 12, 13)),
    ],
)
def test_an_order_is_kept_and_its_ties_are_broken(
    store: Store, order: str | None, expected: tuple[int, ...]
) -> None:
    params = {"first": 3} if order and "$" in order else {}
    for limit in (None, 3):
        found = select(store, Condition("true", order_by=order, params=params, max_images=limit))
        assert found.image_ids == expected[:limit]


def test_tables_of_ones_own_can_be_asked(store: Store) -> None:
    mine = pd.DataFrame({"image_id": [3, 1], "score": [0.5, 0.7]})

    assert ids(store, "image_id IN (SELECT image_id FROM mine WHERE score > 0.6)", tables={"mine": mine}) == (1,)
    with pytest.raises(QueryError, match="the catalog has a table images itself"):
        ids(store, "true", tables={"images": mine})
    with pytest.raises(QueryError, match="mine does not exist"):
        ids(store, "image_id IN (SELECT image_id FROM mine)")


def test_where_there_is_no_catalog_nothing_matches(tmp_path: Path) -> None:
    assert select(Store(tmp_path), Condition("stat = 't'")) == Selection(
        (), 0, 0, 0, 0, (Part("stat = 't'", 0, 0),)
    )


# How many, how large, how old


def test_all_that_match_are_counted_whatever_is_wanted(store: Store) -> None:
    for limit in (0, 1, 3, 100, None):
        found = select(store, Condition("stat IS NOT NULL", max_images=limit))

        assert found.image_ids == (2, 3, 4, 12, 13, 1)[:limit]
        assert (found.total, found.bytes, found.unknown_sizes, found.rows) == (6, 700, 3, 7)


def test_a_size_that_no_file_has_counts_as_unknown(tmp_path: Path) -> None:
    store, batch = Store(tmp_path), Batch()
    for id_, size in enumerate((100, 10**15, 2**63 - 1, 2**63 - 1, -5), start=1):
        batch.add_record("image", {"id": id_, "collection_id": 7, "file_size": size})
    assert store.land(batch) == []
    for condition in (Condition("true"), Condition(query="SELECT image_id FROM images")):
        found = select(store, condition)
        assert (found.total, found.bytes, found.unknown_sizes) == (5, 100, 4)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, None),
        (-1, None),
        (-0.5, None),
        (float("inf"), None),
        (-float("inf"), None),
        (10**5000, None),
        (-(10**5000), None),
        (0, 0),
        (5, 5),
        (5.0, 5),
        (np.int64(5), 5),
        (np.float32(5), 5),
    ],
    ids=shown,
)
def test_max_images_none_negative_and_infinite_mean_all(given: Any, meant: int | None) -> None:
    assert parse_max_images(given) == meant


@pytest.mark.parametrize(
    "value", [True, False, np.True_, float("nan"), "5", b"5", "all", [5], 5j, 2.5, Decimal("NaN"), object()]
)
def test_max_images_that_is_no_number_is_refused(store: Store, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"max_images is .*; give a whole number, or None for all"):
        select(store, Condition("true", max_images=value))


def test_it_says_when_the_metadata_was_last_synced(store: Store, tmp_path: Path) -> None:
    assert select(store, Condition("true")).synced_at is None
    other = Store(tmp_path)
    with other.writing() as connection:
        connection.execute("INSERT INTO catalog_info VALUES ('synced_at', '2026-08-01T12:00:00+00:00')")

    assert select(other, Condition("true")).synced_at == "2026-08-01T12:00:00+00:00"
    assert select(other, Condition(query="SELECT 1 AS image_id")).synced_at == "2026-08-01T12:00:00+00:00"


# Why none


def test_each_part_of_a_condition_is_asked_alone(store: Store) -> None:
    found = select(
        store, Condition("stat = 'beta' AND n_subjects >= $n AND description IS NULL", params={"n": 20})
    )

    assert found.image_ids == ()
    assert found.parts == (
        Part("stat = 'beta'", 0, 1),
        Part("n_subjects >= $n", 3, 3),
        Part("description IS NULL", 7, 0),
    )
    assert explain(found) == [
        "Of 7 maps, each part of the condition alone keeps:",
        "  0  stat = 'beta' (1 left out because a value is NULL)",
        "  3  n_subjects >= $n (3 left out because a value is NULL)",
        "  7  description IS NULL",
    ]


def test_nothing_is_explained_where_nothing_was_lost_on_the_way(store: Store) -> None:
    assert explain(select(store, Condition("name IS NOT NULL AND collection_id = 7"))) == []
    assert explain(select(store, Condition("stat = 't'")))[1:] == [
        "  4  stat = 't' (1 left out because a value is NULL)"
    ]
    assert explain(select(store, Condition(query="SELECT image_id FROM images WHERE false"))) == []


def test_a_part_that_fails_where_another_would_have_kept_it_from_rows_says_nothing(store: Store) -> None:
    found = select(store, Condition("image_id = 5 AND false AND name::INTEGER > 3"))

    assert found.parts == (Part("image_id = 5", 1, 0), Part("false", 0, 0), Part("name::INTEGER > 3", None, None))
    assert explain(found)[-1] == "  ?  name::INTEGER > 3"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        ("a AND b and  c", ["a", "b", "c"]),
        ("(a AND b) AND c", ["a", "b", "c"]),
        ("a AND (b AND (c))", ["a", "b", "(c)"]),
        ("((a AND b))", ["a", "b"]),
        ("a OR b AND c", ["a OR b AND c"]),
        ("(a OR b) AND c", ["(a OR b)", "c"]),
        ("(a AND b) OR (c AND d)", ["(a AND b) OR (c AND d)"]),
        ("(a OR b) AND (c OR d)", ["(a OR b)", "(c OR d)"]),
        ("x BETWEEN 1 AND 3 AND y", ["x BETWEEN 1 AND 3", "y"]),
        ("NOT (a AND b) AND c", ["NOT (a AND b)", "c"]),
        ("name = ' AND ' AND b", ["name = ' AND '", "b"]),
        ("a -- this AND that\nAND b", ["a -- this AND that", "b"]),
        ('a /* AND */ AND "AND"', ["a /* AND */", '"AND"']),
        ("x IN (SELECT 1 WHERE a AND b) AND c", ["x IN (SELECT 1 WHERE a AND b)", "c"]),
        ("name ILIKE '%a%' AND x IN $ids AND brand", ["name ILIKE '%a%'", "x IN $ids", "brand"]),
        ("CASE WHEN a AND b THEN c END AND d", ["CASE WHEN a AND b THEN c END", "d"]),
        ("(a) AND (b)", ["(a)", "(b)"]),
        ("/* x */ (a AND b) AND c", ["a", "b", "c"]),
        ("((a AND b)) AND ((c OR d))", ["a", "b", "((c OR d))"]),
        ("list_contains([a AND b], true) AND c", ["list_contains([a AND b], true)", "c"]),
        ("name = 'päin 🧠' AND x BETWEEN 1 AND 2 AND \"ä\"", ["name = 'päin 🧠'", "x BETWEEN 1 AND 2", '"ä"']),
        (
            "x BETWEEN 1 AND CASE WHEN a AND b THEN 2 END AND c",
            ["x BETWEEN 1 AND CASE WHEN a AND b THEN 2 END", "c"],
        ),
    ],
)
def test_a_condition_is_cut_where_its_ands_are(store: Store, text: str, parts: list[str]) -> None:
    with store.reading() as connection:
        assert _expressions.split(connection, _expressions.read(connection, "where", text)) == parts


def test_a_condition_may_have_very_many_parts_of_which_a_hundred_are_counted(store: Store) -> None:
    many = [f"image_id <> {1000 + number}" for number in range(_expressions.MOST_PARTS - 1)]
    for where in (" AND ".join(["stat = 't'", *many]), f"stat = 't' AND ({' AND '.join(many)})"):
        found = select(store, Condition(where))
        assert found.image_ids == (2, 12, 13, 1)
        assert found.parts[:2] == (Part("stat = 't'", 4, 1), Part("image_id <> 1000", 7, 0))
        assert found.parts[100:] == (Part("the other 1,900 parts", None, None),)


def test_a_condition_of_more_parts_is_refused(store: Store) -> None:
    with pytest.raises(QueryError, match=r"where has 2,001 parts and may have 2,000; write it with IN"):
        ids(store, " AND ".join(["true"] * 2001))


def test_parts_that_fail_are_told_from_many_that_do_not(store: Store) -> None:
    parts = [*(f"image_id <> {1000 + number}" for number in range(12)), "false", "name::INTEGER > 3"]
    found = select(store, Condition(" AND ".join(parts)))
    assert [part.keeps for part in found.parts] == [7] * 12 + [0, None]


ATOMS = ["stat = 't'", "n_subjects > 10", "name LIKE '% AND %'", "n_subjects BETWEEN 5 AND 30", "stat IS NULL"]
CONDITIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR", "and\n", "AND NOT"]), inner).map(
        lambda three: f"({three[0]} {three[1]} {three[2]})"
    ),
    max_leaves=6,
)


@given(first=CONDITIONS, second=CONDITIONS)
def test_the_parts_together_are_the_condition(first: str, second: str) -> None:
    connection = duckdb.connect()
    where = f"{first} AND {second}"

    parts = _expressions.split(connection, _expressions.read(connection, "where", where))

    values = "('t', 20, 'a AND b'), ('z', NULL, 'x'), (NULL, 7, ' AND '), ('t', 40, NULL)"
    rows = f"(VALUES {values}) AS s(stat, n_subjects, name)"
    together = " AND ".join(f"({part}\n)" for part in parts)
    assert len(parts) > 1
    assert (
        connection.execute(f"SELECT ({where}) IS NOT DISTINCT FROM ({together}) FROM {rows}").fetchall()
        == [(True,)] * 4
    )


# By a query


def test_a_query_gives_its_images_in_its_order_without_duplicates(store: Store) -> None:
    found = select(
        store, Condition(query="SELECT image_id FROM images, range(2) WHERE image_id < 7 ORDER BY file_size DESC")
    )

    assert found.image_ids[:4] == (6, 4, 2, 1)
    assert (found.total, found.bytes, found.unknown_sizes, found.rows, found.parts) == (6, 1300, 2, 12, ())
    assert select(store, Condition(query="FROM images", max_images=2)).total == 8


def test_what_a_query_gives_and_nobody_can_have_is_named_and_not_selected(store: Store) -> None:
    found = select(store, Condition(query="SELECT unnest([2, NULL, 11, 99, 12, 2, 98]) AS image_id"))

    assert (found.image_ids, found.total) == ((2, 12), 2)
    assert (found.unknown_ids, found.gone_ids, found.nulls) == ((99, 98), (11,), 1)


@pytest.mark.parametrize(
    "mine",
    [
        pd.DataFrame({"image_id": [3, 1, None]}),
        pl.DataFrame({"image_id": ["3", "https://neurovault.org/images/1/"]}),
        pa.table({"IMAGE_ID": pa.array([3, 1], pa.uint64())}),
        pa.table({"image_id": pa.array([Decimal("3.00"), Decimal(1)])}),
    ],
)
def test_ids_from_a_table_of_ones_own_come_in_any_form(store: Store, mine: Any) -> None:
    assert select(store, Condition(query="SELECT * FROM mine", tables={"mine": mine})).image_ids == (3, 1)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT name, collection_id FROM images", "it gives no column image_id; it gives name, collection_id"),
        ("SELECT 'x' AS image_id", "'x' is no id"),
        ("SELECT 1.5 AS image_id", "give integers"),
        ("SELECT true AS image_id", "give integers"),
        ("SELECT -1 AS image_id", "cannot be an id"),
        ("DROP TABLE images", "ask with one SELECT"),
        ("SELECT image_id FROM nowhere", "nowhere does not exist"),
        ("SELECT image_id\nFRM images", "\n  FRM images\n      ^"),
        ("SELECT '\ud800' AS image_id", "surrogate"),
        ("", "ask with one SELECT"),
        (5, "query is 5; give a SELECT as text"),
    ],
)
def test_a_query_that_cannot_be_used_is_told(store: Store, query: Any, told: str) -> None:
    with pytest.raises(QueryError) as caught:
        select(store, Condition(query=query))
    assert told in str(caught.value)


def test_either_a_condition_or_a_query_is_given(store: Store) -> None:
    with pytest.raises(QueryError, match="got neither"):
        select(store, Condition())
    with pytest.raises(QueryError, match="got both"):
        select(store, Condition("true", "SELECT 1 AS image_id"))
    with pytest.raises(QueryError, match="a query has an ORDER BY of its own"):
        select(store, Condition(query="SELECT 1 AS image_id", order_by="image_id"))


# Parameters


def test_a_parameters_text_is_never_sql(store: Store) -> None:
    assert ids(store, "name = $text", params={"text": "x' OR true; DROP TABLE images; --"}) == ()


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        (Condition("n_subjects > $n"), "no value for $n; give n=…"),
        (Condition("n_subjects > $n AND name = $m", params={"n": 1}), "no value for $m; give m=…"),
        (Condition("true", order_by="image_id = $n"), "no value for $n"),
        (Condition("n_subjects > $n", params={"n": 1, "m": 2}), "has no parameter $m; it has $n"),
        (Condition("true", params={"m": 2}), "has no parameter $m; it has none"),
        (Condition("name = '$n'", params={"n": 2}), "has no parameter $n"),
        (Condition(query="SELECT $n AS image_id"), "no value for $n"),
        (Condition(query="SELECT 1 AS image_id", params={"n": 1}), "has no parameter $n"),
        (Condition("n_subjects > $subjects", params={"subject": 1}), "did you mean subject?"),
        (Condition("n_subjects > ?", params={"n": 1}), "write $name instead of ? and $1"),
        (Condition("n_subjects > $1", params={"1": 1}), "write $name instead of ? and $1"),
        (Condition("n_subjects > ?", params=[1]), "write $name instead of ? and $1"),  # type: ignore[arg-type]
        (Condition("true", params=[1]), "params is [1]; give a mapping"),  # type: ignore[arg-type]
        (Condition("n_subjects > $n", params={"n": object()}), "Unable to transform python value"),
        (Condition("n_subjects > $n", params={"n": "many"}), "Could not convert string 'many' to INT32"),
    ],
)
def test_a_parameter_that_is_missing_or_unused_or_wrong_is_told(
    store: Store, condition: Condition, told: str
) -> None:
    with pytest.raises(QueryError) as caught:
        select(store, condition)
    assert told in str(caught.value)


def test_the_names_of_parameters_are_known_before_anything_is_asked(store: Store) -> None:
    names = parameter_names(
        store, Condition("a = $Mode AND x IN (SELECT $n WHERE '$no' = 'x')", order_by="b = $first")
    )

    assert names == {"mode", "n", "first"}
    assert parameter_names(store, Condition(query="SELECT $n -- $m")) == {"n"}
    assert ids(store, "n_subjects = $N AND stat = $stat", params={"n": 30, "Stat": "z"}) == (3,)


# What is wrong


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("n_subject > 3", "no column n_subject in stat_maps; did you mean n_subjects or number_of_subjects?"),
        ("stat = 't' AND\n  n_subjcts > 3", "did you mean n_subjects"),
        ("stat_maps.modalty = 'x'", "no column modalty in stat_maps; did you mean modality?"),
        ("zzzzz = 3", "there is no column zzzzz in stat_maps\n"),
        (
            "collections.repetiton_time > 3",
            "collections has no column repetiton_time; did you mean repetition_time",
        ),
        ("images.name = 'x'", "write name instead of images.name"),
        ("count(*) > 3", "asked of one map at a time"),
        ("row_number() OVER () > 3", "asked of one map at a time"),
        ("n_subjects", "where: n_subjects is INTEGER, neither true nor false"),
        ("stat = 't' AND\n name", "where: name is VARCHAR, neither true nor false"),
        ("stat > 3", "Cannot compare values of type VARCHAR"),
        ("name = 3", "Could not convert string"),
        ("nofunction(3)", "nofunction does not exist"),
        ("unnest([true])", "UNNEST not supported here"),
        ("*", "name the columns"),
        ("COLUMNS('n.*') = 3", "name the columns"),
        ("1" + " + 1" * 150 + " > 3", "where is nested too deep"),
        ("1" + " + 1" * 2000 + " > 3", "where is nested too deep"),
        ("(" * 3000 + "true" + ")" * 3000, "where is nested too deep"),
        ("", "where is empty"),
        (" \n", "where is empty"),
        ("-- nothing", "where is empty"),
        (5, "where is 5; give SQL as text, such as 'n_subjects >= 20'"),
        ("name = '\ud800'", "where cannot be read as SQL"),
    ],
)
def test_what_is_wrong_with_a_condition_is_told(store: Store, where: Any, told: str) -> None:
    with pytest.raises(QueryError) as caught:
        select(store, Condition(where))
    assert told in str(caught.value)
    assert "LINE" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("where", "hints"),
    [
        ('task = "stop signal task"', ["Text takes single quotes: 'stop signal task'"]),
        ('stat = `t` AND name LIKE "t%"', ["Text takes single quotes: 't'"]),
        ("stat = “t”", ["Text takes single quotes: 't'"]),
        (
            "SELECT image_id FROM images",
            ["This is a query: give it as query=… (--query), or what follows its WHERE alone"],
        ),
        ("n_subjects > 3;", ["A condition ends without a semicolon"]),
        ("stat = 't' && n_subjects > 3", ["Write AND instead of &&"]),
        ("not_mni && is_valid", ["Write AND instead of &&"]),
        ("stat = 't' || stat = 'z'", ["Write OR instead of ||"]),
        ("not_mni || is_valid", ["Write OR instead of ||"]),
        ("!not_mni", ["Write NOT instead of !"]),
        ("stat = 't' &&!(n_subjects > 3)", ["Write AND instead of &&", "Write NOT instead of !"]),
        ("stat === 't'", ["Write = instead of ==="]),
        ("n_subjects => 3", ["Write >= instead of =>"]),
        ("stat IN ($kinds)", ["$kinds is a list: write IN $kinds, without parentheses"]),
        ("stat NOT IN ($kinds, 'x')", ["$kinds is a list: write IN $kinds, without parentheses"]),
        ("stat = $kinds", ["$kinds is a list: write IN $kinds, without parentheses"]),
        ("n_subjects IN ($numbers)", ["$numbers is a list: write IN $numbers, without parentheses"]),
    ],
)
def test_what_people_of_other_languages_mean_is_hinted_at(store: Store, where: str, hints: list[str]) -> None:
    given: dict[str, Any] = {"kinds": ["t", "z"], "numbers": (10, 30)}
    params = {name: value for name, value in given.items() if f"${name}" in where}
    with pytest.raises(QueryError) as caught:
        select(store, Condition(where, params=params))
    assert str(caught.value).splitlines()[-len(hints) :] == hints


def test_there_is_no_hint_where_signs_mean_what_they_say(store: Store) -> None:
    assert ids(store, "name || '!' = 'two!' AND stat != 'z' AND stat == 't'") == (2,)
    with pytest.raises(QueryError) as caught:
        ids(store, "name = '&& ||' /* ! */ AND \"name\" = 'x' AND nothing > 3")
    assert "instead of" not in str(caught.value)
    assert "quotes" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("n_subjects = = 3", "  n_subjects = = 3\n               ^"),
        ("name = 'päin'\n  AND stat = 'ä' = = 3\nAND true", "    AND stat = 'ä' = = 3\n                     ^"),
        ("stat = 't') OR (true", "  stat = 't') OR (true\n            ^"),
        ("stat = 't' AND\n  n_subject > 3", "    n_subject > 3\n    ^^^^^^^^^"),
        ("stat > 3", "  stat > 3\n  ^^^^^^^^"),
        ("stat = 't", "  stat = 't\n         ^"),
        ("name = 3", "  name = 3\n  ^^^^"),
    ],
)
def test_the_place_is_shown_in_the_users_own_text(store: Store, where: str, shown: str) -> None:
    with pytest.raises(QueryError) as caught:
        select(store, Condition(where))
    assert str(caught.value).endswith(shown)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ("n_subject DESC", "did you mean n_subjects or number_of_subjects?\n  n_subject DESC\n  ^^^^^^^^^"),
        ("n_subjects DESK", 'order_by: syntax error at or near "DESK"\n  n_subjects DESK\n             ^'),
        ("1", "a number or text orders nothing"),
        ("'n_subjects'", "a number or text orders nothing"),
        ("ALL", "name the columns"),
        ("count(*)", "asked of one map at a time"),
        ("", "order_by is empty"),
        (["n_subjects"], "order_by is ['n_subjects']; give SQL as text, such as 'n_subjects DESC'"),
    ],
)
def test_what_is_wrong_with_an_order_is_told(store: Store, order: Any, told: str) -> None:
    with pytest.raises(QueryError) as caught:
        select(store, Condition("true", order_by=order))
    assert told in str(caught.value)


# Hostile text. {catalog} is the file itself, {secret} a file beside it, {new} one that is not there.

LEAVES_ITS_PLACE = [
    "true; DROP TABLE images",
    "true; SELECT 1",
    "true;",
    "1; COPY images TO '{new}'",
    "1=1) OR (1=1",
    "1=1) UNION SELECT image_id FROM images --",
    "image_id) UNION (SELECT image_id FROM images",
    "true UNION ALL SELECT 1",
    "true EXCEPT SELECT 1",
    "image_id LIMIT 1",
    "image_id OFFSET 1",
    "true GROUP BY image_id",
    "true QUALIFY true",
    "true HAVING true",
    "true WINDOW w AS ()",
    "true USING SAMPLE 1",
    "true /* the rest",
    "true)) --",
    "true -- )\n) OR (true",
    "name = 'x",
    'name = "x',
    "name = $$x",
    "image_id, (SELECT 1; SELECT 2)",
    "WITH x AS (SELECT 1) SELECT * FROM x",
    "x AS y",
]
READS_FILES = [
    "(SELECT content FROM read_text('{secret}')) = 'x'",
    "EXISTS (FROM '{secret}')",
    'EXISTS (SELECT * FROM "{secret}")',
    "image_id IN (SELECT 1 FROM read_csv('{secret}'))",
    "image_id IN (SELECT 1 FROM read_csv_auto('{secret}'))",
    "image_id IN (SELECT 1 FROM read_json('{secret}'))",
    "image_id IN (SELECT 1 FROM read_parquet('{secret}'))",
    "image_id IN (SELECT 1 FROM read_blob('{catalog}'))",
    "image_id IN (SELECT 1 FROM read_text('{catalog}.wal'))",
    "image_id IN (SELECT 1 FROM read_duckdb('{catalog}', table_name='images'))",
    "image_id IN (SELECT 1 FROM sniff_csv('{secret}'))",
    "image_id IN (SELECT 1 FROM glob('/*'))",
    "EXISTS (FROM query('SELECT * FROM read_text(''{secret}'')'))",
    "EXISTS (FROM query_table('{secret}'))",
    "EXISTS (FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{secret}'')')))",
    "EXISTS (FROM 'http://127.0.0.1:1/x.csv')",
    "getenv('HOME') = 'x'",
    "(WITH s AS (SELECT * FROM read_text('{secret}')) SELECT content FROM s) = 'x'",
]
WRITES_OR_SETS = [
    "COPY images TO '{new}'",
    "EXISTS (COPY (SELECT 1) TO '{new}')",
    "image_id IN (WITH c AS (COPY (SELECT 1) TO '{new}') SELECT 1 FROM c)",
    "image_id IN (WITH c AS (COPY (SELECT 1) TO '{catalog}' (FORMAT csv)) SELECT 1 FROM c)",
    "image_id IN (WITH d AS (DELETE FROM images RETURNING *) SELECT image_id FROM d)",
    "image_id IN (WITH i AS (INSERT INTO images (image_id) VALUES (99) RETURNING *) SELECT image_id FROM i)",
    "EXISTS (DELETE FROM images RETURNING *)",
    "DELETE FROM images",
    "UPDATE images SET name = 'x'",
    "DROP TABLE images",
    "CREATE TABLE t AS SELECT 1",
    "ATTACH '{new}' AS fresh",
    "ATTACH '{catalog}' AS again",
    "DETACH catalog",
    "EXPORT DATABASE '{folder}'",
    "INSTALL httpfs",
    "LOAD '{secret}'",
    "CHECKPOINT",
    "SET threads = 1",
    "SET enable_external_access = true",
    "RESET disabled_filesystems",
    "PRAGMA threads = 1",
    "PRAGMA database_list",
    "CALL enable_logging('QueryLog', storage='file', storage_path='{new}')",
    "set_config('TimeZone', 'America/New_York', false) = 'x'",
    "EXISTS (FROM pragma_database_list())",
    "EXISTS (FROM duckdb_secrets())",
    "EXISTS (FROM duckdb_settings())",
    "EXISTS (CALL disable_logging())",
    "(SELECT token FROM access) = 'x'",
    "EXISTS (FROM main.access WHERE token LIKE 'S%')",
    '(SELECT token FROM catalog.main."ACCESS")::INTEGER = 3',
]
HOSTILE = LEAVES_ITS_PLACE + READS_FILES + WRITES_OR_SETS


def kept_in(*folders: Path) -> dict[str, str]:
    """Return every file of the folders with its checksum."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_refused_and_changes_nothing_wherever_it_stands(
    filled: Path, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    secret, store = tmp_path / "secret.csv", Store(filled)
    secret.write_text(f"{SECRET}\n")
    text = text.format(folder=tmp_path, catalog=store.path, secret=secret, new=tmp_path / "new")
    before = kept_in(filled, tmp_path)

    settings = state(store)
    for condition in (Condition(text), Condition("true", order_by=text), Condition(f"stat = 't' AND {text}")):
        with pytest.raises(QueryError) as caught:
            select(store, condition)
        assert not any(word in str(caught.value) for word in (SECRET, TOKEN))
    for query in (text, f"SELECT image_id FROM stat_maps WHERE {text}"):
        assert SECRET not in answer_of(store, query)
    params = {"text": text}
    assert ids(store, "name = $text", params=params, order_by="name = $text") == ()
    assert select(store, Condition(query="SELECT 1 AS image_id WHERE $text = ''", params=params)).total == 0

    assert state(store) == settings
    assert kept_in(filled, tmp_path) == before


def answer_of(store: Store, query: str) -> str:
    """Return what a query gives or why it is refused: as in Catalog.sql(), not all that is odd is forbidden."""
    try:
        return repr(select(store, Condition(query=query)))
    except QueryError as error:
        return str(error)


def state(store: Store) -> Any:
    question = "SELECT name, value, (SELECT count(*) FROM images) FROM duckdb_settings() ORDER BY name"
    with store.reading() as connection:
        return connection.execute(question).fetchall()


def test_there_are_many_hostile_texts() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 40


def test_the_tokens_of_private_collections_are_not_for_conditions(store: Store) -> None:
    with pytest.raises(QueryError, match="access holds the tokens of private collections") as caught:
        ids(store, "(SELECT token::INTEGER FROM access) = 3")
    assert TOKEN not in str(caught.value)
