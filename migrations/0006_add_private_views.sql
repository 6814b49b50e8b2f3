-- Whoever asks about many images wants those that everybody can see, unless they say otherwise: so what is private, as
-- its record says or as the server has refused it since, is told in one place.

CREATE VIEW private_collections AS
SELECT collection_id
FROM collections
WHERE private
UNION
SELECT id AS collection_id
FROM refusals
WHERE kind = 'collection' AND status = 'private' AND id IS NOT NULL;

CREATE VIEW private_images AS
SELECT image_id
FROM images
WHERE collection_id IN (SELECT collection_id FROM private_collections)
UNION
SELECT id AS image_id
FROM refusals
WHERE kind = 'image' AND status = 'private' AND id IS NOT NULL;

COMMENT ON VIEW private_collections IS 'One row per private collection: its record says so, or the server refused it as private';
COMMENT ON COLUMN private_collections.collection_id IS 'NeuroVault''s number of the collection';
COMMENT ON VIEW private_images IS 'One row per image that is in a private collection, or that the server refused as private';
COMMENT ON COLUMN private_images.image_id IS 'NeuroVault''s number of the image';
