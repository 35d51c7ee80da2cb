ALTER TABLE dispatches ADD COLUMN parent TEXT;

CREATE INDEX dispatches_parent ON dispatches (parent) WHERE parent IS NOT NULL;

CREATE TABLE decisions (
    id TEXT PRIMARY KEY,
    decided_at DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL
);
