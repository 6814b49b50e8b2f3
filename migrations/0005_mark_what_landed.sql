-- A snapshot should write anew what has changed since the last one, and nothing else: so each landing leaves a mark of its
-- own on what it changes, in the same transaction. A mark is random, not a count: of two catalogs that went apart, such
-- as when one was restored from a backup, a count could be the same.

CREATE TABLE marks (
    table_name VARCHAR,
    block INTEGER,
    mark VARCHAR
);
COMMENT ON TABLE marks IS 'One row per block of a table''s rows: the mark of the landing that last changed it, by which snapshots know what to write anew.';
COMMENT ON COLUMN marks.table_name IS 'The table; * stands for all of them, marked when something else than a landing may have written';
COMMENT ON COLUMN marks.block IS 'Number of the block: a range of ids, 0 where a table is one block';
COMMENT ON COLUMN marks.mark IS 'A random one for each landing';

INSERT INTO marks VALUES ('*', 0, uuid()::VARCHAR);
