-- Two statistics of the same thing, such as an effect and its variance: of one NIDM pack, or of one contrast.
--
-- Maps pair within a pack, or else within a collection, a level, a task and a contrast, where there is one map of each
-- statistic; where there are several, as of many subjects, those pair whose names are the same but for words such as
-- beta, varcope and t map. What stays ambiguous is not paired.
-- $stat_a: the one statistic (one of t, z, f, beta, varcope, p, default 'beta')
-- $stat_b: the other one (one of t, z, f, beta, varcope, p, default 'varcope')
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $private: maps of private collections too, not only where collection_ids names them (boolean, default false)
-- $gone: maps that are gone from the server too (boolean, default false)
-- $limit: how many rows at most (count, default NULL)
WITH labels AS (
    -- What stat_maps makes statistics of: to tell that of every image takes longer than to find these two.
    SELECT of_stat[$stat_a] AS a, of_stat[$stat_b] AS b
    FROM (
        SELECT map {
            't': ['T map', 'T'],
            'z': ['Z map', 'Z'],
            'f': ['F map', 'F'],
            'beta': ['univariate-beta map', 'U'],
            'varcope': ['variance', 'V'],
            'p': ['P map (given null hypothesis)', 'P']
        } AS of_stat
    )
),
maps AS (
    SELECT
        i.image_id,
        i.collection_id,
        list_contains(l.a, i.map_type) AS is_a,
        nullif(i.nidm_results, '') AS pack,
        pack IS NOT NULL AS in_pack,
        coalesce(nullif(trim(lower(i.contrast_definition)), ''), lower(i.cognitive_contrast_cogatlas)) AS typed,
        nullif(lower(left(i.analysis_level, 1)), '') AS level,  -- group or G, single-subject or S, meta-analysis or M
        -- One number for all that a pair has in common: texts take longer to compare.
        hash(i.collection_id, pack, level, i.cognitive_paradigm_cogatlas, typed) AS thing,
        i.name,
        f.path
    FROM images AS i
    CROSS JOIN labels AS l
    LEFT JOIN files AS f ON f.image_id = i.image_id AND f.kind = 'original' AND f.state = 'present'
    WHERE i.image_type IS DISTINCT FROM 'atlas'
      AND list_contains(l.a || l.b, i.map_type)
      AND ($gone OR i.gone_at IS NULL)
      AND ($private OR $collection_ids IS NOT NULL OR i.image_id NOT IN (SELECT image_id FROM private_images))
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], i.collection_id))
),
things AS (
    SELECT thing, count(*) = 2 AS one_each
    FROM maps
    GROUP BY thing
    HAVING bool_or(is_a) AND NOT bool_and(is_a)
),
named AS (
    SELECT m.image_id, m.is_a, m.thing, m.name, t.one_each
    FROM maps AS m
    JOIN things AS t USING (thing)
),
stems AS (
    -- Names are looked at only where they must be, and each once, however many maps have it: "Z-Statistic Map: Visual"
    -- is "visual", and "sub-01_stat-variance_statmap" and "SUB 01 beta" are "sub 01".
    SELECT
        name,
        hash(trim(regexp_replace(
            lower(name),
            '(?:(?:^|[^a-z0-9])[tzfp](?:[^a-z0-9]|stat|map|$)|[^a-z0-9]|var(?:cope|beta|iance)?|cope|beta|effect'
            '|statistics?|stats?|maps?|parameter|estimate|spm[tf]?|con(?:trast)?)+',
            ' ',
            'g'
        ))) AS stem
    FROM (SELECT DISTINCT name FROM named WHERE NOT one_each)
),
pairs AS (
    SELECT
        min(n.image_id) FILTER (WHERE n.is_a) AS image_id_a,
        min(n.image_id) FILTER (WHERE NOT n.is_a) AS image_id_b,
        any_value(n.one_each) AS one_each
    FROM named AS n
    LEFT JOIN stems AS s ON s.name = n.name AND NOT n.one_each
    GROUP BY n.thing, s.stem
    HAVING count(*) = 2 AND image_id_a IS NOT NULL AND image_id_b IS NOT NULL
)
SELECT
    p.image_id_a,
    p.image_id_b,
    a.collection_id,
    CASE WHEN a.in_pack THEN 'pack' ELSE 'contrast' END
        || CASE WHEN p.one_each THEN '' ELSE ' and name' END AS paired_by,
    a.name AS name_a,
    b.name AS name_b,
    a.path AS path_a,
    b.path AS path_b
FROM pairs AS p
JOIN maps AS a ON a.image_id = p.image_id_a
JOIN maps AS b ON b.image_id = p.image_id_b
-- What stands for no contrast makes no pair; it is looked for where few maps are left.
WHERE a.in_pack
   OR left(a.typed, 1) NOT IN (' ', 'n')
   OR NOT regexp_full_match(a.typed, ' *(none( / other)?|null|n/a|na)? *')
ORDER BY a.collection_id, p.image_id_a, p.image_id_b
LIMIT $limit
