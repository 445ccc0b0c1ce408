//! Settings of the clients of `/ws/odds` and REST.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use crate::config::values::{duration_above_zero, origin, size, whole};

/// Settings of the clients of `/ws/odds` and REST.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Clients")]
pub struct ClientSettings {
    /// Maximum size of a client message
    #[arg(long, env, default_value = "64KiB", value_parser = size(ByteSize::kib(1), ByteSize::mib(16)))]
    pub ws_max_message: ByteSize,
    /// Maximum subscriptions per session
    #[arg(long, env, default_value_t = 200, value_parser = whole(1_usize, 1_000_000))]
    pub ws_max_subscriptions: usize,
    /// Maximum number of sessions
    #[arg(long, env, default_value_t = 10_000, value_parser = whole(1_usize, 10_000_000))]
    pub ws_max_sessions: usize,
    /// Maximum messages per second from one session
    #[arg(long, env, default_value_t = 250, value_parser = whole(1_u32, 1_000_000))]
    pub ws_max_messages_per_second: u32,
    /// Interval between pings to a client
    #[arg(long, env, value_parser = duration_above_zero, default_value = "30s")]
    pub ws_ping_interval: Duration,
    /// How long a client may be silent, without even a pong, before it is closed at the next ping
    #[arg(long, env, value_parser = duration_above_zero, default_value = "45s")]
    pub ws_silence_limit: Duration,
    /// How long a client that has to authenticate may take until its auth message
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub session_auth_timeout: Duration,
    /// Queued deliveries per session before it counts as slow
    #[arg(long, env, default_value_t = 64, value_parser = whole(1_usize, 1_000_000))]
    pub ws_session_queue: usize,
    /// Maximum queued database reads for clients (books, lists, history); further reads are
    /// rejected with 503 ODDS_UNAVAILABLE or SNAPSHOT_UNAVAILABLE
    #[arg(long, env, default_value_t = 1_000, value_parser = whole(1_usize, 100_000))]
    pub client_read_queue: usize,
    /// How long a lookup of an event that does not exist is remembered; until then the database is
    /// not queried again, unless an update of the event arrives
    #[arg(long, env, value_parser = duration_above_zero, default_value = "3s")]
    pub unknown_event_ttl: Duration,
    /// How long a slow client may read nothing before it is closed
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub slow_client_limit: Duration,
    /// Origins whose pages may open /ws/odds, comma-separated, for example `https://example.com`; *
    /// for any. By default only same-origin pages; clients that send no Origin are always allowed
    #[arg(long, env, value_delimiter = ',', value_parser = origin)]
    pub ws_allowed_origins: Vec<String>,
    /// Worker threads of the odds server; one per core by default
    #[arg(long, env, value_parser = whole(1_usize, 1024))]
    pub http_workers_odds: Option<usize>,
}
