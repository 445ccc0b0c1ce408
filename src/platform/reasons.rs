//! Maps failure causes to fixed texts. Load balancers read `/healthz` and it may be public, so it
//! names no host, user or table and repeats no engine message; the cause is only logged.

use crate::http::errors::log_cause;

/// A part of the cause, and the text shown to operators.
type Reason = (&'static str, &'static str);

const DATABASE: [Reason; 18] = [
    (
        "password authentication failed",
        "login rejected (password authentication failed for user)",
    ),
    ("authentication failed", "login rejected"),
    ("no pg_hba.conf entry", "login rejected (pg_hba.conf)"),
    (
        "only reads",
        "read-only (a standby, or default_transaction_read_only is on)",
    ),
    ("read-only transaction", "read-only"),
    ("of another program", "its tables belong to another program"),
    ("its encoding is", "its encoding is not UTF-8"),
    (
        "No space left on device",
        "disk full (No space left on device)",
    ),
    ("could not extend file", "disk full"),
    ("is full", "disk full"),
    (
        "was replaced",
        "database file replaced; restart the process",
    ),
    ("is gone", "database file missing; restart the process"),
    ("too many", "no free connection (max_connections)"),
    (
        "became free within",
        "no connection became free in time; all are in use",
    ),
    ("Connection refused", "connection refused"),
    ("certificate", "certificate not trusted"),
    ("SSL", "TLS handshake failed"),
    ("does not exist", "database, role or table does not exist"),
];

const CACHE: [Reason; 8] = [
    (
        "is the password of REDIS_URL right?",
        "the Redis at REDIS_URL rejects the login (is the password of REDIS_URL right?)",
    ),
    (
        "does the port speak TLS?",
        "TLS handshake failed (does the port speak TLS?)",
    ),
    (
        "does the port speak Redis",
        "no reply from Redis (does the port speak Redis, without TLS?)",
    ),
    ("certificate", "certificate not trusted"),
    ("it is a replica", "read-only (a replica)"),
    ("its memory is full", "memory full"),
    (
        "Redis 6 or later",
        "version too old; Redis 6 or later is required",
    ),
    ("Connection refused", "connection refused"),
];

const BUS: [Reason; 6] = [
    (
        "SASL",
        "SASL login failed; check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    ),
    (
        "does the port want TLS?",
        "broker closes the connection (does the port want TLS? see KAFKA_SECURITY_PROTOCOL)",
    ),
    ("SSL", "TLS handshake failed; check KAFKA_CA_FILE"),
    ("Connection refused", "connection refused"),
    ("resolve", "broker name cannot be resolved"),
    ("authorization", "not authorized"),
];

/// Logs why the database is unavailable and returns a fixed text.
pub(super) fn database(cause: &dyn std::fmt::Display) -> String {
    reason(
        "database",
        &DATABASE,
        "unreachable, or its requests fail",
        cause,
    )
}

/// Logs why the cache is unavailable and returns a fixed text.
pub(super) fn cache(cause: &dyn std::fmt::Display) -> String {
    reason("cache", &CACHE, "unreachable, or its requests fail", cause)
}

/// Logs why the bus is unavailable and returns a fixed text.
pub(super) fn bus(cause: &dyn std::fmt::Display) -> String {
    reason("bus", &BUS, "unreachable, or its requests fail", cause)
}

/// Logs why changes do not arrive and returns a fixed text.
pub(super) fn feed(cause: &dyn std::fmt::Display) -> String {
    const FEED: [Reason; 1] = [(
        "no processor",
        "no processor sends heartbeats; prices may be stale",
    )];
    reason(
        "feed",
        &FEED,
        "changes do not arrive; prices may be stale",
        cause,
    )
}

fn reason(
    component: &'static str,
    known: &[Reason],
    other: &str,
    cause: &dyn std::fmt::Display,
) -> String {
    log_cause(component, cause);
    let cause = cause.to_string();
    known
        .iter()
        .find(|(word, _)| cause.contains(word))
        .map_or(other, |(_, reason)| reason)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn refused_statement_is_no_refused_connection() {
        let statement = StoreError::Refused("permission denied for table bets".to_owned());
        let rejected = "unreachable, or its requests fail";
        assert_eq!(database(&statement), rejected);
        let connection =
            "connection to server at \"10.1.2.3\", port 5432 failed: Connection refused";
        let connection = StoreError::Unavailable(connection.to_owned());
        assert_eq!(database(&connection), "connection refused");
        assert_eq!(cache(&"the command was refused"), rejected);
        assert_eq!(bus(&"the bus refused: the record is invalid"), rejected);
    }

    #[test]
    fn reason_does_not_repeat_cause() {
        let cause = "connection to server at \"10.1.2.3\", port 5432 failed: FATAL: password authentication failed for user \"odds\"";
        assert_eq!(
            database(&cause),
            "login rejected (password authentication failed for user)"
        );
        let cause = "Redis at cache.internal:6379: Connection refused (os error 111)";
        assert_eq!(cache(&cause), "connection refused");
        let cause =
            "10.0.0.1:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused";
        assert_eq!(bus(&cause), "connection refused");
        let cause = "10.0.0.1:9092/bootstrap: SASL PLAIN mechanism handshake failed: hunter2";
        assert!(bus(&cause).starts_with("SASL login failed"));
        for reason in [
            database(&"hunter2 at 10.1.2.3"),
            cache(&"hunter2 at 10.1.2.3"),
            bus(&"hunter2 at 10.1.2.3"),
        ] {
            assert_eq!(reason, "unreachable, or its requests fail");
        }
    }
}
