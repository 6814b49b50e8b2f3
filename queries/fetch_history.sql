-- The calls that used the network, the latest first: what was asked for, and what came.
-- $limit: how many calls (count, default 100)
SELECT
    started_at,
    round(epoch(finished_at - started_at), 3) AS seconds,
    function,
    mode,
    requested,
    returned,
    downloaded,
    missing,
    round(bytes / 1e6, 3) AS megabytes,
    server,
    version,
    parameters
FROM fetches
ORDER BY started_at DESC, fetch_id
LIMIT $limit
