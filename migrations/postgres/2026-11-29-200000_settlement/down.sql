-- Fails if a bet was settled: the ledger is never changed.
DROP FUNCTION bets_settle, result_store;
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
            SELECT DISTINCT ON (there.user_id) asked.*, there.user_id, there.stake_cents AS stake,
                asked.status = 'CONFIRMED' AS is_confirmed,
                available_cents + CASE asked.status WHEN 'CONFIRMED' THEN 0 ELSE there.stake_cents END AS available,
                reserved_cents - there.stake_cents AS reserved
            FROM unnest(p_ids, p_statuses, p_reasons, p_provider_refs, p_cancels, p_payloads, p_leased_until, p_now)
                WITH ORDINALITY AS asked (id, status, reason, provider_ref, cancels, payload, leased_until, now, place)
            JOIN bets AS there ON there.id = asked.id
            JOIN wallets ON wallets.user_id = there.user_id
            WHERE there.user_id = ANY (v_held) AND there.status NOT IN ('CONFIRMED', 'REJECTED')
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

ALTER TABLE wallets DROP owed_cents;
ALTER TABLE bets DROP outcome, DROP payout_cents, DROP settled_at, DROP settlements, DROP settled_by, DROP held;

ALTER DOMAIN bet_status DROP CONSTRAINT bet_status_check;
ALTER DOMAIN bet_status ADD CONSTRAINT bet_status_check CHECK (VALUE IN ('PENDING_CONFIRMATION', 'CONFIRMED', 'REJECTED'));
ALTER DOMAIN transfer_kind DROP CONSTRAINT transfer_kind_check;
ALTER DOMAIN transfer_kind ADD CONSTRAINT transfer_kind_check CHECK (VALUE IN ('deposit', 'withdraw', 'reserve', 'commit', 'refund', 'expire'));
ALTER DOMAIN outbox_topic DROP CONSTRAINT outbox_topic_check1;
ALTER DOMAIN outbox_topic ADD CONSTRAINT outbox_topic_check1 CHECK (VALUE IN ('bet_placed', 'bet_confirmed'));

DROP TABLE bet_settlements, bets_to_settle, market_settlements, market_results;
DROP FUNCTION results_are_immutable;
