DROP INDEX bets_open_of_market;
