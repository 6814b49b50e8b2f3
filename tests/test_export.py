"""An export is whole or not there, replaces nothing but an export, and reads back the same in every tool."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as pa_csv
from pyarrow import ipc, parquet
from pyarrow import json as pa_json

from nvcatalog import Catalog, _formats
from nvcatalog._batch import Batch, Words
from nvcatalog._formats import WRITERS, Column, Relation, plain
from nvcatalog._instances import in_memory
from nvcatalog._store import Store
from nvcatalog.errors import ExportError, InvalidOptionError, InvalidOptionTypeError, SelectionWarning

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = "ABCDEFGH"

# Two public collections, a private one with image 70, one that is gone, an image that is; 30 is as odd as can be.
ROWS = f"""
    INSERT INTO collections (collection_id, name, doi, private, add_date, communities) VALUES
        (3, 'Loss & "gain"', '10.1/a', false, '2015-06-01 12:00:00+00', '[{{"id": 1}}]'),
        (5, 'Zoë''s 😀,' || chr(10) || 'second line', NULL, NULL, NULL, NULL),
        (7, 'Hidden', NULL, true, NULL, NULL),
        (8, 'Gone', NULL, false, NULL, NULL);
    UPDATE collections SET gone_at = '2024-01-01 00:00:00+00' WHERE collection_id = 8;
    INSERT INTO images
        (image_id, collection_id, name, description, file_size, brain_coverage, perc_bad_voxels,
         is_valid, add_date, extra, map_type, number_of_subjects, image_type, smoothness_fwhm)
    VALUES
        (30, 3, E'tab\\t, "quotes" and\\r\\ntwo lines', '', 9007199254740993, 'nan'::DOUBLE, 'inf'::DOUBLE,
         true, '2016-01-21 17:22:25.579422+00', '{{"a": [1.10, null], "é": "x"}}', 'Z map', 20,
         'statistic_map', 0.1),
        (31, 3, 'None', 'NULL', 0, 99.5, 0.0, false, '1969-12-31 23:59:59.999999+00', NULL, 'T map', NULL,
         'statistic_map', 1e-300),
        (50, 5, '日本語', 'null', NULL, NULL, NULL, NULL, NULL, '{{}}', 'Z map', 12, 'statistic_map', NULL),
        (51, 5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'atlas', NULL),
        (52, 5, 'gone', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'Z map', NULL, 'statistic_map', NULL),
        (70, 7, 'hidden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'Z map', NULL, 'statistic_map', NULL),
        (80, 8, 'in a collection that is gone', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'Z map', NULL,
         'statistic_map', NULL);
    UPDATE images SET gone_at = '2024-01-01 00:00:00+00' WHERE image_id = 52;
    INSERT INTO files (image_id, kind, path, size, shape, voxel_size_mm, state) VALUES
        (30, 'original', 'collection_3/image_30.nii.gz', 5, [1, 2, NULL], [2.5, 'nan'::DOUBLE, 'inf'::DOUBLE],
         'present'),
        (31, 'original', 'collection_3/image_31.nii.gz', 5, [], NULL, 'unverified'),
        (70, 'original', 'collection_7/image_70.nii.gz', 5, NULL, [], 'present'),
        (99, 'nidm_zip', 'collection_5/nidm_99.zip', 5, NULL, NULL, 'present');
    INSERT INTO nidm_packs VALUES (99, 5, 50), (98, 7, 70), (97, 5, 52);
    INSERT INTO terms VALUES (1, 'pain'), (2, 'reward, "loss"');
    INSERT INTO words VALUES (30, 1, 0.25), (30, 2, -0.0), (50, 1, 1.0), (70, 1, 0.5);
    INSERT INTO words_status VALUES (30, 'present', 'x', NULL), (70, 'present', 'x', NULL);
    INSERT INTO raw_records (kind, id, raw) VALUES
        ('collection', 3, '{{"id": 3}}'), ('collection', 7, '{{"id": 7, "url": "{{token}}"}}'),
        ('image', 30, '{{"id": 30}}'), ('image', 50, '{{"id": 50}}'), ('pack', 99, '{{"id": 99}}');
    INSERT INTO outcomes VALUES ('f', 'image', 30, 'cached', NULL), ('f', 'image', NULL, 'failed', 'record 1');
    INSERT INTO access VALUES (7, '{TOKEN}');
"""


@pytest.fixture(scope="module")
def filled(new_catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder whose catalog has odd rows, and a snapshot of them."""
    data_dir = tmp_path_factory.mktemp("filled")
    (data_dir / "neurovault").mkdir()
    shutil.copy(new_catalog, data_dir / "neurovault")
    with duckdb.connect(str(data_dir / "neurovault" / "catalog.duckdb")) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(ROWS)
    Catalog(data_dir).snapshot()
    return data_dir


@pytest.fixture
def catalog(filled: Path) -> Catalog:
    return Catalog(filled)


@pytest.fixture
def export(catalog: Catalog, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that exports quietly, into a new folder unless said otherwise."""

    def export(*what: str, target: Path = tmp_path / "out", **options: Any) -> Path:
        return catalog.export(target, what or None, **{"verbose": 0, **options})

    return export


def ids(place: Path, table: str = "images", column: str = "image_id") -> list[Any]:
    return list(parquet.read_table(place / f"{table}.parquet").column(column).to_pylist())


# Every format in every tool. Each reader gives columns of values, as the tool has them.


def read_duckdb(place: Path, table: str, format_: str) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        if format_ == "duckdb":
            connection.execute(f"ATTACH '{place}' AS export (READ_ONLY)")
            return connection.sql(f"FROM export.{table}").to_arrow_table()
        if format_ == "arrow":
            with pa.memory_map(str(place / f"{table}.arrow")) as source:
                connection.register("mine", ipc.open_file(source).read_all())
                return connection.sql("FROM mine").to_arrow_table()
        readers = {
            "parquet": "read_parquet('{}')",
            # Left alone, it takes "inf" for a date, or for text.
            "csv": "read_csv('{}', allow_quoted_nulls = false, types = {{{types}}})",
            "ndjson": "read_ndjson('{}')",
        }
        types = "'perc_bad_voxels': 'DOUBLE'" if table == "images" else ""
        path = place / f"{table}.{format_}"
        return connection.sql(f"FROM {readers[format_].format(path, types=types)}").to_arrow_table()


def read_pyarrow(place: Path, table: str, format_: str) -> pa.Table:
    path = place / f"{table}.{format_}"
    if format_ == "parquet":
        return parquet.read_table(path)
    if format_ == "csv":
        texts = pa_csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""])
        return pa_csv.read_csv(
            path, convert_options=texts, parse_options=pa_csv.ParseOptions(newlines_in_values=True)
        )
    return ipc.open_file(path).read_all() if format_ == "arrow" else pa_json.read_json(path)


def read_pandas(place: Path, table: str, format_: str) -> pa.Table:
    path, arrow = place / f"{table}.{format_}", {"dtype_backend": "pyarrow"}
    readers: dict[str, Callable[[], pd.DataFrame]] = {
        "parquet": lambda: pd.read_parquet(path, **arrow),  # type: ignore[call-overload]
        "csv": lambda: pd.read_csv(path, keep_default_na=False, na_values=["", "NaN"], **arrow),  # type: ignore[call-overload]
        "arrow": lambda: pd.read_feather(path, **arrow),  # type: ignore[arg-type]
        "ndjson": lambda: pd.read_json(path, lines=True, engine="pyarrow", **arrow),  # type: ignore[call-overload]
    }
    return pa.Table.from_pandas(readers[format_](), preserve_index=False)


def read_polars(place: Path, table: str, format_: str) -> pa.Table:
    path = place / f"{table}.{format_}"
    readers: dict[str, Callable[[], pl.DataFrame]] = {
        "parquet": lambda: pl.read_parquet(path),
        "csv": lambda: pl.read_csv(path, infer_schema_length=None),
        "arrow": lambda: pl.read_ipc(path),
        "ndjson": lambda: pl.read_ndjson(path, infer_schema_length=None),
    }
    return readers[format_]().to_arrow()


def read_dask(place: Path, table: str, format_: str) -> pa.Table:
    import dask.dataframe

    dd: Any = dask.dataframe  # whose types are incomplete
    path = place / f"{table}.{format_}"
    readers: dict[str, Callable[[], Any]] = {
        "parquet": lambda: dd.read_parquet(path, dtype_backend="pyarrow"),
        "csv": lambda: dd.read_csv(
            path, keep_default_na=False, na_values=["", "NaN"], dtype_backend="pyarrow", blocksize=None
        ),
        "arrow": lambda: dd.from_map(pd.read_feather, [path], dtype_backend="pyarrow"),
        # Its own reader rounds whole numbers beyond 2 to the 53rd where others are missing, as pandas does.
        "ndjson": lambda: dd.from_map(pd.read_json, [path], lines=True, engine="pyarrow", dtype_backend="pyarrow"),
    }
    with warnings.catch_warnings():  # of pandas, about how dask calls it
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return pa.Table.from_pandas(readers[format_]().compute(scheduler="sync"), preserve_index=False)


READERS = {
    "duckdb": read_duckdb,
    "pyarrow": read_pyarrow,
    "pandas": read_pandas,
    "polars": read_polars,
    "dask": read_dask,
}
CASES = [(format_, tool) for format_ in ("parquet", "csv", "arrow", "ndjson") for tool in READERS]


@pytest.mark.parametrize(("format_", "tool"), [*CASES, ("duckdb", "duckdb")])
@pytest.mark.parametrize("table", ["images", "collections", "files", "image_words"])
def test_every_format_reads_back_the_same_in_every_tool(
    catalog: Catalog, whole: Callable[[str], Path], format_: str, tool: str, table: str
) -> None:
    expected = catalog.sql(f"FROM {table}").arrow()
    sorted_by = "image_id" if "image_id" in expected.column_names else "collection_id"
    public = pc.invert(pc.is_in(expected[sorted_by], pa.array([7, 70])))
    expected = expected.filter(public)

    found = READERS[tool](whole(format_), table, format_)

    # In JSON the order means nothing, and polars keeps none.
    assert {*found.column_names} == {*expected.column_names}
    assert found.column_names == expected.column_names or (format_, tool) == ("ndjson", "polars")
    order = [(sorted_by, "ascending")] + ([("term", "ascending")] if table == "image_words" else [])
    found, expected = found.sort_by(order), expected.sort_by(order)
    for name in expected.column_names:
        kind = expected.schema.field(name).type
        is_empty = found[name].null_count == found.num_rows
        assert is_typed(found.schema.field(name).type, kind, format_, is_empty=is_empty), name
        lost = {"nan", "inf"} if format_ == "ndjson" else {"nan"} if tool in ("pandas", "dask") else set()
        if format_ == "csv" and tool in ("pandas", "dask"):
            lost = lost | {""}  # they take "" for nothing, quoted or not
        assert values(found[name], kind, lost) == values(expected[name], kind, lost), name


def test_json_lines_of_no_rows_are_an_empty_file_which_tools_read_by_a_schema(export: Callable[..., Path]) -> None:
    with pytest.warns(SelectionWarning, match="No image was chosen"):
        place = export("files", where="false", format="ndjson")
    file = place / "files.ndjson"
    columns = json.loads((place / "nvcatalog-export.json").read_text())["tables"]["files"]["columns"]

    assert file.read_bytes() == b""
    assert pd.read_json(file, lines=True).empty
    assert duckdb.execute(f"FROM read_ndjson('{file}')").fetchall() == []
    assert pl.read_ndjson(file, schema=dict.fromkeys(columns, pl.String)).columns == list(columns)


@pytest.fixture(scope="module")
def whole(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives an export of all rows in a format, each made once."""
    folder = tmp_path_factory.mktemp("whole")
    what = ("images", "collections", "files", "image_words")
    made: dict[str, Path] = {}

    def whole(format_: str) -> Path:
        if format_ not in made:
            made[format_] = Catalog(filled).export(folder / format_, what, format=format_, gone=True, verbose=0)
        return made[format_]

    return whole


def is_typed(found: pa.DataType, expected: pa.DataType, format_: str, *, is_empty: bool) -> bool:
    """Whether a column came with the type it has, as far as the format knows types."""
    if format_ in ("csv", "ndjson"):
        if is_empty:  # nothing says what there might be
            return True
        if pa.types.is_timestamp(expected):
            return bool(pa.types.is_timestamp(found) or is_text(found))
        if pa.types.is_list(expected) and format_ == "csv":
            return is_text(found)
        if pa.types.is_integer(expected):
            return bool(pa.types.is_integer(found))
    if is_text(expected):
        return is_text(found)
    if pa.types.is_list(expected):
        return bool(pa.types.is_list(found) or pa.types.is_large_list(found))
    if pa.types.is_timestamp(expected):
        return bool(pa.types.is_timestamp(found) and found.tz == "UTC")
    return bool(found == expected)


def is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or isinstance(kind, pa.JsonType)
    )


def values(column: pa.ChunkedArray, kind: pa.DataType, lost: set[str]) -> list[Any]:
    return [value(each, kind, lost) for each in column.to_pylist()]


def value(found: Any, kind: pa.DataType, lost: set[str]) -> Any:
    """Return a value as Python has it, whatever a format makes of it; None for what a tool cannot tell."""
    if found is None or (found == "" and "" in lost):
        return None
    if pa.types.is_timestamp(kind):
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if pa.types.is_list(kind):
        return [
            value(each, kind.value_type, lost | {"nan", "inf"})
            for each in (json.loads(found) if isinstance(found, str) else found)
        ]
    if pa.types.is_floating(kind):
        if math.isnan(found) or math.isinf(found):
            return None if {"nan" if math.isnan(found) else "inf"} & lost else repr(float(found))
        return float(found)
    return found


# What is in it


def test_what_is_not_named_is_the_metadata_and_words_come_only_when_asked_for(
    export: Callable[..., Path], tmp_path: Path
) -> None:
    names = ["collections", "files", "images", "nidm_packs", "stat_maps"]
    assert sorted(path.stem for path in export().glob("*.parquet")) == names

    place = export("words", "Terms", target=tmp_path / "words")
    assert ids(place, "words") == [30, 30, 50]
    assert ids(place, "terms", "term") == ["pain", 'reward, "loss"']


def test_private_and_gone_rows_are_left_out_unless_asked_for(export: Callable[..., Path], tmp_path: Path) -> None:
    def images(**options: Any) -> list[int]:
        return ids(export(target=tmp_path / "-".join(["x", *options]), **options))

    assert images() == [30, 31, 50, 51]
    assert images(gone=True) == [30, 31, 50, 51, 52, 80]
    assert images(private=True) == [30, 31, 50, 51, 70]
    assert images(private=True, gone=True) == [30, 31, 50, 51, 52, 70, 80]
    assert ids(tmp_path / "x", "collections", "collection_id") == [3, 5]
    assert ids(tmp_path / "x-gone", "collections", "collection_id") == [3, 5, 8]
    assert ids(tmp_path / "x-private", "files") == [30, 31, 70, 99]
    assert ids(tmp_path / "x", "nidm_packs", "pack_id") == [99]
    assert sorted(ids(tmp_path / "x-gone", "nidm_packs", "pack_id")) == [97, 99]


def test_tokens_are_never_exported(export: Callable[..., Path], catalog: Catalog) -> None:
    with pytest.raises(InvalidOptionError, match=r"access.*tokens of private collections.*never exported"):
        export("access", private=True)
    everything = {name for (name,) in catalog.sql("SELECT table_name FROM duckdb_tables()").fetchall()} - {
        "access"
    }
    place = export(*everything, private=True, gone=True, format="ndjson")
    written = "".join(path.read_text() for path in place.iterdir())
    assert '{\\"id\\": 7' in written
    assert TOKEN not in written


def test_a_condition_restricts_images_and_what_belongs_to_them(export: Callable[..., Path]) -> None:
    what = (
        "images",
        "collections",
        "files",
        "nidm_packs",
        "words",
        "raw_records",
        "outcomes",
        "terms",
        "stat_maps",
    )
    place = export(*what, where="n_subjects < $most AND collections.name LIKE '%second%'", params={"most": 20})

    assert ids(place) == ids(place, "stat_maps") == [50]
    assert ids(place, "collections", "collection_id") == [5]
    assert ids(place, "files") == [99]  # the pack that the image is of
    assert ids(place, "nidm_packs", "pack_id") == [99]
    assert ids(place, "words") == [50]
    assert ids(place, "raw_records", "id") == [50, 99]
    assert ids(place, "outcomes", "id") == []
    assert ids(place, "terms", "term_id") == [1, 2]


def test_images_that_were_chosen_and_are_left_out_are_counted(export: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.warns(SelectionWarning, match=r"2 of 4 images .* unknown.*private=True[^=]*\. 1 images are gone"):
        assert ids(export("images", image_ids=[30, 52, 70, 1])) == [30, 52], "as in words, named ones are taken"
    with pytest.warns(SelectionWarning, match="^1 images that match are gone .* without a file here"):
        assert ids(export("images", target=tmp_path / "some", where="image_id IN (30, $n)", n=52)) == [30]
    with pytest.warns(SelectionWarning, match="1 of 4 images .* not exported: unknown to this catalog$"):
        place = export("images", target=tmp_path / "more", image_ids=[30, 52, 70, 1], private=True, gone=True)
    assert ids(place) == [30, 52, 70]
    with pytest.warns(SelectionWarning, match="No image was chosen"):
        assert ids(export("images", target=tmp_path / "none", where="false")) == []


def test_it_says_whose_the_terms_in_it_are(tmp_path: Path) -> None:
    batch = Batch(words={30: Words({"pain": 0.5}, "terms_20k"), 31: Words({"pain": 7.5}, "gclda")})
    batch.add_record("collection", {"id": 3})
    for image_id in batch.words:
        batch.add_record("image", {"id": image_id, "collection_id": 3})
    catalog = Catalog(tmp_path)
    Store(catalog.folder).land(batch)

    def licences(what: str, *image_ids: int) -> set[str]:
        place = catalog.export(tmp_path / "out", what, image_ids=image_ids, overwrite=True, verbose=0)
        return {*json.loads((place / "nvcatalog-export.json").read_text())["licences"]}

    assert licences("image_words", 30, 31) == {"records", "terms, words", "terms, words of gclda"}
    assert licences("image_words", 31) == {"records", "terms, words of gclda"}
    assert licences("images", 30) == {"records"}


def test_it_says_what_it_holds_and_what_columns_mean(export: Callable[..., Path], tmp_path: Path) -> None:
    place = export("images", where="collection_id < 6 AND stat = 'z'")
    about = json.loads((place / "nvcatalog-export.json").read_text())

    assert about["chosen"] == {"where": "collection_id < 6 AND stat = 'z'"}
    assert about["tables"]["images"]["file"] == "images.parquet"
    assert about["tables"]["images"]["rows"] == 2
    meaning = about["tables"]["images"]["columns"]["number_of_subjects"]["comment"]
    assert "0 means unknown" in meaning
    assert about["licences"].keys() == {"records"}
    assert "CC0" in about["licences"]["records"]
    field = parquet.read_schema(place / "images.parquet").field("number_of_subjects")
    assert field.metadata[b"comment"].decode() == meaning
    with duckdb.connect(str(export("images", target=tmp_path / "maps.duckdb")), read_only=True) as connection:
        query = "SELECT comment FROM duckdb_columns() WHERE column_name = 'number_of_subjects'"
        assert connection.execute(query).fetchall() == [(meaning,)]
        facts = dict(connection.execute("FROM nvcatalog_export").fetchall())
        assert json.loads(facts["tables"])["images"]["rows"] == 4


def test_whoever_lands_rows_meanwhile_is_not_held_up(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(catalog.folder.parent, data_dir)
    store, rows_of = Store(data_dir / "neurovault"), _formats._rows_of
    landed: list[list[str]] = []

    def land_while_reading(*args: Any) -> Any:
        rows = rows_of(*args)
        batch = Batch()
        batch.add("catalog_info", {"key": "mine", "value": str(len(landed))})
        landed.append(store.land(batch, timeout_s=0.0))
        return rows

    monkeypatch.setattr(_formats, "_rows_of", land_while_reading)
    place = Catalog(data_dir).export(tmp_path / "out", verbose=0)
    assert landed == [[]] * 5
    assert ids(place) == [30, 31, 50, 51]


# Where it goes


def test_a_folder_that_is_not_empty_is_refused(export: Callable[..., Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    assert export(target=mine) == mine  # an empty one will do
    with pytest.raises(
        InvalidOptionError, match=r"mine is not empty \(collections.parquet, .* and 3 more\).*overwrite"
    ):
        export(target=mine)


def test_overwriting_replaces_an_export_and_nothing_else(export: Callable[..., Path], tmp_path: Path) -> None:
    place = export("images", "words")
    assert export("images", format="csv", overwrite=True) == place
    assert sorted(path.name for path in place.iterdir()) == ["images.csv", "nvcatalog-export.json"]

    (place / "notes.txt").write_text("mine")
    with pytest.raises(InvalidOptionError, match=r"holds more than an export \(notes.txt\)"):
        export(overwrite=True)
    (place / "nvcatalog-export.json").unlink()
    with pytest.raises(InvalidOptionError, match="is no export"):
        export(overwrite=True)
    assert (place / "notes.txt").read_text() == "mine"
    assert (place / "images.csv").is_file()
    assert list(tmp_path.iterdir()) == [place]


def test_what_a_forged_manifest_lists_elsewhere_is_not_touched(
    export: Callable[..., Path], tmp_path: Path
) -> None:
    place = export("images")
    (tmp_path / "mine.txt").write_text("mine")
    manifest = place / "nvcatalog-export.json"
    written = manifest.read_text()
    (place / "mine.txt").write_text("mine")
    outside = (tmp_path / "mine.csv").absolute()
    for name in ("../mine.csv", str(outside), "mine.txt", "sub/mine.csv", "", "..", "images.parquet/", ["x"]):
        about = json.loads(written)
        about["tables"]["forged"] = {"file": name, "bytes": 4}
        manifest.write_text(json.dumps(about))
        with pytest.raises(InvalidOptionError, match="is no export"):
            export("images", overwrite=True)
    for text in (written.replace('"bytes"', '"size"'), "[]", "[" * 100_000, "{"):
        manifest.write_text(text)
        with pytest.raises(InvalidOptionError, match="is no export"):
            export("images", overwrite=True)
    (place / "mine.txt").unlink()
    manifest.write_text(written)
    (place / "images.parquet").unlink()
    (place / "images.parquet").mkdir()
    with pytest.raises(InvalidOptionError, match=r"holds more than an export \(images.parquet\)"):
        export("images", overwrite=True)


def test_what_somebody_made_of_an_exports_file_since_is_not_replaced(
    export: Callable[..., Path], tmp_path: Path
) -> None:
    place = export("images", "files")
    content = (place / "images.parquet").read_bytes()
    (place / "images.parquet").write_bytes(content + b"mine")
    with pytest.raises(InvalidOptionError, match=r"\(images.parquet\), or not what it wrote; move that away"):
        export("files", overwrite=True)

    (tmp_path / "elsewhere").write_bytes(content)
    (place / "images.parquet").unlink()
    (place / "images.parquet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidOptionError, match=r"\(images.parquet\), or not what it wrote; move that away"):
        export("files", overwrite=True)
    (place / "images.parquet").unlink()
    assert export("files", overwrite=True) == place
    assert (tmp_path / "elsewhere").read_bytes() == content


def test_what_is_put_into_a_former_export_meanwhile_stays(
    export: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rows_of = export("images", "files"), _formats._rows_of

    def write_meanwhile(*args: Any) -> Any:
        (place / "images.parquet").write_text("mine")
        return rows_of(*args)

    monkeypatch.setattr(_formats, "_rows_of", write_meanwhile)
    with pytest.raises(ExportError, match="is complete; what was put beside the former one is in"):
        export("files", overwrite=True)

    [aside] = tmp_path.glob(".out.*.old")
    assert [path.name for path in aside.iterdir()] == ["images.parquet"]
    assert (aside / "images.parquet").read_text() == "mine"
    assert ids(place, "files") == [30, 31, 99]


@pytest.mark.parametrize("ending", ["parquet", "csv", "arrow", "ndjson", "CSV"])
def test_a_table_in_a_file_of_its_own_is_the_file_of_a_folder(
    export: Callable[..., Path], whole: Callable[[str], Path], tmp_path: Path, ending: str
) -> None:
    file = export("collections", target=tmp_path / f"mine.{ending}", gone=True)

    assert file == tmp_path / f"mine.{ending}"
    assert list(tmp_path.iterdir()) == [file]
    format_ = ending.lower()
    file.rename(tmp_path / f"collections.{format_}")
    assert read_polars(tmp_path, "collections", format_) == read_polars(whole(format_), "collections", format_)


def test_a_file_is_replaced_only_where_that_is_asked_for(export: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("mine")
    with pytest.raises(InvalidOptionError, match=r"mine.csv exists; give another file, or overwrite=True"):
        export("images", target=file)
    assert file.read_text() == "mine"
    assert export("images", target=file, format="csv", overwrite=True) == file
    assert file.read_text().startswith("image_id")

    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidOptionError, match=r"folder\.csv is a folder; give a file, such as"):
        export("images", target=tmp_path / "folder.csv", overwrite=True)


def test_a_name_that_promises_something_else_is_refused(export: Callable[..., Path], tmp_path: Path) -> None:
    for what in ((), ("images", "files")):
        with pytest.raises(
            InvalidOptionError,
            match=r"target is 'x\.csv', a file, and \d tables .*; name one.*--what.* or give a folder",
        ):
            export(*what, target=tmp_path / "x.csv")
    for ending, format_ in (("csv", "parquet"), ("duckdb", "csv"), ("parquet", "duckdb")):
        with pytest.raises(
            InvalidOptionError,
            match=rf"target is 'x\.{ending}', and format is '{format_}'; .* ends in \.{format_}",
        ):
            export("images", target=tmp_path / f"x.{ending}", format=format_)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_a_duckdb_export_and_no_other_file(
    export: Callable[..., Path], tmp_path: Path
) -> None:
    file = tmp_path / "maps.duckdb"
    for overwrite in (False, True):
        assert export("images", target=file, overwrite=overwrite) == file
    with pytest.raises(InvalidOptionError, match=r"maps\.duckdb exists"):
        export("images", target=file)

    with duckdb.connect(str(file)) as connection:
        with pytest.raises(InvalidOptionError, match=r"maps\.duckdb (is open elsewhere|cannot be looked at)"):
            export("images", target=file, overwrite=True)
        connection.execute("CREATE TABLE mine AS SELECT 1 AS one")
    with pytest.raises(InvalidOptionError, match=r"holds more than an export \(mine\)"):
        export("images", target=file, overwrite=True)
    with duckdb.connect(str(file)) as connection:
        connection.execute("DROP TABLE nvcatalog_export")
    with pytest.raises(InvalidOptionError, match="is no export"):
        export("images", target=file, overwrite=True)
    file.write_text("no database")
    with pytest.raises(InvalidOptionError, match="cannot be looked at"):
        export("images", target=file, overwrite=True)
    assert file.read_text() == "no database"


def test_a_target_of_the_wrong_kind_is_refused(
    export: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.duckdb").mkdir()
    (tmp_path / "left.duckdb.wal").write_text("")
    for name, why in (("file", "is a file"), ("folder.duckdb", "is a folder"), ("left.duckdb", "left.duckdb.wal")):
        with pytest.raises(InvalidOptionError, match=why):
            export(target=tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOptionError, match="the folder you are in"):
        export(target=".")
    for target in (3, None, "", b"out"):
        with pytest.raises(InvalidOptionTypeError, match="target is"):
            export(target=target)
    for target in ("a" * 300, "a" * 240, "/".join(["a" * 200] * 30), "a\0b", "a\udc80", "~nobody at all/a"):
        with pytest.raises(InvalidOptionError, match=r"target is .*; give another path, such as 'out'"):
            export(target=target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.duckdb", "left.duckdb.wal"]


def test_a_verbosity_that_is_none_is_refused(export: Callable[..., Path]) -> None:
    with pytest.raises(InvalidOptionError, match="verbose is 'loud'; give a number"):
        export(verbose="loud")


@pytest.mark.parametrize("ending", ["json", "jsonl", "feather", "pq", "tsv", "xlsx", "csv.gz"])
def test_a_file_of_a_kind_that_is_not_written_is_refused_with_those_that_are(
    export: Callable[..., Path], tmp_path: Path, ending: str
) -> None:
    with pytest.raises(InvalidOptionError, match=r"no \..* is written; give .* \.parquet, \.csv, .* or a folder"):
        export("images", target=tmp_path / f"maps.{ending}")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f"maps.{ending}").mkdir()
    assert ids(export("images", target=tmp_path / f"maps.{ending}")) == [30, 31, 50, 51]


def test_a_target_among_the_catalogs_own_files_is_refused(
    export: Callable[..., Path], catalog: Catalog, tmp_path: Path
) -> None:
    part = catalog.folder / "snapshots" / "latest" / "images" / "part-0.parquet"
    before = part.read_bytes()
    (tmp_path / "link").symlink_to(catalog.folder / "snapshots" / "latest" / "images")
    (tmp_path / "disk").mkdir()
    (catalog.folder / "collection_3").symlink_to(tmp_path / "disk")
    own = [
        part,
        tmp_path / "link" / part.name,
        catalog.folder / "snapshots" / "mine",
        catalog.folder / "collection_5" / "maps.csv",
        catalog.folder / "collection_3" / "maps.csv",
        tmp_path / "disk" / "maps.csv",
    ]
    for target in own:
        with pytest.raises(InvalidOptionError, match="among the catalog's own snapshots and collections"):
            export("images", target=target, overwrite=True)
    (catalog.folder / "collection_3").unlink()
    assert part.read_bytes() == before
    export("images", target=catalog.folder / "out.csv").unlink()


def test_a_target_by_way_of_a_link_stays_a_link(export: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    assert export(target=tmp_path / "link") == tmp_path / "there"
    assert (tmp_path / "link").is_symlink()
    assert ids(tmp_path / "link") == [30, 31, 50, 51]


FULL = """
import resource, signal, sys
from nvcatalog import Catalog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for format_ in ("parquet", "csv", "duckdb"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    try:
        place = f"{sys.argv[2]}/{format_}"
        Catalog(sys.argv[1]).export(place, "images", format=format_, overwrite=True, verbose=0)
    except Exception as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(type(error).__name__, "cannot be written" in str(error))
"""


def test_a_full_disk_leaves_the_former_export_and_nothing_else(
    export: Callable[..., Path], filled: Path, tmp_path: Path
) -> None:
    for format_ in ("parquet", "csv", "duckdb"):
        export("collections", target=tmp_path / format_, format=format_)

    done = subprocess.run(
        [sys.executable, "-c", FULL, filled, tmp_path], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == ["ExportError True"] * 3, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "duckdb", "parquet"]
    assert ids(tmp_path / "parquet", "collections", "collection_id") == [3, 5]
    assert (tmp_path / "csv" / "collections.csv").is_file()


def test_ctrl_c_leaves_nothing(
    export: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return rows_of(*args)

    rows_of = _formats._rows_of
    monkeypatch.setattr(_formats, "_rows_of", interrupted)
    for format_ in ("parquet", "ndjson", "duckdb"):
        with pytest.raises(KeyboardInterrupt):
            export(target=tmp_path / format_, format=format_)
    assert list(tmp_path.iterdir()) == []


# What callers get wrong


def test_names_that_do_not_exist_are_told_with_those_that_do(export: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"'imags'.*stat_maps.*did you mean images"):
        export("images", "imags")
    with pytest.raises(
        InvalidOptionError, match="format is 'xls'; give one of parquet, csv, arrow, ndjson, duckdb"
    ):
        export(format="xls")
    for what in ([], [3], 3):
        with pytest.raises(InvalidOptionTypeError, match="give names of tables"):
            Catalog(tmp_path).export(tmp_path / "out", what)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_without_a_catalog_there_is_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no catalog yet"):
        Catalog(tmp_path / "empty").export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# Any values

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
TABLE = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | TEXT | st.sampled_from(['"', ",", "\r\n", "NULL", "nan", " ", "'"]),
            "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
            "real": st.none() | st.floats(),
            "list": st.none() | st.lists(st.none() | st.floats(), max_size=3),
            "time": st.none()
            | st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
        }
    ),
    min_size=1,
    max_size=5,
)
SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "whole": pa.int64(),
        "real": pa.float64(),
        "list": pa.list_(pa.float64()),
        "time": pa.timestamp("us", "UTC"),
    }
)


@given(rows=TABLE)
@settings(max_examples=15)
def test_any_values_come_back(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    with in_memory() as source:
        source.execute("SET TimeZone = 'UTC'")
        source.register("mine", pa.Table.from_pylist(rows, SCHEMA))
        kinds = source.execute("DESCRIBE mine").fetchall()
        relation = Relation("mine", None, tuple(Column(name, kind, None) for name, kind, *_ in kinds))
        for format_ in ("parquet", "csv", "ndjson"):
            columns = ", ".join(f'{plain(column, format_)} AS "{column.name}"' for column in relation.columns)
            with WRITERS[format_](folder / format_) as writer:
                assert writer.write(relation, f"SELECT {columns} FROM mine", source) == len(rows)

    assert same(parquet.read_table(folder / "parquet" / "mine.parquet").to_pylist(), rows, ())
    lines = (folder / "ndjson" / "mine.ndjson").read_text(encoding="utf-8").split("\n")
    assert same([json.loads(line, parse_constant=pytest.fail) for line in lines if line], rows, ("real", "list"))
    with (folder / "csv" / "mine.csv").open(newline="", encoding="utf-8") as file:
        assert same(list(map(from_csv, csv.DictReader(file))), rows, ("list",))


def from_csv(row: dict[str, str]) -> dict[str, Any]:
    read: dict[str, Callable[[str], Any]] = {
        "whole": int,
        "real": float,
        "list": json.loads,
        "time": str,
        "text": str,
    }
    return {name: read[name](text) if text else None for name, text in row.items()}


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]], finite: tuple[str, ...]) -> bool:
    """Whether rows are the same, but for what a format has no values for."""

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [plain(name, each) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None if name in finite else repr(value)
        if name == "time" and value is not None:
            return datetime.fromisoformat(value) if isinstance(value, str) else value
        return value or None if name == "text" else value

    def rows(of: list[dict[str, Any]]) -> list[Any]:
        return [[(name, plain(name, row[name])) for name in SCHEMA.names] for row in of]

    return rows(found) == rows(expected)
