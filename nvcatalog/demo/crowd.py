"""Image records by id, and a crowd of them that takes no memory: each is made from its number when asked for."""

from __future__ import annotations

import copy
import functools
import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, MutableMapping

from nvcatalog.demo.maps import synthetic_map
from nvcatalog.demo.shipped import Record, shipped, template

# Of so many collections one is empty; the others hold few images or many, as the real ones do.
_EMPTY_SHARE, _SPREAD = 0.05, 1.2
_FILE_BYTES = 2_000
_ROBOT = 5761  # the user id of Neuroscout, who owns many of the real collections
_PLAIN_KEYS = 55  # of a statistic map without free-form keys
_MAP_TYPES = ("T map", "Z map", "Z map", "F map", "univariate-beta map", "variance", "ROI/mask", "other")
_CONTRASTS = ("faces vs. shapes", "2-back > 0-back", "stop - go", "reward > loss", "story > math", "pain > warm")


class Images(MutableMapping[int, Record]):
    """Records by image id, and which collection holds which.

    One of the crowd is made when it is looked up, and kept from then on: it may have been changed.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Record] = {}
        self._crowd: dict[int, int] = {}  # image -> collection
        self._held: defaultdict[int, set[int]] = defaultdict(set)

    def add_crowd(self, collection_id: int, image_ids: range) -> None:
        """Add images that are nothing but numbers so far."""
        self._crowd.update(dict.fromkeys(image_ids, collection_id))
        self._held[collection_id].update(image_ids)

    def held_by(self, collection_id: int) -> set[int]:
        """Return the ids of a collection's images."""
        return self._held.get(collection_id, set())

    def copy_of(self, image_id: int) -> Record | None:
        """Return a record that may be changed without changing this one; None where there is none."""
        if image_id in self._kept:
            return copy.deepcopy(self._kept[image_id])
        collection_id = self._crowd.get(image_id)
        return None if collection_id is None else crowd_record(collection_id, image_id)

    def is_in_crowd(self, image_id: int) -> bool:
        """Whether an image came with a crowd, and so has the crowd's file."""
        return image_id in self._crowd

    def __getitem__(self, image_id: int) -> Record:
        if image_id not in self._kept:
            self._kept[image_id] = crowd_record(self._crowd[image_id], image_id)
        return self._kept[image_id]

    def __setitem__(self, image_id: int, record: Record) -> None:
        if image_id in self:
            self._held[self[image_id]["collection_id"]].discard(image_id)
        self._kept[image_id] = record
        self._held[record["collection_id"]].add(image_id)

    def __delitem__(self, image_id: int) -> None:
        self._held[self[image_id]["collection_id"]].discard(image_id)
        del self._kept[image_id]
        self._crowd.pop(image_id, None)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._kept or image_id in self._crowd

    def __iter__(self) -> Iterator[int]:
        yield from self._crowd
        yield from (image_id for image_id in self._kept if image_id not in self._crowd)

    def __len__(self) -> int:
        return len(self._kept.keys() | self._crowd.keys())


def crowd_sizes(n_collections: int, n_images: int) -> list[int]:
    """Return how many images each collection of a crowd holds: `n_images` together, few here and many there."""
    chance = random.Random(n_collections)  # noqa: S311 - the same crowd each time, no secret
    weights = [
        0.0 if chance.random() < _EMPTY_SHARE else chance.lognormvariate(0, _SPREAD) for _ in range(n_collections)
    ]
    weights[-1] = weights[-1] or 1.0
    ends = [round(n_images * share / sum(weights)) for share in itertools.accumulate(weights)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def crowd_collection(collection_id: int) -> Record:
    """Return the record of a collection of a crowd."""
    number = collection_id * 2_654_435_761 % 2**32
    contrast = _CONTRASTS[number % len(_CONTRASTS)]
    return template("collection") | {
        "id": collection_id,
        "url": f"/collections/{collection_id}/",
        "download_url": f"/collections/{collection_id}/download",
        "owner": _ROBOT if number % 4 == 0 else 1 + number % 900,
        "name": f"Study {collection_id}: {contrast}",
        "DOI": f"10.1234/demo.{collection_id}" if number % 3 else None,
        "authors": f"A. Author{number % 77} and B. Author{number % 91}",
        "description": f"Made up for the demo: {contrast} in {10 + number % 50} people",
        "field_strength": 3.0 if number % 5 else 1.5,
        "repetition_time": 1 + number % 20 / 10,
    }


def crowd_record(collection_id: int, image_id: int) -> Record:
    """Return the record of one of the crowd: in the shape of a real one, with values of its own."""
    models = _models()
    number = image_id * 2_654_435_761 % 2**32  # neighbours shall not look alike
    day = f"20{12 + number % 13}-{1 + number // 13 % 12:02}-{1 + number // 156 % 28:02}"
    clock = f"{number // 7 % 24:02}:{number // 11 % 60:02}:{number // 17 % 60:02}.{number % 1_000_000:06}+01:00"
    contrast = _CONTRASTS[number // 5 % len(_CONTRASTS)]
    return {
        **models[image_id % len(models)],
        "url": f"/images/{image_id}/",
        "id": image_id,
        "file": f"/media/images/{collection_id}/crowd-{image_id}.nii.gz",
        "collection": f"/collections/{collection_id}/",
        "collection_id": collection_id,
        "file_size": len(crowd_file(image_id)),
        "map_type": _MAP_TYPES[number // 3 % len(_MAP_TYPES)],
        "name": f"sub-{number % 500:03}: {contrast}",
        "description": f"Made up for the demo: {contrast}, run {1 + number % 4}",
        "add_date": f"{day}T{clock}",
        "modify_date": f"{day}T{clock}",
        "thumbnail": f"/media/images/{collection_id}/glass_brain_{image_id}.jpg",
        "reduced_representation": f"/media/images/{collection_id}/transform_4mm_{image_id}.npy",
        "is_thresholded": number % 5 == 0,
        "perc_bad_voxels": round(number % 9973 / 100, 10),
        "not_mni": number % 17 == 0,
        "brain_coverage": round(40 + number % 6011 / 101, 10),
        "perc_voxels_outside": round(number % 3001 / 103, 10),
        "number_of_subjects": number % 60 or None,
        "smoothness_fwhm": 4 + number % 5 if number % 3 else None,
        "contrast_definition": contrast,
    }


def crowd_file(image_id: int) -> bytes:
    """Return the file of one of the crowd."""
    return synthetic_map(image_id, _FILE_BYTES)


@functools.lru_cache(maxsize=1)
def _models() -> list[Record]:
    return [record for record in shipped("images.jsonl") if len(record) == _PLAIN_KEYS]
