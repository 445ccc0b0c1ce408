-- The trace that a record of the outbox belongs to, in the form of the W3C header traceparent. NULL for
-- records that are not traced.
ALTER TABLE outbox ADD COLUMN traceparent TEXT;
