-- At its start, `ingest` reads the open and the suspended markets of each source, in pages. This index has no market of an ended
-- event.
CREATE INDEX odds_current_of_source ON odds_current (source, status, event_id, market, line)
    WHERE status IN ('open', 'suspended');
