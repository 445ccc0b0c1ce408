-- At its start, `ingest` reads the open and the suspended markets of each source, in pages. This index has no market of an ended
-- event. A price change touches no indexed column, so it is still a HOT update. The table has one row per
-- market, so building the index takes a moment, in the same transaction as the other migrations.
CREATE INDEX odds_current_of_source ON odds_current (source, status, event_id, market, line)
    WHERE status IN ('open', 'suspended');
