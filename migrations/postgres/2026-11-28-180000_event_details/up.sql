-- Optional details of an event, for the list of events. NULL until an update contains them.

ALTER TABLE odds_current ADD COLUMN sport TEXT COLLATE "C", ADD COLUMN start_time TIMESTAMPTZ;

-- The list of events omits ended events. It reads this index, which contains no market of an ended event. A change of a
-- price changes no indexed column, so that update stays on its page; a change of the status does not. The table has one
-- row per market, so the index is built quickly.
CREATE INDEX odds_current_unfinished ON odds_current (event_id) WHERE status IN ('open', 'suspended');
