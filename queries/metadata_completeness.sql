-- How many statistic maps fill in each field; placeholders, and a number of subjects of 0, do not count as filled.
-- $by: one row a field for each of these, where NULL stands for all maps together
--     (one of collection, owner, year, modality, level, neuroscout, default NULL)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH maps AS (
    SELECT
        *,
        CASE $by
            WHEN 'collection' THEN collection_id::VARCHAR
            WHEN 'owner' THEN owner::VARCHAR
            WHEN 'year' THEN year(add_date)::VARCHAR
            WHEN 'modality' THEN nullif(modality, '')
            WHEN 'level' THEN CASE lower(analysis_level)
                WHEN 's' THEN 'single-subject'
                WHEN 'g' THEN 'group'
                WHEN 'm' THEN 'meta-analysis'
                ELSE nullif(lower(analysis_level), '')
            END
            WHEN 'neuroscout' THEN from_neuroscout::VARCHAR
        END AS part
    FROM stat_maps
    WHERE ($gone OR gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
),
counted AS (
    SELECT
        part,
        count(*) AS maps,
        unnest([
            {'field': 'task', 'filled': count(task)},
            {'field': 'contrast', 'filled': count(contrast)},
            {'field': 'contrast_definition', 'filled': count(*) FILTER (WHERE trim(contrast_definition) <> '')},
            {'field': 'description', 'filled': count(*) FILTER (WHERE trim(description) <> '')},
            {'field': 'map_type', 'filled': count(*) FILTER (WHERE map_type <> '')},
            {'field': 'analysis_level', 'filled': count(*) FILTER (WHERE analysis_level <> '')},
            {'field': 'modality', 'filled': count(*) FILTER (WHERE modality <> '')},
            {'field': 'n_subjects', 'filled': count(n_subjects)},
            {'field': 'statistic_parameters', 'filled': count(statistic_parameters)},
            {'field': 'smoothness_fwhm', 'filled': count(smoothness_fwhm)},
            {'field': 'target_template_image', 'filled': count(*) FILTER (WHERE target_template_image <> '')},
            {'field': 'subject_species', 'filled': count(*) FILTER (WHERE subject_species <> '')},
            {'field': 'age', 'filled': count(age)},
            {'field': 'sex', 'filled': count(*) FILTER (WHERE sex <> '')},
            {'field': 'handedness', 'filled': count(*) FILTER (WHERE handedness <> '')},
            {'field': 'figure', 'filled': count(*) FILTER (WHERE figure <> '')},
            {'field': 'is_thresholded', 'filled': count(is_thresholded)},
            {'field': 'not_mni', 'filled': count(not_mni)},
            {'field': 'brain_coverage', 'filled': count(brain_coverage)},
            {'field': 'file_size', 'filled': count(*) FILTER (WHERE file_size > 0)},
            {'field': 'doi', 'filled': count(doi)}
        ], recursive := true)
    FROM maps
    GROUP BY part
)
SELECT part, field, maps, filled, round(100 * filled / maps, 1) AS percent
FROM counted
ORDER BY part NULLS LAST, percent DESC, field
LIMIT $limit
