-- The images most similar to a term's map, strongest first; weight is a correlation, not a probability.
-- $term: the term, as Neurosynth spells it
-- $limit: how many images
SELECT w.image_id, i.name, i.collection_id, w.weight
FROM image_words AS w
JOIN images AS i USING (image_id)
WHERE w.term = $term
ORDER BY w.weight DESC, w.image_id
LIMIT $limit
