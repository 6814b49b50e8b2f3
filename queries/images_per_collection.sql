-- How many images of each collection are known, and how many are on disk, largest first.
-- $min_images: leave out collections smaller than this (count, default 1)
-- $collection_ids: these collections alone (collection ids, default NULL)
-- $private: private ones too, not only where collection_ids names them (boolean, default false)
-- $gone: collections and images that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH known AS (
    SELECT i.collection_id, count(*) AS images, count(f.image_id) AS on_disk
    FROM images AS i
    LEFT JOIN files AS f ON f.image_id = i.image_id AND f.kind = 'original' AND f.state = 'present'
    WHERE ($gone OR i.gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR i.image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], i.collection_id))
    GROUP BY i.collection_id
)
SELECT c.collection_id, c.name, coalesce(k.images, 0) AS images, coalesce(k.on_disk, 0) AS on_disk
FROM collections AS c
LEFT JOIN known AS k USING (collection_id)
WHERE ($gone OR c.gone_at IS NULL)
  AND (
      $private
      OR $collection_ids IS NOT NULL
      OR c.collection_id NOT IN (SELECT collection_id FROM private_collections)
  )
  AND coalesce(k.images, 0) >= coalesce($min_images, 0)
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], c.collection_id))
ORDER BY images DESC, c.collection_id
LIMIT $limit
