-- Identifies the sequence numbers of this database to clients that resume. Numbers go on as long as the
-- database exists; a new database has a new epoch.

CREATE TABLE stream_epoch (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL CHECK (epoch <> '')
);
INSERT INTO stream_epoch (id, epoch) VALUES (1, substr(replace(gen_random_uuid()::text, '-', ''), 1, 16));
