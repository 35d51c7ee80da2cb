CREATE TABLE runs (
    run TEXT PRIMARY KEY,
    ended_at DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL
);

CREATE INDEX dispatches_run ON dispatches (run, state, requested_at) WHERE run IS NOT NULL;
