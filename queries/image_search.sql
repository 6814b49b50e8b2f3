-- The images whose name, description or contrast hold all words of a text, those that are named so first.
-- $text: words in any order and case, parts of words too (text, required)
-- $collection_ids: images of these collections alone (collection ids, default NULL)
-- $private: images of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: images that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default 100)
WITH asked AS (
    SELECT list_filter(string_split_regex(lower($text), '\s+'), lambda word: word <> '') AS words
),
texts AS (
    SELECT
        image_id,
        lower(name) AS heading,
        lower(concat_ws(' ', name, description, contrast_definition, cognitive_contrast_cogatlas)) AS everything
    FROM images
    WHERE ($gone OR gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
),
found AS (
    SELECT
        t.image_id,
        coalesce(list_bool_and(list_transform(a.words, lambda word: contains(t.heading, word))), false) AS in_name
    FROM texts AS t, asked AS a
    WHERE list_bool_and(list_transform(a.words, lambda word: contains(t.everything, word)))
    ORDER BY in_name DESC, t.image_id
    LIMIT $limit
)
SELECT
    i.image_id,
    i.collection_id,
    i.name,
    i.description,
    i.contrast_definition,
    i.cognitive_contrast_cogatlas,
    i.map_type,
    i.analysis_level,
    f.in_name
FROM found AS f
JOIN images AS i USING (image_id)
ORDER BY f.in_name DESC, i.image_id
