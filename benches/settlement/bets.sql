-- $2 confirmed bets on the market 1x2 of event $1, of users 1 to $3 at random, half of them on each of two
-- selections: what bets_place and bets_decide write, without the outbox. The ids are UUIDs of version 7, in
-- the order of the bets.
WITH numbers AS MATERIALIZED (
    SELECT n, 'user-' || 1 + floor(random() * $3)::BIGINT AS user_id,
        (lpad(to_hex((extract(epoch FROM now()) * 1000)::BIGINT - $2 + n), 12, '0') || '7'
            || right(gen_random_uuid()::TEXT, 21))::UUID AS id
    FROM generate_series(1, $2) AS n
), given AS MATERIALIZED (
    SELECT n, id, user_id, CASE WHEN random() < 0.5 THEN 'home' ELSE 'away' END AS selection,
        available_cents - 100 * row_number() OVER (PARTITION BY user_id ORDER BY n) AS available,
        now() - interval '1 hour' AS at
    FROM numbers JOIN wallets USING (user_id)
), placed AS (
    INSERT INTO bets (id, user_id, event_id, market, line, selection, stake_cents, price_thousandths, status,
        provider_ref, placed_at, decide_by, decided_at)
    SELECT id, user_id, $1, '1x2', '', selection, 100, 1500, 'CONFIRMED', 'SUP-' || n, at, at + interval '10 s', at
    FROM given ORDER BY n
), holds AS (
    INSERT INTO reservations (id, user_id, reference, amount_cents, status, bet_id, created_at, settled_at)
    SELECT gen_random_uuid(), user_id, id::TEXT, 100, 'COMMITTED', id, at, at FROM given ORDER BY n
), steps AS (
    INSERT INTO bet_history (bet_id, old_status, new_status, at)
    SELECT id, old_status, new_status, at
    FROM given, (VALUES (1, NULL, 'PENDING_CONFIRMATION'), (2, 'PENDING_CONFIRMATION', 'CONFIRMED'))
        AS step (number, old_status, new_status)
    ORDER BY n, number
), transfers AS (
    INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference,
        available_after, reserved_after, at)
    SELECT user_id, kind, debit, credit, 100, id::TEXT, available, reserved, at
    FROM given, (VALUES (1, 'reserve', 'available', 'reserved', 100), (2, 'commit', 'reserved', 'stakes', 0))
        AS step (number, kind, debit, credit, reserved)
    ORDER BY n, number
), spent AS (
    UPDATE wallets SET available_cents = lowest.available
    FROM (SELECT user_id, min(available) AS available FROM given GROUP BY user_id) AS lowest
    WHERE wallets.user_id = lowest.user_id
)
SELECT count(*) AS number FROM given
