"""Bring maps to nilearn's 3 mm grid with nilearn's own code, which is needed for nothing else."""

from __future__ import annotations

import gzip
import io
import itertools
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import nibabel
import numpy as np
from nibabel import imageglobals

from nvcatalog import proving, storage
from nvcatalog.errors import InvalidOptionError, MissingExtraError, ResampleError, shown

#: The grid: voxels of 3 mm, and where the first of them is.
STD_AFFINE = np.array([[3.0, 0, 0, -90], [0, 3, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
INTERPOLATIONS = ("continuous", "linear", "nearest")

# Maps whose values are numbers of regions; older records name the kind of map by a code.
_LABEL_MAPS = ("parcellation", "Pa", "ROI/mask", "R")
_OLDEST_NILEARN = (0, 14, 1)  # older ones do not always give the same voxels
# As nibabel writes a .nii.gz, so that the file is nilearn's to the last byte.
_GZIP_LEVEL = 1
# The grid reaches from its origin to the far end of a map: an affine in wrong units would fill the memory.
_MOST_VOXELS = 1 << 29


def parse_interpolation(value: object) -> str | None:
    """Return what was given for ``interpolation``, None for the default of each map.

    Raises
    ------
    InvalidOptionError
        When it is none of 'continuous', 'linear' and 'nearest'.

    Examples
    --------
    >>> parse_interpolation("linear")
    'linear'
    """
    if value is None or (isinstance(value, str) and value in INTERPOLATIONS):
        return value
    raise InvalidOptionError(f"interpolation is {shown(value)}; give 'continuous', 'linear', 'nearest' or None")


def interpolation_of(record: Mapping[str, Any], chosen: str | None) -> str:
    """Return how an image is resampled: as chosen, else 'nearest' for labels and 'continuous' for the rest.

    Between two numbered regions lies no third one, so atlases, parcellations and masks keep their numbers.
    nilearn smooths them too.

    Parameters
    ----------
    record : mapping
        The image's record.
    chosen : str or None
        What the caller gave.

    Examples
    --------
    >>> interpolation_of({"map_type": "T map"}, None), interpolation_of({"map_type": "parcellation"}, None)
    ('continuous', 'nearest')
    """
    if chosen is not None:
        return chosen
    labels = record.get("image_type") == "atlas" or record.get("map_type") in _LABEL_MAPS
    return "nearest" if labels else "continuous"


def require() -> None:
    """Make sure that maps can be resampled, before anything is fetched for it.

    Raises
    ------
    MissingExtraError
        When nilearn is not installed, or too old.
    """
    try:
        from nilearn import __version__ as version
    except ImportError as error:
        raise MissingExtraError("nilearn is not installed; pip install 'nvcatalog[resample]'") from error
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)  # a checkout without tags has none
    if numbers and tuple(map(int, numbers.groups())) < _OLDEST_NILEARN:
        raise MissingExtraError(
            f"nilearn {version} is too old to resample with; pip install --upgrade 'nvcatalog[resample]'"
        )


def resample_map(
    source: Path, target: Path, *, interpolation: str, before: Callable[[], None] | None = None
) -> proving.Proof:
    """Resample a map to the 3 mm grid as nilearn's fetchers do; the file appears whole or not at all.

    Safe to call from several threads at once.

    Parameters
    ----------
    source : Path
        The map, a gzipped NIfTI file under any name.
    target : Path
        Where the resampled map belongs.
    interpolation : {'continuous', 'linear', 'nearest'}
        How values between voxels are made: by splines of third order, linearly, or taken from the nearest.
    before : callable, optional
        Called right before the new file takes its place.

    Returns
    -------
    Proof
        What the new file is.

    Raises
    ------
    ResampleError
        When the map cannot be resampled; the message names the target and says why.
    MissingExtraError
        When nilearn is not installed, or too old.
    NoSpaceError
        When the disk is full.
    """
    require()
    try:
        with _quiet:
            content = _resampled(source, interpolation)
    except Exception as error:
        # An odd map makes nibabel, nilearn and SciPy raise whatever they come across: it costs that map alone.
        # The new file is named, since the map may be a temporary one.
        found = str(error) if isinstance(error, ResampleError) else repr(error)
        raise ResampleError(f"{target} cannot be made: {found}. Fetch the map without resample") from error
    prover = proving.Prover()
    prover.feed(content)
    proof = prover.finish()
    storage.write_whole(target, content, lasting=True, before=before)
    return proof


def _resampled(source: Path, interpolation: str) -> bytes:
    """Return the resampled map as the bytes of a ``.nii.gz``."""
    from nilearn.image import resample_img

    with gzip.open(source) as stream:
        image = _open(stream)
        _check(image)
        # Nobody else holds the voxels, so they need no copying; with a path, nilearn does not copy them either.
        resampled = resample_img(image, target_affine=STD_AFFINE, interpolation=interpolation, copy=False)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=packed, mtime=0) as file:
        resampled.to_stream(file)
    return packed.getvalue()


def _open(stream: gzip.GzipFile) -> Any:
    """Return the map in a stream: nibabel would go by a file's name, and nilearn see a pattern in brackets."""
    is_second = stream.read(8)[4:] == b"n+2\0"
    stream.seek(0)
    kind: Any = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
    return kind.from_stream(stream)


def _check(image: Any) -> None:
    """Raise where there is no volume, or the new one would be beyond all measure."""
    if len(image.shape) < 3:
        raise ResampleError(f"the map's shape is {image.shape}, not that of a volume")
    if not np.prod(image.shape, dtype=float) <= _MOST_VOXELS:
        raise ResampleError(f"the map has {np.prod(image.shape, dtype=float):,.0f} voxels, too many to work on")
    corners = itertools.product(*((0, length - 1) for length in image.shape[:3]), [1])
    far = (np.linalg.inv(STD_AFFINE) @ image.affine @ np.array(list(corners)).T)[:3].max(axis=1)
    shape = (*np.maximum(np.ceil(far) + 1, 1), *image.shape[3:])
    if not np.prod(shape, dtype=float) <= _MOST_VOXELS:  # nor is what is not a number
        reach = " x ".join(f"{length:.0f}" for length in shape)
        raise ResampleError(f"by the map's affine it would take {reach} voxels")


class _Quiet:
    """Keeps back what nilearn and nibabel say about odd maps, as long as any thread is inside.

    The filters of warnings belong to the whole process: the first thread sets them, the last one restores.
    """

    _modules = r"(nvcatalog\.resample|nilearn|nibabel|scipy|numpy)(\.|$)"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=self._modules)
                imageglobals.logger.addFilter(_drop)
                self._restore.callback(imageglobals.logger.removeFilter, _drop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()


def _drop(record: object) -> bool:
    return False


_quiet = _Quiet()
