ALTER TABLE dispatches ADD COLUMN owner TEXT;
