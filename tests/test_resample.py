"""A resampled map is nilearn's to the last byte, and what cannot be resampled says so by name."""

from __future__ import annotations

import ast
import gzip
import os
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import nilearn
import nilearn.datasets.neurovault as theirs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.image import resample_img
from oracle import nilearn as nilearn_fetch
from oracle import nilearn_dir as nilearn_dir

import nvcatalog
from nvcatalog import proving, resample, storage
from nvcatalog.demo import World
from nvcatalog.demo.maps import small_map
from nvcatalog.errors import InvalidOptionError, MissingExtraError, NVCatalogError, ResampleError
from nvcatalog.resample import INTERPOLATIONS, interpolation_of, parse_interpolation, resample_map

if TYPE_CHECKING:
    from fetching import Fetch

nib: Any = nibabel  # untyped
nilearn_fetch = nilearn_fetch
EIGHT_MM = np.array([[-8.0, 0, 0, 90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
OBLIQUE = np.array([[-7.0, 1, 0, 80], [2, 8, 0.5, -100], [0, -1, 9, -60], [0, 0, 0, 1]])


def as_nilearn_does(source: Path, target: Path, interpolation: str) -> bytes:
    """Return the file that nilearn's fetchers would write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = resample_img(img=source, target_affine=theirs.STD_AFFINE, interpolation=interpolation)
        image.to_filename(target)
    return target.read_bytes()


def saved(path: Path, values: Any, affine: Any = EIGHT_MM, kind: Any = nib.Nifti1Image) -> Path:
    kind(values, affine, dtype=values.dtype).to_filename(path)
    return path


def with_affine(path: Path, affine: Any) -> Path:
    """Write a map with an affine that nibabel would not write."""
    data = bytearray(nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), np.eye(4)).to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    for name, row in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
        header[name] = row
    header["sform_code"], header["qform_code"] = 2, 0
    data[:348] = header.binaryblock
    path.write_bytes(gzip.compress(data))
    return path


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def with_gaps(value: float) -> Any:
    values = noise(6, 7, 5)
    values[2:4, 1] = value
    return values


# The same as nilearn


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("kind", ["Z map", "P map", "parcellation"])
def test_the_file_is_nilearns_to_the_last_byte(tmp_path: Path, kind: str, interpolation: str) -> None:
    source = tmp_path / "image_10426.nii.gz"
    source.write_bytes(small_map(10426, kind))
    target = tmp_path / "image_10426_resampled.nii.gz"

    proof = resample_map(source, target, interpolation=interpolation)

    assert target.read_bytes() == as_nilearn_does(source, tmp_path / "theirs.nii.gz", interpolation)
    assert proof == proving.prove(target)
    assert proof.voxel_size_mm == (3.0, 3.0, 3.0)
    assert np.array_equal(nib.load(target).affine, theirs.STD_AFFINE)
    assert source.read_bytes() == small_map(10426, kind)


@pytest.mark.parametrize(
    "values",
    [
        noise(5, 6, 7, 3),
        noise(5, 6, 7, 1),
        noise(4, 4, 3, 1, 2),
        noise(1, 1, 1),
        with_gaps(np.nan),
        with_gaps(np.inf),
        np.full((4, 4, 4), np.nan, dtype=np.float32),
        (noise(5, 5, 5) > 0).astype(np.uint8),
        (noise(5, 5, 5) * 100).astype(np.int16),
        (noise(5, 5, 5) * 100).astype(np.int64),
        noise(5, 5, 5).astype(">f4"),
    ],
    ids=["4D", "4D of one", "5D", "one voxel", "NaN", "inf", "only NaN", "binary", "int16", "int64", "big-endian"],
)
def test_odd_maps_that_nilearn_resamples_come_out_as_nilearns_in_silence(
    tmp_path: Path, values: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path / "odd.nii.gz", values)

    for interpolation in INTERPOLATIONS:
        expected = as_nilearn_does(source, tmp_path / "theirs.nii.gz", interpolation)
        capfd.readouterr()
        resample_map(source, tmp_path / "ours.nii.gz", interpolation=interpolation)
        assert capfd.readouterr() == ("", "")
        assert (tmp_path / "ours.nii.gz").read_bytes() == expected


@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    steps=st.tuples(*[st.sampled_from([-9.0, -3.0, 2.0, 4.5, 30.0])] * 3),
    origin=st.tuples(*[st.sampled_from([-200.0, -90.0, 0.0, 10.5, 90.0])] * 3),
    oblique=st.booleans(),
    dtype=st.sampled_from(["u1", "i2", "i4", "f4", "f8"]),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    interpolation=st.sampled_from(INTERPOLATIONS),
)
def test_whatever_the_grid_ours_gives_nilearns_bytes_or_fails_where_nilearn_fails(
    shape: tuple[int, ...],
    steps: tuple[float, ...],
    origin: tuple[float, ...],
    oblique: bool,
    dtype: str,
    kind: Any,
    interpolation: str,
) -> None:
    affine = OBLIQUE.copy() if oblique else np.diag([*steps, 1.0])
    affine[:3, 3] = origin
    with tempfile.TemporaryDirectory() as folder:
        source = saved(Path(folder) / "map.nii.gz", (noise(*shape) * 50).astype(dtype), affine, kind)
        target = Path(folder) / "ours.nii.gz"
        try:
            expected = as_nilearn_does(source, Path(folder) / "theirs.nii.gz", interpolation)
        except ValueError:  # the grid holds nothing of it
            with pytest.raises(ResampleError, match="does not contain any of the data"):
                resample_map(source, target, interpolation=interpolation)
            assert not target.exists()
        else:
            resample_map(source, target, interpolation=interpolation)
            assert target.read_bytes() == expected


def test_nilearns_own_fetcher_writes_the_same_file(
    nilearn_fetch: Fetch, world: World, nilearn_dir: Path, tmp_path: Path
) -> None:
    wanted = [3, 9034, 10426, 16256]
    fetched = nilearn_fetch(image_ids=wanted, resample=True)

    assert len(fetched.images) == len(wanted)
    for path, meta in zip(fetched.images, fetched.images_meta, strict=True):
        source, target = tmp_path / "map.nii.gz", tmp_path / "resampled.nii.gz"
        source.write_bytes(world.image_bytes(meta["id"]))
        resample_map(source, target, interpolation=interpolation_of(meta, None))
        assert target.read_bytes() == Path(path).read_bytes()
        assert path.endswith(storage.image_paths(meta["collection_id"], meta["id"])["resampled_relative_path"])


def test_the_grid_is_nilearns() -> None:
    assert np.array_equal(resample.STD_AFFINE, theirs.STD_AFFINE)
    assert resample.STD_AFFINE.dtype == theirs.STD_AFFINE.dtype


@pytest.mark.parametrize("name", ["[1]", "a*b", "~", "ä ö"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    source = saved(tmp_path / name / "map.nii.gz", noise(4, 4, 4))

    resample_map(source, source.with_name("resampled.nii.gz"), interpolation="linear")

    assert source.with_name("resampled.nii.gz").exists()


def test_a_map_may_have_the_name_of_a_temporary_file(tmp_path: Path) -> None:
    source = tmp_path / ".image_10426.nii.gz.4711-0123abcd.part"
    source.write_bytes(small_map(10426))

    named = resample_map(source, tmp_path / "resampled.nii.gz", interpolation="linear")

    source = source.rename(tmp_path / "image_10426.nii.gz")
    assert resample_map(source, tmp_path / "resampled.nii.gz", interpolation="linear") == named


# Labels


@pytest.mark.parametrize("map_type", ["parcellation", "Pa", "ROI/mask", "R"])
def test_label_maps_take_the_nearest_voxel(map_type: str) -> None:
    assert interpolation_of({"map_type": map_type, "image_type": "statistic_map"}, None) == "nearest"


def test_an_atlas_takes_the_nearest_voxel() -> None:
    assert interpolation_of({"image_type": "atlas"}, None) == "nearest"


@pytest.mark.parametrize(
    "map_type", ["T map", "P map (given null hypothesis)", "anatomical", "A", "", None, ["R"]]
)
def test_every_other_map_is_interpolated_as_in_nilearn(map_type: object) -> None:
    assert interpolation_of({"map_type": map_type, "image_type": "statistic_map"}, None) == "continuous"
    assert interpolation_of({}, None) == "continuous"


@pytest.mark.parametrize("record", [{"image_type": "atlas"}, {"map_type": "T map"}])
@pytest.mark.parametrize("chosen", INTERPOLATIONS)
def test_what_the_caller_chose_counts_for_every_map(record: dict[str, str], chosen: str) -> None:
    assert interpolation_of(record, chosen) == chosen


def test_the_nearest_voxel_makes_no_new_labels(tmp_path: Path, world: World) -> None:
    source, target = tmp_path / "labels.nii.gz", tmp_path / "resampled.nii.gz"
    source.write_bytes(world.image_bytes(14250))

    resample_map(source, target, interpolation=interpolation_of(world.image(14250) or {}, None))

    labels = set(np.unique(nib.load(source).get_fdata()))
    assert set(np.unique(nib.load(target).get_fdata())) <= labels | {0.0}


@pytest.mark.parametrize("value", [None, *INTERPOLATIONS])
def test_an_interpolation_is_one_of_three_or_left_to_each_map(value: str | None) -> None:
    assert parse_interpolation(value) == value


@pytest.mark.parametrize("value", ["cubic", "Linear", "", 3, True, b"linear", ["linear"], np.array(["linear"])])
def test_any_other_interpolation_is_refused(value: object) -> None:
    with pytest.raises(InvalidOptionError, match="give 'continuous', 'linear', 'nearest' or None"):
        parse_interpolation(value)


# What cannot be resampled


@pytest.mark.parametrize("values", [noise(5), noise(5, 6)], ids=["1D", "2D"])
def test_what_is_no_volume_is_named(tmp_path: Path, values: Any) -> None:
    source = saved(tmp_path / "image_7.nii.gz", values)

    with pytest.raises(ResampleError, match=r"image_7_resampled\.nii\.gz cannot be made: .* shape is \(5,"):
        resample_map(source, tmp_path / "image_7_resampled.nii.gz", interpolation="linear")


@pytest.mark.parametrize(
    ("affine", "found"),
    [
        (np.diag([2.0, 2, 0, 1]), "singular"),
        (np.diag([2.0, 2, np.nan, 1]), "nan x nan x nan voxels"),
        (np.diag([2.0, 2, np.inf, 1]), "voxels"),
        (np.diag([2000.0, 2000, 2000, 1]), "it would take 2031 x 2043 x 2025 voxels"),
        (np.array([[2.0, 0, 0, -900], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), "does not contain any"),
    ],
    ids=["flat", "not a number", "infinite", "in other units", "elsewhere"],
)
def test_an_affine_that_leads_nowhere_is_an_error_that_names_the_new_file(
    tmp_path: Path, affine: Any, found: str
) -> None:
    source = with_affine(tmp_path / "image_7.nii.gz", affine)

    with pytest.raises(ResampleError, match=rf"target\.nii\.gz cannot be made: .*{found}") as caught:
        resample_map(source, tmp_path / "target.nii.gz", interpolation="continuous")

    assert isinstance(caught.value, NVCatalogError)
    assert list(tmp_path.iterdir()) == [source]


def test_a_map_of_more_voxels_than_fit_into_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The grid is small here: a few bytes can declare gigabytes of zeros.
    monkeypatch.setattr(resample, "_MOST_VOXELS", 40_000)
    source = saved(tmp_path / "image_7.nii.gz", np.zeros((40, 40, 40), dtype=np.uint8))

    with pytest.raises(ResampleError, match="has 64,000 voxels, too many to work on"):
        resample_map(source, tmp_path / "target.nii.gz", interpolation="linear")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", small_map(10426)[:1000], gzip.compress(b"no map" * 100)],
    ids=["empty", "page", "cut off", "no NIfTI"],
)
def test_what_is_no_map_is_an_error_that_names_the_new_file(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "image_7.nii.gz"
    source.write_bytes(content)

    with pytest.raises(ResampleError, match=r"target\.nii\.gz cannot be made: .*Fetch the map without"):
        resample_map(source, tmp_path / "target.nii.gz", interpolation="linear")


def test_a_map_that_is_gone_is_an_error_that_names_the_new_file(tmp_path: Path) -> None:
    with pytest.raises(ResampleError, match=r"target\.nii\.gz cannot be made: FileNotFoundError"):
        resample_map(tmp_path / "image_7.nii.gz", tmp_path / "target.nii.gz", interpolation="linear")


def test_colours_cannot_be_resampled(tmp_path: Path) -> None:
    colours = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])

    with pytest.raises(ResampleError, match=r"target\.nii\.gz cannot be made: TypeError"):
        resample_map(saved(tmp_path / "rgb.nii.gz", colours), tmp_path / "target.nii.gz", interpolation="linear")


def test_a_map_that_cannot_be_resampled_leaves_the_former_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "target.nii.gz"
    resample_map(saved(tmp_path / "good.nii.gz", noise(4, 4, 4)), target, interpolation="linear")
    before = target.read_bytes()

    with pytest.raises(ResampleError):
        resample_map(saved(tmp_path / "flat.nii.gz", noise(4, 4)), target, interpolation="linear")

    assert target.read_bytes() == before


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    source = saved(tmp_path / "map.nii.gz", noise(4, 4, 4))
    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="Input/output error"):
        resample_map(source, tmp_path / "target.nii.gz", interpolation="linear")

    assert list(tmp_path.iterdir()) == [source]


# What is said meanwhile


def without_sform(path: Path) -> Path:
    """Write a map that nibabel logs about and nilearn warns of."""
    image = nib.Nifti1Image(with_gaps(np.nan), EIGHT_MM)
    image.header.set_sform(None, code=0)
    data = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    header["pixdim"][1] = -8
    data[:348] = header.binaryblock
    path.write_bytes(gzip.compress(data))
    return path


def test_neither_warnings_nor_logs_nor_prints_of_others_reach_the_user(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = without_sform(tmp_path / "map.nii.gz")
    with pytest.warns(Warning, match="no sform|NaNs"):
        resample_img(source, target_affine=theirs.STD_AFFINE)
    assert "pixdim" in caplog.text
    caplog.clear()
    capfd.readouterr()  # where nibabel writes its log depends on what standard error was when it was imported

    resample_map(source, tmp_path / "target.nii.gz", interpolation="continuous")

    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


def test_warnings_are_heard_again_afterwards_whatever_the_threads(tmp_path: Path) -> None:
    source = without_sform(tmp_path / "map.nii.gz")
    targets = [tmp_path / f"target_{n}.nii.gz" for n in range(24)]
    before = list(warnings.filters)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda target: resample_map(source, target, interpolation="linear"), targets))

    assert list(warnings.filters) == before
    assert not nib.imageglobals.logger.filters
    assert len({target.read_bytes() for target in targets}) == 1


# nilearn is optional


def test_without_nilearn_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'nvcatalog\[resample\]'") as caught:
        resample.require()
    with pytest.raises(MissingExtraError):
        resample_map(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", interpolation="linear")

    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("version", ["0.9.2", "0.13.1", "0.14.0rc1"])
def test_an_older_nilearn_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(nilearn, "__version__", version)

    with pytest.raises(MissingExtraError, match=rf"nilearn {version} is too old.*'nvcatalog\[resample\]'"):
        resample.require()


@pytest.mark.parametrize("version", ["0.14.1", "0.15.0.dev3+g1234", "1.0.0", "0+unknown"])
def test_a_newer_nilearn_will_do(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(nilearn, "__version__", version)
    resample.require()


def test_nilearn_is_imported_in_this_module_alone_and_only_to_resample() -> None:
    package = Path(nvcatalog.__file__).parent
    users = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            users |= {path.name for name in names if name.split(".")[0] == "nilearn"}
    assert users == {"resample.py"}

    script = "import sys, nvcatalog.resample, nvcatalog.cli; print('nilearn' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
