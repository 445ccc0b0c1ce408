//! Every setting, one struct per concern. A field's name is its flag and, in capitals, its
//! environment variable.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use secrecy::SecretString;

use super::address::SecretUrl;
use super::endpoint::Endpoint;
use crate::domain::wallet::amount::Amount;

use super::limits::LimitSettings;
use super::values::{
    amount, currency, deployment, duration, duration_above_a_second, duration_above_zero,
    exact_origin, host_name, http_url, ip_address, log_filter, origin, port, rate, secret, share,
    size, supplier_url, topic, whole,
};

/// A part of the platform that can run in its own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Role {
    /// A supplier for development: streams moving odds and confirms bets.
    Simulator,
    /// Reads supplier feeds and publishes them to the bus.
    Ingest,
    /// Reads the bus, maintains the books, writes the cache and the database.
    Processor,
    /// Serves odds to clients: REST and WebSocket.
    Odds,
    /// Manages users' money: REST.
    Wallet,
    /// Accepts bets: REST.
    Bets,
    /// Sends placed bets to the supplier for confirmation.
    Confirmation,
}

impl Role {
    /// Every role, suppliers first.
    pub const ALL: [Role; 7] = [
        Role::Simulator,
        Role::Ingest,
        Role::Processor,
        Role::Odds,
        Role::Wallet,
        Role::Bets,
        Role::Confirmation,
    ];

    /// The role's name on the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Role::Simulator => "simulator",
            Role::Ingest => "ingest",
            Role::Processor => "processor",
            Role::Odds => "odds",
            Role::Wallet => "wallet",
            Role::Bets => "bets",
            Role::Confirmation => "confirmation",
        }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// The settings of `serve`.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// A role to run in this process; repeat the flag or separate several with commas. All roles by
    /// default
    #[arg(
        long = "role",
        env = "ROLE",
        value_name = "ROLE",
        value_enum,
        value_delimiter = ',',
        help_heading = "Process"
    )]
    pub roles: Vec<Role>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub process: ProcessSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ports: PortSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bus: BusSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub suppliers: SupplierSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub simulator: SimulatorSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub clients: ClientSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub money: MoneySettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub confirmation: ConfirmationSettings,
}

/// Settings of the process itself.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Process")]
pub struct ProcessSettings {
    /// Address that every port binds to; use 0.0.0.0 to accept connections from other machines
    #[arg(long, env, default_value = "127.0.0.1", value_parser = ip_address)]
    pub bind_address: IpAddr,
    /// Host names (header Host) under which clients reach the REST and WebSocket ports,
    /// comma-separated; * for any. IP addresses, names without a dot and names under localhost,
    /// internal, svc, local, home.arpa or test are always accepted. If unset, odds accepts any
    /// other name too; wallet, bets and the simulator accept no other
    #[arg(long, env, value_delimiter = ',', value_parser = host_name)]
    pub allowed_hosts: Vec<String>,
    /// Additional origins whose pages may move money, place bets and open /ws/odds,
    /// comma-separated, for example `https://example.com`. Same-origin pages and clients other than
    /// browsers are always allowed
    #[arg(long, env, value_delimiter = ',', value_parser = exact_origin)]
    pub allowed_origins: Vec<String>,
    /// Format of log lines: text for people, json for machines
    #[arg(long, env, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Log level: error, warn, info, debug, trace or off; also per module, for example
    /// info,sports_bet_platform::bus=debug
    #[arg(long, env, default_value = "info", value_parser = log_filter)]
    pub rust_log: String,
    /// How long a graceful shutdown may take before unfinished work is cut off
    #[arg(long, env, value_parser = duration_above_zero, default_value = "8s")]
    pub shutdown_timeout: Duration,
}

/// Ports; 0 picks a free one.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Ports (0 picks a free one)")]
pub struct PortSettings {
    /// Odds: REST and /ws/odds
    #[arg(long, env, default_value_t = 8080, value_parser = port)]
    pub http_port_odds: u16,
    /// Simulator: /ws and /supplier/confirm
    #[arg(long, env, default_value_t = 8081, value_parser = port)]
    pub http_port_supplier: u16,
    /// Wallet: REST
    #[arg(long, env, default_value_t = 8082, value_parser = port)]
    pub http_port_wallet: u16,
    /// Bets: REST
    #[arg(long, env, default_value_t = 8083, value_parser = port)]
    pub http_port_bet: u16,
    /// Health and metrics of the simulator
    #[arg(long, env, default_value_t = 9094, value_parser = port)]
    pub metrics_port_supplier: u16,
    /// Health and metrics of the odds role
    #[arg(long, env, default_value_t = 9095, value_parser = port)]
    pub metrics_port_odds: u16,
    /// Health and metrics of the ingest role
    #[arg(long, env, default_value_t = 9096, value_parser = port)]
    pub metrics_port_ingest: u16,
    /// Health and metrics of the processor
    #[arg(long, env, default_value_t = 9097, value_parser = port)]
    pub metrics_port_processor: u16,
    /// Health and metrics of the wallet role
    #[arg(long, env, default_value_t = 9098, value_parser = port)]
    pub metrics_port_wallet: u16,
    /// Health and metrics of the bets role
    #[arg(long, env, default_value_t = 9099, value_parser = port)]
    pub metrics_port_bet: u16,
    /// Health and metrics of the confirmation role
    #[arg(long, env, default_value_t = 9100, value_parser = port)]
    pub metrics_port_confirmation: u16,
}

/// The Kafka security protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KafkaSecurity {
    /// Unencrypted, without authentication.
    Plaintext,
    /// TLS, without authentication.
    Ssl,
    /// Unencrypted, with SASL authentication.
    #[value(name = "sasl_plaintext")]
    SaslPlaintext,
    /// TLS, with SASL authentication.
    #[value(name = "sasl_ssl")]
    SaslSsl,
}

/// The Kafka SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KafkaMechanism {
    /// User name and password, sent as they are.
    Plain,
    /// SCRAM challenge with SHA-256.
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// SCRAM challenge with SHA-512.
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

/// Settings of the bus.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Bus")]
pub struct BusSettings {
    /// Kafka bootstrap addresses, host:port, comma-separated; if unset, the embedded bus is used
    #[arg(long, env)]
    pub kafka_brokers: Option<String>,
    /// Topic for odds updates
    #[arg(long, env, default_value = "odds_updates", value_parser = topic)]
    pub kafka_topic_odds: String,
    /// Dead-letter topic for unreadable odds updates; by default the name of the odds topic + _dlq
    #[arg(long, env, value_parser = topic)]
    pub kafka_topic_odds_dlq: Option<String>,
    /// Topic for placed bets
    #[arg(long, env, default_value = "bet_placed", value_parser = topic)]
    pub kafka_topic_bet_placed: String,
    /// Dead-letter topic for placed bets that could not be read or published
    #[arg(long, env, default_value = "bet_placed_dlq", value_parser = topic)]
    pub kafka_topic_bet_placed_dlq: String,
    /// Topic for decided bets
    #[arg(long, env, default_value = "bet_confirmed", value_parser = topic)]
    pub kafka_topic_bet_confirmed: String,
    /// Dead-letter topic for decided bets that could not be published
    #[arg(long, env, default_value = "bet_confirmed_dlq", value_parser = topic)]
    pub kafka_topic_bet_confirmed_dlq: String,
    /// Partitions of a topic that is created because it is missing; existing topics are left
    /// unchanged
    #[arg(long, env, default_value_t = 12, value_parser = whole(1_u32, 10_000))]
    pub kafka_topic_partitions: u32,
    /// Replicas of a topic that is created because it is missing; the brokers' default if unset
    #[arg(long, env, value_parser = whole(1_u16, 100))]
    pub kafka_topic_replication: Option<u16>,
    /// Consumer group of the live path: books, cache and clients
    #[arg(long, env, default_value = "odds-live", value_parser = topic)]
    pub kafka_group_live: String,
    /// Consumer group of the store path: the database
    #[arg(long, env, default_value = "odds-processor", value_parser = topic)]
    pub kafka_group_store: String,
    /// Consumer group of bet confirmation
    #[arg(long, env, default_value = "bet-confirmation", value_parser = topic)]
    pub kafka_group_confirmation: String,
    /// How long Kafka waits for a consumer's heartbeat before it reassigns the consumer's
    /// partitions
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub kafka_session_timeout: Duration,
    /// Kafka security protocol; ssl and sasl_ssl need a binary built with a tls- feature
    #[arg(long, env, value_enum, default_value = "plaintext")]
    pub kafka_security_protocol: KafkaSecurity,
    /// Kafka SASL mechanism; SCRAM needs a binary built with a tls- feature
    #[arg(long, env, value_enum, default_value = "plain")]
    pub kafka_sasl_mechanism: KafkaMechanism,
    /// Kafka SASL user name
    #[arg(long, env)]
    pub kafka_sasl_username: Option<String>,
    /// Kafka SASL password
    #[arg(long, env, hide_env_values = true, value_parser = secret)]
    pub kafka_sasl_password: Option<SecretString>,
    /// PEM file with the certificate authorities trusted for Kafka; the system's by default
    #[arg(long, env)]
    pub kafka_ca_file: Option<PathBuf>,
    /// Records that the embedded bus holds until every consumer group has processed them; when it
    /// is full, publishers wait
    #[arg(long, env, default_value_t = 10_000, value_parser = whole(1_usize, 10_000_000))]
    pub embedded_bus_capacity: usize,
    /// Partitions of the embedded bus
    #[arg(long, env, default_value_t = 4, value_parser = whole(1_u32, 1024))]
    pub embedded_bus_partitions: u32,
    /// Maximum number of records per consumer batch
    #[arg(long, env, default_value_t = 500, value_parser = whole(1_usize, 100_000))]
    pub bus_batch_size: usize,
}

impl BusSettings {
    /// The name of the dead-letter topic for odds updates.
    pub fn dead_letter_topic(&self) -> String {
        self.kafka_topic_odds_dlq
            .clone()
            .unwrap_or_else(|| format!("{}_dlq", self.kafka_topic_odds))
    }
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
    /// they reopen with its next message
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub supplier_stale_after: Duration,
    /// Interval between pings to a native supplier
    #[arg(long, env, value_parser = duration_above_zero, default_value = "5s")]
    pub supplier_ping_interval: Duration,
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

/// Settings of wallets and bets.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Wallets and bets")]
pub struct MoneySettings {
    /// Currency of this deployment; all amounts are whole cents of it
    #[arg(long, env, default_value = "BRL", value_parser = currency)]
    pub currency: String,
    /// How long a reservation may stay uncommitted before it expires; a reservation held for a bet
    /// ends with the bet
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1h")]
    pub reservation_ttl: Duration,
    /// Interval between verifications of the whole ledger, as in `sports-bet ledger verify`
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10m")]
    pub ledger_verify_interval: Duration,
    /// Minimum stake, in cents
    #[arg(long, env, default_value = "50", value_parser = amount)]
    pub bet_min_stake_cents: Amount,
    /// Maximum stake, in cents
    #[arg(long, env, default_value = "1000000", value_parser = amount)]
    pub bet_max_stake_cents: Amount,
    /// Maximum payout including the stake, in cents
    #[arg(long, env, default_value = "100000000", value_parser = amount)]
    pub bet_max_payout_cents: Amount,
    /// How long a bet waits for the supplier's answer before it is rejected and its stake is
    /// returned
    #[arg(long, env, value_parser = duration_above_zero, default_value = "10s")]
    pub bet_confirm_deadline: Duration,
}

/// Settings of bet confirmation.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Confirmation")]
pub struct ConfirmationSettings {
    /// URL of the supplier's confirmation API, http:// or https://, with user:password@ if it
    /// requires a login. By default this process's simulator if it runs, else http://127.0.0.1:8081
    #[arg(long, env, hide_env_values = true, value_parser = http_url)]
    pub supplier_url: Option<SecretUrl>,
    /// Timeout of one confirmation request
    #[arg(long, env, value_parser = duration_above_zero, default_value = "2s")]
    pub bet_confirm_timeout: Duration,
    /// Maximum number of bets being confirmed concurrently
    #[arg(long, env, default_value_t = 512, value_parser = whole(1_usize, 10_000))]
    pub bet_confirm_concurrency: usize,
    /// Delay before the first retry; it doubles with each failure and has jitter
    #[arg(long, env, value_parser = duration_above_zero, default_value = "100ms")]
    pub bet_confirm_retry_min: Duration,
    /// Maximum retry delay
    #[arg(long, env, value_parser = duration_above_zero, default_value = "2s")]
    pub bet_confirm_retry_max: Duration,
    /// Consecutive failures that open the circuit breaker; while it is open, no requests are sent
    #[arg(long, env, default_value_t = 20, value_parser = whole(1_u32, 100_000))]
    pub bet_confirm_breaker_failures: u32,
    /// How long the circuit breaker stays open before one request is tried
    #[arg(long, env, value_parser = duration_above_zero, default_value = "1s")]
    pub bet_confirm_breaker_pause: Duration,
}
