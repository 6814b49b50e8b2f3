-- A list of images need not be read again while its collection's modify_date stays what it was when the list was
-- begun: so that date is kept beside the list, apart from the record's own, which a later reading may move.

ALTER TABLE collections ADD COLUMN listed_modify_date TIMESTAMPTZ;

COMMENT ON COLUMN collections.listed_modify_date IS
    'The collection''s modify_date when the list of its images was begun; another one now means the list is out of date';
