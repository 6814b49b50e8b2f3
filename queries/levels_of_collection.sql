-- The levels of analysis of a collection's statistic maps; NULL stands for maps whose level is unknown.
-- $collection_id: the collection (collection id from images.collection_id, required)
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
    list_sort(list_distinct(list(stat))) AS stats,
    count(DISTINCT coalesce(contrast, nullif(trim(contrast_definition), ''))) AS contrasts,
    min(n_subjects) AS least_subjects,
    max(n_subjects) AS most_subjects,
    count(path) AS on_disk
FROM stat_maps
WHERE collection_id = $collection_id AND ($gone OR gone_at IS NULL)
GROUP BY level
ORDER BY maps DESC, level NULLS LAST
LIMIT $limit
