DROP INDEX bets_held;
