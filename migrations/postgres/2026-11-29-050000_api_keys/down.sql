DROP TABLE revoked_users, api_key_audit, api_keys;
DROP FUNCTION api_key_is_recorded, api_key_stays, api_key_audit_stays, revoked_user_stays;
