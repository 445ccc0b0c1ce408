DROP INDEX CONCURRENTLY bets_settled_of_market;
