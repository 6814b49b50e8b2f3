-- The maps that an image-based meta-analysis can use: fMRI-BOLD group maps, not thresholded, in MNI space.
-- $task: maps of this task alone: its name in the Cognitive Atlas, in any case, or its id
--     (text from stat_maps.task, default NULL)
-- $min_subjects: leave out maps of fewer subjects, or of an unknown number (count, default 11)
-- $min_coverage: leave out maps that cover this part of the brain or less, in percent (number, default 40)
-- $stats: maps of these statistics alone (any of t, z, f, beta, varcope, p, default ['t', 'z'])
-- $neuroscout: true for maps of Neuroscout's robot alone, false for all others (boolean, default NULL)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
SELECT
    image_id,
    collection_id,
    collection_name,
    doi,
    name,
    task,
    contrast,
    contrast_definition,
    stat,
    n_subjects,
    brain_coverage,
    from_neuroscout,
    path
FROM stat_maps
WHERE ($gone OR gone_at IS NULL)
  AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
  AND modality = 'fMRI-BOLD'
  AND analysis_level IN ('group', 'G')
  AND is_thresholded = false
  AND not_mni = false
  AND ($task IS NULL OR lower(task) = lower(trim($task)) OR task_id = trim($task))
  -- What was typed tells at once which maps may be of the task.
  AND (
      $task IS NULL
      OR contains(lower(cognitive_paradigm_cogatlas), lower(trim($task)))
      OR contains(cognitive_paradigm_cogatlas, '&')
      OR cognitive_paradigm_cogatlas_id = trim($task)
  )
  AND ($stats IS NULL OR list_contains($stats::VARCHAR[], stat))
  AND ($min_coverage IS NULL OR brain_coverage > $min_coverage)
  AND ($min_subjects IS NULL OR n_subjects >= $min_subjects)
  AND ($neuroscout IS NULL OR from_neuroscout = $neuroscout)
ORDER BY collection_id, image_id
LIMIT $limit
