DROP TABLE supplier_cancels;
DROP TABLE outbox;
DROP TABLE bet_requests;
DROP TABLE bet_history;
DROP TABLE bets;
DROP TABLE reservations;
DROP TABLE ledger_transfers;
DROP TABLE wallets;
