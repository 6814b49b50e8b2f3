"""Where does stopping differ from going? Several groups' maps of that contrast, combined into one.

Each group's values become z values, and these are summed, a larger group counting more (Stouffer's method with
weights; for standardised effects it is the fixed-effects meta-analysis).
"""

import numpy as np
from nilearn.datasets import fetch_neurovault, neurovault
from nilearn.image import coord_transform, get_data, load_img, new_img_like, resample_to_img
from scipy.stats import norm, t

# What is contrasted is described in words, so take what begins like it.
maps = fetch_neurovault(
    contrast_definition=neurovault.Pattern("(successful )?stop.* (vs|>|minus) .*go"),
    map_type=neurovault.IsIn("T map", "Z map"),
    number_of_subjects=neurovault.GreaterOrEqual(10),
    verbose=0,
)
studies = sorted(zip(maps.images, maps.images_meta, strict=True), key=lambda study: study[1]["id"])
grid = load_img(studies[0][0])

z_maps, n_subjects = [], []
for path, meta in studies:
    values = get_data(resample_to_img(path, grid, interpolation="linear"))
    if meta["map_type"] == "T map":
        # The z that is as improbable as the t. Taken in the tail, where small probabilities keep their digits.
        tail = t.sf(np.abs(values), df=int(meta["number_of_subjects"]) - 1)
        values = np.sign(values) * norm.isf(tail)
    z_maps.append(values)
    n_subjects.append(int(meta["number_of_subjects"]))

stack = np.stack(z_maps)
covered = (stack != 0).all(axis=0)
weights = np.sqrt(n_subjects)
stouffer = stack.sum(axis=0) / np.sqrt(len(studies)) * covered
fixed_effects = np.tensordot(weights, stack, axes=1) / np.sqrt(sum(n_subjects)) * covered

# One map of what survives a correction for the number of voxels looked at.
threshold = norm.isf(0.05 / covered.sum())
result = new_img_like(grid, np.where(fixed_effects > threshold, fixed_effects, 0))
peak = np.unravel_index(np.argmax(fixed_effects), covered.shape)
x, y, z = coord_transform(*peak, grid.affine)
single = max(int((np.where(covered, values, 0) > threshold).sum()) for values in stack)

print(f"{len(studies)} maps of {sum(n_subjects)} people: {[meta['id'] for _, meta in studies]}")
print(f"{covered.sum()} voxels in all of them, z above {threshold:.3f} counts")
print(f"peak z = {fixed_effects.max():.4f} at ({x:.0f}, {y:.0f}, {z:.0f}); unweighted {stouffer[peak]:.4f}")
print(f"{np.count_nonzero(get_data(result))} voxels survive; at most {single} do in a single map")
