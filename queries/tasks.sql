-- The tasks of the Cognitive Atlas that statistic maps were made of, those of most collections first.
-- $level: maps of this level of analysis alone
--     (one of group, single-subject, meta-analysis, other, default NULL)
-- $min_collections: leave out tasks of fewer collections (count, default 1)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $limit: how many rows at most (count, default NULL)
WITH by_collection AS (  -- which is less work than to count distinct ones
    SELECT task, collection_id, min(task_id) AS task_id, count(*) AS maps, count(path) AS on_disk
    FROM stat_maps
    WHERE task IS NOT NULL
      AND gone_at IS NULL
      AND ($level IS NULL OR lower(analysis_level) IN ($level, left($level, 1)))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
    GROUP BY task, collection_id
)
SELECT
    task,
    min(task_id) AS task_id,
    count(*) AS collections,
    sum(maps) AS maps,
    sum(on_disk) AS on_disk
FROM by_collection
GROUP BY task
HAVING count(*) >= coalesce($min_collections, 0)
ORDER BY collections DESC, maps DESC, task
LIMIT $limit
