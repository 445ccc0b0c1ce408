-- Users 1 to $1, each with a deposit.
WITH users AS (
    INSERT INTO wallets (user_id, wallet_id, available_cents, reserved_cents, created_at)
    SELECT 'user-' || n, gen_random_uuid(), 1000000000, 0, now() FROM generate_series(1, $1) AS n
    RETURNING user_id
)
INSERT INTO ledger_transfers (user_id, kind, debit_account, credit_account, amount_cents, reference, available_after,
    reserved_after, at)
SELECT user_id, 'deposit', 'cash', 'available', 1000000000, 'first', 1000000000, 0, now() FROM users
