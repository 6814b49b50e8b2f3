-- The collections whose name, authors, journal or description hold all words of a text, those named so first.
-- $text: words in any order and case, parts of words too (text, required)
-- $collection_ids: these collections alone (collection ids, default NULL)
-- $private: private ones too, not only where collection_ids names them (boolean, default false)
-- $gone: those that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default 100)
WITH asked AS (
    SELECT list_filter(string_split_regex(lower($text), '\s+'), lambda word: word <> '') AS words
),
texts AS (
    SELECT
        collection_id,
        name,
        doi,
        authors,
        journal_name,
        description,
        lower(name) AS heading,
        lower(concat_ws(' ', name, authors, journal_name, description)) AS everything
    FROM collections
    WHERE ($gone OR gone_at IS NULL)
      AND (
          $private
          OR $collection_ids IS NOT NULL
          OR collection_id NOT IN (SELECT collection_id FROM private_collections)
      )
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
)
SELECT
    t.collection_id,
    t.name,
    t.doi,
    t.authors,
    t.journal_name,
    t.description,
    coalesce(list_bool_and(list_transform(a.words, lambda word: contains(t.heading, word))), false) AS in_name
FROM texts AS t, asked AS a
WHERE list_bool_and(list_transform(a.words, lambda word: contains(t.everything, word)))
ORDER BY in_name DESC, t.collection_id
LIMIT $limit
