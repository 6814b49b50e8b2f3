"""A catalog as large as all of NeuroVault, made in SQL within a minute, for the benchmarks that ask one.

The values are as frequent as uploaders give them, roughly: half of all maps are Neuroscout's, in pairs of effect
and variance of one subject each; a third of the others have free-form fields; one map of thirty is on disk. The
terms' weights are distributed like Neurosynth's correlations: half of them negative, some of them 0. To keep one,
name the folder in which `catalog.duckdb` shall be:

    python tests/benchmarks/_catalog.py FOLDER --words 10000
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

IMAGES = 600_000
COLLECTIONS = 16_000
#: How many images have words, and how many terms each: 32 million rows.
WORDS_IMAGES = 10_000
TERMS = 3_200

# h() spreads numbers evenly, so that columns do not go together.
_MACROS = """
    CREATE OR REPLACE TEMP MACRO h(x, salt) AS (hash(x * 100 + salt) % 1000000)::INTEGER;
    CREATE OR REPLACE TEMP MACRO u(x, salt) AS (hash(x * 100 + salt) % 16777216 + 0.5) / 16777216;
"""

_COLLECTIONS = """
    INSERT INTO collections BY NAME
    SELECT
        i AS collection_id,
        CASE WHEN h(i, 1) % 5 = 0 THEN 'user''s temporary collection'
            ELSE ['Decision making', 'Working memory', 'Pain', 'Language'][1 + h(i, 2) % 4] || ' study ' || i
            END AS name,
        'https://neurovault.org/collections/' || i || '/' AS url,
        CASE WHEN h(i, 3) % 3 = 0 THEN '10.1016/j.x.' || i END AS doi,
        CASE WHEN h(i, 3) % 3 = 0 THEN 'A. Author' || h(i, 2) || ' and B. Author' || h(i, 4) END AS authors,
        CASE WHEN h(i, 3) % 3 = 0 THEN ['NeuroImage', 'Cortex', 'Brain'][1 + h(i, 9) % 3] END AS journal_name,
        CASE WHEN h(i, 4) % 2 = 0 THEN 5761 ELSE h(i, 5) % 3000 END AS owner,
        CASE WHEN h(i, 4) % 2 = 0 THEN 'neuroscout' ELSE 'user' || h(i, 5) % 3000 END AS owner_name,
        'What was done in study ' || i AS description,
        CASE WHEN h(i, 6) % 4 = 0 THEN [1.5, 3, 7][1 + h(i, 7) % 3] END AS field_strength,
        CASE WHEN h(i, 8) % 3 = 0 THEN 2000 END AS repetition_time,
        $images // $collections AS number_of_images,
        h(i, 10) % 200 = 0 AS private,
        CASE WHEN h(i, 27) % 10 = 0 THEN json_object('wizard', 'yes', 'field ' || h(i, 28) % 300, i) END AS extra,
        TIMESTAMPTZ '2013-06-01 00:00:00Z' + to_days(h(i, 29) % 4000) AS add_date,
        add_date + to_days(h(i, 30) % 400) AS modify_date,
        true AS complete,
        CASE WHEN h(i, 31) % 500 = 0 THEN now() END AS gone_at,
        now() AS fetched_at
    FROM range(1, $collections + 1) AS r(i);
"""

_IMAGES = """
    INSERT INTO images BY NAME
    WITH numbered AS (
        SELECT
            r.i,
            1 + r.i % $collections AS c,
            h(1 + r.i % $collections, 4) % 2 = 0 AS robot,
            r.i // $collections AS n
        FROM range(1, $images + 1) AS r(i)
    )
    SELECT
        i AS image_id,
        c AS collection_id,
        CASE WHEN robot THEN 'sub-' || lpad((n // 2)::VARCHAR, 2, '0') || '_contrast-x_stat-'
                || ['effect', 'variance'][1 + n % 2] || '_statmap'
            ELSE 'map ' || i END AS name,
        'https://neurovault.org/images/' || i || '/' AS url,
        'https://neurovault.org/media/images/' || c || '/map_' || i || '.nii.gz' AS file,
        'https://neurovault.org/collections/' || c || '/' AS collection,
        CASE WHEN h(i, 11) % 7 = 0 THEN 0 ELSE 50000 + h(i, 12) END AS file_size,
        ['None / Other', 'stop signal task', 'n-back task', '', 'emotion processing fMRI task paradigm',
            'working memory fMRI task paradigm', NULL, 'rest eyes open'][1 + h(c - 1, 13) % 8]
            AS cognitive_paradigm_cogatlas,
        ['None', 'trm_4cacee4a1d875', 'trm_550b5b47aa37e', '', 'trm_551b1460e89a5', 'trm_550b5b47aa37f', NULL,
            'trm_54e69c642d89b'][1 + h(c - 1, 13) % 8] AS cognitive_paradigm_cogatlas_id,
        CASE WHEN h(i, 14) % 3 = 0 THEN ['reward &gt; baseline', 'go vs. stop', 'subject&#39;s choice', '2-back',
            'None'][1 + h(i, 15) % 5] END AS cognitive_contrast_cogatlas,
        CASE WHEN robot THEN '1*event_' || h(c, 32) % 500
            WHEN h(i, 33) % 2 = 0
                THEN ['faces > shapes', 'reward - baseline', 'go vs. stop', 'pain'][1 + h(i, 34) % 4]
            END AS contrast_definition,
        CASE WHEN robot THEN ['univariate-beta map', 'variance'][1 + n % 2]
            ELSE ['T map', 'Z map', 'F map', 'univariate-beta map', 'variance', 'Other', 'ROI/mask', 'T map',
                'Z map', 'parcellation'][1 + h(i, 16) % 10] END AS map_type,
        CASE WHEN robot THEN ['single-subject', 'group'][1 + n // 34]
            ELSE ['single-subject', 'group', 'single-subject', 'group', 'meta-analysis', NULL][1 + h(i, 17) % 6]
            END AS analysis_level,
        ['fMRI-BOLD', 'fMRI-BOLD', 'fMRI-BOLD', 'PET FDG', 'Structural MRI', NULL][1 + h(i, 18) % 6] AS modality,
        CASE WHEN h(i, 35) % 3 > 0 THEN 'As the uploader described map ' || i || ' of the '
            || ['reward', 'memory', 'pain', 'language'][1 + h(i, 36) % 4] || ' session' END AS description,
        CASE WHEN h(i, 19) % 4 > 0 THEN h(i, 19) % 60 END AS number_of_subjects,
        30 + h(i, 20) % 700 / 10 AS brain_coverage,
        h(i, 21) % 5 = 0 AS is_thresholded,
        h(i, 22) % 9 = 0 AS not_mni,
        CASE WHEN h(i, 23) % 100 = 0 THEN 'atlas' ELSE 'statistic_map' END AS image_type,
        CASE WHEN h(i, 23) % 100 = 0 THEN 'https://neurovault.org/media/images/' || c || '/labels.xml' END
            AS label_description_file,
        CASE WHEN NOT robot AND h(i, 37) % 25 = 0
            THEN 'https://neurovault.org/collections/' || c || '/pack_' || n // 8 || '.nidm' END AS nidm_results,
        ['GenericMNI', 'GenericMNI', 'GenericMNI', 'MNI152NLin2009cAsym', NULL][1 + h(i, 38) % 5]
            AS target_template_image,
        CASE WHEN h(i, 39) % 3 > 0 THEN 'homo sapiens' END AS subject_species,
        CASE WHEN NOT robot AND h(c, 40) % 3 = 0 THEN json_object(
            'subject', n::VARCHAR, 'IQ', 80 + h(i, 41) % 40,
            'score ' || h(c, 42) % 2000, (h(i, 43) % 100)::VARCHAR, 'field ' || h(c, 44) % 300, ''
            ) END AS extra,
        TIMESTAMPTZ '2013-06-01 00:00:00Z' + to_days(h(c, 29) % 4000) + to_seconds(n) AS add_date,
        add_date + to_days(h(i, 45) % 400) AS modify_date,
        CASE WHEN h(i, 24) % 200 = 0 THEN now() END AS gone_at,
        now() AS fetched_at
    FROM numbered;
"""

_RECORDS = """
    INSERT INTO raw_records BY NAME
    SELECT
        'image' AS kind,
        image_id AS id,
        json_merge_patch(json_object(
            'id', image_id, 'url', url, 'name', name, 'collection', collection, 'collection_id', collection_id,
            'file', file, 'file_size', file_size, 'map_type', map_type, 'analysis_level', analysis_level,
            'modality', modality, 'description', description, 'contrast_definition', contrast_definition,
            'cognitive_paradigm_cogatlas', cognitive_paradigm_cogatlas, 'brain_coverage', brain_coverage,
            'add_date', add_date, 'modify_date', modify_date, 'image_type', image_type
        ), coalesce(extra, '{}')) AS raw,
        now() AS fetched_at
    FROM images
    UNION ALL BY NAME
    SELECT
        'collection' AS kind,
        collection_id AS id,
        json_object('id', collection_id, 'name', name, 'DOI', doi, 'description', description) AS raw,
        now() AS fetched_at
    FROM collections;

    INSERT INTO record_history BY NAME
    SELECT
        kind,
        id,
        json_merge_patch(raw, '{"description": "As it was", "was here": true}') AS raw,
        now() - to_days(400) AS fetched_at,
        now() - to_days(h(id, 46) % 300) AS replaced_at
    FROM raw_records
    WHERE h(id, 47) % 100 = 0;
"""

_FILES = """
    INSERT INTO files BY NAME
    SELECT
        image_id,
        'original' AS kind,
        'collection_' || collection_id || '/image_' || image_id || '.nii.gz' AS path,
        file_size AS size,
        CASE WHEN h(image_id, 48) % 2 = 0 THEN [91, 109, 91] ELSE [53, 63, 46] END AS shape,
        CASE WHEN h(image_id, 48) % 2 = 0 THEN [2.0, 2.0, 2.0] ELSE [3.0, 3.0, 3.5] END AS voxel_size_mm,
        'present' AS state
    FROM images
    WHERE h(image_id, 25) % 30 = 0;

    INSERT INTO nidm_packs BY NAME
    SELECT (hash(nidm_results) % 1000000)::INTEGER AS pack_id, collection_id, image_id
    FROM images
    WHERE nidm_results IS NOT NULL;

    INSERT INTO fetches BY NAME
    SELECT
        'fetch ' || i AS fetch_id,
        now() - to_hours(i) AS started_at,
        started_at + to_seconds(h(i, 49) % 600) AS finished_at,
        'fetch_neurovault' AS function,
        '{"max_images": 100}' AS parameters,
        'download_new' AS mode,
        100 AS requested,
        100 AS returned,
        h(i, 50) % 100 AS downloaded,
        0 AS missing,
        h(i, 51) * 100 AS bytes
    FROM range(1, 2001) AS r(i);
"""

# Images come in no order of their ids, each with all of its terms at once, as they land.
_WORDS = """
    INSERT INTO terms
    SELECT term_id, term
    FROM (SELECT unnest($vocabulary) AS term, generate_subscripts($vocabulary, 1) AS term_id);

    INSERT INTO words
    WITH numbered AS (
        SELECT 1 + (i // $terms * 7919) % $words_images AS image_id, 1 + i % $terms AS term_id, u(i, 52) AS draw
        FROM range(0, $words_images * $terms) AS r(i)
    )
    SELECT image_id, term_id, round(sign(draw - 0.5) * 0.1237 * pow(-ln(1 - abs(2 * draw - 1)), 0.58), 3) + 0
    FROM numbered;

    INSERT INTO words_status
    SELECT i AS image_id, CASE WHEN i <= $words_images THEN 'present' ELSE 'not_found' END, 'terms_20k', now()
    FROM range(1, $words_images + $words_images // 20 + 1) AS r(i)
"""


def make(folder: Path, *, images: int = IMAGES, collections: int = COLLECTIONS, words_images: int = 0) -> Path:
    """Make a catalog, and return its file.

    Parameters
    ----------
    folder
        Where `catalog.duckdb` shall be.
    images, collections
        How many there are; image 1 is in collection 2, and so on, round by round.
    words_images
        How many images have words, from image 1 on, each with 3,200 terms.
    """
    from nvcatalog._store import Store

    store = Store(folder)
    numbers = {"images": images, "collections": collections, "words_images": words_images, "terms": TERMS}
    with store.writing() as connection:
        for sql in (_MACROS, _COLLECTIONS, _IMAGES, _RECORDS, _FILES):
            _execute(connection, sql, numbers)
        if words_images:
            _execute(connection, _WORDS, numbers)
    return store.path


def _execute(connection: duckdb.DuckDBPyConnection, sql: str, numbers: dict[str, int]) -> None:
    """Run statements, with the numbers in their text: a macro takes no parameters, nor do several statements."""
    from nvcatalog.demo.decoding import vocabulary

    for name, number in numbers.items():
        sql = sql.replace(f"${name}", str(number))
    for statement in connection.extract_statements(sql):
        wanted = statement.named_parameters
        connection.execute(statement, {"vocabulary": list(vocabulary()[:TERMS])} if wanted else None)


def main() -> None:
    """Make one to keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--collections", type=int, default=COLLECTIONS)
    parser.add_argument("--words", type=int, default=0, metavar="N", help="how many images have words")
    options = parser.parse_args()
    file = make(options.folder, images=options.images, collections=options.collections, words_images=options.words)
    print(f"{file}: {file.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
