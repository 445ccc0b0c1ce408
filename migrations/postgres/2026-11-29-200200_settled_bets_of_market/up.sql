-- The settled bets of a market, those first that were settled by the earliest records: they are due when a
-- further record arrives.
CREATE INDEX CONCURRENTLY bets_settled_of_market ON bets (event_id, market, line, settled_by, id) WHERE status = 'SETTLED';
