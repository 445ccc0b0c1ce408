-- Holds: an operator stops bets on everything, a source, an event, a market or a selection. The tables of
-- PostgreSQL's migration of this name, which describes them.

CREATE TABLE holds (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    request TEXT NOT NULL UNIQUE CHECK (length(request) = 36 AND request NOT GLOB '*[^0-9a-f-]*'),
    scope TEXT NOT NULL CHECK (scope IN ('all', 'source', 'event', 'market', 'selection')),
    source TEXT CHECK (source <> ''),
    event_id TEXT CHECK (event_id <> ''),
    market TEXT CHECK (market <> ''),
    line TEXT,
    selection TEXT CHECK (selection <> ''),
    until BIGINT CHECK (typeof(until) IN ('integer', 'null')),
    reason TEXT NOT NULL CHECK (reason <> ''),
    created_by TEXT NOT NULL CHECK (created_by <> ''),
    created_at BIGINT NOT NULL CHECK (typeof(created_at) = 'integer'),
    release_reason TEXT CHECK (release_reason <> ''),
    released_by TEXT CHECK (released_by <> ''),
    released_at BIGINT CHECK (typeof(released_at) IN ('integer', 'null')),
    CHECK ((source IS NOT NULL) = (scope = 'source')
        AND (event_id IS NOT NULL) = (scope IN ('event', 'market', 'selection'))
        AND (market IS NOT NULL) = (scope IN ('market', 'selection'))
        AND (line IS NOT NULL) = (scope IN ('market', 'selection'))
        AND (selection IS NOT NULL) = (scope = 'selection')),
    CHECK ((released_at IS NULL) = (released_by IS NULL) AND (released_at IS NULL) = (release_reason IS NULL))
);
CREATE INDEX holds_not_released ON holds (event_id) WHERE released_at IS NULL;

CREATE TABLE hold_audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    hold_id BIGINT NOT NULL REFERENCES holds (id),
    action TEXT NOT NULL CHECK (action IN ('set', 'release')),
    scope TEXT NOT NULL,
    source TEXT,
    event_id TEXT,
    market TEXT,
    line TEXT,
    selection TEXT,
    until BIGINT,
    reason TEXT NOT NULL,
    done_by TEXT NOT NULL,
    at BIGINT NOT NULL CHECK (typeof(at) = 'integer')
);

CREATE TRIGGER holds_are_recorded AFTER INSERT ON holds
BEGIN
    INSERT INTO hold_audit (hold_id, action, scope, source, event_id, market, line, selection, until, reason, done_by, at)
    VALUES (NEW.id, 'set', NEW.scope, NEW.source, NEW.event_id, NEW.market, NEW.line, NEW.selection, NEW.until,
        NEW.reason, NEW.created_by, NEW.created_at);
END;
CREATE TRIGGER releases_are_recorded AFTER UPDATE OF released_at ON holds
BEGIN
    INSERT INTO hold_audit (hold_id, action, scope, source, event_id, market, line, selection, until, reason, done_by, at)
    VALUES (NEW.id, 'release', NEW.scope, NEW.source, NEW.event_id, NEW.market, NEW.line, NEW.selection, NEW.until,
        NEW.release_reason, NEW.released_by, NEW.released_at);
END;

CREATE TRIGGER holds_stay BEFORE UPDATE OF id, request, scope, source, event_id, market, line, selection, until,
    reason, created_by, created_at ON holds
BEGIN
    SELECT RAISE(ABORT, 'a hold is never changed or deleted, only released, and only once: set another one');
END;
CREATE TRIGGER releases_stay BEFORE UPDATE ON holds WHEN OLD.released_at IS NOT NULL OR NEW.released_at IS NULL
BEGIN
    SELECT RAISE(ABORT, 'a hold is never changed or deleted, only released, and only once: set another one');
END;
CREATE TRIGGER holds_are_kept BEFORE DELETE ON holds
BEGIN
    SELECT RAISE(ABORT, 'a hold is never changed or deleted, only released, and only once: set another one');
END;

CREATE TRIGGER hold_audit_stays BEFORE UPDATE ON hold_audit
BEGIN
    SELECT RAISE(ABORT, 'the audit of holds is never changed');
END;
CREATE TRIGGER hold_audit_is_kept BEFORE DELETE ON hold_audit
BEGIN
    SELECT RAISE(ABORT, 'the audit of holds is never changed');
END;
