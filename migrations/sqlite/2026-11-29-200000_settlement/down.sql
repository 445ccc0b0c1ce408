-- Fails if a bet was settled: the ledger is never changed. The changed schema would hide it.
CREATE TABLE settled (bets INTEGER CONSTRAINT no_bet_was_settled CHECK (bets = 0));
INSERT INTO settled SELECT count(*) FROM bet_settlements;
DROP TABLE settled;
ALTER TABLE wallets DROP owed_cents;
ALTER TABLE bets DROP held;
ALTER TABLE bets DROP settled_by;
ALTER TABLE bets DROP settlements;
ALTER TABLE bets DROP settled_at;
ALTER TABLE bets DROP payout_cents;
ALTER TABLE bets DROP outcome;
DROP TABLE bet_settlements;
DROP TABLE bets_to_settle;
DROP TABLE market_settlements;
DROP TABLE market_results;

PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, ', ''SETTLED'')', ')') WHERE type = 'table' AND name = 'bets';
UPDATE sqlite_schema SET sql = replace(sql, ',
        ''settle: stakes to payouts'',
        ''unsettle: payouts to stakes'',
        ''payout: payouts to available'',
        ''clawback: available to payouts'',
        ''owe: owed to payouts'',
        ''recover: available to owed'')', ')')
    WHERE type = 'table' AND name = 'ledger_transfers';
UPDATE sqlite_schema SET sql = replace(sql, ', ''bet_settled'')', ')') WHERE type = 'table' AND name = 'outbox';
PRAGMA writable_schema = RESET;
