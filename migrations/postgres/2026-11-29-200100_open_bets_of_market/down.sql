DROP INDEX CONCURRENTLY bets_open_of_market;
