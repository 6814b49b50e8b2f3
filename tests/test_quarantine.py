"""What is set aside is found by nobody and lost to nobody."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from nvcatalog.quarantine import Quarantine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "collection_3"
    place.mkdir()
    (place / "image_3.nii.gz").write_bytes(b"map")
    (place / "image_3_metadata.json").write_bytes(b"{}")
    return tmp_path


def test_files_keep_their_place_and_sidecars_lose_their_ending(folder: Path) -> None:
    quarantine = Quarantine(folder)
    kept = quarantine.take("collection_3/image_3.nii.gz", "bad")
    sidecar = quarantine.take("collection_3/image_3_metadata.json", "worse")
    place = quarantine.place
    assert place is not None
    assert kept == f"quarantine/{place.name}/collection_3/image_3.nii.gz"
    assert (folder / kept).read_bytes() == b"map"
    assert sidecar == f"quarantine/{place.name}/collection_3/image_3_metadata.json.quarantined"
    assert (place / "WHY.txt").read_text().splitlines() == [
        "collection_3/image_3.nii.gz: bad",
        "collection_3/image_3_metadata.json: worse",
    ]
    assert not list((folder / "collection_3").iterdir())


def test_what_is_not_there_needs_no_place(folder: Path) -> None:
    quarantine = Quarantine(folder)
    assert quarantine.take("collection_3/image_4.nii.gz", "bad") is None
    assert not (folder / "quarantine").exists()


def test_two_within_a_second_are_kept_apart(folder: Path) -> None:
    kept = []
    for content in (b"one", b"two", b"three"):
        (folder / "collection_3/image_3.nii.gz").write_bytes(content)
        kept.append(Quarantine(folder).take("collection_3/image_3.nii.gz", "bad") or "")
    assert [(folder / path).read_bytes() for path in kept] == [b"one", b"two", b"three"]


def test_links_go_as_links_and_what_they_lead_to_stays(folder: Path) -> None:
    (folder / "elsewhere").write_bytes(b"mine")
    (folder / "collection_3/image_4.nii.gz").symlink_to(folder / "elsewhere")
    (folder / "collection_3/image_5.nii.gz").symlink_to(folder / "nowhere")
    quarantine = Quarantine(folder)
    for name in ("image_4.nii.gz", "image_5.nii.gz"):
        assert (folder / (quarantine.take(f"collection_3/{name}", "bad") or "")).is_symlink()
    assert (folder / "elsewhere").read_bytes() == b"mine"


def test_a_folder_on_another_disk_is_no_obstacle_and_who_comes_first_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> Any:
        def rename(*_: object) -> None:
            raise OSError(number, "no")

        return rename

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse(errno.EXDEV))
        kept = Quarantine(folder).take("collection_3/image_3.nii.gz", "bad")
    assert (folder / (kept or "")).read_bytes() == b"map"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse(errno.ENOENT))
        assert Quarantine(folder).take("collection_3/image_3_metadata.json", "bad") is None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse(errno.EACCES))
        with pytest.raises(PermissionError):
            Quarantine(folder).take("collection_3/image_3_metadata.json", "bad")
