-- Settles the first $2 open bets of the market 1x2 of event $1, of which `home` has won: writes what
-- bets_settle writes, in one statement, under the locks of the same wallets.
WITH due AS MATERIALIZED (
    SELECT id, user_id, stake_cents AS stake,
        CASE selection WHEN 'home' THEN stake_cents * price_thousandths / 1000 ELSE 0 END AS payout
    FROM bets
    WHERE status = 'CONFIRMED' AND event_id = $1 AND market = '1x2' AND line = '' AND settled_by < 1
    ORDER BY settled_by, id LIMIT $2
), locked AS MATERIALIZED (
    SELECT user_id, available_cents, reserved_cents FROM wallets WHERE user_id IN (SELECT user_id FROM due)
    ORDER BY user_id FOR UPDATE
), given AS MATERIALIZED (
    SELECT due.*, CASE WHEN payout > 0 THEN 'won' ELSE 'lost' END AS outcome, reserved_cents AS reserved,
        available_cents + sum(payout) OVER (PARTITION BY user_id ORDER BY id) AS available
    FROM due JOIN locked USING (user_id)
), changed AS (
    UPDATE bets SET status = 'SETTLED', outcome = given.outcome, payout_cents = payout, settled_at = now(),
        settlements = 1, settled_by = 1, held = NULL
    FROM given WHERE bets.id = given.id
), moved AS (
    UPDATE wallets SET available_cents = available_cents + paid
    FROM (SELECT user_id, sum(payout) AS paid FROM given GROUP BY user_id) AS sums
    WHERE wallets.user_id = sums.user_id AND paid > 0
), transfers AS (
    INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
        available_after, reserved_after, at)
    SELECT user_id, kind, debit, credit, amount, id::TEXT || '#1', after, reserved, now()
    FROM given CROSS JOIN LATERAL (VALUES
        (1, 'settle', 'stakes', 'payouts', stake, available - payout),
        (2, 'payout', 'payouts', 'available', payout, available)
    ) AS transfer (step, kind, debit, credit, amount, after)
    WHERE amount > 0 ORDER BY id, step
), settlements AS (
    INSERT INTO bet_settlements (bet_id, n, outcome, payout_cents, difference_cents, reason, generation, at)
    SELECT id, 1, outcome, payout, payout, 'result', 1, now() FROM given
), steps AS (
    INSERT INTO bet_history (bet_id, old_status, new_status, reason, at)
    SELECT id, 'CONFIRMED', 'SETTLED', outcome, now() FROM given
), records AS (
    INSERT INTO outbox (topic, key, payload, leased_until, created_at)
    SELECT 'bet_settled', id::TEXT, json_build_object('bet_id', id, 'user_id', user_id, 'status', 'SETTLED',
        'outcome', outcome, 'payout_cents', payout, 'difference_cents', payout, 'n', 1, 'ts', now())::TEXT,
        now() + interval '1 day', now()
    FROM given
)
SELECT count(*) AS number FROM given
