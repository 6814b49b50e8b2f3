-- The terms whose maps are most similar to an image, strongest first; anti-correlated ones too.
-- $image_id: the image (image id, required)
-- $limit: how many terms (count, default 20)
-- $n: the same as $limit
SELECT term, weight
FROM image_words
WHERE image_id = $image_id
ORDER BY abs(weight) DESC, term
LIMIT $limit
