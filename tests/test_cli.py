"""The command line, run as people run it."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import duckdb
import pytest
from fetching import Once, filled_once
from pyarrow import parquet
from waiting import PATIENCE_S, patience, started

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog._store import Store
from nvcatalog.cli import main, output
from nvcatalog.demo import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nvcatalog.demo import DemoServer


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: bytes
    stderr: bytes


class Run(Protocol):
    def __call__(self, *arguments: str | Path) -> Done: ...


@pytest.fixture
def nvcatalog(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run the command in this process: starting Python for each would take most of the time."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["nvcatalog", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfdbinary.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Once]:
    def fill(world: World, data_dir: Path) -> None:
        fetch_neurovault_ids([1058], [10426], data_dir=data_dir, fetch_neurosynth_words=True, verbose=0)

    with filled_once(tmp_path_factory.mktemp("once"), World.demo(), fill) as once:
        yield once


@pytest.fixture
def server(once: Once, world: World, monkeypatch: pytest.MonkeyPatch) -> DemoServer:
    return once.as_new(world, monkeypatch)


@pytest.fixture
def filled(once: Once, server: DemoServer, data_dir: Path) -> Path:
    shutil.copytree(once.folder, data_dir, symlinks=True)
    return data_dir


def test_fetch_writes_a_row_for_each_id(nvcatalog: Run, server: DemoServer, data_dir: Path) -> None:
    done = nvcatalog("fetch", "--images", "10426,9034", "--data-dir", data_dir)
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "kind,id,status,reason,path"
    assert [line.split(",")[1] for line in lines[1:]] == ["10426", "9034"]
    assert all(Path(line.split(",")[4]).is_file() for line in lines[1:])
    assert b"2 downloaded" in done.stderr
    assert done.returncode == 0


def test_quiet_says_nothing_when_all_is_well(nvcatalog: Run, server: DemoServer, data_dir: Path) -> None:
    done = nvcatalog("fetch", "--images", "10426", "--quiet", "--data-dir", data_dir)
    assert done.stderr == b""


def test_something_missing_ends_with_status_1_and_a_warning(
    nvcatalog: Run, server: DemoServer, data_dir: Path
) -> None:
    done = nvcatalog("fetch", "--images", "10426", "--images", "999999", "--quiet", "--data-dir", data_dir)
    assert done.returncode == 1
    assert b"999999 not_found" in done.stderr
    assert b"999999,not_found" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fetch"], "give --collections or --images"),
        (["fetch", "--collections", ""], "give --collections or --images"),
        (["fetch", "--images", " , ", "-c", ""], "give --collections or --images"),
        (["fetch", "--images", "0"], "cannot be an id; give a number from 1 to"),
        (["fetch", "555"], "say --collections 555 or --images 555"),
        (["fetch", "--images", "12.5"], "is no id"),
        (["fetch", "--images", "1", "--mode", "later"], "later"),
        (["fetch", "--images", "1", "--timeout", "-1"], "seconds above 0"),
        (["sql", "SELECT nothing FROM images"], "nothing"),
        (["sql", "SELECT 1", "--param", "n"], "NAME=VALUE"),
        (["sql", "SELECT $a, $b", "--param", "a=1"], "give --param b=…"),
        (["query", "no_such_query"], "images_by_term"),
        (["query", "image_by_term"], "did you mean images_by_term"),
        (["query", "images_by_term", "--limit", "2"], "images_by_term needs a value for term: the term"),
        (["query", "images_by_term", "--term", "motor", "--limt", "2"], "no parameter limt; did you mean limit?"),
        (["query", "images_by_term", "-p", "term=motor", "--limit", "two"], "limit of images_by_term is 'two'"),
        (["query", "images_by_term", "--term"], "--term has no value; write --term VALUE"),
        (["query", "images_by_term", "motor"], "'motor' belongs to no parameter; write --name VALUE"),
        (["query", "--term", "motor"], "write nvcatalog query NAME --term VALUE"),
    ],
)
def test_wrong_use_ends_with_status_2_and_says_what_is_wrong(
    nvcatalog: Run, data_dir: Path, arguments: list[str], told: str
) -> None:
    done = nvcatalog(*arguments, "--data-dir", data_dir)
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.decode().split())
    assert b"Traceback" not in done.stderr


def test_what_uploaders_typed_steers_no_terminal(
    nvcatalog: Run, server: DemoServer, world: World, data_dir: Path
) -> None:
    world.edit_image(
        10426, {"name": "\x1b[2J\x1b]0;owned\x07 \x9b31m", "\x1b[1m": "\x1b[0m", "note": "two\nlines"}
    )
    assert nvcatalog("fetch", "--images", "10426", "--quiet", "--data-dir", data_dir).returncode == 0
    for query in ("SELECT image_id, name FROM images", 'SELECT *, 1 AS "\x1b[1m" FROM images'):
        done = nvcatalog("sql", query, "--format", "table", "--data-dir", data_dir)
        assert done.returncode == 0
        assert not {"\x1b", "\x07", "\x9b"} & set(done.stdout.decode())
        assert b"\\x1b[2J" in b"".join(done.stdout.split())


def test_where_fetches_what_a_condition_selects(nvcatalog: Run, server: DemoServer, data_dir: Path) -> None:
    listed = nvcatalog("sync", "--quiet", "--data-dir", data_dir)
    assert listed.stdout.decode().splitlines() == [
        "what,new,changed,gone",
        "collections,10,0,0",
        f"images,{len(server.world.image_ids())},0,0",
    ]
    condition = (
        "stat IN ('t', 'z') AND n_subjects >= $n",
        "--param",
        "n=20",
        "--order-by",
        "image_id",
        "-d",
        data_dir,
    )
    planned = nvcatalog("where", *condition, "-n", "2", "--dry-run")
    assert planned.returncode == 0
    fates = [line.split(",")[1] for line in planned.stdout.decode().splitlines()]
    assert fates == ["fate", "to fetch", "to fetch"]
    assert b"12 of them are left out; --max-images -1 takes all" in planned.stderr
    assert not list(data_dir.rglob("*.nii.gz"))
    done = nvcatalog("where", *condition, "-n", "-1", "-q", "--words")
    assert done.returncode == 0
    assert [line.split(",")[2] for line in done.stdout.decode().splitlines()[1:]] == ["downloaded"] * 28


def test_where_says_what_is_wrong_as_it_is_typed_here(nvcatalog: Run, filled: Path) -> None:
    for condition, message in (
        (["n_subjects > $n"], b"give --param n="),
        (["n_subject > 3"], b"did you mean n_subjects"),
        ([], b"either a condition or --query;"),
        (["true", "--max-age", "-1"], b"--max-age is -1"),
    ):
        done = nvcatalog("where", *condition, "-d", filled)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_dry_run_of_fetch_shows_the_plan(nvcatalog: Run, server: DemoServer, data_dir: Path) -> None:
    done = nvcatalog("fetch", "-c", "1058", "--dry-run", "-d", data_dir)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[1] == "14250,to fetch,"
    assert b"3 to fetch, 0 unavailable" in done.stderr
    assert not server.hits("/media/*")


def test_extras_and_resampled_maps_come_on_request(nvcatalog: Run, server: DemoServer, data_dir: Path) -> None:
    server.world.add_surfaces(3)
    done = nvcatalog("fetch", "-i", "3", "--extras", "--resample", "-d", data_dir)
    assert done.returncode == 0
    assert [line.split(",")[0] for line in done.stdout.decode().splitlines()[1:]] == ["image", "extra", "extra"]
    assert b"image_3_resampled.nii.gz" in done.stdout


def test_outdated_names_what_changed_since_it_came(nvcatalog: Run, filled: Path, server: DemoServer) -> None:
    server.world.edit_image(14250, name="edited")
    assert nvcatalog("sync", "--collections", "1058", "-q", "-d", filled).returncode == 0
    done = nvcatalog("outdated", "-d", filled, "--format", "json")
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)
    assert (row["image_id"], row["changed"]) == (14250, ["modify_date", "name"])


def test_sql_answers_in_every_format(nvcatalog: Run, filled: Path) -> None:
    query = "SELECT image_id, name FROM images WHERE image_id = $id"
    ask = ("sql", query, "--param", "id=10426", "--data-dir", filled)
    assert nvcatalog(*ask).stdout.decode().splitlines()[0] == "image_id,name"
    assert json.loads(nvcatalog(*ask, "--format", "json").stdout)[0]["image_id"] == 10426
    table = parquet.read_table(io.BytesIO(nvcatalog(*ask, "--format", "parquet").stdout))
    assert table.column("image_id").to_pylist() == [10426]
    assert b"10426" in nvcatalog(*ask, "--format", "table").stdout


def test_sql_asks_a_snapshot_by_its_name_fenced(nvcatalog: Run, filled: Path) -> None:
    count = ("sql", "SELECT count(*) AS n FROM images WHERE image_id = $id", "-p", "id=10426", "-d", filled)
    nvcatalog("snapshot", "paper-v1", "-d", filled)
    with Store(filled / "neurovault").writing() as connection:
        connection.execute("DELETE FROM images")
    assert nvcatalog(*count).stdout == b"n\n0\n"
    assert nvcatalog(*count, "--snapshot", "paper-v1").stdout == b"n\n1\n"
    assert nvcatalog(*count, "--snapshot", filled / "neurovault/snapshots/paper-v1").stdout == b"n\n1\n"

    for arguments, told in (
        (["SELECT 1", "--snapshot", "paper-v2"], b"did you mean paper-v1?"),
        (["FROM read_text('/etc/passwd')", "--snapshot", "paper-v1"], b"no files"),
        (["SELECT $a", "--snapshot", "paper-v1"], b"give --param a="),
        (["SELECT 1", "--snapshot", "paper-v1", "--base", filled], b"give either --snapshot or --base"),
    ):
        done = nvcatalog("sql", *arguments, "-d", filled)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_words_gives_the_terms_of_the_images_that_are_chosen(nvcatalog: Run, filled: Path) -> None:
    def rows(*arguments: str) -> list[list[str]]:
        done = nvcatalog("words", *arguments, "-d", filled)
        assert done.returncode == 0, done.stderr
        return list(csv.reader(io.StringIO(done.stdout.decode())))

    assert rows()[0] == ["image_id", "term", "weight"]
    assert {row[0] for row in rows("-c", "1058", "-i", "10426")[1:]} > {"10426"}
    few = rows("--where", "image_id = $id", "-p", "id=10426", "-t", "motor, reward", "-t", "chronic pain")[1:]
    assert [row[:2] for row in few] == [["10426", term] for term in ("motor", "reward", "chronic pain")]
    strong = rows("-i", "10426", "--min-abs-weight", "0.3")[1:]
    assert strong
    assert all(abs(float(row[2])) >= 0.3 for row in strong)
    whole = nvcatalog("words", "--format", "parquet", "-d", filled).stdout
    assert parquet.read_table(io.BytesIO(whole)).num_rows == len(rows()) - 1


def test_words_says_what_is_not_here_and_how_to_have_it(nvcatalog: Run, filled: Path) -> None:
    fetch_neurovault_ids(image_ids=[9034], data_dir=filled, verbose=0)
    done = nvcatalog("words", "-i", "9034", "-d", filled)
    assert (done.returncode, done.stdout) == (0, b"image_id,term,weight\n")
    assert b"Of 1 images no terms are here: 9034. nvcatalog fetch --words fetches them\n" in done.stderr
    for arguments, told in (
        (["-t", "pian"], b"--terms: no image here has 'pian' (did you mean"),
        (["-i", "9034", "--where", "true"], b"give one of --images and --where"),
        (["--min-abs-weight", "-1"], b"--min-abs-weight is -1.0; give a number"),
    ):
        done = nvcatalog("words", *arguments, "-d", filled)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_a_named_query_takes_its_parameters(nvcatalog: Run, filled: Path) -> None:
    done = nvcatalog("query", "top_terms", "-p", "image_id=10426", "-p", "limit=3", "--data-dir", filled)
    assert len(done.stdout.splitlines()) == 4
    for options in (["--image-id", "10426", "--limit", "3"], ["--image_id=10426", "-p", "limit=3"]):
        assert nvcatalog("query", "top_terms", *options, "--data-dir", filled).stdout == done.stdout


def test_parameters_of_a_query_are_read_as_the_query_declares_them(nvcatalog: Run, filled: Path) -> None:
    place = filled / "neurovault" / "queries"
    place.mkdir()
    (place / "kinds.sql").write_text("""\
-- One row of what was given.
-- $text: any (text, required)
-- $number: any (number, required)
-- $ids: any (image ids, required)
-- $flag: any (boolean, default false)
SELECT $text AS text, $number AS number, $ids AS ids, $flag AS flag, $other AS other
""")
    given = ["--text", "1.50", "--number", "-0.5", "--flag", "--ids", "3,https://neurovault.org/images/4/"]
    done = nvcatalog("query", "kinds", *given, "-p", "other=2.5", "-d", filled, "--format", "json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row == {"text": "1.50", "number": -0.5, "ids": [3, 4], "flag": True, "other": 2.5}


def test_query_without_a_name_lists_what_there_is(nvcatalog: Run) -> None:
    done = nvcatalog("query", "--format", "json")
    listed = {row["name"]: row for row in json.loads(done.stdout)}
    assert {"images_by_term", "images_per_collection", "top_terms"} <= set(listed)
    assert listed["top_terms"]["summary"].startswith("The terms whose maps are most similar")
    assert listed["top_terms"]["parameters"].splitlines()[-1] == "limit: how many terms (count, default 20)"


def test_a_query_that_finds_nothing_says_what_was_asked_and_what_is_like_it(nvcatalog: Run, filled: Path) -> None:
    def said(*arguments: str) -> str:
        done = nvcatalog("query", *arguments, "--data-dir", filled)
        assert (done.returncode, done.stdout.count(b"\n")) == (0, 1)
        return done.stderr.decode()

    assert said("images_by_term", "--term", "PAIN", "--reference", "terms_20k").startswith(
        "Warning: images_by_term found nothing for term='PAIN', reference='terms_20k'. "
        "terms.term has no such term, but 'pain', "
    )
    assert said("images_by_term", "--term", "motr").count("'motor'") == 1
    assert said("images_by_term", "--term", "pain", "--min-weight", "1") == (
        "images_by_term found nothing for term='pain', min_weight=1.0\n"
    )
    assert said("images_by_term", "--term", "pain", "--reference", "x").endswith(
        "such reference, but 'terms_20k'\n"
    )
    assert said("top_terms", "--image-id", "7").endswith("words_status.image_id has no such image_id\n")
    assert said("terms_between", "--a", "1,2", "--b", "10426").endswith(" has no such a: 1, 2\n")
    assert said("tasks", "--limit", "0") == "tasks found nothing for limit=0\n"


def test_help_after_a_querys_name_is_that_querys(nvcatalog: Run, data_dir: Path) -> None:
    own = data_dir / "neurovault" / "queries"
    own.mkdir(parents=True)
    (own / "mine.sql").write_text("-- One row.\n-- $min_size: of a file (count, default 5)\nSELECT $min_size AS n")
    for option in ("--help", "-h"):
        done = nvcatalog("query", "mine", option, "--data-dir", data_dir)
        assert done.returncode == 0
        lines = done.stdout.decode().splitlines()
        assert lines[0] == "Usage: nvcatalog query mine [OPTIONS] [--PARAMETER VALUE]..."
        assert "  One row." in lines
        assert "  --min-size  of a file (count, default 5)" in lines
    assert b"Run a query that ships" in nvcatalog("query", "--help").stdout


def test_citing_nothing_ends_with_status_1_and_says_so(nvcatalog: Run, filled: Path) -> None:
    done = nvcatalog("cite", "--where", "false", "--data-dir", filled)
    assert done.returncode == 1
    assert b"No image was chosen" in done.stderr


def test_parameters_are_text_so_that_no_term_becomes_a_number(nvcatalog: Run, filled: Path) -> None:
    with duckdb.connect(filled / "neurovault" / "catalog.duckdb") as connection:
        connection.execute("UPDATE terms SET term = '001' WHERE term = 'motor'")
    done = nvcatalog("query", "images_by_term", "-p", "term=001", "-p", "limit=2", "--data-dir", filled)
    assert len(done.stdout.splitlines()) == 3, done.stderr


EVERY_KIND = """
SELECT * FROM (VALUES
    (9007199254740993, 1.1::DECIMAL(38, 1), 'nan'::DOUBLE, [1, 2], {'a': 'ü'},
     '2020-01-02 03:04:05'::TIMESTAMP, true),
    (NULL, 12345678901234567890.1::DECIMAL(38, 1), 0.1, NULL, NULL, NULL, NULL)
) AS t(big, exact, weight, items, pair, moment, flag)
"""


def test_csv_loses_nothing(nvcatalog: Run, data_dir: Path) -> None:
    done = nvcatalog("sql", EVERY_KIND, "--format", "csv", "--data-dir", data_dir)
    header, *rows = csv.reader(io.StringIO(done.stdout.decode()))
    assert header == ["big", "exact", "weight", "items", "pair", "moment", "flag"]
    assert rows == [
        ["9007199254740993", "1.1", "nan", "[1, 2]", '{"a": "ü"}', "2020-01-02T03:04:05", "true"],
        ["", "12345678901234567890.1", "0.1", "", "", "", ""],
    ]


def test_json_loses_nothing_and_is_json(nvcatalog: Run, data_dir: Path) -> None:
    done = nvcatalog("sql", EVERY_KIND, "--format", "json", "--data-dir", data_dir)
    first, second = json.loads(done.stdout, parse_constant=pytest.fail)
    assert list(first.values()) == [9007199254740993, 1.1, None, [1, 2], {"a": "ü"}, "2020-01-02T03:04:05", True]
    assert list(second.values()) == [None, "12345678901234567890.1", 0.1, None, None, None, None]


@pytest.mark.parametrize(
    ("value", "text"),
    [("INTERVAL '1 day 02:00:03.5'", "1 day 2:00:03.500000"), ("INTERVAL '-1 hour'", "-1 day 23:00:00")],
)
def test_a_duration_is_text_that_duckdb_reads(nvcatalog: Run, data_dir: Path, value: str, text: str) -> None:
    ask = ("sql", f"SELECT {value} AS d", "--data-dir", data_dir, "--format")
    assert nvcatalog(*ask, "csv").stdout.decode() == f"d\n{text}\n"
    assert json.loads(nvcatalog(*ask, "json").stdout) == [{"d": text}]
    table = parquet.read_table(io.BytesIO(nvcatalog(*ask, "parquet").stdout))
    assert str(table.column("d")[0].as_py()).replace(",", "") == text
    assert b"1 day" in nvcatalog(*ask, "table").stdout
    assert duckdb.execute(f"SELECT '{text}'::INTERVAL = {value}").fetchall() == [(True,)]


def test_a_table_too_wide_for_the_terminal_is_shown_a_line_a_column_unless_it_is_asked_for(
    nvcatalog: Run, filled: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    asked_for = nvcatalog("query", "fetch_history", "--format", "table", "--data-dir", filled).stdout.decode()
    assert asked_for.splitlines()[0].split()[:3] == ["started_at", "seconds", "function"]
    assert "parameters" in asked_for.splitlines()[0], "no column is cut"

    everything = Catalog(filled).sql("SELECT * FROM images ORDER BY image_id").arrow()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.show(everything, None)
    wide = capfdbinary.readouterr().out.decode()
    assert any(line.split() == ["image_id:", "10426"] for line in wide.splitlines())
    assert len(wide.split("\n\n")) == everything.num_rows
    output.show(everything.select(["image_id", "name"]), None)
    assert capfdbinary.readouterr().out.decode().splitlines()[0].split() == ["image_id", "name"]


def test_messages_name_the_flags_of_the_command_line(nvcatalog: Run, filled: Path, tmp_path: Path) -> None:
    with Store(filled / "neurovault").writing() as connection:
        connection.execute("UPDATE collections SET private = true WHERE collection_id = 658")

    said = nvcatalog("cite", "--where", "image_id = 10426", "-d", filled).stderr
    assert b"--private cites them too" in said
    said = nvcatalog("export", tmp_path / "out", "-w", "images", "-i", "10426", "-d", filled).stderr
    assert b"--private takes those too" in said
    said = nvcatalog("freeze", tmp_path / "a.json", "--where", "true", "-i", "10426", "-d", filled).stderr
    assert b"--where or --images" in said
    said = nvcatalog("snapshot", "-d", tmp_path / "none").stderr
    assert b"nvcatalog adopt" in said
    said = nvcatalog("fetch", "-i", "999999", "-d", filled).stderr
    assert b"; stdout has a row for each." in said
    said = nvcatalog("fetch", "-i", "999999", "--max-workers", "0", "-d", filled).stderr
    assert b"Error: --max-workers is 0; give a number of connections from 1 to" in said


@pytest.mark.parametrize(
    "command", [("snapshot",), ("adopt",), ("sync", "-c", "658"), ("freeze", "maps.lock.json")]
)
def test_a_command_says_that_it_waits_for_who_is_writing_unless_it_shall_be_quiet(
    nvcatalog: Run, filled: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr("nvcatalog._progress.WAIT_TOLD_AFTER_S", 0.01)
    monkeypatch.chdir(filled)
    with patience(1), duckdb.connect(filled / "neurovault/catalog.duckdb"):
        said = nvcatalog(*command, "-d", filled).stderr
        assert b"Waiting for whoever has" in said
        if command[0] != "snapshot":
            assert b"Waiting for" not in nvcatalog(*command, "-d", filled, "--quiet").stderr


def test_a_query_comes_from_stdin_too(nvcatalog: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 1 AS one"))
    assert nvcatalog("sql", "-", "--data-dir", data_dir).stdout == b"one\n1\n"


def test_a_data_dir_that_is_a_file_is_wrong_use(nvcatalog: Run, server: DemoServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = nvcatalog("fetch", "--images", "10426", "--data-dir", tmp_path / "file")
    assert done.returncode == 2, done.stderr
    assert b"is a file" in done.stderr


def test_ctrl_c_in_a_fetch_says_that_what_arrived_is_kept(
    nvcatalog: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nvcatalog.fetch.fetch_neurovault_ids", interrupted)
    done = nvcatalog("fetch", "--images", "10426", "--data-dir", data_dir)
    assert done.returncode == 130
    assert done.stderr == b"Interrupted. What arrived is kept; run the same again for the rest.\n"


def test_h_helps_and_flags_have_no_type(nvcatalog: Run) -> None:
    said = nvcatalog("fetch", "-h").stdout.decode()
    assert "--words" in said
    assert "bool" not in said


def test_asking_a_folder_without_a_catalog_warns_and_creates_nothing(nvcatalog: Run, tmp_path: Path) -> None:
    done = nvcatalog("sql", "SELECT count(*) AS n FROM images", "--data-dir", tmp_path)
    assert (done.returncode, done.stdout) == (1, b"n\n0\n")
    assert b"There is no catalog" in done.stderr
    assert not any(tmp_path.iterdir())


def test_snapshot_says_where_it_is(nvcatalog: Run, filled: Path) -> None:
    done = nvcatalog("snapshot", "--data-dir", filled)
    assert (Path(done.stdout.decode().strip()) / "manifest.json").is_file()


def test_snapshots_have_names_and_differ(nvcatalog: Run, filled: Path) -> None:
    done = nvcatalog("snapshot", "paper-v1", "--data-dir", filled)
    assert done.stdout.decode().strip() == str(filled / "neurovault" / "snapshots" / "paper-v1")
    done = nvcatalog("snapshot", "paper/v1", "--data-dir", filled)
    assert done.returncode == 2
    assert "name is 'paper/v1'" in done.stderr.decode()
    with duckdb.connect(str(filled / "neurovault" / "catalog.duckdb")) as connection:
        connection.execute("UPDATE images SET name = 'renamed' WHERE image_id = 10426")

    for name in ("paper-v1", str(filled / "neurovault" / "snapshots" / "paper-v1")):
        done = nvcatalog("diff", name, "--data-dir", filled)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().splitlines() == ["table_name,change,kind,id", "images,changed,image,10426"]


def forget_all(data_dir: Path) -> None:
    """Leave the files alone, as nilearn would have left them."""
    (data_dir / "neurovault" / "catalog.duckdb").unlink()
    shutil.rmtree(data_dir / "neurovault" / "snapshots", ignore_errors=True)


def test_adopt_registers_what_is_there(nvcatalog: Run, filled: Path) -> None:
    forget_all(filled)
    done = nvcatalog("adopt", "--data-dir", filled)
    assert done.returncode == 0, done.stderr
    assert b"took over 4 images" in done.stderr


def test_a_file_that_cannot_be_taken_over_is_said_once(
    nvcatalog: Run, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_all(filled)
    (filled / "neurovault" / "collection_658" / "image_10426_metadata.json").write_text('{"id":')
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a user's program: here pytest has some
    done = nvcatalog("adopt", "--quiet", "--data-dir", filled)
    assert done.returncode == 1
    assert done.stderr.count(b"image_10426_metadata.json cannot be taken over") == 1


def test_a_server_given_up_is_said_once_in_the_warning(
    nvcatalog: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    done = nvcatalog("fetch", "--quiet", "--images", "10426", "--data-dir", data_dir)
    assert done.stderr.startswith(b"Warning: Not all that was asked for is here")
    assert len(done.stderr.splitlines()) == 1


def test_adopting_a_folder_that_does_not_exist_is_wrong_use(nvcatalog: Run, tmp_path: Path) -> None:
    done = nvcatalog("adopt", "--data-dir", tmp_path / "typo")
    assert done.returncode == 2
    assert f"{tmp_path / 'typo'} does not exist".encode() in done.stderr


def test_an_unreachable_server_is_an_answer_not_a_traceback(
    nvcatalog: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", "http://127.0.0.1:9")
    done = nvcatalog("fetch", "--images", "10426", "--data-dir", data_dir)
    assert done.returncode == 1
    assert b"no connection" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_demo_runs_the_whole_way_in_a_folder_of_its_own_and_again_in_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("NVCATALOG_OFFLINE", "1")  # a demo is a demo wherever it runs
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    command = [sys.executable, "-m", "nvcatalog", "demo"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    said = done.stdout
    assert done.returncode == 0, done.stderr
    assert "21 maps" in said
    assert "premotor" in said
    assert "nvcatalog fetch --collections 555 --images 10426 --words" in said
    assert str(tmp_path / "nvcatalog-demo-") in said
    assert not home.exists()

    (folder,) = tmp_path.glob("nvcatalog-demo-*")
    again = subprocess.run([*command, "--data-dir", str(folder)], capture_output=True, check=False, text=True)
    assert again.returncode == 0, again.stderr
    assert "21 maps" in again.stdout


def test_sync_brings_in_the_metadata_and_says_how_much(nvcatalog: Run, server: DemoServer, data_dir: Path) -> None:
    done = nvcatalog("sync", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == ["what,new,changed,gone", "collections,10,0,0", "images,72,0,0"]
    assert "collections: 10 new, 0 changed, 0 gone; images: 72 new" in done.stderr.decode()
    done = nvcatalog("sync", "--data-dir", data_dir, "--quiet", "--collections", "555,658")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(server.hits("/api/collections/555/images/")) == 2


def test_sync_can_leave_out_owners_and_start_from_a_seed(
    nvcatalog: Run, server: DemoServer, data_dir: Path, tmp_path: Path
) -> None:
    owner = server.world.collections([555])[0]["owner"]
    nvcatalog("sync", "--data-dir", data_dir, "--quiet", "--exclude-owner", owner)
    assert server.hits("/api/collections/555/images/") == []
    nvcatalog("snapshot", "--data-dir", data_dir)
    done = nvcatalog("sync", "--data-dir", tmp_path / "other", "--quiet", "--seed", data_dir)
    assert done.returncode == 0, done.stderr
    assert len(server.hits("/api/collections/658/images/")) == 1


def test_sync_ends_with_1_and_names_what_could_not_be_had(
    nvcatalog: Run, server: DemoServer, data_dir: Path
) -> None:
    server.world.poison_image(9034)
    done = nvcatalog("sync", "--data-dir", data_dir, "--quiet")
    assert done.returncode == 1
    assert "record 1 of collection 555" in done.stderr.decode()
    assert nvcatalog("sync", "--data-dir", data_dir, "--exclude-owner", "-3").returncode == 2


@pytest.mark.parametrize("output", ["csv", "json", "table"])
def test_a_reader_that_has_enough_is_no_failure(filled: Path, output: str) -> None:
    query = "SELECT range AS number, repeat('x', 100) AS text FROM range(20_000)"
    command = [sys.executable, "-m", "nvcatalog", "sql", query, "--format", output, "--data-dir", str(filled)]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=PATIENCE_S) == 0


def test_what_stdout_cannot_encode_is_escaped(filled: Path) -> None:
    command = [sys.executable, "-m", "nvcatalog", "sql", "SELECT 'é 日' AS x", "--data-dir", str(filled)]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n\xe9 \\u65e5\n", b"")


def test_demo_serve_prints_what_a_shell_can_evaluate_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nvcatalog", "demo", "--serve"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "20"}
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        exports = dict(line.removeprefix("export ").strip().split("=") for line in lines[1:4])
        assert list(exports) == ["NVCATALOG_NEUROVAULT_URL", "NVCATALOG_NEUROSYNTH_URL", "NILEARN_DATA"]
        assert Path(exports["NILEARN_DATA"]).parent == tmp_path
        assert lines[4] == "unset NILEARN_SHARED_DATA NVCATALOG_BASE\n"
        assert all(line.startswith("# ") for line in (lines[0], lines[5]))
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=PATIENCE_S) == 0


def test_freeze_writes_a_lock_file_and_cite_the_citations(nvcatalog: Run, filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "maps.lock.json"
    done = nvcatalog("freeze", path, "--where", "image_id = $id", "-p", "id=10426", "-d", filled, "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == str(path)
    frozen = json.loads(path.read_text(encoding="utf-8"))
    assert [each["image_id"] for each in frozen["images"]] == [10426]
    thawed = nvcatalog("thaw", path, "-d", tmp_path / "elsewhere", "-q")
    assert thawed.returncode == 0, thawed.stderr
    assert thawed.stdout.count(b"\n") == 2
    taken = nvcatalog("freeze", path, "--images", "10426", "-d", filled)
    assert (taken.returncode, b"--overwrite" in taken.stderr) == (2, True)
    again = nvcatalog("freeze", path, "--where", "image_id = 10426", "--gone", "--overwrite", "-d", filled)
    assert b"froze 1 images" in again.stderr
    missing = nvcatalog("freeze", tmp_path / "missing", "--images", "10426,9034", "-d", filled)
    assert missing.returncode == 1
    assert b"1 of 2 images cannot be frozen" in missing.stderr
    forgotten = nvcatalog("freeze", tmp_path / "no", "--where", "image_id = $id", "-d", filled)
    assert forgotten.returncode == 2
    assert b"--param id=" in forgotten.stderr

    cited = nvcatalog("cite", "--where", "image_id = $id", "-p", "id=10426", "--gone", "-d", filled)
    assert cited.returncode == 0, cited.stderr
    assert b"@misc{neurovault_658,\n" in cited.stdout
    assert cited.stdout.count(b"@") == 3, "with the terms that were fetched, Neurosynth too"
    plain = nvcatalog("cite", "--images", "10426", "--format", "text", "-d", filled)
    assert plain.stdout.startswith(b"Maps of 1 NeuroVault collection.\n\n")
    assert nvcatalog("cite", "-d", tmp_path / "none").returncode == 1


def test_whole_collections_can_be_cited_and_exported(nvcatalog: Run, filled: Path, tmp_path: Path) -> None:
    cited = nvcatalog("cite", "--collections", "1058", "-d", filled)
    done = nvcatalog("export", tmp_path / "a.csv", "-w", "images", "-c", "1058", "-i", "10426", "-q", "-d", filled)
    unknown = nvcatalog("cite", "-c", "1058,7", "-d", filled)

    assert b"@misc{neurovault_1058,\n" in cited.stdout
    assert b"neurovault_658" not in cited.stdout
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) > 1
    assert "10426" in [row.split(",")[0] for row in rows]
    assert unknown.returncode == 2
    assert b"no image of these collections is known: 7" in unknown.stderr


def test_export_writes_tables_as_files_and_says_where(nvcatalog: Run, filled: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    chosen = ("--where", "image_id = $id", "-p", "id=10426", "-d", filled)
    done = nvcatalog("export", place, "--what", "images,files", "--format", "csv", *chosen)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == str(place)
    assert b"exported 2 rows of 2 tables" in done.stderr
    with (place / "images.csv").open(encoding="utf-8", newline="") as file:
        assert [row["image_id"] for row in csv.DictReader(file)] == ["10426"]

    refused = nvcatalog("export", place, "-d", filled)
    assert refused.returncode == 2
    assert b"is not empty" in refused.stderr
    assert b"--overwrite" in refused.stderr
    again = nvcatalog("export", place, "-w", "image_words", "--images", "10426", "--overwrite", "-q", "-d", filled)
    assert (again.returncode, again.stderr) == (0, b"")
    assert sorted(path.name for path in place.iterdir()) == ["image_words.parquet", "nvcatalog-export.json"]
    assert nvcatalog("export", tmp_path / "maps.duckdb", "-q", "-d", filled).returncode == 0
    with duckdb.connect(str(tmp_path / "maps.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchall() == [(4,)]


def test_export_of_what_does_not_exist_is_wrong_use_and_without_a_catalog_it_fails(
    nvcatalog: Run, filled: Path, tmp_path: Path
) -> None:
    unknown = nvcatalog("export", tmp_path / "out", "-w", "imagez", "-d", filled)
    assert unknown.returncode == 2
    assert b"did you mean images" in unknown.stderr
    forgotten = nvcatalog("export", tmp_path / "out", "--where", "image_id = $id", "-d", filled)
    assert forgotten.returncode == 2
    assert b"--param id=" in forgotten.stderr
    absent = nvcatalog("export", tmp_path / "out", "-d", tmp_path / "none")
    assert absent.returncode == 1
    assert b"no catalog yet" in absent.stderr
    assert not (tmp_path / "out").exists()
