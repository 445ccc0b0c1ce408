-- Holds: an operator stops bets on everything, a source, an event, a market or a selection.
--
-- Adds two tables and replaces one function, so it takes a moment however many bets there are.

CREATE TABLE holds (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The request that set it. A request that is repeated because its answer was lost sets one hold.
    request UUID NOT NULL UNIQUE,
    scope TEXT NOT NULL CHECK (scope IN ('all', 'source', 'event', 'market', 'selection')),
    -- What the scope names; the other columns are NULL. The line is '' for a market without one.
    source TEXT COLLATE "C" CHECK (source <> ''),
    event_id TEXT COLLATE "C" CHECK (event_id <> ''),
    market TEXT COLLATE "C" CHECK (market <> ''),
    line TEXT COLLATE "C",
    selection TEXT COLLATE "C" CHECK (selection <> ''),
    -- When it ends by itself.
    until TIMESTAMPTZ,
    reason TEXT NOT NULL CHECK (reason <> ''),
    created_by TEXT NOT NULL CHECK (created_by <> ''),
    created_at TIMESTAMPTZ NOT NULL,
    release_reason TEXT CHECK (release_reason <> ''),
    released_by TEXT CHECK (released_by <> ''),
    released_at TIMESTAMPTZ,
    CHECK ((source IS NOT NULL) = (scope = 'source')
        AND (event_id IS NOT NULL) = (scope IN ('event', 'market', 'selection'))
        AND (market IS NOT NULL) = (scope IN ('market', 'selection'))
        AND (line IS NOT NULL) = (scope IN ('market', 'selection'))
        AND (selection IS NOT NULL) = (scope = 'selection')),
    CHECK ((released_at IS NULL) = (released_by IS NULL) AND (released_at IS NULL) = (release_reason IS NULL))
);
-- Empty while nothing is held. Otherwise a bet finds the holds of its event, and those without an event.
CREATE INDEX holds_not_released ON holds (event_id) WHERE released_at IS NULL;

-- Each hold that was set or released. Triggers write it, so a change by hand is recorded too.
CREATE TABLE hold_audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hold_id BIGINT NOT NULL REFERENCES holds,
    action TEXT NOT NULL CHECK (action IN ('set', 'release')),
    scope TEXT NOT NULL,
    source TEXT COLLATE "C",
    event_id TEXT COLLATE "C",
    market TEXT COLLATE "C",
    line TEXT COLLATE "C",
    selection TEXT COLLATE "C",
    until TIMESTAMPTZ,
    reason TEXT NOT NULL,
    done_by TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL
);

CREATE FUNCTION hold_is_recorded() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    v_is_set BOOLEAN := TG_OP = 'INSERT';
BEGIN
    INSERT INTO hold_audit (hold_id, action, scope, source, event_id, market, line, selection, until, reason, done_by, at)
    VALUES (NEW.id, CASE WHEN v_is_set THEN 'set' ELSE 'release' END, NEW.scope, NEW.source, NEW.event_id, NEW.market,
        NEW.line, NEW.selection, NEW.until, CASE WHEN v_is_set THEN NEW.reason ELSE NEW.release_reason END,
        CASE WHEN v_is_set THEN NEW.created_by ELSE NEW.released_by END,
        CASE WHEN v_is_set THEN NEW.created_at ELSE NEW.released_at END);
    RETURN NULL;
END $$;
CREATE TRIGGER holds_are_recorded AFTER INSERT OR UPDATE OF released_at ON holds
    FOR EACH ROW EXECUTE FUNCTION hold_is_recorded();

CREATE FUNCTION hold_stays() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a hold is never changed or deleted, only released, and only once: set another one';
END $$;
CREATE TRIGGER holds_stay BEFORE UPDATE OF id, request, scope, source, event_id, market, line, selection, until,
    reason, created_by, created_at OR DELETE OR TRUNCATE ON holds
    FOR EACH STATEMENT EXECUTE FUNCTION hold_stays();
CREATE TRIGGER releases_stay BEFORE UPDATE ON holds FOR EACH ROW
    WHEN (OLD.released_at IS NOT NULL OR NEW.released_at IS NULL) EXECUTE FUNCTION hold_stays();

CREATE FUNCTION hold_audit_stays() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit of holds is never changed';
END $$;
CREATE TRIGGER hold_audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON hold_audit
    FOR EACH STATEMENT EXECUTE FUNCTION hold_audit_stays();

-- Why bets are refused because of holds, in the order of the bets, as JSON; NULL for a bet that no hold
-- covers. An unknown source (NULL) is that of the market's stored state.
CREATE FUNCTION bets_held(
    p_events TEXT[], p_markets TEXT[], p_lines TEXT[], p_selections TEXT[], p_sources TEXT[], p_now TIMESTAMPTZ[],
    OUT refusals TEXT[]
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT array_agg(CASE held.kind
        WHEN 1 THEN '{"MARKET_SUSPENDED":{"status":"suspended"}}'
        WHEN 2 THEN '{"SELECTION_SUSPENDED":{"status":"suspended"}}' END ORDER BY asked.place) INTO refusals
    FROM unnest(p_events, p_markets, p_lines, p_selections, p_sources, p_now) WITH ORDINALITY
        AS asked (event_id, market, line, selection, source, now, place)
    CROSS JOIN LATERAL (
        SELECT min(CASE WHEN holds.selection IS NULL THEN 1 ELSE 2 END) AS kind FROM holds
        WHERE holds.released_at IS NULL AND (holds.until IS NULL OR holds.until > asked.now)
            AND (holds.event_id IS NULL OR holds.event_id = asked.event_id)
            AND (holds.market IS NULL OR holds.market = asked.market AND holds.line = asked.line)
            AND (holds.selection IS NULL OR holds.selection = asked.selection)
            AND (holds.source IS NULL OR holds.source = COALESCE(asked.source, (
                SELECT stored.source FROM odds_current AS stored
                WHERE stored.event_id = asked.event_id AND stored.market = asked.market AND stored.line = asked.line)))
    ) AS held;
END $$;

-- Places bets as the function of migration money_faster does, and refuses those that a hold covers. The
-- refusal is stored as the answer to the key, as others are. READ COMMITTED: each statement sees what was
-- committed before it began. So a hold refuses every bet whose call reads the holds after the hold was
-- committed; a bet whose call had read them before was placed before the hold.
CREATE FUNCTION bets_place(
    p_waits BOOLEAN, p_ids UUID[], p_users TEXT[], p_events TEXT[], p_markets TEXT[], p_lines TEXT[], p_selections TEXT[],
    p_sources TEXT[], p_stakes BIGINT[], p_prices INTEGER[], p_decide_by TIMESTAMPTZ[], p_reservations UUID[], p_keys TEXT[],
    p_fingerprints TEXT[], p_payloads TEXT[], p_leased_until TIMESTAMPTZ[], p_now TIMESTAMPTZ[]
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
                p_reservations, p_keys, p_fingerprints, p_payloads, p_leased_until, p_now) WITH ORDINALITY
                AS asked (id, user_id, event_id, market, line, selection, stake, price, decide_by,
                    reservation, key, fingerprint, payload, leased_until, now, place)
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

-- The function that processes of the previous version call. They do not pass the sources.
CREATE OR REPLACE FUNCTION bets_place(
    p_waits BOOLEAN, p_ids UUID[], p_users TEXT[], p_events TEXT[], p_markets TEXT[], p_lines TEXT[], p_selections TEXT[],
    p_stakes BIGINT[], p_prices INTEGER[], p_decide_by TIMESTAMPTZ[], p_reservations UUID[], p_keys TEXT[],
    p_fingerprints TEXT[], p_payloads TEXT[], p_leased_until TIMESTAMPTZ[], p_now TIMESTAMPTZ[]
) RETURNS TABLE (place INTEGER, outcome TEXT, bet UUID, price INTEGER, balance BIGINT, refused TEXT, record BIGINT)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT * FROM bets_place(p_waits, p_ids, p_users, p_events, p_markets, p_lines, p_selections,
        ARRAY[]::TEXT[], p_stakes, p_prices, p_decide_by, p_reservations, p_keys, p_fingerprints, p_payloads,
        p_leased_until, p_now);
END $$;

-- Only versions before money_faster call it. It knows no holds.
DROP FUNCTION bet_place;
