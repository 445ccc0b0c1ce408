//! What the benches share: the real binary in a process of its own, sockets that cost little, a
//! supplier, the machine, and the table. Each bench uses a part of it.
#![allow(dead_code)]

pub mod client;
pub mod crowd;
pub mod http;
pub mod machine;
pub mod server;
pub mod supplier;
pub mod table;

// The databases, topics and caches of a test serve a bench as well.
#[allow(clippy::unwrap_used)]
#[path = "../../tests/it/support/engines.rs"]
pub mod engines;

use std::time::{Duration, Instant};

/// What a bench ends with.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long a bench waits for what must come.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// A number of the environment, as `BENCH_ROUNDS`, or what it is without.
pub fn setting(name: &str, default: u64) -> Outcome<u64> {
    let read = |value: String| {
        value
            .parse()
            .map_err(|error| format!("{name}: {error}").into())
    };
    std::env::var(name).map_or(Ok(default), read)
}

/// Fails, and says how they are to be had, where the addresses of Kafka, Redis and PostgreSQL are
/// not in the environment.
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

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if began.elapsed() > WAIT_LIMIT {
            return Err(format!("not within {WAIT_LIMIT:?}: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
