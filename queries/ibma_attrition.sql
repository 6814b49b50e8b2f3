-- What the criteria of ibma_candidates leave of all statistic maps, one after the other, as in a PRISMA flow chart.
--
-- maps and collections are what is left after the step; removed is what it took away, of which not_reported maps
-- lack the value that is asked for. The last step leaves what ibma_candidates gives.
-- $task: maps of this task alone: its name in the Cognitive Atlas, in any case, or its id
--     (text from stat_maps.task, default NULL)
-- $min_subjects: leave out maps of fewer subjects, or of an unknown number (count, default 11)
-- $min_coverage: leave out maps that cover this part of the brain or less, in percent (number, default 40)
-- $stats: maps of these statistics alone (any of t, z, f, beta, varcope, p, default ['t', 'z'])
-- $neuroscout: true for maps of Neuroscout's robot alone, false for all others (boolean, default NULL)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many steps at most (count, default NULL)
WITH judged AS (
    SELECT
        collection_id,
        -- The first step that a map does not pass; 99 for none.
        CASE
            WHEN $task IS NOT NULL
                AND NOT coalesce(lower(task) = lower(trim($task)) OR task_id = trim($task), false) THEN 1
            WHEN modality IS DISTINCT FROM 'fMRI-BOLD' THEN 2
            WHEN NOT coalesce(analysis_level IN ('group', 'G'), false) THEN 3
            WHEN $stats IS NOT NULL AND NOT coalesce(list_contains($stats::VARCHAR[], stat), false) THEN 4
            WHEN is_thresholded IS DISTINCT FROM false THEN 5
            WHEN not_mni IS DISTINCT FROM false THEN 6
            WHEN $min_coverage IS NOT NULL AND NOT coalesce(brain_coverage > $min_coverage, false) THEN 7
            WHEN $min_subjects IS NOT NULL AND NOT coalesce(n_subjects >= $min_subjects, false) THEN 8
            WHEN $neuroscout IS NOT NULL AND from_neuroscout <> $neuroscout THEN 9
            ELSE 99
        END AS failed,
        CASE failed
            WHEN 1 THEN $task IS NOT NULL AND task IS NULL
            WHEN 2 THEN coalesce(modality, '') = ''
            WHEN 3 THEN coalesce(analysis_level, '') = ''
            WHEN 4 THEN stat IS NULL
            WHEN 5 THEN is_thresholded IS NULL
            WHEN 6 THEN not_mni IS NULL
            WHEN 7 THEN brain_coverage IS NULL
            WHEN 8 THEN n_subjects IS NULL
            ELSE false
        END AS not_reported,
        count(*) AS maps
    FROM stat_maps
    WHERE ($gone OR gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
    GROUP BY ALL
),
ends AS (
    SELECT max(failed) AS failed
    FROM judged
    GROUP BY collection_id
),
steps AS (
    SELECT *
    FROM (VALUES
        (0, 'statistic maps that are known'),
        (1, coalesce('task is ' || $task, 'any task')),
        (2, 'modality is fMRI-BOLD'),
        (3, 'group level'),
        (4, coalesce('statistic is ' || array_to_string($stats::VARCHAR[], ' or '), 'any statistic')),
        (5, 'not thresholded'),
        (6, 'in MNI space'),
        (7, coalesce('covers more than ' || $min_coverage::VARCHAR || ' % of the brain', 'any coverage')),
        (8, coalesce('at least ' || $min_subjects::VARCHAR || ' subjects', 'any number of subjects')),
        (9, CASE $neuroscout WHEN true THEN 'Neuroscout''s' WHEN false THEN 'not Neuroscout''s' ELSE 'any owner' END)
    ) AS s(step, criterion)
)
SELECT
    s.step,
    s.criterion,
    (SELECT coalesce(sum(j.maps), 0) FROM judged AS j WHERE j.failed > s.step) AS maps,
    (SELECT count(*) FROM ends AS e WHERE e.failed > s.step) AS collections,
    (SELECT coalesce(sum(j.maps), 0) FROM judged AS j WHERE j.failed = s.step) AS removed,
    (SELECT coalesce(sum(j.maps), 0) FROM judged AS j WHERE j.failed = s.step AND j.not_reported) AS not_reported
FROM steps AS s
ORDER BY s.step
LIMIT $limit
