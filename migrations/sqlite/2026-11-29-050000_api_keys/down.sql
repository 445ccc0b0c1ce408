DROP TABLE revoked_users;
DROP TABLE api_key_audit;
DROP TABLE api_keys;
