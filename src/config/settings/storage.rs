//! Settings of the cache, the books and the database.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

use crate::config::values::{
    deployment, duration, duration_above_a_second, duration_above_zero, duration_from_two_seconds,
    secret, whole,
};

/// How changes reach the roles that show prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OddsFeed {
    /// As `kafka` if the bus is Kafka, else as `redis`.
    Auto,
    /// By the odds topic and by the broadcasts of the processors.
    Kafka,
    /// By the broadcasts of the processors alone.
    Redis,
}

/// Settings of the cache and the books.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cache and books")]
pub struct CacheSettings {
    /// Redis URL, for example redis://user:password@host:6379/0, or rediss:// for TLS; if unset,
    /// the embedded cache is used
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub redis_url: Option<SecretString>,
    /// Redis as host:port, used if REDIS_URL is not set (the original's name)
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub redis_addr: Option<SecretString>,
    /// PEM file with additional certificate authorities for rediss://; the system's are always
    /// trusted
    #[arg(long, env)]
    pub redis_ca_file: Option<PathBuf>,
    /// Broadcast channel
    #[arg(long, env, default_value = "odds_updates_broadcast")]
    pub redis_pubsub_channel: String,
    /// Name of this deployment, part of its own channel and of its broadcasts; must be the same in
    /// all its processes. By default db and the number of the Redis database, for example db0
    #[arg(long, env, value_parser = deployment)]
    pub deployment: Option<String>,
    /// Whether to also publish to and subscribe to REDIS_PUBSUB_CHANNEL itself, for services of the
    /// original and earlier versions; if false, only the deployment's own channel is used
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub redis_original_channel: bool,
    /// If no processor heartbeat arrives for this long, odds marks prices as possibly stale; each
    /// processor sends at least one a second
    #[arg(long, env, value_parser = duration_above_a_second, default_value = "5s")]
    pub feed_stale_after: Duration,
    /// If no ingest reports a source for this long, the source counts as lost: its markets are shown
    /// as suspended, and no bets on them are accepted. Each ingest reports its sources once a
    /// second. Must be the same in all processes of a deployment
    #[arg(long, env, value_parser = duration_from_two_seconds, default_value = "3s")]
    pub source_silence: Duration,
    /// How changes reach odds and bets: kafka (they read the odds topic themselves, beside the
    /// broadcasts of the processors, which is faster), redis (the broadcasts alone, for processes
    /// without access to Kafka), or auto (kafka if KAFKA_BROKERS is set, else redis)
    #[arg(long, env, value_enum, default_value = "auto")]
    pub odds_feed: OddsFeed,
    /// How long a cached event is kept after its last change
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1h")]
    pub cache_ttl: Duration,
    /// How long an event's book stays in memory without a change or a reader; the database keeps
    /// its state
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10m")]
    pub book_idle_limit: Duration,
}

/// Settings of the database.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
pub struct StoreSettings {
    /// PostgreSQL URL, for example postgres://user:password@host:5432/name?sslmode=verify-full, or
    /// a SQLite file, for example data/sports-bet.db or sqlite://data/sports-bet.db
    #[arg(long, env, hide_env_values = true, value_parser = secret, default_value = "data/sports-bet.db")]
    pub database_url: SecretString,
    /// PostgreSQL, used if DATABASE_URL is not set (the original's name)
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub postgres_dsn: Option<SecretString>,
    /// PostgreSQL replica that the odds role reads from; DATABASE_URL by default
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub database_ro_url: Option<SecretString>,
    /// Maximum PostgreSQL connections for reads per role, and the same number again for money; odds
    /// writes use three more
    #[arg(long, env, default_value_t = 8, value_parser = whole(1_u32, 1_000))]
    pub database_pool_size: u32,
    /// How long a write batch waits to fill up
    #[arg(long, env, value_parser = duration, default_value = "5ms")]
    pub store_batch_wait: Duration,
    /// How long price history is kept; older rows are deleted
    #[arg(long, env, value_parser = duration_above_zero, default_value = "30days")]
    pub history_retention: Duration,
    /// How long dead letters (unreadable records) are kept; older ones are deleted
    #[arg(long, env, value_parser = duration_above_zero, default_value = "30days")]
    pub dead_letter_retention: Duration,
}
