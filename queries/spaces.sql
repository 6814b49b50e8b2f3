-- The spaces that statistic maps are in, the most frequent first; shape and voxels are known where the file is here.
-- $level: maps of this level of analysis alone
--     (one of group, single-subject, meta-analysis, other, default NULL)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH here AS (
    SELECT image_id, shape, list_transform(voxel_size_mm, lambda size: round(size, 3)) AS voxel_size_mm
    FROM files
    WHERE kind = 'original' AND state = 'present'
)
SELECT
    m.target_template_image AS template,
    m.not_mni,
    h.shape,
    h.voxel_size_mm,
    count(*) AS maps,
    count(DISTINCT m.collection_id) AS collections
FROM stat_maps AS m
LEFT JOIN here AS h USING (image_id)
WHERE ($gone OR m.gone_at IS NULL)
  AND ($private OR $collection_ids IS NOT NULL OR m.image_id NOT IN (SELECT image_id FROM private_images))
  AND ($level IS NULL OR lower(m.analysis_level) IN ($level, left($level, 1)))
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], m.collection_id))
GROUP BY ALL
ORDER BY maps DESC, template NULLS LAST, m.not_mni NULLS LAST, h.shape NULLS LAST, h.voxel_size_mm NULLS LAST
LIMIT $limit
