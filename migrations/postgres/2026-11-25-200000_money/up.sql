-- Wallets, the ledger, reservations, bets, the outbox, and cancel requests to the supplier.
--
-- Amounts are whole cents. Prices are thousandths. Every operation that moves money first locks the user's row in wallets,
-- and no other user's row. So the operations of one user run one after the other, and no deadlock is possible.
--
-- Each operation is a function, so it takes one round trip. The rules are those of src/domain/wallet/ledger.rs, which
-- decides for SQLite; one suite with one model tests both.

CREATE TABLE wallets (
    user_id TEXT COLLATE "C" PRIMARY KEY CHECK (user_id <> ''),
    wallet_id UUID NOT NULL UNIQUE,
    -- The sums of the user's transfers. The accounts of the house have no such row, because every deposit would wait for
    -- every other. Their balance is the sum of the transfers, computed when it is requested.
    available_cents BIGINT NOT NULL CHECK (available_cents >= 0),
    reserved_cents BIGINT NOT NULL CHECK (reserved_cents >= 0),
    created_at TIMESTAMPTZ NOT NULL
)
-- Balances change often, and no index contains them. Free space keeps a change on its page.
WITH (fillfactor = 70);

CREATE TABLE ledger_transfers (
    -- The transfers of one user are numbered in the order of execution.
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The owner of available and reserved; cash, stakes and payouts belong to the house.
    user_id TEXT COLLATE "C" NOT NULL REFERENCES wallets,
    kind TEXT NOT NULL,
    debit_account TEXT NOT NULL,
    credit_account TEXT NOT NULL,
    amount_cents BIGINT NOT NULL CHECK (amount_cents > 0),
    reference TEXT COLLATE "C" NOT NULL CHECK (reference <> ''),
    -- The user's balances after the transfer, which a repeated request also returns.
    available_after BIGINT NOT NULL CHECK (available_after >= 0),
    reserved_after BIGINT NOT NULL CHECK (reserved_after >= 0),
    at TIMESTAMPTZ NOT NULL,
    CHECK ((kind, debit_account, credit_account) IN (
        ('deposit', 'cash', 'available'),
        ('withdraw', 'available', 'cash'),
        ('reserve', 'available', 'reserved'),
        ('commit', 'reserved', 'stakes'),
        ('refund', 'reserved', 'available'),
        ('expire', 'reserved', 'available')))
);
-- A reference identifies the same movement permanently.
CREATE UNIQUE INDEX ledger_transfers_by_reference ON ledger_transfers (user_id, kind, reference);
CREATE INDEX ledger_transfers_of_user ON ledger_transfers (user_id, id);

-- A mistake is corrected by another transfer.
CREATE FUNCTION ledger_is_immutable() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'transfers are never changed: put it right by another one';
END $$;
CREATE TRIGGER ledger_transfers_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transfers
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_immutable();

CREATE TABLE reservations (
    id UUID PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL REFERENCES wallets,
    reference TEXT COLLATE "C" NOT NULL CHECK (reference <> ''),
    amount_cents BIGINT NOT NULL CHECK (amount_cents > 0),
    status TEXT NOT NULL CHECK (status IN ('PENDING', 'COMMITTED', 'REFUNDED', 'EXPIRED')),
    -- The bet that it is held for. Only the bet's own decision ends such a reservation.
    bet_id UUID UNIQUE,
    created_at TIMESTAMPTZ NOT NULL,
    settled_at TIMESTAMPTZ,
    CHECK ((status = 'PENDING') = (settled_at IS NULL)),
    UNIQUE (user_id, reference)
);
CREATE INDEX reservations_of_user ON reservations (user_id, id);
CREATE INDEX reservations_to_expire ON reservations (created_at) WHERE status = 'PENDING' AND bet_id IS NULL;

CREATE TABLE bets (
    -- UUIDs of version 7, which sort by time.
    id UUID PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL REFERENCES wallets,
    event_id TEXT COLLATE "C" NOT NULL CHECK (event_id <> ''),
    market TEXT COLLATE "C" NOT NULL CHECK (market <> ''),
    line TEXT COLLATE "C" NOT NULL,
    selection TEXT COLLATE "C" NOT NULL CHECK (selection <> ''),
    stake_cents BIGINT NOT NULL CHECK (stake_cents > 0),
    price_thousandths INTEGER NOT NULL CHECK (price_thousandths BETWEEN 1001 AND 1000000),
    status TEXT NOT NULL CHECK (status IN ('PENDING_CONFIRMATION', 'CONFIRMED', 'REJECTED')),
    reason TEXT,
    provider_ref TEXT,
    placed_at TIMESTAMPTZ NOT NULL,
    decide_by TIMESTAMPTZ NOT NULL,
    decided_at TIMESTAMPTZ,
    CHECK ((status = 'PENDING_CONFIRMATION') = (decided_at IS NULL))
);
CREATE INDEX bets_of_user ON bets (user_id, id);
CREATE INDEX bets_to_decide ON bets (decide_by) WHERE status = 'PENDING_CONFIRMATION';

-- Every step of a bet. (The original calls it bet_transactions.)
CREATE TABLE bet_history (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bet_id UUID NOT NULL REFERENCES bets,
    old_status TEXT,
    new_status TEXT NOT NULL,
    reason TEXT,
    at TIMESTAMPTZ NOT NULL
);
CREATE INDEX bet_history_of_bet ON bet_history (bet_id, id);

-- The first answer to each idempotency key.
CREATE TABLE bet_requests (
    user_id TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL CHECK (key <> ''),
    -- The canonical form of the request.
    fingerprint TEXT NOT NULL,
    bet_id UUID,
    -- The available balance after the bet.
    new_balance BIGINT,
    -- The rejection, as JSON.
    refusal TEXT,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, key),
    CHECK ((bet_id IS NULL) = (refusal IS NOT NULL) AND (bet_id IS NULL) = (new_balance IS NULL))
);

-- Records to publish, written in the transaction that they report. A row is deleted when the bus has its record.
CREATE TABLE outbox (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic TEXT NOT NULL CHECK (topic IN ('bet_placed', 'bet_confirmed')),
    key TEXT NOT NULL,
    payload TEXT NOT NULL,
    -- Until this time only one process publishes the row; afterwards any process may.
    leased_until TIMESTAMPTZ NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX outbox_by_lease ON outbox (leased_until);

-- Bets to cancel at the supplier, until it confirms.
CREATE TABLE supplier_cancels (
    bet_id UUID PRIMARY KEY REFERENCES bets,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at TIMESTAMPTZ NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    done_at TIMESTAMPTZ
);
CREATE INDEX supplier_cancels_due ON supplier_cancels (next_attempt_at) WHERE done_at IS NULL;

-- Executes a transfer that is known to be allowed. The row of the wallet is locked.
CREATE FUNCTION ledger_transfer(
    p_user TEXT, p_kind TEXT, p_amount BIGINT, p_reference TEXT, p_now TIMESTAMPTZ,
    OUT available BIGINT, OUT reserved BIGINT
) LANGUAGE plpgsql AS $$
DECLARE
    v_debit TEXT := CASE p_kind WHEN 'deposit' THEN 'cash' WHEN 'withdraw' THEN 'available'
        WHEN 'reserve' THEN 'available' ELSE 'reserved' END;
    v_credit TEXT := CASE p_kind WHEN 'withdraw' THEN 'cash' WHEN 'reserve' THEN 'reserved'
        WHEN 'commit' THEN 'stakes' ELSE 'available' END;
BEGIN
    UPDATE wallets SET
        available_cents = available_cents
            + CASE 'available' WHEN v_credit THEN p_amount WHEN v_debit THEN -p_amount ELSE 0 END,
        reserved_cents = reserved_cents
            + CASE 'reserved' WHEN v_credit THEN p_amount WHEN v_debit THEN -p_amount ELSE 0 END
    WHERE user_id = p_user
    RETURNING available_cents, reserved_cents INTO available, reserved;
    INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
        available_after, reserved_after, at)
    VALUES (p_user, p_kind, v_debit, v_credit, p_amount, p_reference, available, reserved, p_now);
END $$;

-- A deposit or a withdrawal. Returns the balances after its first execution.
CREATE FUNCTION wallet_move(
    p_user TEXT, p_kind TEXT, p_amount BIGINT, p_reference TEXT, p_new_wallet UUID, p_now TIMESTAMPTZ,
    OUT outcome TEXT, OUT wallet UUID, OUT available BIGINT, OUT reserved BIGINT
) LANGUAGE plpgsql AS $$
DECLARE
    v_amount BIGINT;
    v_available BIGINT;
    v_reserved BIGINT;
BEGIN
    SELECT wallet_id, available_cents, reserved_cents INTO wallet, v_available, v_reserved
    FROM wallets WHERE user_id = p_user FOR UPDATE;
    IF NOT FOUND AND p_kind = 'deposit' THEN
        INSERT INTO wallets (user_id, wallet_id, available_cents, reserved_cents, created_at)
        VALUES (p_user, p_new_wallet, 0, 0, p_now) ON CONFLICT (user_id) DO NOTHING;
        SELECT wallet_id, available_cents, reserved_cents INTO wallet, v_available, v_reserved
        FROM wallets WHERE user_id = p_user FOR UPDATE;
    END IF;
    IF wallet IS NULL THEN
        outcome := 'WALLET_NOT_FOUND';
        RETURN;
    END IF;
    SELECT amount_cents, available_after, reserved_after INTO v_amount, available, reserved
    FROM ledger_transfers WHERE user_id = p_user AND kind = p_kind AND reference = p_reference;
    IF FOUND THEN
        outcome := CASE WHEN v_amount = p_amount THEN 'DONE' ELSE 'IDEMPOTENCY_CONFLICT' END;
    ELSIF p_kind = 'withdraw' AND v_available < p_amount THEN
        outcome := 'INSUFFICIENT_FUNDS';
    ELSIF p_kind = 'deposit' AND v_available + v_reserved > 9223372036854775807 - p_amount THEN
        outcome := 'BALANCE_TOO_HIGH';
    ELSE
        outcome := 'DONE';
        SELECT moved.available, moved.reserved INTO available, reserved
        FROM ledger_transfer(p_user, p_kind, p_amount, p_reference, p_now) AS moved;
    END IF;
END $$;

-- Reserves an amount. The same reference and amount return the existing reservation in its current state.
CREATE FUNCTION wallet_reserve(
    p_user TEXT, p_amount BIGINT, p_reference TEXT, p_id UUID, p_bet UUID, p_now TIMESTAMPTZ,
    OUT outcome TEXT, OUT reservation UUID, OUT status TEXT, OUT created TIMESTAMPTZ, OUT settled TIMESTAMPTZ,
    OUT available BIGINT
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_amount BIGINT;
BEGIN
    SELECT available_cents INTO available FROM wallets WHERE user_id = p_user FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'WALLET_NOT_FOUND';
        RETURN;
    END IF;
    SELECT held.id, held.status, held.amount_cents, held.created_at, held.settled_at
    INTO reservation, status, v_amount, created, settled
    FROM reservations AS held WHERE held.user_id = p_user AND held.reference = p_reference;
    IF FOUND THEN
        outcome := CASE WHEN v_amount = p_amount THEN 'DONE' ELSE 'IDEMPOTENCY_CONFLICT' END;
    ELSIF available < p_amount THEN
        outcome := 'INSUFFICIENT_FUNDS';
    ELSE
        outcome := 'DONE';
        reservation := p_id;
        status := 'PENDING';
        created := p_now;
        SELECT moved.available INTO available
        FROM ledger_transfer(p_user, 'reserve', p_amount, p_reference, p_now) AS moved;
        INSERT INTO reservations (id, user_id, reference, amount_cents, status, bet_id, created_at)
        VALUES (p_id, p_user, p_reference, p_amount, 'PENDING', p_bet, p_now);
    END IF;
END $$;

-- Ends a pending reservation by 'commit', 'refund' or 'expire'. One that has already ended is returned unchanged. The
-- reservation of a bet is ended only by the decision of the bet, which passes p_bet.
CREATE FUNCTION wallet_settle(
    p_user TEXT, p_reference TEXT, p_kind TEXT, p_bet UUID, p_now TIMESTAMPTZ,
    OUT outcome TEXT, OUT reservation UUID, OUT amount BIGINT, OUT status TEXT, OUT created TIMESTAMPTZ,
    OUT settled TIMESTAMPTZ
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_bet UUID;
    v_becomes TEXT := CASE p_kind WHEN 'commit' THEN 'COMMITTED' WHEN 'refund' THEN 'REFUNDED' ELSE 'EXPIRED' END;
BEGIN
    PERFORM FROM wallets WHERE user_id = p_user FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'WALLET_NOT_FOUND';
        RETURN;
    END IF;
    SELECT held.id, held.amount_cents, held.status, held.bet_id, held.created_at, held.settled_at
    INTO reservation, amount, status, v_bet, created, settled
    FROM reservations AS held WHERE held.user_id = p_user AND held.reference = p_reference;
    IF NOT FOUND THEN
        outcome := 'RESERVATION_NOT_FOUND';
    ELSIF status <> 'PENDING' THEN
        outcome := CASE WHEN status = v_becomes THEN 'DONE' ELSE 'ALREADY_' || status END;
    ELSIF v_bet IS DISTINCT FROM p_bet THEN
        outcome := 'HELD_BY_BET';
    ELSE
        outcome := 'DONE';
        status := v_becomes;
        settled := p_now;
        PERFORM ledger_transfer(p_user, p_kind, amount, p_reference, p_now);
        UPDATE reservations SET status = v_becomes, settled_at = p_now WHERE id = reservation;
    END IF;
END $$;

-- Places a bet: writes the bet, its reservation, the answer to its key and its record for the bus, or none of them.
CREATE FUNCTION bet_place(
    p_id UUID, p_user TEXT, p_event TEXT, p_market TEXT, p_line TEXT, p_selection TEXT, p_stake BIGINT, p_price INTEGER,
    p_decide_by TIMESTAMPTZ, p_reservation UUID, p_key TEXT, p_fingerprint TEXT, p_payload TEXT,
    p_leased_until TIMESTAMPTZ, p_now TIMESTAMPTZ,
    OUT outcome TEXT, OUT bet UUID, OUT price INTEGER, OUT balance BIGINT, OUT refused TEXT, OUT record BIGINT
) LANGUAGE plpgsql AS $$
DECLARE
    v_reserved RECORD;
BEGIN
    IF p_key IS NOT NULL THEN
        -- Behind this lock a twin has either answered or not begun.
        PERFORM FROM wallets WHERE user_id = p_user FOR UPDATE;
        SELECT first.outcome, first.bet, first.price, first.balance, first.refused
        INTO outcome, bet, price, balance, refused FROM bet_first_answer(p_user, p_key, p_fingerprint) AS first;
        IF outcome IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    SELECT * INTO v_reserved FROM wallet_reserve(p_user, p_stake, p_id::TEXT, p_reservation, p_id, p_now);
    IF v_reserved.reservation <> p_reservation THEN
        -- It is there already: without a key it may be asked for again because the first answer was lost on the way.
        SELECT placed.id, placed.price_thousandths, moved.available_after INTO bet, price, balance
        FROM bets AS placed
        JOIN ledger_transfers AS moved
            ON moved.user_id = placed.user_id AND moved.kind = 'reserve' AND moved.reference = p_id::TEXT
        WHERE placed.id = p_id AND placed.user_id = p_user AND placed.stake_cents = p_stake AND p_key IS NULL;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'bet % is there already, or its reservation', p_id;
        END IF;
        outcome := 'PLACED';
        RETURN;
    END IF;
    IF v_reserved.outcome <> 'DONE' THEN
        outcome := 'REFUSED';
        refused := to_json(v_reserved.outcome)::TEXT;
        IF p_key IS NOT NULL THEN
            SELECT first.outcome, first.bet, first.price, first.balance, first.refused
            INTO outcome, bet, price, balance, refused
            FROM bet_refuse(p_user, p_key, p_fingerprint, refused, p_now) AS first;
        END IF;
        RETURN;
    END IF;
    outcome := 'PLACED';
    bet := p_id;
    price := p_price;
    balance := v_reserved.available;
    INSERT INTO bets (id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status,
        placed_at, decide_by)
    VALUES (p_id, p_user, p_event, p_market, p_line, p_selection, p_stake, p_price, 'PENDING_CONFIRMATION',
        p_now, p_decide_by);
    INSERT INTO bet_history (bet_id, old_status, new_status, at) VALUES (p_id, NULL, 'PENDING_CONFIRMATION', p_now);
    IF p_key IS NOT NULL THEN
        INSERT INTO bet_requests (user_id, key, fingerprint, bet_id, new_balance, at)
        VALUES (p_user, p_key, p_fingerprint, p_id, balance, p_now);
    END IF;
    INSERT INTO outbox (topic, key, payload, leased_until, created_at)
    VALUES ('bet_placed', p_id::TEXT, p_payload, p_leased_until, p_now) RETURNING id INTO record;
END $$;

-- The first answer to a key; without an outcome if there is none.
CREATE FUNCTION bet_first_answer(
    p_user TEXT, p_key TEXT, p_fingerprint TEXT,
    OUT outcome TEXT, OUT bet UUID, OUT price INTEGER, OUT balance BIGINT, OUT refused TEXT
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_fingerprint TEXT;
BEGIN
    SELECT first.fingerprint, first.bet_id, first.new_balance, first.refusal
    INTO v_fingerprint, bet, balance, refused
    FROM bet_requests AS first WHERE first.user_id = p_user AND first.key = p_key;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF v_fingerprint <> p_fingerprint THEN
        outcome := 'KEY_REUSED';
    ELSIF bet IS NULL THEN
        outcome := 'REFUSED';
    ELSE
        outcome := 'PLACED';
        SELECT placed.price_thousandths INTO price FROM bets AS placed WHERE placed.id = bet;
    END IF;
END $$;

-- Stores a rejection as the first answer to a key, unless the key has an answer; returns the first answer.
CREATE FUNCTION bet_refuse(
    p_user TEXT, p_key TEXT, p_fingerprint TEXT, p_refusal TEXT, p_now TIMESTAMPTZ,
    OUT outcome TEXT, OUT bet UUID, OUT price INTEGER, OUT balance BIGINT, OUT refused TEXT
) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bet_requests (user_id, key, fingerprint, refusal, at)
    VALUES (p_user, p_key, p_fingerprint, p_refusal, p_now) ON CONFLICT (user_id, key) DO NOTHING;
    SELECT first.outcome, first.bet, first.price, first.balance, first.refused
    INTO outcome, bet, price, balance, refused FROM bet_first_answer(p_user, p_key, p_fingerprint) AS first;
END $$;

-- Decides a pending bet: writes its status, its history, its reservation and the record for the bus. A decided bet never
-- changes.
CREATE FUNCTION bet_decide(
    p_id UUID, p_status TEXT, p_reason TEXT, p_provider_ref TEXT, p_cancel BOOLEAN, p_payload TEXT,
    p_leased_until TIMESTAMPTZ, p_now TIMESTAMPTZ,
    OUT outcome TEXT, OUT status TEXT, OUT record BIGINT
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_user TEXT;
    v_settled RECORD;
BEGIN
    SELECT placed.user_id INTO v_user FROM bets AS placed WHERE placed.id = p_id;
    IF NOT FOUND THEN
        outcome := 'UNKNOWN';
        RETURN;
    END IF;
    PERFORM FROM wallets WHERE user_id = v_user FOR UPDATE;
    SELECT placed.status INTO status FROM bets AS placed WHERE placed.id = p_id;
    IF status <> 'PENDING_CONFIRMATION' THEN
        outcome := 'ALREADY';
        RETURN;
    END IF;
    outcome := 'DECIDED';
    status := p_status;
    SELECT * INTO v_settled FROM wallet_settle(
        v_user, p_id::TEXT, CASE p_status WHEN 'CONFIRMED' THEN 'commit' ELSE 'refund' END, p_id, p_now);
    IF v_settled.outcome <> 'DONE' THEN
        RAISE EXCEPTION 'bet % is pending and its reservation is not: %', p_id, v_settled.outcome;
    END IF;
    UPDATE bets SET status = p_status, reason = p_reason, provider_ref = p_provider_ref, decided_at = p_now
    WHERE id = p_id;
    INSERT INTO bet_history (bet_id, old_status, new_status, reason, at)
    VALUES (p_id, 'PENDING_CONFIRMATION', p_status, p_reason, p_now);
    IF p_cancel THEN
        INSERT INTO supplier_cancels (bet_id, next_attempt_at, created_at) VALUES (p_id, p_now, p_now);
    END IF;
    INSERT INTO outbox (topic, key, payload, leased_until, created_at)
    VALUES ('bet_confirmed', p_id::TEXT, p_payload, p_leased_until, p_now) RETURNING id INTO record;
END $$;
