-- How many statistic maps say of how many subjects they are, by level of analysis; 0 means unknown, like a missing one.
-- $task: maps of this task alone: its name in the Cognitive Atlas, in any case, or its id
--     (text from stat_maps.task, default NULL)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
SELECT
    CASE lower(analysis_level)
        WHEN 's' THEN 'single-subject'
        WHEN 'g' THEN 'group'
        WHEN 'm' THEN 'meta-analysis'
        ELSE nullif(lower(analysis_level), '')
    END AS level,
    count(*) AS maps,
    count(*) FILTER (WHERE number_of_subjects > 0) AS reported,
    count(*) FILTER (WHERE number_of_subjects IS NULL) AS missing,
    count(*) FILTER (WHERE number_of_subjects <= 0) AS zero,
    min(n_subjects) AS least_subjects,
    median(n_subjects) AS median_subjects,
    max(n_subjects) AS most_subjects
FROM stat_maps
WHERE ($gone OR gone_at IS NULL)
  AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
  AND ($task IS NULL OR lower(task) = lower(trim($task)) OR task_id = trim($task))
  -- What was typed tells at once which maps may be of the task.
  AND (
      $task IS NULL
      OR contains(lower(cognitive_paradigm_cogatlas), lower(trim($task)))
      OR contains(cognitive_paradigm_cogatlas, '&')
      OR cognitive_paradigm_cogatlas_id = trim($task)
  )
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
GROUP BY level
ORDER BY maps DESC, level NULLS LAST
LIMIT $limit
