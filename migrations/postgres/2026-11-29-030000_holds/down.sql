DROP FUNCTION bets_place(BOOLEAN, UUID[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], TEXT[], BIGINT[], INTEGER[],
    TIMESTAMPTZ[], UUID[], TEXT[], TEXT[], TEXT[], TIMESTAMPTZ[], TIMESTAMPTZ[]);
DROP FUNCTION bets_held;
DROP TABLE hold_audit, holds;
DROP FUNCTION hold_is_recorded, hold_stays, hold_audit_stays;

-- As migration money_faster defines it.
CREATE OR REPLACE FUNCTION bets_place(
    p_waits BOOLEAN, p_ids UUID[], p_users TEXT[], p_events TEXT[], p_markets TEXT[], p_lines TEXT[], p_selections TEXT[],
    p_stakes BIGINT[], p_prices INTEGER[], p_decide_by TIMESTAMPTZ[], p_reservations UUID[], p_keys TEXT[],
    p_fingerprints TEXT[], p_payloads TEXT[], p_leased_until TIMESTAMPTZ[], p_now TIMESTAMPTZ[]
) RETURNS TABLE (place INTEGER, outcome TEXT, bet UUID, price INTEGER, balance BIGINT, refused TEXT, record BIGINT)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_held TEXT[];
    v_placed INTEGER[] := '{}';
    v_is_held BOOLEAN;
    v_available BIGINT;
    v_first RECORD;
BEGIN
    -- While a wallet is locked, requests with the same key have either finished or not started.
    IF p_waits THEN
        SELECT array_agg(user_id) INTO v_held
        FROM (SELECT user_id FROM wallets WHERE user_id = ANY (p_users) ORDER BY user_id FOR UPDATE) AS held;
    ELSE
        SELECT array_agg(user_id) INTO v_held
        FROM (SELECT user_id FROM wallets WHERE user_id = ANY (p_users) FOR UPDATE SKIP LOCKED) AS held;
    END IF;
    FOR place, bet, price, balance, record IN
        WITH given AS MATERIALIZED (
            SELECT DISTINCT ON (asked.user_id) asked.*, wallets.available_cents - asked.stake AS available,
                wallets.reserved_cents + asked.stake AS reserved
            FROM unnest(p_ids, p_users, p_events, p_markets, p_lines, p_selections, p_stakes, p_prices, p_decide_by,
                p_reservations, p_keys, p_fingerprints, p_payloads, p_leased_until, p_now) WITH ORDINALITY
                AS asked (id, user_id, event_id, market, line, selection, stake, price, decide_by,
                    reservation, key, fingerprint, payload, leased_until, now, place)
            JOIN wallets ON wallets.user_id = asked.user_id
            WHERE asked.user_id = ANY (v_held) AND wallets.available_cents >= asked.stake
                AND NOT EXISTS (SELECT FROM bets AS there WHERE there.id = asked.id)
                AND NOT EXISTS (SELECT FROM bet_requests AS first
                    WHERE first.user_id = asked.user_id AND first.key = asked.key)
            ORDER BY asked.user_id, asked.place
        ), moved AS (
            UPDATE wallets SET available_cents = given.available, reserved_cents = given.reserved
            FROM given WHERE wallets.user_id = given.user_id
        ), transfers AS (
            INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
                available_after, reserved_after, at)
            SELECT user_id, 'reserve', 'available', 'reserved', stake, id::TEXT, available, reserved, now FROM given
        ), holds AS (
            INSERT INTO reservations (id, user_id, reference, amount_cents, status, bet_id, created_at)
            SELECT reservation, user_id, id::TEXT, stake, 'PENDING', id, now FROM given
        ), placed AS (
            INSERT INTO bets (id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status,
                placed_at, decide_by)
            SELECT id, user_id, event_id, market, line, selection, stake, price, 'PENDING_CONFIRMATION', now, decide_by
            FROM given
        ), steps AS (
            INSERT INTO bet_history (bet_id, old_status, new_status, at)
            SELECT id, NULL, 'PENDING_CONFIRMATION', now FROM given
        ), answers AS (
            INSERT INTO bet_requests (user_id, key, fingerprint, bet_id, new_balance, at)
            SELECT user_id, key, fingerprint, id, available, now FROM given WHERE key IS NOT NULL
        ), records AS (
            INSERT INTO outbox (topic, key, payload, leased_until, created_at)
            SELECT 'bet_placed', id::TEXT, payload, leased_until, now FROM given RETURNING id, key
        )
        SELECT given.place, given.id, given.price, given.available, records.id
        FROM given JOIN records ON records.key = given.id::TEXT
    LOOP
        outcome := 'PLACED';
        v_placed := v_placed || place;
        RETURN NEXT;
    END LOOP;

    record := NULL;
    FOR place IN SELECT generate_subscripts(p_ids, 1) LOOP
        CONTINUE WHEN place = ANY (v_placed);
        bet := NULL;
        price := NULL;
        balance := NULL;
        refused := NULL;
        v_first := bet_first_answer(p_users[place], p_keys[place], p_fingerprints[place]);
        IF v_first.outcome IS NULL THEN
            -- A request without a key is repeated if the first answer was lost.
            SELECT there.id, there.price_thousandths, moved.available_after INTO bet, price, balance
            FROM bets AS there
            JOIN ledger_transfers AS moved
                ON moved.user_id = there.user_id AND moved.kind = 'reserve' AND moved.reference = there.id::TEXT
            WHERE there.id = p_ids[place] AND there.user_id = p_users[place] AND there.stake_cents = p_stakes[place]
                AND p_keys[place] IS NULL;
            IF FOUND THEN
                outcome := 'PLACED';
                RETURN NEXT;
                CONTINUE;
            END IF;
            PERFORM FROM reservations WHERE user_id = p_users[place] AND reference = p_ids[place]::TEXT;
            IF FOUND THEN
                RAISE EXCEPTION 'bet % is there already, or its reservation', p_ids[place];
            END IF;
            SELECT available_cents INTO v_available FROM wallets WHERE user_id = p_users[place];
            v_is_held := COALESCE(p_users[place] = ANY (v_held), false);
            IF v_is_held AND v_available >= p_stakes[place] THEN
                PERFORM FROM bets WHERE id = p_ids[place];
                IF FOUND THEN
                    RAISE EXCEPTION 'bet % is there already', p_ids[place];
                END IF;
            END IF;
            IF v_is_held AND v_available >= p_stakes[place] OR NOT v_is_held AND NOT p_waits AND v_available IS NOT NULL THEN
                outcome := 'BUSY';
                RETURN NEXT;
                CONTINUE;
            END IF;
            refused := to_json(CASE WHEN v_is_held THEN 'INSUFFICIENT_FUNDS' ELSE 'WALLET_NOT_FOUND' END);
            IF p_keys[place] IS NULL THEN
                outcome := 'REFUSED';
                RETURN NEXT;
                CONTINUE;
            END IF;
            v_first := bet_refuse(p_users[place], p_keys[place], p_fingerprints[place], refused, p_now[place]);
        END IF;
        outcome := v_first.outcome;
        bet := v_first.bet;
        price := v_first.price;
        balance := v_first.balance;
        refused := v_first.refused;
        RETURN NEXT;
    END LOOP;
END $$;

-- As migration money defines it.
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
        -- While this lock is held, a request with the same key has either finished or not started.
        PERFORM FROM wallets WHERE user_id = p_user FOR UPDATE;
        SELECT first.outcome, first.bet, first.price, first.balance, first.refused
        INTO outcome, bet, price, balance, refused FROM bet_first_answer(p_user, p_key, p_fingerprint) AS first;
        IF outcome IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    SELECT * INTO v_reserved FROM wallet_reserve(p_user, p_stake, p_id::TEXT, p_reservation, p_id, p_now);
    IF v_reserved.reservation <> p_reservation THEN
        -- The bet exists: a request without a key is repeated if the first answer was lost.
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
