-- The statistic maps of a task, by collection and image.
-- $task: its name in the Cognitive Atlas, in any case, or its id (text from stat_maps.task, required)
-- $contrast: maps of this contrast alone: its name, its id, or what uploaders called it
--     (text from stat_maps.contrast, default NULL)
-- $level: maps of this level of analysis alone
--     (one of group, single-subject, meta-analysis, other, default NULL)
-- $stat: maps of this statistic alone (one of t, z, f, beta, varcope, p, default NULL)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
SELECT
    image_id,
    collection_id,
    collection_name,
    name,
    task,
    contrast,
    contrast_definition,
    analysis_level,
    stat,
    n_subjects,
    path
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
  AND (
      $contrast IS NULL
      OR lower(contrast) = lower($contrast)
      OR contrast_id = $contrast
      OR lower(trim(contrast_definition)) = lower(trim($contrast))
  )
  AND ($level IS NULL OR lower(analysis_level) IN ($level, left($level, 1)))
  AND ($stat IS NULL OR stat = $stat)
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
ORDER BY collection_id, image_id
LIMIT $limit
