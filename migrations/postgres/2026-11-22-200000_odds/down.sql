DROP TABLE odds_history;
DROP TABLE odds_current;
