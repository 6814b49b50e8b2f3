"""Scripts written for nilearn run with nvcatalog when one word of one import is changed, and print the same."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
from fetching import no_waiting as no_waiting
from nilearn.image import get_data
from oracle import point_nilearn_at

import nvcatalog
from nvcatalog.demo.maps import nifti_gz, small_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from nvcatalog.demo import DemoServer, World

    Run = Callable[[str, str], tuple[dict[str, Any], str]]

pytestmark = pytest.mark.usefixtures("no_waiting")
SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture
def run(
    server: DemoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Return a function that runs a script with nilearn or with nvcatalog, and gives what it made and said."""
    point_nilearn_at(server, monkeypatch)

    def run(script: str, package: str) -> tuple[dict[str, Any], str]:
        path = SCRIPTS / script
        source = path.read_text(encoding="utf-8")
        assert source.count("from nilearn.datasets import ") == 1
        monkeypatch.setenv("NILEARN_DATA", str(tmp_path / package))
        names: dict[str, Any] = {"__name__": "__main__"}
        capsys.readouterr()
        with warnings.catch_warnings():
            if package == "nilearn.datasets":
                warnings.simplefilter("ignore")  # what nilearn warns of is not under test here
            exec(compile(source.replace("nilearn.datasets", package), path, "exec"), names)
        return names, capsys.readouterr().out

    return run


@pytest.fixture
def stopping(world: World) -> list[int]:
    """Add three groups' five maps of stopping to the demo's, beside some that do not belong."""
    contrasts = ["stop > go", "successful stop vs go", "stop-signal minus go"]
    wanted: list[int] = []
    for place, contrast in enumerate(contrasts):
        collection = world.add_collection(id=90_000 - place)  # not in the order of the images
        for n_subjects, map_type in [(12 + 9 * place, "T map"), (30, "Z map")][: 2 if place else 1]:
            record = {"contrast_definition": contrast, "map_type": map_type, "number_of_subjects": n_subjects}
            wanted.append(world.add_image(collection, record, data=shared_effect(len(wanted), n_subjects)))
        others: list[dict[str, Any]] = [
            {"contrast_definition": contrast, "map_type": "T map", "number_of_subjects": 9},
            {"contrast_definition": contrast, "map_type": "T map", "number_of_subjects": None},
            {"contrast_definition": contrast, "map_type": "univariate-beta map", "number_of_subjects": 30},
            {"contrast_definition": contrast, "map_type": "Z map", "number_of_subjects": 30, "not_mni": True},
            {"contrast_definition": "go > stop", "map_type": "Z map", "number_of_subjects": 30},
            {"contrast_definition": None, "map_type": "Z map", "number_of_subjects": 30},
        ]
        for other in others:
            world.add_image(collection, other)
    return sorted(wanted)


def shared_effect(seed: int, n_subjects: int) -> bytes:
    """Return a map of an effect that all groups share, the clearer the larger the group, in noise of their own."""
    real: Any = nibabel.Nifti1Image.from_bytes(gzip.decompress(small_map(10426)))
    values = np.asarray(real.dataobj, dtype=np.float64)
    rng = np.random.default_rng(seed)
    noisy = 0.08 * np.sqrt(n_subjects) * values / values.std() + rng.standard_normal(values.shape)
    return nifti_gz(np.where(values == 0, 0, noisy).astype(np.float32), real.affine)


def test_the_meta_analysis_finds_with_nilearn_what_no_single_map_shows(run: Run, stopping: list[int]) -> None:
    names, said = run("meta_analysis.py", "nilearn.datasets")

    assert f"5 maps of 123 people: {stopping}" in said
    survive = np.count_nonzero(get_data(names["result"]))
    assert survive > 2 * names["single"] > 0
    assert names["fixed_effects"].max() > names["threshold"]


def test_the_ica_gives_with_nilearn_terms_for_each_component(run: Run) -> None:
    names, said = run("ica_maps.py", "nilearn.datasets")

    assert len(names["image_ids"]) == 30
    assert names["components"].shape == (4, names["brain"].sum())
    assert said.count("component") == 4
    assert len({term for terms in names["top_terms"] for term in terms}) > 3


@pytest.mark.usefixtures("stopping")
@pytest.mark.parametrize(
    ("script", "results"),
    [
        ("meta_analysis.py", ["stack", "stouffer", "fixed_effects", "threshold"]),
        ("ica_maps.py", ["image_ids", "words", "data", "components", "loadings", "scores"]),
    ],
)
def test_a_script_says_the_same_with_ours_as_with_nilearn(run: Run, script: str, results: list[str]) -> None:
    theirs, they_said = run(script, "nilearn.datasets")
    ours, we_said = run(script, "nvcatalog")

    assert ours["fetch_neurovault"] is nvcatalog.fetch_neurovault is not theirs["fetch_neurovault"]
    assert we_said == they_said != ""
    for name in results:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12, err_msg=name)
