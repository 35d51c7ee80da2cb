ALTER TABLE dispatches ADD COLUMN holds_secrets INTEGER NOT NULL DEFAULT 0;

CREATE INDEX dispatches_secrets ON dispatches (id) WHERE holds_secrets = 1;
