-- What a supplier may tell about an event, for the list of events. NULL until an update says it.

ALTER TABLE odds_current ADD COLUMN sport TEXT;
ALTER TABLE odds_current ADD COLUMN start_time BIGINT CHECK (typeof(start_time) IN ('integer', 'null'));

-- The list of events leaves ended ones out: it walks this index, which holds no market of an ended event.
CREATE INDEX odds_current_unfinished ON odds_current (event_id) WHERE status IN ('open', 'suspended');
