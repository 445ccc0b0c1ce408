DROP FUNCTION bet_decide, bet_refuse, bet_place, bet_first_answer, wallet_settle, wallet_reserve, wallet_move, ledger_transfer;
DROP TABLE supplier_cancels, outbox, bet_requests, bet_history, bets, reservations, ledger_transfers, wallets;
DROP FUNCTION ledger_is_immutable;
