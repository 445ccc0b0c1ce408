//! Why a component is down, in words of our own. `/healthz` is read by load balancers and may be
//! public, so it names no host, user or table and repeats nothing of what an engine says; the log
//! has the cause.

use crate::http::errors::log_cause;

/// A word in the cause, and what it means for an operator.
type Reason = (&'static str, &'static str);

const DATABASE: [Reason; 18] = [
    (
        "password authentication failed",
        "the login is refused (password authentication failed for user)",
    ),
    ("authentication failed", "the login is refused"),
    ("no pg_hba.conf entry", "the login is refused (pg_hba.conf)"),
    (
        "only reads",
        "it only reads (a standby, or default_transaction_read_only is on)",
    ),
    (
        "read-only transaction",
        "it only reads (read-only transaction)",
    ),
    ("of another program", "its tables are of another program"),
    ("its encoding is", "its encoding is not UTF8"),
    (
        "No space left on device",
        "its disk is full (No space left on device)",
    ),
    ("could not extend file", "its disk is full"),
    ("is full", "its disk is full"),
    ("was replaced", "its file was replaced by another; restart"),
    ("is gone", "its file is gone; restart"),
    ("too many", "it has no connection free (max_connections)"),
    (
        "became free within",
        "no connection became free in time; all are in use",
    ),
    ("refused", "connection refused"),
    ("certificate", "its certificate is not trusted"),
    ("SSL", "TLS cannot be agreed on"),
    ("does not exist", "a database, role or table does not exist"),
];

const CACHE: [Reason; 8] = [
    (
        "is the password of REDIS_URL right?",
        "the Redis at REDIS_URL refuses the login (is the password of REDIS_URL right?)",
    ),
    (
        "does the port speak TLS?",
        "no TLS handshake (does the port speak TLS?)",
    ),
    (
        "does the port speak Redis",
        "no answer of Redis (does the port speak Redis, without TLS?)",
    ),
    ("certificate", "its certificate is not trusted"),
    ("it is a replica", "it only reads (it is a replica)"),
    ("its memory is full", "its memory is full"),
    (
        "Redis 6 or later",
        "its version is too old (Redis 6 or later is wanted)",
    ),
    ("refused", "connection refused"),
];

const BUS: [Reason; 6] = [
    (
        "SASL",
        "the SASL login fails (are KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD right?)",
    ),
    (
        "does the port want TLS?",
        "the broker hangs up (does the port want TLS? see KAFKA_SECURITY_PROTOCOL)",
    ),
    ("SSL", "the TLS handshake fails (see KAFKA_CA_FILE)"),
    ("refused", "connection refused"),
    ("resolve", "the broker's name cannot be resolved"),
    ("authorization", "not authorized"),
];

/// Logs why the database cannot be used, and says it in words of our own.
pub(super) fn database(cause: &dyn std::fmt::Display) -> String {
    reason(
        "database",
        &DATABASE,
        "it cannot be reached, or does not do what it is asked",
        cause,
    )
}

/// Logs why the cache cannot be used, and says it in words of our own.
pub(super) fn cache(cause: &dyn std::fmt::Display) -> String {
    reason(
        "cache",
        &CACHE,
        "it cannot be reached, or does not do what it is asked",
        cause,
    )
}

/// Logs why the bus cannot be used, and says it in words of our own.
pub(super) fn bus(cause: &dyn std::fmt::Display) -> String {
    reason(
        "bus",
        &BUS,
        "it cannot be reached, or does not do what it is asked",
        cause,
    )
}

/// Logs why changes do not arrive, and says it in words of our own.
pub(super) fn feed(cause: &dyn std::fmt::Display) -> String {
    const FEED: [Reason; 1] = [("no processor", "no processor is heard; prices may be old")];
    reason(
        "feed",
        &FEED,
        "changes do not arrive; prices may be old",
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

    #[test]
    fn a_reason_repeats_nothing_of_the_cause() {
        let cause = "connection to server at \"10.1.2.3\", port 5432 failed: FATAL: password authentication failed for user \"odds\"";
        assert_eq!(
            database(&cause),
            "the login is refused (password authentication failed for user)"
        );
        let cause = "Redis at cache.internal:6379: Connection refused (os error 111)";
        assert_eq!(cache(&cause), "connection refused");
        let cause = "10.0.0.1:9092/bootstrap: SASL PLAIN mechanism handshake failed: hunter2";
        assert!(bus(&cause).starts_with("the SASL login fails"));
        for reason in [
            database(&"hunter2 at 10.1.2.3"),
            cache(&"hunter2 at 10.1.2.3"),
            bus(&"hunter2 at 10.1.2.3"),
        ] {
            assert_eq!(
                reason,
                "it cannot be reached, or does not do what it is asked"
            );
        }
    }
}
