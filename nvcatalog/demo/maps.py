"""Make the small NIfTI files the demo serves, from three real maps and the id of the image.

A statistic map is a mixture of two real maps with weights drawn from the id; a P map is ``exp(-|z|)`` of
that; an atlas or parcellation labels a real mask. Image 10426 is the one real map, only coarser. The same id
always gives the same voxels.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import zlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REAL_MAP_ID = 10426
_LABELLED = {"parcellation", "ROI/mask", "atlas"}
_SYNTHETIC_VOLUMES = 4


@functools.lru_cache(maxsize=1024)
def small_map(image_id: int, kind: str = "") -> bytes:
    """Return the file of an image: `kind` is its map type, or ``atlas``."""
    if kind in _LABELLED:
        labels, affine = _base("mask_4mm")
        return nifti_gz(_labels(image_id, labels), affine, f"demo image {image_id}")
    motor, affine = _base("button_press_8mm")
    lips, _ = _base("lips_8mm")
    weights = (1.0, 0.0) if image_id == REAL_MAP_ID else _weights(image_id)
    values = (weights[0] * motor + weights[1] * lips).round(3)
    return nifti_gz(_as_kind(values, kind), affine, f"demo image {image_id}")


def nifti_gz(values: NDArray[Any], affine: NDArray[np.float64], description: str = "") -> bytes:
    """Return a gzipped NIfTI file, the same bytes every time."""
    import nibabel as nib

    image = nib.Nifti1Image(values, affine)  # type: ignore[no-untyped-call]  # nibabel's own gap
    image.header["descrip"] = description.encode()
    return gzip.compress(image.to_bytes(), mtime=0)


def _weights(image_id: int) -> tuple[float, float]:
    """Two weights between -1.5 and 1.5 that depend on the id alone."""
    digest = hashlib.blake2b(str(image_id).encode(), digest_size=8).digest()
    first, second = (int.from_bytes(part, "big") / 2**32 for part in (digest[:4], digest[4:]))
    return 3 * first - 1.5, 3 * second - 1.5


def _as_kind(values: NDArray[Any], kind: str) -> NDArray[np.float32]:
    import numpy as np

    if not kind.startswith("P map"):
        return values.astype(np.float32)
    return np.where(values == 0, 0, np.exp(-np.abs(values)).round(4)).astype(np.float32)


def _labels(image_id: int, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One label for each slab of the mask, numbered from a start that depends on the id."""
    import numpy as np

    slabs = np.arange(mask.shape[1], dtype=np.uint8)[None, :, None]
    return np.where(mask > 0, slabs // 2 + image_id % 97 + 1, 0).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _base(name: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    import nibabel as nib
    import numpy as np

    raw = files("nvcatalog.demo").joinpath("data", "maps", f"{name}.nii.gz").read_bytes()
    image = nib.Nifti1Image.from_bytes(gzip.decompress(raw))
    return np.asarray(image.dataobj), np.asarray(image.affine)


def synthetic_map(image_id: int, file_bytes: int) -> bytes:
    """Return a valid map of noise of about `file_bytes`; cheap, because a few volumes serve all ids.

    The bytes differ from image to image all the same: a gzip header may carry a file name, here with the id.
    """
    raw_length, checksum, deflated = _noise(file_bytes, image_id % _SYNTHETIC_VOLUMES)
    header = b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\xff" + b"noise_%08d.nii\x00" % image_id
    return b"".join([header, deflated, checksum.to_bytes(4, "little"), raw_length.to_bytes(4, "little")])


@functools.lru_cache(maxsize=32)
def _noise(file_bytes: int, volume: int) -> tuple[int, int, bytes]:
    """Return length, CRC and deflated bytes of a volume whose file has about the wanted size."""
    guess = 2_000
    for _ in range(3):  # noise compresses evenly: the second guess is close, the third within a few percent
        raw = _noise_volume(max(guess, 64), volume)
        compressor = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS)
        deflated = compressor.compress(raw) + compressor.flush()
        guess = round(guess * file_bytes / len(deflated))
    return len(raw), zlib.crc32(raw), deflated


def _noise_volume(voxels: int, volume: int) -> bytes:
    """Return an uncompressed NIfTI file, noise in the middle and zeros around, as a brain in its box."""
    import nibabel as nib
    import numpy as np

    depth = max(3, round(voxels ** (1 / 3)))
    side = max(2, round((voxels / depth) ** 0.5))
    values = np.zeros((side, side, depth), dtype=np.float32)
    middle = values[:, :, depth // 3 : depth - depth // 3]
    middle[:] = np.random.default_rng(volume).standard_normal(middle.shape, dtype=np.float32)
    stream = io.BytesIO()
    image = nib.Nifti1Image(values, np.diag([-3.0, 3.0, 3.0, 1.0]))  # type: ignore[no-untyped-call]  # as above
    image.to_stream(stream)
    return stream.getvalue()
