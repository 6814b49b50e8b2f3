-- The collections and images that are new, changed or gone since a date, the latest first, as far as the catalog knows.
--
-- Sync first to hear what is new. It counts when something changed on the server, not when it came here. fields are
-- those that differ from the first record that was replaced since, where one was kept.
-- $date: the first day that counts, or a time, in UTC (date, required)
-- $fields: say also which fields differ, for which whole records are read (boolean, default false)
-- $collection_ids: these collections and their images alone (collection ids, default NULL)
-- $private: private collections and their images too, not only where collection_ids names them
--     (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH former AS (
    SELECT kind, id, max(replaced_at) AS replaced_at, arg_min(raw, replaced_at) AS raw
    FROM record_history
    WHERE replaced_at >= $date::TIMESTAMPTZ
    GROUP BY kind, id
),
changed AS (
    SELECT 'collection' AS kind, collection_id AS id, collection_id, name, add_date, modify_date, gone_at
    FROM collections
    WHERE (
        greatest(add_date, modify_date, gone_at) >= $date::TIMESTAMPTZ
        OR collection_id IN (SELECT id FROM former WHERE kind = 'collection')
    )
      AND (
          $private
          OR $collection_ids IS NOT NULL
          OR collection_id NOT IN (SELECT collection_id FROM private_collections)
      )
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
    UNION ALL
    SELECT 'image' AS kind, image_id AS id, collection_id, name, add_date, modify_date, gone_at
    FROM images
    WHERE (
        greatest(add_date, modify_date, gone_at) >= $date::TIMESTAMPTZ
        OR image_id IN (SELECT id FROM former WHERE kind = 'image')
    )
      AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
),
replaced AS (
    SELECT f.kind, f.id, f.raw AS former, n.raw
    FROM former AS f
    JOIN changed AS c USING (kind, id)
    JOIN raw_records AS n USING (kind, id)
    WHERE $fields
),
then_and_now AS (
    SELECT kind, id, unnest(json_keys(former)) AS field, unnest(json_extract(former, '$.*'))::VARCHAR AS value
    FROM replaced
    UNION ALL
    SELECT kind, id, unnest(json_keys(raw)) AS field, unnest(json_extract(raw, '$.*'))::VARCHAR AS value
    FROM replaced
),
different AS (
    SELECT kind, id, field
    FROM then_and_now
    WHERE value <> 'null'
    GROUP BY kind, id, field
    HAVING count(*) = 1 OR min(value) <> max(value)
),
differences AS (
    SELECT kind, id, list(field ORDER BY field) AS fields
    FROM different
    GROUP BY kind, id
)
SELECT
    c.kind,
    c.id,
    c.collection_id,
    c.name,
    CASE
        WHEN c.gone_at >= $date::TIMESTAMPTZ THEN 'gone'
        WHEN c.add_date >= $date::TIMESTAMPTZ THEN 'new'
        ELSE 'changed'
    END AS change,
    coalesce(c.gone_at, greatest(c.add_date, c.modify_date, f.replaced_at)) AS changed_at,
    d.fields
FROM changed AS c
LEFT JOIN former AS f USING (kind, id)
LEFT JOIN differences AS d USING (kind, id)
ORDER BY changed_at DESC, c.kind, c.id
LIMIT $limit
