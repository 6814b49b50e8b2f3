-- The contrasts of a task, those of most collections first; NULL stands for all that the Cognitive Atlas lacks.
-- $task: its name in the Cognitive Atlas, in any case, or its id (text from stat_maps.task, required)
-- $level: maps of this level of analysis alone
--     (one of group, single-subject, meta-analysis, other, default NULL)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
SELECT
    min(contrast) AS contrast,
    min(contrast_id) AS contrast_id,
    count(DISTINCT collection_id) AS collections,
    count(*) AS maps,
    count(path) AS on_disk
FROM stat_maps
WHERE (lower(task) = lower(trim($task)) OR task_id = trim($task))
  -- What was typed tells at once which maps may be of the task.
  AND (
      contains(lower(cognitive_paradigm_cogatlas), lower(trim($task)))
      OR contains(cognitive_paradigm_cogatlas, '&')
      OR cognitive_paradigm_cogatlas_id = trim($task)
  )
  AND ($gone OR gone_at IS NULL)
  AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
  AND ($level IS NULL OR lower(analysis_level) IN ($level, left($level, 1)))
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
GROUP BY lower(stat_maps.contrast)
ORDER BY collections DESC, maps DESC, contrast NULLS LAST
LIMIT $limit
