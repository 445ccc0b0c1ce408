//! Settings of the suppliers and the simulator.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, Args, ValueEnum};
use secrecy::SecretString;

use crate::config::endpoint::Endpoint;
use crate::config::values::{
    duration, duration_above_zero, match_duration, rate, secret, share, size, source, supplier_url,
    whole,
};
use crate::domain::ids::Source;

/// Settings of the suppliers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Suppliers")]
pub struct SupplierSettings {
    /// Supplier addresses, comma-separated: ws:// or wss:// for the native format (user:password@
    /// is sent as HTTP Basic), betfair:// or betfairs:// for the Exchange Stream over TCP or TLS.
    /// By default this process's simulator if it runs, else ws://127.0.0.1:8081/ws
    #[arg(long, env, hide_env_values = true, value_delimiter = ',', value_parser = supplier_url)]
    pub supplier_urls: Vec<Endpoint>,
    /// One supplier, used if SUPPLIER_URLS is not set (the original's name)
    #[arg(long, env, hide_env_values = true, value_parser = supplier_url)]
    pub supplier_ws_url: Option<Endpoint>,
    /// How long a supplier connection may be silent, without even a pong, before it is reconnected
    #[arg(long, env, value_parser = duration_above_zero, default_value = "15s")]
    pub supplier_read_timeout: Duration,
    /// How long a supplier may be silent, connected or not, before its open markets are suspended;
    /// they reopen with its next message. Above the time between two pings, and between two
    /// heartbeats of Betfair
    #[arg(long, env, value_parser = duration_above_zero, default_value = "4s")]
    pub supplier_stale_after: Duration,
    /// Interval between pings to a native supplier
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1s")]
    pub supplier_ping_interval: Duration,
    /// Whether to send a native supplier a recover message after each connect, which requests what
    /// was missed; turn it off for a supplier that closes the connection because of it
    #[arg(long, env, default_value_t = true, action = ArgAction::Set)]
    pub supplier_recovery: bool,
    /// Delay before the first reconnect attempt; it doubles with each failure and has jitter
    #[arg(long, env, value_parser = duration_above_zero, default_value = "200ms")]
    pub supplier_reconnect_min: Duration,
    /// Maximum reconnect delay
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub supplier_reconnect_max: Duration,
    /// Maximum size of a supplier frame
    #[arg(long, env, default_value = "1MiB", value_parser = size(ByteSize::kib(1), ByteSize::mib(64)))]
    pub supplier_max_frame: ByteSize,
    /// How far an update's timestamp may be ahead of the clock; updates further ahead are rejected,
    /// whether from a supplier, Kafka, Redis or the database, because they would block all later
    /// updates. Must be the same in all processes of a deployment
    #[arg(long, env, value_parser = duration, default_value = "5m")]
    pub supplier_max_clock_skew: Duration,
    /// Sources, most trusted first, comma-separated: the names in the field `source` of updates. If
    /// set, each market shows one source at a time, and another one only if that is lost or hands
    /// the market over; sources that are not listed rank last, by name. If unset, the latest update
    /// wins, whatever its source. Must be the same in all processes of a deployment
    #[arg(long, env, value_delimiter = ',', value_parser = source)]
    pub supplier_priority: Vec<Source>,
    /// Maximum age of another source's state of a market that replaces that of a lost source; an
    /// older one suspends the market
    #[arg(long, env, value_parser = duration_above_zero, default_value = "30s")]
    pub failover_max_age: Duration,
    /// How long a source of higher priority must have been live before it takes a market back
    #[arg(long, env, value_parser = duration_above_zero, default_value = "30s")]
    pub failback_after: Duration,
    /// Betfair application key
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub betfair_app_key: Option<SecretString>,
    /// Betfair session token
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub betfair_session_token: Option<SecretString>,
    /// Betfair market ids to subscribe to, comma-separated; if unset, all markets that the stream
    /// offers
    #[arg(long, env, value_delimiter = ',')]
    pub betfair_market_ids: Vec<String>,
    /// PEM file with additional certificate authorities for wss:// and betfairs://; the system's
    /// are always trusted
    #[arg(long, env)]
    pub supplier_ca_file: Option<PathBuf>,
}

impl SupplierSettings {
    /// Whether each market follows one source at a time.
    pub fn has_priority(&self) -> bool {
        !self.supplier_priority.is_empty()
    }
}

/// A kind of market that the simulator offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SimulatedMarket {
    /// Home, draw, away.
    #[value(name = "1x2")]
    OneXTwo,
    /// Total goals over/under 1.5, 2.5 and 3.5.
    #[value(name = "total_goals")]
    TotalGoals,
    /// Both teams to score.
    #[value(name = "btts")]
    BothTeamsToScore,
}

/// Settings of the simulator.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Simulator")]
pub struct SimulatorSettings {
    /// Number of events; the first four are the original's
    #[arg(long, env, default_value_t = 12, value_parser = whole(1_usize, 100_000))]
    pub simulator_events: usize,
    /// Updates per second, over all markets
    #[arg(long, env, default_value_t = 8.0, value_parser = rate)]
    pub simulator_rate: f64,
    /// Seed of the random price movements; the same seed gives the same prices. Random by default
    #[arg(long, env, value_parser = whole(0, u64::MAX))]
    pub simulator_seed: Option<u64>,
    /// Markets offered for each event. The original can only read 1x2
    #[arg(long, env, value_enum, value_delimiter = ',', default_value = "1x2")]
    pub simulator_markets: Vec<SimulatedMarket>,
    /// How long a match is in play; each fixture is played again and again. 0s: no match starts or ends.
    /// Otherwise at least 1s
    #[arg(long, env, value_parser = match_duration, default_value = "5m")]
    pub simulator_match_duration: Duration,
    /// Fraction (0-1) of bets that are rejected; the same bet always gets the same answer
    #[arg(long, env, default_value_t = 0.2, value_parser = share)]
    pub simulator_confirm_reject_share: f64,
    /// Delay before each confirmation response
    #[arg(long, env, value_parser = duration, default_value = "0s")]
    pub simulator_confirm_delay: Duration,
    /// Fraction (0-1) of confirmation requests left unanswered; the bet is recorded anyway
    #[arg(long, env, default_value_t = 0.0, value_parser = share)]
    pub simulator_confirm_silent_share: f64,
    /// Fraction (0-1) of confirmation requests answered with an unreadable response; the bet is
    /// recorded anyway
    #[arg(long, env, default_value_t = 0.0, value_parser = share)]
    pub simulator_confirm_garbage_share: f64,
    /// Fraction (0-1) of confirmation requests answered with status 500; the bet is not recorded
    #[arg(long, env, default_value_t = 0.0, value_parser = share)]
    pub simulator_confirm_error_share: f64,
}
