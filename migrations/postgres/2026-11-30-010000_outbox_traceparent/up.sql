-- The trace that a record of the outbox belongs to, in the form of the W3C header traceparent. NULL for
-- records that are not traced.
ALTER TABLE outbox ADD traceparent TEXT;

-- Places bets as the function of migration holds does, and stores the traces of their records.
CREATE FUNCTION bets_place(
    p_waits BOOLEAN, p_ids UUID[], p_users TEXT[], p_events TEXT[], p_markets TEXT[], p_lines TEXT[], p_selections TEXT[],
    p_sources TEXT[], p_stakes BIGINT[], p_prices INTEGER[], p_decide_by TIMESTAMPTZ[], p_reservations UUID[], p_keys TEXT[],
    p_fingerprints TEXT[], p_payloads TEXT[], p_leased_until TIMESTAMPTZ[], p_now TIMESTAMPTZ[],
    p_traceparents TEXT[]
) RETURNS TABLE (place INTEGER, outcome TEXT, bet UUID, price INTEGER, balance BIGINT, refused TEXT, record BIGINT)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_locked TEXT[];
    v_placed INTEGER[] := '{}';
    v_is_locked BOOLEAN;
    v_refusals TEXT[];
    v_available BIGINT;
    v_first RECORD;
BEGIN
    -- While a wallet is locked, requests with the same key have either finished or not started.
    IF p_waits THEN
        SELECT array_agg(user_id) INTO v_locked
        FROM (SELECT user_id FROM wallets WHERE user_id = ANY (p_users) ORDER BY user_id FOR UPDATE) AS locked;
    ELSE
        SELECT array_agg(user_id) INTO v_locked
        FROM (SELECT user_id FROM wallets WHERE user_id = ANY (p_users) FOR UPDATE SKIP LOCKED) AS locked;
    END IF;
    -- After the locks, so that every hold that was committed before them counts. Almost always there is none.
    IF EXISTS (
        SELECT FROM holds
        WHERE released_at IS NULL AND (until IS NULL OR until > (SELECT min(at) FROM unnest(p_now) AS given (at)))
    ) THEN
        v_refusals := bets_held(p_events, p_markets, p_lines, p_selections, p_sources, p_now);
    END IF;
    FOR place, bet, price, balance, record IN
        WITH given AS MATERIALIZED (
            SELECT DISTINCT ON (asked.user_id) asked.*, wallets.available_cents - asked.stake AS available,
                wallets.reserved_cents + asked.stake AS reserved
            FROM unnest(p_ids, p_users, p_events, p_markets, p_lines, p_selections, p_stakes, p_prices, p_decide_by,
                p_reservations, p_keys, p_fingerprints, p_payloads, p_leased_until, p_now,
                p_traceparents) WITH ORDINALITY
                AS asked (id, user_id, event_id, market, line, selection, stake, price, decide_by,
                    reservation, key, fingerprint, payload, leased_until, now, traceparent, place)
            JOIN wallets ON wallets.user_id = asked.user_id
            WHERE asked.user_id = ANY (v_locked) AND wallets.available_cents >= asked.stake
                AND v_refusals[asked.place] IS NULL
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
        ), reserved AS (
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
            INSERT INTO outbox (topic, key, payload, leased_until, created_at, traceparent)
            SELECT 'bet_placed', id::TEXT, payload, leased_until, now, traceparent FROM given RETURNING id, key
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
            v_is_locked := COALESCE(p_users[place] = ANY (v_locked), false);
            IF NOT v_is_locked AND NOT p_waits AND v_available IS NOT NULL THEN
                outcome := 'BUSY';
                RETURN NEXT;
                CONTINUE;
            END IF;
            refused := v_refusals[place];
            IF refused IS NULL AND v_is_locked AND v_available >= p_stakes[place] THEN
                PERFORM FROM bets WHERE id = p_ids[place];
                IF FOUND THEN
                    RAISE EXCEPTION 'bet % is there already', p_ids[place];
                END IF;
                outcome := 'BUSY';
                RETURN NEXT;
                CONTINUE;
            END IF;
            refused := COALESCE(refused,
                to_json(CASE WHEN v_is_locked THEN 'INSUFFICIENT_FUNDS' ELSE 'WALLET_NOT_FOUND' END)::TEXT);
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

-- Decides bets as the function of migration settlement does, and stores the traces of their records.
CREATE FUNCTION bets_decide(
    p_waits BOOLEAN, p_ids UUID[], p_statuses TEXT[], p_reasons TEXT[], p_provider_refs TEXT[], p_cancels BOOLEAN[],
    p_payloads TEXT[], p_leased_until TIMESTAMPTZ[], p_now TIMESTAMPTZ[],
    p_traceparents TEXT[]
) RETURNS TABLE (place INTEGER, outcome TEXT, status TEXT, record BIGINT)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_held TEXT[];
    v_decided INTEGER[] := '{}';
    v_is_held BOOLEAN;
BEGIN
    IF p_waits THEN
        SELECT array_agg(user_id) INTO v_held FROM (
            SELECT user_id FROM wallets WHERE user_id IN (SELECT user_id FROM bets WHERE id = ANY (p_ids))
            ORDER BY user_id FOR UPDATE) AS held;
    ELSE
        SELECT array_agg(user_id) INTO v_held FROM (
            SELECT user_id FROM wallets WHERE user_id IN (SELECT user_id FROM bets WHERE id = ANY (p_ids))
            FOR UPDATE SKIP LOCKED) AS held;
    END IF;
    FOR place, status, record, v_is_held IN
        WITH given AS MATERIALIZED (
            SELECT DISTINCT ON (there.user_id) asked.*, there.user_id, there.event_id, there.market, there.line,
                there.stake_cents AS stake,
                asked.status = 'CONFIRMED' AS is_confirmed,
                available_cents + CASE asked.status WHEN 'CONFIRMED' THEN 0 ELSE there.stake_cents END AS available,
                reserved_cents - there.stake_cents AS reserved
            FROM unnest(p_ids, p_statuses, p_reasons, p_provider_refs, p_cancels, p_payloads, p_leased_until, p_now,
                p_traceparents)
                WITH ORDINALITY AS asked (id, status, reason, provider_ref, cancels, payload, leased_until, now, traceparent, place)
            JOIN bets AS there ON there.id = asked.id
            JOIN wallets ON wallets.user_id = there.user_id
            WHERE there.user_id = ANY (v_held) AND there.status = 'PENDING_CONFIRMATION'
            ORDER BY there.user_id, asked.place
        ), decided AS (
            UPDATE bets SET status = given.status, reason = given.reason, provider_ref = given.provider_ref,
                decided_at = given.now
            FROM given WHERE bets.id = given.id
        ), moved AS (
            UPDATE wallets SET available_cents = given.available, reserved_cents = given.reserved
            FROM given WHERE wallets.user_id = given.user_id
        ), transfers AS (
            INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
                available_after, reserved_after, at)
            SELECT user_id, CASE WHEN is_confirmed THEN 'commit' ELSE 'refund' END, 'reserved',
                CASE WHEN is_confirmed THEN 'stakes' ELSE 'available' END, stake, id::TEXT, available, reserved, now
            FROM given
        ), ended AS (
            UPDATE reservations SET status = CASE WHEN is_confirmed THEN 'COMMITTED' ELSE 'REFUNDED' END,
                settled_at = given.now
            FROM given
            WHERE reservations.user_id = given.user_id AND reservations.reference = given.id::TEXT
                AND reservations.bet_id = given.id AND reservations.amount_cents = given.stake
                AND reservations.status = 'PENDING'
            RETURNING reservations.bet_id
        ), steps AS (
            INSERT INTO bet_history (bet_id, old_status, new_status, reason, at)
            SELECT id, 'PENDING_CONFIRMATION', status, reason, now FROM given
        ), cancels AS (
            INSERT INTO supplier_cancels (bet_id, next_attempt_at, created_at)
            SELECT id, now, now FROM given WHERE cancels
        ), late AS (
            INSERT INTO bets_to_settle (bet_id, at)
            SELECT id, now FROM given WHERE is_confirmed AND EXISTS (
                SELECT FROM market_settlements AS market
                WHERE market.event_id = given.event_id AND market.market = given.market AND market.line = given.line)
        ), records AS (
            INSERT INTO outbox (topic, key, payload, leased_until, created_at, traceparent)
            SELECT 'bet_confirmed', id::TEXT, payload, leased_until, now, traceparent FROM given RETURNING id, key
        )
        SELECT given.place, given.status, records.id, ended.bet_id IS NOT NULL
        FROM given
        JOIN records ON records.key = given.id::TEXT
        LEFT JOIN ended ON ended.bet_id = given.id
    LOOP
        IF NOT v_is_held THEN
            RAISE EXCEPTION 'bet % is pending and its reservation is not', p_ids[place];
        END IF;
        outcome := 'DECIDED';
        v_decided := v_decided || place;
        RETURN NEXT;
    END LOOP;

    record := NULL;
    FOR place IN SELECT generate_subscripts(p_ids, 1) LOOP
        CONTINUE WHEN place = ANY (v_decided);
        SELECT there.status INTO status FROM bets AS there WHERE there.id = p_ids[place];
        outcome := CASE WHEN NOT FOUND THEN 'UNKNOWN' WHEN status = 'PENDING_CONFIRMATION' THEN 'BUSY' ELSE 'ALREADY' END;
        RETURN NEXT;
    END LOOP;
END $$;

-- The functions that processes of the previous version call. They do not pass traces.
CREATE OR REPLACE FUNCTION bets_place(
    p_waits BOOLEAN, p_ids UUID[], p_users TEXT[], p_events TEXT[], p_markets TEXT[], p_lines TEXT[], p_selections TEXT[],
    p_sources TEXT[], p_stakes BIGINT[], p_prices INTEGER[], p_decide_by TIMESTAMPTZ[], p_reservations UUID[], p_keys TEXT[],
    p_fingerprints TEXT[], p_payloads TEXT[], p_leased_until TIMESTAMPTZ[], p_now TIMESTAMPTZ[]
) RETURNS TABLE (place INTEGER, outcome TEXT, bet UUID, price INTEGER, balance BIGINT, refused TEXT, record BIGINT)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT * FROM bets_place(p_waits, p_ids, p_users, p_events, p_markets, p_lines, p_selections,
        p_sources, p_stakes, p_prices, p_decide_by, p_reservations, p_keys, p_fingerprints, p_payloads, p_leased_until, p_now,
        ARRAY[]::TEXT[]);
END $$;

CREATE OR REPLACE FUNCTION bets_decide(
    p_waits BOOLEAN, p_ids UUID[], p_statuses TEXT[], p_reasons TEXT[], p_provider_refs TEXT[], p_cancels BOOLEAN[],
    p_payloads TEXT[], p_leased_until TIMESTAMPTZ[], p_now TIMESTAMPTZ[]
) RETURNS TABLE (place INTEGER, outcome TEXT, status TEXT, record BIGINT)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT * FROM bets_decide(p_waits, p_ids, p_statuses, p_reasons, p_provider_refs, p_cancels, p_payloads,
        p_leased_until, p_now,
        ARRAY[]::TEXT[]);
END $$;
