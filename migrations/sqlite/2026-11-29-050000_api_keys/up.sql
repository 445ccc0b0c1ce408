-- API keys of services, and users whose tokens are revoked. The tables of PostgreSQL's migration of this
-- name, which describes them.

CREATE TABLE api_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    hash BLOB NOT NULL UNIQUE CHECK (typeof(hash) = 'blob' AND length(hash) = 32),
    prefix TEXT NOT NULL CHECK (prefix <> ''),
    scopes TEXT NOT NULL,
    note TEXT NOT NULL CHECK (note <> ''),
    expires_at BIGINT CHECK (typeof(expires_at) IN ('integer', 'null')),
    created_by TEXT NOT NULL CHECK (created_by <> ''),
    created_at BIGINT NOT NULL CHECK (typeof(created_at) = 'integer'),
    last_used_at BIGINT CHECK (typeof(last_used_at) IN ('integer', 'null')),
    revoked_by TEXT CHECK (revoked_by <> ''),
    revoked_at BIGINT CHECK (typeof(revoked_at) IN ('integer', 'null')),
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
);

CREATE TABLE api_key_audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    key_id BIGINT NOT NULL REFERENCES api_keys (id),
    action TEXT NOT NULL CHECK (action IN ('create', 'revoke')),
    prefix TEXT NOT NULL,
    scopes TEXT NOT NULL,
    note TEXT NOT NULL,
    expires_at BIGINT,
    done_by TEXT NOT NULL,
    at BIGINT NOT NULL CHECK (typeof(at) = 'integer')
);

CREATE TRIGGER api_keys_are_recorded AFTER INSERT ON api_keys
BEGIN
    INSERT INTO api_key_audit (key_id, action, prefix, scopes, note, expires_at, done_by, at)
    VALUES (NEW.id, 'create', NEW.prefix, NEW.scopes, NEW.note, NEW.expires_at, NEW.created_by, NEW.created_at);
END;
CREATE TRIGGER api_key_revocations_are_recorded AFTER UPDATE OF revoked_at ON api_keys
BEGIN
    INSERT INTO api_key_audit (key_id, action, prefix, scopes, note, expires_at, done_by, at)
    VALUES (NEW.id, 'revoke', NEW.prefix, NEW.scopes, NEW.note, NEW.expires_at, NEW.revoked_by, NEW.revoked_at);
END;

CREATE TRIGGER api_keys_stay BEFORE UPDATE OF id, hash, prefix, scopes, note, expires_at, created_by, created_at
    ON api_keys
BEGIN
    SELECT RAISE(ABORT, 'an API key is never changed or deleted, only revoked, and only once: create another one');
END;
CREATE TRIGGER api_key_revocations_stay BEFORE UPDATE OF revoked_by, revoked_at ON api_keys
    WHEN OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL
BEGIN
    SELECT RAISE(ABORT, 'an API key is never changed or deleted, only revoked, and only once: create another one');
END;
CREATE TRIGGER api_keys_are_kept BEFORE DELETE ON api_keys
BEGIN
    SELECT RAISE(ABORT, 'an API key is never changed or deleted, only revoked, and only once: create another one');
END;

CREATE TRIGGER api_key_audit_stays BEFORE UPDATE ON api_key_audit
BEGIN
    SELECT RAISE(ABORT, 'the audit of API keys is never changed');
END;
CREATE TRIGGER api_key_audit_is_kept BEFORE DELETE ON api_key_audit
BEGIN
    SELECT RAISE(ABORT, 'the audit of API keys is never changed');
END;

CREATE TABLE revoked_users (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    user_id TEXT NOT NULL CHECK (user_id <> ''),
    issued_before BIGINT NOT NULL CHECK (typeof(issued_before) = 'integer'),
    revoked_by TEXT NOT NULL CHECK (revoked_by <> '')
);
CREATE TRIGGER revoked_users_stay BEFORE UPDATE ON revoked_users
BEGIN
    SELECT RAISE(ABORT, 'the revocation of a user is never changed or deleted');
END;
CREATE TRIGGER revoked_users_are_kept BEFORE DELETE ON revoked_users
BEGIN
    SELECT RAISE(ABORT, 'the revocation of a user is never changed or deleted');
END;
