//! Shared helpers of the benches: the real binary in a separate process, low-cost sockets, a
//! supplier, machine figures, and the table. Each bench uses some of them.
#![allow(dead_code)]

pub mod authority;
pub mod client;
pub mod client_pool;
pub mod collector;
pub mod database;
pub mod http;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod observers;
pub mod server;
pub mod streams;
pub mod supplier;
pub mod table;
pub mod tokens;

// The benches use the same per-test databases, topics and caches as the tests.
#[allow(clippy::unwrap_used)]
#[path = "../../tests/it/support/engines.rs"]
pub mod engines;

use std::time::{Duration, Instant};

/// The result of a bench.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Maximum wait for an expected condition.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// A number from the environment, such as `BENCH_ROUNDS`, or its default.
pub fn setting(name: &str, default: u64) -> Outcome<u64> {
    let read = |value: String| {
        value
            .parse()
            .map_err(|error| format!("{name}: {error}").into())
    };
    std::env::var(name).map_or(Ok(default), read)
}

/// Fails with instructions if the environment lacks the addresses of Kafka, Redis and PostgreSQL.
pub fn need_engines(bench: &str) -> Outcome<()> {
    match ["KAFKA_BROKERS", "REDIS_URL", "DATABASE_URL"]
        .iter()
        .find(|name| std::env::var_os(name).is_none())
    {
        Some(name) => Err(format!(
            "{name} is not set: run `scripts/engines with cargo bench --bench {bench}`"
        )
        .into()),
        None => Ok(()),
    }
}

/// Polls until there is a value.
pub fn until<T>(what: &str, ask: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    until_within(WAIT_LIMIT, what, ask)
}

/// Polls until there is a value, for at most this long.
pub fn until_within<T>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if began.elapsed() > limit {
            return Err(format!("timed out after {limit:?}: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
