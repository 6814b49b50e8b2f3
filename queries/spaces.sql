-- The spaces that statistic maps are in, the most frequent first; shape and voxels are known where the file is here.
-- $level: maps of this level of analysis alone
--     (one of group, single-subject, meta-analysis, other, default NULL)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $limit: how many rows at most (count, default NULL)
SELECT
    m.target_template_image AS template,
    m.not_mni,
    f.shape,
    list_transform(f.voxel_size_mm, lambda size: round(size, 3)) AS voxel_size_mm,
    count(*) AS maps,
    count(DISTINCT m.collection_id) AS collections
FROM stat_maps AS m
LEFT JOIN files AS f ON f.image_id = m.image_id AND f.kind = 'original' AND f.state = 'present'
WHERE m.gone_at IS NULL
  AND ($level IS NULL OR lower(m.analysis_level) IN ($level, left($level, 1)))
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], m.collection_id))
GROUP BY ALL
ORDER BY maps DESC, template NULLS LAST, m.not_mni NULLS LAST, f.shape NULLS LAST, voxel_size_mm NULLS LAST
LIMIT $limit
