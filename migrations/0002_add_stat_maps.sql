-- People select statistic maps by what a map is, not by how its uploader's form spelled it: a view with one
-- row per statistic map, where statistic, task and contrast are normalised and flags stand for common choices.
--
-- Placeholders are told by a pattern and not by IN: DuckDB makes a join of such a list, for each query on the view,
-- whether or not it asks for tasks. The pattern is tried on what may be one, as its first letter tells, and entities are
-- decoded only where there are any.

CREATE VIEW stat_maps AS
WITH maps AS (
    SELECT
        i.*,
        CASE
            WHEN i.map_type IN ('T map', 'T') THEN 't'
            WHEN i.map_type IN ('Z map', 'Z') THEN 'z'
            WHEN i.map_type IN ('F map', 'F') THEN 'f'
            WHEN i.map_type IN ('univariate-beta map', 'U') THEN 'beta'
            WHEN i.map_type IN ('variance', 'V') THEN 'varcope'
            WHEN i.map_type IN ('P map (given null hypothesis)', 'P') THEN 'p'
        END AS stat,
        CASE WHEN i.number_of_subjects > 0 THEN i.number_of_subjects END AS n_subjects
    FROM images AS i
    WHERE i.image_type IS DISTINCT FROM 'atlas'
)
SELECT
    m.*,
    CASE
        WHEN left(m.cognitive_paradigm_cogatlas_id, 1) NOT IN ('', ' ', 'N', 'n')
            OR NOT regexp_full_match(m.cognitive_paradigm_cogatlas_id, ' *(none( / other)?|null|n/a|na)? *', 'i')
            THEN m.cognitive_paradigm_cogatlas_id
    END AS task_id,
    -- The form stores HTML entities in names: "subject&#39;s choice". The ampersand itself comes last.
    CASE
        WHEN left(m.cognitive_paradigm_cogatlas, 1) IN ('', ' ', 'N', 'n')
            AND regexp_full_match(m.cognitive_paradigm_cogatlas, ' *(none( / other)?|null|n/a|na)? *', 'i')
            THEN NULL
        WHEN contains(m.cognitive_paradigm_cogatlas, '&')
            THEN replace(replace(replace(replace(replace(replace(trim(m.cognitive_paradigm_cogatlas),
                '&#39;', ''''), '&#x27;', ''''), '&quot;', '"'), '&lt;', '<'), '&gt;', '>'), '&amp;', '&')
        ELSE trim(m.cognitive_paradigm_cogatlas)
    END AS task,
    CASE
        WHEN left(m.cognitive_contrast_cogatlas_id, 1) NOT IN ('', ' ', 'N', 'n')
            OR NOT regexp_full_match(m.cognitive_contrast_cogatlas_id, ' *(none( / other)?|null|n/a|na)? *', 'i')
            THEN m.cognitive_contrast_cogatlas_id
    END AS contrast_id,
    CASE
        WHEN left(m.cognitive_contrast_cogatlas, 1) IN ('', ' ', 'N', 'n')
            AND regexp_full_match(m.cognitive_contrast_cogatlas, ' *(none( / other)?|null|n/a|na)? *', 'i')
            THEN NULL
        WHEN contains(m.cognitive_contrast_cogatlas, '&')
            THEN replace(replace(replace(replace(replace(replace(trim(m.cognitive_contrast_cogatlas),
                '&#39;', ''''), '&#x27;', ''''), '&quot;', '"'), '&lt;', '<'), '&gt;', '>'), '&amp;', '&')
        ELSE trim(m.cognitive_contrast_cogatlas)
    END AS contrast,
    c.name AS collection_name,
    c.doi,
    c.owner,
    coalesce(c.owner = 5761, false) AS from_neuroscout,
    coalesce(lower(c.name) LIKE '%temporary collection%', false) AS temporary_collection,
    coalesce(m.not_mni = false, false)
        AND coalesce(m.is_thresholded = false, false)
        AND coalesce(m.map_type NOT IN ('ROI/mask', 'anatomical', 'parcellation'), true)
        AND coalesce(c.number_of_images > 0, false) AS nilearn_default,
    coalesce(
        m.modality = 'fMRI-BOLD'
        AND m.analysis_level IN ('group', 'G')
        AND m.stat IN ('t', 'z')
        AND m.is_thresholded = false
        AND m.not_mni = false
        AND m.brain_coverage > 40
        AND m.n_subjects > 10,
        false
    ) AS ibma_candidate,
    f.path
FROM maps AS m
LEFT JOIN collections AS c ON c.collection_id = m.collection_id
LEFT JOIN files AS f ON f.image_id = m.image_id AND f.kind = 'original' AND f.state = 'present';

COMMENT ON VIEW stat_maps IS 'One row per statistic map, NIDM results included and atlases not; what people select by';
COMMENT ON COLUMN stat_maps.stat IS 'Statistic, from map_type as label or code: t, z, f, beta, varcope (variance), p; NULL for others';
COMMENT ON COLUMN stat_maps.n_subjects IS 'Number of subjects; NULL where the form says 0, which means unknown';
COMMENT ON COLUMN stat_maps.task_id IS 'Cognitive Atlas id of the task (trm_… or tsk_…); NULL where there is none';
COMMENT ON COLUMN stat_maps.task IS 'Name of the task in the Cognitive Atlas, entities decoded; NULL where there is none';
COMMENT ON COLUMN stat_maps.contrast_id IS 'Cognitive Atlas id of the contrast (cnt_…); NULL where there is none';
COMMENT ON COLUMN stat_maps.contrast IS 'Name of the contrast in the Cognitive Atlas, entities decoded; contrast_definition has the uploader''s own words';
COMMENT ON COLUMN stat_maps.collection_name IS 'Title of the collection';
COMMENT ON COLUMN stat_maps.doi IS 'DOI of the collection''s paper, normalised';
COMMENT ON COLUMN stat_maps.owner IS 'User id of the collection''s owner';
COMMENT ON COLUMN stat_maps.from_neuroscout IS 'Whether the owner is Neuroscout''s robot (5761): half of all maps, mostly single-subject';
COMMENT ON COLUMN stat_maps.temporary_collection IS 'Whether the collection''s title says that it is a temporary one';
COMMENT ON COLUMN stat_maps.nilearn_default IS 'Whether nilearn''s default terms keep it: in MNI, not thresholded, no ROI, anatomical map or parcellation';
COMMENT ON COLUMN stat_maps.ibma_candidate IS 'fMRI-BOLD, group, T or Z, not thresholded, in MNI, brain_coverage > 40 %, more than 10 subjects';
COMMENT ON COLUMN stat_maps.path IS 'Where the file is, relative to the catalog''s folder; NULL when it is not here';
