-- How many images of each collection are known, and how many are on disk, largest first.
-- $min_images: leave out collections smaller than this (count, default 1)
-- $collection_ids: these collections alone (collection ids, default NULL)
-- $private: private ones too, not only where collection_ids names them (boolean, default false)
-- $gone: collections and images that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
SELECT c.collection_id, c.name, count(i.image_id) AS images, count(f.image_id) AS on_disk
FROM collections AS c
LEFT JOIN images AS i ON i.collection_id = c.collection_id AND ($gone OR i.gone_at IS NULL)
LEFT JOIN files AS f ON f.image_id = i.image_id AND f.kind = 'original' AND f.state = 'present'
WHERE ($gone OR c.gone_at IS NULL)
  AND (
      $private
      OR $collection_ids IS NOT NULL
      OR c.collection_id NOT IN (SELECT collection_id FROM private_collections)
  )
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], c.collection_id))
GROUP BY c.collection_id, c.name
HAVING count(i.image_id) >= coalesce($min_images, 0)
ORDER BY images DESC, c.collection_id
LIMIT $limit
