-- The collections that are known, largest first: what is known of their images, and how much of it is on disk.
-- $min_images: leave out collections with fewer known images (count, default 0)
-- $has_doi: true for those with the DOI of a paper alone, false for all others (boolean, default NULL)
-- $collection_ids: these collections alone (collection ids, default NULL)
-- $private: private ones too, not only where collection_ids names them (boolean, default false)
-- $gone: collections and images that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH known AS (
    SELECT
        i.collection_id,
        count(*) AS images,
        count(*) FILTER (WHERE i.analysis_level IN ('group', 'G')) AS group_maps,
        count(*) FILTER (WHERE i.analysis_level IN ('single-subject', 'S')) AS single_subject_maps,
        max(i.number_of_subjects) FILTER (WHERE i.number_of_subjects > 0) AS most_subjects,
        count(f.image_id) AS on_disk,
        count(w.image_id) AS with_words
    FROM images AS i
    LEFT JOIN files AS f ON f.image_id = i.image_id AND f.kind = 'original' AND f.state = 'present'
    LEFT JOIN words_status AS w ON w.image_id = i.image_id AND w.status = 'present'
    WHERE ($gone OR i.gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR i.image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], i.collection_id))
    GROUP BY i.collection_id
)
SELECT
    c.collection_id,
    c.name,
    c.doi,
    c.owner_name,
    coalesce(k.images, 0) AS images,
    coalesce(k.group_maps, 0) AS group_maps,
    coalesce(k.single_subject_maps, 0) AS single_subject_maps,
    k.most_subjects,
    coalesce(k.on_disk, 0) AS on_disk,
    coalesce(k.with_words, 0) AS with_words,
    coalesce(c.complete, false) AS all_images_known,
    c.modify_date
FROM collections AS c
LEFT JOIN known AS k USING (collection_id)
WHERE ($gone OR c.gone_at IS NULL)
  AND (
      $private
      OR $collection_ids IS NOT NULL
      OR c.collection_id NOT IN (SELECT collection_id FROM private_collections)
  )
  AND coalesce(k.images, 0) >= coalesce($min_images, 0)
  AND ($has_doi IS NULL OR (c.doi IS NOT NULL) = $has_doi)
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], c.collection_id))
ORDER BY images DESC, c.collection_id
LIMIT $limit
