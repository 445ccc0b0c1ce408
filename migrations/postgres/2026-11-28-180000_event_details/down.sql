DROP INDEX odds_current_unfinished;
ALTER TABLE odds_current DROP COLUMN start_time, DROP COLUMN sport;
