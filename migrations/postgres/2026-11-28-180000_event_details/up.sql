-- Details of an event that a supplier may publish, for the list of events. NULL until known.

ALTER TABLE odds_current ADD COLUMN sport TEXT COLLATE "C", ADD COLUMN start_time TIMESTAMPTZ;

-- The list of events skips ended events: it scans this index, which has no market of an ended event. A
-- price change touches no indexed column, so it is still a HOT update; a status change is not. The table has
-- one row per market, so building the index takes a moment.
CREATE INDEX odds_current_unfinished ON odds_current (event_id) WHERE status IN ('open', 'suspended');
