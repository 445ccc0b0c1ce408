-- The current state of every market, and every update, including late ones.
--
-- line        The line as its shortest decimal text ('2.5', '-1'), '' for a market without a line. Not NULL, because in
--             a unique key two NULLs are never equal, and such a market could then be stored twice.
-- selections  JSON array of {id, name, price, status}, the price a JSON number in its exact decimal text.
-- updated_at, recorded_at  Microseconds since 1970, exact. Text would have to be parsed to be compared.
-- BIGINT and BOOLEAN mean nothing to SQLite beyond their affinity; the diesel CLI reads the Rust types from them.
--
-- PostgreSQL also has home_odd, draw_odd and away_odd, for readers of the original's table. Only this platform reads the
-- SQLite file, and SQLite has no exact decimal type, so these columns do not exist here.
CREATE TABLE odds_current (
    event_id TEXT NOT NULL CHECK (event_id <> ''),
    market TEXT NOT NULL CHECK (market <> ''),
    line TEXT NOT NULL,
    home_team TEXT NOT NULL,
    away_team TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'suspended', 'closed', 'settled', 'cancelled')),
    in_play BOOLEAN NOT NULL CHECK (in_play IN (0, 1)),
    selections TEXT NOT NULL CHECK (json_valid(selections)),
    source TEXT NOT NULL CHECK (source <> ''),
    version BIGINT NOT NULL CHECK (typeof(version) = 'integer'),
    updated_at BIGINT NOT NULL CHECK (typeof(updated_at) = 'integer'),
    seq BIGINT NOT NULL CHECK (typeof(seq) = 'integer' AND seq > 0),
    PRIMARY KEY (event_id, market, line)
);

CREATE TABLE odds_history (
    id INTEGER PRIMARY KEY NOT NULL,
    event_id TEXT NOT NULL CHECK (event_id <> ''),
    market TEXT NOT NULL CHECK (market <> ''),
    line TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'suspended', 'closed', 'settled', 'cancelled')),
    in_play BOOLEAN NOT NULL CHECK (in_play IN (0, 1)),
    selections TEXT NOT NULL CHECK (json_valid(selections)),
    source TEXT NOT NULL CHECK (source <> ''),
    version BIGINT NOT NULL CHECK (typeof(version) = 'integer'),
    updated_at BIGINT NOT NULL CHECK (typeof(updated_at) = 'integer'),
    recorded_at BIGINT NOT NULL CHECK (typeof(recorded_at) = 'integer')
);

-- One index for two purposes: with it a replay adds nothing, and pages of a market's history are read in its order. The
-- source is last because only the first purpose needs it.
CREATE UNIQUE INDEX odds_history_of_market ON odds_history (event_id, market, line, updated_at, version, source);

-- For retention.
CREATE INDEX odds_history_by_age ON odds_history (recorded_at);
