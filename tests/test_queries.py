"""Queries read the catalog and nothing else; what they give is in memory, in types that every tool knows."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet
from waiting import PATIENCE_S, started, wait_until

from nvcatalog import Catalog
from nvcatalog._batch import Batch, Words
from nvcatalog._store import Store
from nvcatalog.errors import MissingExtraError, QueryError
from nvcatalog.queries import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "nobody may read this"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a data folder with a small catalog; queries change nothing, so all tests share it, open."""
    data_dir = tmp_path_factory.mktemp("data")
    (data_dir / "neurovault").mkdir()
    batch = Batch(words={n: Words({"pain": n / 10, "motor": -n / 20}, None) for n in (1, 2, 3)})
    batch.add_record("collection", {"id": 7, "name": "seven"})
    for id_ in (1, 2, 3):
        batch.add_record(
            "image", {"id": id_, "collection_id": 7, "name": f"image {id_}", "file_size": 2**40 + id_}
        )
    store = Store(data_dir / "neurovault")
    store.land(batch)
    with store.reading():  # what is open need not be opened again by each test
        yield data_dir


@pytest.fixture
def copied(filled: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder, for those who need its catalog closed."""
    return shutil.copytree(filled, tmp_path / "copied")


@pytest.fixture
def catalog(filled: Path) -> Catalog:
    return Catalog(filled)


def kept_in(folder: Path) -> dict[str, str]:
    """Return every file of a folder with its checksum."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# The fence. {catalog} is the file itself, {secret} a file beside it, {new} one that is not there.

READS_FILES = [
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_csv_auto('{secret}', header=false)",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_ndjson_objects('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM parquet_metadata('{secret}')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM read_duckdb('{catalog}', table_name='images')",
    "SELECT * FROM read_blob('{catalog}')",
    "SELECT * FROM read_blob('{catalog}.wal')",
    "SELECT * FROM '{secret}'",
    'SELECT * FROM "{secret}"',
    "FROM '{secret}'",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM glob('/*')",
    "SELECT (SELECT content FROM read_text('{secret}'))",
    "WITH s AS (SELECT * FROM read_text('{secret}')) SELECT * FROM s",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query_table('{secret}')",
    "SELECT * FROM images UNION ALL BY NAME SELECT content AS name FROM read_text('{secret}')",
    "/* SELECT 1 */ SELECT * FROM read_text('{secret}') -- harmless",
    "EXPLAIN ANALYZE SELECT * FROM read_text('{secret}')",
    "SUMMARIZE '{secret}'",
    "DESCRIBE '{secret}'",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{secret}'')'))",
    "COPY images FROM '{secret}'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{catalog}' AS again",
    "ATTACH '{catalog}' AS again (READ_ONLY)",
    "SELECT * FROM 'http://127.0.0.1:1/x.csv'",
    "SELECT * FROM read_csv('https://127.0.0.1:1/x.csv')",
    "SELECT * FROM read_text('file://{secret}')",
    "SELECT * FROM read_text('/dev/stdin')",
    "SELECT getenv('HOME')",
]
WRITES_FILES = [
    "COPY images TO '{new}'",
    "COPY (SELECT 1) TO '{new}' (FORMAT parquet)",
    "COPY (SELECT 1 AS a, 2 AS b) TO '{new}' (FORMAT parquet, PARTITION_BY (a))",
    "COPY (SELECT 1) TO '{secret}' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{catalog}' (FORMAT csv, USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{catalog}.wal' (FORMAT csv, USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{catalog}.tmp/x' (FORMAT csv, USE_TMP_FILE false)",
    "WITH c AS (COPY (SELECT 1) TO '{new}') SELECT * FROM c",
    "WITH c AS (COPY (SELECT 1) TO '{catalog}' (FORMAT csv, USE_TMP_FILE false)) SELECT * FROM c",
    "WITH c AS (COPY (SELECT 1) TO '{catalog}.wal' (FORMAT csv, USE_TMP_FILE false)) SELECT * FROM c",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{new}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{catalog}' (FORMAT csv, USE_TMP_FILE false)",
    "SELECT 1; COPY (SELECT 1) TO '{new}'",
    "SELECT ';'; COPY (SELECT 1) TO '{new}'",
    "PREPARE p AS COPY (SELECT 1) TO '{new}'; EXECUTE p",
    "EXPORT DATABASE '{new}'",
    "EXPORT DATABASE '{folder}'",
    "ATTACH '{new}' AS fresh",
    "ATTACH ':memory:' AS fresh; CREATE TABLE fresh.t AS SELECT 1; COPY fresh.t TO '{new}'",
    "CALL enable_logging('QueryLog', storage='file', storage_path='{new}')",
    "CALL enable_profiling(format='json', save_location='{new}')",
    "PRAGMA profiling_output='{new}'",
]
WRITES_THE_CATALOG = [
    "INSERT INTO images (image_id) VALUES (99)",
    "INSERT INTO images (image_id) VALUES (99) RETURNING *",
    "WITH i AS (INSERT INTO images (image_id) VALUES (99) RETURNING *) SELECT * FROM i",
    "WITH d AS (DELETE FROM images RETURNING *) SELECT * FROM d",
    "UPDATE images SET name = 'x'",
    "DELETE FROM images",
    "TRUNCATE images",
    "MERGE INTO images USING images AS i ON true WHEN MATCHED THEN DELETE",
    "DROP TABLE images",
    "SELECT 1; DROP TABLE images",
    "ALTER TABLE images ADD COLUMN x INTEGER",
    "COMMENT ON TABLE images IS 'x'",
    "CREATE TABLE t AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "CREATE SCHEMA s",
    "CREATE INDEX i ON images (name)",
    "CREATE MACRO m() AS 1",
    "CREATE SEQUENCE s",
    "CREATE TYPE t AS ENUM ('a')",
    "BEGIN; DELETE FROM images; COMMIT",
    "EXPLAIN ANALYZE DELETE FROM images",
]
CHANGES_SETTINGS = [
    "SET enable_external_access = true",
    "SET GLOBAL enable_external_access = true",
    "RESET enable_external_access",
    "SET lock_configuration = false",
    "SET disabled_filesystems = ''",
    "RESET disabled_filesystems",
    "SET allowed_directories = ['/']",
    "SET allowed_paths = ['{secret}']",
    "SET temp_directory = '{folder}'",
    "SET threads = 1",
    "SET SESSION threads = 1",
    "SET memory_limit = '1GB'",
    "SET TimeZone = 'America/New_York'",
    "SET search_path = 'temp'",
    "SET home_directory = '{folder}'",
    "SET VARIABLE a = 1",
    "SET autoinstall_known_extensions = true; SELECT 1",
    "PRAGMA threads = 1",
    "PRAGMA enable_profiling",
    "PRAGMA enable_verification",
    "CALL disable_logging()",
    "USE memory",
    "USE temp",
    "DETACH catalog",
    "SELECT set_config('TimeZone', 'America/New_York', false)",
]
LOADS_CODE_OR_SECRETS = [
    "INSTALL httpfs",
    "FORCE INSTALL spatial FROM 'http://127.0.0.1:1'",
    "LOAD httpfs",
    "LOAD '{secret}'",
    "UPDATE EXTENSIONS",
    "CREATE SECRET s (TYPE http, BEARER_TOKEN 'x')",
    "CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'x')",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "CALL checkpoint()",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "CREATE TEMP TABLE t AS SELECT 1",
    "SELECT 1; SELECT 2",
    "",
    ";",
    "-- nothing",
    "/* nothing */",
]
HOSTILE = READS_FILES + WRITES_FILES + WRITES_THE_CATALOG + CHANGES_SETTINGS + LOADS_CODE_OR_SECRETS


@pytest.mark.parametrize("statement", HOSTILE)
def test_a_hostile_statement_is_refused_and_changes_nothing(
    catalog: Catalog, filled: Path, tmp_path: Path, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret.csv"
    secret.write_text(f"{SECRET}\n")
    places = {"catalog": filled / "neurovault" / "catalog.duckdb", "secret": secret, "new": tmp_path / "new"}
    statement = statement.format(folder=tmp_path, **places)
    before = kept_in(filled) | kept_in(tmp_path)
    state = "SELECT name, value, (SELECT count(*) FROM images) FROM duckdb_settings() ORDER BY name"
    settings = catalog.sql(state).fetchall()

    with pytest.raises(QueryError) as caught:
        catalog.sql(statement)

    assert SECRET not in str(caught.value)
    assert kept_in(filled) | kept_in(tmp_path) == before
    assert catalog.sql(state).fetchall() == settings


@pytest.mark.parametrize("exists", [True, False])
def test_the_fence_stands_without_anybody_reading_the_statement_first(
    filled: Path, tmp_path: Path, *, exists: bool
) -> None:
    """Parsing makes good messages; this is what keeps the files safe, with a catalog and without."""
    secret = tmp_path / "secret.csv"
    secret.write_text(f"{SECRET}\n")
    store = Store(filled / "neurovault" if exists else tmp_path / "nowhere")
    places = {"catalog": store.path, "secret": secret, "new": tmp_path / "new"}
    before = kept_in(filled) | kept_in(tmp_path)

    with store.reading() as connection:
        for statement in (*READS_FILES, *WRITES_FILES):
            with pytest.raises(duckdb.Error) as caught:
                connection.execute(statement.format(folder=tmp_path, **places)).fetchall()
            assert SECRET not in str(caught.value), statement
            assert kept_in(filled) | kept_in(tmp_path) == before, statement


def test_what_is_refused_is_explained(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match="no files, no network, no settings"):
        catalog.sql("SELECT * FROM read_text('/etc/passwd')")
    with pytest.raises(QueryError, match=r"ask with one SELECT.*; got DROP"):
        catalog.sql("DROP TABLE images")
    with pytest.raises(QueryError, match=r"ask with one SELECT.*; got SELECT, DELETE"):
        catalog.sql("SELECT 1; DELETE FROM images")
    with pytest.raises(QueryError, match=r"ask with one SELECT.*; got nothing"):
        catalog.sql("  ")
    with pytest.raises(QueryError, match="query is None, a NoneType; give a SELECT as text"):
        catalog.sql(None)  # type: ignore[arg-type]  # what is no text
    with pytest.raises(QueryError, match=r"option of sql; .* give it in params=\{'tables'"):
        catalog.sql("SELECT $tables", tables=3)  # type: ignore[arg-type]  # meant as the parameter's value
    with pytest.raises(QueryError, match="they do not change it"):
        catalog.sql("WITH d AS (DELETE FROM images RETURNING *) SELECT * FROM d")


def test_the_callers_own_variables_are_no_tables(catalog: Catalog) -> None:
    mine = pd.DataFrame({"x": [1]})

    with pytest.raises(QueryError, match="mine does not exist"):
        catalog.sql("SELECT * FROM mine")
    assert len(mine) == 1


def test_no_user_of_an_empty_secrets_store_learns_of_others(catalog: Catalog) -> None:
    assert catalog.sql("SELECT * FROM duckdb_secrets()").fetchall() == []


def test_everything_that_reads_the_catalog_is_fine(catalog: Catalog) -> None:
    for question in (
        "FROM images",
        "TABLE images;",
        "VALUES (1), (2)",
        "SHOW TABLES",
        "DESCRIBE images",
        "SUMMARIZE collections",
        "EXPLAIN SELECT * FROM images",
        "SELECT ';' AS \"semi;colon\" -- ; one statement",
        "PIVOT image_words ON term USING sum(weight)",
        "PIVOT image_words ON term IN ('pain') USING sum(weight)",
        "SELECT * FROM query('SELECT 1')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT * FROM n",
        "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'images'",
        "SELECT raw->>'$.name' FROM raw_records",
    ):
        assert len(catalog.sql(question)) > 0, question


def test_a_query_that_wants_too_much_memory_says_so_and_spills_nowhere(filled: Path) -> None:
    with Store(filled / "neurovault").reading() as connection:
        assert connection.sql("SELECT current_setting('temp_directory')").fetchall() == [("",)]


# A query that is stopped


STOPPED = """
import sys
from nvcatalog import Catalog
print("asking", flush=True)
Catalog(sys.argv[1]).sql("SELECT count(*) FROM range(100000000000) AS t(i) WHERE i % 7 = sqrt(i)")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_query_that_is_interrupted_or_killed_leaves_no_lock(copied: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", STOPPED, str(copied)]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == "asking\n"
        wait_until(lambda: is_locked(copied / "neurovault" / "catalog.duckdb"))
        process.send_signal(how)
        _, said = process.communicate(timeout=PATIENCE_S)

    assert process.returncode != 0
    assert how is signal.SIGKILL or "KeyboardInterrupt" in said
    with duckdb.connect(str(copied / "neurovault" / "catalog.duckdb")) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchall() == [(3,)]


def is_locked(path: Path) -> bool:
    try:
        duckdb.connect(str(path)).close()
    except duckdb.IOException:
        return True
    return False


def test_an_interrupted_query_leaves_the_process_able_to_go_on(copied: Path) -> None:
    """DuckDB alone ignores every other Ctrl-C, hence several attempts."""
    script = """
import os, signal, sys, threading
from nvcatalog import Catalog
catalog = Catalog(sys.argv[1])
for attempt in range(5):
    catalog.sql("SELECT 1")
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        catalog.sql("SELECT count(*) FROM range(100000000000) AS t(i) WHERE i % 7 = sqrt(i)")
    except KeyboardInterrupt:
        print(catalog.sql("SELECT count(*) FROM images").fetchall())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, copied], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.stdout == "[(3,)]\n" * 5, done.stderr


# What comes back


def test_one_answer_comes_in_every_form(catalog: Catalog) -> None:
    answer = catalog.sql("SELECT image_id, name FROM images ORDER BY image_id LIMIT 2")

    assert answer.fetchall() == [(1, "image 1"), (2, "image 2")]
    pd.testing.assert_frame_equal(
        answer.df(), pd.DataFrame({"image_id": np.array([1, 2], "int32"), "name": ["image 1", "image 2"]})
    )
    assert answer.arrow().to_pydict() == {"image_id": [1, 2], "name": ["image 1", "image 2"]}
    assert answer.pl().rows() == [(1, "image 1"), (2, "image 2")]
    assert len(answer) == 2
    assert "image 2" in repr(answer)
    assert [name for _, name in answer] == ["image 1", "image 2"]
    assert "<td>image 2</td>" in str(answer._repr_html_())


def test_an_answer_outlives_its_catalog(copied: Path) -> None:
    answer = Catalog(copied).sql("SELECT name FROM images ORDER BY name")

    with duckdb.connect(str(copied / "neurovault" / "catalog.duckdb")) as connection:
        connection.execute("UPDATE images SET name = 'changed'")

    assert answer.fetchall() == [("image 1",), ("image 2",), ("image 3",)]


def test_an_answer_without_rows_has_its_columns(catalog: Catalog) -> None:
    answer = catalog.sql("SELECT image_id, name FROM images WHERE false")

    assert answer.fetchall() == []
    assert list(answer.df().columns) == answer.pl().columns == ["image_id", "name"]


def test_a_sum_is_an_integer_in_every_tool(catalog: Catalog) -> None:
    answer = catalog.sql("SELECT sum(image_id) AS n, sum(file_size) AS bytes FROM images")

    total = 3 * 2**40 + 6
    assert answer.fetchall() == [(6, total)]
    assert answer.df().dtypes.to_dict() == {"n": np.int64, "bytes": np.int64}
    assert answer.pl().dtypes == [pl.Int64, pl.Int64]
    assert answer.df()["bytes"][0] == total


def test_a_sum_too_large_for_any_integer_is_a_float(catalog: Catalog) -> None:
    [(large,)] = catalog.sql(
        "SELECT sum(n) FROM (VALUES (9223372036854775807), (9223372036854775807)) AS t(n)"
    ).fetchall()

    assert isinstance(large, float)
    assert large == pytest.approx(2**64)


def test_a_sum_with_a_gap_is_null(catalog: Catalog) -> None:
    assert catalog.sql("SELECT sum(image_id) FROM images WHERE false").fetchall() == [(None,)]


def test_times_come_in_utc_without_pytz(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytz", None)
    answer = catalog.sql("SELECT TIMESTAMPTZ '2020-01-01 01:00:00+01' AS t, fetched_at FROM images LIMIT 1")

    [(moment, fetched_at)] = answer.fetchall()
    assert moment == datetime(2020, 1, 1, tzinfo=UTC)
    assert moment.utcoffset().total_seconds() == 0
    assert fetched_at.tzinfo is not None
    assert str(answer.df()["t"].dt.tz) == "UTC"
    assert answer.pl()["t"][0] == moment


def test_json_is_text_in_every_tool(catalog: Catalog) -> None:
    answer = catalog.sql("SELECT raw FROM raw_records WHERE kind = 'collection'")

    assert answer.fetchall() == [('{"id": 7, "name": "seven"}',)]
    assert answer.pl().dtypes == [pl.String]
    assert answer.df()["raw"][0] == '{"id": 7, "name": "seven"}'


def test_columns_of_one_name_are_numbered(catalog: Catalog) -> None:
    answer = catalog.sql(
        "SELECT i.name, c.name, 1 AS name_1, i.name FROM images AS i JOIN collections AS c USING (collection_id) "
        "WHERE image_id = 1"
    )

    assert answer.arrow().column_names == ["name", "name_1", "name_1_1", "name_2"]
    assert answer.pl().row(0) == ("image 1", "seven", 1, "image 1")


def test_other_types_come_as_python_has_them(catalog: Catalog) -> None:
    row = catalog.sql("SELECT 1.50, DATE '2020-01-02', [1, NULL], {'a': 'b'}, 'x'::BLOB, NULL, true").fetchall()[0]

    assert row[0] == Decimal("1.50")
    assert [str(row[1]), *row[2:]] == ["2020-01-02", [1, None], {"a": "b"}, b"x", None, True]


def forms(answer: Answer) -> list[list[Any]]:
    """Return the first column as each form of an answer has it, once Parquet has held it too."""
    name = answer.arrow().column_names[0]
    parquet.write_table(answer.arrow(), io.BytesIO())
    columns = (answer.df()[name].astype(object), answer.pl()[name], answer.arrow()[name].to_pylist())
    lists = [[row[0] for row in answer.fetchall()], *map(list, columns)]
    assert repr(answer)
    return [[None if value is None or value != value else value for value in values] for values in lists]


def test_the_time_between_two_moments_is_a_duration_in_every_tool(catalog: Catalog) -> None:
    answer = catalog.sql(
        "SELECT t - TIMESTAMP '2020-01-01' AS d FROM (VALUES (TIMESTAMP '2021-01-01 02:00:00.5'), (NULL),"
        "(TIMESTAMP '2019-12-31 23:00:00')) AS v(t)"
    )

    expected = [timedelta(days=366, hours=2, microseconds=500_000), None, timedelta(hours=-1)]
    assert answer.arrow().schema.types == [pa.duration("us")]
    assert answer.pl().dtypes == [pl.Duration("us")]
    assert forms(answer) == [expected] * 4


@pytest.mark.parametrize("value", [None, timedelta(days=106_751_991), timedelta(microseconds=-1)])
def test_an_interval_without_months_is_a_duration_at_either_end(catalog: Catalog, value: timedelta | None) -> None:
    answer = catalog.sql("SELECT $value::INTERVAL AS d", value=value)

    assert answer.arrow().schema.types == [pa.duration("us")]
    assert forms(answer) == [[value]] * 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("INTERVAL 14 MONTH + INTERVAL '3 days 04:05:06.5'", "1 year 2 months 3 days 04:05:06.5"),
        ("INTERVAL 5 MINUTE - INTERVAL 1 YEAR", "-1 year 00:05:00"),
        ("INTERVAL 2000000000 DAY", "2000000000 days"),
        ("[INTERVAL 1 DAY]", "[1 day]"),
        ("{'a': INTERVAL 1 MONTH}", "{'a': 1 month}"),
        ("MAP {'a': INTERVAL 1 DAY}", "{a=1 day}"),
        ("union_value(n := 1)", "1"),
        ("[union_value(n := 'x')]", "[x]"),
        ("DATE 'infinity'", "infinity"),
        ("DATE '0044-03-15 (BC)'", "0044-03-15 (BC)"),
        ("TIMESTAMP '-infinity'", "-infinity"),
        ("TIMESTAMPTZ 'infinity'", "infinity"),
        ("'infinity'::TIMESTAMP_S", "infinity"),
        ("'infinity'::TIMESTAMP_NS", "infinity"),
        ("TIMESTAMP '12000-01-01'", "12000-01-01 00:00:00"),
        ("TIME '24:00:00'", "24:00:00"),
        ("[DATE 'infinity']", "[infinity]"),
    ],
)
def test_what_python_has_no_value_for_is_text_in_every_tool(catalog: Catalog, value: str, text: str) -> None:
    answer = catalog.sql(f"SELECT * FROM (SELECT {value} AS v UNION ALL SELECT NULL) ORDER BY v IS NULL")

    assert forms(answer) == [[text, None]] * 4


@pytest.mark.parametrize(
    "value",
    [
        date.min, date.max, datetime.min, datetime.max, datetime.min.time(), datetime.max.time(),
        datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), [date.max], {"interval": date.min},
    ],
    ids=str,
)  # fmt: skip
def test_the_first_and_last_of_pythons_dates_and_times_stay_what_they_are(catalog: Catalog, value: Any) -> None:
    assert catalog.sql("SELECT $value", value=value).fetchall() == [(value,)]


def test_columns_of_one_name_keep_their_own_intervals(catalog: Catalog) -> None:
    answer = catalog.sql("SELECT INTERVAL 1 DAY AS d, INTERVAL 1 MONTH AS d, 'x' AS d")

    assert answer.fetchall() == [(timedelta(days=1), "1 month", "x")]
    assert answer.arrow().column_names == ["d", "d_1", "d_2"]


def test_without_polars_the_error_says_how_to_get_it(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = catalog.sql("SELECT 1 AS n")
    monkeypatch.setitem(sys.modules, "polars", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'nvcatalog\[polars\]'") as caught:
        answer.pl()

    assert isinstance(caught.value, ImportError)
    assert answer.fetchall() == [(1,)]


# Parameters


def test_parameters_come_by_keyword_by_mapping_and_by_place(catalog: Catalog) -> None:
    by_name = "SELECT image_id FROM images WHERE image_id > $low AND name <> $name ORDER BY 1"
    by_place = "SELECT image_id FROM images WHERE image_id > ? AND name <> ? ORDER BY 1"

    for answer in (
        catalog.sql(by_name, low=1, name="image 3"),
        catalog.sql(by_name, {"low": 1, "name": "image 3"}),
        catalog.sql(by_name, {"low": 1}, name="image 3"),
        catalog.sql(by_place, [1, "image 3"]),
        catalog.sql(by_place, (1, "image 3")),
    ):
        assert answer.fetchall() == [(2,)]


def test_a_parameters_text_is_never_sql(catalog: Catalog) -> None:
    hostile = "' OR 1 = 1; DROP TABLE images; --"

    assert catalog.sql("SELECT $text", text=hostile).fetchall() == [(hostile,)]
    assert catalog.sql("SELECT count(*) FROM images WHERE name = $text", text=hostile).fetchall() == [(0,)]


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2**70, 1.5, "päin", "", [1, 2], [], datetime(2020, 1, 1, tzinfo=UTC), Decimal("1.5"), b"\0"],
)
def test_a_parameter_can_be_any_plain_value(catalog: Catalog, value: Any) -> None:
    [(same,)] = catalog.sql("SELECT $value", value=value).fetchall()

    assert same == (float(value) if value == 2**70 else value)


def test_numpys_values_are_as_good_as_pythons(catalog: Catalog) -> None:
    ids = np.array([1, 3, 99])

    several = catalog.sql(
        "SELECT image_id FROM images WHERE image_id IN (SELECT unnest($ids)) ORDER BY 1", ids=ids
    )
    assert several.fetchall() == [(1,), (3,)]
    assert catalog.sql("SELECT ?, ?", [np.int64(5), np.float32(0.5)]).fetchall() == [(5, 0.5)]
    assert catalog.sql("SELECT $s", s=np.str_("x")).fetchall() == [("x",)]


@pytest.mark.parametrize(
    "ids",
    [
        pd.Series([3, 1, 99]),
        pd.Series([3, 1, None], dtype="Int64"),
        pd.Index([3, 1]),
        pl.Series([3, 1, None]),
        pa.array([3, 1]),
        pa.chunked_array([[3], [1, None]]),
        {3, 1},
        frozenset({1, 3}),
        (3, 1),
        [np.int64(3), np.int64(1)],
        range(1, 4, 2),
        {1: "one", 3: "three"}.keys(),
    ],
    ids=lambda ids: f"{type(ids).__module__}.{type(ids).__name__}",
)
def test_ids_come_in_any_container(catalog: Catalog, ids: Any) -> None:
    query = "SELECT image_id FROM images WHERE image_id IN (SELECT unnest($ids)) ORDER BY 1"

    assert catalog.sql(query, ids=ids).fetchall() == [(1,), (3,)]
    assert catalog.sql(query.replace("$ids", "?"), [ids]).fetchall() == [(1,), (3,)]


def test_a_sets_order_does_not_depend_on_its_hashes(catalog: Catalog) -> None:
    mixed = {"b", "a", None} | set("hgfedc")

    assert catalog.sql("SELECT $v", v=mixed).fetchall() == [([None, *"abcdefgh"],)]


def test_a_path_is_its_text(catalog: Catalog) -> None:
    assert catalog.sql("SELECT $path", path=Path("a") / "b").fetchall() == [(str(Path("a", "b")),)]


@pytest.mark.parametrize(
    ("query", "params", "named", "told"),
    [
        ("SELECT $a, $b", None, {"a": 1}, "b\nGive every parameter a value"),
        ("SELECT $a", None, {}, "a\nGive every parameter a value"),
        ("SELECT ?", [], {}, "Give every parameter a value"),
        ("SELECT $a", None, {"a": 1, "c": 2}, "c\nMore parameters were given"),
        ("SELECT ?", [1, 2], {}, "More parameters were given"),
        ("SELECT 1", {"a": 1}, {}, "More parameters were given"),
        ("SELECT $a", {"a": 1}, {"a": 2}, "given both in params and as a keyword: a"),
        ("SELECT ?, $a", [1], {"a": 2}, "cannot be mixed"),
        ("SELECT ?", "text", {}, "params is 'text'; give a mapping"),
        ("SELECT ?", 5, {}, "params is 5; give a mapping"),
        ("SELECT $a", None, {"a": object()}, "\nGive numbers, text, dates"),
        ("SELECT nope FROM images", None, {}, '"nope" not found'),
        ("SELCT 1", None, {}, "syntax error"),
        ("SELECT * FROM nowhere", None, {}, "nowhere does not exist"),
        ("SELECT 'x'::INTEGER", None, {}, "Could not convert string 'x' to INT32"),
    ],
)
def test_a_wrong_question_is_a_value_error_that_says_what_is_wrong(
    catalog: Catalog, query: str, params: Any, named: dict[str, Any], told: str
) -> None:
    with pytest.raises(QueryError) as caught:
        catalog.sql(query, params, **named)

    assert told in str(caught.value)
    assert isinstance(caught.value, ValueError)


# Tables of one's own


@pytest.mark.parametrize(
    "mine",
    [
        pd.DataFrame({"image_id": [1, 3], "score": [0.5, 1.5]}),
        pl.DataFrame({"image_id": [1, 3], "score": [0.5, 1.5]}),
        pa.table({"image_id": [1, 3], "score": [0.5, 1.5]}),
    ],
    ids=["pandas", "polars", "pyarrow"],
)
def test_a_table_of_ones_own_joins_the_catalogs(catalog: Catalog, mine: Any) -> None:
    answer = catalog.sql(
        "SELECT name, score FROM mine JOIN images USING (image_id) WHERE score > $low ORDER BY 1",
        tables={"mine": mine},
        low=1,
    )

    assert answer.fetchall() == [("image 3", 1.5)]


def test_a_table_may_have_any_name_that_is_free(catalog: Catalog) -> None:
    tables = {"my scores": pa.table({"x": [1]}), "select": pa.table({"x": [2]}), 'a"b': pa.table({"x": [3]})}

    answer = catalog.sql('SELECT * FROM "my scores" UNION ALL FROM "select" UNION ALL FROM "a""b"', tables=tables)

    assert answer.fetchall() == [(1,), (2,), (3,)]


@pytest.mark.parametrize("name", ["images", "Images", "image_words"])
def test_a_table_cannot_stand_in_for_one_of_the_catalogs(catalog: Catalog, name: str) -> None:
    with pytest.raises(QueryError, match=f"the catalog has a table {name.lower()} itself; name yours otherwise"):
        catalog.sql("SELECT 1", tables={name: pa.table({"x": [1]})})


def test_what_is_no_table_is_refused(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match=r"pandas.DataFrame"):
        catalog.sql("SELECT * FROM mine", tables={"mine": [1, 2]})


@pytest.mark.parametrize(
    "tables", [pd.DataFrame({"x": [1]}), pl.DataFrame({"x": [1]}), pa.table({"x": [1]}), [pd.DataFrame()], "mine"]
)
def test_tables_without_names_are_refused(catalog: Catalog, tables: Any) -> None:
    with pytest.raises(QueryError, match=rf'tables is a {type(tables).__name__}; .* tables={{"name": df}}'):
        catalog.sql("SELECT * FROM mine", tables=tables)


def test_a_table_whose_name_is_no_text_is_refused(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match="0 is no name for a table"):
        catalog.sql("SELECT 1", tables=dict(enumerate([pd.DataFrame()])))  # type: ignore[arg-type]


def test_a_table_is_gone_after_its_query(catalog: Catalog) -> None:
    catalog.sql("SELECT * FROM mine", tables={"mine": pa.table({"x": [1]})})

    with pytest.raises(QueryError, match="mine does not exist"):
        catalog.sql("SELECT * FROM mine")


def test_the_environment_of_a_process_is_not_in_reach(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCATALOG_TEST_SECRET", SECRET)

    settings = catalog.sql("SELECT * FROM duckdb_settings()").fetchall()

    assert SECRET not in str(settings)
    assert os.environ["NVCATALOG_TEST_SECRET"] == SECRET
