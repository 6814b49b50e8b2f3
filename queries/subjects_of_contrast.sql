-- The single-subject maps of a contrast in a collection, with whom each is of, as a second-level model takes them.
-- $collection_id: the collection (collection id from images.collection_id, required)
-- $contrast: maps of this contrast alone: its name, its id, or what the uploader called it (text, default NULL)
-- $subject_key: the free-form field that names the subject, as written or else in any case, where NULL stands for the BIDS label sub-…
--     in the name of the map or of its file (text, default NULL)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH maps AS (
    SELECT
        *,
        -- Two fields may differ in case alone.
        CASE
            WHEN list_contains(json_keys(extra), $subject_key) THEN $subject_key
            ELSE list_filter(json_keys(extra), lambda key: lower(key) = lower($subject_key))[1]
        END AS key
    FROM stat_maps
    WHERE collection_id = $collection_id
      AND ($gone OR gone_at IS NULL)
      AND lower(analysis_level) IN ('single-subject', 's')
      AND (
          $contrast IS NULL
          OR lower(contrast) = lower($contrast)
          OR contrast_id = $contrast
          OR lower(trim(contrast_definition)) = lower(trim($contrast))
      )
)
SELECT
    CASE
        WHEN $subject_key IS NULL THEN
            nullif(regexp_extract(concat_ws(' ', name, parse_filename(file)), '\bsub-([A-Za-z0-9]+)', 1), '')
        ELSE json_extract_string(extra, '/' || replace(replace(key, '~', '~0'), '/', '~1'))
    END AS subject,
    image_id,
    name,
    contrast,
    contrast_definition,
    stat,
    path
FROM maps
ORDER BY subject NULLS LAST, image_id
LIMIT $limit
