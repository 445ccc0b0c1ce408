-- API keys of services, and users whose tokens are revoked.

CREATE TABLE api_keys (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The SHA-256 of the key, which is stored nowhere. A request that is repeated creates one key.
    hash BYTEA NOT NULL UNIQUE CHECK (length(hash) = 32),
    -- The beginning of the key, for display.
    prefix TEXT NOT NULL CHECK (prefix <> ''),
    -- The rights, separated by spaces.
    scopes TEXT NOT NULL,
    note TEXT NOT NULL CHECK (note <> ''),
    expires_at TIMESTAMPTZ,
    created_by TEXT NOT NULL CHECK (created_by <> ''),
    created_at TIMESTAMPTZ NOT NULL,
    last_used_at TIMESTAMPTZ,
    revoked_by TEXT CHECK (revoked_by <> ''),
    revoked_at TIMESTAMPTZ,
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
);

-- Each key that was created or revoked. Triggers write it, so a change by hand is recorded too.
CREATE TABLE api_key_audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id BIGINT NOT NULL REFERENCES api_keys,
    action TEXT NOT NULL CHECK (action IN ('create', 'revoke')),
    prefix TEXT NOT NULL,
    scopes TEXT NOT NULL,
    note TEXT NOT NULL,
    expires_at TIMESTAMPTZ,
    done_by TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL
);

CREATE FUNCTION api_key_is_recorded() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    v_is_new BOOLEAN := TG_OP = 'INSERT';
BEGIN
    INSERT INTO api_key_audit (key_id, action, prefix, scopes, note, expires_at, done_by, at)
    VALUES (NEW.id, CASE WHEN v_is_new THEN 'create' ELSE 'revoke' END, NEW.prefix, NEW.scopes, NEW.note,
        NEW.expires_at, CASE WHEN v_is_new THEN NEW.created_by ELSE NEW.revoked_by END,
        CASE WHEN v_is_new THEN NEW.created_at ELSE NEW.revoked_at END);
    RETURN NULL;
END $$;
CREATE TRIGGER api_keys_are_recorded AFTER INSERT OR UPDATE OF revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION api_key_is_recorded();

CREATE FUNCTION api_key_stays() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an API key is never changed or deleted, only revoked, and only once: create another one';
END $$;
CREATE TRIGGER api_keys_stay BEFORE UPDATE OF id, hash, prefix, scopes, note, expires_at, created_by, created_at
    OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION api_key_stays();
CREATE TRIGGER api_key_revocations_stay BEFORE UPDATE OF revoked_by, revoked_at ON api_keys FOR EACH ROW
    WHEN (OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL) EXECUTE FUNCTION api_key_stays();

CREATE FUNCTION api_key_audit_stays() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit of API keys is never changed';
END $$;
CREATE TRIGGER api_key_audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON api_key_audit
    FOR EACH STATEMENT EXECUTE FUNCTION api_key_audit_stays();

-- Tokens of a user that were issued before a time are not accepted. A user may be revoked again; the
-- latest time counts. The table is its own audit.
CREATE TABLE revoked_users (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL CHECK (user_id <> ''),
    issued_before TIMESTAMPTZ NOT NULL,
    revoked_by TEXT NOT NULL CHECK (revoked_by <> '')
);

CREATE FUNCTION revoked_user_stays() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the revocation of a user is never changed or deleted';
END $$;
CREATE TRIGGER revoked_users_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON revoked_users
    FOR EACH STATEMENT EXECUTE FUNCTION revoked_user_stays();
