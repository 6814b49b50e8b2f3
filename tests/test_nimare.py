"""NiMARE runs a meta-analysis on maps of a catalog; it takes older nilearns than ours, so it has its own run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nvcatalog import Catalog, fetch_neurovault_ids
from nvcatalog.demo import DemoServer
from nvcatalog.errors import SelectionWarning

# One map of each of three studies, and two that are not independent.
INDEPENDENT, DEPENDENT = [3129, 10426, 32980], [16256, 16257]


@pytest.fixture
def catalog(server: DemoServer, data_dir: Path) -> Catalog:
    fetch_neurovault_ids(image_ids=[*INDEPENDENT, *DEPENDENT], data_dir=data_dir, verbose=0)
    return Catalog(data_dir)


@pytest.mark.filterwarnings("ignore")  # NiMARE's own, and those of what it uses
def test_a_stouffers_meta_analysis_runs_on_what_was_fetched(catalog: Catalog) -> None:
    ibma = pytest.importorskip("nimare.meta.ibma", exc_type=ImportError)
    studyset = catalog.to_nimare(image_ids=INDEPENDENT)
    assert sorted(studyset.ids) == ["1952-32980", "457-3129", "658-10426"]
    assert {len(sizes) for sizes in studyset.metadata["sample_sizes"]} == {1}

    mask = whole_grid(studyset.images["z"])
    found = ibma.Stouffers(mask=mask).fit(studyset).get_map("z").get_fdata()

    maps = [load(path).get_fdata() for path in studyset.images["z"]]
    has_all = np.all([each != 0 for each in maps], axis=0)
    # Stouffer's method itself, on the voxels that all maps have.
    np.testing.assert_allclose(found[has_all], (sum(maps) / np.sqrt(len(maps)))[has_all], atol=1e-3)


def whole_grid(paths: Iterable[str]) -> nib.nifti1.Nifti1Image:
    """Return a mask of the maps' own grid, so that nothing is resampled."""
    maps = [load(path) for path in paths]
    inside = np.all([each.get_fdata() != 0 for each in maps], axis=0)
    return nib.nifti1.Nifti1Image(inside.astype(np.int8), maps[0].affine)  # type: ignore[no-untyped-call]


def load(path: str) -> nib.nifti1.Nifti1Image:
    return nib.nifti1.Nifti1Image.from_filename(path)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_what_is_to_be_known_of_a_studyset_is_warned_of(catalog: Catalog) -> None:
    pytest.importorskip("nimare", exc_type=ImportError)
    with pytest.warns(SelectionWarning, match="1 study contributes several analyses, which are not independent"):
        studyset = catalog.to_nimare(image_ids=DEPENDENT, sample_sizes=25)
    assert [list(sizes) for sizes in studyset.metadata["sample_sizes"]] == [[25], [25]]
