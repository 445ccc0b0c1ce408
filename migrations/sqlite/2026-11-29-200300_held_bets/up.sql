-- The bets that wait for an operator.
CREATE INDEX bets_held ON bets (event_id) WHERE held IS NOT NULL;
