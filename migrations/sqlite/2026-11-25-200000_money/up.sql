-- Wallets, the ledger, reservations, bets, the outbox, and cancel requests to the supplier: the tables of PostgreSQL's
-- migration of this name, whose comments describe each table.
--
-- Amounts are whole cents, prices are thousandths, times are microseconds since 1970. UUIDs are stored as hyphenated text,
-- which sorts like their bytes. src/domain/wallet/ledger.rs and src/store/sqlite/money implement the rules that are
-- functions in PostgreSQL: SQLite has no functions, and a call costs no round trip. The single write lock of SQLite replaces
-- the lock on a wallet.
--
-- AUTOINCREMENT: a row number is never reused, even if the row with the highest number was deleted.

CREATE TABLE wallets (
    user_id TEXT PRIMARY KEY NOT NULL CHECK (user_id <> ''),
    wallet_id TEXT NOT NULL UNIQUE CHECK (length(wallet_id) = 36 AND wallet_id NOT GLOB '*[^0-9a-f-]*'),
    available_cents BIGINT NOT NULL CHECK (typeof(available_cents) = 'integer' AND available_cents >= 0),
    reserved_cents BIGINT NOT NULL CHECK (typeof(reserved_cents) = 'integer' AND reserved_cents >= 0),
    created_at BIGINT NOT NULL CHECK (typeof(created_at) = 'integer')
);

CREATE TABLE ledger_transfers (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    user_id TEXT NOT NULL REFERENCES wallets (user_id),
    kind TEXT NOT NULL,
    debit_account TEXT NOT NULL,
    credit_account TEXT NOT NULL,
    amount_cents BIGINT NOT NULL CHECK (typeof(amount_cents) = 'integer' AND amount_cents > 0),
    reference TEXT NOT NULL CHECK (reference <> ''),
    available_after BIGINT NOT NULL CHECK (typeof(available_after) = 'integer' AND available_after >= 0),
    reserved_after BIGINT NOT NULL CHECK (typeof(reserved_after) = 'integer' AND reserved_after >= 0),
    at BIGINT NOT NULL CHECK (typeof(at) = 'integer'),
    CHECK (kind || ': ' || debit_account || ' to ' || credit_account IN (
        'deposit: cash to available',
        'withdraw: available to cash',
        'reserve: available to reserved',
        'commit: reserved to stakes',
        'refund: reserved to available',
        'expire: reserved to available'))
);
CREATE UNIQUE INDEX ledger_transfers_by_reference ON ledger_transfers (user_id, kind, reference);
CREATE INDEX ledger_transfers_of_user ON ledger_transfers (user_id, id);

CREATE TRIGGER ledger_transfers_stay BEFORE UPDATE ON ledger_transfers
BEGIN
    SELECT RAISE(ABORT, 'transfers are never changed: put it right by another one');
END;
CREATE TRIGGER ledger_transfers_are_kept BEFORE DELETE ON ledger_transfers
BEGIN
    SELECT RAISE(ABORT, 'transfers are never changed: put it right by another one');
END;

CREATE TABLE reservations (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36 AND id NOT GLOB '*[^0-9a-f-]*'),
    user_id TEXT NOT NULL REFERENCES wallets (user_id),
    reference TEXT NOT NULL CHECK (reference <> ''),
    amount_cents BIGINT NOT NULL CHECK (typeof(amount_cents) = 'integer' AND amount_cents > 0),
    status TEXT NOT NULL CHECK (status IN ('PENDING', 'COMMITTED', 'REFUNDED', 'EXPIRED')),
    bet_id TEXT UNIQUE CHECK (length(bet_id) = 36 AND bet_id NOT GLOB '*[^0-9a-f-]*'),
    created_at BIGINT NOT NULL CHECK (typeof(created_at) = 'integer'),
    settled_at BIGINT CHECK (typeof(settled_at) IN ('integer', 'null')),
    CHECK ((status = 'PENDING') = (settled_at IS NULL)),
    UNIQUE (user_id, reference)
);
CREATE INDEX reservations_of_user ON reservations (user_id, id);
CREATE INDEX reservations_to_expire ON reservations (created_at) WHERE status = 'PENDING' AND bet_id IS NULL;

CREATE TABLE bets (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36 AND id NOT GLOB '*[^0-9a-f-]*'),
    user_id TEXT NOT NULL REFERENCES wallets (user_id),
    event_id TEXT NOT NULL CHECK (event_id <> ''),
    market TEXT NOT NULL CHECK (market <> ''),
    line TEXT NOT NULL,
    selection TEXT NOT NULL CHECK (selection <> ''),
    stake_cents BIGINT NOT NULL CHECK (typeof(stake_cents) = 'integer' AND stake_cents > 0),
    price_thousandths INTEGER NOT NULL
        CHECK (typeof(price_thousandths) = 'integer' AND price_thousandths BETWEEN 1001 AND 1000000),
    status TEXT NOT NULL CHECK (status IN ('PENDING_CONFIRMATION', 'CONFIRMED', 'REJECTED')),
    reason TEXT,
    provider_ref TEXT,
    placed_at BIGINT NOT NULL CHECK (typeof(placed_at) = 'integer'),
    decide_by BIGINT NOT NULL CHECK (typeof(decide_by) = 'integer'),
    decided_at BIGINT CHECK (typeof(decided_at) IN ('integer', 'null')),
    CHECK ((status = 'PENDING_CONFIRMATION') = (decided_at IS NULL))
);
CREATE INDEX bets_of_user ON bets (user_id, id);
CREATE INDEX bets_to_decide ON bets (decide_by) WHERE status = 'PENDING_CONFIRMATION';

CREATE TABLE bet_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    bet_id TEXT NOT NULL REFERENCES bets (id),
    old_status TEXT,
    new_status TEXT NOT NULL,
    reason TEXT,
    at BIGINT NOT NULL CHECK (typeof(at) = 'integer')
);
CREATE INDEX bet_history_of_bet ON bet_history (bet_id, id);

CREATE TABLE bet_requests (
    user_id TEXT NOT NULL,
    key TEXT NOT NULL CHECK (key <> ''),
    fingerprint TEXT NOT NULL,
    bet_id TEXT CHECK (length(bet_id) = 36 AND bet_id NOT GLOB '*[^0-9a-f-]*'),
    new_balance BIGINT CHECK (typeof(new_balance) IN ('integer', 'null')),
    refusal TEXT,
    at BIGINT NOT NULL CHECK (typeof(at) = 'integer'),
    PRIMARY KEY (user_id, key),
    CHECK ((bet_id IS NULL) = (refusal IS NOT NULL) AND (bet_id IS NULL) = (new_balance IS NULL))
);

CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    topic TEXT NOT NULL CHECK (topic IN ('bet_placed', 'bet_confirmed')),
    key TEXT NOT NULL,
    payload TEXT NOT NULL,
    leased_until BIGINT NOT NULL CHECK (typeof(leased_until) = 'integer'),
    created_at BIGINT NOT NULL CHECK (typeof(created_at) = 'integer')
);
CREATE INDEX outbox_by_lease ON outbox (leased_until);

CREATE TABLE supplier_cancels (
    bet_id TEXT PRIMARY KEY NOT NULL REFERENCES bets (id),
    attempts INTEGER NOT NULL DEFAULT 0 CHECK (typeof(attempts) = 'integer' AND attempts >= 0),
    next_attempt_at BIGINT NOT NULL CHECK (typeof(next_attempt_at) = 'integer'),
    created_at BIGINT NOT NULL CHECK (typeof(created_at) = 'integer'),
    done_at BIGINT CHECK (typeof(done_at) IN ('integer', 'null'))
);
CREATE INDEX supplier_cancels_due ON supplier_cancels (next_attempt_at) WHERE done_at IS NULL;
