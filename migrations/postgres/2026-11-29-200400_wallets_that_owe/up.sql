-- The users who owe money. The balances are not in the index, so their changes remain HOT updates.
CREATE INDEX CONCURRENTLY wallets_that_owe ON wallets (user_id) WHERE owed_cents > 0;
