DROP INDEX bets_settled_of_market;
