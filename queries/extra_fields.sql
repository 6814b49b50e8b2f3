-- The free-form fields of records, the most frequent first: what uploaders say that no column is for.
-- $min_count: leave out fields of fewer records (count, default 1)
-- $collection_ids: records of these collections and their images alone (collection ids, default NULL)
-- $private: records of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: records that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH image_records AS (
    SELECT image_id AS id, collection_id, extra, data
    FROM images
    WHERE (extra IS NOT NULL OR data IS NOT NULL)
      AND ($gone OR gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
),
records AS (
    SELECT 'image' AS kind, id, collection_id, extra AS fields
    FROM image_records
    WHERE extra IS NOT NULL
    UNION ALL
    SELECT 'image' AS kind, id, collection_id, data AS fields
    FROM image_records
    WHERE json_type(data) = 'OBJECT'
    UNION ALL
    SELECT 'collection' AS kind, collection_id AS id, collection_id, extra AS fields
    FROM collections
    WHERE extra IS NOT NULL
      AND ($gone OR gone_at IS NULL)
      AND (
          $private
          OR $collection_ids IS NOT NULL
          OR collection_id NOT IN (SELECT collection_id FROM private_collections)
      )
),
pairs AS (
    SELECT kind, id, collection_id, fields, unnest(json_keys(fields)) AS field
    FROM records
    WHERE $collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id)
)
SELECT
    kind,
    field,
    count(DISTINCT id) AS records,
    count(DISTINCT collection_id) AS collections,
    arg_min(json_extract_string(fields, '/' || replace(replace(field, '~', '~0'), '/', '~1')), id) AS example
FROM pairs
GROUP BY kind, field
HAVING count(DISTINCT id) >= coalesce($min_count, 0)
ORDER BY records DESC, kind, field
LIMIT $limit
