"""Metadata files are written for nilearn, and read without belief in what it added."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from nvcatalog import sidecars

if TYPE_CHECKING:
    from pathlib import Path

RECORD = {
    "id": 4,
    "name": "clé",
    "modality": "None / Other",
    "contrast_definition": "None > all",
    "data": {"a": 1},
}


def test_an_image_is_written_with_the_paths_that_nilearn_needs_and_without_placeholders(tmp_path: Path) -> None:
    sidecars.write_image(tmp_path, 3, 4, RECORD)
    written = json.loads((tmp_path / "collection_3" / "image_4_metadata.json").read_text("utf-8"))
    assert written == RECORD | {
        "modality": None,
        "relative_path": "collection_3/image_4.nii.gz",
        "resampled_relative_path": "collection_3/image_4_resampled.nii.gz",
    }


def test_a_collection_is_written_with_its_folder(tmp_path: Path) -> None:
    sidecars.write_collection(tmp_path, 4, RECORD)
    written = json.loads((tmp_path / "collection_4" / "collection_metadata.json").read_text("utf-8"))
    assert written == RECORD | {"modality": None, "relative_path": "collection_4"}


def test_what_is_read_is_the_record_without_anybodys_paths(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.json"
    left = {"relative_path": "/old/place", "absolute_path": "/old/place", "resampled_absolute_path": "x"}
    path.write_text(json.dumps(RECORD | left | {"ns_words_relative_path": "x", "pulse_path": "free-form"}))
    assert sidecars.read(path, 4) == RECORD | {"pulse_path": "free-form"}
    assert sidecars.holds(path, RECORD | {"pulse_path": "free-form"})
    assert not sidecars.holds(path, RECORD | {"pulse_path": "another"})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b'{"id": 4, "na', "Unterminated string"),
        (b"[]", "not the record of 4"),
        (b'{"id": 5}', "not the record of 4"),
        (b"{}", "without a usable id"),
        (b'{"id": 4, "x": NaN}', "NaN is not JSON"),
        (b'{"id": 4, "x": "\xff"}', "can't decode"),
    ],
)
def test_what_is_not_the_images_record_is_an_error(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "sidecar.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        sidecars.read(path, 4)
    assert not sidecars.holds(path, RECORD)


def test_a_sidecar_that_is_not_there_is_not_good(tmp_path: Path) -> None:
    assert not sidecars.holds(tmp_path / "sidecar.json", RECORD)
    assert not sidecars.holds(tmp_path, RECORD)
