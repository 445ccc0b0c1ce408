-- What a supplier may tell about an event, for the list of events. NULL until an update says it.

ALTER TABLE odds_current ADD COLUMN sport TEXT COLLATE "C", ADD COLUMN start_time TIMESTAMPTZ;

-- The list of events leaves ended ones out: it walks this index, which holds no market of an ended event. Prices do not
-- change an indexed column, so such an update still stays on its page; a change of the status does not. The table has one
-- row a market, so that the index is built in a moment.
CREATE INDEX odds_current_unfinished ON odds_current (event_id) WHERE status IN ('open', 'suspended');
