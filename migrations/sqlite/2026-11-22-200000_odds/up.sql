-- The state of every market now, and every update that ever was, late ones too.
--
-- line        The line as its shortest decimal text ('2.5', '-1'), '' for a market without one. Not NULL, because in a
--             unique key one NULL is never equal to another, and such a market could then stand here twice.
-- selections  JSON array of {id, name, price, status}, the price a JSON number in its exact decimal text.
-- updated_at, recorded_at  Microseconds since 1970, exact: text would keep nanoseconds or need parsing to compare.
-- BIGINT and BOOLEAN mean nothing to SQLite beyond their affinity; the diesel CLI reads the Rust types from them.
--
-- PostgreSQL has home_odd, draw_odd and away_odd beside these, for readers of the original's table. Nobody but this
-- platform reads the SQLite file, and SQLite has no exact decimal to give them in, so they are left out.
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

-- One index for two jobs: it makes a replay add nothing, and its order is the one that pages of a market's history are
-- read in. The source stands last because only the first job needs it.
CREATE UNIQUE INDEX odds_history_of_market ON odds_history (event_id, market, line, updated_at, version, source);

-- For retention.
CREATE INDEX odds_history_by_age ON odds_history (recorded_at);
