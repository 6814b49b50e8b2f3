"""The view people select by, checked on real records against the same rules in Python."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nvcatalog import Catalog
from nvcatalog._batch import Batch
from nvcatalog._store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parent / "data"
STATS = {
    "T map": "t",
    "Z map": "z",
    "F map": "f",
    "univariate-beta map": "beta",
    "variance": "varcope",
    "P map (given null hypothesis)": "p",
    "T": "t",
    "Z": "z",
    "F": "f",
    "U": "beta",
    "V": "varcope",
    "P": "p",
}
Record = dict[str, Any]


def real_records(name: str) -> list[Record]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """Return the catalog of the real records, for all who only ask; open, so that nobody need open it again."""
    data_dir = tmp_path_factory.mktemp("data")
    folder = data_dir / "neurovault"
    folder.mkdir()
    batch = Batch()
    for record in real_records("collections.jsonl"):
        batch.add_record("collection", record)
    for record in real_records("images.jsonl"):
        batch.add_record("image", record)
    assert Store(folder).land(batch) == []
    with Store(folder).reading():
        yield Catalog(data_dir)


@pytest.fixture
def catalog(data_dir: Path) -> Catalog:
    (data_dir / "neurovault").mkdir(parents=True)
    return Catalog(data_dir)


def rows(catalog: Catalog, columns: str) -> dict[int, tuple[Any, ...]]:
    answer = catalog.sql(f"SELECT image_id, {columns} FROM stat_maps ORDER BY image_id")
    return {image_id: tuple(rest) for image_id, *rest in answer.fetchall()}


def name_or_none(text: str | None) -> str | None:
    decoded = html.unescape(text.strip()) if text else ""
    return None if decoded.lower() in {"", "none", "none / other", "null", "n/a", "na"} else decoded


def test_every_image_but_atlases_is_a_row(real: Catalog) -> None:
    expected = {record["id"] for record in real_records("images.jsonl") if record.get("image_type") != "atlas"}
    assert set(rows(real, "name")) == expected


def test_statistic_and_sample_size_are_read_from_labels_and_codes(real: Catalog) -> None:
    found = rows(real, "stat, n_subjects")
    for record in real_records("images.jsonl"):
        if record["id"] in found:
            subjects = record.get("number_of_subjects")
            subjects = subjects if isinstance(subjects, int) and subjects > 0 else None
            assert found[record["id"]] == (STATS.get(record.get("map_type") or ""), subjects)
    assert len({stat for stat, _ in found.values()}) > 4


def test_task_and_contrast_are_names_or_null_never_placeholders(real: Catalog) -> None:
    found = rows(real, "task, contrast")
    for record in real_records("images.jsonl"):
        if record["id"] in found:
            fields = ("cognitive_paradigm_cogatlas", "cognitive_contrast_cogatlas")
            assert found[record["id"]] == tuple(name_or_none(record.get(field)) for field in fields)
    assert any(task for task, _ in found.values())


def test_entities_in_names_are_decoded(catalog: Catalog) -> None:
    add(catalog, {"id": 1, "cognitive_contrast_cogatlas": "subject&#39;s choice &amp; &quot;rest&quot;"})
    assert rows(catalog, "contrast")[1] == ('subject\'s choice & "rest"',)


def test_a_placeholder_is_null_however_it_is_typed(catalog: Catalog) -> None:
    names = ("cognitive_paradigm_cogatlas", "cognitive_contrast_cogatlas")
    fields = (*names, *(f"{name}_id" for name in names))
    texts = ["None / Other", " none ", "", "  ", "NULL", "n/a", "Na"]
    placeholders = [{"id": n, **dict.fromkeys(fields, text)} for n, text in enumerate(texts, 1)]
    values = [{"id": 100 + n, **dict.fromkeys(fields, f"{text}s")} for n, text in enumerate(texts, 1)]
    add(catalog, *placeholders, *values)
    found = rows(catalog, "task, task_id, contrast, contrast_id")
    for n, text in enumerate(texts, 1):
        assert found[n] == (None, None, None, None), text
        assert found[100 + n] == (f"{text}s".strip(), f"{text}s", f"{text}s".strip(), f"{text}s")


def test_nilearn_default_is_what_nilearn_keeps(real: Catalog) -> None:
    from nilearn.datasets import neurovault

    collections = {record["id"]: record for record in real_records("collections.jsonl")}
    keep_image = neurovault.ResultFilter(**neurovault.basic_image_terms())
    keep_collection = neurovault.ResultFilter(**neurovault.basic_collection_terms())
    found = rows(real, "nilearn_default")
    for record in real_records("images.jsonl"):
        if record["id"] in found:
            parent = collections.get(record.get("collection_id"))
            kept = bool(keep_image(record)) and parent is not None and bool(keep_collection(parent))
            assert found[record["id"]] == (kept,), record["id"]
    assert {kept for (kept,) in found.values()} == {True, False}


def test_ibma_candidates_are_unthresholded_group_maps_of_enough_subjects(catalog: Catalog) -> None:
    good: Record = {
        "modality": "fMRI-BOLD",
        "analysis_level": "group",
        "map_type": "T map",
        "is_thresholded": False,
        "not_mni": False,
        "brain_coverage": 81.0,
        "number_of_subjects": 20,
    }
    spoilt: list[Record] = [
        {"modality": "PET FDG"},
        {"analysis_level": "single-subject"},
        {"map_type": "univariate-beta map"},
        {"is_thresholded": True},
        {"is_thresholded": None},
        {"not_mni": True},
        {"brain_coverage": 40.0},
        {"number_of_subjects": 10},
        {"number_of_subjects": 0},
    ]
    add(catalog, *({"id": number, **good, **change} for number, change in enumerate([{}, *spoilt], start=1)))
    found = rows(catalog, "ibma_candidate")
    assert [found[number] for number in range(1, len(spoilt) + 2)] == [(True,), *[(False,)] * len(spoilt)]


def test_path_is_where_the_file_is_and_null_when_it_is_not_here(catalog: Catalog) -> None:
    store = Store(catalog.folder)
    batch = Batch()
    batch.add(
        "files", {"image_id": 1, "kind": "original", "path": "collection_1/image_1.nii.gz", "state": "present"}
    )
    add(catalog, {"id": 1}, {"id": 2})
    store.land(batch)
    found = rows(catalog, "path")
    assert (found[1], found[2]) == (("collection_1/image_1.nii.gz",), (None,))


def add(catalog: Catalog, *records: Record) -> None:
    batch = Batch()
    for record in records:
        batch.add_record("image", {"collection_id": 1, "image_type": "statistic_map", **record})
    assert Store(catalog.folder).land(batch) == []
