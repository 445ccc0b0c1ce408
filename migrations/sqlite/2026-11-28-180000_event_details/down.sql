DROP INDEX odds_current_unfinished;
ALTER TABLE odds_current DROP COLUMN start_time;
ALTER TABLE odds_current DROP COLUMN sport;
