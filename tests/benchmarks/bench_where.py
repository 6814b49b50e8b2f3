"""Time how long a condition takes to select images in a catalog as large as all of NeuroVault.

The catalog is made in SQL: 600,000 images in 16,000 collections, with values as often as uploaders give them
roughly, their records and some files. Each run is a fresh process that has imported what it needs before its
clock starts, and opens the catalog itself; the system has read the file before.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import _bench as bench
from _bench import Measurement

CONDITIONS = {
    "the usual": (
        "stat IN ('t', 'z') AND analysis_level = 'group' AND task = 'stop signal task' AND n_subjects >= $n",
        {"n": 20},
    ),
    "flags and the collection": ("ibma_candidate AND NOT from_neuroscout AND collections.field_strength = 3", {}),
    "words in names": ("contrast ILIKE '%reward%' AND collection_name ILIKE '%decision%'", {}),
    "everything": ("nilearn_default OR true", {}),
}
TARGET_S = 0.3
MODULES = ("nvcatalog.where", "pyarrow", "numpy")

# h() spreads numbers evenly, so that columns do not go together.
MAKE = """
    CREATE TEMP MACRO h(x, salt) AS (hash(x * 100 + salt) % 1000000)::INTEGER;

    INSERT INTO collections BY NAME
    SELECT
        i AS collection_id,
        CASE WHEN h(i, 1) % 5 = 0 THEN 'user''s temporary collection'
            ELSE ['Decision making', 'Working memory', 'Pain', 'Language'][1 + h(i, 2) % 4] || ' study ' || i
            END AS name,
        CASE WHEN h(i, 3) % 3 = 0 THEN '10.1016/j.x.' || i END AS doi,
        CASE WHEN h(i, 4) % 2 = 0 THEN 5761 ELSE h(i, 5) % 3000 END AS owner,
        'What was done in study ' || i AS description,
        CASE WHEN h(i, 6) % 4 = 0 THEN [1.5, 3, 7][1 + h(i, 7) % 3] END AS field_strength,
        CASE WHEN h(i, 8) % 3 = 0 THEN 2000 END AS repetition_time,
        $images // $collections AS number_of_images,
        false AS private,
        true AS complete,
        now() AS fetched_at
    FROM range(1, $collections + 1) AS r(i);

    INSERT INTO images BY NAME
    SELECT
        i AS image_id,
        1 + i % $collections AS collection_id,
        'map ' || i AS name,
        'https://neurovault.org/media/images/' || (1 + i % $collections) || '/map_' || i || '.nii.gz' AS file,
        CASE WHEN h(i, 11) % 7 = 0 THEN 0 ELSE 50000 + h(i, 12) END AS file_size,
        ['None / Other', 'stop signal task', 'n-back task', '', 'emotion processing fMRI task paradigm',
            'working memory fMRI task paradigm', NULL, 'rest eyes open'][1 + h(i % $collections, 13) % 8]
            AS cognitive_paradigm_cogatlas,
        CASE WHEN h(i, 14) % 3 = 0 THEN ['reward &gt; baseline', 'go vs. stop', 'subject&#39;s choice', '2-back',
            'None'][1 + h(i, 15) % 5] END AS cognitive_contrast_cogatlas,
        ['T map', 'Z map', 'F map', 'univariate-beta map', 'variance', 'Other', 'ROI/mask'][1 + h(i, 16) % 7]
            AS map_type,
        ['single-subject', 'single-subject', 'single-subject', 'group', 'meta-analysis', NULL][1 + h(i, 17) % 6]
            AS analysis_level,
        ['fMRI-BOLD', 'fMRI-BOLD', 'fMRI-BOLD', 'PET FDG', 'Structural MRI', NULL][1 + h(i, 18) % 6] AS modality,
        'As the uploader described map ' || i AS description,
        h(i, 19) % 60 AS number_of_subjects,
        30 + h(i, 20) % 700 / 10 AS brain_coverage,
        h(i, 21) % 5 = 0 AS is_thresholded,
        h(i, 22) % 9 = 0 AS not_mni,
        CASE WHEN h(i, 23) % 100 = 0 THEN 'atlas' ELSE 'statistic_map' END AS image_type,
        CASE WHEN h(i, 24) % 200 = 0 THEN now() END AS gone_at,
        now() AS fetched_at
    FROM range(1, $images + 1) AS r(i);

    INSERT INTO raw_records BY NAME
    SELECT 'image' AS kind, image_id AS id, json_object('id', image_id, 'name', name, 'file', file) AS raw
    FROM images
    UNION ALL BY NAME
    SELECT 'collection' AS kind, collection_id AS id, json_object('id', collection_id, 'name', name) AS raw
    FROM collections;

    INSERT INTO files BY NAME
    SELECT
        image_id,
        'original' AS kind,
        'collection_' || collection_id || '/image_' || image_id || '.nii.gz' AS path,
        file_size AS size,
        'present' AS state
    FROM images
    WHERE h(image_id, 25) % 30 = 0
"""


def make(folder: str, images: int, collections: int) -> Measurement:
    """Make the catalog."""
    from nvcatalog._store import Store

    store = Store(Path(folder))
    with bench.Stopwatch() as watch, store.writing() as connection:
        connection.execute(MAKE.replace("$images", str(images)).replace("$collections", str(collections)))
    return watch.measurement(mib=store.path.stat().st_size / 2**20)


def select_side(name: str, folder: str) -> Measurement:
    """Ask one condition."""
    bench.import_all(MODULES)
    from nvcatalog._store import Store
    from nvcatalog.where import Condition, select

    where, params = CONDITIONS[name]
    with bench.Stopwatch() as watch:
        found = select(Store(Path(folder)), Condition(where, params=params, max_images=100))
    return watch.measurement(total=found.total, images=len(found.image_ids))


def open_side(name: str, folder: str) -> Measurement:
    """Open the catalog, and ask nothing."""
    bench.import_all(MODULES)
    from nvcatalog._store import Store

    with bench.Stopwatch() as watch, Store(Path(folder)).reading():
        pass
    return watch.measurement(asked=name)


def main() -> None:
    """Measure and print."""
    parser = bench.parser(__doc__)
    parser.add_argument("--images", type=int, default=600_000)
    parser.add_argument("--collections", type=int, default=16_000)
    options = parser.parse_args()
    sides: dict[str, list[Measurement]] = {name: [] for name in (*CONDITIONS, "opening alone")}
    with tempfile.TemporaryDirectory(prefix="nvcatalog-bench-") as folder:
        made = bench.in_fresh_process(make, folder, options.images, options.collections)
        print(f"a catalog of {options.images} images, {made.facts['mib']:.0f} MiB, made in {made.wall_s:.1f} s")
        for _ in range(options.repeat):
            for name, runs in sides.items():
                side = select_side if name in CONDITIONS else open_side
                runs.append(bench.in_fresh_process(side, name, folder))
    for name in CONDITIONS:
        facts = sides[name][0].facts
        print(f"{name}: {facts['images']} of {facts['total']} that match")
    bench.table(sides, base="the usual")
    for name in CONDITIONS:
        bench.verdict(f"seconds, {name}", bench.median_s(sides[name]), at_most=TARGET_S)


if __name__ == "__main__":
    main()
