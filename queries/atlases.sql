-- The atlases and parcellations that are known, by collection and image; paths are NULL where a file is not here.
-- $species: those of this species alone, as uploaders typed it, in any case: 'homo sapiens'
--     (text from images.subject_species, default NULL)
-- $collection_ids: those of these collections alone (collection ids, default NULL)
-- $private: those of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: those that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
SELECT
    i.image_id,
    i.collection_id,
    c.name AS collection_name,
    i.name,
    CASE WHEN i.image_type = 'atlas' OR i.label_description_file IS NOT NULL THEN 'atlas' ELSE 'parcellation' END
        AS kind,
    i.subject_species AS species,
    i.target_template_image AS template,
    f.shape,
    f.voxel_size_mm,
    f.path,
    l.path AS labels_path
FROM images AS i
LEFT JOIN collections AS c USING (collection_id)
LEFT JOIN files AS f ON f.image_id = i.image_id AND f.kind = 'original' AND f.state = 'present'
LEFT JOIN files AS l ON l.image_id = i.image_id AND l.kind = 'labels' AND l.state = 'present'
WHERE ($gone OR i.gone_at IS NULL)
  AND ($private OR $collection_ids IS NOT NULL OR i.image_id NOT IN (SELECT image_id FROM private_images))
  AND (i.image_type = 'atlas' OR i.label_description_file IS NOT NULL OR i.map_type IN ('parcellation', 'Pa'))
  AND ($species IS NULL OR lower(trim(i.subject_species)) = lower(trim($species)))
  AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], i.collection_id))
ORDER BY i.collection_id, i.image_id
LIMIT $limit
