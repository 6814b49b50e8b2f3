-- The terms that tell two sets of images apart, those with the largest difference of mean weights first.
--
-- A term counts where both sets have images with it. A difference is no test: maps of one study are not independent.
-- $a: the one set (image ids, required)
-- $b: the other set (image ids, required)
-- $limit: how many terms (count, default 100)
WITH mean_a AS (
    SELECT term_id, count(*) AS images, avg(weight) AS weight
    FROM words
    WHERE image_id IN (SELECT unnest($a::INTEGER[]))
    GROUP BY term_id
),
mean_b AS (
    SELECT term_id, count(*) AS images, avg(weight) AS weight
    FROM words
    WHERE image_id IN (SELECT unnest($b::INTEGER[]))
    GROUP BY term_id
)
SELECT
    t.term,
    a.weight - b.weight AS difference,
    a.weight AS mean_a,
    b.weight AS mean_b,
    a.images AS images_a,
    b.images AS images_b
FROM mean_a AS a
JOIN mean_b AS b USING (term_id)
JOIN terms AS t USING (term_id)
ORDER BY abs(difference) DESC, t.term
LIMIT $limit
