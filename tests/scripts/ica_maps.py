"""Which patterns do maps of many studies share, and what are they about? ICA of maps, named by their terms."""

import numpy as np
from nilearn.datasets import fetch_neurovault
from nilearn.image import get_data, load_img, resample_to_img
from scipy.stats import skew
from sklearn.decomposition import FastICA

N_COMPONENTS = 4

maps = fetch_neurovault(max_images=30, fetch_neurosynth_words=True, verbose=0)

# A term is evidence where it correlates positively. Every map has one vote, however many terms it goes with.
word_frequencies = maps.word_frequencies
word_frequencies[word_frequencies < 0] = 0
totals = word_frequencies.sum(axis=1, keepdims=True)
word_frequencies /= np.where(totals > 0, totals, 1)
word_frequencies -= word_frequencies.mean(axis=0)  # what goes with all maps tells nothing about one

order = np.argsort([meta["id"] for meta in maps.images_meta])
words = word_frequencies[order]
paths = [maps.images[place] for place in order]
image_ids = [maps.images_meta[place]["id"] for place in order]

# All maps on the grid of the first, none louder than another.
grid = load_img(paths[0])
volumes = [get_data(resample_to_img(path, grid, interpolation="linear")).astype(float) for path in paths]
stack = np.nan_to_num(np.stack(volumes))
brain = (stack != 0).mean(axis=0) > 0.5
data = stack[:, brain]
data -= data.mean(axis=1, keepdims=True)
data /= data.std(axis=1, keepdims=True)

ica = FastICA(n_components=N_COMPONENTS, whiten="unit-variance", max_iter=2000, tol=1e-4, random_state=0)
components = ica.fit_transform(data.T).T
loadings = ica.mixing_.T

# A component and its negative are the same to ICA; let the long tail be the positive one.
signs = np.where(skew(components, axis=1) < 0, -1, 1)[:, None]
components, loadings = components * signs, loadings * signs

scores = np.maximum(loadings, 0) @ words
top_terms = [[str(maps.vocabulary[place]) for place in np.argsort(-row, kind="stable")[:3]] for row in scores]

print(f"{len(image_ids)} maps, {brain.sum()} voxels, {len(maps.vocabulary)} terms: {image_ids}")
for number, terms in enumerate(top_terms, start=1):
    strongest = image_ids[int(np.argmax(loadings[number - 1]))]
    extent = (components[number - 1] > 3).sum()
    print(f"component {number}: {', '.join(terms)}; {extent} voxels above 3; most in image {strongest}")
