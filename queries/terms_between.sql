-- The terms that tell two sets of images apart, those with the largest difference of mean weights first.
--
-- A term counts where both sets have images with it. A difference is no test: maps of one study are not independent.
-- Weights of several reference sets do not compare: each has rows of its own, and the first of each come first.
-- $a: the one set (image ids from words_status.image_id, required)
-- $b: the other set (image ids from words_status.image_id, required)
-- $reference: images compared with this reference set alone, '' for answers that name none
--     (text from words_status.reference, default NULL)
-- $limit: how many terms (count, default 100)
WITH chosen AS (
    SELECT image_id, reference
    FROM words_status
    WHERE $reference IS NULL OR coalesce(reference, '') = $reference
),
mean_a AS (
    SELECT c.reference, w.term_id, count(*) AS images, avg(w.weight) AS weight
    FROM words AS w
    JOIN chosen AS c USING (image_id)
    WHERE image_id IN (SELECT unnest($a::INTEGER[]))
    GROUP BY c.reference, w.term_id
),
mean_b AS (
    SELECT c.reference, w.term_id, count(*) AS images, avg(w.weight) AS weight
    FROM words AS w
    JOIN chosen AS c USING (image_id)
    WHERE image_id IN (SELECT unnest($b::INTEGER[]))
    GROUP BY c.reference, w.term_id
)
SELECT
    t.term,
    a.weight - b.weight AS difference,
    a.weight AS mean_a,
    b.weight AS mean_b,
    a.images AS images_a,
    b.images AS images_b,
    a.reference
FROM mean_a AS a
JOIN mean_b AS b ON b.term_id = a.term_id AND b.reference IS NOT DISTINCT FROM a.reference
JOIN terms AS t ON t.term_id = a.term_id
ORDER BY row_number() OVER (PARTITION BY a.reference ORDER BY abs(difference) DESC, t.term), a.reference
LIMIT $limit
