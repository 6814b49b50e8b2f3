-- The terms that a set of images is most similar to, by the mean of their weights over the images that have the term.
--
-- Weights of several reference sets have no common mean: each has rows of its own, and the first of each come first.
-- $image_ids: the images, of which those without terms do not count (image ids from words_status.image_id, required)
-- $reference: images compared with this reference set alone, '' for answers that name none
--     (text from words_status.reference, default NULL)
-- $limit: how many terms (count, default 100)
WITH chosen AS (
    SELECT image_id, reference
    FROM words_status
    WHERE image_id IN (SELECT unnest($image_ids::INTEGER[]))
      AND ($reference IS NULL OR coalesce(reference, '') = $reference)
),
means AS (
    SELECT
        c.reference,
        w.term_id,
        count(*) AS images,
        avg(w.weight) AS mean_weight,
        min(w.weight) AS least_weight,
        max(w.weight) AS most_weight
    FROM words AS w
    JOIN chosen AS c USING (image_id)
    GROUP BY c.reference, w.term_id
)
SELECT t.term, m.images, m.mean_weight, m.least_weight, m.most_weight, m.reference
FROM means AS m
JOIN terms AS t USING (term_id)
ORDER BY row_number() OVER (PARTITION BY m.reference ORDER BY m.mean_weight DESC, t.term), m.reference
LIMIT $limit
