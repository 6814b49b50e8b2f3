-- What a decoder is trained on: maps with a label each, and the collection that cross-validation must not split.
--
-- Maps of one collection share subjects, scanner and software: split by collection_id, or scores come out too good.
-- Labels that differ in case alone are one. Maps whose path is NULL are not here yet.
-- $label: what is to be decoded (one of task, contrast, modality, stat, level, default 'task')
-- $min_images: leave out labels of fewer maps (count, default 2)
-- $min_collections: leave out labels of fewer collections (count, default 2)
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH maps AS MATERIALIZED (  -- with none, too: to leave those out here would be to find each label twice
    SELECT
        image_id,
        CASE $label
            WHEN 'task' THEN task
            WHEN 'contrast' THEN contrast
            WHEN 'modality' THEN nullif(modality, '')
            WHEN 'stat' THEN stat
            WHEN 'level' THEN CASE lower(analysis_level)
                WHEN 's' THEN 'single-subject'
                WHEN 'g' THEN 'group'
                WHEN 'm' THEN 'meta-analysis'
                ELSE nullif(lower(analysis_level), '')
            END
        END AS label,
        collection_id,
        path
    FROM stat_maps
    WHERE ($gone OR gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
),
labelled AS (
    SELECT image_id, label, collection_id, path
    FROM maps
    WHERE label IS NOT NULL
),
by_collection AS (
    SELECT label, collection_id, count(*) AS images
    FROM labelled
    GROUP BY label, collection_id
),
labels AS (
    SELECT lower(label) AS same, min(label) AS label, list(DISTINCT label) AS typed
    FROM by_collection
    GROUP BY same
    HAVING sum(images) >= coalesce($min_images, 0)
       AND count(DISTINCT collection_id) >= coalesce($min_collections, 0)
),
spellings AS (
    SELECT label, unnest(typed) AS typed
    FROM labels
)
SELECT m.image_id, s.label, m.collection_id, m.path
FROM labelled AS m
JOIN spellings AS s ON s.typed = m.label
ORDER BY m.collection_id, m.image_id
LIMIT $limit
