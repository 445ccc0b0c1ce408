-- Optional details of an event, for the list of events. NULL until an update contains them.

ALTER TABLE odds_current ADD COLUMN sport TEXT;
ALTER TABLE odds_current ADD COLUMN start_time BIGINT CHECK (typeof(start_time) IN ('integer', 'null'));

-- The list of events omits ended events. It reads this index, which contains no market of an ended event.
CREATE INDEX odds_current_unfinished ON odds_current (event_id) WHERE status IN ('open', 'suspended');
