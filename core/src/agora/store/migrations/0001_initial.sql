CREATE TABLE dispatches (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    live INTEGER NOT NULL,
    target TEXT NOT NULL,
    run TEXT,
    name TEXT,
    requested_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    version INTEGER NOT NULL,
    body TEXT NOT NULL
);

CREATE INDEX dispatches_live ON dispatches (id) WHERE live = 1;

CREATE INDEX dispatches_requested ON dispatches (requested_at);

CREATE UNIQUE INDEX dispatches_run_name ON dispatches (run, name) WHERE run IS NOT NULL AND name IS NOT NULL;

CREATE TABLE labels (
    dispatch_id TEXT NOT NULL,
    label TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (dispatch_id, label)
);

CREATE INDEX labels_content ON labels (label, content);

CREATE TABLE events (
    dispatch_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (dispatch_id, sequence)
);
