-- Records and frames that could not be read, with their raw bytes. received_at: microseconds since 1970.
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY NOT NULL,
    received_at BIGINT NOT NULL CHECK (typeof(received_at) = 'integer'),
    origin TEXT NOT NULL,
    reason TEXT NOT NULL CHECK (reason <> ''),
    detail TEXT NOT NULL,
    raw BLOB NOT NULL CHECK (typeof(raw) = 'blob')
);

-- For the list of the newest letters, and for retention.
CREATE INDEX dead_letters_by_age ON dead_letters (received_at);
