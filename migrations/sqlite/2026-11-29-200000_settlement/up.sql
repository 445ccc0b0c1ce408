-- Settlement: the tables of PostgreSQL's migration of this name, which describes them.

CREATE TABLE market_results (
    event_id TEXT NOT NULL,
    market TEXT NOT NULL,
    line TEXT NOT NULL,
    source TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('settlement', 'rollback_settlement', 'cancel', 'rollback_cancel')),
    updated_at BIGINT NOT NULL CHECK (typeof(updated_at) = 'integer'),
    version BIGINT NOT NULL CHECK (typeof(version) = 'integer'),
    content_hash BLOB NOT NULL CHECK (typeof(content_hash) = 'blob' AND length(content_hash) = 32),
    record TEXT NOT NULL,
    generation BIGINT NOT NULL CHECK (typeof(generation) = 'integer' AND generation > 0),
    received_at BIGINT NOT NULL CHECK (typeof(received_at) = 'integer'),
    PRIMARY KEY (event_id, market, line, source, kind, updated_at, version, content_hash)
);
CREATE TRIGGER market_results_stay BEFORE UPDATE ON market_results
BEGIN
    SELECT RAISE(ABORT, 'results are never changed or deleted: send a further record');
END;
CREATE TRIGGER market_results_are_kept BEFORE DELETE ON market_results
BEGIN
    SELECT RAISE(ABORT, 'results are never changed or deleted: send a further record');
END;

CREATE TABLE market_settlements (
    event_id TEXT NOT NULL,
    market TEXT NOT NULL,
    line TEXT NOT NULL,
    generation BIGINT NOT NULL CHECK (typeof(generation) = 'integer'),
    settled_generation BIGINT NOT NULL DEFAULT 0 CHECK (typeof(settled_generation) = 'integer'),
    rules TEXT NOT NULL DEFAULT '',
    conflicts BIGINT NOT NULL DEFAULT 0 CHECK (typeof(conflicts) = 'integer'),
    held TEXT,
    missing BIGINT NOT NULL DEFAULT 0 CHECK (typeof(missing) = 'integer'),
    due_since BIGINT NOT NULL CHECK (typeof(due_since) = 'integer'),
    next_attempt_at BIGINT NOT NULL CHECK (typeof(next_attempt_at) = 'integer'),
    lease TEXT,
    PRIMARY KEY (event_id, market, line)
);
CREATE INDEX market_settlements_due ON market_settlements (next_attempt_at) WHERE settled_generation < generation;
CREATE INDEX market_settlements_to_check ON market_settlements (event_id)
    WHERE held IS NOT NULL OR conflicts > 0 OR missing > 0;

CREATE TABLE bets_to_settle (
    bet_id TEXT PRIMARY KEY NOT NULL,
    at BIGINT NOT NULL CHECK (typeof(at) = 'integer')
);

CREATE TABLE bet_settlements (
    bet_id TEXT NOT NULL REFERENCES bets (id),
    n INTEGER NOT NULL CHECK (typeof(n) = 'integer' AND n > 0),
    outcome TEXT,
    payout_cents BIGINT NOT NULL CHECK (typeof(payout_cents) = 'integer' AND payout_cents >= 0),
    difference_cents BIGINT NOT NULL CHECK (typeof(difference_cents) = 'integer'),
    reason TEXT NOT NULL,
    generation BIGINT NOT NULL CHECK (typeof(generation) = 'integer'),
    at BIGINT NOT NULL CHECK (typeof(at) = 'integer'),
    PRIMARY KEY (bet_id, n)
);
CREATE TRIGGER bet_settlements_stay BEFORE UPDATE ON bet_settlements
BEGIN
    SELECT RAISE(ABORT, 'settlements are never changed or deleted');
END;
CREATE TRIGGER bet_settlements_are_kept BEFORE DELETE ON bet_settlements
BEGIN
    SELECT RAISE(ABORT, 'settlements are never changed or deleted');
END;

-- SQLite cannot change a CHECK. Its documentation (lang_altertable.html, the simpler procedure) changes the
-- text in the schema instead, where the rows need not change: here each list of values grows.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, '''CONFIRMED'', ''REJECTED'')', '''CONFIRMED'', ''REJECTED'', ''SETTLED'')')
    WHERE type = 'table' AND name = 'bets';
UPDATE sqlite_schema SET sql = replace(sql, '''expire: reserved to available'')', '''expire: reserved to available'',
        ''settle: stakes to payouts'',
        ''unsettle: payouts to stakes'',
        ''payout: payouts to available'',
        ''clawback: available to payouts'',
        ''owe: owed to payouts'',
        ''recover: available to owed'')')
    WHERE type = 'table' AND name = 'ledger_transfers';
UPDATE sqlite_schema SET sql = replace(sql, '''bet_placed'', ''bet_confirmed'')', '''bet_placed'', ''bet_confirmed'', ''bet_settled'')')
    WHERE type = 'table' AND name = 'outbox';
PRAGMA writable_schema = RESET;

-- These statements also make other connections read the schema again.
ALTER TABLE bets ADD outcome TEXT CHECK ((status = 'SETTLED') = (outcome IS NOT NULL));
ALTER TABLE bets ADD payout_cents BIGINT CHECK (typeof(payout_cents) IN ('integer', 'null') AND payout_cents >= 0
    AND (status = 'SETTLED') = (payout_cents IS NOT NULL));
ALTER TABLE bets ADD settled_at BIGINT CHECK (typeof(settled_at) IN ('integer', 'null')
    AND (status = 'SETTLED') = (settled_at IS NOT NULL));
ALTER TABLE bets ADD settlements INTEGER NOT NULL DEFAULT 0 CHECK (typeof(settlements) = 'integer' AND settlements >= 0);
ALTER TABLE bets ADD settled_by BIGINT NOT NULL DEFAULT 0 CHECK (typeof(settled_by) = 'integer');
ALTER TABLE bets ADD held TEXT;
ALTER TABLE wallets ADD owed_cents BIGINT NOT NULL DEFAULT 0 CHECK (typeof(owed_cents) = 'integer' AND owed_cents >= 0);
