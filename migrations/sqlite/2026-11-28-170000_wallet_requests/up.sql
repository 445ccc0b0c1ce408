-- Idempotency keys of wallet requests: the table of PostgreSQL's migration of this name.

CREATE TABLE wallet_requests (
    user_id TEXT NOT NULL,
    operation TEXT NOT NULL CHECK (operation IN ('deposit', 'withdraw', 'reserve', 'commit', 'refund', 'expire')),
    key TEXT NOT NULL CHECK (key <> ''),
    fingerprint TEXT NOT NULL,
    answer TEXT NOT NULL,
    at BIGINT NOT NULL CHECK (typeof(at) = 'integer'),
    PRIMARY KEY (user_id, operation, key)
);
