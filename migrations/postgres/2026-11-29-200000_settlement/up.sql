-- Settlement: the results of markets, what each bet was paid, and what users owe.
--
-- src/domain/settlement says what a bet is owed; bets_settle moves the difference to what it has had.
--
-- New columns have constant defaults, and no statement reads a large table: the migration takes its locks
-- for milliseconds, however many bets there are. The next migrations build the indexes, while the platform
-- runs.

-- A record of results as a source sent it. Records are never changed or deleted: the state of each bet is
-- a function of the set of records of its market.
CREATE TABLE market_results (
    event_id TEXT COLLATE "C" NOT NULL,
    market TEXT COLLATE "C" NOT NULL,
    line TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('settlement', 'rollback_settlement', 'cancel', 'rollback_cancel')),
    updated_at TIMESTAMPTZ NOT NULL,
    version BIGINT NOT NULL,
    -- SHA-256 of the record: a source may send different contents with one revision, and all are kept.
    content_hash BYTEA NOT NULL CHECK (length(content_hash) = 32),
    -- The record in JSON.
    record TEXT NOT NULL,
    -- The generation of the market (market_settlements) that the record made.
    generation BIGINT NOT NULL CHECK (generation > 0),
    received_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (event_id, market, line, source, kind, updated_at, version, content_hash)
);

CREATE FUNCTION results_are_immutable() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'results are never changed or deleted: send a further record';
END $$;
CREATE TRIGGER market_results_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON market_results
    FOR EACH STATEMENT EXECUTE FUNCTION results_are_immutable();

-- The markets with results. A market is due while settled_generation is less than generation.
CREATE TABLE market_settlements (
    event_id TEXT COLLATE "C" NOT NULL,
    market TEXT COLLATE "C" NOT NULL,
    line TEXT COLLATE "C" NOT NULL,
    -- Grows with each new record, and when the market is examined again under other rules.
    generation BIGINT NOT NULL,
    -- All bets of the market were settled by the records up to this generation.
    settled_generation BIGINT NOT NULL DEFAULT 0,
    -- The rules that applied then.
    rules TEXT NOT NULL DEFAULT '',
    -- Records that have the revision of another record and other contents.
    conflicts BIGINT NOT NULL DEFAULT 0,
    -- Why the whole market waits for an operator.
    held TEXT,
    -- Open bets on selections that no record names, although the market has a result.
    missing BIGINT NOT NULL DEFAULT 0,
    -- Since when the market is due.
    due_since TIMESTAMPTZ NOT NULL,
    -- The end of the lease: until then one process settles the market, afterwards any process may.
    next_attempt_at TIMESTAMPTZ NOT NULL,
    lease UUID,
    PRIMARY KEY (event_id, market, line)
)
WITH (fillfactor = 70);
CREATE INDEX market_settlements_due ON market_settlements (next_attempt_at) WHERE settled_generation < generation;
CREATE INDEX market_settlements_to_check ON market_settlements (event_id)
    WHERE held IS NOT NULL OR conflicts > 0 OR missing > 0;

-- Bets that were confirmed after a result of their market arrived.
CREATE TABLE bets_to_settle (
    bet_id UUID PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL
);

-- What was done to a bet, in order. The n-th settlement has the reference `<bet>#<n>` in the ledger.
CREATE TABLE bet_settlements (
    bet_id UUID NOT NULL,
    n INTEGER NOT NULL CHECK (n > 0),
    -- NULL: the bet is open again.
    outcome TEXT,
    -- What the bet has been paid in all, and by how much that changed.
    payout_cents BIGINT NOT NULL CHECK (payout_cents >= 0),
    difference_cents BIGINT NOT NULL,
    -- Why: result, cancelled, late_bet or withdrawn.
    reason TEXT NOT NULL,
    -- The records that decided: those of the market up to this generation.
    generation BIGINT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (bet_id, n)
);
CREATE TRIGGER bet_settlements_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON bet_settlements
    FOR EACH STATEMENT EXECUTE FUNCTION results_are_immutable();

-- The values of each domain only grow, so the rows there are valid and need not be read.
ALTER DOMAIN bet_status DROP CONSTRAINT bet_status_check;
ALTER DOMAIN bet_status ADD CONSTRAINT bet_status_check
    CHECK (VALUE IN ('PENDING_CONFIRMATION', 'CONFIRMED', 'REJECTED', 'SETTLED')) NOT VALID;
ALTER DOMAIN transfer_kind DROP CONSTRAINT transfer_kind_check;
ALTER DOMAIN transfer_kind ADD CONSTRAINT transfer_kind_check
    CHECK (VALUE IN ('deposit', 'withdraw', 'reserve', 'commit', 'refund', 'expire',
        'settle', 'unsettle', 'payout', 'clawback', 'owe', 'recover')) NOT VALID;
ALTER DOMAIN outbox_topic DROP CONSTRAINT outbox_topic_check1;
ALTER DOMAIN outbox_topic ADD CONSTRAINT outbox_topic_check1
    CHECK (VALUE IN ('bet_placed', 'bet_confirmed', 'bet_settled')) NOT VALID;

-- Payouts that were taken back and already spent. Later payouts pay it off. The tables are locked in
-- the order in which bets_place and bets_decide lock them.
ALTER TABLE wallets ADD owed_cents BIGINT NOT NULL DEFAULT 0;
ALTER TABLE wallets ADD CONSTRAINT wallets_owed_cents_check CHECK (owed_cents >= 0) NOT VALID;

ALTER TABLE bets
    -- How the bet was settled; NULL unless its status is SETTLED.
    ADD outcome TEXT,
    -- What it has been paid in all; NULL unless its status is SETTLED.
    ADD payout_cents BIGINT,
    ADD settled_at TIMESTAMPTZ,
    -- The number of rows in bet_settlements.
    ADD settlements INTEGER NOT NULL DEFAULT 0,
    -- The generation of its market that was applied last.
    ADD settled_by BIGINT NOT NULL DEFAULT 0,
    -- Why the bet waits for an operator.
    ADD held TEXT;

-- Stores a record of results. Returns NEW, KNOWN, or CONFLICT if the source has sent other contents with
-- this revision. Records of one market are stored one after the other.
CREATE FUNCTION result_store(
    p_event TEXT, p_market TEXT, p_line TEXT, p_source TEXT, p_kind TEXT, p_updated_at TIMESTAMPTZ, p_version BIGINT,
    p_hash BYTEA, p_record TEXT, p_now TIMESTAMPTZ
) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    v_generation BIGINT;
    v_outcome TEXT := 'NEW';
BEGIN
    INSERT INTO market_settlements (event_id, market, line, generation, due_since, next_attempt_at)
    VALUES (p_event, p_market, p_line, 0, p_now, p_now) ON CONFLICT DO NOTHING;
    SELECT generation INTO v_generation FROM market_settlements
    WHERE event_id = p_event AND market = p_market AND line = p_line FOR UPDATE;
    PERFORM FROM market_results
    WHERE event_id = p_event AND market = p_market AND line = p_line AND source = p_source AND kind = p_kind
        AND updated_at = p_updated_at AND version = p_version AND content_hash = p_hash;
    IF FOUND THEN
        RETURN 'KNOWN';
    END IF;
    PERFORM FROM market_results
    WHERE event_id = p_event AND market = p_market AND line = p_line AND source = p_source AND kind = p_kind
        AND updated_at = p_updated_at AND version = p_version;
    IF FOUND THEN
        v_outcome := 'CONFLICT';
    END IF;
    INSERT INTO market_results (event_id, market, line, source, kind, updated_at, version, content_hash, record,
        generation, received_at)
    VALUES (p_event, p_market, p_line, p_source, p_kind, p_updated_at, p_version, p_hash, p_record,
        v_generation + 1, p_now);
    -- A process that is settling the market by the earlier records loses its lease.
    UPDATE market_settlements SET
        due_since = CASE WHEN settled_generation < generation THEN due_since ELSE p_now END,
        generation = generation + 1,
        conflicts = conflicts + CASE v_outcome WHEN 'CONFLICT' THEN 1 ELSE 0 END,
        next_attempt_at = p_now,
        lease = NULL
    WHERE event_id = p_event AND market = p_market AND line = p_line;
    RETURN v_outcome;
END $$;

-- Settles bets: moves the difference between what each is owed and what it has had, and writes its state,
-- its settlement, its history and its outbox record. An outcome of NULL means that the bet is open again.
-- Returns one row per bet, by its index; p_waits and the settings as in bets_place. At most one bet of a user
-- is settled in a call.
--
-- p_settlements: the number of settlements that the bet had when the caller decided; if it has more by now,
-- or this generation or a later one was applied to it, the answer is CHANGED, and nothing is done.
-- BALANCE_TOO_HIGH: the balance would exceed 64 bits.
--
-- The entry in bets_to_settle stays: a later record may have arrived, and its settlement missed the bet.
CREATE FUNCTION bets_settle(
    p_waits BOOLEAN, p_ids UUID[], p_settlements INTEGER[], p_outcomes TEXT[], p_payouts BIGINT[], p_reasons TEXT[],
    p_payloads TEXT[], p_generation BIGINT, p_leased_until TIMESTAMPTZ, p_now TIMESTAMPTZ
) RETURNS TABLE (place INTEGER, outcome TEXT, record BIGINT)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_held BIGINT[];
    v_settled INTEGER[];
    v_records BIGINT[];
    v_status TEXT;
    v_settlements INTEGER;
    v_settled_by BIGINT;
BEGIN
    -- The bets whose wallets this call has locked, by their place. Places are cheap to compare: no statement
    -- here joins the bets of a call to themselves, or looks for each user in a list of users.
    IF p_waits THEN
        SELECT array_agg(place) INTO v_held FROM (
            SELECT given.place FROM unnest(p_ids) WITH ORDINALITY AS given (id, place)
            JOIN bets ON bets.id = given.id JOIN wallets ON wallets.user_id = bets.user_id
            ORDER BY wallets.user_id FOR UPDATE OF wallets) AS held;
    ELSE
        SELECT array_agg(place) INTO v_held FROM (
            SELECT given.place FROM unnest(p_ids) WITH ORDINALITY AS given (id, place)
            JOIN bets ON bets.id = given.id JOIN wallets ON wallets.user_id = bets.user_id
            FOR UPDATE OF wallets SKIP LOCKED) AS held;
    END IF;
    -- Examining bets locks no wallets: the rows of the bets must stay as the next statement reads them.
    PERFORM FROM bets WHERE id IN (SELECT p_ids[place] FROM unnest(v_held) AS place) ORDER BY id FOR NO KEY UPDATE;
    WITH asked AS MATERIALIZED (
        SELECT DISTINCT ON (there.user_id) given.*, there.user_id, there.stake_cents AS stake,
            there.status AS old_status, there.settlements + 1 AS n,
            given.payout - COALESCE(there.payout_cents, 0) AS difference,
            available_cents AS available, reserved_cents AS reserved, owed_cents AS owed
        FROM unnest(p_ids, p_settlements, p_outcomes, p_payouts, p_reasons, p_payloads)
            WITH ORDINALITY AS given (id, settlements, outcome, payout, reason, payload, place)
        JOIN bets AS there ON there.id = given.id
        JOIN wallets ON wallets.user_id = there.user_id
        WHERE given.place = ANY (v_held) AND there.status IN ('CONFIRMED', 'SETTLED')
            AND there.settlements = given.settlements AND there.settled_by < p_generation
        ORDER BY there.user_id, given.place
    ), given AS MATERIALIZED (
        SELECT asked.*,
            GREATEST(difference, 0) AS paid, LEAST(owed, GREATEST(difference, 0)) AS recovered,
            LEAST(available, GREATEST(-difference, 0)) AS taken,
            GREATEST(-difference, 0) - LEAST(available, GREATEST(-difference, 0)) AS unpaid
        FROM asked
        WHERE difference <= 9223372036854775807 - available - reserved
            AND GREATEST(-difference - available, 0) <= 9223372036854775807 - owed
    ), changed AS (
        UPDATE bets SET status = CASE WHEN given.outcome IS NULL THEN 'CONFIRMED' ELSE 'SETTLED' END,
            outcome = given.outcome,
            payout_cents = CASE WHEN given.outcome IS NULL THEN NULL ELSE given.payout END,
            settled_at = CASE WHEN given.outcome IS NULL THEN NULL ELSE p_now END,
            settlements = given.n, settled_by = p_generation, held = NULL
        FROM given WHERE bets.id = given.id
    ), moved AS (
        UPDATE wallets SET available_cents = given.available + given.paid - given.recovered - given.taken,
            owed_cents = given.owed - given.recovered + given.unpaid
        FROM given WHERE wallets.user_id = given.user_id AND given.difference <> 0
    ), transfers AS (
        INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
            available_after, reserved_after, at)
        SELECT user_id, kind, debit, credit, amount, id::TEXT || '#' || n, after, reserved, p_now
        FROM given CROSS JOIN LATERAL (VALUES
            (1, 'settle', 'stakes', 'payouts',
                CASE WHEN old_status = 'CONFIRMED' AND given.outcome IS NOT NULL THEN stake ELSE 0 END, available),
            (2, 'unsettle', 'payouts', 'stakes',
                CASE WHEN old_status = 'SETTLED' AND given.outcome IS NULL THEN stake ELSE 0 END, available),
            (3, 'payout', 'payouts', 'available', paid, available + paid),
            (4, 'recover', 'available', 'owed', recovered, available + paid - recovered),
            (5, 'clawback', 'available', 'payouts', taken, available - taken),
            (6, 'owe', 'owed', 'payouts', unpaid, available - taken)
        ) AS transfer (step, kind, debit, credit, amount, after)
        WHERE amount > 0 ORDER BY place, step
    ), settlements AS (
        INSERT INTO bet_settlements (bet_id, n, outcome, payout_cents, difference_cents, reason, generation, at)
        SELECT id, n, outcome, payout, difference, reason, p_generation, p_now FROM given
    ), steps AS (
        INSERT INTO bet_history (bet_id, old_status, new_status, reason, at)
        SELECT id, old_status, CASE WHEN outcome IS NULL THEN 'CONFIRMED' ELSE 'SETTLED' END,
            CASE WHEN reason IN ('cancelled', 'late_bet') THEN reason ELSE COALESCE(outcome, reason) END, p_now
        FROM given
    ), records AS (
        INSERT INTO outbox (topic, key, payload, leased_until, created_at)
        SELECT 'bet_settled', id::TEXT, payload, p_leased_until, p_now FROM given ORDER BY place RETURNING id
    )
    SELECT (SELECT array_agg(place ORDER BY place) FROM given), (SELECT array_agg(id ORDER BY id) FROM records)
    INTO v_settled, v_records;
    RETURN QUERY SELECT settled.place, 'SETTLED', settled.record FROM unnest(v_settled, v_records) AS settled (place, record);

    record := NULL;
    FOR place IN SELECT generate_subscripts(p_ids, 1) EXCEPT SELECT unnest(v_settled) LOOP
        SELECT status, settlements, settled_by INTO v_status, v_settlements, v_settled_by FROM bets WHERE id = p_ids[place];
        IF NOT FOUND OR v_status NOT IN ('CONFIRMED', 'SETTLED') OR v_settlements <> p_settlements[place]
            OR v_settled_by >= p_generation THEN
            outcome := 'CHANGED';
        ELSIF p_waits AND place = ANY (v_held) THEN
            outcome := 'BALANCE_TOO_HIGH';
        ELSE
            -- Also a second bet of the user, or a balance that is too high: settled by itself it gets its answer.
            outcome := 'BUSY';
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

-- Decides pending bets: writes their status, history, reservations and outbox records. A decided bet does
-- not change here. Returns one row per bet, by its index; p_waits, BUSY and the settings as in bets_place.
-- A bet that is confirmed after a result of its market arrived is queued for settlement.
--
-- The lookup does not filter by `status = 'PENDING_CONFIRMATION'`: the planner would use the index
-- bets_to_decide, which holds all pending bets and, until vacuum, those that were pending.
CREATE OR REPLACE FUNCTION bets_decide(
    p_waits BOOLEAN, p_ids UUID[], p_statuses TEXT[], p_reasons TEXT[], p_provider_refs TEXT[], p_cancels BOOLEAN[],
    p_payloads TEXT[], p_leased_until TIMESTAMPTZ[], p_now TIMESTAMPTZ[]
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
            FROM unnest(p_ids, p_statuses, p_reasons, p_provider_refs, p_cancels, p_payloads, p_leased_until, p_now)
                WITH ORDINALITY AS asked (id, status, reason, provider_ref, cancels, payload, leased_until, now, place)
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
            INSERT INTO outbox (topic, key, payload, leased_until, created_at)
            SELECT 'bet_confirmed', id::TEXT, payload, leased_until, now FROM given RETURNING id, key
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
