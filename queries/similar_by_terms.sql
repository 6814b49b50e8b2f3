-- The images whose terms are most like those of an image, most similar first: the cosine of their weights, -1 to 1.
--
-- Only images that were compared with the same set of terms are like one another; a term that one of them lacks counts
-- as 0. The cosine is NULL where all weights of an image are 0, or too large to be squared.
-- $image_id: the image (image id from words_status.image_id, required)
-- $collection_ids: images of these collections alone (collection ids, default NULL)
-- $private: images of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: images that are gone from the server too (boolean, default false)
-- $limit: how many images (count, default 20)
WITH target AS MATERIALIZED (
    SELECT t.term_id, coalesce(w.weight, 0) AS weight
    FROM terms AS t
    LEFT JOIN words AS w ON w.term_id = t.term_id AND w.image_id = $image_id
),
others AS (
    SELECT i.image_id, i.name, i.collection_id, s.reference
    FROM images AS i
    JOIN words_status AS s USING (image_id)
    JOIN words_status AS mine
        ON mine.image_id = $image_id
        AND mine.status = 'present'
        AND mine.reference IS NOT DISTINCT FROM s.reference
    WHERE i.image_id <> $image_id
      AND ($gone OR i.gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR i.image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], i.collection_id))
),
scores AS (
    SELECT
        w.image_id,
        sum(w.weight * t.weight) AS product,
        sqrt(sum(w.weight * w.weight)) * (SELECT sqrt(sum(weight * weight)) FROM target) AS lengths
    FROM words AS w
    JOIN target AS t USING (term_id)
    GROUP BY w.image_id
)
SELECT
    o.image_id,
    o.name,
    o.collection_id,
    -- Rounding may take a product a little beyond the lengths; those of weights beyond 1e150 may have no number.
    CASE WHEN isfinite(s.lengths) AND isfinite(s.product)
        THEN least(greatest(s.product, -s.lengths), s.lengths) / nullif(s.lengths, 0)
    END AS cosine,
    o.reference
FROM scores AS s
JOIN others AS o USING (image_id)
ORDER BY cosine DESC NULLS LAST, o.image_id
LIMIT $limit
