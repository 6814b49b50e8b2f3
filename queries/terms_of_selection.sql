-- The terms that a set of images is most similar to, by the mean of their weights over the images that have the term.
-- $image_ids: the images, of which those without terms do not count (image ids, required)
-- $limit: how many terms (count, default 100)
WITH means AS (
    SELECT
        term_id,
        count(*) AS images,
        avg(weight) AS mean_weight,
        min(weight) AS least_weight,
        max(weight) AS most_weight
    FROM words
    WHERE image_id IN (SELECT unnest($image_ids::INTEGER[]))
    GROUP BY term_id
)
SELECT t.term, m.images, m.mean_weight, m.least_weight, m.most_weight
FROM means AS m
JOIN terms AS t USING (term_id)
ORDER BY m.mean_weight DESC, t.term
LIMIT $limit
