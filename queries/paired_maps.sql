-- Two statistics of the same thing, such as an effect and its variance: of one NIDM pack, or of one contrast.
--
-- Maps pair within a pack, or else within a collection, a level, a task and a contrast, where there is one map of each
-- statistic; where there are several, as of many subjects, those pair whose names are the same but for words such as
-- beta, varcope and t map. What stays ambiguous is not paired.
-- $stat_a: the one statistic (one of t, z, f, beta, varcope, p, default 'beta')
-- $stat_b: the other one (one of t, z, f, beta, varcope, p, default 'varcope')
-- $collection_ids: maps of these collections alone (collection ids, default NULL)
-- $limit: how many rows at most (count, default NULL)
WITH maps AS (
    SELECT
        image_id,
        stat,
        collection_id,
        nullif(nidm_results, '') AS pack,
        lower(analysis_level) AS level,
        task,
        coalesce(nullif(lower(trim(contrast_definition)), ''), lower(contrast)) AS contrast,
        name
    FROM stat_maps
    WHERE stat IN ($stat_a, $stat_b)
      AND gone_at IS NULL
      AND ($collection_ids IS NULL OR list_contains($collection_ids::INTEGER[], collection_id))
),
groups AS (
    SELECT
        collection_id, pack, level, task, contrast,
        min(image_id) FILTER (WHERE stat = $stat_a) AS a,
        min(image_id) FILTER (WHERE stat = $stat_b) AS b,
        count(*) FILTER (WHERE stat = $stat_a) AS of_a,
        count(*) FILTER (WHERE stat = $stat_b) AS of_b
    FROM maps
    WHERE pack IS NOT NULL OR contrast IS NOT NULL
    GROUP BY collection_id, pack, level, task, contrast
    HAVING a IS NOT NULL AND b IS NOT NULL
),
-- Names are looked at only where they must be.
named AS (
    SELECT
        m.image_id,
        m.stat,
        m.collection_id,
        m.pack,
        m.level,
        m.task,
        m.contrast,
        -- "Z-Statistic Map: Visual" is "visual", "sub-01_stat-variance_statmap" and "sub 01 beta" are "sub 01"
        trim(regexp_replace(regexp_replace(regexp_replace(
            lower(m.name),
            '[^a-z0-9]+|([a-z])([0-9])', '\1 \2', 'g'),
            '\b(stat|statistics?|stats|statmap|maps?|tstat|zstat|fstat|pstat|tmap|zmap|fmap|pmap|t|z|f|p|beta|betas'
            '|cope|varcope|varbeta|variance|var|effect|parameter estimate)\b', ' ', 'g'),
            '\s+', ' ', 'g')) AS stem
    FROM maps AS m
    JOIN groups AS g
        ON g.collection_id = m.collection_id
        AND g.pack IS NOT DISTINCT FROM m.pack
        AND g.level IS NOT DISTINCT FROM m.level
        AND g.task IS NOT DISTINCT FROM m.task
        AND g.contrast IS NOT DISTINCT FROM m.contrast
    WHERE g.of_a > 1 OR g.of_b > 1
),
pairs AS (
    SELECT a, b, CASE WHEN pack IS NULL THEN 'contrast' ELSE 'pack' END AS paired_by
    FROM groups
    WHERE of_a = 1 AND of_b = 1
    UNION ALL
    SELECT
        min(image_id) FILTER (WHERE stat = $stat_a) AS a,
        min(image_id) FILTER (WHERE stat = $stat_b) AS b,
        CASE WHEN pack IS NULL THEN 'contrast and name' ELSE 'pack and name' END AS paired_by
    FROM named
    GROUP BY collection_id, pack, level, task, contrast, stem
    HAVING count(*) FILTER (WHERE stat = $stat_a) = 1 AND count(*) FILTER (WHERE stat = $stat_b) = 1
)
SELECT
    p.a AS image_id_a,
    p.b AS image_id_b,
    a.collection_id,
    p.paired_by,
    a.name AS name_a,
    b.name AS name_b,
    a.path AS path_a,
    b.path AS path_b
FROM pairs AS p
JOIN stat_maps AS a ON a.image_id = p.a
JOIN stat_maps AS b ON b.image_id = p.b
WHERE p.a <> p.b
ORDER BY a.collection_id, p.a, p.b
LIMIT $limit
