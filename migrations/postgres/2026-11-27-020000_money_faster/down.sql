DROP FUNCTION bets_decide, bets_place;
DROP TRIGGER wallets_stay ON wallets;
DROP TRIGGER bets_stay ON bets;
DROP FUNCTION money_stays;

ALTER TABLE wallets
    ALTER available_cents TYPE BIGINT,
    ALTER reserved_cents TYPE BIGINT,
    ADD CHECK (user_id <> ''),
    ADD CHECK (available_cents >= 0),
    ADD CHECK (reserved_cents >= 0);

CREATE INDEX ledger_transfers_of_user ON ledger_transfers (user_id, id);
ALTER TABLE ledger_transfers
    DROP CONSTRAINT ledger_transfers_pkey,
    ALTER kind TYPE TEXT,
    ALTER amount_cents TYPE BIGINT,
    ALTER reference TYPE TEXT COLLATE "C",
    ALTER available_after TYPE BIGINT,
    ALTER reserved_after TYPE BIGINT,
    ADD PRIMARY KEY (id),
    ADD FOREIGN KEY (user_id) REFERENCES wallets,
    ADD CHECK (amount_cents > 0),
    ADD CHECK (reference <> ''),
    ADD CHECK (available_after >= 0),
    ADD CHECK (reserved_after >= 0),
    ADD CONSTRAINT ledger_transfers_check CHECK ((kind, debit_account, credit_account) IN (
        ('deposit', 'cash', 'available'),
        ('withdraw', 'available', 'cash'),
        ('reserve', 'available', 'reserved'),
        ('commit', 'reserved', 'stakes'),
        ('refund', 'reserved', 'available'),
        ('expire', 'reserved', 'available')));

CREATE INDEX reservations_of_user ON reservations (user_id, id);
ALTER TABLE reservations
    DROP CONSTRAINT reservations_pkey,
    ALTER amount_cents TYPE BIGINT,
    ALTER reference TYPE TEXT COLLATE "C",
    ALTER status TYPE TEXT,
    ADD PRIMARY KEY (id),
    ADD UNIQUE (bet_id),
    ADD FOREIGN KEY (user_id) REFERENCES wallets,
    ADD CHECK (amount_cents > 0),
    ADD CHECK (reference <> ''),
    ADD CHECK (status IN ('PENDING', 'COMMITTED', 'REFUNDED', 'EXPIRED')),
    ADD CONSTRAINT reservations_check CHECK ((status = 'PENDING') = (settled_at IS NULL));

ALTER TABLE bets
    ALTER event_id TYPE TEXT COLLATE "C",
    ALTER market TYPE TEXT COLLATE "C",
    ALTER selection TYPE TEXT COLLATE "C",
    ALTER stake_cents TYPE BIGINT,
    ALTER price_thousandths TYPE INTEGER,
    ALTER status TYPE TEXT,
    ADD FOREIGN KEY (user_id) REFERENCES wallets,
    ADD CHECK (event_id <> ''),
    ADD CHECK (market <> ''),
    ADD CHECK (selection <> ''),
    ADD CHECK (stake_cents > 0),
    ADD CHECK (price_thousandths BETWEEN 1001 AND 1000000),
    ADD CHECK (status IN ('PENDING_CONFIRMATION', 'CONFIRMED', 'REJECTED')),
    ADD CONSTRAINT bets_check CHECK ((status = 'PENDING_CONFIRMATION') = (decided_at IS NULL));

ALTER TABLE bet_history
    DROP CONSTRAINT bet_history_pkey,
    ALTER new_status TYPE TEXT,
    ADD PRIMARY KEY (id),
    ADD FOREIGN KEY (bet_id) REFERENCES bets;
CREATE INDEX bet_history_of_bet ON bet_history (bet_id, id);

ALTER TABLE supplier_cancels ADD FOREIGN KEY (bet_id) REFERENCES bets;

ALTER TABLE outbox ALTER topic TYPE TEXT, ADD CHECK (topic IN ('bet_placed', 'bet_confirmed'));

DROP DOMAIN money_name, cents_moved, cents_held, transfer_kind, reservation_status, bet_status, bet_price, outbox_topic;

CREATE OR REPLACE FUNCTION wallet_move(
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

CREATE OR REPLACE FUNCTION wallet_reserve(
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

CREATE OR REPLACE FUNCTION wallet_settle(
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
