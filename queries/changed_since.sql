-- The collections and images that are new, changed or gone since a date, the latest first, as far as the catalog knows.
--
-- Sync first to hear what is new. fields are those that differ from the first record that was replaced since; they are
-- NULL where no former record is kept.
-- $date: the first day that counts, or a time, in UTC (date, required)
-- $collection_ids: these collections and their images alone (collection ids, default NULL)
-- $limit: how many rows at most (count, default NULL)
WITH former AS (
    SELECT kind, id, max(replaced_at) AS replaced_at, arg_min(raw, replaced_at) AS raw
    FROM record_history
    WHERE replaced_at >= $date::TIMESTAMPTZ
    GROUP BY kind, id
),
records AS (
    SELECT 'collection' AS kind, collection_id AS id, collection_id, name, add_date, modify_date, gone_at
    FROM collections
    UNION ALL
    SELECT 'image' AS kind, image_id AS id, collection_id, name, add_date, modify_date, gone_at
    FROM images
),
changed AS (
    SELECT
        r.*,
        f.raw AS former,
        CASE
            WHEN r.gone_at >= $date::TIMESTAMPTZ THEN 'gone'
            WHEN r.add_date >= $date::TIMESTAMPTZ THEN 'new'
            ELSE 'changed'
        END AS change,
        coalesce(r.gone_at, greatest(r.add_date, r.modify_date, f.replaced_at)) AS changed_at
    FROM records AS r
    LEFT JOIN former AS f USING (kind, id)
    WHERE (
        r.gone_at >= $date::TIMESTAMPTZ
        OR r.add_date >= $date::TIMESTAMPTZ
        OR r.modify_date >= $date::TIMESTAMPTZ
        OR f.raw IS NOT NULL
    )
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], r.collection_id))
),
differences AS (
    SELECT
        c.kind,
        c.id,
        list_sort(list_filter(
            list_distinct(json_keys(c.former) || json_keys(n.raw)),
            lambda key: json_extract(c.former, '$."' || replace(key, '"', '\"') || '"')
                IS DISTINCT FROM json_extract(n.raw, '$."' || replace(key, '"', '\"') || '"')
        )) AS fields
    FROM changed AS c
    JOIN raw_records AS n USING (kind, id)
    WHERE c.former IS NOT NULL
)
SELECT c.kind, c.id, c.collection_id, c.name, c.change, c.changed_at, d.fields
FROM changed AS c
LEFT JOIN differences AS d USING (kind, id)
ORDER BY c.changed_at DESC, c.kind, c.id
LIMIT $limit
