DROP INDEX odds_current_of_source;
