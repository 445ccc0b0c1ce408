-- The open bets of a market, those first that were never settled. Placing a bet writes no entry; confirming it writes one.
CREATE INDEX CONCURRENTLY bets_open_of_market ON bets (event_id, market, line, settled_by, id) WHERE status = 'CONFIRMED';
