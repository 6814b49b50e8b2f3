-- The images most similar to a term's map, strongest first; weight is a correlation, not a probability.
--
-- Weights of several reference sets do not compare: the first images of each set come first, with the set's name.
-- $term: the term, as Neurosynth spells it (text from terms.term, required)
-- $min_weight: leave out images less similar than this, a correlation from -1 to 1 (number, default NULL)
-- $reference: images compared with this reference set alone, '' for answers that name none
--     (text from words_status.reference, default NULL)
-- $collection_ids: images of these collections alone (collection ids, default NULL)
-- $private: images of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: images that are gone from the server too (boolean, default false)
-- $limit: how many images (count, default 100)
SELECT w.image_id, i.name, i.collection_id, w.weight, s.reference
FROM image_words AS w
JOIN images AS i USING (image_id)
JOIN words_status AS s USING (image_id)
WHERE w.term = $term
  AND ($gone OR i.gone_at IS NULL)
  AND ($private OR $collection_ids IS NOT NULL OR i.image_id NOT IN (SELECT image_id FROM private_images))
  AND ($min_weight IS NULL OR w.weight >= $min_weight)
  AND ($reference IS NULL OR coalesce(s.reference, '') = $reference)
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], i.collection_id))
ORDER BY row_number() OVER (PARTITION BY s.reference ORDER BY w.weight DESC, w.image_id), s.reference
LIMIT $limit
