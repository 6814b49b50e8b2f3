-- The tasks of the Cognitive Atlas that statistic maps were made of, those of most collections first; in any case.
-- $level: maps of this level of analysis alone
--     (one of group, single-subject, meta-analysis, other, default NULL)
-- $min_collections: leave out tasks of fewer collections (count, default 1)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH typed AS (
    SELECT
        collection_id,
        cognitive_paradigm_cogatlas AS name,
        cognitive_paradigm_cogatlas_id AS id,
        min(image_id) AS image_id,
        count(*) AS maps,
        count(path) AS on_disk
    FROM stat_maps
    WHERE cognitive_paradigm_cogatlas IS NOT NULL
      AND ($gone OR gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
      AND ($level IS NULL OR lower(analysis_level) IN ($level, left($level, 1)))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
    GROUP BY ALL
),
examples AS (  -- what was typed is read in one map of each, which is less work than in every map
    SELECT name, id, min(image_id) AS image_id
    FROM typed
    GROUP BY ALL
),
tasks AS (
    SELECT e.name, e.id, m.task, m.task_id
    FROM examples AS e
    JOIN stat_maps AS m USING (image_id)
)
SELECT
    min(a.task) AS task,
    min(a.task_id) AS task_id,
    count(DISTINCT t.collection_id) AS collections,
    sum(t.maps) AS maps,
    sum(t.on_disk) AS on_disk
FROM typed AS t
JOIN tasks AS a ON a.name = t.name AND a.id IS NOT DISTINCT FROM t.id
WHERE a.task IS NOT NULL
GROUP BY lower(a.task)
HAVING count(DISTINCT t.collection_id) >= coalesce($min_collections, 0)
ORDER BY collections DESC, maps DESC, task
LIMIT $limit
