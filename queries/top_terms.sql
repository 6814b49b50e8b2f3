-- The terms whose maps are most similar to an image, strongest first; anti-correlated ones too.
-- $image_id: the image (image id from words_status.image_id, required)
-- $limit: how many terms (count, default 20)
-- $n: the same as $limit
SELECT w.term, w.weight, s.reference
FROM image_words AS w
JOIN words_status AS s USING (image_id)
WHERE w.image_id = $image_id
ORDER BY abs(w.weight) DESC, w.term
LIMIT $limit
