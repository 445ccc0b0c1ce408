-- Details of an event that a supplier may publish, for the list of events. NULL until known.

ALTER TABLE odds_current ADD COLUMN sport TEXT;
ALTER TABLE odds_current ADD COLUMN start_time BIGINT CHECK (typeof(start_time) IN ('integer', 'null'));

-- The list of events skips ended events: it scans this index, which has no market of an ended event.
CREATE INDEX odds_current_unfinished ON odds_current (event_id) WHERE status IN ('open', 'suspended');
