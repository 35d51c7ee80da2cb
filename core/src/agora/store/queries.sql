-- name: insert_dispatch(id, state, live, holds_secrets, target, run, name, owner, parent, requested_at, ended_at, version, body)!
INSERT INTO dispatches
    (id, state, live, holds_secrets, target, run, name, owner, parent, requested_at, ended_at, version, body)
VALUES
    (:id, :state, :live, :holds_secrets, :target, :run, :name, :owner, :parent, :requested_at, :ended_at, :version, :body);

-- name: update_dispatch(state, live, holds_secrets, ended_at, version, body, id, previous)!
UPDATE dispatches
SET state = :state, live = :live, holds_secrets = :holds_secrets, ended_at = :ended_at, version = :version, body = :body
WHERE id = :id AND version = :previous;

-- name: read_dispatch(id)$
SELECT body FROM dispatches WHERE id = :id;

-- name: dispatch_row(id)^
SELECT id, body FROM dispatches WHERE id = :id;

-- name: open_versions()
SELECT id, version FROM dispatches WHERE live = 1
UNION
SELECT id, version FROM dispatches WHERE holds_secrets = 1;

-- name: candidate_ids(prefix, suffix)
SELECT id FROM dispatches WHERE id LIKE :prefix OR id LIKE :suffix ORDER BY id LIMIT 2;

-- name: id_of_name(run, name)$
SELECT id FROM dispatches WHERE run = :run AND name = :name;

-- name: list_dispatches(live, states, run, name, target, owner, before, label, content, most)
SELECT id, body FROM dispatches
WHERE (CAST(:live AS INTEGER) IS NULL OR live = :live)
  AND (CAST(:states AS TEXT) IS NULL OR :states LIKE '%,' || state || ',%')
  AND (CAST(:run AS TEXT) IS NULL OR run = :run)
  AND (CAST(:name AS TEXT) IS NULL OR name = :name)
  AND (CAST(:target AS TEXT) IS NULL OR target = :target)
  AND (CAST(:owner AS TEXT) IS NULL OR owner = :owner)
  AND (CAST(:before AS DOUBLE PRECISION) IS NULL OR requested_at < :before)
  AND (CAST(:label AS TEXT) IS NULL OR id IN (SELECT dispatch_id FROM labels WHERE label = :label AND content = :content))
ORDER BY requested_at DESC, id DESC
LIMIT :most;

-- name: list_live(states, run, name, target, owner, before, label, content, most)
-- The plus keeps SQLite from walking through all of the past by the index of its times.
SELECT id, body FROM dispatches
WHERE live = 1
  AND (CAST(:states AS TEXT) IS NULL OR :states LIKE '%,' || state || ',%')
  AND (CAST(:run AS TEXT) IS NULL OR run = :run)
  AND (CAST(:name AS TEXT) IS NULL OR name = :name)
  AND (CAST(:target AS TEXT) IS NULL OR target = :target)
  AND (CAST(:owner AS TEXT) IS NULL OR owner = :owner)
  AND (CAST(:before AS DOUBLE PRECISION) IS NULL OR requested_at < :before)
  AND (CAST(:label AS TEXT) IS NULL OR id IN (SELECT dispatch_id FROM labels WHERE label = :label AND content = :content))
ORDER BY +requested_at DESC, id DESC
LIMIT :most;

-- name: tree_below(id)
-- Parents before their children; UNION ends where an id that was used again has made a ring.
WITH RECURSIVE tree (id, state, live) AS (
    SELECT id, state, live FROM dispatches WHERE parent = :id
    UNION
    SELECT child.id, child.state, child.live FROM tree CROSS JOIN dispatches AS child ON child.parent = tree.id
)
SELECT id, state, live FROM tree;

-- name: insert_decision(id, decided_at, body)!
INSERT INTO decisions (id, decided_at, body) VALUES (:id, :decided_at, :body) ON CONFLICT (id) DO NOTHING;

-- name: read_decision(id)$
SELECT body FROM decisions WHERE id = :id;

-- name: delete_decisions(before)!
-- Ids of a group are its key, a dash and a number; a dot is what follows the dash.
DELETE FROM decisions
WHERE decided_at < :before
  AND NOT EXISTS (
    SELECT 1 FROM dispatches WHERE dispatches.id >= decisions.id || '-' AND dispatches.id < decisions.id || '.'
  );

-- name: insert_outcome(run, ended_at, body)!
INSERT INTO runs (run, ended_at, body) VALUES (:run, :ended_at, :body) ON CONFLICT (run) DO NOTHING;

-- name: read_outcome(run)$
SELECT body FROM runs WHERE run = :run;

-- name: list_outcomes(run)
SELECT run, body FROM runs WHERE (CAST(:run AS TEXT) IS NULL OR run = :run);

-- name: count_members(run)
SELECT run, state, COUNT(*), MIN(requested_at) FROM dispatches
WHERE run IS NOT NULL AND (CAST(:run AS TEXT) IS NULL OR run = :run)
GROUP BY run, state;

-- name: delete_outcomes(before)!
DELETE FROM runs
WHERE ended_at < :before AND NOT EXISTS (SELECT 1 FROM dispatches WHERE dispatches.run = runs.run);

-- name: ended_before(before)
SELECT id, body FROM dispatches WHERE live = 0 AND holds_secrets = 0 AND ended_at < :before ORDER BY ended_at;

-- name: insert_label(dispatch_id, label, content)!
INSERT INTO labels (dispatch_id, label, content) VALUES (:dispatch_id, :label, :content);

-- name: insert_event(dispatch_id, sequence, type, body)!
INSERT INTO events (dispatch_id, sequence, type, body) VALUES (:dispatch_id, :sequence, :type, :body);

-- name: read_events(dispatch_id, after)
SELECT body FROM events WHERE dispatch_id = :dispatch_id AND sequence > :after ORDER BY sequence;

-- name: any_of_run(run)$
SELECT id FROM dispatches WHERE run = :run LIMIT 1;

-- name: row_before_run(run)$
SELECT MIN(event.rowid) - 1 FROM dispatches AS member
CROSS JOIN events AS event ON event.dispatch_id = member.id AND event.sequence = 1
WHERE member.run = :run;

-- name: live_of_run(run)
SELECT id FROM dispatches WHERE run = :run AND live = 1;

-- name: row_of_event(dispatch_id, sequence)$
SELECT rowid FROM events WHERE dispatch_id = :dispatch_id AND sequence = :sequence;

-- name: newest_event()^
SELECT rowid, dispatch_id, sequence FROM events ORDER BY rowid DESC LIMIT 1;

-- name: read_run_events(run, after, upto, most)
-- Rows are numbered in the order in which they were committed: only one transaction writes at a time.
SELECT event.dispatch_id, event.sequence, event.body FROM events AS event
CROSS JOIN dispatches AS member ON member.id = event.dispatch_id
WHERE event.rowid > :after AND event.rowid <= :upto AND member.run = :run
ORDER BY event.rowid
LIMIT :most;

-- name: delete_dispatch(id)!
DELETE FROM dispatches WHERE id = :id;

-- name: delete_labels(id)!
DELETE FROM labels WHERE dispatch_id = :id;

-- name: delete_events(id)!
DELETE FROM events WHERE dispatch_id = :id;
